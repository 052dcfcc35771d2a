"""Parameters with named axes: declared, and drawn from one flat draw.

A lane of a population is the same modules at maximum sizes, of which a model uses a *prefix* of every axis. The names
are what is needed to scale the initialisation and to find a compact model's parameters in a lane.
"""

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from autorank.base.typing import Array, Bool, Int, Key, PyTree

IN = "in "  # marks the axes of a kernel that are summed over


class Active(NamedTuple):
    """The part of the maximum sizes that a lane's layer uses: int32 scalars, None for a size that is not padded."""

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


def below(name: str, tree: PyTree) -> PyTree:
    """The parameters of a module as its parent has them, under ``name``.

    Examples:
        >>> below("mlp", {"bias": Leaf(("bias",), (3,), ("width",))})
        {'bias': Leaf(path=('mlp', 'bias'), shape=(3,), axes=('width',))}
    """
    return jax.tree.map(lambda leaf: leaf._replace(path=(name, *leaf.path)), tree, is_leaf=is_leaf)


def is_leaf(value: object) -> bool:
    """Whether a value is a `Leaf`; ``is_leaf`` of tree functions over trees of them."""
    return isinstance(value, Leaf)


def draw(key: Key, tree: PyTree, spread: Callable[[Leaf], Array | float]) -> PyTree:
    """Initial values of all parameters from ONE normal draw, cut up: one random op to compile instead of dozens.

    Kernels are ``spread(leaf)`` times a standard normal, biases 0, norm scales 1.
    """
    return fill(jax.random.normal(key, (noise_size(tree),)), tree, spread)


def noise_size(tree: PyTree) -> int:
    """How many numbers `fill` takes."""
    return sum(
        math.prod(leaf.shape) for leaf in jax.tree.leaves(tree, is_leaf=is_leaf) if leaf.is_kernel
    )


def fill(noise: Array | np.ndarray, tree: PyTree, spread: Callable[[Leaf], Any]) -> PyTree:
    """The initial values for a draw of noise; NumPy noise gives NumPy values, and nothing is compiled."""
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


def prefix(size: int, active: Int[Array, ""]) -> Bool[Array, " n"]:
    """The first ``active`` of ``size`` positions."""
    return jnp.arange(size) < active


def within(size: int, active: Int[Array, ""] | None) -> Bool[Array, " n"] | None:
    """`prefix`, or None where nothing is padded."""
    return None if active is None else prefix(size, active)
