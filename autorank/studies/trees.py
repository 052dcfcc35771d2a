"""Regression trees of scikit-learn, which the extra ``studies`` installs."""

from typing import Any

import numpy as np

from autorank.base.typing import Float

# Friedman's stochastic boosting with shallow trees and a small rate, as is usual for a few hundred rows.
BOOSTED = {"n_estimators": 300, "learning_rate": 0.05, "max_depth": 3, "subsample": 0.8}
# Extremely randomised trees (Geurts et al., Machine Learning 63, 2006), each grown to its end on all rows.
RANDOMISED = {"n_estimators": 300}

# By kind of predictor: the class of `sklearn.ensemble` and its settings.
ENSEMBLES: dict[str, tuple[str, dict[str, Any]]] = {
    "trees": ("GradientBoostingRegressor", BOOSTED),
    "extra_trees": ("ExtraTreesRegressor", RANDOMISED),
}


def tree_predictions(
    kind: str,
    features: Float[np.ndarray, "m x"],
    asked: Float[np.ndarray, "n x"],
    targets: Float[np.ndarray, " m"],
    seed: int,
) -> Float[np.ndarray, " n"]:
    """Predictions for ``asked`` of 300 trees that are fitted to squared errors; ``kind`` is one of `ENSEMBLES`.

    Raises:
        ValueError: scikit-learn is not installed.
    """
    try:
        import sklearn.ensemble  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ValueError(
            f"kind={kind} needs scikit-learn: pip install 'autorank[studies]'"
        ) from error
    name, settings = ENSEMBLES[kind]
    model = getattr(sklearn.ensemble, name)(random_state=seed, **settings)
    return model.fit(features, targets).predict(asked)
