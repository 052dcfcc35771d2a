"""Inverts a lower triangular matrix by blocks: a CPU runs matrix products far faster than triangular solves."""

import jax
import jax.numpy as jnp

from autorank.base.typing import Array, Float

BLOCK = 16  # rows of a block that is inverted by substitution


def inverse_lower(lower: Float[Array, "n n"]) -> Float[Array, "n n"]:
    """Inverts a lower triangular matrix by splitting it in halves, down to blocks of `BLOCK` rows.

    Examples:
        >>> inverse_lower(jnp.array([[2.0, 0.0], [1.0, 4.0]])).tolist()
        [[0.5, 0.0], [-0.125, 0.25]]
    """
    n = len(lower)
    blocks = [lower[i : i + BLOCK, i : i + BLOCK] for i in range(0, n, BLOCK)]
    last = len(blocks[-1])
    pad = BLOCK - last
    blocks[-1] = jnp.pad(blocks[-1], (0, pad)) + jnp.diag(jnp.arange(BLOCK) >= last)
    small = _substitute(jnp.stack(blocks))

    def invert(first: int, count: int) -> Array:
        if count == 1:
            width = min(BLOCK, n - first * BLOCK)
            return small[first, :width, :width]
        half = count // 2
        upper, low = invert(first, half), invert(first + half, count - half)
        a, b = first * BLOCK, (first + half) * BLOCK
        corner = lower[b : min((first + count) * BLOCK, n), a:b]
        left = jnp.concatenate([upper, -(low @ corner) @ upper], axis=0)
        right = jnp.concatenate([jnp.zeros((len(upper), len(low))), low], axis=0)
        return jnp.concatenate([left, right], axis=1)

    return invert(0, len(blocks))


def _substitute(blocks: Float[Array, "g w w"]) -> Float[Array, "g w w"]:
    """Inverts small lower triangular matrices by forward substitution, one row of each at a time."""
    width = blocks.shape[1]

    def solve(i: Array, found: Array) -> Array:
        # Rows i and later of `found` are still zero, so the whole row of the block may be used.
        known = jnp.einsum("gj,gjw->gw", blocks[:, i], found)
        row = (jax.nn.one_hot(i, width)[None, :] - known) / blocks[:, i, i][:, None]
        return found.at[:, i].set(row)

    return jax.lax.fori_loop(0, width, solve, jnp.zeros_like(blocks))
