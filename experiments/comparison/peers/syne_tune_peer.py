"""Syne Tune: BORE, density ratio estimation by a classifier, with its defaults."""

# pyright: reportMissingImports=false
import logging
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import numpy as np
from syne_tune import config_space
from syne_tune.backend.trial_status import Trial
from syne_tune.optimizer.baselines import BORE
from syne_tune.optimizer.schedulers.ask_tell_scheduler import AskTellScheduler

from experiments.comparison.peers.base import (
    Task,
    Told,
    active_only,
    filled,
    index,
    inside,
    step_seed,
)


class BorePeer:
    """No conditions: inactive decisions hold the baseline. A failed trial is an error, of which BORE learns nothing."""

    asks_again = False

    def __init__(self, task: Task, seed: int) -> None:
        logging.disable(logging.WARNING)
        self._task, self._seed, self._told = task, seed, 0
        self._searched = task.searched()
        space = {d.name: self._domain(d) for d in self._searched}
        self._scheduler = AskTellScheduler(BORE(space, metric="loss", random_seed=seed))

    def _domain(self, d: Any) -> Any:
        native = self._task.intervals.get(d.name)
        if native is not None and native.whole:
            kind = config_space.lograndint if d.log else config_space.randint
            return kind(int(native.low), int(native.high))
        if native is not None:
            kind = config_space.loguniform if d.log else config_space.uniform
            return kind(native.low, native.high)
        if d.kind == "number":  # values of one type, so that distances between choices count
            values = [float(c) for c in d.choices]
            return config_space.ordinal(values, kind="nn-log" if d.log else "nn")
        return config_space.choice([str(i) for i in range(len(d.choices))])

    def ask(self, n: int) -> list[dict[str, Any]]:
        """One suggestion after another from the same model."""
        # Candidates are drawn by the global generator: a function of seed and trials told, so that a resume goes on.
        np.random.seed(step_seed(self._seed, self._told))  # noqa: NPY002
        return [self._decoded(self._scheduler.ask().config) for _ in range(n)]

    def _decoded(self, found: dict[str, Any]) -> dict[str, Any]:
        values: dict[str, Any] = self._task.fixed()
        for d in self._searched:
            native, raw = self._task.intervals.get(d.name), found[d.name]
            if native is not None:
                values[d.name] = inside(native, raw)
            elif d.kind == "number":
                values[d.name] = d.choices[index(d.choices, raw)]
            else:
                values[d.name] = d.choices[int(raw)]
        return active_only(self._task, values)

    def tell(self, trials: Sequence[Told]) -> None:
        """Results, with inactive decisions as the baseline has them."""
        for i, told in enumerate(trials):
            trial = Trial(self._told + i, self._encoded(told.values), datetime.now())
            if told.loss == told.loss:
                self._scheduler.tell(trial, {"loss": told.loss})
            else:
                self._scheduler.base_scheduler.on_trial_error(trial)
        self._told += len(trials)

    def _encoded(self, values: dict[str, Any]) -> dict[str, Any]:
        whole, native = filled(self._task, values), self._task.intervals
        found: dict[str, Any] = {}
        for d in self._searched:
            value = whole[d.name]
            if d.name in native:
                found[d.name] = value
            else:
                ordered = d.kind == "number"
                found[d.name] = float(value) if ordered else str(index(d.choices, value))
        return found


def bore(task: Task, seed: int, trials: int, batch: int) -> BorePeer:
    """`BORE` with its defaults."""
    return BorePeer(task, seed)
