"""Stages of a layer that treat one row of the log after another: the modules' formulas, and the sum of their results.

A program has some rows of one lane and, where modules run, one of its slots. It branches on the slot's module.
Backward, a formula is computed again and its slope pulled through it; parameters' gradients are summed over the
program's rows, then added to the arena's.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from autorank.base.typing import Array
from autorank.population.kernels.layout import (
    Block,
    Layout,
    SlotAt,
    add,
    call,
    load,
    matrix,
    store,
    vector,
)
from autorank.population.kernels.row_formulas import (
    FORMULAS,
    Formula,
    Part,
    dot,
    first_rows,
    normed,
)
from autorank.population.kernels.slot_table import Column, number_of, starts_of

# Rows of a program: many programs fill a device, but each adds gradients at its end.
ROWS, PROGRAMS = 16, 128
SMALL = 32  # sides of a row's matrices that two warps hold


class Norms(NamedTuple):
    """The layers' norms, flat ``[layers, lanes, width]``."""

    scale: Array
    bias: Array


class Layers(NamedTuple):
    """The parameters of all layers, flat, or their gradients."""

    norms: Norms
    scale: Array  # [layers, lanes, slots]
    shortcut: Array  # [layers, lanes, positions, positions]
    arena: Any  # [layers, lanes, slots, arena]


@dataclass(frozen=True)
class Rows:
    """The row stages of one layer; ``layer`` is ``[1]``, arrays are flat."""

    layout: Layout
    table: Array
    layer: Array

    # Modules: what comes first

    def start(self, params: Layers, x: Array) -> tuple[Array, Array]:
        """Inputs ``[pairs, batch, inputs]`` of the products, and results ``[2, pairs, batch, result]`` of the others.

        ``x`` is ``[layers + 1, lanes, batch, positions, width]``: what comes into each layer, and out of the last one.
        """
        out = self.layout

        def kernel(layer, table, scale, bias, arena, x, acts, results):  # noqa: PLR0917
            here = _Here(self, table, layer)
            norm = here.norm(scale, bias)
            for name, formula in self._formulas():

                @pl.when(here.at[Column.MODULE] == number_of(name))
                def _(name=name, formula=formula):
                    params = here.params(arena, name, formula.start_parts)

                    def one(row: Array, _: Any) -> Any:
                        read = here.normed(norm, load(x, here.x(row)))
                        # As for the backward pass: Triton has no rule for functions with a gradient of their own.
                        run = lambda p, x: formula.start(p, here.own, x)  # noqa: E731
                        y, _ = jax.vjp(run, params, read)
                        if formula.products:
                            store(acts, here.inputs(row, formula), y)
                        else:
                            store(results, here.result(row), y)

                    jax.lax.fori_loop(0, here.rows, one, None)

        sizes = out.pairs * out.batch * out.inputs, 2 * out.pairs * out.batch * out.result
        inputs = (self.layer, self.table, *params.norms, params.arena, x)
        found, _ = self._call(kernel, inputs, sizes)
        return found[0], found[1]

    def end(self, params: Layers, x: Array, results: Array) -> Array:
        """``results`` with those of modules whose products go through a formula."""
        if not any(formula.end for _, formula in self._formulas()):
            return results

        def kernel(layer, table, scale, bias, arena, x, results):  # noqa: PLR0917
            here = _Here(self, table, layer)
            norm = here.norm(scale, bias)
            for name, formula in self._formulas():
                if formula.end is None:
                    continue

                @pl.when(here.at[Column.MODULE] == number_of(name))
                def _(name=name, formula=formula):
                    params = here.params(arena, name, formula.end_parts)

                    def one(row: Array, _: Any) -> Any:
                        read = here.normed(norm, load(x, here.x(row)))
                        y = load(results, here.products(row)).astype(jnp.float32)
                        run = lambda p, x, y: formula.end(p, here.own, x, y)  # noqa: E731
                        value, _ = jax.vjp(run, params, read, y)
                        store(results, here.result(row), value)

                    jax.lax.fori_loop(0, here.rows, one, None)

        inputs = (self.layer, self.table, *params.norms, params.arena, x)
        _, found = self._call(kernel, inputs, sums=(results,))
        return found[0]

    def end_pulled(
        self, params: Layers, x: Array, results: Array, slopes: Array, to_arena: Array
    ) -> tuple[Array, Array, Array]:
        """What comes through the last formulas.

        Returns:
            slopes of the embeddings that each slot reads ``[pairs, batch, positions, width]``, ``slopes`` with those of
            the products' results, and the gradients of the arena, added to.
        """
        out = self.layout
        size = out.pairs * out.batch * out.row
        if not any(formula.end for _, formula in self._formulas()):
            return jnp.zeros(size, out.dtype), slopes, to_arena

        def kernel(layer, table, scale, bias, arena, x, results, to_read, slopes, to_arena):  # noqa: PLR0917
            here = _Here(self, table, layer)
            norm = here.norm(scale, bias)
            for name, formula in self._formulas():
                if formula.end is None:
                    continue

                @pl.when(here.at[Column.MODULE] == number_of(name))
                def _(name=name, formula=formula):
                    params = here.params(arena, name, formula.end_parts)

                    def one(row: Array, sums: Any) -> Any:
                        read = here.normed(norm, load(x, here.x(row)))
                        y = load(results, here.products(row)).astype(jnp.float32)
                        run = lambda p, x, y: formula.end(p, here.own, x, y)  # noqa: E731
                        _, pull = jax.vjp(run, params, read, y)
                        slope = load(slopes, here.result(row)).astype(jnp.float32)
                        to_params, to_x, to_y = pull(slope)
                        store(to_read, here.read(row), to_x)
                        store(slopes, here.products(row), to_y)
                        return _added(sums, to_params)

                    sums = jax.lax.fori_loop(0, here.rows, one, _zeros(params))
                    here.add(to_arena, name, formula.end_parts, sums)

        inputs = (self.layer, self.table, *params.norms, params.arena, x, results)
        found, sums = self._call(kernel, inputs, (size,), (slopes, to_arena))
        return found[0], sums[0], sums[1]

    def start_pulled(
        self,
        params: Layers,
        x: Array,
        to_acts: Array,
        slopes: Array,
        to_read: Array,
        to_arena: Array,
    ) -> tuple[Array, Array]:
        """``to_read`` with what comes through the first formulas, and the arena's gradients, added to."""

        def kernel(layer, table, scale, bias, arena, x, to_acts, slopes, to_read, to_arena):  # noqa: PLR0917
            here = _Here(self, table, layer)
            norm = here.norm(scale, bias)
            for name, formula in self._formulas():

                @pl.when(here.at[Column.MODULE] == number_of(name))
                def _(name=name, formula=formula):
                    params = here.params(arena, name, formula.start_parts)

                    def one(row: Array, sums: Any) -> Any:
                        read = here.normed(norm, load(x, here.x(row)))
                        run = lambda p, x: formula.start(p, here.own, x)  # noqa: E731
                        _, pull = jax.vjp(run, params, read)
                        slope = (
                            load(to_acts, here.inputs(row, formula))
                            if formula.products
                            else load(slopes, here.result(row))
                        )
                        to_params, to_x = pull(slope.astype(jnp.float32))
                        if formula.end:
                            to_x = to_x + load(to_read, here.read(row))
                        store(to_read, here.read(row), to_x)
                        return _added(sums, to_params)

                    sums = jax.lax.fori_loop(0, here.rows, one, _zeros(params))
                    here.add(to_arena, name, formula.start_parts, sums)

        inputs = (self.layer, self.table, *params.norms, params.arena, x, to_acts, slopes)
        _, found = self._call(kernel, inputs, sums=(to_read, to_arena))
        return found[0], found[1]

    # The layer around its modules

    def enter(self, x: Array, first: int) -> Array:
        """The room for all layers' inputs, the first one filled from ``[lanes, batch, first, width]``."""
        out, c = self.layout, self.layout.capacity

        def kernel(layer: Any, table: Any, x: Any, xs: Any) -> None:
            here = _Lane(self, table, layer)

            def one(row: Array, _: Any) -> Any:
                start = (here.lane * out.batch + here.first + row) * first * c.width
                block = matrix(start, (c.positions, c.width), c.width, (first, c.width))
                store(xs, here.x(row), load(x, block))

            jax.lax.fori_loop(0, here.rows, one, None)

        size = (c.num_layers + 1) * out.lanes * out.batch * out.row
        found, _ = self._call(kernel, (self.layer, self.table, x), (size,), of_lanes=True)
        return found[0]

    def join(self, params: Layers, x: Array, results: Array) -> Array:
        """``x`` with the layer's output: shortcut and modules, normed if the model does so."""
        out = self.layout

        def kernel(layer, table, scale, bias, factors, shortcut, results, x):  # noqa: PLR0917
            here = _Lane(self, table, layer)
            params = here.params(scale, bias, factors, shortcut)

            def one(row: Array, _: Any) -> Any:
                parts = [load(results, here.part(s, row)) for s in range(out.capacity.slots)]
                value, _ = jax.vjp(here.output, params, load(x, here.x(row)), parts)
                store(x, here.x(row, behind=1), value)

            jax.lax.fori_loop(0, here.rows, one, None)

        inputs = (self.layer, self.table, *params.norms, params.scale, params.shortcut, results)
        _, found = self._call(kernel, inputs, sums=(x,), of_lanes=True)
        return found[0]

    def join_pulled(
        self, params: Layers, x: Array, results: Array, slope: Array, to: Layers
    ) -> tuple[Array, Array, Layers]:
        """The slope of ``x`` through the shortcut, the slopes of the modules' results, and gradients, added to."""
        out = self.layout
        added = (*to.norms, to.scale, to.shortcut)

        def kernel(layer, table, scale, bias, factors, shortcut, x, results, slope, to_x, to_results, *to):  # noqa: PLR0917
            here = _Lane(self, table, layer)
            params = here.params(scale, bias, factors, shortcut)

            def one(row: Array, sums: Any) -> Any:
                parts = [load(results, here.part(s, row)) for s in range(out.capacity.slots)]
                _, pull = jax.vjp(here.output, params, load(x, here.x(row)), parts)
                to_params, to_own, to_parts = pull(load(slope, here.slope(row)).astype(jnp.float32))
                store(to_x, here.slope(row), to_own)
                for s, part in enumerate(to_parts):
                    store(to_results, here.part(s, row), part)
                return _added(sums, to_params)

            sums = jax.lax.fori_loop(0, here.rows, one, _zeros(params))
            here.add(to, sums)

        inputs = (self.layer, self.table, *params.norms, params.scale, params.shortcut)
        sizes = out.lanes * out.batch * out.row, 2 * out.pairs * out.batch * out.result
        found, sums = self._call(
            kernel, (*inputs, x, results, slope), sizes, added, of_lanes=True
        )
        to = to._replace(norms=Norms(*sums[:2]), scale=sums[2], shortcut=sums[3])
        return found[0], found[1], to

    def norm_pulled(
        self, params: Layers, x: Array, to_read: Array, to_x: Array, norms: Norms
    ) -> tuple[Array, Norms]:
        """``to_x`` with the slopes of what the slots read, through the norm before them; norms' gradients, added to."""
        out = self.layout

        def kernel(layer, table, scale, bias, x, to_read, to_x, *to):  # noqa: PLR0917
            here = _Lane(self, table, layer)
            norm = here.norm(scale, bias)

            def one(row: Array, sums: Any) -> Any:
                _, pull = jax.vjp(here.normed, norm, load(x, here.x(row)))
                found = jnp.zeros(here.slope(row).index.shape, jnp.float32)
                for s in range(out.capacity.slots):
                    found = found + load(to_read, here.read(s, row)).astype(jnp.float32)
                to_norm, to_own = pull(found.astype(out.dtype))
                store(to_x, here.slope(row), to_own + load(to_x, here.slope(row)))
                return _added(sums, to_norm)

            sums = jax.lax.fori_loop(0, here.rows, one, _zeros(norm))
            here.add_norm(to, sums)

        inputs = (self.layer, self.table, *params.norms, x, to_read)
        _, sums = self._call(kernel, inputs, sums=(to_x, *norms), of_lanes=True)
        return sums[0], Norms(*sums[1:])

    def _formulas(self) -> list[tuple[str, Formula]]:
        return [(name, FORMULAS[name]) for name in starts_of(self.layout.capacity)]

    def _call(
        self,
        kernel: Callable[..., None],
        inputs: Sequence[Array],
        sizes: Sequence[int] = (),
        sums: Sequence[Array] = (),
        *,
        of_lanes: bool = False,
    ) -> tuple[list[Array], list[Array]]:
        """A grid of all pairs, or of all lanes, by blocks of rows; ``sizes`` are those of the outputs."""
        out, c = self.layout, self.layout.capacity
        grid = out.lanes if of_lanes else out.pairs, out.batch // rows_of(out)
        warps = 2 if max(c.positions, c.width) <= SMALL else 4
        shapes = [out.shape(size) for size in sizes]
        return call(out, kernel, grid, inputs, shapes, sums=sums, warps=warps)


class _Here:
    """Where a program of modules is: one slot, and some rows."""

    def __init__(self, rows: Rows, table: Any, layer: Any) -> None:
        self._out, self.pair = rows.layout, pl.program_id(0)
        self.rows = rows_of(self._out)
        self.first = pl.program_id(1) * self.rows
        self.layer = layer[0]
        self.at = SlotAt(table, self._out, self.layer, self.pair)
        self.lane = self.pair // self._out.capacity.slots

    @property
    def own(self) -> Any:
        """The model's own sizes."""
        return self.at.own

    def norm(self, scale: Any, bias: Any) -> Any:
        """The layer's norm."""
        c = self._out.capacity
        if not c.pre:
            return ()
        at = vector((self.layer * self._out.lanes + self.lane) * c.width, c.width)
        return load(scale, at), load(bias, at)

    def normed(self, norm: Any, x: Array) -> Array:
        """What modules read."""
        return pre_normed(self.at, norm, x)

    def x(self, row: Array) -> Block:
        """A row's embeddings that come into the layer."""
        lane = self.layer * self._out.lanes + self.lane
        return _embeddings(self._out, self.at, lane * self._out.batch + self.first + row)

    def read(self, row: Array) -> Block:
        """The slope of what the slot reads of a row."""
        return _embeddings(self._out, self.at, self._row(row))

    def inputs(self, row: Array, formula: Formula) -> Block:
        """A row's inputs of products; packed, as wide as the module's own."""
        assert formula.products
        c, columns = self._out.capacity, self.at[Column.COLUMNS]
        sizes = c.positions, formula.products.columns(c)
        start = self._row(row) * self._out.inputs
        return matrix(start, sizes, columns, (self.at[Column.POSITIONS], columns))

    def result(self, row: Array) -> Block:
        """What the slot puts out for a row."""
        c = self._out.capacity
        width, start = self.at[Column.WIDTH], self._row(row) * self._out.result
        return matrix(start, (max(c.tokens), c.width), width, (self.at[Column.TOKENS], width))

    def products(self, row: Array) -> Block:
        """What the slot's products put out for a row, where a formula follows."""
        c, out = self._out.capacity, self._out
        width = self.at[Column.WIDTH]
        start = (out.pairs * out.batch + self._row(row)) * out.result
        return matrix(start, (c.positions, c.width), width, (self.at[Column.OUTPUTS], width))

    def params(self, arena: Any, module: str, parts: Any) -> dict[str, Array]:
        """The parameters of a formula; matrices in the precision of activations."""
        found = {}
        for name, block in self._blocks(module, parts).items():
            value = load(arena, block)
            found[name] = value.astype(self._out.dtype)
        return found

    def add(self, arena: Any, module: str, parts: Any, sums: Mapping[str, Array]) -> None:
        """Adds to the parameters' gradients."""
        for name, block in self._blocks(module, parts).items():
            add(arena, block, sums[name], self._out.kernels)

    def _blocks(self, module: str, parts: Callable[..., dict[str, Part]]) -> dict[str, Block]:
        starts = starts_of(self._out.capacity)[module]
        return {
            name: self.at.block(starts[part.array], part)
            for name, part in parts(self._out.capacity).items()
        }

    def _row(self, row: Array) -> Array:
        return self.pair * self._out.batch + self.first + row


class _Lane:
    """Where a program of a layer is: one lane, and some rows."""

    def __init__(self, rows: Rows, table: Any, layer: Any) -> None:
        self._out, self.lane = rows.layout, pl.program_id(0)
        self.rows = rows_of(self._out)
        self.first = pl.program_id(1) * self.rows
        self._place = layer[0] * self._out.lanes + self.lane
        pairs = self.lane * self._out.capacity.slots
        self._slots = [
            SlotAt(table, self._out, layer[0], pairs + s)
            for s in range(self._out.capacity.slots)
        ]
        self.at = self._slots[0]

    def norm(self, scale: Any, bias: Any) -> Any:
        """The layer's norm."""
        if not self._out.capacity.pre:
            return ()
        return load(scale, self._norm()), load(bias, self._norm())

    def normed(self, norm: Any, x: Array) -> Array:
        """What modules read."""
        return pre_normed(self.at, norm, x)

    def params(self, scale: Any, bias: Any, factors: Any, shortcut: Any) -> dict[str, Any]:
        """What the layer's output depends on."""
        found: dict[str, Any] = {}
        c = self._out.capacity
        if c.post:
            found["norm"] = load(scale, self._norm()), load(bias, self._norm())
        if c.weighted:
            found["factors"] = [factors[self._place * c.slots + s] for s in range(c.slots)]
        if c.reshapes:
            found["shortcut"] = load(shortcut, self._shortcut()).astype(self._out.dtype)
        return found

    def output(self, params: Any, x: Array, parts: Any) -> Array:
        """The layer's output for a row; float32."""
        y = x.astype(jnp.float32)
        if "shortcut" in params:
            mapped = dot(params["shortcut"], x, (0, 0))
            y = jnp.where(self.at[Column.MAPPED] > 0, mapped, y)
        for s, part in enumerate(parts):
            part = part.astype(jnp.float32)
            if "factors" in params:
                factor = jnp.where(self.at[Column.WEIGHTED] > 0, params["factors"][s], 1.0)
                part = part * factor
            y = y + part
        if "norm" in params:
            new = normed(y, *params["norm"], width=self.at[Column.WIDTH])
            new = first_rows(new, self.at[Column.LEAVING])
            y = jnp.where(self.at[Column.POST] > 0, new, y)
        return y

    def x(self, row: Array, behind: int = 0) -> Block:
        """A row's embeddings that come into the layer, or ``behind`` it: zero beyond the model's own."""
        return self._rows(row, self._place + behind * self._out.lanes)

    def slope(self, row: Array) -> Block:
        """The slope of a row's embeddings."""
        return self._rows(row, self.lane)

    def _rows(self, row: Array, lane: Array) -> Block:
        c, out = self._out.capacity, self._out
        start = (lane * out.batch + self.first + row) * out.row
        return matrix(start, (c.positions, c.width), c.width, (c.positions, c.width))

    def read(self, slot: int, row: Array) -> Block:
        """The slope of what a slot reads of a row."""
        at, out = self._slots[slot], self._out
        block = _embeddings(out, at, at.pair * out.batch + self.first + row)
        return Block(block.index, block.inside & (at[Column.MODULE] > 0))

    def part(self, slot: int, row: Array) -> Block:
        """What a slot puts out for a row, among the embeddings that leave the layer."""
        c, out, at = self._out.capacity, self._out, self._slots[slot]
        place, width, tokens = at[Column.PLACE], at[Column.WIDTH], at[Column.TOKENS]
        start = (at.pair * out.batch + self.first + row) * out.result
        whole = matrix(start - place * width, (c.positions, c.width), width, (place + tokens, width))
        i = jax.lax.broadcasted_iota(jnp.int32, whole.index.shape, 0)
        return Block(whole.index, whole.inside & (i >= place) & (at[Column.MODULE] > 0))

    def add(self, to: Any, sums: dict[str, Any]) -> None:
        """Adds to the gradients of norms, factors and shortcuts."""
        kernels, c = self._out.kernels, self._out.capacity
        scale, bias, factors, shortcut = to
        if "norm" in sums:
            self.add_norm((scale, bias), sums["norm"])
        if "factors" in sums:
            for s, value in enumerate(sums["factors"]):
                i = jax.lax.broadcasted_iota(jnp.int32, (16,), 0)
                at = Block(self._place * c.slots + s + i, i < 1)
                add(factors, at, jnp.where(i < 1, value, 0.0), kernels)
        if "shortcut" in sums:
            add(shortcut, self._shortcut(), sums["shortcut"], kernels)

    def add_norm(self, to: Any, sums: Any) -> None:
        """Adds to the gradients of the layer's norm."""
        for ref, value in zip(to, sums, strict=False):
            add(ref, self._norm(), value, self._out.kernels)

    def _norm(self) -> Block:
        width = self._out.capacity.width
        return vector(self._place * width, width)

    def _shortcut(self) -> Block:
        m = self._out.capacity.positions
        return matrix(self._place * m * m, (m, m), m, (m, m))


def rows_of(out: Layout) -> int:
    """Rows of a program."""
    return out.rows(min(ROWS, max(2, out.batch // PROGRAMS)))


def pre_normed(at: SlotAt, norm: Any, x: Array) -> Array:
    """A row as modules read it: normed where the model does so first."""
    if not norm:
        return x
    y = first_rows(normed(x, *norm, width=at[Column.WIDTH]), at[Column.POSITIONS])
    return jnp.where(at[Column.PRE] > 0, y, x.astype(jnp.float32)).astype(x.dtype)


def _embeddings(out: Layout, at: SlotAt, row: Array) -> Block:
    """A row's embeddings in an array of rows."""
    c = out.capacity
    own = at[Column.POSITIONS], at[Column.WIDTH]
    return matrix(row * out.row, (c.positions, c.width), c.width, own)


def _zeros(tree: Any) -> Any:
    return jax.tree.map(lambda a: jnp.zeros(a.shape, jnp.float32), tree)


def _added(sums: Any, new: Any) -> Any:
    return jax.tree.map(lambda a, b: a + b.astype(a.dtype), sums, new)
