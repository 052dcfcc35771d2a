"""What the kernels need to know of every slot, as a table of integers."""

from enum import IntEnum, auto
from functools import lru_cache
from typing import Any

import jax.numpy as jnp
import numpy as np

from autorank.base.typing import Array, Int
from autorank.population.capacity import Capacity, Lane
from autorank.population.families import groups
from autorank.population.kernels.row_formulas import FORMULAS
from autorank.population.storage import arena_size, parts_of


class Column(IntEnum):
    """Columns of the table; a start is the place of an array in the slot's arena."""

    MODULE = 0  # its place in `MODULES` plus 1, 0 without a module
    ARENA = auto()  # where the slot's arena begins
    POSITIONS = auto()  # embeddings that come into the layer
    LEAVING = auto()  # embeddings that leave it
    WIDTH = auto()
    TOKENS = auto()
    RANK = auto()
    HEADS = auto()
    PLACE = auto()  # first embedding of the layer's output that the slot's tokens are added to
    PRE = auto()
    POST = auto()
    MAPPED = auto()  # whether the shortcut is a map
    WEIGHTED = auto()
    # The matrix products of a module that has them: `[inputs] -> hidden, `depth` times, -> [outputs]`.
    DEPTH = auto()
    COLUMNS = auto()  # inputs are `[positions, columns]`
    HIDDEN = auto()
    OUTPUTS = auto()  # outputs are `[outputs, width]`
    BENDS = auto()  # whether hidden units have an offset and a ReLU
    ENDS = auto()  # whether a row formula follows


MODULES = tuple(sorted(FORMULAS))


def number_of(module: str) -> int:
    """How a module is written in the table."""
    return MODULES.index(module) + 1


def slot_table(capacity: Capacity, lanes: Lane) -> Int[Array, " t"]:
    """The table ``[layers, lanes, slots, columns]``, flat; ``lanes`` are stacked."""
    c = capacity
    shape = c.num_layers, lanes.num_layers.shape[0], c.slots
    modules = jnp.asarray([0, *(number_of(kind.module) for kind in c.kinds)], jnp.int32)
    heads = jnp.asarray([1, *(kind.heads for kind in c.kinds)], jnp.int32)
    kinds = lanes.kinds.transpose(1, 0, 2) + 1
    module = modules[kinds]
    layer, slot = jnp.arange(c.num_layers)[:, None, None], jnp.arange(c.slots)[None, None]
    positions = lanes.positions.T[:, :, None]

    def of_lane(values: Array) -> Array:
        return jnp.broadcast_to(values[None, :, None], shape)

    def holds(*names: str) -> Array:
        return jnp.isin(module, jnp.asarray([number_of(name) for name in names], jnp.int32))

    on = layer < lanes.num_layers[None, :, None]
    tokens, rank, width = map(of_lane, (lanes.num_tokens, lanes.rank, lanes.width))
    entering, low = positions[:-1], holds("cross_low")
    found: dict[Column, Any] = {
        Column.MODULE: module,
        Column.ARENA: jnp.arange(np.prod(shape), dtype=jnp.int32).reshape(shape) * arena_size(c),
        Column.POSITIONS: entering,
        Column.LEAVING: positions[1:],
        Column.WIDTH: width,
        Column.TOKENS: tokens,
        Column.RANK: rank,
        Column.HEADS: heads[kinds],
        Column.PLACE: jnp.where(of_lane(lanes.concat), slot * tokens, 0),
        Column.PRE: of_lane(lanes.pre) & on,
        Column.POST: of_lane(lanes.post) & on,
        Column.MAPPED: entering != positions[1:],
        Column.WEIGHTED: of_lane(lanes.weighted),
        Column.DEPTH: jnp.where(low, 1, of_lane(lanes.mlp_depth)),
        Column.COLUMNS: jnp.where(holds("dot"), entering, jnp.where(holds("fmb"), rank, width)),
        Column.HIDDEN: jnp.where(low, rank, of_lane(lanes.mlp_width)),
        Column.OUTPUTS: jnp.where(low | holds("mask"), entering, tokens),
        Column.BENDS: ~low,
        Column.ENDS: low | holds("mask"),
    }
    columns = [jnp.broadcast_to(found[column], shape).astype(jnp.int32) for column in Column]
    return jnp.stack(columns, axis=-1).reshape(-1)


@lru_cache(maxsize=64)
def starts_of(capacity: Capacity) -> dict[str, dict[str, int]]:
    """Where the arrays of each module of a capacity begin in a slot's arena."""
    found = {}
    for group in groups(capacity):
        names = {capacity.kinds[k].module for k in group.kinds}
        assert len(names) == 1, "the capacity must be split"
        found[names.pop()] = {name: part.start for name, part in parts_of(group).items()}
    return found
