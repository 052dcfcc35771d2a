"""Peers of two objectives: told of the cost with the result of a trial, as they cannot know it before."""

from collections.abc import Sequence

import numpy as np

from autorank.benchmarks.base import Values
from experiments.comparison.peers.base import Task, Told
from experiments.comparison.peers.catalogue import (
    ENVIRONMENTS,
    FRONT_PEERS,
    how_to_make,
    interpreter,
)
from experiments.comparison.peers.process import PeerProcess


class FrontPeer:
    """Minimises quality and cost, one trial at a time, in a process of its own.

    Raises:
        ValueError: its environment is not there.
    """

    def __init__(self, name: str, task: Task, seed: int, trials: int) -> None:
        module, factory, environment = FRONT_PEERS[name]
        python = interpreter(environment)
        if python is None:
            raise ValueError(f"{name} needs an environment: {how_to_make(environment)}")
        packages = ENVIRONMENTS[environment].packages
        self._peer = PeerProcess(python, module, factory, task, seed, trials, 1, packages=packages)
        self._asked: Values = {}

    @property
    def cpu(self) -> float:
        """CPU seconds of its process, starting it included."""
        return self._peer.cpu

    @property
    def versions(self) -> dict[str, str]:
        """Of its packages."""
        return self._peer.versions

    def ask_one(self) -> Values:
        """The next configuration."""
        (self._asked,) = self._peer.ask(1)
        return self._asked

    def tell_both(self, metrics: Sequence[float] | np.ndarray) -> None:
        """Quality and log cost ratio of what was asked for last."""
        quality, cost = map(float, metrics)
        self._peer.tell([Told(dict(self._asked), quality, cost)])

    def close(self) -> None:
        """Ends its process."""
        self._peer.close()
