"""The measures that CTR teams report beside NE: AUC within users, nDCG, calibration; float64 on the host.

A quantity that is not defined (no rows, one class only, no group with both) is NaN.

References:
    GAUC: Zhu et al., Optimized cost per click in Taobao display advertising, KDD 2017; weighted by impressions as in
    FuxiCTR. nDCG: Järvelin and Kekäläinen, Cumulated gain-based evaluation of IR techniques, TOIS 2002. Expected
    calibration error: Naeini et al., Obtaining well calibrated probabilities using Bayesian binning, AAAI 2015.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from autorank.base.metrics import Values, auc, log_loss, normalized_entropy

# Rows of one group are judged by the order of its first so many.
NDCG_AT = 5
# Bins of equal numbers of rows: most rates of a CTR log would fall into one or two bins of equal width.
CALIBRATION_BINS = 20


class Bin(NamedTuple):
    """Rows whose predictions lie side by side."""

    rows: int
    predicted: float  # mean prediction
    observed: float  # share of positives


def grouped_auc(scores: Values, targets: Values, groups: Values) -> float:
    """GAUC: the AUC within each group, averaged with the groups' numbers of rows as weights.

    Groups of one class are left out; tied scores count half. NaN where no group has both classes.

    Examples:
        >>> grouped_auc([0.9, 0.1, 0.2, 0.8, 0.5], [1, 0, 1, 0, 1], [7, 7, 8, 8, 9])
        0.5
    """
    scores, targets, starts, sizes = _by_group(scores, targets, groups)
    if not len(scores):
        return math.nan
    ranks = _ranks(scores, starts, sizes)
    positive = targets > 0
    positives = np.add.reduceat(positive.astype(np.float64), starts)
    negatives = sizes - positives
    sums = np.add.reduceat(np.where(positive, ranks, 0.0), starts)
    both = (positives > 0) & (negatives > 0)
    if not both.any():
        return math.nan
    n, m = positives[both], negatives[both]
    areas = (sums[both] - n * (n + 1) / 2) / (n * m)
    return float(np.average(areas, weights=sizes[both]))


def ndcg_at(scores: Values, targets: Values, groups: Values, k: int = NDCG_AT) -> float:
    """nDCG of the first ``k`` rows of each group, the mean over groups with a positive; NaN without one.

    A row's gain is its target. Rows of equal scores share the mean of their gains, as in scikit-learn.

    Raises:
        ValueError: ``k`` below 1.

    Examples:
        >>> round(ndcg_at([0.9, 0.1, 0.2], [0, 1, 0], [1, 1, 1]), 4)
        0.5
    """
    if k < 1:
        raise ValueError(f"k={k} must be at least 1")
    scores, targets, starts, sizes = _by_group(-np.asarray(scores, np.float64), targets, groups)
    if not len(scores):
        return math.nan
    place = np.arange(len(scores)) - np.repeat(starts, sizes)
    discount = np.where(place < k, 1 / np.log2(place + 2.0), 0.0)
    tied = _tied(scores, starts)
    first = np.flatnonzero(tied)
    lengths = np.diff(np.append(first, len(scores)))
    gains = np.repeat(np.add.reduceat(targets, first) / lengths, lengths)
    found = np.add.reduceat(gains * discount, starts)
    ideal = np.add.reduceat(_best_first(targets, starts, sizes) * discount, starts)
    some = ideal > 0
    return float(np.mean(found[some] / ideal[some])) if some.any() else math.nan


def calibration(probabilities: Values, targets: Values) -> float:
    """Mean prediction over the rate of positives; 1 is calibrated, NaN without a positive."""
    p, y = np.asarray(probabilities, np.float64), np.asarray(targets, np.float64)
    return float(p.mean() / y.mean()) if y.size and y.any() else math.nan


def reliability(
    probabilities: Values, targets: Values, bins: int = CALIBRATION_BINS
) -> tuple[Bin, ...]:
    """Predicted and observed rates in bins of as many rows each, by rising prediction; fewer where rows are few.

    Rows of equal predictions may fall into neighbouring bins.
    """
    p, y = np.asarray(probabilities, np.float64).ravel(), np.asarray(targets, np.float64).ravel()
    order = np.argsort(p, kind="stable")
    parts = [part for part in np.array_split(order, bins) if part.size]
    return tuple(Bin(part.size, float(p[part].mean()), float(y[part].mean())) for part in parts)


def expected_calibration_error(
    probabilities: Values, targets: Values, bins: int = CALIBRATION_BINS
) -> float:
    """Mean over rows of the distance between a bin's predicted and observed rates; NaN without rows."""
    found = reliability(probabilities, targets, bins)
    rows = sum(b.rows for b in found)
    if not rows:
        return math.nan
    return math.fsum(b.rows * abs(b.predicted - b.observed) for b in found) / rows


# Measures by name: of all rows, and within groups. The first two are means of the rows' losses.
OF_LOSSES: dict[str, Callable[[Values, Values], Any]] = {
    "ne": normalized_entropy,
    "log_loss": log_loss,
}
OF_ROWS: dict[str, Callable[[Values, Values], Any]] = {
    "auc": auc,
    "calibration": calibration,
    "ece": expected_calibration_error,
}
OF_GROUPS = {"gauc": grouped_auc, f"ndcg@{NDCG_AT}": ndcg_at}


def scores_of(probabilities: Values, targets: Values, groups: Values | None) -> dict[str, float]:
    """Every measure of scored rows by name; those of groups only where ``groups`` says which row belongs to which.

    Args:
        probabilities: ``[rows]``.
        targets: ``[rows]``, 0 or 1.
        groups: ``[rows]`` integers, for example users; negative: a row of no group.

    Examples:
        >>> sorted(scores_of([0.2, 0.7], [0, 1], [3, 3]))
        ['auc', 'calibration', 'ece', 'gauc', 'log_loss', 'ndcg@5', 'ne']
    """
    found = {name: float(measure(probabilities, targets)) for name, measure in OF_LOSSES.items()}
    return found | scores_beside_ne(probabilities, targets, groups)


def scores_beside_ne(
    probabilities: Values, targets: Values, groups: Values | None
) -> dict[str, float]:
    """The measures of `scores_of` that are not made of the rows' losses."""
    found = {name: float(measure(probabilities, targets)) for name, measure in OF_ROWS.items()}
    if groups is not None:
        rows = _of_known_groups(probabilities, targets, groups)
        found |= {name: measure(*rows) for name, measure in OF_GROUPS.items()}
    return found


def measure_of(name: str, probabilities: Values, targets: Values, groups: Values | None) -> float:
    """One measure of `scores_of` by its name; those of groups need ``groups``.

    Raises:
        KeyError: a name that is none.
        ValueError: a measure of groups without any.
    """
    if name not in OF_GROUPS:
        return float((OF_LOSSES | OF_ROWS)[name](probabilities, targets))
    if groups is None:
        raise ValueError(f"{name} is measured within groups; say which row belongs to which")
    return OF_GROUPS[name](*_of_known_groups(probabilities, targets, groups))


def _of_known_groups(
    probabilities: Values, targets: Values, groups: Values
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The rows that belong to a group."""
    known = np.asarray(groups) >= 0
    return np.asarray(probabilities)[known], np.asarray(targets)[known], np.asarray(groups)[known]


def _by_group(
    scores: Values, targets: Values, groups: Values
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Scores and targets sorted by group and, within it, by rising score; where groups start, and their sizes."""
    scores, targets = np.asarray(scores, np.float64).ravel(), np.asarray(targets, np.float64)
    groups = np.asarray(groups).ravel()
    if not scores.size == targets.size == groups.size:
        sizes = f"{scores.size}, {targets.size} and {groups.size}"
        raise ValueError(f"scores, targets and groups have {sizes} rows; they must be as many")
    order = np.lexsort((scores, groups))
    sorted_groups = groups[order]
    starts = np.flatnonzero(np.diff(sorted_groups, prepend=np.nan if groups.size else []) != 0)
    return scores[order], targets.ravel()[order], starts, np.diff(np.append(starts, groups.size))


def _tied(scores: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Bool: whether a row begins a run of equal scores within its group."""
    begins = np.diff(scores, prepend=np.nan) != 0
    begins[starts] = True
    return begins


def _ranks(scores: np.ndarray, starts: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Ranks from 1 within each group; equal scores share their mean."""
    first = np.flatnonzero(_tied(scores, starts))
    lengths = np.diff(np.append(first, len(scores)))
    middle = np.repeat(first + (lengths - 1) / 2, lengths)
    return middle - np.repeat(starts, sizes) + 1


def _best_first(targets: np.ndarray, starts: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """The targets of each group in falling order."""
    group = np.repeat(np.arange(len(starts)), sizes)
    return targets[np.lexsort((-targets, group))]
