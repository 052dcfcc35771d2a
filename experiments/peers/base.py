"""The interface of a peer, and what its adapters share."""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from autorank.benchmarks.base import Benchmark
from autorank.space import find


class Told(NamedTuple):
    """A finished trial, as it is told."""

    values: dict[str, Any]  # active decisions only
    loss: float  # NaN = failed


class Peer(Protocol):
    """A searcher with its documented defaults; made by ``factory(benchmark, seed, trials, batch)``."""

    def ask(self, n: int) -> list[dict[str, Any]]:
        """``n`` configurations, native values, active decisions only."""
        ...

    def tell(self, trials: Sequence[Told]) -> None:
        """Results, in the order in which they were asked for; or, at a resume, from an earlier process."""
        ...


def active_only(benchmark: Benchmark, values: dict[str, Any]) -> dict[str, Any]:
    """Drops decisions without a meaning."""
    kept: dict[str, Any] = {}
    for i in benchmark.space._order:
        d = benchmark.space.decisions[i]
        on = not d.parents or any(p in kept and find(v, kept[p]) is not None for p, v in d.parents)
        if on:
            kept[d.name] = values[d.name]
    return kept


def filled(benchmark: Benchmark, values: dict[str, Any]) -> dict[str, Any]:
    """Adds the baseline's choice where a decision is inactive, for peers without conditions."""
    pairs = zip(benchmark.space.decisions, benchmark.space.baseline, strict=True)
    return {d.name: values.get(d.name, d.choices[b]) for d, b in pairs}


class WorstSoFar:
    """The value that stands for a failure where a peer has no failed trials: the worst finished one so far."""

    def __init__(self) -> None:
        self._worst: float | None = None

    def __call__(self, losses: Sequence[float]) -> list[float]:
        """Losses without NaN; 1 where nothing has finished."""
        for v in losses:
            if np.isfinite(v):
                self._worst = v if self._worst is None else max(v, self._worst)
        stand_in = 1.0 if self._worst is None else self._worst
        return [v if np.isfinite(v) else stand_in for v in losses]
