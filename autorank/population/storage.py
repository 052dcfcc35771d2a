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

from autorank.base.typing import Array, Float, PyTree
from autorank.models.blocks import Norm
from autorank.models.dhen import DhenConfig, canonical, layers, parameters, place_of
from autorank.models.embedding import Embedding
from autorank.models.heads import NUM_LOGITS, Head
from autorank.models.parameters import Leaf, is_leaf, leaves
from autorank.population.capacity import Capacity, kind_of
from autorank.population.families import Group, groups, prefixes


class Part(NamedTuple):
    """Where an array of a slot lies in its arena."""

    shape: tuple[int, ...]
    start: int

    @property
    def stop(self) -> int:
        """The end of its numbers."""
        return self.start + math.prod(self.shape)


# The parts of a lane that every layer has; their arrays have an axis of layers before that of lanes.
LAYERED = ("norm", "scale", "shortcut", "arena")


@lru_cache(maxsize=256)
def parts_of(group: Group) -> dict[str, Part]:
    """The arrays of a slot of this group in its arena."""
    found: dict[str, Part] = {}
    start = 0
    for name, shape in group.shapes().items():
        found[name] = Part(shape, start)
        start = found[name].stop
    return found


def group_size(group: Group) -> int:
    """Numbers of a slot of this group."""
    return max(part.stop for part in parts_of(group).values())


def arena_size(capacity: Capacity) -> int:
    """Numbers that a slot has room for."""
    return max([1, *map(group_size, groups(capacity))])


def slot_params(group: Group, arena: Float[Array, " a"]) -> dict[str, Array]:
    """The arrays of a slot from the beginning of its arena."""
    return {
        name: arena[part.start : part.stop].reshape(part.shape)
        for name, part in parts_of(group).items()
    }


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
        array, index = _find(lane, leaf, config, capacity)
        array[index] = np.asarray(value)

    jax.tree.map(
        put, parameters(config, capacity.num_fields, capacity.num_dense), params, is_leaf=is_leaf
    )
    return lane


def extract(lane: PyTree, config: DhenConfig, capacity: Capacity) -> PyTree:
    """The compact model's parameters (NumPy, copies) from those of a lane (NumPy)."""
    config = canonical(config)

    def take(leaf: Leaf) -> np.ndarray:
        array, index = _find(lane, leaf, config, capacity)
        return np.array(array[index])

    return jax.tree.map(
        take,
        parameters(config, capacity.num_fields, capacity.num_dense),
        is_leaf=is_leaf,
    )


def used(config: DhenConfig, capacity: Capacity) -> PyTree:
    """Bool arrays: which numbers of a lane the model has; the others are zero and stay so."""
    config = canonical(config)
    tree = parameters(config, capacity.num_fields, capacity.num_dense)
    ones = jax.tree.map(lambda leaf: np.ones(leaf.shape), tree, is_leaf=is_leaf)
    return jax.tree.map(lambda a: a > 0, insert(ones, config, capacity))


def _find(
    lane: PyTree, leaf: Leaf, config: DhenConfig, capacity: Capacity
) -> tuple[np.ndarray, tuple[Any, ...]]:
    """The array that holds a compact model's parameter, as a view of the lane, and the place in it."""
    place, value = place_of(leaf), lane
    if place.slot is None:
        for name in place.names:
            value = value[name]
        inside = prefixes(leaf.shape)
        return value, inside if place.layer is None else (place.layer, *inside)
    assert place.layer is not None
    kind = kind_of(layers(config)[place.layer].modules[place.slot], config)
    index = capacity.kinds.index(kind)
    (group,) = (g for g in groups(capacity) if index in g.kinds)
    name, inside = group.place(kind, place.names, leaf.shape)
    part = parts_of(group)[name]
    whole = value["arena"][place.layer, place.slot, part.start : part.stop]
    return whole.reshape(part.shape), inside
