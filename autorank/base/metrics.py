"""Quality of ranking models and of predictors, in float64 on the host.

A quantity that is not defined (one class only, fewer than two items, no variation) is NaN; the docstrings say where.
Nothing warns.

References:
    NE: He et al., Practical lessons from predicting clicks on ads at Facebook, ADKDD 2014. tau-b:
    Kendall, The treatment of ties in ranking problems, Biometrika 1945. Block bootstrap: Künsch,
    The jackknife and the bootstrap for general stationary observations, 1989.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import scipy  # loads its submodules at first use: --help must not wait for scipy.stats

Values: TypeAlias = Any  # whatever np.asarray takes: numbers, lists, arrays of numpy or jax
# Probabilities are kept this far from 0 and 1: a certain mistake costs 27.6 nats, not infinity.
CLIP = 1e-12


class Interval(NamedTuple):
    """A statistic and its two-sided bootstrap percentile interval."""

    value: float
    low: float
    high: float


class PairedTest(NamedTuple):
    """Mean difference, its two-sided t-interval, and the p-value of "no difference"."""

    mean: float
    low: float
    high: float
    p: float


# --- ranking models -------------------------------------------------------------------------------


def log_losses(probabilities: Values, targets: Values) -> np.ndarray:
    """Log loss of each row in nats, float64, shape of the input; targets in [0, 1]."""
    p, y = _pair(probabilities, targets)
    p = np.clip(p, CLIP, 1 - CLIP)
    return -(y * np.log(p) + (1 - y) * np.log1p(-p))


def log_loss(probabilities: Values, targets: Values) -> float:
    """Mean log loss in nats per row; NaN without rows."""
    return _mean(log_losses(probabilities, targets))


def log_loss_of_logits(logits: Values, targets: Values) -> float:
    """Mean log loss from logits, exact at any size: ``log(1 + e^z) - y z``."""
    z, y = _pair(logits, targets)
    return _mean(np.logaddexp(0, z) - y * z)


def entropy(rate: Values) -> np.ndarray:
    """Entropy in nats of a base rate, elementwise; 0 at 0 and 1."""
    q = np.asarray(rate, np.float64)
    return np.asarray(scipy.special.entr(q) + scipy.special.entr(1 - q))


def normalized_entropy(probabilities: Values, targets: Values) -> float:
    """Normalized entropy: mean log loss over the entropy of the base rate; NaN for one class.

    1.0 is what always predicting the base rate gives.

    Examples:
        >>> round(normalized_entropy([0.9, 0.2, 0.2, 0.1], [1, 0, 0, 0]), 4)
        0.2921
        >>> normalized_entropy([0.25] * 4, [1, 0, 0, 0])
        1.0
    """
    losses = log_losses(probabilities, targets)
    y = np.asarray(targets, np.float64)
    return float(normalized_entropy_from_sums(losses.sum(), y.sum(), y.size))


def normalized_entropy_of_logits(logits: Values, targets: Values) -> float:
    """`normalized_entropy` from logits, without rounding at the ends."""
    y = np.asarray(targets, np.float64)
    return float(
        normalized_entropy_from_sums(log_loss_of_logits(logits, y) * y.size, y.sum(), y.size)
    )


def normalized_entropy_from_sums(loss_sum: Values, positives: Values, counts: Values) -> np.ndarray:
    """NE, elementwise, from sums of losses (nats), positives and rows; NaN for one class or no rows.

    With sums over windows of a log it is the window NE of a learning curve.

    Examples:
        >>> normalized_entropy_from_sums([1.4, 0.7], [2, 0], [4, 4]).round(4)
        array([0.5049,    nan])
    """
    loss_sum, positives, counts = (np.asarray(x, np.float64) for x in (loss_sum, positives, counts))
    both = (positives > 0) & (positives < counts)
    rate = np.where(both, positives, 1) / np.where(both, counts, 2)
    return np.where(both, loss_sum / np.where(both, counts, 1) / entropy(rate), np.nan)


def ne_gain_percent(ne: Values, baseline_ne: Values) -> np.ndarray:
    """``100 (NE - NE_baseline) / NE_baseline`` on the same rows, elementwise; lower is better."""
    ne, baseline_ne = np.asarray(ne, np.float64), np.asarray(baseline_ne, np.float64)
    return np.asarray(100 * (ne - baseline_ne) / baseline_ne)


def auc(scores: Values, targets: Values) -> float:
    """Area under the ROC curve by the rank formula, tied scores count half; NaN: one class."""
    scores, targets = _pair(scores, targets)
    positive = targets > 0
    num_positive = int(positive.sum())
    num_negative = positive.size - num_positive
    if not num_positive or not num_negative:
        return math.nan
    rank_sum = scipy.stats.rankdata(scores)[positive].sum()
    return float((rank_sum - num_positive * (num_positive + 1) / 2) / (num_positive * num_negative))


# --- predictors of models; lower is better on both sides ------------------------------------------


def kendall_tau_b(predicted: Values, true: Values) -> float:
    """Kendall's tau-b in [-1, 1]; NaN where a side is constant, holds a NaN, or has fewer than two items.

    Examples:
        >>> round(kendall_tau_b([1, 2, 3, 4], [1, 2, 4, 3]), 4)
        0.6667
    """
    predicted, true = _pair(predicted, true)
    if not _varies(predicted) or not _varies(true):
        return math.nan
    return float(np.asarray(scipy.stats.kendalltau(predicted, true, variant="b"))[0])


def kendall_tau_b_within(predicted: Values, true: Values, groups: Values) -> float:
    """Kendall's tau-b over the pairs of items of one group; NaN where a side ties all of them, or holds a NaN.

    Concordant minus discordant pairs, by the geometric mean of the pairs that either side does not tie, each summed
    over the groups. With one group it is `kendall_tau_b`.

    Examples:
        >>> kendall_tau_b_within([1, 2, 4, 3], [1, 2, 3, 4], ["a", "a", "b", "b"])
        0.0
    """
    predicted, true = _pair(predicted, true)
    if np.isnan(predicted).any() or np.isnan(true).any():
        return math.nan
    groups = np.asarray(groups)
    alike = groups[:, None] == groups
    a, b = (np.sign(side[:, None] - side)[alike] for side in (predicted, true))
    untied = float(a @ a) * float(b @ b)
    return float(a @ b) / math.sqrt(untied) if untied else math.nan


def pearson(predicted: Values, true: Values) -> float:
    """Pearson's correlation; NaN where a side is constant, holds a NaN, or has fewer than two items."""
    predicted, true = _pair(predicted, true)
    if not _varies(predicted) or not _varies(true):
        return math.nan
    a, b = predicted - predicted.mean(), true - true.mean()
    return float(np.clip(a @ b / math.sqrt((a @ a) * (b @ b)), -1, 1))


def regret_at_k(predicted: Values, true: Values, k: int) -> float:
    """Best true value among the ``k`` predicted best, minus the best there is; 0 = found.

    Ties among predictions count at their worst: the true values that a tie may hide count against it.

    Examples:
        >>> round(regret_at_k([3, 1, 2], [0.7, 0.8, 0.9], k=1), 4)
        0.1
        >>> regret_at_k([3, 1, 2], [0.7, 0.8, 0.9], k=3)
        0.0
    """
    predicted, true = _pair(predicted, true)
    _require_k(k, true.size)
    return float(true[_worst_case_order(predicted, true)[:k]].min() - true.min())


def top_k_recall(predicted: Values, true: Values, k: int) -> float:
    """Share of the ``k`` truly best among the ``k`` predicted best; ties among predictions count at their worst.

    Where true values tie at the border, any of them counts.
    """
    predicted, true = _pair(predicted, true)
    _require_k(k, true.size)
    best = true <= np.sort(true)[k - 1]
    return min(1.0, float(best[_worst_case_order(predicted, true)[:k]].sum()) / k)


def discordant_share(predicted: Values, true: Values) -> float:
    """Share of the pairs with different true values that are ordered wrongly; a tied prediction counts half."""
    predicted, true = _pair(predicted, true)
    order = np.sign(true[:, None] - true[None, :])
    guess = np.sign(predicted[:, None] - predicted[None, :])
    pairs = order > 0
    return _mean((1 - guess[pairs]) / 2)


# --- intervals and tests --------------------------------------------------------------------------


def bootstrap_interval(
    values: Values,
    statistic: Callable[[np.ndarray], float] = np.mean,
    *,
    num_bootstrap: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Percentile interval of ``statistic(values[rows])`` over resampled rows (first axis).

    NaN replicates are left out; low and high are NaN when every replicate is, or without rows.
    """
    values = np.asarray(values, np.float64)
    if not len(values):
        return Interval(math.nan, math.nan, math.nan)
    rng = np.random.default_rng(seed)
    rows = rng.integers(len(values), size=(num_bootstrap, len(values)))
    replicates = np.array([statistic(values[r]) for r in rows], np.float64)
    return Interval(float(statistic(values)), *_percentiles(replicates, level))


def paired_test(
    values: Values,
    reference: Values | None = None,
    *,
    method: str = "t",
    level: float = 0.95,
) -> PairedTest:
    """Paired test over seeds of ``values - reference`` (or of the differences themselves).

    The interval is Student's; ``p`` is two-sided, of the t-test or with ``method="wilcoxon"`` of
    the signed-rank test. One difference alone has no interval and no p (NaN). Equal differences
    have a p of 0, or 1 where all are 0.

    Raises:
        ValueError: an unknown method, or lists of different lengths.
    """
    if method not in ("t", "wilcoxon"):
        raise ValueError(f"method={method!r} is not a paired test; write 't' or 'wilcoxon'")
    d = np.asarray(values, np.float64).ravel()
    if reference is not None:
        d = np.subtract(*_pair(d, reference))
    mean = _mean(d)
    if d.size < 2 or not np.isfinite(d).all():
        return PairedTest(mean, math.nan, math.nan, math.nan)
    error = float(d.std(ddof=1)) / math.sqrt(d.size)
    half = error * float(scipy.stats.t.ppf((1 + level) / 2, d.size - 1))
    if not d.any():
        p = 1.0
    elif method == "wilcoxon":
        p = float(np.asarray(scipy.stats.wilcoxon(d))[1])
    else:
        p = float(2 * scipy.stats.t.sf(abs(mean) / error, d.size - 1)) if error > 0 else 0.0
    return PairedTest(mean, mean - half, mean + half, p)


def paired_rows_interval(
    losses: Values,
    reference_losses: Values,
    *,
    num_blocks: int = 100,
    num_bootstrap: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> tuple[float, float]:
    """Interval of the NE gain in percent over test rows, by block bootstrap.

    Takes two models' log losses on the same rows in time order. Rows close in time are alike, so contiguous blocks are
    resampled instead of rows. Both models share the base rate of every resample, so its entropy cancels:
    ``100 (sum(losses) - sum(reference)) / sum(reference)``. NaN without rows.
    """
    losses, reference_losses = _pair(losses, reference_losses)
    if not losses.size:
        return math.nan, math.nan
    num_blocks = min(num_blocks, losses.size)
    starts = np.arange(num_blocks) * losses.size // num_blocks
    sums = np.add.reduceat(losses, starts), np.add.reduceat(reference_losses, starts)
    picks = np.random.default_rng(seed).integers(num_blocks, size=(num_bootstrap, num_blocks))
    ours, theirs = (block[picks].sum(axis=1) for block in sums)
    gains = 100 * (ours - theirs) / np.where(theirs > 0, theirs, np.nan)
    return _percentiles(gains, level)


# --- helpers --------------------------------------------------------------------------------------


def finite_or_none(value: float) -> float | None:
    """A number as JSON can hold it: None for NaN and the infinities.

    Examples:
        >>> finite_or_none(0.5), finite_or_none(math.nan)
        (0.5, None)
    """
    return float(value) if math.isfinite(value) else None


def _pair(a: Values, b: Values) -> tuple[np.ndarray, np.ndarray]:
    a, b = np.asarray(a, np.float64).ravel(), np.asarray(b, np.float64).ravel()
    if a.size != b.size:
        raise ValueError(f"the two lists have {a.size} and {b.size} items; they must be paired")
    return a, b


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if values.size else math.nan


def _varies(values: np.ndarray) -> bool:
    return values.size > 1 and not np.isnan(values).any() and bool((values != values[0]).any())


def _require_k(k: int, size: int) -> None:
    if not 1 <= k <= size:
        raise ValueError(f"k={k} is outside 1..{size}, the number of items")


def _worst_case_order(predicted: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Indices by prediction, ties with the worse true value first."""
    return np.lexsort((-true, predicted))


def _percentiles(replicates: np.ndarray, level: float) -> tuple[float, float]:
    finite = replicates[~np.isnan(replicates)]
    if not finite.size:
        return math.nan, math.nan
    low, high = np.quantile(finite, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
