"""The matrix products of a layer's modules: a program computes one tile for one slot, or finds nothing to do.

Loops over the terms of a sum end where the model ends.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from autorank.base.typing import Array
from autorank.models.maps import sum_float32
from autorank.population.kernels.layout import (
    Block,
    Layout,
    SlotAt,
    add,
    call,
    empty,
    load,
    padded,
    store,
)
from autorank.population.kernels.products import TILE, Tile
from autorank.population.kernels.row_formulas import FORMULAS
from autorank.population.kernels.slot_table import starts_of

# Rows that one program sums a tile of weight gradients over: a slot has few tiles, but each program adds its own.
SUMMED_ROWS = 256


class Chain(NamedTuple):
    """What the products of a layer read and write, flat; or the slopes of it. None for what is not known yet.

    ``pairs`` are those of a layer for slopes, else of all layers that are kept (`Layout.keeps`).
    """

    inputs: Any  # [pairs, batch, inputs]
    hidden: Any  # [depth, pairs, batch, hidden]
    results: Array  # [2, pairs, batch, result]: the second for modules where a formula follows


@dataclass(frozen=True)
class _Stages:
    """What the stages of products of one layer share."""

    layout: Layout
    table: Array
    layer: Array

    @property
    def present(self) -> bool:
        """Whether any module of the capacity has products."""
        return any(FORMULAS[name].products for name in starts_of(self.layout.capacity))

    @property
    def _order(self) -> list[int | None]:
        return [*range(self.layout.depth), None]

    def _chained(
        self,
        kernel: Callable[..., None],
        grid: tuple[int, ...],
        inputs: Sequence[Array],
        chain: Chain,
        names: tuple[str, str],
    ) -> Chain:
        """``chain`` with the array of the second name written by a kernel that reads that of the first one.

        The kernel gets ``inputs``, then these two; hidden units that come from others are one array.
        """
        source, target = names
        out, own = self.layout, getattr(chain, target)
        body: Callable[..., None] = kernel
        sizes = {"inputs": out.inputs, "hidden": out.depth * out.hidden}
        if source == target:

            @wraps(kernel)
            def both(*refs: Any) -> None:
                kernel(*refs, refs[-1])

            body = both
        else:
            inputs = [*inputs, getattr(chain, source)]
        room = [] if own is not None else [out.shape(sizes[target] * out.pairs * out.batch)]
        new, changed = call(out, body, grid, inputs, room, sums=[] if own is None else [own])
        return chain._replace(**{target: (new + changed)[0]})

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


class MatrixProducts(_Stages):
    """The products of one layer."""

    def run(self, arena: Array, chain: Chain) -> Chain:
        """The chain with hidden units and results."""
        for i in self._order:
            chain = self._forward(i, arena, chain)
        return chain

    def _forward(self, i: int | None, arena: Array, chain: Chain) -> Chain:
        out = self.layout

        def kernel(layer: Any, table: Any, arena: Any, before: Any, behind: Any) -> None:
            tile = Tile(self.layout, SlotAt(table, out, layer[0], pl.program_id(0)), i)
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

        inputs = [self.layer, self.table, arena]
        return self._chained(kernel, self._grid(i), inputs, chain, (_before(i), _behind(i)))


class PulledProducts(_Stages):
    """The slopes of the products of one layer."""

    def pull(
        self, arena: Array, chain: Chain, slopes: Chain, to_arena: Array
    ) -> tuple[Chain, Array]:
        """From the slopes of the results, those of hidden units and inputs; the arena's gradients, added to."""
        for i in reversed(self._order):
            to_arena = self._weights_pulled(i, chain, slopes, to_arena)
            slopes = self._rows_pulled(i, arena, chain, slopes)
        return slopes, to_arena

    def _rows_pulled(self, i: int | None, arena: Array, chain: Chain, slopes: Chain) -> Chain:
        out = self.layout

        def kernel(layer, table, arena, before, behind, to_before):  # noqa: PLR0917
            tile = Tile(self.layout, SlotAt(table, out, layer[0], pl.program_id(0)), i)
            product = tile.product
            row, k = tile.rows(pl.program_id(1)), tile.columns(pl.program_id(2))

            @pl.when(product.active & (pl.program_id(2) * TILE < product.count_in))
            def _():
                def terms(n: Array) -> Array:
                    slope = load(behind, tile.to_behind(row, n))
                    w = load(arena, tile.weight(k, n))
                    return sum_float32(slope, w.astype(out.dtype), (1, 1))

                found = tile.summed(product.count_out, terms, (row.shape[0], k.shape[0]))
                if i != 0:
                    bent = load(before, tile.before(row, k)) <= 0
                    found = jnp.where(product.bends & bent, 0.0, found)
                store(to_before, tile.to_before(row, k), found, out.kernels)

        inputs = [self.layer, self.table, arena, getattr(chain, _before(i))]
        grid = self._grid(i, before=True)
        return self._chained(kernel, grid, inputs, slopes, (_behind(i), _before(i)))

    def _weights_pulled(self, i: int | None, chain: Chain, slopes: Chain, to_arena: Array) -> Array:
        out = self.layout
        tiles_in, tiles_out = self._tiles(i, before=True), self._tiles(i)
        rows = min(SUMMED_ROWS, padded(out.batch))

        def kernel(layer: Any, table: Any, before: Any, behind: Any, to_arena: Any) -> None:
            tile = Tile(self.layout, SlotAt(table, out, layer[0], pl.program_id(0)), i)
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
                    slope = load(behind, tile.to_behind(row, n))
                    a = load(before, tile.before(row, k))
                    more = sum_float32(a, slope, (0, 0))
                    return sums[0] + more, sums[1] + jnp.sum(slope.astype(jnp.float32), axis=0)

                zeros = jnp.zeros(shape, jnp.float32), jnp.zeros(shape[1], jnp.float32)
                weights, offsets = jax.lax.fori_loop(0, rows // tile.depth, one, zeros)
                add(to_arena, tile.weight(k, n), weights, out.kernels)
                inside = (n < product.count_out) & product.has_offset & (i_in == 0)
                add(to_arena, Block(product.offset(n), inside), offsets, out.kernels)

        arrays = getattr(chain, _before(i)), getattr(slopes, _behind(i))
        inputs = [self.layer, self.table, *arrays]
        grid = out.pairs, tiles_in * tiles_out, -(-out.batch // rows)
        _, (new,) = call(out, kernel, grid, inputs, [], sums=[to_arena])
        return new


def empty_chain(layout: Layout) -> Chain:
    """Room for the layers that are kept, filled with arbitrary numbers."""
    sizes = layout.inputs, layout.depth * layout.hidden, 2 * layout.result
    rows = layout.kept_layers * layout.pairs * layout.batch
    return Chain(*empty(layout, *(rows * size for size in sizes)))


def _before(i: int | None) -> str:
    """The array of a `Chain` that a product reads."""
    return "inputs" if i == 0 else "hidden"


def _behind(i: int | None) -> str:
    """The array of a `Chain` that a product writes."""
    return "results" if i is None else "hidden"
