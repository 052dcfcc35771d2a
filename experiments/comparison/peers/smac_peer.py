"""SMAC3: black-box facade (Gaussian process) and hyperparameter facade (random forest), ask and tell.

A failed trial is told as crashed with the worst cost so far: with its documented infinite cost the forest of release
2.4.1 refuses to fit. Its trajectory depends on ``PYTHONHASHSEED``.
"""

import tempfile

# pyright: reportMissingImports=false
from collections.abc import Sequence
from typing import Any

import numpy as np
from ConfigSpace import (
    CategoricalHyperparameter,
    ConfigurationSpace,
    InCondition,
    OrConjunction,
    OrdinalHyperparameter,
    UniformFloatHyperparameter,
    UniformIntegerHyperparameter,
)
from smac import (
    BlackBoxFacade,
    HyperparameterOptimizationFacade,
    MultiFidelityFacade,
    Scenario,
)
from smac.multi_objective.parego import ParEGO
from smac.runhistory.dataclasses import TrialInfo, TrialValue
from smac.runhistory.enumerations import StatusType

from experiments.comparison.peers.base import UNITS, Task, Told, WorstSoFar, index


def config_space(task: Task, seed: int) -> ConfigurationSpace:
    """Choices by index; native intervals as they are; conditions kept."""
    space = ConfigurationSpace(seed=seed)
    made: dict[str, Any] = {}
    for d in task.decisions:
        native = task.intervals.get(d.name)
        if native is not None:
            kind = UniformIntegerHyperparameter if native.whole else UniformFloatHyperparameter
            made[d.name] = kind(d.name, native.low, native.high, log=d.log)
        elif d.kind == "number" and len(d.choices) > 1:
            made[d.name] = OrdinalHyperparameter(d.name, list(range(len(d.choices))))
        else:
            made[d.name] = CategoricalHyperparameter(d.name, list(range(len(d.choices))))
    space.add(*made.values())
    for d in task.decisions:
        parts = [
            InCondition(made[d.name], made[p], [index(task.named(p).choices, v) for v in values])
            for p, values in d.parents
        ]
        if parts:
            space.add(parts[0] if len(parts) == 1 else OrConjunction(*parts))
    return space


class SmacPeer:
    """Ask and tell around a facade."""

    asks_again = True

    def __init__(
        self,
        facade: Any,
        task: Task,
        seed: int,
        trials: int,
        *,
        scalarise: Any = None,
        units: int | None = None,
    ) -> None:
        self._task, self._seed, self._worst = task, seed, WorstSoFar()
        self._space = config_space(task, seed)
        scenario = Scenario(
            self._space,
            n_trials=trials,
            deterministic=True,
            seed=seed,
            objectives=["loss", "cost"] if scalarise else "cost",
            min_budget=units and 1,
            max_budget=units,
            output_directory=tempfile.mkdtemp(),  # type: ignore[arg-type]
        )
        own = {"multi_objective_algorithm": scalarise(scenario)} if scalarise else {}
        # It is never called, but its signature is checked.
        unused: Any = lambda config, seed=0: 0.0  # noqa: E731
        if units:
            unused = lambda config, seed=0, budget=0: 0.0  # noqa: E731
        self._facade = facade(scenario, unused, overwrite=True, logging_level=40, **own)
        self._asked: list[tuple[Any, dict[str, Any]]] = []

    def ask(self, n: int) -> list[dict[str, Any]]:
        """Trials of the facade; decoded."""
        self._asked = []
        for _ in range(n):
            info = self._facade.ask()
            self._asked.append((info, self._decode(dict(info.config))))
        return [values for _, values in self._asked]

    def ask_run(self) -> tuple[dict[str, Any], int]:
        """See `base.StoppingPeer`."""
        (values,) = self.ask(1)
        return values, round(self._asked[0][0].budget)

    def _decode(self, found: dict[str, Any]) -> dict[str, Any]:
        values = {}
        for d in self._task.decisions:
            if d.name not in found:
                continue
            native = self._task.intervals.get(d.name)
            raw = found[d.name]
            if native is None:
                values[d.name] = d.choices[int(raw)]
            else:
                values[d.name] = int(raw) if native.whole else float(raw)
        return values

    def tell(self, trials: Sequence[Told]) -> None:
        """Results of the last ask; a resume gives configurations of its own."""
        losses = self._worst([t.loss for t in trials])
        known = [v for _, v in self._asked]
        for told, loss in zip(trials, losses, strict=True):
            status = StatusType.SUCCESS if np.isfinite(told.loss) else StatusType.CRASHED
            if told.values in known:
                info = self._asked[known.index(told.values)][0]
            else:
                info = TrialInfo(self._encode(told.values), seed=self._seed)
            cost = loss if told.cost is None else [loss, told.cost]
            self._facade.tell(info, TrialValue(cost=cost, status=status))

    def _encode(self, values: dict[str, Any]) -> Any:
        from ConfigSpace import Configuration

        by_name = {d.name: d for d in self._task.decisions}
        native = self._task.intervals
        found = {k: v if k in native else index(by_name[k].choices, v) for k, v in values.items()}
        return Configuration(self._space, found)


def black_box(task: Task, seed: int, trials: int, batch: int) -> SmacPeer:
    """`BlackBoxFacade` with its defaults."""
    return SmacPeer(BlackBoxFacade, task, seed, trials)


def random_forest(task: Task, seed: int, trials: int, batch: int) -> SmacPeer:
    """`HyperparameterOptimizationFacade` with its defaults."""
    return SmacPeer(HyperparameterOptimizationFacade, task, seed, trials)


def parego(task: Task, seed: int, trials: int, batch: int) -> SmacPeer:
    """Two objectives: `HyperparameterOptimizationFacade` with ParEGO."""
    return SmacPeer(HyperparameterOptimizationFacade, task, seed, trials, scalarise=ParEGO)


def hyperband(task: Task, seed: int, trials: int, batch: int) -> SmacPeer:
    """`MultiFidelityFacade` with its defaults: a random forest proposes, Hyperband decides how far."""
    return SmacPeer(MultiFidelityFacade, task, seed, trials, units=UNITS)
