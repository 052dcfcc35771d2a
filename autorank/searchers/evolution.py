"""Regularised evolution (arXiv 1802.01548): the oldest die, tournaments choose the parents."""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp

from autorank.base.records import require_range
from autorank.base.typing import Array, Int, Key
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
class EvolutionConfig(SearcherConfig):
    """Regularised evolution."""

    name: str = "evolution"
    population: int = 20  # the newest trials, among which parents are drawn
    tournament: int = 5  # trials drawn for a parent; the best of them is it
    mutation_rate: float = 0.1  # share of the decisions that a child changes

    def __post_init__(self):
        super().__post_init__()
        require_range("searcher.population", self.population, 1, 1_000_000)
        require_range("searcher.tournament", self.tournament, 1, 1_000_000)


class State(NamedTuple):
    """The population is the newest part of the history."""

    history: History


@SEARCHERS.register(
    "evolution",
    EvolutionConfig,
    grid_size=64,
    has_roles=False,
    reads_predictor=False,
    weighs_cost=False,
)
def make_evolution(space: Space, settings: EvolutionConfig, context: Context) -> Searcher:
    """Regularised evolution: children of tournament winners among the newest trials (arXiv 1802.01548).

    Random until there are as many. A failed trial loses every tournament against one that finished.
    """
    batch_size, capacity = settings.batch_size, context.capacity
    population, tournament = settings.population, settings.tournament
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
        children = space.mutate(mutate_key, parents, settings.mutation_rate)
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
