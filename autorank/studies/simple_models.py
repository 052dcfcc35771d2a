"""Two models that need no package of their own: ridge regression and nearest neighbours, in float64."""

import numpy as np
from scipy.spatial.distance import cdist

from autorank.base.typing import Float

PENALTIES = np.logspace(-4, 4, 33)


def ridge(
    features: Float[np.ndarray, "m x"],
    asked: Float[np.ndarray, "n x"],
    targets: Float[np.ndarray, " m"],
) -> Float[np.ndarray, " n"]:
    """Least squares with an intercept and a squared penalty, at the penalty with the least leave-one-out error.

    With the singular values ``s`` of the centred features the hat matrix is ``1/m + U diag(s^2 / (s^2 + a)) U'``, and
    the residual of a left-out row is its residual over ``1 - h_ii``: all penalties of `PENALTIES` cost one SVD.

    Examples:
        >>> x = np.array([[0.0], [1.0], [2.0], [3.0]])
        >>> ridge(x, np.array([[4.0]]), 1 + 2 * x[:, 0]).round(2).tolist()
        [9.0]
    """
    centre, level = features.mean(axis=0), targets.mean()
    u, s, vt = np.linalg.svd(features - centre, full_matrices=False)
    along = u.T @ (targets - level)

    def left_out_error(penalty: float) -> float:
        shrink = s**2 / (s**2 + penalty)
        leverage = 1 / len(targets) + (u**2) @ shrink
        residuals = targets - level - u @ (shrink * along)
        return float(np.mean((residuals / np.maximum(1 - leverage, 1e-9)) ** 2))

    best = min(PENALTIES, key=left_out_error)
    weights = vt.T @ (s / (s**2 + best) * along)
    return level + (asked - centre) @ weights


def nearest_neighbours(
    features: Float[np.ndarray, "m x"],
    asked: Float[np.ndarray, "n x"],
    targets: Float[np.ndarray, " m"],
    k: int,
) -> Float[np.ndarray, " n"]:
    """The mean target of the ``k`` nearest rows (Euclidean); of equally near ones the first count.

    Examples:
        >>> x = np.array([[0.0], [1.0], [5.0]])
        >>> nearest_neighbours(x, np.array([[0.4]]), np.array([1.0, 3.0, 9.0]), k=2).tolist()
        [2.0]
    """
    nearest = np.argsort(cdist(asked, features), axis=1, kind="stable")[:, :k]
    return targets[nearest].mean(axis=1)
