"""The interaction modules of a DHEN layer: ``m`` embeddings of width ``d`` in, ``l`` out.

Each is a linen module on `Sizes`, called as ``module(x)`` in a compact model, ``module(x, active)`` in a masked one,
where ``x`` is zero beyond the active prefix of each axis and the weights are already cut. Only what a zero does not
switch off (norms, softmax, depth) looks at ``active``. The kernel named ``out`` is the module's last one.

References:
    DHEN: arXiv 2203.11014. DCN-V2: 2008.13535. DLRM: 1906.00091. MaskNet: 2102.07619. Wukong: 2403.02545.
    Self-attention: Vaswani et al. 2017.
"""

import functools
from typing import Any, NamedTuple, Protocol

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from autorank.base.registry import Registry
from autorank.base.typing import Array, Float
from autorank.models import flops, small_products
from autorank.models.blocks import Mlp, Norm
from autorank.models.maps import along, flat_map, kronecker, mix, product
from autorank.models.parameters import Active, bias, kernel, prefix, within

FFN_FACTOR = 2  # own choice: hidden units of the attention layer's feed-forward part, in widths


# Sizes that layers share and only some modules depend on.
SHARED_SIZES = ("rank", "heads", "kernel", "mlp_depth", "mlp_width")


class Sizes(NamedTuple):
    """Static sizes of one module: real ones in a compact model, maxima in a masked one."""

    positions: int  # m, embeddings in
    tokens: int  # l, embeddings out
    width: int  # d
    rank: int
    heads: int
    kernel: int
    mlp_depth: int
    mlp_width: int
    # Whether linear maps are matrix products over the flattened embeddings (`maps.mix`).
    flat: bool = False
    kernels: str = ""  # which form of `small_products`, "" for none

    @property
    def input(self) -> dict[str, int]:
        """Axes of the embeddings coming in."""
        return {"positions": self.positions, "width": self.width}

    @property
    def output(self) -> dict[str, int]:
        """Axes of the embeddings going out."""
        return {"tokens": self.tokens, "width": self.width}


class MakeModule(Protocol):
    """A module's class."""

    def __call__(self, sizes: Sizes, /, *, name: str | None = None) -> Any:
        """The linen module of these sizes."""
        ...


# Traits: `flops`, from `Sizes` to forward FLOPs of one example; `uses`, which of `SHARED_SIZES` the module depends on.
MODULES: Registry[MakeModule] = Registry("model.layer*")


def dot_flops(s: Sizes) -> int:
    """FLOPs of `Dot`."""
    pairs = s.positions * (s.positions - 1) // 2
    # The compiler forms the whole Gram matrix.
    gram = 2 * s.positions**2 * s.width
    return gram + flops.mlp(pairs, s.tokens * s.width, s.mlp_depth, s.mlp_width)


@MODULES.register("dot", flops=dot_flops, uses=("mlp_depth", "mlp_width"))
class Dot(nn.Module):
    """All pairwise dot products ``<x_i, x_j>, j < i``, then an MLP (DLRM)."""

    sizes: Sizes

    @nn.compact
    def __call__(
        self, x: Float[Array, "b m d"], active: Active | None = None
    ) -> Float[Array, "b l d"]:
        """``m`` embeddings in, ``l`` out."""
        s = self.sizes
        # Row-major below the diagonal: the pairs of the first n embeddings are the first n (n - 1) / 2.
        rows, columns = np.tril_indices(s.positions, -1)
        gram = _products(x, x, s).reshape(x.shape[0], -1)
        below = rows * s.positions + columns
        mlp = Mlp({"pairs": len(rows)}, s.output, s.mlp_depth, s.mlp_width, name="mlp")
        if s.flat:
            return mlp(gram, active and active.mlp_depth, below)
        pairs = gram.at[:, below].get(unique_indices=True, mode="promise_in_bounds")
        return mlp(pairs, active and active.mlp_depth)


def attention_flops(s: Sizes) -> int:
    """FLOPs of `Attention`."""
    m, d, ffn = s.positions, s.width, FFN_FACTOR * s.width
    project = m * (flops.linear(d, 3 * d) + flops.linear(d, d))
    # Scores, scale, softmax (maximum, subtract, sum, divide), weighted values.
    attend = 2 * (2 * m * m * d) + 5 * s.heads * m * m
    feed_forward = m * (flops.linear(d, ffn) + flops.linear(ffn, d) + 2 * ffn + d)
    return (
        project
        + attend
        + feed_forward
        + 2 * (m * d + flops.norm(m * d))
        + flops.mix(m, s.tokens, d)
    )


@MODULES.register("attention", flops=attention_flops, uses=("heads",))
class Attention(nn.Module):
    """One post-norm self-attention encoder layer over the embeddings, then ``W`` over the embedding axis."""

    sizes: Sizes

    @nn.compact
    def __call__(
        self, x: Float[Array, "b m d"], active: Active | None = None
    ) -> Float[Array, "b l d"]:
        """``m`` embeddings in, ``l`` out."""
        s, width = self.sizes, {"width": self.sizes.width}
        where = active and within(s.width, active.width)
        ffn = {"ffn": FFN_FACTOR * s.width}
        qkv = kernel(self, "qkv", width, {"part": 3, **width})
        project = kernel(self, "project", width, width)
        parts = along(x, qkv.reshape(s.width, -1), flat=s.flat)
        if small_products.fits(s.kernels, s.positions, s.width):
            positions = jnp.int32(s.positions) if active is None else active.positions
            heads = jnp.int32(s.heads)
            mixed: Array = small_products.attend(parts, positions, heads, s.heads, s.kernels)
        else:
            mixed = attention_of(parts.reshape(*x.shape[:2], 3, s.width), s.heads, active)
        mixed = along(mixed, project, flat=s.flat)
        x = Norm(width, name="norm1")(x + mixed, where)
        hidden = nn.relu(
            along(x, kernel(self, "up", width, ffn), flat=s.flat)
            + bias(self, "up_bias", ffn)[None, None]
        )
        down = (
            along(hidden, kernel(self, "down", ffn, width), flat=s.flat)
            + bias(self, "down_bias", width)[None, None]
        )
        x = Norm(width, name="norm2")(x + down, where)
        weight = kernel(self, "out", {"positions": s.positions}, {"tokens": s.tokens})
        return mix(x, weight, flat=s.flat)


def _products(
    x: Float[Array, "b m d"], y: Float[Array, "b n d"], sizes: Sizes
) -> Float[Array, "b m n"]:
    """All dot products of the embeddings of a row."""
    if small_products.fits(sizes.kernels, x.shape[1], y.shape[1], x.shape[2]):
        return small_products.products(x, y, sizes.kernels)
    return jnp.einsum("bmd,bnd->bmn", x, y)


def attention_of(
    qkv: Float[Array, "b m 3 d"], heads: int, active: Active | None
) -> Float[Array, "b m d"]:
    """Scaled dot-product attention. Masked: a head is a membership mask over the width."""
    b, m, _, d = qkv.shape
    if active is None or active.heads is None:
        # One transpose to a single batch axis: half the compile time of batching over (b, h).
        parts = qkv.reshape(b, m, 3, heads, d // heads).transpose(2, 0, 3, 1, 4)
        query, key, value = parts.reshape(3, b * heads, m, d // heads)
        scores = jnp.einsum("bme,bne->bmn", query, key) * float(heads / d) ** 0.5
        if active is not None:
            scores = jnp.where(prefix(m, active.positions)[None, None], scores, -jnp.inf)
        mixed = jnp.einsum("bmn,bne->bme", _softmax(scores), value)
        return mixed.reshape(b, heads, m, -1).transpose(0, 2, 1, 3).reshape(b, m, d)
    assert active.width is not None
    head_width = active.width // active.heads
    owner = jnp.arange(d) // head_width
    member = (owner[None] == jnp.arange(heads)[:, None]).astype(qkv.dtype)
    query, key, value = (qkv[:, :, i] for i in range(3))
    query, value = (part[:, :, None] * member[None, None] for part in (query, value))
    scores = jnp.einsum("bmhe,bne->bhmn", query, key) * jax.lax.rsqrt(head_width.astype(qkv.dtype))
    scores = jnp.where(prefix(m, active.positions)[None, None, None], scores, -jnp.inf)
    return jnp.einsum("bhmn,bnhe->bme", _softmax(scores), value)


def _softmax(scores: Array) -> Array:
    """Over the last axis, in float32."""
    return jax.nn.softmax(scores.astype(jnp.float32)).astype(scores.dtype)


def linear_flops(s: Sizes) -> int:
    """FLOPs of `Linear`."""
    return flops.mix(s.positions, s.tokens, s.width)


@MODULES.register("linear", flops=linear_flops, uses=())
class Linear(nn.Module):
    """``W X`` over the embedding axis (LCB in Wukong)."""

    sizes: Sizes

    @nn.compact
    def __call__(
        self, x: Float[Array, "b m d"], active: Active | None = None
    ) -> Float[Array, "b l d"]:
        """``m`` embeddings in, ``l`` out."""
        s = self.sizes
        weight = kernel(self, "out", {"positions": s.positions}, {"tokens": s.tokens})
        return mix(x, weight, flat=s.flat)


def cross_flops(s: Sizes) -> int:
    """FLOPs of `Cross`."""
    m, d = s.positions, s.width
    return flops.mix(m, m, d) + m * flops.linear(d, d) + 2 * m * d + flops.mix(m, s.tokens, d)


@MODULES.register("cross", flops=cross_flops, uses=())
class Cross(nn.Module):
    """``X * (A X B + b)``, then ``W`` over the embedding axis.

    DCN-V2's ``x * (W x + b)`` with a full-rank Kronecker ``W = A (x) B`` (own choice): ``A`` mixes embeddings, ``B``
    the width. The unrestricted ``W`` has ``(m d)^2`` weights, ten million at ``m = 50, d = 64``.
    """

    sizes: Sizes

    @nn.compact
    def __call__(
        self, x: Float[Array, "b m d"], active: Active | None = None
    ) -> Float[Array, "b l d"]:
        """``m`` embeddings in, ``l`` out."""
        s = self.sizes
        positions, width = {"positions": s.positions}, {"width": s.width}
        across = kernel(self, "across", positions, positions)
        inner = kernel(self, "along", width, width)
        y = flat_map(x, kronecker(across, inner)) if s.flat else product(mix(x, across), inner)
        y = x * (y + bias(self, "bias", s.input)[None])
        return mix(y, kernel(self, "out", positions, {"tokens": s.tokens}), flat=s.flat)


def cross_low_flops(s: Sizes) -> int:
    """FLOPs of `CrossLow`."""
    m, d = s.positions, s.width
    return 2 * flops.linear(m * d, s.rank) + 2 * m * d + flops.mix(m, s.tokens, d)


@MODULES.register("cross_low", flops=cross_low_flops, uses=("rank",))
class CrossLow(nn.Module):
    """DCN-V2's low-rank cross ``x * (U V^T x + b)`` on the flattened embeddings, then ``W`` over the embedding axis."""

    sizes: Sizes

    @nn.compact
    def __call__(
        self, x: Float[Array, "b m d"], active: Active | None = None
    ) -> Float[Array, "b l d"]:
        """``m`` embeddings in, ``l`` out."""
        s, rank = self.sizes, {"rank": self.sizes.rank}
        down = kernel(self, "down", s.input, rank).reshape(-1, s.rank)
        low = product(x.reshape(x.shape[0], -1), down)
        y = product(low, kernel(self, "up", rank, s.input).reshape(s.rank, -1))
        y = x * (y.reshape(x.shape) + bias(self, "bias", s.input)[None])
        weight = kernel(self, "out", {"positions": s.positions}, {"tokens": s.tokens})
        return mix(y, weight, flat=s.flat)


def convolution_flops(s: Sizes) -> int:
    """FLOPs of `Convolution`."""
    m, d = s.positions, s.width
    return m * (flops.linear(s.kernel * d, d) + 2 * d) + flops.mix(m, s.tokens, d)


@MODULES.register("convolution", flops=convolution_flops, uses=("kernel",))
class Convolution(nn.Module):
    """1-D convolution over the embedding axis (width = channels, zero padding), ReLU, then ``W``."""

    sizes: Sizes

    @nn.compact
    def __call__(
        self, x: Float[Array, "b m d"], active: Active | None = None
    ) -> Float[Array, "b l d"]:
        """``m`` embeddings in, ``l`` out."""
        s, width = self.sizes, {"width": self.sizes.width}
        reach, m = s.kernel // 2, s.positions
        # Taps from the centre out (0, -1, 1, -2, 2): a smaller kernel is a prefix of a larger one.
        offsets = sorted(range(-reach, reach + 1), key=abs)
        weight = kernel(self, "kernel", {"taps": s.kernel, **width}, {"channels": s.width})
        if s.flat:
            band = np.stack([np.eye(m, k=-offset, dtype=np.float32) for offset in offsets])
            shifted = map(kronecker, jnp.asarray(band, x.dtype), weight)
            y = flat_map(x, functools.reduce(jnp.add, shifted))
        else:
            padded = jnp.pad(x, ((0, 0), (reach, reach), (0, 0)))
            taps = [padded[:, reach + o : reach + o + m] for o in offsets]
            y = product(jnp.concatenate(taps, axis=-1), weight.reshape(-1, s.width))
        y = nn.relu(y + bias(self, "bias", {"channels": s.width})[None, None])
        out = kernel(self, "out", {"positions": s.positions}, {"tokens": s.tokens})
        return mix(y, out, flat=s.flat)


def fmb_flops(s: Sizes) -> int:
    """FLOPs of `Fmb`."""
    products = 2 * flops.mix(s.positions, s.rank, s.width)
    size = s.positions * s.rank
    return (
        products + flops.norm(size) + flops.mlp(size, s.tokens * s.width, s.mlp_depth, s.mlp_width)
    )


@MODULES.register("fmb", flops=fmb_flops, uses=("rank", "mlp_depth", "mlp_width"))
class Fmb(nn.Module):
    """Wukong's factorisation machine block: ``reshape(MLP(LN(flatten(X (X^T Y)))))``."""

    sizes: Sizes

    @nn.compact
    def __call__(
        self, x: Float[Array, "b m d"], active: Active | None = None
    ) -> Float[Array, "b l d"]:
        """``m`` embeddings in, ``l`` out."""
        s = self.sizes
        axes = {"positions": s.positions, "rank": s.rank}
        project = kernel(self, "project", {"positions": s.positions}, {"rank": s.rank})
        projected = mix(x, project, flat=s.flat)
        products = _products(x, projected, s)
        where = None
        if active is not None:
            where = (
                prefix(s.positions, active.positions)[:, None] & prefix(s.rank, active.rank)[None]
            )
        normed = Norm(axes, name="norm")(products, where)
        mlp = Mlp(axes, s.output, s.mlp_depth, s.mlp_width, name="mlp")
        return mlp(normed, active and active.mlp_depth)


def wukong_flops(s: Sizes) -> int:
    """FLOPs of `Wukong`."""
    return fmb_flops(s) + linear_flops(s) + s.tokens * s.width


@MODULES.register("wukong", flops=wukong_flops, uses=("rank", "mlp_depth", "mlp_width"))
class Wukong(nn.Module):
    """Wukong's FMB with its linear compression block added: ``FMB(X) + W X``."""

    sizes: Sizes

    @nn.compact
    def __call__(
        self, x: Float[Array, "b m d"], active: Active | None = None
    ) -> Float[Array, "b l d"]:
        """``m`` embeddings in, ``l`` out."""
        return Fmb(self.sizes, name="fmb")(x, active) + Linear(self.sizes, name="lcb")(x, active)


def mask_flops(s: Sizes) -> int:
    """FLOPs of `Mask`."""
    inputs, outputs = s.positions * s.width, s.tokens * s.width
    gate = flops.norm(inputs) + flops.mlp(inputs, inputs, s.mlp_depth, s.mlp_width) + inputs
    return gate + flops.mix(s.positions, s.tokens, s.width) + flops.norm(outputs) + outputs


@MODULES.register("mask", flops=mask_flops, uses=("mlp_depth", "mlp_width"))
class Mask(nn.Module):
    """MaskNet block: ``ReLU(LN(W (LN(X) * MLP(flatten X))))``.

    Own choice: ``W`` mixes the embedding axis (``m l`` weights instead of ``(m d) (l d)``).
    """

    sizes: Sizes

    @nn.compact
    def __call__(
        self, x: Float[Array, "b m d"], active: Active | None = None
    ) -> Float[Array, "b l d"]:
        """``m`` embeddings in, ``l`` out."""
        s, width = self.sizes, {"width": self.sizes.width}
        where = active and within(s.width, active.width)
        mlp = Mlp(s.input, s.input, s.mlp_depth, s.mlp_width, name="mlp")
        gated = Norm(width, name="norm1")(x, where) * mlp(x, active and active.mlp_depth)
        out = kernel(self, "out", {"positions": s.positions}, {"tokens": s.tokens})
        y = mix(gated, out, flat=s.flat)
        return nn.relu(Norm(width, name="norm2")(y, where))
