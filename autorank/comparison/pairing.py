"""What pairs of runs with the same data and seed say about two groups.

Seeds are the sample. A search's seed decides its proposals and the luck of its trials, which two groups share in part,
so differences are taken within a seed first. The interval is Student's for the mean of the differences.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from autorank.base.searched import MEASURES as SEARCHED
from autorank.base.searched import NE, gains, losses, unit
from autorank.comparison.grouping import Group, names_of
from autorank.comparison.result import Result, number
from autorank.search.verdict import half_width

LEVEL = 0.95
BESIDE_NE = tuple(m for m in SEARCHED if m != NE)
# What runs are compared by; lower is better: other measures than NE are there as losses (`searched.losses`).
MEASURES = {
    "gain": "NE gain of the winner with fresh seeds (%)",
    "label": "best label of a trial, the search's own seed (%)",
    "ne": "held-out NE of the winner, or of a model trained alone",
    **{m: f"held-out {unit(m).partition(' of ')[2] or m} of these" for m in BESIDE_NE},
}


def held_out_losses(values: Mapping[str, Any]) -> dict[str, float]:
    """The measures beside NE of a model on the held-out rows, as losses by name; NaN where unknown."""
    return {m: float(losses(m, number(values.get(m)))) for m in BESIDE_NE}


def unit_of(measure: str) -> str:
    """The unit of differences.

    Examples:
        >>> unit_of("gain"), unit_of("auc")
        ('% NE', 'points of 1 - auc')
    """
    return unit(measure if measure in SEARCHED else NE)


class Difference(NamedTuple):
    """Mean of paired differences from the reference (`unit_of`), negative is better; NaN where not known."""

    seeds: tuple[int, ...]  # that both groups have
    mean: float
    low: float
    high: float
    variance: float = math.nan  # of the mean

    @property
    def verdict(self) -> str:
        """What the interval says."""
        if len(self.seeds) < 2:
            return "one pair" if self.seeds else "no pair"
        return "better" if self.high < 0 else "worse" if self.low > 0 else "not shown"


class Row(NamedTuple):
    """One group on one data set."""

    group: Group
    name: str  # what tells it apart from the others of this data set
    seeds: dict[int, float]  # values of the measure
    results: list[Result]
    mean: float
    sd: float  # over seeds; NaN for one
    noise: float  # percent NE: one run of the baseline, over seeds
    difference: Difference | None  # None for the reference


def by_seed(results: Iterable[Result], measure: str) -> dict[int, float]:
    """The measure for each seed; runs of one seed count once, by their mean."""
    found: dict[int, list[float]] = {}
    for result in results:
        if math.isfinite(result.values[measure]):
            found.setdefault(result.seed, []).append(result.values[measure])
    return {seed: float(np.mean(values)) for seed, values in sorted(found.items())}


def paired(ours: dict[int, float], theirs: dict[int, float], measure: str) -> Difference:
    """The differences of the seeds that both have.

    Examples:
        >>> paired({0: -0.2, 1: -0.4, 7: -9.0}, {0: 0.0, 1: 0.0}, "gain")[:2]
        ((0, 1), -0.30000000000000004)
    """
    seeds = tuple(sorted(ours.keys() & theirs.keys()))
    if not seeds:
        return Difference((), math.nan, math.nan, math.nan)
    a, b = (np.array([values[s] for s in seeds]) for values in (ours, theirs))
    # Gains and labels are in percent already.
    differences = gains(measure, a, b) if measure in SEARCHED else a - b
    mean, half = float(differences.mean()), half_width(differences, LEVEL)
    variance = float(differences.var(ddof=1)) / len(seeds) if len(seeds) > 1 else math.nan
    return Difference(seeds, mean, mean - half, mean + half, variance)


class Overall(NamedTuple):
    """A group against the reference over several data sets, each with the same weight."""

    group: Group
    data_sets: int
    pairs: int
    mean: float
    low: float
    high: float


def overall(group: Group, differences: Sequence[Difference]) -> Overall:
    """The mean of the data sets' mean differences, over their seeds.

    The data sets are those there are: the interval says nothing of others. Its variance is the sum of those of the
    means, its degrees of freedom Satterthwaite's (Biometrics 1946); NaN where a data set has one pair only.
    """
    count, variances = len(differences), np.array([d.variance for d in differences])
    freedom = np.array([len(d.seeds) - 1 for d in differences])
    mean, total = float(np.mean([d.mean for d in differences])), float(variances.sum())
    if math.isfinite(total) and total > 0:
        df = total**2 / float((variances**2 / freedom).sum())
        half = float(stats.t.ppf((1 + LEVEL) / 2, df)) * math.sqrt(total) / count
    else:
        half = total  # 0: all differences are the same
    pairs = sum(len(d.seeds) for d in differences)
    return Overall(group, count, pairs, mean, mean - half, mean + half)


def noise_of(results: Iterable[Result]) -> float:
    """The seed noise that the runs measured, as the root of their mean variance."""
    known = [r.noise for r in results if math.isfinite(r.noise)]
    return math.sqrt(float(np.mean(np.square(known)))) if known else math.nan


def rows_of(
    groups: Iterable[Group], results: Iterable[Result], reference: Group, measure: str
) -> list[Row]:
    """The rows of one data set: the reference, then by their means."""
    here = {id(result) for result in results}
    base = by_seed([r for r in reference.results if id(r) in here], measure)
    present = [g for g in groups if any(id(r) in here for r in g.results)]
    names = names_of([g.settings for g in present])
    rows = []
    for group, name in zip(present, names, strict=True):
        own = [r for r in group.results if id(r) in here]
        seeds = by_seed(own, measure)
        values = np.array(list(seeds.values()))
        rows.append(
            Row(
                group,
                name if len(present) > 1 else group.name,
                seeds,
                own,
                float(values.mean()) if values.size else math.nan,
                float(values.std(ddof=1)) if values.size > 1 else math.nan,
                noise_of(own),
                None if group is reference else paired(seeds, base, measure),
            )
        )
    return sorted(rows, key=lambda r: (r.difference is not None, math.isnan(r.mean), r.mean))
