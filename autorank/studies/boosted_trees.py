"""Boosted regression trees of scikit-learn, which the extra ``studies`` installs."""

import numpy as np

from autorank.base.typing import Float

# Friedman's stochastic boosting with shallow trees and a small rate, as is usual for a few hundred rows.
SETTINGS = {"n_estimators": 300, "learning_rate": 0.05, "max_depth": 3, "subsample": 0.8}


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
    try:
        from sklearn.ensemble import GradientBoostingRegressor  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ValueError(
            "kind=trees needs scikit-learn: pip install 'autorank[studies]'"
        ) from error
    return (
        GradientBoostingRegressor(random_state=seed, **SETTINGS)
        .fit(features, targets)
        .predict(asked)
    )
