"""Regression trees of scikit-learn, which the extra ``studies`` installs."""

from typing import Any

import numpy as np

from autorank.base.typing import Float

# Friedman's stochastic boosting with shallow trees and a small rate, as is usual for a few hundred rows.
BOOSTED = {"n_estimators": 300, "learning_rate": 0.05, "max_depth": 3, "subsample": 0.8}
# Extremely randomised trees (Geurts et al., Machine Learning 63, 2006), each grown to its end on all rows.
RANDOMISED = {"n_estimators": 300}


def boosted_trees(
    features: Float[np.ndarray, "m x"],
    asked: Float[np.ndarray, "n x"],
    targets: Float[np.ndarray, " m"],
    seed: int,
) -> Float[np.ndarray, " n"]:
    """Predictions for ``asked`` of 300 trees that are fitted to squared errors.

    Raises:
        ValueError: scikit-learn is not installed.
    """
    model = _ensembles("trees").GradientBoostingRegressor(random_state=seed, **BOOSTED)
    return model.fit(features, targets).predict(asked)


def randomised_trees(
    features: Float[np.ndarray, "m x"],
    asked: Float[np.ndarray, "n x"],
    targets: Float[np.ndarray, " m"],
    seed: int,
) -> Float[np.ndarray, " n"]:
    """Mean predictions for ``asked`` of 300 trees whose splits are drawn at random.

    Raises:
        ValueError: scikit-learn is not installed.
    """
    model = _ensembles("extra_trees").ExtraTreesRegressor(random_state=seed, **RANDOMISED)
    return model.fit(features, targets).predict(asked)


def _ensembles(kind: str) -> Any:
    try:
        import sklearn.ensemble  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ValueError(
            f"kind={kind} needs scikit-learn: pip install 'autorank[studies]'"
        ) from error
    return sklearn.ensemble
