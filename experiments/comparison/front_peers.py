"""Optuna's samplers of two objectives: told of the cost with the result of a trial, as they cannot know it before."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import optuna  # pyright: ignore[reportMissingImports]

from autorank.benchmarks.base import Values
from experiments.comparison.peers.base import Task
from experiments.comparison.peers.optuna_peer import OptunaPeer

# With their defaults.
SAMPLERS: dict[str, Callable[[int], Any]] = {
    "optuna-nsga2": lambda seed: optuna.samplers.NSGAIISampler(seed=seed),
    "optuna-tpe": lambda seed: optuna.samplers.TPESampler(seed=seed),
    "optuna-gp": lambda seed: optuna.samplers.GPSampler(seed=seed),
}


class FrontPeer(OptunaPeer):
    """A study that minimises quality and cost, one trial at a time."""

    def __init__(self, name: str, task: Task, seed: int) -> None:
        super().__init__(SAMPLERS[name](seed), task)
        self._study = optuna.create_study(
            directions=["minimize", "minimize"], sampler=SAMPLERS[name](seed)
        )

    def ask_one(self) -> Values:
        """The next configuration."""
        return self.ask(1)[0]

    def tell_both(self, metrics: Sequence[float] | np.ndarray) -> None:
        """Quality and log cost ratio of what was asked for last."""
        self._study.tell(self._open[0][0], [float(v) for v in metrics])
