"""Regularised evolution (arXiv 1802.01548): the oldest die, tournaments choose the parents."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from autorank.base.typing import Array, Int, Key
from autorank.searchers.base import History, Proposal, Searcher, append, empty, proposer
from autorank.space.space import Space


class State(NamedTuple):
    """The population is the newest part of the history."""

    history: History


def evolution(
    space: Space,
    *,
    batch_size: int,
    capacity: int,
    population: int = 20,
    tournament: int = 5,
    mutation_rate: float = 0.1,
) -> Searcher:
    """Children of tournament winners among the newest ``population`` trials.

    Random until there are as many. A failed trial loses every tournament against one that finished.
    """
    for name, value in (("population", population), ("tournament", tournament)):
        if value < 1:
            raise ValueError(f"{name}={value} must be 1 or more")
    propose = proposer(space, batch_size=batch_size, capacity=capacity)

    def init(key: Key) -> State:
        return State(empty(space, capacity))

    def ask(key: Key, state: State) -> Proposal:
        history = state.history
        parent_key, mutate_key, random_key, propose_key = jax.random.split(key, 4)
        num_children = 4 * batch_size  # some are known already
        parents = history.configs[
            _winners(parent_key, history, num_children, population, tournament)
        ]
        children = space.mutate(mutate_key, parents, mutation_rate)
        ready = history.count >= population
        candidates = jnp.where(ready, children, space.sample(random_key, num_children))
        configs, repeat, _ = propose(propose_key, history, candidates)
        return Proposal(configs, jnp.full((batch_size, 2), jnp.nan), {"repeat": repeat})

    def tell(state: State, configs, metrics) -> State:
        return State(append(state.history, configs, metrics))

    return Searcher(init, ask, tell)


def _winners(
    key: Key, history: History, num_winners: int, population: int, tournament: int
) -> Int[Array, " n"]:
    """Rows of the best of ``tournament`` trials drawn, with replacement, from the newest."""
    age = jax.random.randint(key, (num_winners, tournament), 0, population)
    rows = jnp.maximum(history.count - 1 - age, 0)
    quality = history.metrics[rows, 0]
    best = jnp.argmin(jnp.where(jnp.isnan(quality), jnp.inf, quality), axis=1)
    return rows[jnp.arange(num_winners), best]
