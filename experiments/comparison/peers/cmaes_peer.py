"""cmaes: CatCMAwM, CMA-ES with margin for continuous, integer and categorical variables together."""

# pyright: reportMissingImports=false
from collections.abc import Sequence
from typing import Any

import numpy as np
from cmaes import CatCMAwM

from experiments.comparison.peers.base import Task, Told, WorstSoFar, active_only, filled


class CatCmaPeer:
    """No conditions and no failed trials: inactive values are dropped, a failure is the worst so far."""

    asks_again = True

    def __init__(self, task: Task, seed: int) -> None:
        self._task, self._worst = task, WorstSoFar()
        decisions = task.searched()
        native = task.intervals
        self._floats = [d for d in decisions if d.name in native and not native[d.name].whole]
        self._ints = [d for d in decisions if d.kind == "number" and d not in self._floats]
        self._cats = [d for d in decisions if d.kind == "categorical"]
        self._grids = [
            np.arange(native[d.name].low, native[d.name].high + 1)
            if d.name in native
            else np.arange(len(d.choices))
            for d in self._ints
        ]
        settings: dict[str, Any] = {"seed": seed}
        if self._floats:
            settings["x_space"] = np.array([self._range(d) for d in self._floats])
        if self._ints:
            settings["z_space"] = [
                np.log(g) if d.log and d.name in native else g.astype(float)
                for d, g in zip(self._ints, self._grids, strict=True)
            ]
        if self._cats:
            settings["c_space"] = np.array([len(d.choices) for d in self._cats])
        self._optimizer = CatCMAwM(**settings)
        self._asked: list[tuple[dict[str, Any], Any]] = []
        self._pool: list[tuple[Any, float]] = []

    def _range(self, decision: Any) -> tuple[float, float]:
        low, high = self._task.intervals[decision.name][:2]
        return (np.log(low), np.log(high)) if decision.log else (low, high)

    def ask(self, n: int) -> list[dict[str, Any]]:
        """Samples of the current distribution."""
        self._asked = []
        for _ in range(n):
            solution = self._optimizer.ask()
            values = filled(self._task, {})
            for d, x in zip(self._floats, [] if solution.x is None else solution.x, strict=True):
                values[d.name] = float(np.exp(x) if d.log else x)
                low, high = self._task.intervals[d.name][:2]
                values[d.name] = min(max(values[d.name], low), high)
            ints = [] if solution.z is None else solution.z
            for d, z in zip(self._ints, ints, strict=True):
                if d.name in self._task.intervals:
                    values[d.name] = int(round(np.exp(z) if d.log else z))
                else:
                    values[d.name] = d.choices[int(round(z))]
            for d, c in zip(self._cats, [] if solution.c is None else solution.c, strict=True):
                values[d.name] = d.choices[int(np.argmax(c))]
            self._asked.append((active_only(self._task, values), solution))
        return [v for v, _ in self._asked]

    def tell(self, trials: Sequence[Told]) -> None:
        """Collects a population, then updates. A resume asks again (the seed is the same) before it tells."""
        if [v for v, _ in self._asked] != [t.values for t in trials]:
            again = self.ask(len(trials))
            if again != [t.values for t in trials]:
                raise ValueError("CatCMAwM cannot be told of trials that it did not ask for")
        losses = self._worst([t.loss for t in trials])
        self._pool += [(s, v) for (_, s), v in zip(self._asked, losses, strict=True)]
        size = self._optimizer.population_size
        while len(self._pool) >= size:
            self._optimizer.tell(self._pool[:size])
            self._pool = self._pool[size:]
        self._asked = []


def catcma(task: Task, seed: int, trials: int, batch: int) -> CatCmaPeer:
    """`CatCMAwM` with its defaults."""
    return CatCmaPeer(task, seed + 1)  # it takes a seed of 0 for no seed
