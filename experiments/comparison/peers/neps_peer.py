"""NePS: Bayesian optimization and PriorBand with their defaults, through its ask-and-tell wrapper."""

# pyright: reportMissingImports=false
import logging
import random
import warnings
from collections.abc import Sequence
from typing import Any

import neps
import numpy as np
import torch
from neps.optimizers.algorithms import bayesian_optimization, priorband
from neps.space import HPOCategorical, HPOFloat, HPOInteger, SearchSpace

from experiments.comparison.peers.base import (
    UNITS,
    Task,
    Told,
    from_indices,
    step_seed,
    to_indices,
)


class NepsPeer:
    """No conditions: inactive decisions hold the baseline; ordered choices are an integer index.

    A failed trial is told as an exception, its documented way (its Gaussian process then takes the median for it). It
    takes no seed: the global generators are seeded.
    """

    asks_again = False

    def __init__(self, task: Task, seed: int) -> None:
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        self._task, self._seed, self._told = task, seed, 0
        space = SearchSpace({d.name: self._parameter(d) for d in task.searched()})
        self._peer = neps.AskAndTell(bayesian_optimization(space))
        self._open: list[tuple[dict[str, Any], Any]] = []

    def _parameter(self, d: Any) -> Any:
        native = self._task.intervals.get(d.name)
        if native is not None and native.whole:
            return HPOInteger(int(native.low), int(native.high), log=d.log)
        if native is not None:
            return HPOFloat(native.low, native.high, log=d.log)
        if d.kind == "number":
            return HPOInteger(0, len(d.choices) - 1)
        return HPOCategorical(list(range(len(d.choices))))

    def ask(self, n: int) -> list[dict[str, Any]]:
        """``n`` at once; of an initial design it gives all that is left, of which only ``n`` are kept."""
        self._forget_open()
        reseed(step_seed(self._seed, self._told))
        found = [self._peer.ask()] if n == 1 else self._peer.ask(n=n)
        for trial in found[n:]:
            del self._peer.trials[trial.id]
        self._open = [(from_indices(self._task, t.config), t) for t in found[:n]]
        return [values for values, _ in self._open]

    def _forget_open(self) -> None:
        """Trials that were asked for but not told: in a mixed space its model refuses pending ones."""
        for _, trial in self._open:
            del self._peer.trials[trial.id]
        self._open = []

    def tell(self, trials: Sequence[Told]) -> None:
        """Results, with inactive decisions as the baseline has them."""
        self._forget_open()
        for told in trials:
            config = to_indices(self._task, told.values)
            result = told.loss if told.loss == told.loss else RuntimeError("failed")
            self._told += 1
            self._peer.tell_custom(config_id=str(self._told), config=config, result=result)


class PriorBandPeer:
    """PriorBand around the baseline, which is the prior of every decision."""

    def __init__(self, task: Task, seed: int) -> None:
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        self._task, self._seed, self._told = task, seed, 0
        baseline = to_indices(task, task.baseline)
        own: dict[str, Any] = {
            d.name: HPOInteger(0, len(d.choices) - 1, prior=baseline[d.name])
            if d.kind == "number"
            else HPOCategorical(list(range(len(d.choices))), prior=baseline[d.name])
            for d in task.searched()
        }
        own["units"] = HPOInteger(1, UNITS, is_fidelity=True)
        self._peer = neps.AskAndTell(priorband(SearchSpace(own)))
        self._open: Any = None

    def ask_run(self) -> tuple[dict[str, Any], int]:
        """See `base.StoppingPeer`."""
        reseed(step_seed(self._seed, self._told))
        self._open = self._peer.ask()
        return from_indices(self._task, self._open.config), int(self._open.config["units"])

    def tell(self, trials: Sequence[Told]) -> None:
        """The loss of what was asked for last."""
        (told,) = trials
        result = told.loss if told.loss == told.loss else RuntimeError("failed")
        self._peer.tell(self._open, result)
        self._told += 1


def reseed(seed: int) -> None:
    """NePS takes no seed: its numbers come from the global generators."""
    torch.manual_seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    random.seed(seed)


def bayesian(task: Task, seed: int, trials: int, batch: int) -> NepsPeer:
    """`bayesian_optimization` with its defaults."""
    return NepsPeer(task, seed)


def prior_band(task: Task, seed: int, trials: int, batch: int) -> PriorBandPeer:
    """`priorband` with its defaults; it takes no intervals."""
    return PriorBandPeer(task, seed)
