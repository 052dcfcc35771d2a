"""Ax: `Client` with its "fast" method, and 20 initial trials; of two objectives it maximises expected hypervolume.

With its default of 5 initial trials it proposes near-copies of one configuration in spaces of a dozen decisions. Its
conditions (`dependent_parameters`) are a tree in which a decision hangs on one value of one parent; none of the
conditional benchmarks here is one, so inactive decisions are filled with the baseline.
"""

# pyright: reportMissingImports=false
import logging
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from ax.api.client import Client
from ax.api.configs import ChoiceParameterConfig, RangeParameterConfig

from experiments.comparison.peers.base import Task, Told, from_indices, step_seed, to_indices

INITIAL = 20


class AxPeer:
    """Choices by index, ordered or not; a failed trial is marked as failed, which is its documented way."""

    def __init__(self, task: Task, seed: int, objectives: Sequence[str] = ("loss",)) -> None:
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        self._task, self._seed, self._told, self._finished = task, seed, 0, 0
        self._client = Client(random_seed=seed)
        parameters: list[Any] = []
        for d in task.searched():
            native = task.intervals.get(d.name)
            if native is None:
                steps = list(range(len(d.choices)))
                parameters.append(
                    ChoiceParameterConfig(
                        name=d.name,
                        values=steps,
                        parameter_type="int",
                        is_ordered=d.kind == "number",
                    )
                )
            else:
                parameters.append(
                    RangeParameterConfig(
                        name=d.name,
                        bounds=(native.low, native.high),
                        parameter_type="int" if native.whole else "float",
                        scaling="log" if d.log else "linear",
                    )
                )
        self._client.configure_experiment(parameters)
        self._client.configure_optimization(objective=", ".join(f"-{o}" for o in objectives))
        self._client.configure_generation_strategy(
            initialization_budget=INITIAL,
            initialization_random_seed=seed,
            allow_exceeding_initialization_budget=True,  # a batch may ask beyond it
        )
        self._open: list[tuple[dict[str, Any], int]] = []

    @property
    def asks_again(self) -> bool:
        """The position in the Sobol sequence moves only by asking."""
        return self._finished < INITIAL

    def ask(self, n: int) -> list[dict[str, Any]]:
        """Trials of the client, all of them running at once; it may give fewer than asked, then it is asked again."""
        self._reseed()
        self._open = []
        while len(self._open) < n:
            found = self._client.get_next_trials(max_trials=n - len(self._open))
            if not found:
                raise RuntimeError("Ax gave no trial")
            self._open += [(from_indices(self._task, p), i) for i, p in found.items()]
        return [values for values, _ in self._open]

    def _reseed(self) -> None:
        """A function of seed and trials told, so that a resumed run goes on with the same numbers."""
        seed = step_seed(self._seed, self._told)
        torch.manual_seed(seed)
        np.random.seed(seed)  # noqa: NPY002

    def tell(self, trials: Sequence[Told]) -> None:
        """Completes what was asked for; trials of an earlier process are attached."""
        open_ = list(self._open)
        for told in trials:
            at = next((i for i, (values, _) in enumerate(open_) if values == told.values), None)
            if at is None:
                number = self._client.attach_trial(to_indices(self._task, told.values))
            else:
                number = open_.pop(at)[1]
            if told.loss == told.loss:
                data = {"loss": told.loss} | ({} if told.cost is None else {"cost": told.cost})
                self._client.complete_trial(number, raw_data=data)
                self._finished += 1
            else:
                self._client.mark_trial_failed(number)
        for _, number in open_:  # asked for again at a resume, but something else was told
            self._client.mark_trial_abandoned(number)
        self._told += len(trials)
        self._open = []


def ax(task: Task, seed: int, trials: int, batch: int) -> AxPeer:
    """The client's defaults but for the initial trials."""
    return AxPeer(task, seed)


def ax_front(task: Task, seed: int, trials: int, batch: int) -> AxPeer:
    """The same with two objectives: qLogNEHVI."""
    return AxPeer(task, seed, ("loss", "cost"))
