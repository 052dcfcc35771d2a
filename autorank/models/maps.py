"""Linear maps of embeddings: over the width, over the embedding axis, or over both flattened."""

import math

import jax
import jax.numpy as jnp

from autorank.base.typing import Array, Float


def product(x: Float[Array, "... k"], weight: Float[Array, "k n"]) -> Float[Array, "... n"]:
    """``x @ weight``; a bfloat16 weight under float32 activations means bfloat16 products with float32 sums.

    Activations stay float32 then: the processors that multiply bfloat16 twice as fast do nothing else with it.
    """
    if x.dtype != jnp.float32 or weight.dtype != jnp.bfloat16:
        return x @ weight
    return _mixed(x.reshape(-1, x.shape[-1]), weight).reshape(*x.shape[:-1], -1)


@jax.custom_vjp
def _mixed(x: Float[Array, "b k"], weight: Float[Array, "k n"]) -> Float[Array, "b n"]:
    return _mixed_fwd(x, weight)[0]


def _mixed_fwd(x: Array, weight: Array) -> tuple[Array, tuple[Array, Array]]:
    x = x.astype(weight.dtype)
    return sum_float32(x, weight, (1, 0)), (x, weight)


def _mixed_bwd(saved: tuple[Array, Array], slope: Array) -> tuple[Array, Array]:
    x, weight = saved
    slope = slope.astype(weight.dtype)
    to_weight = sum_float32(_transposed(x), slope, (1, 0))
    return sum_float32(slope, weight, (1, 1)), to_weight.astype(weight.dtype)


_mixed.defvjp(_mixed_fwd, _mixed_bwd)


def sum_float32(a: Array, b: Array, over: tuple[int, int]) -> Array:
    """The product of two matrices over one axis of each, with float32 sums and result."""
    dims = (((over[0],), (over[1],)), ((), ()))
    return jax.lax.dot_general(a, b, dims, preferred_element_type=jnp.float32)


def _transposed(x: Float[Array, "b k"]) -> Float[Array, "k b"]:
    """A transposed copy: XLA:CPU reads a bfloat16 operand along its rows twice as fast as across them.

    Behind a condition it is really made and not just another layout. The condition always holds (NaN is unequal to
    everything) but for a first element of the lowest number there is: then NaN says that the model has diverged.
    """
    if jax.default_backend() != "cpu":
        return x.T
    always = x[0, 0] != jnp.finfo(x.dtype).min
    return jax.lax.cond(always, lambda: x.T, lambda: jnp.full(x.T.shape, jnp.nan, x.dtype))


def mix(
    x: Float[Array, "b m d"], weight: Float[Array, "m l"], *, flat: bool = False
) -> Float[Array, "b l d"]:
    """The linear map over the embedding axis; ``flat`` as one matrix product over the flattened embeddings.

    ``flat`` does ``d`` times the arithmetic and spares the two transposes that a batched product needs: on a matrix
    unit it is the faster one up to widths of about 32.
    """
    if not flat:
        return jnp.einsum("bmd,ml->bld", x, weight)
    return flat_map(x, kronecker(weight, jnp.eye(x.shape[2], dtype=weight.dtype)))


def along(
    x: Float[Array, "b m d"], weight: Float[Array, "d e"], *, flat: bool = False
) -> Float[Array, "b m e"]:
    """The linear map over the width; ``flat`` as in `mix` (its weights' gradient sums over few long rows)."""
    if not flat:
        return product(x, weight)
    return flat_map(x, kronecker(jnp.eye(x.shape[1], dtype=weight.dtype), weight))


def kronecker(across: Float[Array, "m l"], along: Float[Array, "d e"]) -> Float[Array, "m d l e"]:
    """Their Kronecker product, float32 inside.

    As a product of elements and not an ``einsum``: that one's gradient is two transposes and a matrix product, which
    on a GPU take longer than the map that uses the weights.
    """
    wide = across.astype(jnp.float32)[:, None, :, None] * along.astype(jnp.float32)[None, :, None]
    return wide.astype(jnp.result_type(across, along))


def flat_map(x: Float[Array, "b ..."], weight: Array) -> Array:
    """``x [b, *inputs]`` times ``weight [*inputs, *outputs]`` as one matrix product."""
    axes = x.ndim - 1
    inputs, outputs = weight.shape[:axes], weight.shape[axes:]
    y = product(x.reshape(x.shape[0], -1), weight.reshape(math.prod(inputs), -1))
    return y.reshape(-1, *outputs)
