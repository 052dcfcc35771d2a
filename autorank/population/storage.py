"""Where the parameters of a lane lie: one tree for all models of a capacity, with an arena for each slot.

A slot holds one module of any kind, so its parameters share one flat vector, as long as the largest kind needs. A
parameter has the shape of the largest sizes; a smaller model uses a prefix of every axis, and the rest is zero.
"""

import math
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from autorank.base.typing import Array, PyTree
from autorank.models.blocks import Norm
from autorank.models.dhen import DhenConfig, canonical, layers, parameters, place_of
from autorank.models.embedding import Embedding
from autorank.models.heads import NUM_LOGITS, Head
from autorank.models.interactions import MODULES
from autorank.models.parameters import Leaf, is_leaf, leaves
from autorank.population.capacity import Capacity, Kind, kind_of


class Part(NamedTuple):
    """Where a parameter of a module lies in the arena."""

    leaf: Leaf
    start: int

    @property
    def stop(self) -> int:
        """The end of its numbers."""
        return self.start + math.prod(self.leaf.shape)


# The parts of a lane that every layer has; their arrays have an axis of layers before that of lanes.
LAYERED = ("norm", "scale", "shortcut", "arena")


@lru_cache(maxsize=64)
def module_parts(capacity: Capacity, kind: Kind) -> PyTree:
    """Tree of `Part`: the parameters of a module in the arena of its slot."""
    x = jax.ShapeDtypeStruct((1, capacity.positions, capacity.width), jnp.float32)
    tree = leaves(MODULES[kind.module].make(capacity.sizes(kind)), x)
    flat, treedef = jax.tree.flatten(tree, is_leaf=is_leaf)
    ends = np.cumsum([math.prod(leaf.shape) for leaf in flat]).tolist()
    starts = [0, *ends[:-1]]
    return jax.tree.unflatten(treedef, [Part(*pair) for pair in zip(flat, starts, strict=True)])


def arena_size(capacity: Capacity) -> int:
    """Numbers that a slot has room for."""
    return max([1, *(kind_size(capacity, kind) for kind in capacity.kinds)])


def kind_size(capacity: Capacity, kind: Kind) -> int:
    """Numbers of a module's parameters."""
    parts = jax.tree.leaves(module_parts(capacity, kind), is_leaf=is_part)
    return max(part.stop for part in parts)


def is_part(value: object) -> bool:
    """Whether a value is a `Part`."""
    return isinstance(value, Part)


def module_params(capacity: Capacity, kind: Kind, arena: Array) -> PyTree:
    """The parameters of a module from the beginning of its slot's arena."""
    return jax.tree.map(
        lambda part: arena[part.start : part.stop].reshape(part.leaf.shape),
        module_parts(capacity, kind),
        is_leaf=is_part,
    )


@lru_cache(maxsize=64)
def shapes(capacity: Capacity) -> PyTree:
    """Tree of shapes: the parameters of one lane."""
    c = capacity
    x = jax.ShapeDtypeStruct((1, c.num_fields, c.width), jnp.float32)
    dense = jax.ShapeDtypeStruct((1, c.num_dense), jnp.float32)
    last = jax.ShapeDtypeStruct((1, c.positions, c.width), jnp.float32)

    def sizes(tree: PyTree) -> PyTree:
        return jax.tree.map(lambda leaf: leaf.shape, tree, is_leaf=is_leaf)

    norm = sizes(leaves(Norm({"width": c.width}), last))
    return {
        "embedding": sizes(leaves(Embedding(c.width), x, dense)),
        "head": sizes(leaves(head_module(c), last)),
        "norm": {name: (c.num_layers, *shape) for name, shape in norm.items()},
        "scale": (c.num_layers, c.slots),
        "shortcut": (c.num_layers, c.positions, c.positions),
        "arena": (c.num_layers, c.slots, arena_size(c)),
    }


def head_module(capacity: Capacity) -> Head:
    """The head at its largest sizes."""
    axes = {"positions": capacity.positions, "width": capacity.width}
    return Head(axes, capacity.head_depth, capacity.head_width, NUM_LOGITS[capacity.head])


def is_shape(value: object) -> bool:
    """Whether a value is a shape in the tree of `shapes`."""
    return isinstance(value, tuple) and all(isinstance(n, int) for n in value)


def insert(params: PyTree, config: DhenConfig, capacity: Capacity) -> PyTree:
    """One lane's parameters (NumPy) from those of the compact model; zeros beyond the model."""
    config = canonical(config)
    lane = jax.tree.map(
        lambda shape: np.zeros(shape, np.float32), shapes(capacity), is_leaf=is_shape
    )

    def put(leaf: Leaf, value: Any) -> None:
        _view(lane, leaf, config, capacity)[...] = np.asarray(value)

    jax.tree.map(
        put, parameters(config, capacity.num_fields, capacity.num_dense), params, is_leaf=is_leaf
    )
    return lane


def extract(lane: PyTree, config: DhenConfig, capacity: Capacity) -> PyTree:
    """The compact model's parameters (NumPy, copies) from those of a lane (NumPy)."""
    config = canonical(config)
    return jax.tree.map(
        lambda leaf: np.array(_view(lane, leaf, config, capacity)),
        parameters(config, capacity.num_fields, capacity.num_dense),
        is_leaf=is_leaf,
    )


def used(config: DhenConfig, capacity: Capacity) -> PyTree:
    """Bool arrays: which numbers of a lane the model has; the others are zero and stay so."""
    config = canonical(config)
    tree = parameters(config, capacity.num_fields, capacity.num_dense)
    ones = jax.tree.map(lambda leaf: np.ones(leaf.shape), tree, is_leaf=is_leaf)
    return jax.tree.map(lambda a: a > 0, insert(ones, config, capacity))


def _view(lane: PyTree, leaf: Leaf, config: DhenConfig, capacity: Capacity) -> np.ndarray:
    """The numbers of a compact model's parameter within a lane, as a view."""
    place, value = place_of(leaf), lane
    inside = tuple(slice(n) for n in leaf.shape)
    if place.slot is not None:
        assert place.layer is not None
        part: Any = module_parts(
            capacity, kind_of(layers(config)[place.layer].modules[place.slot], config)
        )
        for name in place.names:
            part = part[name]
        whole = value["arena"][place.layer, place.slot, part.start : part.stop]
        return whole.reshape(part.leaf.shape)[inside]
    for name in place.names:
        value = value[name]
    return value[inside if place.layer is None else (place.layer, *inside)]
