"""OSS Vizier: `VizierGPUCBPEBandit`, its default algorithm, by the designer interface.

Trials are padded to powers of two, which is not its default: without it every trial compiles anew.
"""

# pyright: reportMissingImports=false
import logging
import warnings
from collections.abc import Sequence
from typing import Any

import jax
from vizier import algorithms as vza
from vizier import pyvizier as vz
from vizier._src.algorithms.designers.gp_ucb_pe import VizierGPUCBPEBandit
from vizier.pyvizier.converters import padding

from experiments.comparison.peers.base import Task, Told, active_only, filled, index, inside


class VizierPeer:
    """Its designer refuses conditions: inactive decisions hold the baseline. A failed trial is infeasible."""

    asks_again = False

    def __init__(self, task: Task, seed: int) -> None:
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        self._task, self._told = task, 0
        self._searched = task.searched()
        problem = vz.ProblemStatement()
        for d in self._searched:
            self._add(problem.search_space.root, d)
        goal = vz.ObjectiveMetricGoal.MINIMIZE
        problem.metric_information.append(vz.MetricInformation("loss", goal=goal))
        self._key = jax.random.PRNGKey(seed)
        schedule = padding.PaddingSchedule(num_trials=padding.PaddingType.POWERS_OF_2)
        self._designer = VizierGPUCBPEBandit(problem, rng=self._key, padding_schedule=schedule)

    def _add(self, root: Any, d: Any) -> None:
        native = self._task.intervals.get(d.name)
        scale = vz.ScaleType.LOG if d.log else vz.ScaleType.LINEAR
        if native is not None and native.whole:
            root.add_int_param(d.name, int(native.low), int(native.high), scale_type=scale)
        elif native is not None:
            root.add_float_param(d.name, native.low, native.high, scale_type=scale)
        elif d.kind == "number":
            root.add_discrete_param(d.name, list(d.choices), scale_type=scale, auto_cast=False)
        else:
            root.add_categorical_param(d.name, [str(i) for i in range(len(d.choices))])

    def ask(self, n: int) -> list[dict[str, Any]]:
        """``n`` at once: the first exploits, the others explore."""
        # The designer's key as a function of what was told, so that a resumed run goes on with the same numbers.
        self._designer._rng = jax.random.fold_in(self._key, self._told)
        return [self._decoded(s.parameters.as_dict()) for s in self._designer.suggest(n)]

    def _decoded(self, found: dict[str, Any]) -> dict[str, Any]:
        values: dict[str, Any] = self._task.fixed()
        for d in self._searched:
            if d.name not in found:  # it happens that a suggestion lacks a value
                values[d.name] = self._task.baseline[d.name]
                continue
            native, raw = self._task.intervals.get(d.name), found[d.name]
            if native is not None:
                values[d.name] = inside(native, raw)
            elif d.kind == "number":
                values[d.name] = min(d.choices, key=lambda c: abs(c - float(raw)))  # noqa: B023
            else:
                values[d.name] = d.choices[int(raw)]
        return active_only(self._task, values)

    def tell(self, trials: Sequence[Told]) -> None:
        """Results, with inactive decisions as the baseline has them."""
        completed = []
        for told in trials:
            self._told += 1
            trial = vz.Trial(id=self._told, parameters=self._encoded(told.values))
            if told.loss == told.loss:
                trial.complete(vz.Measurement({"loss": told.loss}))
            else:
                trial.complete(vz.Measurement(), infeasibility_reason="failed")
            completed.append(trial)
        self._designer.update(vza.CompletedTrials(completed), vza.ActiveTrials())

    def _encoded(self, values: dict[str, Any]) -> dict[str, Any]:
        whole, native = filled(self._task, values), self._task.intervals
        return {
            d.name: whole[d.name]
            if d.name in native or d.kind == "number"
            else str(index(d.choices, whole[d.name]))
            for d in self._searched
        }


def gp_ucb_pe(task: Task, seed: int, trials: int, batch: int) -> VizierPeer:
    """`VizierGPUCBPEBandit` with its defaults but for padding."""
    return VizierPeer(task, seed)
