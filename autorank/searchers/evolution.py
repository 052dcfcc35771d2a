"""Regularised evolution (arXiv 1802.01548): the oldest trials are discarded, tournaments choose the parents."""

from dataclasses import dataclass

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
    ToldState,
    empty,
    tell_history,
    tried_first,
)
from autorank.searchers.novelty import proposer
from autorank.space.space import Space


@dataclass(frozen=True)
class EvolutionConfig(SearcherConfig):
    """Regularised evolution."""

    name: str = "evolution"
    population: int = 20  # the newest trials, from which parents are drawn
    tournament: int = 5  # trials drawn for each parent; the best of them becomes it
    mutation_rate: float = 0.1  # probability that a decision of a child changes

    def __post_init__(self):
        super().__post_init__()
        require_range("searcher.population", self.population, 1, 1_000_000)
        require_range("searcher.tournament", self.tournament, 1, 1_000_000)


@SEARCHERS.register(
    "evolution",
    EvolutionConfig,
    grid_size=64,
    has_roles=False,
    reads_predictor=False,
    weighs_cost=False,
    finds_front=False,
    warms=True,
    thaws=False,
)
def make_evolution(space: Space, settings: EvolutionConfig, context: Context) -> Searcher:
    """Regularised evolution: mutants of tournament winners among the newest trials (Real et al., arXiv 1802.01548).

    Proposals are random until ``population`` trials are told, after the best ones of earlier searches, if there are
    any. A failed trial loses every tournament against a finished one.

    Examples:
        >>> from autorank.space.space import Decision
        >>> space = Space((Decision("width", (8, 16, 32)),), (0,))
        >>> searcher = make_evolution(space, EvolutionConfig(batch_size=3), Context(capacity=8))
        >>> proposal = searcher.ask(jax.random.key(1), searcher.init(jax.random.key(0)))
        >>> sorted(proposal.configs.tolist())
        [[0], [1], [2]]
    """
    batch_size, capacity = settings.batch_size, context.capacity
    population, tournament = settings.population, settings.tournament
    propose = proposer(space, batch_size=batch_size, capacity=capacity)

    def init(key: Key) -> ToldState:
        return ToldState(empty(space, capacity), tried_first(context, space))

    def ask(key: Key, state: ToldState) -> Proposal:
        history = state.history
        parent_key, mutate_key, random_key, propose_key = jax.random.split(key, 4)
        num_children = 4 * batch_size  # more than a batch, as some may have been told
        parents = history.configs[
            _winners(parent_key, history, num_children, population, tournament)
        ]
        children = space.mutate(mutate_key, parents, settings.mutation_rate)
        ready = history.count >= population
        candidates = jnp.where(ready, children, space.sample(random_key, num_children))
        candidates = jnp.concatenate([state.first, candidates])
        configs, repeat, _ = propose(propose_key, history, candidates)
        return Proposal(configs, jnp.full((batch_size, 2), jnp.nan), {"repeat": repeat})

    return Searcher(init, ask, tell_history)


def _winners(
    key: Key, history: History, num_winners: int, population: int, tournament: int
) -> Int[Array, " n"]:
    """Rows of the winners of tournaments: the best of ``tournament`` of the newest trials, drawn with replacement."""
    age = jax.random.randint(key, (num_winners, tournament), 0, population)
    rows = jnp.maximum(history.count - 1 - age, 0)
    quality = history.metrics[rows, 0]
    best = jnp.argmin(jnp.where(jnp.isnan(quality), jnp.inf, quality), axis=1)
    return rows[jnp.arange(num_winners), best]
