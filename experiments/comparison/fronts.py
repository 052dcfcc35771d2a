"""Tasks of two objectives whose front is known, and what a searcher's front of a task is worth.

Quality is lower-is-better: NE gain over the baseline in percent on our own tables, loss on the planted function. The
cost is the log of the FLOPs (of the imagined size) relative to the baseline's. Hypervolumes are measured up to a
reference: the quality of a median random configuration at the cost of the dearest.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from autorank.benchmarks.base import Benchmark, Values
from autorank.benchmarks.catalogue import get
from autorank.benchmarks.mixed import ORDERED, planted_front
from autorank.ledger.front import hypervolume, pareto_front
from autorank.searchers.known_cost import KnownCost, tabulated
from experiments.comparison.noise import noisy
from experiments.comparison.runs import DATA

TASKS = ("dhen/kuairand", "dhen/synthetic", "mixed/0", "mixed/1", "mixed/2")
EQUAL_COST = 1.05  # as in a search
EQUAL_NE = 0.1


class Measures(NamedTuple):
    """What a searcher's front lacks; 0 is nothing."""

    hypervolume: float  # share of the true front's that the recommended configurations lack
    tried: float  # the same of everything that was tried
    # Regret of the best at equal cost: 0 is the best there is at no more cost, 1 a median random configuration.
    equal_cost: float
    equal_quality: (
        float  # log FLOPs of the cheapest at equal quality, above those of the cheapest there is
    )


@dataclass(frozen=True)
class FrontTask:
    """A task and its true front; made by `front_task`."""

    benchmark: Benchmark
    known_cost: KnownCost
    qualities: Callable[[np.ndarray], np.ndarray]  # of losses
    baseline: tuple[float, float]  # loss and log cost
    front: list[tuple[float, float]]  # log cost ratio and quality, cheapest first
    reference: tuple[float, float]  # dearest, worst
    margin: float  # quality up to which one is equal to the baseline's

    def truth(self, rows: Sequence[Values]) -> np.ndarray:
        """Quality and log cost ratio of configurations, without noise, ``[n, 2]``."""
        found = self.benchmark.query(rows)
        return np.stack([self.qualities(found[:, 0]), found[:, 1] - self.baseline[1]], axis=1)

    def told(
        self, draw: np.random.Generator, noise: float | str, rows: Sequence[Values]
    ) -> np.ndarray:
        """The same as a trial with luck in it tells it; ``noise`` is that of `noise.noisy`."""
        found = self.benchmark.query(rows)
        seen = noisy(draw, noise, self.benchmark, rows, found[:, 0], self.scale)
        return np.stack([self.qualities(seen), found[:, 1] - self.baseline[1]], axis=1)

    @property
    def scale(self) -> float:
        """The regret of a median random configuration, in the unit of the loss."""
        return self.spread / float(
            self.qualities(np.array([1.0]))[0] - self.qualities(np.zeros(1))[0]
        )

    @property
    def spread(self) -> float:
        """The same in the unit of the quality."""
        return self.reference[1] - min(q for _, q in self.front)

    def measure(self, truth: np.ndarray, believed: np.ndarray) -> Measures:
        """What trials are worth.

        Args:
            truth: of everything tried, ``[n, 2]``.
            believed: qualities that the searcher believes these to have; NaN for none.
        """
        costs = truth[:, 1].tolist()
        pairs = [(c, float(b)) for c, b in zip(costs, believed, strict=True)]
        usable = [i for i, (_, b) in enumerate(pairs) if math.isfinite(b)]
        chosen = [usable[j] for j in pareto_front([pairs[i] for i in usable])]
        points = [(c, float(q)) for q, c in truth]
        whole = hypervolume(self.front, self.reference)
        own, tried = (
            hypervolume(some, self.reference) for some in ([points[i] for i in chosen], points)
        )
        return Measures(
            1 - own / whole,
            1 - tried / whole,
            self._equal_cost(points, pairs, usable),
            self._equal_quality(points, pairs, usable),
        )

    def _equal_cost(
        self,
        points: Sequence[tuple[float, float]],
        pairs: Sequence[tuple[float, float]],
        usable: Sequence[int],
    ) -> float:
        most = math.log(EQUAL_COST)
        best = min(q for c, q in self.front if c <= most)
        cheap = [i for i in usable if pairs[i][0] <= most]
        own = points[min(cheap, key=lambda i: pairs[i][1])][1] if cheap else self._baseline_quality
        return (own - best) / self.spread

    def _equal_quality(
        self,
        points: Sequence[tuple[float, float]],
        pairs: Sequence[tuple[float, float]],
        usable: Sequence[int],
    ) -> float:
        limit = self._baseline_quality + self.margin
        cheapest = min(c for c, q in self.front if q <= limit)
        good = [i for i in usable if pairs[i][1] <= limit]
        own = 0.0  # the baseline's cost, where none is or the chosen one is worse than it seemed
        if good:
            at = min(good, key=lambda i: pairs[i][0])
            own = min(points[at][0], 0.0) if points[at][1] <= limit else 0.0
        return own - cheapest

    @property
    def _baseline_quality(self) -> float:
        return float(self.qualities(np.array([self.baseline[0]]))[0])


@cache
def front_task(name: str) -> FrontTask:
    """A task by its name.

    Raises:
        ValueError: its front is not known.
    """
    if name not in TASKS:
        raise ValueError(f"{name} has no known front; write some of {', '.join(TASKS)}")
    benchmark = get(name, DATA)
    space = benchmark.space
    start = np.array(space.baseline, np.int32)
    loss, cost = benchmark.query([space.decode(start)])[0].tolist()
    if name.startswith("dhen/"):
        return _of_table(benchmark, loss, cost)
    sample = np.asarray(space.sample(jax.random.key(0), 4000))
    losses = benchmark.query([space.decode(c) for c in sample])[:, 0]
    front = [(c - cost, q) for c, q in planted_front(int(benchmark.task))]
    dearest = math.log(math.prod(max(c) for c in ORDERED.values()) / 1e4) - cost
    known = KnownCost(_size_ratio(benchmark), dearest + 1e-3)
    reference = dearest + 1e-3, float(np.median(losses))
    return FrontTask(benchmark, known, np.asarray, (loss, cost), front, reference, 0.0)


def _of_table(benchmark: Benchmark, loss: float, cost: float) -> FrontTask:
    space = benchmark.space

    def found(configs: np.ndarray) -> np.ndarray:
        return benchmark.query([space.decode(c) for c in configs])

    def gains(losses: np.ndarray) -> np.ndarray:
        return 100 * (np.asarray(losses) / loss - 1)

    every = found(space.enumerate(space.cardinality()))
    qualities, costs = gains(every[:, 0]), every[:, 1] - cost
    points = list(zip(costs.tolist(), qualities.tolist(), strict=True))
    front = [points[i] for i in pareto_front(points)]
    reference = float(costs.max()) + 1e-3, float(np.nanmedian(qualities))
    known = tabulated(space, lambda configs: found(configs)[:, 1])
    return FrontTask(benchmark, known, gains, (loss, cost), front, reference, EQUAL_NE)


def _size_ratio(benchmark: Benchmark) -> Any:
    """The log size of the planted function's configurations relative to the baseline's, inside ``jit``."""
    space = benchmark.space
    at = [space.names.index(n) for n in ORDERED]
    logs = [np.log(np.array(c, np.float64)) for c in ORDERED.values()]
    start = sum(table[space.baseline[i]] for i, table in zip(at, logs, strict=True))

    def log_ratio(configs: Any) -> Any:
        parts = (
            jnp.asarray(table, jnp.float32)[configs[:, i]]
            for i, table in zip(at, logs, strict=True)
        )
        return sum(parts) - start

    return log_ratio
