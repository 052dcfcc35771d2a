"""What modules compute on one row, for `models.row_kernels`: the same formulas as in `families` on padded matrices."""

from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from autorank.base.typing import Array
from autorank.models.blocks import EPS
from autorank.models.row_kernels import dot

Matrices = Sequence[Array]


def columns(x: Array) -> Array:
    """The number of each element's column."""
    return jax.lax.broadcasted_iota(jnp.int32, x.shape, 1)


def rows(x: Array) -> Array:
    """The number of each element's row."""
    return jax.lax.broadcasted_iota(jnp.int32, x.shape, 0)


def normed(x: Array, scale: Array, offset: Array, width: Array) -> Array:
    """Layer norm of each embedding over its first ``width`` numbers; ``scale`` and ``offset`` are ``[1, d]``."""
    inside = columns(x) < width
    x = x.astype(jnp.float32)
    mean = jnp.sum(jnp.where(inside, x, 0.0), axis=1) / width
    x = jnp.where(inside, x - mean[:, None], 0.0)
    variance = jnp.sum(x * x, axis=1) / width
    return x * jax.lax.rsqrt(variance + EPS)[:, None] * _row(scale) + _row(offset)


@dataclass(frozen=True)
class LinearRow:
    """``W`` over the embedding axis."""

    def __call__(self, params: Matrices, numbers: Matrices, xs: Matrices) -> Array:
        """See `RowFunction`."""
        (out,), (x,) = params, xs
        return dot(out, x, (0, 0))


@dataclass(frozen=True)
class CrossRow:
    """``x * (A x B + b)``, then ``W``."""

    def __call__(self, params: Matrices, numbers: Matrices, xs: Matrices) -> Array:
        """See `RowFunction`."""
        (across, along, bias, out), (x,) = params, xs
        mixed = dot(across, x, (0, 0)).astype(x.dtype)
        y = x * (dot(mixed, along) + bias)
        return dot(out, y.astype(x.dtype), (0, 0))


@dataclass(frozen=True)
class ConvolutionRow:
    """A convolution over the embedding axis, ReLU, then ``W``; one matrix for each tap."""

    offsets: tuple[int, ...]

    def __call__(self, params: Matrices, numbers: Matrices, xs: Matrices) -> Array:
        """See `RowFunction`."""
        *taps, bias, out = params
        (x,) = xs
        square = jnp.zeros((x.shape[0], x.shape[0]), x.dtype)
        y = _row(bias).astype(jnp.float32)
        for tap, offset in zip(taps, self.offsets, strict=True):
            band = (columns(square) == rows(square) + offset).astype(x.dtype)
            y = y + dot(dot(band, x).astype(x.dtype), tap)
        y = jnp.maximum(y, 0.0).astype(x.dtype)
        return dot(out, y, (0, 0))


@dataclass(frozen=True)
class AttentionRow:
    """A post-norm encoder layer with up to ``most_heads`` heads, then ``W``; numbers: positions, width, heads."""

    most_heads: int

    def __call__(self, params: Matrices, numbers: Matrices, xs: Matrices) -> Array:
        """See `RowFunction`."""
        query, key, value, project, up, up_bias, down, down_bias, *norms, out = params
        (x,), (positions, width, heads) = xs, numbers
        dtype = x.dtype
        q, k, v = (dot(x, w).astype(dtype) for w in (query, key, value))
        size = width // heads
        mixed = jnp.zeros(x.shape, jnp.float32)
        for head in range(self.most_heads):
            own = (columns(q) >= head * size) & (columns(q) < (head + 1) * size)
            scores = dot(jnp.where(own, q, jnp.zeros_like(q)), k, (1, 1))
            scores = scores * jax.lax.rsqrt(size.astype(jnp.float32))
            scores = jnp.where(columns(scores) < positions, scores, -1e30)
            powers = jnp.exp(scores - jax.lax.stop_gradient(jnp.max(scores, axis=1))[:, None])
            powers = powers / jnp.sum(powers, axis=1)[:, None]
            mixed = mixed + dot(powers.astype(dtype), jnp.where(own, v, jnp.zeros_like(v)))
        mixed = dot(mixed.astype(dtype), project)
        x = normed(x.astype(jnp.float32) + mixed, norms[0], norms[1], width).astype(dtype)
        hidden = jnp.maximum(dot(x, up) + _row(up_bias), 0.0).astype(dtype)
        hidden = dot(hidden, down) + _row(down_bias)
        x = normed(x.astype(jnp.float32) + hidden, norms[2], norms[3], width)
        return dot(out, x.astype(dtype), (0, 0))


@dataclass(frozen=True)
class GramRow:
    """All dot products of the embeddings."""

    def __call__(self, params: Matrices, numbers: Matrices, xs: Matrices) -> Array:
        """See `RowFunction`."""
        (x,) = xs
        return dot(x, x, (1, 1))


@dataclass(frozen=True)
class MixtureProductsRow:
    """Products of the embeddings with a few mixtures of them, normed over the active ones; numbers: positions, rank."""

    def __call__(self, params: Matrices, numbers: Matrices, xs: Matrices) -> Array:
        """See `RowFunction`."""
        (project, scale, offset), (x,), (positions, rank) = params, xs, numbers
        mixtures = dot(project, x, (0, 0)).astype(x.dtype)
        z = dot(x, mixtures, (1, 1))
        inside = (rows(z) < positions) & (columns(z) < rank)
        count = (positions * rank).astype(jnp.float32)
        mean = jnp.sum(jnp.sum(jnp.where(inside, z, 0.0), axis=1), axis=0) / count
        z = jnp.where(inside, z - mean, 0.0)
        variance = jnp.sum(jnp.sum(z * z, axis=1), axis=0) / count
        return z * jax.lax.rsqrt(variance + EPS) * scale + offset


@dataclass(frozen=True)
class MaskedRow:
    """``ReLU(LN(W (LN(x) * gate)))``; number: width."""

    def __call__(self, params: Matrices, numbers: Matrices, xs: Matrices) -> Array:
        """See `RowFunction`."""
        (*norms, out), (x, gate), (width,) = params, xs, numbers
        y = normed(x, norms[0], norms[1], width) * gate
        y = dot(out, y.astype(x.dtype), (0, 0))
        return jnp.maximum(normed(y, norms[2], norms[3], width), 0.0)


@dataclass(frozen=True)
class NormRow:
    """Layer norm of the first embeddings, if chosen; numbers: embeddings, width, whether it is chosen."""

    def __call__(self, params: Matrices, numbers: Matrices, xs: Matrices) -> Array:
        """See `RowFunction`."""
        (scale, offset), (x,), (count, width, chosen) = params, xs, numbers
        y = jnp.where(rows(x) < count, normed(x, scale, offset, width), 0.0)
        return jnp.where(chosen > 0, y, x.astype(jnp.float32))


@dataclass(frozen=True)
class ShortcutRow:
    """The input, or its linear map over the embedding axis; number: whether it is mapped."""

    def __call__(self, params: Matrices, numbers: Matrices, xs: Matrices) -> Array:
        """See `RowFunction`."""
        (weight,), (x,), (mapped,) = params, xs, numbers
        return jnp.where(mapped > 0, dot(weight, x, (0, 0)), x.astype(jnp.float32))


def _row(x: Array) -> Array:
    """``[1, d]`` from a matrix whose other rows are padding."""
    return jnp.sum(x, axis=0)[None]
