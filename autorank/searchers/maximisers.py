"""What stands in for REINFORCE where a predictor is to be maximised: random candidates, or climbing from the best ones.

The question that these answer is whether the paper's policy is needed at all: the predictor, its reward and all else of
`paper` stay as they are.
"""

from functools import partial
from typing import NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp

from autorank.base.typing import Array, Float, Int, Key
from autorank.searchers.base import History, empty, known
from autorank.searchers.climbing import ClimbSettings, Value, climb_each, neighbourhood
from autorank.searchers.novelty import fresh
from autorank.searchers.policy_search import ScoreConfigs
from autorank.space.space import Space

MAXIMISERS = ("policy", "random", "climb")
CHUNK = 8192  # candidates that are scored at once
CLIMBING = ClimbSettings(num_climbers=16, climb_steps=64)


class Found(NamedTuple):
    """Configurations of high predicted reward for each alpha, and what is to be told of the way to them."""

    configs: Array  # int [a, m, k]
    rewards: Array  # float32 [a, m]
    info: dict[str, Array]


@runtime_checkable
class Rewards(Protocol):
    """Turns predicted metrics into the reward under each weight of the cost."""

    def __call__(self, scores: Float[Array, "n 2"], /) -> Float[Array, "a n"]:
        """The rewards; higher is better."""
        ...


@runtime_checkable
class ValueAt(Protocol):
    """The predicted reward under one weight of the cost."""

    def __call__(self, alpha: Array, configs: Int[Array, "n k"], /) -> Float[Array, " n"]:
        """Of each configuration; higher is better."""
        ...


def by_chance(
    key: Key, space: Space, score: ScoreConfigs, rewards: Rewards, num_candidates: int
) -> Found:
    """Random candidates, the same ones for all alphas."""
    configs, scores = scored_candidates(key, space, score, num_candidates)
    found = rewards(scores)
    return Found(jnp.broadcast_to(configs, (len(found), *configs.shape)), found, {})


def by_climbing(
    key: Key,
    space: Space,
    history: History,
    value: ValueAt,
    alphas: Float[Array, " a"],
    num_candidates: int,
) -> Found:
    """Where climbers arrive that start at the best random candidates and told trials."""
    drawn = space.sample(jax.random.fold_in(key, 0), num_candidates)
    told = jnp.where(known(history)[:, None], history.configs, drawn[:1])
    pool = jnp.concatenate([drawn, told])

    def climb(alpha: Array) -> tuple[Array, Array]:
        configs = climbed(space, partial(value, alpha), pool)
        return configs, value(alpha, configs)

    configs, found = jax.lax.map(climb, alphas)
    return Found(configs, found, {})


def scored_candidates(
    key: Key, space: Space, score: ScoreConfigs, n: int
) -> tuple[Int[Array, "n k"], Float[Array, "n 2"]]:
    """``n`` random configurations and their scores, in chunks, so that a million takes little memory.

    Examples:
        >>> from autorank.space.space import Decision
        >>> space = Space((Decision("width", (8, 16, 32)),), (0,))
        >>> score = lambda configs: jnp.tile(configs, (1, 2)).astype(jnp.float32)
        >>> configs, scores = scored_candidates(jax.random.key(0), space, score, 5)
        >>> configs.shape, bool((scores[:, 0] == configs[:, 0]).all())
        ((5, 1), True)
    """
    size = min(n, CHUNK)

    def chunk(index: Array) -> tuple[Array, Array]:
        configs = space.sample(jax.random.fold_in(key, index), size)
        return configs, score(configs)

    configs, scores = jax.lax.map(chunk, jnp.arange(-(-n // size)))
    return configs.reshape(-1, configs.shape[-1])[:n], scores.reshape(-1, 2)[:n]


def climbed(space: Space, value: Value, pool: Int[Array, "m k"]) -> Int[Array, "p k"]:
    """Where climbers from the best of a pool arrive, with the neighbours of those places.

    A batch takes several configurations, and those behind the best are mostly its neighbours. Climbers start at
    different places, also where the pool has its best many times.
    """
    best_first = pool[jnp.argsort(-value(pool))]
    starts = best_first[fresh(empty(space, 0), best_first, CLIMBING.num_climbers).position]
    neighbours = neighbourhood(space)
    ends, _ = climb_each(value, starts, neighbours, CLIMBING)
    return jnp.concatenate([ends, neighbours(ends).reshape(-1, pool.shape[-1])])
