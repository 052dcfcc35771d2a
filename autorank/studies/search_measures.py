"""What is measured of a search whose task's truth is known."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from autorank.base.typing import Float


class Searched(NamedTuple):
    """The trials of a search, in order."""

    quality: (
        np.ndarray
    )  # [n]: true; 0 is the best of the task, 1 the median of random ones; NaN is a failed trial
    cost: np.ndarray  # [n]: logarithm
    seen: np.ndarray  # [n]: quality as it was told
    task: Any  # a `SearchTask`

    def until(self, n: int) -> "Searched":
        """As if the search had ended after ``n`` trials."""
        return Searched(self.quality[:n], self.cost[:n], self.seen[:n], self.task)


class SearchMeasure(NamedTuple):
    """A number of a search; a `Measure` that can be computed."""

    words: str
    compute: Callable[[Searched], float]
    trials: int  # that it needs


def regret(found: Searched, n: int) -> float:
    """True regret of the trial that looks best among the first ``n``; 1 if all failed, as bad as a random one.

    Examples:
        >>> quality = np.array([0.9, np.nan, 0.2])
        >>> regret(Searched(quality, quality, quality, None), 3)
        0.2
    """
    seen = found.seen[:n]
    if not np.isfinite(seen).any():
        return 1.0
    return float(found.quality[np.nanargmin(seen)])


def mean_regret(found: Searched) -> float:
    """Mean over the trials of the regret of what looks best so far: low if good trials come early."""
    return float(np.mean([regret(found, n) for n in range(1, len(found.seen) + 1)]))


def hypervolume(quality: Float[np.ndarray, " n"], cost: Float[np.ndarray, " n"]) -> float:
    """Area of the unit square that some point dominates; both coordinates are best at 0.

    Examples:
        >>> hypervolume(np.array([0.0, 0.5]), np.array([0.5, 0.0]))
        0.75
    """
    kept = np.isfinite(quality) & np.isfinite(cost)
    points = np.clip(np.stack([quality[kept], cost[kept]], axis=1), 0.0, 1.0)
    area, lowest = 0.0, 1.0
    for q, c in points[np.lexsort((points[:, 0], points[:, 1]))]:
        # By rising cost: what is better than all that is cheaper adds a rectangle.
        if q < lowest:
            area += (1.0 - c) * (lowest - q)
            lowest = q
    return float(area)


def front_share(found: Searched) -> float:
    """Hypervolume of quality and cost, as a share of that of the whole task; NaN where the task is not a table."""
    whole = found.task.hypervolume
    if whole is None:
        return float("nan")
    return hypervolume(found.quality, found.task.scaled_cost(found.cost)) / whole


CHECKPOINTS = (25, 50, 75, 100, 150)
EARLY = (20, 40)  # measured where a study names them
MEASURES: Mapping[str, SearchMeasure] = {
    **{
        f"regret_at_{n}": SearchMeasure(f"regret at {n} trials", partial(regret, n=n), n)
        for n in sorted((*CHECKPOINTS, *EARLY), reverse=True)
    },
    "mean_regret": SearchMeasure("mean regret over the trials", mean_regret, 1),
    "front_share": SearchMeasure("share of the front's hypervolume", front_share, 1),
}


def usual(trials: int) -> tuple[str, ...]:
    """The measures of a study that names none: those that so many trials reach."""
    early = {f"regret_at_{n}" for n in EARLY}
    return tuple(n for n, m in MEASURES.items() if n not in early and m.trials <= trials)


def needs(name: str) -> int:
    """Number of trials that a measure needs; an unknown one needs none, and is refused elsewhere."""
    return MEASURES[name].trials if name in MEASURES else 0


def measured(found: Searched, measures: Sequence[str]) -> dict[str, float]:
    """The measures of a search by name."""
    return {name: MEASURES[name].compute(found) for name in measures}
