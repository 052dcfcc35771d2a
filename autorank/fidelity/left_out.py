"""Kendall's tau-b of a decision made on pilots, measured on pilots that it has not seen.

A fraction of the log and a trend that were chosen because they order these pilots well order new ones
less well. Repeated K-fold cross-validation over pilots repeats the whole decision without a part of
them and looks at the pairs within that part (Stone, Cross-validatory choice and assessment of
statistical predictions, JRSS B 1974). Number of folds and repeats are own choices.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

FOLDS, REPEATS = 5, 10


class LeftOut(NamedTuple):
    """Tau-b over pairs of left-out pilots, its bootstrap interval, and how many folds say so."""

    tau: float
    low: float
    high: float
    share: float  # of the folds that came to a decision


def left_out_tau(
    decide: Callable[[np.ndarray], np.ndarray | None],
    final: np.ndarray,
    *,
    min_pilots: int,
    num_bootstrap: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> LeftOut:
    """Repeats a decision on folds and compares the order it gives the rest with the final one.

    Args:
        decide: takes the indices of the pilots to decide on and gives the labels ``[p]`` of all by
            that decision, or None for none.
        final: finite final labels ``[p]``.
        min_pilots: to decide on; NaN where a fold would have fewer.

    The interval is that of resampled pilots; it does not count the resampling of the decision.
    """
    p = len(final)
    folds = min(FOLDS, p // 2)
    if folds < 2 or p - math.ceil(p / folds) < min_pilots:
        return LeftOut(math.nan, math.nan, math.nan, math.nan)
    rng = np.random.default_rng(seed)
    agree, predicted, true = np.zeros((3, p, p))
    decided = 0
    for _ in range(REPEATS):
        for rest in np.array_split(rng.permutation(p), folds):
            labels = decide(np.setdiff1d(np.arange(p), rest))
            if labels is None:
                continue
            decided += 1
            a, b = signs(labels[rest]), signs(final[rest])
            pairs = np.ix_(rest, rest)
            agree[pairs] += a * b
            predicted[pairs] += np.abs(a)
            true[pairs] += np.abs(b)
    counts = rng.multinomial(p, np.full(p, 1 / p), size=num_bootstrap).astype(np.float64)
    counts = np.concatenate([np.ones((1, p)), counts])
    scale = form(predicted, counts) * form(true, counts)
    taus = np.where(scale > 0, form(agree, counts) / np.sqrt(np.where(scale > 0, scale, 1)), np.nan)
    seen = taus[1:][np.isfinite(taus[1:])]
    ends = np.quantile(seen, [(1 - level) / 2, (1 + level) / 2]) if seen.size else (np.nan, np.nan)
    return LeftOut(float(taus[0]), float(ends[0]), float(ends[1]), decided / (REPEATS * folds))


def form(matrix: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """``c' M c`` of matrices ``[..., p, p]`` for each row of counts ``[s, p]``: ``[..., s]``."""
    return ((counts @ matrix) * counts).sum(axis=-1)


def signs(values: np.ndarray) -> np.ndarray:
    """Order of every pair, ``[p, p]``."""
    return np.sign(values[:, None] - values[None, :])
