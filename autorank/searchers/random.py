"""Random search: the yardstick."""

from dataclasses import dataclass
from typing import NamedTuple

import jax.numpy as jnp

from autorank.base.typing import Key
from autorank.searchers.base import (
    SEARCHERS,
    Context,
    History,
    Proposal,
    Searcher,
    SearcherConfig,
    append,
    empty,
    proposer,
)
from autorank.space.space import Space


@dataclass(frozen=True)
class RandomConfig(SearcherConfig):
    """Nothing but the size of a batch."""

    name: str = "random"


class State(NamedTuple):
    """Nothing but what was told."""

    history: History


@SEARCHERS.register(
    "random", RandomConfig, grid_size=64, has_roles=False, reads_predictor=False, weighs_cost=False
)
def make_random(space: Space, settings: RandomConfig, context: Context) -> Searcher:
    """Random search: independent samples of the space, none twice."""
    batch_size, capacity = settings.batch_size, context.capacity
    propose = proposer(space, batch_size=batch_size, capacity=capacity)
    none = jnp.zeros((0, space.num_decisions), jnp.int32)

    def init(key: Key) -> State:
        return State(empty(space, capacity))

    def ask(key: Key, state: State) -> Proposal:
        configs, repeat, _ = propose(key, state.history, none)
        return Proposal(configs, jnp.full((batch_size, 2), jnp.nan), {"repeat": repeat})

    def tell(state: State, configs, metrics) -> State:
        return State(append(state.history, configs, metrics))

    return Searcher(init, ask, tell)
