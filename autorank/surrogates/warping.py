"""Targets of the Gaussian processes: transforms of the metrics, and the way back."""

import jax
import jax.numpy as jnp
from jax.scipy.special import ndtri

from autorank.base.typing import Array, Bool, Float

WARPS = ("half_rank", "rank", "none")


def warp(kind: str, values: Float[Array, " n"], where: Bool[Array, " n"]) -> Float[Array, " n"]:
    """Increasing transforms of the values, with mean 0 and standard deviation 1 over the used rows and 0 elsewhere.

    Args:
        kind: one of `WARPS`.

            - ``half_rank`` keeps the better half and replaces the worse half by the normal quantiles of its ranks,
              scaled like the better half (Song et al., arXiv 2408.11527): a few very bad trials then do not flatten
              the rest.
            - ``rank`` takes the normal quantiles of all ranks.
            - ``none`` only standardises.
        values: lower is better; ignored where unused.
        where: used rows.

    Examples:
        >>> warp("none", jnp.array([1.0, 3.0, 9.0]), jnp.array([True, True, False])).tolist()
        [-1.0, 1.0, 0.0]
    """
    count = jnp.maximum(jnp.sum(where), 1)
    values = jnp.where(where, values, 0.0)
    if kind != "none":
        below = (values[None, :] < values[:, None]) & where[None, :]
        same = (values[None, :] == values[:, None]) & where[None, :]
        rank = jnp.sum(below, axis=1) + 0.5 * jnp.sum(same, axis=1)  # ties share their mean rank
        quantile = ndtri(jnp.clip(rank / count, 1e-3, 1 - 1e-3))
        if kind == "rank":
            values = quantile
        else:
            median = jnp.nanmedian(jnp.where(where, values, jnp.nan))
            good = where & (values <= median)
            num_good = jnp.maximum(jnp.sum(good), 1)
            off = jnp.where(good, values - median, 0.0)
            spread = jnp.sqrt(jnp.sum(off**2) / num_good)
            # The better half of a standard normal has a mean squared deviation of 1 from the median.
            values = jnp.where(good, values, median + spread * jnp.maximum(quantile, 0.0))
    mean = jnp.sum(jnp.where(where, values, 0.0)) / count
    variance = jnp.sum(jnp.where(where, (values - mean) ** 2, 0.0)) / count
    scale = jnp.where(variance > 1e-20, jax.lax.rsqrt(jnp.maximum(variance, 1e-20)), 0.0)
    return jnp.where(where, (values - mean) * scale, 0.0)


def unwarp(
    warped: Float[Array, " m"],
    targets: Float[Array, " n"],
    values: Float[Array, " n"],
    where: Bool[Array, " n"],
) -> Float[Array, " m"]:
    """Maps warped numbers back to the units of the values, by interpolation between the used rows.

    Args:
        warped: the numbers to map.
        targets: `warp` of the values.
        values: what was warped.
        where: used rows.

    Below the best value the map goes on along the line through the best quarter of the values.
    """
    order = jnp.argsort(jnp.where(where, values, jnp.inf))
    count = jnp.maximum(jnp.sum(where), 1)
    place = jnp.minimum(jnp.arange(len(values)), count - 1)
    xs, ys = targets[order][place], values[order][place]
    inside = jnp.interp(warped, xs, ys)
    far = jnp.maximum(count // 4, 1)
    slope = (ys[far] - ys[0]) / jnp.maximum(xs[far] - xs[0], 1e-6)
    return jnp.where(warped < xs[0], ys[0] + slope * (warped - xs[0]), inside)


def unstandardise(
    standardised: Float[Array, " m"], values: Float[Array, " n"], where: Bool[Array, " n"]
) -> Float[Array, " m"]:
    """Maps numbers standardised by ``warp("none", ...)`` back to the units of the values."""
    count = jnp.maximum(jnp.sum(where), 1)
    mean = jnp.sum(jnp.where(where, values, 0.0)) / count
    spread = jnp.sqrt(jnp.sum(jnp.where(where, (values - mean) ** 2, 0.0)) / count)
    return mean + spread * standardised
