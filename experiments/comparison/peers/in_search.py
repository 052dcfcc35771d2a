"""Other packages' searchers as searchers of ours, so that a peer proposes the trials of a real search.

``python -m experiments.comparison.peer_search searcher=optuna-gp`` is `experiments.search` with it.
A peer lives in a process of its own environment (`process`) and keeps its own state there. A search that goes on after
it was stopped makes it anew and tells it all trials: its next proposals are then not those of a search that never
stopped, unlike those of our searchers.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import io_callback

from autorank.searchers.base import (
    SEARCHERS,
    Context,
    Proposal,
    Searcher,
    SearcherConfig,
    ToldState,
    empty,
    tell_history,
)
from autorank.space.space import Space
from experiments.comparison.peers.base import Task, Told, active_only, of_space
from experiments.comparison.peers.catalogue import ENVIRONMENTS, PEERS, interpreter
from experiments.comparison.peers.process import PeerProcess

Start = Callable[[Task, int, int, int], Any]  # a peer from task, seed, trials and batch


@dataclass(frozen=True)
class OptunaGpConfig(SearcherConfig):
    """Optuna's GPSampler with its defaults has no settings of ours."""

    name: str = "optuna-gp"


class PeerInSearch:
    """Tells a peer what is new and asks it for a batch; the space's choices are all that it may propose.

    Args:
        space: its decisions, whose numbers are ordered choices.
        start: makes the peer.
        batch_size: proposals of an ask.
        capacity: most trials.
    """

    def __init__(self, space: Space, start: Start, batch_size: int, capacity: int):
        self._task = of_space(space)
        self._space, self._start = space, start
        self._batch_size, self._capacity = batch_size, capacity
        self._peer: Any = None
        self._told = 0

    def __call__(self, seed: Any, configs: Any, metrics: Any, count: Any) -> np.ndarray:
        """The next configurations ``[n, k]`` after ``count`` trials of a history; ``seed`` is a new peer's."""
        told, configs, metrics = int(count), np.asarray(configs), np.asarray(metrics)
        if self._peer is None or told < self._told:
            self._peer = self._start(self._task, int(seed), self._capacity, self._batch_size)
            self._told = 0
        fresh = range(self._told, told)
        self._peer.tell([self._as_told(configs[i], float(metrics[i, 0])) for i in fresh])
        self._told = told
        rows = self._peer.ask(self._batch_size)
        return np.array([self._space.encode(row) for row in rows], np.int32)

    def _as_told(self, config: np.ndarray, loss: float) -> Told:
        values = active_only(self._task, self._space.decode(config, inactive=True))
        return Told(values, loss if math.isfinite(loss) else math.nan)


def register_peers() -> None:
    """Makes ``searcher=optuna-gp`` known to this process."""
    traits = dict.fromkeys(
        ("has_roles", "reads_predictor", "weighs_cost", "finds_front", "warms", "thaws"), False
    )
    SEARCHERS.register("optuna-gp", OptunaGpConfig, grid_size=64, **traits)(make_optuna_gp)


def make_optuna_gp(space: Space, settings: OptunaGpConfig, context: Context) -> Searcher:
    """Optuna's GPSampler with its defaults, told the labels alone.

    Raises:
        ValueError: its environment is not there.
    """
    return peer_searcher(space, started(settings.name), settings.batch_size, context.capacity)


def started(name: str) -> Start:
    """How a peer of the catalogue is made.

    Raises:
        ValueError: its environment is not there.
    """
    module, factory, environment = PEERS[name]
    python = interpreter(environment)
    if python is None:
        raise ValueError(
            f"searcher={name} needs an environment with {environment}: "
            f"sh experiments/comparison/peers/make_env.sh, or AUTORANK_PEERS_FOLDER=FOLDER where it is"
        )
    packages = ENVIRONMENTS[environment].packages
    return lambda *arguments: PeerProcess(python, module, factory, *arguments, packages=packages)


def peer_searcher(space: Space, start: Start, batch_size: int, capacity: int) -> Searcher:
    """A peer as a searcher; its state here is the history alone."""
    peer = PeerInSearch(space, start, batch_size, capacity)
    shape = jax.ShapeDtypeStruct((batch_size, space.num_decisions), jnp.int32)

    def init(key: Any) -> ToldState:
        return ToldState(empty(space, capacity))

    def ask(key: Any, state: Any) -> Proposal:
        seed = jax.random.randint(key, (), 0, np.iinfo(np.int32).max)
        history = state.history
        found = io_callback(peer, shape, seed, *history, ordered=True)
        known = (found[:, None, :] == history.configs[None, :, :]).all(axis=-1)
        used = jnp.arange(len(history.configs)) < history.count
        repeat = (known & used[None, :]).any(axis=1)
        return Proposal(
            space.canonical(found), jnp.full((batch_size, 2), jnp.nan), {"repeat": repeat}
        )

    return Searcher(init, ask, tell_history)
