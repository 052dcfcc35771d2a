"""How well a predictor orders trials that it has not been fitted to."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from autorank.base.metrics import finite_or_none, kendall_tau_b
from autorank.base.typing import Bool, Float, Key
from autorank.surrogates.nets import TASKS
from autorank.surrogates.predictor import Predictor


def held_out_tau(
    predictor: Predictor,
    key: Key,
    features: Float[np.ndarray, "n x"],
    targets: Float[np.ndarray, "n 2"],
    where: Bool[np.ndarray, "n 2"] | None = None,
    *,
    folds: int = 5,
) -> dict[str, Any]:
    """Kendall's tau-b of the predicted NE gain, on rows that the fit has not seen (k-fold) and on rows that it has.

    The predictor is jitted here; all folds run one compiled program.

    Args:
        predictor: a predictor with a capacity of at least ``n``.
        key: key of the folds and the fits.
        features: features of the trials.
        targets: metrics of the trials; NaN for a failed trial.
        where: the targets to use; None for all.
        folds: number of folds, 2 or more.

    Returns:
        A dict: ``heldout_tau`` and ``train_tau`` over finished trials (None where undefined), and ``predicted`` and
        ``true``, lists of ``n`` out-of-fold predictions and targets of the NE gain (None for failed or unused trials).

    Raises:
        ValueError: more rows than the capacity, or fewer than two folds.
    """
    n = len(features)
    if n > predictor.capacity:
        raise ValueError(f"{n} rows do not fit predictor.capacity={predictor.capacity}; raise it")
    if folds < 2:
        raise ValueError(f"folds={folds}: write 2 or more")
    where = np.ones((n, TASKS), bool) if where is None else np.asarray(where, bool)
    held_out, fitted = _predictions(predictor, key, features, targets, where, folds)
    true = np.asarray(targets, np.float64)[:, 0]
    known = where[:, 0] & np.isfinite(true)
    return {
        "heldout_tau": finite_or_none(kendall_tau_b(held_out[known], true[known])),
        "train_tau": finite_or_none(kendall_tau_b(fitted[known], true[known])),
        "predicted": [
            finite_or_none(v) if k else None for v, k in zip(held_out, known, strict=True)
        ],
        "true": [finite_or_none(v) if k else None for v, k in zip(true, known, strict=True)],
    }


def _predictions(
    predictor: Predictor,
    key: Key,
    features: Float[np.ndarray, "n x"],
    targets: Float[np.ndarray, "n 2"],
    where: Bool[np.ndarray, "n 2"],
    folds: int,
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """Predicted NE gains: of each row by a fit without its fold, and by a fit on all rows."""
    n = len(features)
    pad = ((0, predictor.capacity - n), (0, 0))
    x = jnp.asarray(np.pad(np.asarray(features, np.float32), pad))
    y = jnp.asarray(np.pad(np.asarray(targets, np.float32), pad))
    seen = np.pad(where, pad)
    fit, score = jax.jit(predictor.fit), jax.jit(predictor.score)

    def predict(fold_key: Key, rows: np.ndarray) -> np.ndarray:
        return np.asarray(score(fit(fold_key, x, y, jnp.asarray(rows)), x).mean[:n, 0])

    order = np.asarray(jax.random.permutation(jax.random.fold_in(key, folds), n))
    held_out = np.full(n, np.nan)
    for fold, rows in enumerate(np.array_split(order, folds)):
        if rows.size:
            rest = seen.copy()
            rest[rows] = False
            held_out[rows] = predict(jax.random.fold_in(key, fold), rest)[rows]
    return held_out, predict(jax.random.fold_in(key, folds + 1), seen)
