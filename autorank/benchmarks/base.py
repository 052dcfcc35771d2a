"""What every search benchmark shares: a space, a query, and the levels that regret is measured between."""

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from autorank.base.programs import ProgramStats
from autorank.objectives.base import Objective, Outcome
from autorank.space.space import Decision, Space

Values = Mapping[str, Any]  # active decisions and their values, as `Space.decode` gives them


class Interval(NamedTuple):
    """The native range of a decision whose choices are only a grid of it."""

    low: float | int
    high: float | int
    whole: bool  # integers


class Benchmark(NamedTuple):
    """One task. Searchers of ours see ``space``; a peer may propose any value inside ``intervals``."""

    suite: str
    task: str
    space: Space
    intervals: Mapping[str, Interval]
    query: Callable[[Sequence[Values]], np.ndarray]  # float64 [n, 2]: loss (NaN = failed), log cost
    optimum: float | None = None  # exact lowest loss, where it is known

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
    """At most ``size`` different points from low to high, even on the decision's own scale."""
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
    """A native number: its grid for us, its interval for peers."""
    choices = grid(low, high, size, log=log, whole=whole)
    return Decision(name, choices, "number", log), Interval(low, high, whole)


def normalised(loss: np.ndarray | float, best: float, typical: float) -> np.ndarray:
    """Regret in units of the distance from the best known loss (0) to a median random one (1)."""
    return (np.asarray(loss, np.float64) - best) / (typical - best)


def as_objective(benchmark: Benchmark, noise: float = 0.0) -> Objective:
    """The benchmark behind the interface of `autorank.objectives.base`, with a flat curve of ten windows.

    ``noise`` is the standard deviation of what a seed adds to the loss, in units of the loss; it is
    a function of configuration and seed.
    """
    space, windows = benchmark.space, 10
    content = json.dumps([benchmark.name, space.fingerprint(), noise])

    def evaluate(
        configs: np.ndarray, seeds: Sequence[int], fidelity: float
    ) -> Iterator[tuple[int, Outcome]]:
        reached = max(1, math.ceil(fidelity * windows - 1e-9))
        found = ask_table(benchmark, configs)
        for i, (config, seed) in enumerate(zip(configs, seeds, strict=True)):
            loss = found[i, 0] + noise * seed_noise(config, int(seed))
            curve = np.full((windows, 1), np.nan)
            curve[:reached] = loss
            failed = "" if math.isfinite(loss) else "recorded as failed"
            flops = math.exp(found[i, 1])
            yield i, Outcome(curve, (float(loss),), flops, reached, 0.0, 0.0, failed, {})

    return Objective(
        name=benchmark.name,
        fingerprint=hashlib.sha256(content.encode()).hexdigest(),
        metrics=("ctr",),
        num_rows=windows,
        num_windows=windows,
        evaluate=evaluate,
        cost=lambda configs: np.exp(ask_table(benchmark, configs)[:, 1]),
        stats=lambda: ProgramStats(0, 0, 0.0),
    )


def seed_noise(config: np.ndarray, seed: int) -> float:
    """Standard normal, a function of configuration and seed."""
    return float(np.random.default_rng([seed, *map(int, np.asarray(config))]).normal())
