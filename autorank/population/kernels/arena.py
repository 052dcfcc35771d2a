"""The arenas as a whole: cleared, and learned with AdamW, where models have numbers; the rest is never touched.

An arena is as long as the largest module at its largest sizes, and most modules fill a small part of it.
"""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from autorank.base.typing import Array, Bool, Float
from autorank.population.capacity import Capacity
from autorank.population.families import groups
from autorank.population.kernels.layout import Block, Layout, SlotAt, call, load, store
from autorank.population.kernels.row_formulas import FORMULAS
from autorank.population.kernels.slot_table import Column, number_of
from autorank.population.storage import arena_size, parts_of

PIECE = 4096  # numbers of a program
B1, B2 = 0.9, 0.999  # `optax.adamw`


class Extent(NamedTuple):
    """Where the numbers of an array lie: as many pieces of ``stride`` as the model's own ``count``, or all of them."""

    start: int
    stride: int
    count: Column | None


class Moments(NamedTuple):
    """Parameters with what Adam keeps of their gradients; arenas, flat."""

    params: Array
    mean: Array
    square: Array


class Rates(NamedTuple):
    """Of each lane ``[p]``."""

    rate: Float[Array, " p"]
    eps: Float[Array, " p"]
    decay: Float[Array, " p"]
    steps: Float[Array, " p"]  # taken with this one
    runs: Bool[Array, " p"]


def cleared(layout: Layout, table: Array) -> Array:
    """Arenas ``[layers, lanes, slots, arena]``, flat: 0 where models have numbers, arbitrary elsewhere."""

    def kernel(table: Any, arena: Any) -> None:
        here = _Piece(layout, table)

        @pl.when(here.counts)
        def _():
            store(arena, here.block, jnp.zeros(PIECE, jnp.float32), layout.kernels)

    (found,), _ = call(layout, kernel, _grid(layout), [table], [_arena(layout)])
    return found


def learned(
    layout: Layout, table: Array, moments: Moments, gradient: Array, rates: Rates
) -> Moments:
    """One step of AdamW (Loshchilov and Hutter 2019), as `optax.adamw` takes it, where models have numbers."""
    steps = rates.steps
    columns = [rates.rate, rates.eps, rates.decay, 1 - B1**steps, 1 - B2**steps]
    numbers = jnp.stack([*columns, rates.runs.astype(jnp.float32)], axis=1).reshape(-1)

    def kernel(table, numbers, gradient, params, mean, square):  # noqa: PLR0917
        here = _Piece(layout, table)
        rate, eps, decay, left1, left2, runs = (numbers[here.lane * 6 + i] for i in range(6))

        @pl.when(here.counts & (runs > 0))
        def _():
            p, g = load(params, here.block), load(gradient, here.block)
            m = B1 * load(mean, here.block) + (1 - B1) * g
            v = B2 * load(square, here.block) + (1 - B2) * g * g
            update = (m / left1) / (jnp.sqrt(v / left2) + eps) + decay * p
            store(params, here.block, p - rate * update, layout.kernels)
            store(mean, here.block, m, layout.kernels)
            store(square, here.block, v, layout.kernels)

    _, found = call(layout, kernel, _grid(layout), [table, numbers, gradient], [], sums=moments)
    return Moments(*found)


def extents(capacity: Capacity) -> Iterator[tuple[str, list[Extent]]]:
    """Where the numbers of each module lie; ``capacity`` is split."""
    for group in groups(capacity):
        module = capacity.kinds[group.kinds[0]].module
        products, found = FORMULAS[module].products, []
        for name, part in parts_of(group).items():
            count, size = None, math.prod(part.shape)
            if products and name == products.first:
                count = Column.POSITIONS
            elif products and (name == products.last or name.startswith("kernel")):
                count = Column.HIDDEN
            stride = size // part.shape[0] if count is not None else size
            found.append(Extent(part.start, stride, count))
        yield module, found


class _Piece:
    """Where a program is: some numbers of one slot."""

    def __init__(self, layout: Layout, table: Any) -> None:
        slot, piece = pl.program_id(0), pl.program_id(1)
        zero = 0 * slot
        # Slots of all layers lie one behind the other in the table.
        self._at = SlotAt(table, layout, zero, slot)
        self.lane = slot // layout.capacity.slots % layout.lanes
        self._first = piece * PIECE
        i = jax.lax.broadcasted_iota(jnp.int32, (PIECE,), 0) + self._first
        size = arena_size(layout.capacity)
        self.block = Block(slot * size + i, i < size)
        self._capacity = layout.capacity

    @property
    def counts(self) -> Array:
        """Whether the model may have numbers here."""
        found, last = self._first < 0, self._first + PIECE
        for module, parts in extents(self._capacity):
            within = self._first < 0
            for start, stride, count in parts:
                size = stride if count is None else stride * self._at[count]
                within = within | ((self._first < start + size) & (last > start))
            found = found | (within & (self._at[Column.MODULE] == number_of(module)))
        return found


def _grid(layout: Layout) -> tuple[int, int]:
    slots = layout.capacity.num_layers * layout.pairs
    return slots, -(-arena_size(layout.capacity) // PIECE)


def _arena(layout: Layout) -> jax.ShapeDtypeStruct:
    c = layout.capacity
    return layout.shape(c.num_layers * layout.pairs * arena_size(c), jnp.float32)
