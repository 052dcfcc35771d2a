"""Parts of Bayesian optimisation over a `Space`: warped targets, expected improvement, candidates, neighbours."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import log_ndtr, ndtri

from autorank.base.typing import Array, Bool, Float, Int, Key
from autorank.space.space import Space

WARPS = ("half_rank", "rank", "none")
MANY = 12  # choices from which a number's neighbours are steps instead of all values
STEPS = (-32, -16, -8, -4, -2, -1, 1, 2, 4, 8, 16, 32)


def warp(kind: str, values: Float[Array, " n"], where: Bool[Array, " n"]) -> Float[Array, " n"]:
    """Targets with mean 0 and standard deviation 1 over the used rows, 0 elsewhere; the order is kept.

    - ``half_rank``: the better half as it is, the worse half replaced by the normal quantiles of its ranks, scaled
        like the better half (Song et al., arXiv 2408.11527): a few awful trials then do not flatten the rest
    - ``rank``: normal quantiles of all ranks
    - ``none``: as they are
    """
    count = jnp.maximum(jnp.sum(where), 1)
    values = jnp.where(where, values, 0.0)
    if kind != "none":
        below = (values[None, :] < values[:, None]) & where[None, :]
        same = (values[None, :] == values[:, None]) & where[None, :]
        rank = jnp.sum(below, axis=1) + 0.5 * jnp.sum(same, axis=1)  # midpoints of ties
        quantile = ndtri(jnp.clip(rank / count, 1e-3, 1 - 1e-3))
        if kind == "rank":
            values = quantile
        else:
            median = jnp.nanmedian(jnp.where(where, values, jnp.nan))
            good = where & (values <= median)
            num_good = jnp.maximum(jnp.sum(good), 1)
            off = jnp.where(good, values - median, 0.0)
            spread = jnp.sqrt(jnp.sum(off**2) / num_good)
            # The better half of a normal deviates from its median by 1 in the mean square.
            values = jnp.where(good, values, median + spread * jnp.maximum(quantile, 0.0))
    mean = jnp.sum(jnp.where(where, values, 0.0)) / count
    variance = jnp.sum(jnp.where(where, (values - mean) ** 2, 0.0)) / count
    scale = jnp.where(variance > 1e-20, jax.lax.rsqrt(jnp.maximum(variance, 1e-20)), 0.0)
    return jnp.where(where, (values - mean) * scale, 0.0)


def log_expected_improvement(
    mean: Array, variance: Array, incumbent: Array | float
) -> Float[Array, "..."]:
    """Logarithm of E[max(incumbent - f, 0)], ``f ~ N(mean, variance)``, without underflow (arXiv 2310.20708)."""
    sd = jnp.sqrt(variance)
    z = (incumbent - mean) / sd
    near = jnp.maximum(z, -5.0)
    density = jnp.exp(-0.5 * near * near) / math.sqrt(2 * math.pi)
    direct = jnp.log(jnp.maximum(density + near * jnp.exp(log_ndtr(near)), 1e-30))
    far = jnp.minimum(z, -5.0)
    square = far * far
    series = 1 - 3 / square + 15 / square**2 - 105 / square**3 + 945 / square**4
    tail = -0.5 * square - 0.5 * math.log(2 * math.pi) - jnp.log(square) + jnp.log(series)
    return jnp.log(sd) + jnp.where(z > -5.0, direct, tail)


def latin_hypercube(key: Key, space: Space, n: int) -> Int[Array, "n k"]:
    """``n`` configurations of which each decision alone is spread evenly over its choices; canonical."""
    order_key, shift_key = jax.random.split(key)
    k = space.num_decisions
    order = jnp.argsort(jax.random.uniform(order_key, (n, k)), axis=0)
    unit = (order + jax.random.uniform(shift_key, (n, k))) / n
    sizes = jnp.asarray(space.num_choices, jnp.float32)[None, :]
    return space.canonical(jnp.minimum(unit * sizes, sizes - 1).astype(jnp.int32))


def vary(
    key: Key,
    space: Space,
    parents: Int[Array, "n k"],
    rate: float,
    *,
    near_share: float = 0.75,
    near_step: float = 0.1,
) -> Int[Array, "n k"]:
    """Mutants in which a changed number mostly (``near_share``) moves a little: normal steps.

    Their standard deviation is ``near_step`` of the number's range.
    """
    mutate_key, step_key, coin_key = jax.random.split(key, 3)
    mutants = space.mutate(mutate_key, parents, rate)
    sizes = jnp.asarray(space.num_choices)[None, :]
    ordered = jnp.asarray([d.kind == "number" for d in space.decisions])[None, :]
    normal = jax.random.normal(step_key, parents.shape)
    step = jnp.sign(normal) * jnp.ceil(jnp.abs(normal) * near_step * sizes)
    near = jnp.clip(parents + step.astype(jnp.int32), 0, sizes - 1)
    small = jax.random.uniform(coin_key, parents.shape) < near_share
    both = space.active(mutants) & space.active(parents)
    return space.canonical(jnp.where((mutants != parents) & ordered & small & both, near, mutants))


def cross(key: Key, space: Space, left: Int[Array, "n k"], right: Int[Array, "n k"]) -> Array:
    """Each decision from either parent; canonical, int32 ``[n, k]``."""
    return space.canonical(jnp.where(jax.random.bernoulli(key, 0.5, left.shape), left, right))


def neighbourhood(space: Space) -> Callable[[Int[Array, "n k"]], Int[Array, "n t k"]]:
    """``neighbours(configs) -> [n, t, k]``: every change of one decision (a long number: steps of powers of two)."""
    where: list[int] = []
    value: list[int] = []
    relative: list[bool] = []
    for i, d in enumerate(space.decisions):
        long = d.kind == "number" and len(d.choices) > MANY
        moves = STEPS if long else range(len(d.choices))
        where += [i] * len(moves)
        value += moves
        relative += [long] * len(moves)
    at = np.array(where, np.int32)
    change = jax.nn.one_hot(jnp.asarray(at), space.num_decisions, dtype=bool)

    def neighbours(configs: Int[Array, "n k"]) -> Int[Array, "n t k"]:
        own = configs[:, at]
        moved = jnp.where(jnp.asarray(relative)[None, :], own, 0) + jnp.asarray(value)[None, :]
        moved = jnp.clip(moved, 0, jnp.asarray(space.num_choices[at] - 1)[None, :])
        found = jnp.where(change[None], moved[:, :, None], configs[:, None, :])
        n, t, k = found.shape
        return space.canonical(found.reshape(n * t, k)).reshape(n, t, k)

    return neighbours
