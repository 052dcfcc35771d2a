"""Kendall's tau-b of a decision made on pilots, measured on pilots that it has not seen.

A fraction of the log and a trend that were chosen because they order these pilots well will order new pilots less
well. Repeated K-fold cross-validation repeats the whole decision without one fold of the pilots and compares the
pairs within that fold (Stone, Cross-validatory choice and assessment of statistical predictions, JRSS B 1974). The
numbers of folds and repeats are our choice.
"""

import math
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np

from autorank.fidelity.agreement import interval, resampled_counts, signs, weighted_pairs

FOLDS, REPEATS = 5, 10


class LeftOut(NamedTuple):
    """Tau-b over pairs of left-out pilots, its bootstrap interval, and the share of folds that it rests on."""

    tau: float
    low: float
    high: float
    share: float  # of the folds that came to a decision


@runtime_checkable
class Decide(Protocol):
    """A decision that some of the pilots lead to."""

    def __call__(self, some: np.ndarray, /) -> np.ndarray | None:
        """Curve labels ``[p]`` of all pilots by the decision that the pilots ``some`` (indices) lead to.

        None if they lead to no decision.
        """
        ...


def left_out_tau(
    decide: Decide,
    final: np.ndarray,
    *,
    min_pilots: int,
    num_bootstrap: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> LeftOut:
    """Repeats a decision without each fold and compares the order that it gives the fold with the final order.

    Args:
        decide: makes the decision from some of the pilots.
        final: finite final curve labels ``[p]``.
        min_pilots: fewest pilots to decide on; everything is NaN if a decision would have fewer.
        num_bootstrap: number of resamples of the pilots, for the interval.
        level: coverage of the interval, for example 0.95.
        seed: seeds the folds and the resamples.

    The interval covers the sampling of pilots within the folds; decisions are not repeated for each resample.

    Examples:
        >>> final = np.arange(10.0)
        >>> left_out_tau(lambda some: final + 1, final, min_pilots=4).tau
        1.0
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
            short = decide(np.setdiff1d(np.arange(p), rest))
            if short is None:
                continue
            decided += 1
            a, b = signs(short[rest]), signs(final[rest])
            pairs = np.ix_(rest, rest)
            agree[pairs] += a * b
            predicted[pairs] += np.abs(a)
            true[pairs] += np.abs(b)
    counts = resampled_counts(rng, p, num_bootstrap)
    scale = weighted_pairs(predicted, counts) * weighted_pairs(true, counts)
    agreeing = weighted_pairs(agree, counts)
    taus = np.where(scale > 0, agreeing / np.sqrt(np.where(scale > 0, scale, 1)), np.nan)
    low, high = interval(taus[1:], level)
    return LeftOut(float(taus[0]), low, high, decided / (REPEATS * folds))
