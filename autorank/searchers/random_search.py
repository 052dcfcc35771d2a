"""Random search: the yardstick."""

from typing import NamedTuple

import jax.numpy as jnp

from autorank.base.typing import Key
from autorank.searchers.base import History, Proposal, Searcher, append, empty, proposer
from autorank.space.space import Space


class State(NamedTuple):
    """Nothing but what was told."""

    history: History


def random_search(space: Space, *, batch_size: int, capacity: int) -> Searcher:
    """Independent samples of the space, none twice."""
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
