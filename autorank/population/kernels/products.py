"""Where the numbers of a layer's matrix products lie, for one slot and one tile of a product.

The products of a slot are a chain ``[batch, inputs] -> hidden -> ... -> hidden -> [batch, outputs]``. How many there
are and how large is the model's own affair.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from autorank.base.typing import Array
from autorank.population.kernels.layout import Block, Layout, Room, SlotAt, padded
from autorank.population.kernels.row_formulas import FORMULAS
from autorank.population.kernels.slot_table import Column, number_of, starts_of

TILE, DEPTH = 64, 64  # sides of a tile of the result, and terms that are summed at a time


@dataclass(frozen=True)
class Product:
    """One product of a chain: number ``i`` (from 0) into hidden units, or the last one.

    It tells where the numbers of a slot lie: ``rows`` before the product, ``weights``, ``results`` behind it.
    """

    layout: Layout
    at: SlotAt
    i: int | None  # None for the last product

    @property
    def active(self) -> Array:
        """Whether the slot has the product."""
        at, modules = self.at, self._modules
        found = at[Column.MODULE] < 0
        for name in modules:
            found = found | (at[Column.MODULE] == number_of(name))
        return found if self.i is None else found & (at[Column.DEPTH] > self.i)

    @property
    def count_in(self) -> Array:
        """Terms of a sum."""
        at = self.at
        return at[Column.POSITIONS] * at[Column.COLUMNS] if self.i == 0 else at[Column.HIDDEN]

    @property
    def count_out(self) -> Array:
        """Columns of the result."""
        at = self.at
        return at[Column.OUTPUTS] * at[Column.WIDTH] if self.i is None else at[Column.HIDDEN]

    @property
    def bends(self) -> Array:
        """Whether hidden units have an offset and a ReLU."""
        return self.at[Column.BENDS] > 0

    def before(self, room: Room, row: Array, k: Array) -> Array:
        """Place of a number before the product, in `Chain.inputs` or `Chain.hidden`."""
        out = self.layout
        if self.i == 0:
            return (room.pair * out.batch + row) * out.inputs + k
        layer = self.at[Column.DEPTH] - 1 if self.i is None else self.i - 1
        return self._hidden(room, layer, row, k)

    def behind(self, room: Room, row: Array, n: Array) -> Array:
        """Place of a number behind the product, in `Chain.hidden` or `Chain.results`."""
        out = self.layout
        if self.i is not None:
            return self._hidden(room, self.i, row, n)
        pair = self.at[Column.ENDS] * room.pairs + room.pair
        return (pair * out.batch + row) * out.result + n

    def weight(self, k: Array, n: Array) -> Array:
        """Place of a weight in the arena."""
        c, at = self.layout.capacity, self.at
        start = at[Column.ARENA] + self._start(self._name)
        if self.i == 0:
            columns = at[Column.COLUMNS]
            i, j = k // columns, k % columns
            hidden = self._of_module(lambda name: self._sizes(name)[0])
            return start + (i * self._stride + j) * hidden + n
        if self.i is not None:
            return start + k * c.mlp_width + n
        width = at[Column.WIDTH]
        outputs = self._of_module(lambda name: self._sizes(name)[1])
        return start + k * outputs * c.width + self._packed(n, width)

    def offset(self, n: Array) -> Array:
        """Place of an offset in the arena."""
        at = self.at
        if self.i is not None:
            name = f"bias{self.i + 1}"
            return at[Column.ARENA] + self._start(lambda _: name) + n
        return (
            at[Column.ARENA]
            + self._start(lambda name: _products(name).offset)
            + self._packed(n, at[Column.WIDTH])
        )

    @property
    def has_offset(self) -> Array:
        """Whether there is an offset."""
        return self.bends if self.i is not None else self.at[Column.MODULE] > 0

    def _packed(self, n: Array, width: Array) -> Array:
        """A column ``(output, e)`` of the model in an array of the largest width."""
        return n // width * self.layout.capacity.width + n % width

    def _hidden(self, room: Room, layer: Any, row: Array, h: Array) -> Array:
        out = self.layout
        return ((layer * room.pairs + room.pair) * out.batch + row) * out.hidden + h

    @property
    def _stride(self) -> Array:
        """Columns of an embedding's inputs in the first matrix."""
        return self._of_module(lambda name: _products(name).columns(self.layout.capacity))

    def _name(self, module: str) -> str:
        found = _products(module)
        if self.i is None:
            return found.last
        return found.first if self.i == 0 else f"kernel{self.i + 1}"

    def _start(self, name: Callable[[str], str]) -> Array:
        starts = starts_of(self.layout.capacity)
        return self._of_module(lambda module: starts[module].get(name(module), 0))

    def _sizes(self, module: str) -> tuple[int, int]:
        """Hidden units and outputs that a module's arrays have room for."""
        c, formula = self.layout.capacity, FORMULAS[module]
        hidden = c.mlp_width if _products(module).bends else c.rank
        return hidden, c.positions if formula.end else max(c.tokens)

    def _of_module(self, value: Callable[[str], int]) -> Array:
        """A number that depends on the slot's module."""
        found = jnp.int32(0)
        for name in self._modules:
            here = self.at[Column.MODULE] == number_of(name)
            found = jnp.where(here, value(name), found)
        return found

    @property
    def _modules(self) -> list[str]:
        """Modules with this product."""
        names = [n for n in starts_of(self.layout.capacity) if FORMULAS[n].products]
        return [n for n in names if not self.i or _products(n).bends]


def _products(module: str) -> Any:
    found = FORMULAS[module].products
    assert found
    return found


class Tile:
    """A tile of a product, as places of its numbers."""

    def __init__(self, layout: Layout, at: SlotAt, i: int | None) -> None:
        self._out, self.product = layout, Product(layout, at, i)
        self._kept, self._sloped = at.kept, at.sloped
        self.side = min(TILE, padded(layout.batch))
        self.depth = min(DEPTH, padded(layout.batch))

    def rows(self, tile: Array) -> Array:
        """Rows of a tile."""
        return tile * self.side + jnp.arange(self.side, dtype=jnp.int32)

    @staticmethod
    def columns(tile: Array) -> Array:
        """Columns of a tile."""
        return tile * TILE + jnp.arange(TILE, dtype=jnp.int32)

    def before(self, row: Array, k: Array) -> Block:
        """Numbers before the product."""
        place = partial(self.product.before, self._kept)
        return self._block(row, k, place, self.product.count_in)

    def behind(self, row: Array, n: Array) -> Block:
        """Numbers behind the product."""
        place = partial(self.product.behind, self._kept)
        return self._block(row, n, place, self.product.count_out)

    def to_before(self, row: Array, k: Array) -> Block:
        """Slopes of the numbers before the product."""
        place = partial(self.product.before, self._sloped)
        return self._block(row, k, place, self.product.count_in)

    def to_behind(self, row: Array, n: Array) -> Block:
        """Slopes of the numbers behind the product."""
        place = partial(self.product.behind, self._sloped)
        return self._block(row, n, place, self.product.count_out)

    def weight(self, k: Array, n: Array) -> Block:
        """Weights."""
        k, n = k[:, None], n[None, :]
        inside = (k < self.product.count_in) & (n < self.product.count_out)
        return Block(self.product.weight(k, n), inside)

    @staticmethod
    def summed(count: Array, terms: Callable[[Array], Array], shape: tuple[int, int]) -> Array:
        """The sum of ``terms`` over ``count`` numbers."""

        def one(j: Array, found: Array) -> Array:
            return found + terms(j * DEPTH + jnp.arange(DEPTH, dtype=jnp.int32))

        return jax.lax.fori_loop(
            0, (count + DEPTH - 1) // DEPTH, one, jnp.zeros(shape, jnp.float32)
        )

    def _block(self, row: Array, column: Array, place: Any, count: Array) -> Block:
        row, column = row[:, None], column[None, :]
        return Block(place(row, column), (row < self._out.batch) & (column < count))
