"""What all parts of a model are made of: named axes, flat initialisation, layer norm, hidden layers.

Every parameter names its axes, and is active on a *prefix* of each of them. A masked model (`masked`) is the same
modules at maximum sizes with the rest of every axis cut off, so the names are all that is needed to mask it, to scale
its initialisation, and to cut a compact model out of it.
"""

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from autorank.base.typing import Array, Bool, Float, Int, Key, PyTree

IN = "in "  # marks the axes of a kernel that are summed over
EPS = 1e-6  # of every layer norm; new embedding rows have variances around 1e-4


class Active(NamedTuple):
    """How much of the maximum sizes a masked layer uses; int32 scalars, None for a size that is not padded."""

    positions: Int[Array, ""]  # embeddings coming in
    width: Int[Array, ""] | None
    rank: Int[Array, ""]
    heads: Int[Array, ""] | None
    mlp_depth: Int[Array, ""] | None


class Leaf(NamedTuple):
    """A parameter before it has values; a tree of these is static."""

    path: tuple[str, ...]
    shape: tuple[int, ...]
    axes: tuple[str, ...]

    @property
    def is_kernel(self) -> bool:
        """Whether it is summed over some axis."""
        return any(axis.startswith(IN) for axis in self.axes)

    @property
    def fan_in(self) -> int:
        """Number of terms in the sum, at least 1."""
        sizes = zip(self.axes, self.shape, strict=True)
        return max(1, math.prod(n for axis, n in sizes if axis.startswith(IN)))


def kernel(
    module: nn.Module, name: str, inputs: Mapping[str, int], outputs: Mapping[str, int]
) -> Array:
    """A weight ``[*inputs, *outputs]`` that is summed over its input axes."""
    names = (*(IN + n for n in inputs), *outputs)
    return _parameter(module, name, names, (*inputs.values(), *outputs.values()))


def bias(module: nn.Module, name: str, axes: Mapping[str, int]) -> Array:
    """An offset, zero at the start; one named ``scale`` is a factor, one at the start."""
    return _parameter(module, name, tuple(axes), tuple(axes.values()))


def _parameter(
    module: nn.Module, name: str, names: tuple[str, ...], shape: tuple[int, ...]
) -> Array:
    # The values come from `draw`; here only shapes and names are declared.
    zeros = nn.with_logical_partitioning(lambda _: jnp.zeros(shape), names)
    return module.param(name, zeros)  # pyright: ignore[reportReturnType]


def call(module: nn.Module, params: PyTree, *inputs: Any) -> Array:
    """The module as a function of its parameters."""
    return module.apply({"params": params}, *inputs)  # pyright: ignore[reportReturnType]


def leaves(module: nn.Module, *inputs: Array | jax.ShapeDtypeStruct) -> PyTree:
    """The module's parameters as a tree of `Leaf`, without computing anything."""
    boxed = jax.eval_shape(module.init, jax.random.key(0), *inputs).get("params", {})
    is_box = lambda v: isinstance(v, nn.LogicallyPartitioned)  # noqa: E731
    return jax.tree_util.tree_map_with_path(
        lambda path, b: Leaf(tuple(p.key for p in path), b.value.shape, b.names),
        boxed,
        is_leaf=is_box,
    )


def is_leaf(value: object) -> bool:
    """For tree functions over trees of `Leaf`."""
    return isinstance(value, Leaf)


def draw(key: Key, tree: PyTree, spread: Callable[[Leaf], Array | float]) -> PyTree:
    """Initial values of all parameters from ONE normal draw, cut up: one random op to compile instead of dozens.

    Kernels are ``spread(leaf)`` times a standard normal, biases 0, norm scales 1.
    """
    return fill(jax.random.normal(key, (noise_size(tree),)), tree, spread)


def noise_size(tree: PyTree) -> int:
    """Numbers that `fill` takes."""
    return sum(
        math.prod(leaf.shape) for leaf in jax.tree.leaves(tree, is_leaf=is_leaf) if leaf.is_kernel
    )


def fill(noise: Array | np.ndarray, tree: PyTree, spread: Callable[[Leaf], Any]) -> PyTree:
    """The values that `draw` makes of its noise; NumPy from NumPy (which costs no compilation)."""
    flat, treedef = jax.tree.flatten(tree, is_leaf=is_leaf)
    sizes = [math.prod(leaf.shape) if leaf.is_kernel else 0 for leaf in flat]
    ends = np.cumsum(sizes)
    full = jnp.full if isinstance(noise, jax.Array) else partial(np.full, dtype=np.float32)

    def value(leaf: Leaf, size: int, end: int) -> Any:
        if size:
            return noise[end - size : end].reshape(leaf.shape) * spread(leaf)
        return full(leaf.shape, 1.0 if leaf.path[-1] == "scale" else 0.0)

    values = [value(*item) for item in zip(flat, sizes, map(int, ends), strict=True)]
    return jax.tree.unflatten(treedef, values)


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


def prefix(size: int, active: Int[Array, ""]) -> Bool[Array, " n"]:
    """The first ``active`` of ``size`` positions."""
    return jnp.arange(size) < active


def within(size: int, active: Int[Array, ""] | None) -> Bool[Array, " n"] | None:
    """`prefix`, or None where nothing is padded."""
    return None if active is None else prefix(size, active)


def cut(
    params: PyTree, tree: PyTree, counts: dict, gate: Array | None = None, skip: int = 0
) -> PyTree:
    """Zeros beyond the active prefix of each axis, and everywhere if ``gate`` is False.

    ``skip`` leading axes of the leaves (layers, slots) are not in ``params``.
    """

    def one(leaf: Leaf, value: Array) -> Array:
        where = gate
        for i, axis in enumerate(leaf.axes[skip:]):
            count = counts.get(axis.removeprefix(IN))
            if count is not None:
                lead = tuple(j for j in range(value.ndim) if j != i)
                inside = jnp.expand_dims(prefix(value.shape[i], count), lead)
                where = inside if where is None else where & inside
        return value if where is None else jnp.where(where, value, 0.0)

    return jax.tree.map(one, tree, params, is_leaf=is_leaf)


class Norm(nn.Module):
    """Layer norm over the trailing axes named in ``axes`` (Ba et al. 2016), population variance."""

    axes: Mapping[str, int]

    @nn.compact
    def __call__(self, x: Array, where: Array | None = None) -> Array:
        """``where`` (shape of ``axes``) marks the active entries; ``x`` is zero outside them, and so is the result."""
        over = tuple(range(-len(self.axes), 0))
        lead = tuple(range(x.ndim - len(self.axes)))
        dtype, x = (
            x.dtype,
            x.astype(jnp.float32),
        )  # moments of bfloat16 activations, too, in float32
        if where is None:
            x = x - jnp.mean(x, axis=over, keepdims=True)
            variance = jnp.mean(jnp.square(x), axis=over, keepdims=True)
        else:
            count = jnp.maximum(jnp.sum(where), 1).astype(x.dtype)
            mean = jnp.sum(x, axis=over, keepdims=True) / count
            x = jnp.where(jnp.expand_dims(where, lead), x - mean, 0.0)
            variance = jnp.sum(jnp.square(x), axis=over, keepdims=True) / count
        scale = jnp.expand_dims(bias(self, "scale", self.axes), lead)
        offset = jnp.expand_dims(bias(self, "bias", self.axes), lead)
        return (x * jax.lax.rsqrt(variance + EPS) * scale + offset).astype(dtype)


class Hidden(nn.Module):
    """``depth`` fully connected layers with ReLU over flattened inputs; layer i's axis is ``<axis>i``."""

    inputs: Mapping[str, int]
    depth: int
    width: int
    axis: str

    @nn.compact
    def __call__(
        self, x: Array, depth: Array | None = None, columns: np.ndarray | None = None
    ) -> Array:
        """``[b, *inputs]`` -> ``[b, width]``; layers beyond ``depth`` (masked models) are skipped.

        With ``columns``, ``x`` is ``[b, n]`` and those of its columns are the inputs: choosing weights instead of
        activations leaves one plain product.
        """
        x = x.reshape(x.shape[0], -1)
        inputs = self.inputs
        for i in range(1, self.depth + 1):
            outputs = {f"{self.axis}{i}": self.width}
            weight = kernel(self, f"kernel{i}", inputs, outputs).reshape(-1, self.width)
            if columns is not None and i == 1:
                empty = jnp.zeros((x.shape[1], self.width), weight.dtype)
                weight = empty.at[columns].set(weight, unique_indices=True)
            y = nn.relu(product(x, weight) + bias(self, f"bias{i}", outputs)[None])
            x = y if depth is None or i == 1 else jnp.where(i <= depth, y, x)
            inputs = outputs
        return x


class Mlp(nn.Module):
    """`Hidden` layers and a linear one."""

    inputs: Mapping[str, int]
    outputs: Mapping[str, int]
    depth: int
    width: int
    axis: str = "mlp"

    @nn.compact
    def __call__(
        self, x: Array, depth: Array | None = None, columns: np.ndarray | None = None
    ) -> Array:
        """``[b, *inputs]`` -> ``[b, *outputs]``; ``columns`` as in `Hidden`."""
        hidden = Hidden(self.inputs, self.depth, self.width, self.axis, name="hidden")
        x = hidden(x, depth, columns)
        weight = kernel(self, "out", {self.axis: self.width}, self.outputs)
        y = product(x, weight.reshape(self.width, -1))
        return y.reshape(-1, *self.outputs.values()) + bias(self, "bias", self.outputs)[None]
