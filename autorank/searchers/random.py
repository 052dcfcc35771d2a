"""Random search: the baseline that every other searcher must beat."""

from dataclasses import dataclass

import jax.numpy as jnp

from autorank.base.typing import Key
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
from autorank.searchers.novelty import proposer
from autorank.space.space import Space


@dataclass(frozen=True)
class RandomConfig(SearcherConfig):
    """Random search has no settings of its own."""

    name: str = "random"


@SEARCHERS.register(
    "random",
    RandomConfig,
    grid_size=64,
    has_roles=False,
    reads_predictor=False,
    weighs_cost=False,
    finds_front=True,  # what is drawn at random serves every goal
    warms=False,
    thaws=False,
)
def make_random(space: Space, settings: RandomConfig, context: Context) -> Searcher:
    """Random search: independent random configurations, none of them twice.

    Examples:
        >>> import jax
        >>> from autorank.space.space import Decision
        >>> space = Space((Decision("width", (8, 16, 32)),), (0,))
        >>> searcher = make_random(space, RandomConfig(batch_size=3), Context(capacity=8))
        >>> proposal = searcher.ask(jax.random.key(1), searcher.init(jax.random.key(0)))
        >>> sorted(proposal.configs.tolist())
        [[0], [1], [2]]
    """
    batch_size, capacity = settings.batch_size, context.capacity
    propose = proposer(space, batch_size=batch_size, capacity=capacity)
    none = jnp.zeros((0, space.num_decisions), jnp.int32)

    def init(key: Key) -> ToldState:
        return ToldState(empty(space, capacity))

    def ask(key: Key, state: ToldState) -> Proposal:
        configs, repeat, _ = propose(key, state.history, none)
        return Proposal(configs, jnp.full((batch_size, 2), jnp.nan), {"repeat": repeat})

    return Searcher(init, ask, tell_history)
