"""Optuna 5: GPSampler, TPESampler; of two objectives NSGAIISampler too.

A failed trial is told as FAIL, which is its documented way.
"""

# pyright: reportMissingImports=false
from collections.abc import Sequence
from typing import Any

import optuna

from experiments.comparison.peers.base import UNITS, Task, Told, WorstSoFar, index, is_active

optuna.logging.set_verbosity(optuna.logging.ERROR)


class OptunaPeer:
    """Define-by-run over the space's conditions; ordered choices without an interval are an int index."""

    asks_again = True

    def __init__(
        self, sampler: Any, task: Task, *, worst: bool = False, objectives: int = 1
    ) -> None:
        self._task = task
        directions: list[Any] = ["minimize"] * objectives
        self._study = optuna.create_study(sampler=sampler, directions=directions)
        self._open: list[tuple[Any, dict[str, Any]]] = []
        self._worst = WorstSoFar() if worst else None

    def _suggest(self, trial: Any) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for d in self._task.parents_first():
            if not is_active(d, values):
                continue
            native = self._task.intervals.get(d.name)
            if len(d.choices) == 1:
                values[d.name] = d.choices[0]
            elif native is not None and native.whole:
                low, high = int(native.low), int(native.high)
                values[d.name] = trial.suggest_int(d.name, low, high, log=d.log)
            elif native is not None:
                values[d.name] = trial.suggest_float(d.name, native.low, native.high, log=d.log)
            elif d.kind == "number":
                values[d.name] = d.choices[trial.suggest_int(d.name, 0, len(d.choices) - 1)]
            else:
                at = trial.suggest_categorical(d.name, list(range(len(d.choices))))
                values[d.name] = d.choices[at]
        return values

    def ask(self, n: int) -> list[dict[str, Any]]:
        """Asks for ``n`` trials, all of them running at once."""
        asked = [self._study.ask() for _ in range(n)]
        self._open = [(t, self._suggest(t)) for t in asked]
        return [v for _, v in self._open]

    def tell(self, trials: Sequence[Told]) -> None:
        """Finishes the running trials; a resume gives them back as trials with fixed parameters."""
        losses = [t.loss for t in trials]
        if self._worst is not None:
            losses = self._worst(losses)
        for i, (told, loss) in enumerate(zip(trials, losses, strict=True)):
            if i < len(self._open) and self._open[i][1] == told.values:
                trial = self._open[i][0]
            else:
                trial = self._study.ask()
                fixed = _Fixed(trial, told.values, self._task)
                self._suggest(fixed)
            if loss == loss:
                self._study.tell(trial, loss if told.cost is None else [loss, told.cost])
            else:
                self._study.tell(trial, state=optuna.trial.TrialState.FAIL)
        self._open = []


class HyperbandPeer(OptunaPeer):
    """`TPESampler` with `HyperbandPruner`: a trial reports after every unit and goes on until it is pruned."""

    def __init__(self, task: Task, seed: int) -> None:
        super().__init__(optuna.samplers.TPESampler(seed=seed), task)
        self._study = optuna.create_study(
            sampler=optuna.samplers.TPESampler(seed=seed),
            pruner=optuna.pruners.HyperbandPruner(min_resource=1, max_resource=UNITS),
            study_name="hyperband",  # trials are given to brackets by the study's name
        )
        self._units = 0  # that the open trial has reached

    def ask_run(self) -> tuple[dict[str, Any], int]:
        """See `base.StoppingPeer`."""
        if not self._open:
            trial = self._study.ask()
            self._open, self._units = [(trial, self._suggest(trial))], 0
        return self._open[0][1], self._units + 1

    def tell(self, trials: Sequence[Told]) -> None:
        """The loss of the open trial after one more unit; a failed one ends."""
        ((_, loss, *_),), (trial, _) = trials, self._open[0]
        self._units += 1
        if loss == loss:
            trial.report(loss, self._units)
        if loss != loss:
            self._study.tell(trial, state=optuna.trial.TrialState.FAIL)
        elif self._units == UNITS:
            self._study.tell(trial, loss)
        elif trial.should_prune():
            self._study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        else:
            return
        self._open = []


class _Fixed:
    """Registers given values instead of sampling: enqueued parameters are what `suggest` returns."""

    def __init__(self, trial: Any, values: dict[str, Any], task: Task) -> None:
        params = {}
        for d in task.decisions:
            if d.name in values:
                native = d.name in task.intervals
                params[d.name] = values[d.name] if native else index(d.choices, values[d.name])
        storage = trial.study._storage
        storage.set_trial_system_attr(trial._trial_id, "fixed_params", params)
        trial._fixed_params = params
        self._trial = trial

    def __getattr__(self, name: str) -> Any:
        return getattr(self._trial, name)


def gp(task: Task, seed: int, trials: int, batch: int) -> OptunaPeer:
    """`GPSampler` with its defaults."""
    return OptunaPeer(optuna.samplers.GPSampler(seed=seed), task)


def gp_worst(task: Task, seed: int, trials: int, batch: int) -> OptunaPeer:
    """`GPSampler`, failures told as the worst value so far (not its default)."""
    return OptunaPeer(optuna.samplers.GPSampler(seed=seed), task, worst=True)


def tpe(task: Task, seed: int, trials: int, batch: int) -> OptunaPeer:
    """`TPESampler` with its defaults (of release 5)."""
    return OptunaPeer(optuna.samplers.TPESampler(seed=seed), task)


def front_gp(task: Task, seed: int, trials: int, batch: int) -> OptunaPeer:
    """`GPSampler` of two objectives, with its defaults."""
    return OptunaPeer(optuna.samplers.GPSampler(seed=seed), task, objectives=2)


def front_nsga2(task: Task, seed: int, trials: int, batch: int) -> OptunaPeer:
    """`NSGAIISampler`, with its defaults."""
    return OptunaPeer(optuna.samplers.NSGAIISampler(seed=seed), task, objectives=2)


def front_tpe(task: Task, seed: int, trials: int, batch: int) -> OptunaPeer:
    """`TPESampler` of two objectives, with its defaults."""
    return OptunaPeer(optuna.samplers.TPESampler(seed=seed), task, objectives=2)


def hyperband(task: Task, seed: int, trials: int, batch: int) -> HyperbandPeer:
    """`TPESampler` with `HyperbandPruner`, with their defaults."""
    return HyperbandPeer(task, seed)
