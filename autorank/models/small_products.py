"""Batches of tiny matrix products on a GPU: one row of the log at a time, in registers.

A Gram matrix or an attention head of a ranking model is 20 to 60 embeddings of width 4 to 64. A library kernel computes
it as a tile of 64 or 128, several times slower than memory bandwidth allows. An attention made of such products also
writes every score to memory. Here one warp computes a row's product (or head) with tensor cores and writes the result
only, forward and backward. Written in Pallas (its Triton form); "interpret" runs the same code anywhere, for tests.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

from autorank.base.typing import Array, Float, Int
from autorank.models.maps import sum_float32

MAX_POSITIONS = 64  # beyond, a row's scores do not stay in one warp's registers
KERNELS = ("gpu", "interpret")  # what a layout may ask for; "" leaves everything to the compiler


def fits(kernels: str, *sizes: int) -> bool:
    """Whether `products` and `attend` take these sizes; else they are left to the compiler."""
    return kernels in KERNELS and max(sizes) <= MAX_POSITIONS


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def products(x: Float[Array, "b m d"], y: Float[Array, "b n d"], kernels: str) -> Array:
    """``x y^T`` of each row, ``[b, m, n]``; float32 sums."""
    return _products_fwd(x, y, kernels)[0]


def _products_fwd(x: Array, y: Array, kernels: str) -> tuple[Array, tuple[Array, Array]]:
    (batch, m, _), n = x.shape, y.shape[1]

    def kernel(x_ref: Any, y_ref: Any, out_ref: Any) -> None:
        _store(out_ref, sum_float32(_load(x_ref), _load(y_ref), (1, 1)), 0)

    shape = jax.ShapeDtypeStruct((batch, m, n), x.dtype)
    return _call(kernel, kernels, (batch,), (x, y), (shape,))[0], (x, y)


def _products_bwd(kernels: str, saved: tuple[Array, Array], slope: Array) -> tuple[Array, Array]:
    x, y = saved

    def kernel(x_ref: Any, y_ref: Any, slope_ref: Any, to_x: Any, to_y: Any) -> None:
        slope = _load(slope_ref)
        _store(to_x, sum_float32(slope, _load(y_ref), (1, 0)), 0)
        _store(to_y, sum_float32(slope, _load(x_ref), (0, 0)), 0)

    shapes = [jax.ShapeDtypeStruct(a.shape, a.dtype) for a in (x, y)]
    to_x, to_y = _call(kernel, kernels, (x.shape[0],), (x, y, slope), shapes)
    return to_x, to_y


products.defvjp(_products_fwd, _products_bwd)


@partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def attend(
    qkv: Float[Array, "b m c"],
    positions: Int[Array, ""],
    heads: Int[Array, ""],
    most_heads: int,
    kernels: str,
) -> Float[Array, "b m d"]:
    """Scaled dot-product attention of ``heads`` heads over the first ``positions`` embeddings.

    ``qkv`` holds query, key and value side by side (``c = 3 d``), each with its heads side by side. Softmax and sums
    are float32; nothing of the size of the scores is kept for the backward pass. ``heads`` divides ``d`` and is at most
    ``most_heads``.
    """
    return _attend_fwd(qkv, positions, heads, most_heads, kernels)[0]


def _attend_fwd(
    qkv: Array, positions: Array, heads: Array, most_heads: int, kernels: str
) -> tuple[Array, tuple[Array, Array, Array]]:
    batch, m, width = qkv.shape[0], qkv.shape[1], qkv.shape[2] // 3

    def kernel(qkv_ref: Any, positions_ref: Any, heads_ref: Any, out_ref: Any) -> None:
        own = _Head(heads_ref[0], m, width)
        query, key, value = (_load(qkv_ref, part * width, width) for part in range(3))
        scores = _scores(own.only(query), key, positions_ref[0], own.size)
        mixed = sum_float32(scores.astype(qkv.dtype), value, (1, 0))
        own.store(out_ref, mixed, 0)

    shape = jax.ShapeDtypeStruct((batch, m, width), qkv.dtype)
    inputs = (qkv, positions, heads)
    (mixed,) = _call(kernel, kernels, (batch, most_heads), inputs, (shape,))
    return mixed, inputs


def _attend_bwd(
    most_heads: int, kernels: str, saved: tuple[Array, Array, Array], slope: Array
) -> tuple[Array, None, None]:
    qkv, positions, heads = saved
    m, width = qkv.shape[1], qkv.shape[2] // 3

    def kernel(
        qkv_ref: Any, positions_ref: Any, heads_ref: Any, slope_ref: Any, out_ref: Any
    ) -> None:
        own = _Head(heads_ref[0], m, width)
        query, key, value = (_load(qkv_ref, part * width, width) for part in range(3))
        slope = own.only(_load(slope_ref, 0, width))
        scores = _scores(own.only(query), key, positions_ref[0], own.size)
        to_value = sum_float32(scores.astype(qkv.dtype), slope, (0, 0))
        to_scores = sum_float32(slope, value, (1, 1))
        inner = jnp.sum(to_scores * scores, axis=1, keepdims=True)
        scale = jax.lax.rsqrt(own.size.astype(jnp.float32))
        to_logits = (scores * (to_scores - inner) * scale).astype(qkv.dtype)
        own.store(out_ref, sum_float32(to_logits, key, (1, 0)), 0)
        own.store(out_ref, sum_float32(to_logits, query, (0, 0)), width)
        own.store(out_ref, to_value, 2 * width)

    shape = jax.ShapeDtypeStruct(qkv.shape, qkv.dtype)
    inputs = (qkv, positions, heads, slope)
    (found,) = _call(kernel, kernels, (qkv.shape[0], most_heads), inputs, (shape,))
    return found, None, None


attend.defvjp(_attend_fwd, _attend_bwd)


class _Head:
    """The columns of this program's head; none where the model has fewer heads."""

    def __init__(self, heads: Array, rows: int, width: int) -> None:
        head = pl.program_id(1)
        self.size = width // heads
        shape = _padded(rows), _padded(width)
        at = [jax.lax.broadcasted_iota(jnp.int32, shape, axis) for axis in (0, 1)]
        column = at[1]
        inside = (column >= head * self.size) & (column < (head + 1) * self.size)
        self._inside = inside & (at[0] < rows) & (column < width)

    def only(self, value: Array) -> Array:
        """Zeros outside the head."""
        return jnp.where(self._inside, value, jnp.zeros_like(value))

    def store(self, ref: Any, value: Array, first: int) -> None:
        """Writes the head's columns, which begin at column ``first`` of their part."""
        here = _block(ref, first, self._inside.shape)
        triton.store(here, value.astype(ref.dtype), mask=self._inside)


def _scores(query: Array, key: Array, positions: Array, size: Array) -> Array:
    """Softmax over the active keys, float32."""
    scale = jax.lax.rsqrt(size.astype(jnp.float32))
    logits = sum_float32(query, key, (1, 1)) * scale
    column = jax.lax.broadcasted_iota(jnp.int32, logits.shape, 1)
    logits = jnp.where(column < positions, logits, -jnp.inf)
    powers = jnp.exp(logits - jnp.max(logits, axis=1, keepdims=True))
    return powers / jnp.sum(powers, axis=1, keepdims=True)


def _padded(size: int) -> int:
    """Sides of a block are powers of two; tensor cores want 16."""
    return max(16, 1 << (size - 1).bit_length())


def _where(ref: Any, first: int, size: int | None) -> tuple[Any, Array]:
    """Columns ``[first, first + size)`` of a ``[m, c]`` block, padded, and the mask of what is inside."""
    rows: int = ref.shape[0]
    columns: int = ref.shape[1] if size is None else size
    shape = _padded(rows), _padded(columns)
    at = [jax.lax.broadcasted_iota(jnp.int32, shape, axis) for axis in (0, 1)]
    return _block(ref, first, shape), (at[0] < rows) & (at[1] < columns)


def _block(ref: Any, first: int, shape: tuple[int, ...]) -> Any:
    """A block from column ``first`` on; it may reach beyond the array, where a mask keeps it from being read."""
    # A traced number: a constant one would be checked against the array's bounds.
    column = first + 0 * pl.program_id(0)
    return ref.at[pl.ds(0, shape[0]), pl.ds(column, shape[1])]


def _load(ref: Any, first: int = 0, size: int | None = None) -> Array:
    here, inside = _where(ref, first, size)
    return triton.load(here, mask=inside, other=0.0)


def _store(ref: Any, value: Array, first: int, size: int | None = None) -> None:
    here, inside = _where(ref, first, size)
    triton.store(here, value.astype(ref.dtype), mask=inside)


def _call(kernel: Any, kernels: str, grid: tuple[int, ...], inputs: Any, outputs: Any) -> Any:
    """Runs ``kernel`` for every row (and head): arrays are seen one row at a time, scalars whole."""

    def spec(array: Any) -> pl.BlockSpec:
        if array.ndim == 1:
            return pl.BlockSpec((1,), lambda *_: (0,))
        return pl.BlockSpec((None, *array.shape[1:]), lambda row, *_: (row, 0, 0))

    inputs = [a.reshape(1) if a.ndim == 0 else a for a in inputs]
    return pl.pallas_call(
        kernel,
        grid=grid,
        in_specs=[spec(a) for a in inputs],
        out_specs=[spec(a) for a in outputs],
        out_shape=list(outputs),
        compiler_params=triton.CompilerParams(num_warps=1, num_stages=1),
        interpret=kernels == "interpret",
    )(*inputs)
