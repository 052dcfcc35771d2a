"""What every benchmark has: a space, a query of known results, and the native range of its numbers."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np

from autorank.objectives.base import Objective
from autorank.recorded.pool import Pool, Values
from autorank.space.space import Decision, Space


class Interval(NamedTuple):
    """The native range of a decision whose choices are only a grid over it."""

    low: float | int
    high: float | int
    whole: bool  # integers


@runtime_checkable
class Query(Protocol):
    """Looks up the results of configurations."""

    def __call__(self, rows: Sequence[Values]) -> np.ndarray:
        """Loss (NaN = failed) and log cost of each, float64 ``[n, 2]``."""
        ...


@runtime_checkable
class Windows(Protocol):
    """Gives learning curves."""

    def __call__(self, rows: Sequence[Values]) -> np.ndarray:
        """The loss of each configuration after each of ``t`` equal parts of its training, float64 ``[n, t]``."""
        ...


class SliceCurves(NamedTuple):
    """Losses of slices of the rows, window by window: mean log loss, NaN for a slice without rows in a window."""

    losses: np.ndarray  # of the pool's configurations, float64 [n, t, s]
    baseline: np.ndarray  # [t, s]
    rows: np.ndarray  # rows of each slice in each window [t, s]


class Benchmark(NamedTuple):
    """One task. Our searchers see ``space``; a peer may propose any value inside ``intervals``."""

    suite: str
    task: str
    space: Space
    intervals: Mapping[str, Interval]
    query: Query
    optimum: float | None = None  # the exact lowest loss, if it is known
    # Only these configurations can be looked up; a proposal is moved to one of them (`Pool.nearest`). None: all can.
    pool: Pool | None = None
    # Recorded curves: part of the windows is a lower fidelity, a seed chooses among those of a configuration.
    curves: Objective | None = None
    # Learning curves of any configuration, as a surrogate of them gives them.
    windows: Windows | None = None
    # The loss with each recorded seed, float64 [n, s]; the query's is their mean.
    seeds: Query | None = None
    # Configurations [n, k] that were measured; any other one has the result of the nearest of them. None: all were.
    measured: np.ndarray | None = None
    # Of the pool's configurations, where they were recorded.
    slices: SliceCurves | None = None

    @property
    def name(self) -> str:
        """``suite/task``."""
        return f"{self.suite}/{self.task}"


def ask_table(benchmark: Benchmark, configs: np.ndarray) -> np.ndarray:
    """Losses and log costs of grid configurations ``[n, k]``, float64 ``[n, 2]``."""
    return benchmark.query([benchmark.space.decode(c) for c in np.asarray(configs)])


def grid(
    low: float | int, high: float | int, size: int, *, log: bool, whole: bool
) -> tuple[float | int, ...]:
    """At most ``size`` different points from low to high, evenly spaced on the decision's own scale.

    Examples:
        >>> grid(1, 100, 3, log=True, whole=True)
        (1, 10, 100)
    """
    points = np.geomspace(low, high, size) if log else np.linspace(low, high, size)
    if whole:
        return tuple(sorted({int(round(p)) for p in points.tolist()}))
    return tuple(sorted({float(f"{p:.9g}") for p in points.tolist()}))


def number(
    name: str,
    low: float | int,
    high: float | int,
    size: int,
    *,
    log: bool = False,
    whole: bool = False,
) -> tuple[Decision, Interval]:
    """A decision over a native range: its grid of ``size`` points for our searchers, its interval for peers."""
    choices = grid(low, high, size, log=log, whole=whole)
    return Decision(name, choices, "number", log), Interval(low, high, whole)


def middle(decisions: Sequence[Decision]) -> tuple[int, ...]:
    """The middle choice of each decision: the baseline of benchmarks that name none."""
    return tuple(len(d.choices) // 2 for d in decisions)
