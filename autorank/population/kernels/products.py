"""The matrix products of a layer's modules: a program computes one tile for one slot, or finds nothing to do.

The products of a slot are a chain ``[batch, inputs] -> hidden -> ... -> hidden -> [batch, outputs]``. How many there
are and how large is the model's own affair: loops end where the model ends.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from autorank.base.typing import Array
from autorank.models.maps import sum_float32
from autorank.population.kernels.layout import Block, Layout, SlotAt, add, call, load, padded, store
from autorank.population.kernels.row_formulas import FORMULAS
from autorank.population.kernels.slot_table import Column, number_of, starts_of

TILE, DEPTH = 64, 64  # sides of a tile of the result, and terms that are summed at a time
# Rows that one program sums a tile of weight gradients over.
SUMMED_ROWS = 512


class Chain(NamedTuple):
    """What the products of a layer read and write, flat; or the slopes of it. None for what is not known yet."""

    inputs: Any  # [pairs, batch, inputs]
    hidden: Any  # [depth, pairs, batch, hidden]
    results: Array  # [2, pairs, batch, result]: the second for modules where a formula follows


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

    def before(self, row: Array, k: Array) -> Array:
        """Place of a number before the product, in `Chain.inputs` or `Chain.hidden`."""
        out = self.layout
        pair_row = self.at.pair * out.batch + row
        if self.i == 0:
            return pair_row * out.inputs + k
        layer = self.at[Column.DEPTH] - 1 if self.i is None else self.i - 1
        return self._hidden(layer, row, k)

    def behind(self, row: Array, n: Array) -> Array:
        """Place of a number behind the product, in `Chain.hidden` or `Chain.results`."""
        out = self.layout
        if self.i is not None:
            return self._hidden(self.i, row, n)
        pair = self.at[Column.ENDS] * out.pairs + self.at.pair
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

    def _hidden(self, layer: Any, row: Array, h: Array) -> Array:
        out = self.layout
        return ((layer * out.pairs + self.at.pair) * out.batch + row) * out.hidden + h

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


@dataclass(frozen=True)
class MatrixProducts:
    """The stages of products of one layer."""

    layout: Layout
    table: Array
    layer: Array

    @property
    def present(self) -> bool:
        """Whether any module of the capacity has products."""
        return any(FORMULAS[name].products for name in starts_of(self.layout.capacity))

    def run(self, arena: Array, chain: Chain) -> Chain:
        """The chain with hidden units and results."""
        for i in self._order:
            chain = self._forward(i, arena, chain)
        return chain

    def pull(
        self, arena: Array, chain: Chain, slopes: Chain, to_arena: Array
    ) -> tuple[Chain, Array]:
        """From the slopes of the results, those of hidden units and inputs; the arena's gradients, added to."""
        for i in reversed(self._order):
            to_arena = self._weights_pulled(i, chain, slopes, to_arena)
            slopes = self._rows_pulled(i, arena, chain, slopes)
        return slopes, to_arena

    @property
    def _hidden(self) -> jax.ShapeDtypeStruct:
        """Room for hidden units."""
        out = self.layout
        depth = max(1, out.capacity.mlp_depth)
        return out.shape(depth * out.pairs * out.batch * out.hidden)

    @property
    def _order(self) -> list[int | None]:
        return [*range(max(1, self.layout.capacity.mlp_depth)), None]

    def _forward(self, i: int | None, arena: Array, chain: Chain) -> Chain:
        out = self.layout

        def kernel(layer: Any, table: Any, arena: Any, before: Any, behind: Any) -> None:
            tile = _Tile(self.layout, SlotAt(table, out, layer[0], pl.program_id(0)), i)
            product = tile.product
            row, n = tile.rows(pl.program_id(1)), tile.columns(pl.program_id(2))

            @pl.when(product.active & (pl.program_id(2) * TILE < product.count_out))
            def _():
                def terms(k: Array) -> Array:
                    a = load(before, tile.before(row, k))
                    w = load(arena, tile.weight(k, n))
                    return sum_float32(a, w.astype(out.dtype), (1, 0))

                y = tile.summed(product.count_in, terms, (row.shape[0], n.shape[0]))
                offset = load(
                    arena, Block(product.offset(n), (n < product.count_out) & product.has_offset)
                )
                y = y + offset[None, :]
                if i is not None:
                    y = jnp.where(product.bends, jnp.maximum(y, 0.0), y)
                store(behind, tile.behind(row, n), y, out.kernels)

        inputs, grid = [self.layer, self.table, arena], self._grid(i)
        if i == 0:
            (new,), _ = call(out, kernel, grid, [*inputs, chain.inputs], [self._hidden])
            return chain._replace(hidden=new)
        if i is None:
            _, (new,) = call(out, kernel, grid, [*inputs, chain.hidden], [], sums=[chain.results])
            return chain._replace(results=new)

        def within(layer: Any, table: Any, arena: Any, hidden: Any) -> None:
            kernel(layer, table, arena, hidden, hidden)

        _, (new,) = call(out, within, grid, inputs, [], sums=[chain.hidden])
        return chain._replace(hidden=new)

    def _rows_pulled(self, i: int | None, arena: Array, chain: Chain, slopes: Chain) -> Chain:
        out = self.layout

        def kernel(layer, table, arena, before, behind, to_before):  # noqa: PLR0917
            tile = _Tile(self.layout, SlotAt(table, out, layer[0], pl.program_id(0)), i)
            product = tile.product
            row, k = tile.rows(pl.program_id(1)), tile.columns(pl.program_id(2))

            @pl.when(product.active & (pl.program_id(2) * TILE < product.count_in))
            def _():
                def terms(n: Array) -> Array:
                    slope = load(behind, tile.behind(row, n))
                    w = load(arena, tile.weight(k, n))
                    return sum_float32(slope, w.astype(out.dtype), (1, 1))

                found = tile.summed(product.count_out, terms, (row.shape[0], k.shape[0]))
                if i != 0:
                    bent = load(before, tile.before(row, k)) <= 0
                    found = jnp.where(product.bends & bent, 0.0, found)
                store(to_before, tile.before(row, k), found, out.kernels)

        inputs = [self.layer, self.table, arena, chain.inputs if i == 0 else chain.hidden]
        grid = self._grid(i, before=True)
        if i == 0:
            room = out.shape(out.pairs * out.batch * out.inputs)
            (new,), _ = call(out, kernel, grid, [*inputs, slopes.hidden], [room])
            return slopes._replace(inputs=new)
        if i is None:
            (new,), _ = call(out, kernel, grid, [*inputs, slopes.results], [self._hidden])
            return slopes._replace(hidden=new)

        def within(layer: Any, table: Any, arena: Any, before: Any, hidden: Any) -> None:
            kernel(layer, table, arena, before, hidden, hidden)

        _, (new,) = call(out, within, grid, inputs, [], sums=[slopes.hidden])
        return slopes._replace(hidden=new)

    def _weights_pulled(self, i: int | None, chain: Chain, slopes: Chain, to_arena: Array) -> Array:
        out = self.layout
        tiles_in, tiles_out = self._tiles(i, before=True), self._tiles(i)
        rows = min(SUMMED_ROWS, padded(out.batch))

        def kernel(layer: Any, table: Any, before: Any, behind: Any, to_arena: Any) -> None:
            tile = _Tile(self.layout, SlotAt(table, out, layer[0], pl.program_id(0)), i)
            product, place = tile.product, pl.program_id(1)
            i_in, i_out = place // tiles_out, place % tiles_out
            k, n = tile.columns(i_in), tile.columns(i_out)
            first = pl.program_id(2) * rows
            within = (i_in * TILE < product.count_in) & (i_out * TILE < product.count_out)

            @pl.when(product.active & within)
            def _():
                shape = k.shape[0], n.shape[0]

                def one(j: Array, sums: tuple[Array, Array]) -> tuple[Array, Array]:
                    row = first + j * tile.depth + jnp.arange(tile.depth, dtype=jnp.int32)
                    slope = load(behind, tile.behind(row, n))
                    a = load(before, tile.before(row, k))
                    more = sum_float32(a, slope, (0, 0))
                    return sums[0] + more, sums[1] + jnp.sum(slope.astype(jnp.float32), axis=0)

                zeros = jnp.zeros(shape, jnp.float32), jnp.zeros(shape[1], jnp.float32)
                weights, offsets = jax.lax.fori_loop(0, rows // tile.depth, one, zeros)
                add(to_arena, tile.weight(k, n), weights, out.kernels)
                inside = (n < product.count_out) & product.has_offset & (i_in == 0)
                add(to_arena, Block(product.offset(n), inside), offsets, out.kernels)

        before = chain.inputs if i == 0 else chain.hidden
        behind = slopes.results if i is None else slopes.hidden
        inputs = [self.layer, self.table, before, behind]
        grid = out.pairs, tiles_in * tiles_out, -(-out.batch // rows)
        _, (new,) = call(out, kernel, grid, inputs, [], sums=[to_arena])
        return new

    def _grid(self, i: int | None, *, before: bool = False) -> tuple[int, int, int]:
        out = self.layout
        return (
            out.pairs,
            -(-out.batch // min(TILE, padded(out.batch))),
            self._tiles(i, before=before),
        )

    def _tiles(self, i: int | None, *, before: bool = False) -> int:
        """Tiles along the columns behind a product or before it, at most."""
        out = self.layout
        if before:
            columns = out.inputs if i == 0 else out.hidden
        else:
            columns = out.result if i is None else out.hidden
        return -(-columns // TILE)


class _Tile:
    """A tile of a product, as places of its numbers."""

    def __init__(self, layout: Layout, at: SlotAt, i: int | None) -> None:
        self._out, self.product = layout, Product(layout, at, i)
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
        return self._block(row, k, self.product.before, self.product.count_in)

    def behind(self, row: Array, n: Array) -> Block:
        """Numbers behind the product."""
        return self._block(row, n, self.product.behind, self.product.count_out)

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
