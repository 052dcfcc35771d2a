"""What modules compute on one row of the log: the formulas of `models.interactions` on padded matrices.

A row's embeddings are a matrix whose sides are powers of two; it is zero beyond the model's own. A parameter is a
matrix or a vector, padded alike. A formula may use products of matrices (`dot`), elementwise operations and sums over
one axis. What it puts out beyond the model's own embeddings or width is arbitrary, but no slope comes from there.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from autorank.base.typing import Array, Float, Int
from autorank.models.blocks import EPS
from autorank.models.interactions import FFN_FACTOR
from autorank.models.maps import sum_float32
from autorank.population.capacity import Capacity

Params = Mapping[str, Array]
# Large enough for a softmax, and no overflow where it is subtracted.
NEVER = -1e30


class Own(NamedTuple):
    """The model's own sizes."""

    positions: Int[Array, ""]
    width: Int[Array, ""]
    tokens: Int[Array, ""]
    rank: Int[Array, ""]
    heads: Int[Array, ""]


class Part(NamedTuple):
    """A parameter within an array of the arena: a matrix, or a vector if it has no rows."""

    array: str
    offset: int
    rows: int  # 0 for a vector
    columns: int
    stride: int  # from a row to the next one


class Products(NamedTuple):
    """The matrix products of a module, and the arrays that they use."""

    columns: Callable[[Capacity], int]  # inputs are ``[positions, columns]``
    first: str  # [positions, columns, hidden]
    last: str  # [hidden, outputs, width]
    offset: str  # [outputs, width]
    bends: bool = True  # whether hidden units have an offset and a ReLU; then there may be several layers of them


@dataclass(frozen=True)
class Formula:
    """What a module computes in kernels of rows, before and behind its matrix products if it has some.

    Args:
        start: from parameters, sizes and the embeddings ``[m, d]``: the module's output, or its products' inputs.
        start_parts: the parameters of it.
        end: from parameters, sizes, embeddings and the products' results ``[m, d]``: the module's output; None where
            these are the output.
        end_parts: the parameters of it.
        products: the matrix products between start and end; None for a module of rows alone.
    """

    start: Callable[[Params, Own, Array], Array]
    start_parts: Callable[[Capacity], dict[str, Part]]
    end: Callable[[Params, Own, Array, Array], Array] | None = None
    end_parts: Callable[[Capacity], dict[str, Part]] = lambda _: {}
    products: Products | None = None


def dot(a: Array, b: Array, over: tuple[int, int] = (1, 0)) -> Array:
    """The product of two matrices of one precision over one axis of each; float32 sums and result."""
    found: Any = _dot(a, b, over)
    return found


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _dot(a: Array, b: Array, over: tuple[int, int]) -> Array:
    return sum_float32(a, b, over)


def _dot_fwd(a: Array, b: Array, over: tuple[int, int]) -> tuple[Array, tuple[Array, Array]]:
    return sum_float32(a, b, over), (a, b)


def _dot_bwd(
    over: tuple[int, int], saved: tuple[Array, Array], slope: Array
) -> tuple[Array, Array]:
    (a, b), (i, j) = saved, over
    # A tensor core takes two operands of one precision.
    slope = slope.astype(a.dtype)
    to_a = sum_float32(slope, b, (1, 1 - j)) if i else sum_float32(b, slope, (1 - j, 1))
    to_b = sum_float32(slope, a, (0, 1 - i)) if j else sum_float32(a, slope, (1 - i, 0))
    return to_a.astype(a.dtype), to_b.astype(b.dtype)


_dot.defvjp(_dot_fwd, _dot_bwd)


def columns(x: Array) -> Array:
    """The number of each element's column."""
    return jax.lax.broadcasted_iota(jnp.int32, x.shape, 1)


def rows(x: Array) -> Array:
    """The number of each element's row."""
    return jax.lax.broadcasted_iota(jnp.int32, x.shape, 0)


def normed(x: Array, scale: Array, offset: Array, width: Array) -> Float[Array, "m d"]:
    """Layer norm of each embedding over its first ``width`` numbers; float32."""
    inside = columns(x) < width
    x = x.astype(jnp.float32)
    count = width.astype(jnp.float32)
    mean = jnp.sum(jnp.where(inside, x, 0.0), axis=1) / count
    x = jnp.where(inside, x - mean[:, None], 0.0)
    variance = jnp.sum(x * x, axis=1) / count
    return x * jax.lax.rsqrt(variance + EPS)[:, None] * scale[None, :] + offset[None, :]


def first_rows(x: Array, count: Array) -> Array:
    """``x`` with zeros beyond the first ``count`` rows."""
    return jnp.where(rows(x) < count, x, 0.0)


def linear(p: Params, own: Own, x: Array) -> Array:
    """``W`` over the embedding axis."""
    return dot(p["out"], x, (0, 0))


def cross(p: Params, own: Own, x: Array) -> Array:
    """``x * (A x B + b)``, then ``W``."""
    mixed = dot(p["across"], x, (0, 0)).astype(x.dtype)
    y = x * (dot(mixed, p["along"]) + p["bias"])
    return dot(p["out"], y.astype(x.dtype), (0, 0))


def convolution(p: Params, own: Own, x: Array) -> Array:
    """A convolution over the embedding axis, ReLU, then ``W``; its taps from the centre out."""
    square = jnp.zeros((x.shape[0], x.shape[0]), x.dtype)
    y = jnp.zeros(x.shape, jnp.float32) + p["channels"][None, :]
    for tap in range(len(p) - 2):
        # 0, -1, 1, -2, 2 as in the module.
        offset = (tap + 1) // 2 * (-1 if tap % 2 else 1)
        band = (columns(square) == rows(square) + offset).astype(x.dtype)
        y = y + dot(dot(band, x).astype(x.dtype), p[f"tap{tap}"])
    y = first_rows(jnp.maximum(y, 0.0), own.positions)
    return dot(p["out"], y.astype(x.dtype), (0, 0))


def attention(p: Params, own: Own, x: Array) -> Array:
    """A post-norm encoder layer, then ``W``."""
    dtype = x.dtype
    q, k, v = (dot(x, p[name]).astype(dtype) for name in ("query", "key", "value"))
    mixed: Any = attend(q, k, v, own.positions, own.width // own.heads, own.heads)
    mixed = dot(mixed.astype(dtype), p["project"])
    y = normed(x.astype(jnp.float32) + mixed, p["scale1"], p["offset1"], own.width)
    y = first_rows(y, own.positions).astype(dtype)
    hidden = jnp.maximum(dot(y, p["up"]) + p["up_bias"][None, :], 0.0).astype(dtype)
    hidden = dot(hidden, p["down"]) + p["down_bias"][None, :]
    y = normed(y.astype(jnp.float32) + hidden, p["scale2"], p["offset2"], own.width)
    y = first_rows(y, own.positions).astype(dtype)
    return dot(p["out"], y, (0, 0))


@jax.custom_vjp
def attend(
    q: Array, k: Array, v: Array, positions: Array, size: Array, heads: Array
) -> Float[Array, "m d"]:
    """Attention of ``heads`` heads of ``size`` numbers each, over ``positions`` embeddings; float32.

    Its gradient is written out: a loop of as many rounds as the model has heads.
    """

    return _attend_fwd(q, k, v, positions, size, heads)[0]


def _attend_fwd(
    q: Array, k: Array, v: Array, positions: Array, size: Array, heads: Array
) -> tuple[Array, Any]:
    def one(head: Array, found: Array) -> Array:
        powers = _powers(q, k, positions, size, head).astype(v.dtype)
        return found + sum_float32(powers, _of_head(v, head, size), (1, 0))

    mixed = jax.lax.fori_loop(0, heads, one, jnp.zeros(q.shape, jnp.float32))
    return mixed, (q, k, v, positions, size, heads)


def _attend_bwd(saved: Any, slope: Array) -> tuple[Any, ...]:
    q, k, v, positions, size, heads = saved
    dtype = v.dtype
    slope = slope.astype(dtype)

    def one(head: Array, found: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        powers = _powers(q, k, positions, size, head)
        to_v = sum_float32(powers.astype(dtype), slope, (0, 0))
        to_powers = sum_float32(slope, _of_head(v, head, size), (1, 1))
        to_scores = powers * (to_powers - jnp.sum(powers * to_powers, axis=1)[:, None])
        to_scores = (to_scores * jax.lax.rsqrt(size.astype(jnp.float32))).astype(dtype)
        to_q = sum_float32(to_scores, k, (1, 0))
        to_k = sum_float32(to_scores, q, (0, 0))
        parts = (_of_head(part, head, size) for part in (to_q, to_k, to_v))
        to_q, to_k, to_v = (a + b for a, b in zip(found, parts, strict=True))
        return to_q, to_k, to_v

    zeros = jnp.zeros(q.shape, jnp.float32)
    to = jax.lax.fori_loop(0, heads, one, (zeros, zeros, zeros))
    return *(a.astype(dtype) for a in to), None, None, None


attend.defvjp(_attend_fwd, _attend_bwd)


def _of_head(x: Array, head: Array, size: Array) -> Array:
    """``x`` with zeros in the other heads' columns."""
    j = columns(x)
    return jnp.where((j >= head * size) & (j < (head + 1) * size), x, jnp.zeros_like(x))


def _powers(q: Array, k: Array, positions: Array, size: Array, head: Array) -> Array:
    """The softmax of a head's scores; float32."""
    scores = sum_float32(_of_head(q, head, size), k, (1, 1))
    scores = scores * jax.lax.rsqrt(size.astype(jnp.float32))
    scores = jnp.where(columns(scores) < positions, scores, NEVER)
    powers = jnp.exp(scores - jnp.max(scores, axis=1)[:, None])
    return powers / jnp.sum(powers, axis=1)[:, None]


def gram(p: Params, own: Own, x: Array) -> Array:
    """The dot products of all pairs of embeddings, below the diagonal."""
    found = dot(x, x, (1, 1))
    return jnp.where(rows(found) > columns(found), found, 0.0)


def mixture_products(p: Params, own: Own, x: Array) -> Array:
    """Products of the embeddings with a few mixtures of them, normed over the model's own."""
    mixtures = dot(p["project"], x, (0, 0)).astype(x.dtype)
    z = dot(x, mixtures, (1, 1))
    inside = (rows(z) < own.positions) & (columns(z) < own.rank)
    count = (own.positions * own.rank).astype(jnp.float32)
    mean = jnp.sum(jnp.sum(jnp.where(inside, z, 0.0), axis=1), axis=0) / count
    z = jnp.where(inside, z - mean, 0.0)
    variance = jnp.sum(jnp.sum(z * z, axis=1), axis=0) / count
    return z * jax.lax.rsqrt(variance + EPS) * p["scale"] + p["offset"]


def itself(p: Params, own: Own, x: Array) -> Array:
    """The embeddings."""
    return x.astype(jnp.float32)


def masked(p: Params, own: Own, x: Array, gate: Array) -> Array:
    """``ReLU(LN(W (LN(x) * gate)))``."""
    y = normed(x, p["scale1"], p["offset1"], own.width) * gate
    y = dot(p["mixed"], y.astype(x.dtype), (0, 0))
    return jnp.maximum(normed(y, p["scale2"], p["offset2"], own.width), 0.0)


def crossed(p: Params, own: Own, x: Array, factor: Array) -> Array:
    """``W (x * factor)``."""
    return dot(p["out"], (x * factor).astype(x.dtype), (0, 0))


def _matrix(array: str, rows: int, columns: int) -> Part:
    return Part(array, 0, rows, columns, columns)


def _vector(array: str, columns: int) -> Part:
    return Part(array, 0, 0, columns, 0)


def _out(c: Capacity, name: str = "out") -> dict[str, Part]:
    return {name: _matrix(name, c.positions, max(c.tokens))}


def _norms(c: Capacity) -> dict[str, Part]:
    return {
        f"{n}{i}": _vector(f"norm_{n}{i}", c.width) for i in (1, 2) for n in ("scale", "offset")
    }


def _cross_parts(c: Capacity) -> dict[str, Part]:
    m, d = c.positions, c.width
    found = {"across": _matrix("across", m, m), "along": _matrix("along", d, d)}
    return found | {"bias": _matrix("bias", m, d)} | _out(c)


def _convolution_parts(c: Capacity) -> dict[str, Part]:
    d = c.width
    taps = {f"tap{i}": Part("kernel", i * d * d, d, d, d) for i in range(c.kernel)}
    return taps | {"channels": _vector("channels", d)} | _out(c)


def _attention_parts(c: Capacity) -> dict[str, Part]:
    d, ffn = c.width, FFN_FACTOR * c.width
    found = {
        name: Part("qkv", i * d, d, d, 3 * d) for i, name in enumerate(("query", "key", "value"))
    }
    found |= {"project": _matrix("project", d, d), "up": _matrix("up", d, ffn)}
    found |= {"up_bias": _vector("up_bias", ffn), "down": _matrix("down", ffn, d)}
    return found | {"down_bias": _vector("down_bias", d)} | _norms(c) | _out(c)


def _mixture_parts(c: Capacity) -> dict[str, Part]:
    found = {"project": _matrix("project", c.positions, c.rank)}
    return found | {name: _matrix(name, c.positions, c.rank) for name in ("scale", "offset")}


def _nothing(_: Capacity) -> dict[str, Part]:
    return {}


def _mlp(columns: Callable[[Capacity], int]) -> Products:
    return Products(columns, "kernel1", "out", "bias")


FORMULAS: dict[str, Formula] = {
    "linear": Formula(linear, _out),
    "cross": Formula(cross, _cross_parts),
    "convolution": Formula(convolution, _convolution_parts),
    "attention": Formula(attention, _attention_parts),
    "dot": Formula(gram, _nothing, products=_mlp(lambda c: c.positions)),
    "fmb": Formula(mixture_products, _mixture_parts, products=_mlp(lambda c: c.rank)),
    "mask": Formula(
        itself,
        _nothing,
        masked,
        lambda c: _norms(c) | _out(c, "mixed"),
        _mlp(lambda c: c.width),
    ),
    "cross_low": Formula(
        itself,
        _nothing,
        crossed,
        _out,
        Products(lambda c: c.width, "down", "up", "bias", bends=False),
    ),
}
