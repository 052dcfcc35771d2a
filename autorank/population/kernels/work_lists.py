"""Which slots or lanes each kernel of the row stages serves: lists behind the slot table.

A kernel is made for some modules and for blocks of one size, a view. Its programs share out its list, so that none
starts for a slot that another kernel serves.
"""

from typing import NamedTuple

import jax.numpy as jnp

from autorank.base.typing import Array, Bool, Int
from autorank.population.capacity import Capacity, Lane
from autorank.population.kernels.row_formulas import FORMULAS
from autorank.population.kernels.slot_table import Column, number_of, slot_table, starts_of

SMALLEST = 16  # sides of a view are this, or a power of two times it


# Modules that share a kernel, since they want about as many registers: the hungriest branch sets them for all.
GROUPS: tuple[tuple[str, ...], ...] = (
    ("attention",),
    ("convolution", "cross", "fmb"),
    ("cross_low", "dot", "linear", "mask"),
)
LANES: tuple[str, ...] = ()


class Work(NamedTuple):
    """What a kernel serves: the slots with one of some modules, or `LANES`, whose layers a view holds."""

    modules: tuple[str, ...]
    view: Capacity


def views_of(capacity: Capacity) -> tuple[Capacity, ...]:
    """The sizes of blocks that kernels are made for, the smallest first.

    Blocks are padded to powers of two, and a model pays for those that hold it.
    """
    c = capacity
    found = [
        c._replace(positions=m, width=d, tokens=tuple(n for n in c.tokens if n <= m) or (m,))
        for m in _sides(c.positions)
        for d in _sides(c.width)
    ]
    return tuple(sorted(found, key=lambda view: view.positions * view.width))


def groups_of(capacity: Capacity) -> tuple[tuple[str, ...], ...]:
    """`GROUPS` of a capacity's modules."""
    known = starts_of(capacity)
    found = (tuple(name for name in group if name in known) for group in GROUPS)
    return tuple(group for group in found if group)


def modules_with_end(capacity: Capacity) -> tuple[str, ...]:
    """The capacity's modules whose products go through a formula."""
    return tuple(name for name in starts_of(capacity) if FORMULAS[name].end)


def works_of(capacity: Capacity) -> tuple[Work, ...]:
    """All works of the row stages, in the order of their lists."""
    modules = [*groups_of(capacity), LANES]
    if ends := modules_with_end(capacity):
        modules.append(ends)
    return tuple(
        Work(names, view) for names in dict.fromkeys(modules) for view in views_of(capacity)
    )


def table_with_lists(capacity: Capacity, lanes: Lane) -> Int[Array, " t"]:
    """The slot table, then ``[works, layers, 1 + pairs]``: how many slots or lanes each work has, and which; flat."""
    table = slot_table(capacity, lanes)
    count = lanes.num_layers.shape[0]
    columns = table.reshape(capacity.num_layers, count * capacity.slots, len(Column))
    return jnp.concatenate([table, _lists(capacity, columns).reshape(-1)])


def start_of_list(capacity: Capacity, lanes: int, work: Work, layer: Array) -> Array:
    """The place in the table of the number of a work's slots or lanes; these follow."""
    c, pairs = capacity, lanes * capacity.slots
    before = works_of(c).index(work) * c.num_layers + layer
    return c.num_layers * pairs * len(Column) + before * (1 + pairs)


def _lists(capacity: Capacity, columns: Array) -> Int[Array, "works layers list"]:
    pairs = columns.shape[1]
    inside = jnp.stack([_serves(capacity, work, columns) for work in works_of(capacity)])
    # The place of each in its list, and the other way round: fused, where sorting would be kernels of its own.
    place = jnp.where(inside, jnp.cumsum(inside, axis=-1) - 1, -1)
    number = jnp.arange(pairs)
    found = place[..., None, :] == number[None, None, :, None]
    which = jnp.sum(jnp.where(found, number[None, None, None], 0), axis=-1)
    length = jnp.sum(inside, axis=-1, keepdims=True)
    return jnp.concatenate([length, which], axis=-1).astype(jnp.int32)


def _serves(capacity: Capacity, work: Work, columns: Array) -> Bool[Array, "layers pairs"]:
    """Whether a work is that of a slot, or of a lane at the place of its number."""
    c = capacity
    if work.modules == LANES:
        first = columns[:, :: c.slots]
        most = jnp.maximum(first[..., Column.POSITIONS], first[..., Column.LEAVING])
        found = _is_view(c, work.view, most, first[..., Column.WIDTH])
        return jnp.pad(found, ((0, 0), (0, columns.shape[1] - found.shape[1])))
    numbers = jnp.asarray([number_of(name) for name in work.modules], jnp.int32)
    most = jnp.maximum(columns[..., Column.POSITIONS], columns[..., Column.TOKENS])
    found = _is_view(c, work.view, most, columns[..., Column.WIDTH])
    return found & jnp.isin(columns[..., Column.MODULE], numbers)


def _is_view(capacity: Capacity, view: Capacity, positions: Array, width: Array) -> Array:
    """Whether a view is the first one that holds these sizes."""
    found = jnp.ones(positions.shape, bool)
    for other in views_of(capacity):
        held = (positions <= other.positions) & (width <= other.width)
        if other == view:
            return found & held
        found = found & ~held
    raise ValueError(f"{view} is no view of {capacity}")


def _sides(most: int) -> list[int]:
    """Powers of two times `SMALLEST` below ``most``, then ``most``."""
    found = [SMALLEST]
    while found[-1] < most:
        found.append(2 * found[-1])
    return [*found[:-1], min(most, found[-1])]
