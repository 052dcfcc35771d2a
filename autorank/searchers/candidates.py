"""Candidates that an acquisition function is first evaluated on: designs, mutants and crossings."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from autorank.base.records import later
from autorank.base.typing import Array, Int, Key
from autorank.searchers.base import History, best_first
from autorank.searchers.region import Region
from autorank.space.space import Space


@dataclass(frozen=True)
class CandidateSettings:
    """How many candidates there are, and how far they lie from the best trials."""

    pool: int = later(384)  # candidates of each kind: random, mutants, crossings
    num_parents: int = later(8)  # best trials that the mutants and crossings descend from
    mutation_rate: float = 0.1  # probability that a decision of a mutant changes
    near_share: float = later(0.75)  # share of a mutant's changes of numbers that are small
    # Standard deviation of a small change, as a share of the number's range.
    near_step: float = later(0.1)


def candidates(
    key: Key, region: Region, history: History, settings: CandidateSettings
) -> Int[Array, "m k"]:
    """Random configurations, mutants of the best trials and crossings of them; ``settings.pool`` of each.

    The random ones fit into the region; others may not. Of a region that is a list they are the whole list.
    """
    if region.listed is not None:
        return region.listed
    space = region.space
    sample_key, vary_key, cross_key, pick_key = jax.random.split(key, 4)
    n = settings.pool
    order, num_finished = best_first(history)
    among = jnp.clip(num_finished, 1, settings.num_parents)
    parents = history.configs[order[jnp.arange(n) % among]]
    picks = jax.random.randint(pick_key, (2, n), 0, 2 * among)
    left, right = history.configs[order[jnp.minimum(picks, jnp.maximum(num_finished - 1, 0))]]
    mutants = vary(vary_key, space, parents, settings)
    return jnp.concatenate(
        [region.sample(sample_key, n), mutants, cross(cross_key, space, left, right)]
    )


def latin_hypercube(key: Key, space: Space, n: int) -> Int[Array, "n k"]:
    """``n`` canonical configurations; the choices of each decision alone are spread evenly.

    Examples:
        >>> from autorank.space.space import Decision
        >>> space = Space((Decision("width", (8, 16, 32)),), (0,))
        >>> sorted(latin_hypercube(jax.random.key(0), space, 3).tolist())
        [[0], [1], [2]]
    """
    order_key, shift_key = jax.random.split(key)
    k = space.num_decisions
    order = jnp.argsort(jax.random.uniform(order_key, (n, k)), axis=0)
    unit = (order + jax.random.uniform(shift_key, (n, k))) / n
    sizes = jnp.asarray(space.num_choices, jnp.float32)[None, :]
    return space.canonical(jnp.minimum(unit * sizes, sizes - 1).astype(jnp.int32))


def vary(
    key: Key, space: Space, parents: Int[Array, "n k"], settings: CandidateSettings
) -> Int[Array, "n k"]:
    """Canonical mutants, one of each parent; at least one decision changes.

    A changed number moves by a normal step with probability ``settings.near_share``, and else anywhere.
    """
    mutate_key, step_key, coin_key = jax.random.split(key, 3)
    mutants = space.mutate(mutate_key, parents, settings.mutation_rate)
    sizes = jnp.asarray(space.num_choices)[None, :]
    ordered = jnp.asarray([d.kind == "number" for d in space.decisions])[None, :]
    normal = jax.random.normal(step_key, parents.shape)
    step = jnp.sign(normal) * jnp.ceil(jnp.abs(normal) * settings.near_step * sizes)
    near = jnp.clip(parents + step.astype(jnp.int32), 0, sizes - 1)
    small = jax.random.uniform(coin_key, parents.shape) < settings.near_share
    both = space.active(mutants) & space.active(parents)
    return space.canonical(jnp.where((mutants != parents) & ordered & small & both, near, mutants))


def cross(
    key: Key, space: Space, left: Int[Array, "n k"], right: Int[Array, "n k"]
) -> Int[Array, "n k"]:
    """Children that take each decision from either parent with equal probability; canonical."""
    return space.canonical(jnp.where(jax.random.bernoulli(key, 0.5, left.shape), left, right))
