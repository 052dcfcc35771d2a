"""What the numbers of a search allow one to say: bounds over seeds, luck among many trials, power, gains in speed.

Gains are NE in percent against the baseline, lower is better, paired by seed. Everything is in closed form or one
numerical integral; NaN is the answer where too few seeds say nothing.

References:
    Non-inferiority: Schuirmann, J. Pharmacokinet. Biopharm. 1987 (one of its two one-sided tests); several models in
    one order fixed beforehand: Maurer, Hothorn and Lehmacher, 1995. Shrinkage: James and Stein, 1961. Stopping on the
    width of the interval: Chow and Robbins, Ann. Math. Statist. 1965.
"""

import functools
import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from scipy import integrate, optimize, stats

from autorank.base.metrics import Values


class Ratio(NamedTuple):
    """A ratio of rates with its two-sided interval."""

    mean: float
    low: float
    high: float


# --- over seeds -----------------------------------------------------------------------------------


def half_width(gains: Values, level: float = 0.95) -> float:
    """Half the width of Student's interval of the mean; NaN for fewer than two seeds or a failed one."""
    gains = np.asarray(gains, np.float64)
    if gains.size < 2 or not np.isfinite(gains).all():
        return math.nan
    error = float(gains.std(ddof=1)) / math.sqrt(gains.size)
    return error * float(stats.t.ppf((1 + level) / 2, gains.size - 1))


def upper_bound(gains: Values, level: float = 0.95) -> float:
    """The mean gain is below it with this confidence (one-sided, Student's); NaN as for `half_width`."""
    gains = np.asarray(gains, np.float64)
    return float(np.mean(gains)) + half_width(gains, 2 * level - 1) if gains.size else math.nan


def not_worse(gains: Iterable[Values], margin: float, level: float = 0.95) -> list[bool]:
    """Which models are worse than the baseline by less than ``margin``, tested in the order given.

    The first model whose bound does not lie below the margin ends the sequence: those after it are not shown to be
    as good. So the chance that any model passes that is worse by the margin is at most ``1 - level``, however many
    there are, as long as the order does not depend on these gains.
    """
    passed: list[bool] = []
    for values in gains:
        # A NaN bound is not below anything.
        passed.append(all(passed) and upper_bound(values, level) < margin)
    return passed


def least_gain(sd: float, num_seeds: int, *, power: float = 0.8, level: float = 0.95) -> float:
    """The size of the true gain that a two-sided paired t-test finds with this power.

    ``sd`` is that of the paired gains of single seeds. NaN for fewer than two seeds or an unknown ``sd``.
    """
    if num_seeds < 2 or not math.isfinite(sd) or sd < 0:
        return math.nan
    df = num_seeds - 1
    critical = float(stats.t.ppf((1 + level) / 2, df))
    # The sd that is seen, in units of the true one: scipy's noncentral t is NaN in places.
    seen = np.sqrt(stats.chi2.ppf((np.arange(2000) + 0.5) / 2000, df) / df)

    def missing(shift: float) -> float:
        found = stats.norm.cdf(shift - critical * seen) + stats.norm.cdf(-shift - critical * seen)
        return float(found.mean()) - power

    shift = float(np.asarray(optimize.brentq(missing, 0.0, 10 * critical)))
    return shift * sd / math.sqrt(num_seeds)


def seeds_to_add(gains: Sequence[Values], wanted: float, limit: int) -> int:
    """How many more seeds the models with these gains need until each interval's half width is ``wanted``; 0: none.

    At most as many as there are, so that an unlucky first estimate of the variance does not spend the budget, and at
    most up to ``limit`` seeds in all. It looks at the spread of the gains alone; of normal gains the mean says nothing
    about their spread, so stopping by it does not bias the mean.
    """
    num = max((len(g) for g in gains), default=0)
    widths = [half_width(g) for g in gains]
    open_ = [w for w in widths if not w <= wanted]  # NaN: too few seeds to say
    if not open_ or num >= limit:
        return 0
    widest = max((w for w in open_ if math.isfinite(w)), default=math.nan)
    needed = num * (widest / wanted) ** 2 if math.isfinite(widest) else 2.0 * num
    return int(min(max(1, math.ceil(min(needed, 2.0 * num)) - num), limit - num))


# --- among many trials ------------------------------------------------------------------------------


def expected_best(noise: float, num_trials: int) -> float:
    """Mean of the lowest of ``num_trials`` independent draws of normal noise; NaN without a noise."""
    if not math.isfinite(noise) or noise <= 0 or num_trials < 1:
        return math.nan
    return noise * _lowest_normal(num_trials)


@functools.lru_cache
def _lowest_normal(count: int) -> float:
    def integrand(z: float) -> float:
        return z * math.exp(float(stats.norm.logpdf(z) + (count - 1) * stats.norm.logsf(z)))

    return count * float(integrate.quad(integrand, -12, 12, limit=200)[0])


def luckiest(noise: float, num_seeds: int, num_trials: int, quantile: float = 0.95) -> float:
    """The gain that the luckiest of ``num_trials`` copies of the baseline stays above in a ``quantile`` of searches.

    ``noise`` is the standard deviation that ``num_seeds`` runs of the baseline showed; gains count from their mean.
    Neither is known exactly, which is part of the answer: with two seeds it is far away. NaN for one seed.
    """
    if num_seeds < 2 or not math.isfinite(noise) or noise <= 0 or num_trials < 1:
        return math.nan
    return -noise * _reach(num_seeds, num_trials, quantile)


@functools.lru_cache
def _reach(num_seeds: int, num_trials: int, quantile: float) -> float:
    u = (np.arange(400) + 0.5) / 400
    # The sd seen in units of the true one, and the mean seen in units of the true sd.
    scale = np.sqrt(stats.chi2.ppf(u, num_seeds - 1) / (num_seeds - 1))[:, None]
    centre = stats.norm.ppf((np.arange(40) + 0.5) / 40)[None, :] / math.sqrt(num_seeds)

    def excess(log_reach: float) -> float:
        above = stats.norm.logsf(centre - math.exp(log_reach) * scale)
        return float(np.exp(num_trials * above).mean()) - quantile

    return math.exp(float(np.asarray(optimize.brentq(excess, -12, 12))))


def shrunk(labels: Values, noise: float) -> np.ndarray:
    """What each label is worth once its luck is taken out: drawn towards the median of all.

    A label's distance from the median counts by the share of the labels' variance that is not seed noise. The
    variance is that of the labels better than the median: failures make the other side wide. NaN for fewer than
    eight finite labels (own choice) or an unknown noise.
    """
    values = np.asarray(labels, np.float64)
    finite = values[np.isfinite(values)]
    if finite.size < 8 or not math.isfinite(noise) or noise < 0:
        return np.full(values.shape, np.nan)
    median = float(np.median(finite))
    better = finite[finite <= median] - median
    variance = float(np.mean(better**2))
    kept = max(0.0, 1 - noise**2 / variance) if variance > 0 else 0.0
    return median + kept * (values - median)


# --- speed ----------------------------------------------------------------------------------------


def rate_ratio(
    rates: Values,
    reference: Values,
    level: float = 0.95,
) -> Ratio:
    """Ratio of rates measured in turn: geometric mean of the pairs with Student's interval of their logarithms."""
    with np.errstate(all="ignore"):
        logs = np.log(np.asarray(rates, np.float64) / np.asarray(reference, np.float64))
    if not logs.size or not np.isfinite(logs).all():
        return Ratio(math.nan, math.nan, math.nan)
    mean, half = float(logs.mean()), half_width(logs, level)
    return Ratio(math.exp(mean), math.exp(mean - half), math.exp(mean + half))
