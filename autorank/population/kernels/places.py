"""Where a program of the row stages is: which lane or slot it serves, which rows, and where their numbers lie."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from autorank.base.typing import Array
from autorank.population.capacity import Capacity
from autorank.population.kernels.layout import (
    Block,
    Layout,
    Room,
    SlotAt,
    add,
    call,
    load,
    matrix,
    name_of,
    vector,
)
from autorank.population.kernels.row_formulas import Formula, Part, dot, first_rows, normed
from autorank.population.kernels.slot_table import Column, starts_of
from autorank.population.kernels.work_lists import LANES, Work, start_of_list, views_of

# Programs of a kernel, at most: they share out its rows. An H200 runs about as many at a time, or half.
PROGRAMS = 1056
# Rows of a program, at least, if all slots are served: each program loads parameters and adds gradients.
LEAST_ROWS = 2
# Warps of a program of few registers; `module_rows.WARPS` are those of the modules' first formulas.
WARPS = 1


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


class Piece(NamedTuple):
    """What a program treats: some rows of a slot of the layer, or of a lane."""

    number: Array  # of the slot or lane
    row: Array  # the first one
    count: Array  # of rows


class Kernel(NamedTuple):
    """A kernel of the row stages.

    Args:
        run: treats a piece; what it was made for is bound, the piece, the layer, the table and the arrays of its stage
            are given.
        work: what it serves.
        warps: of a program.
    """

    run: partial[None]
    work: Work
    warps: int

    @property
    def name(self) -> str:
        """What a profile calls it."""
        view = self.work.view
        sizes = f"{view.positions}x{view.width}"
        return "_".join([name_of(self.run.func), sizes, *self.work.modules])


@dataclass(frozen=True)
class Stage:
    """What all stages of one layer share; arrays are flat."""

    layout: Layout
    table: Array
    layer: Array  # [1]

    def run(
        self,
        kernels: Iterable[Kernel],
        inputs: Sequence[Array],
        sizes: Sequence[int] = (),
        sums: Sequence[Array] = (),
    ) -> list[Array]:
        """Runs kernels one after another on the same arrays, each for the slots or lanes that it serves.

        Args:
            inputs: arrays that are read.
            sizes: of the arrays that the first kernel makes, and the others write as well.
            sums: arrays that are changed.

        Returns:
            the new arrays, then the changed ones.
        """
        out = self.layout
        found, shapes = list(sums), [out.shape(size) for size in sizes]
        inputs = self.layer, self.table, *inputs
        for kernel in kernels:
            body, programs = self._shared_out(kernel)
            new, changed = call(
                out,
                body,
                (programs,),
                inputs,
                shapes,
                sums=found,
                warps=kernel.warps,
                name=kernel.name,
            )
            found, shapes = new + changed, []
        return found

    def views(self, run: Callable[..., None], modules: tuple[str, ...] = LANES) -> list[Kernel]:
        """A kernel of few registers for every view."""
        works = (Work(modules, view) for view in views_of(self.layout.capacity))
        return [Kernel(partial(run, work.view), work, WARPS) for work in works]

    def _shared_out(self, kernel: Kernel) -> tuple[Callable[..., None], int]:
        """A program that treats its share of a kernel's rows, and the number of programs.

        The fewer slots a kernel serves, the fewer rows a program has. A row is a chain of small products that wait for
        each other, so a kernel takes about as long as the rows of one program.
        """
        out = self.layout
        most = out.pairs if kernel.work.modules else out.lanes
        programs = max(most, min(PROGRAMS, most * -(-out.batch // LEAST_ROWS)))

        def body(layer: Any, table: Any, *refs: Any) -> None:
            start = start_of_list(out.capacity, out.lanes, kernel.work, layer[0])
            count = table[start]
            sharing = programs // jnp.maximum(count, 1)  # programs of a slot
            number, part = pl.program_id(0) // sharing, pl.program_id(0) % sharing
            rows = (out.batch + sharing - 1) // sharing
            first = part * rows
            rows = jnp.minimum(rows, out.batch - first)

            @pl.when((number < count) & (rows > 0))
            def _():
                kernel.run(Piece(table[start + 1 + number], first, rows), layer, table, *refs)

        return body, programs


def zeros_of(tree: Any) -> Any:
    """Sums before the first row."""
    return jax.tree.map(lambda a: jnp.zeros(a.shape, jnp.float32), tree)


def added(sums: Any, new: Any) -> Any:
    """Sums with one more row."""
    return jax.tree.map(lambda a, b: a + b.astype(a.dtype), sums, new)


class SlotRows:
    """Where a program of modules is: one slot, and some rows; blocks have the sizes of ``view``."""

    def __init__(self, stage: Stage, piece: Piece, table: Any, layer: Any, view: Capacity) -> None:
        self._view = view
        self._out, self.pair = stage.layout, piece.number
        self.rows, self.first = piece.count, piece.row
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
        at = vector((self.layer * self._out.lanes + self.lane) * c.width, self._view.width)
        return load(scale, at), load(bias, at)

    def normed(self, norm: Any, x: Array) -> Array:
        """What modules read."""
        return pre_normed(self.at, norm, x)

    def x(self, row: Array) -> Block:
        """A row's embeddings that come into the layer."""
        lane = self.layer * self._out.lanes + self.lane
        return self._embeddings(lane * self._out.batch + self.first + row)

    def read(self, row: Array) -> Block:
        """The slope of what the slot reads of a row."""
        return self._embeddings(self._row(row, self.at.sloped))

    def inputs(self, row: Array, formula: Formula, room: Room) -> Block:
        """A row's inputs of products; packed, as wide as the module's own."""
        assert formula.products
        columns = self.at[Column.COLUMNS]
        sizes = self._view.positions, formula.products.columns(self._view)
        start = self._row(row, room) * self._out.inputs
        return matrix(start, sizes, columns, (self.at[Column.POSITIONS], columns))

    def started(self, row: Array, formula: Formula, room: Room) -> Block:
        """What a module computes first for a row: the inputs of its products, else its result."""
        if formula.products:
            return self.inputs(row, formula, room)
        return self.result(row, room)

    def result(self, row: Array, room: Room) -> Block:
        """What the slot puts out for a row."""
        width, start = self.at[Column.WIDTH], self._row(row, room) * self._out.result
        sizes = max(self._view.tokens), self._view.width
        return matrix(start, sizes, width, (self.at[Column.TOKENS], width))

    def products(self, row: Array, room: Room) -> Block:
        """What the slot's products put out for a row, where a formula follows."""
        out, width = self._out, self.at[Column.WIDTH]
        start = (room.pairs * out.batch + self._row(row, room)) * out.result
        sizes = self._view.positions, self._view.width
        return matrix(start, sizes, width, (self.at[Column.OUTPUTS], width))

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
        starts, seen = starts_of(self._out.capacity)[module], parts(self._view)
        return {
            name: self.at.block(starts[part.array], part, (seen[name].rows, seen[name].columns))
            for name, part in parts(self._out.capacity).items()
        }

    def _embeddings(self, row: Array) -> Block:
        return embeddings(self._out, self._view, self.at, row, Column.POSITIONS)

    def _row(self, row: Array, room: Room) -> Array:
        return room.pair * self._out.batch + self.first + row


class LaneRows:
    """Where a program of a layer is: one lane, and some rows; blocks have the sizes of ``view``."""

    def __init__(self, stage: Stage, piece: Piece, table: Any, layer: Any, view: Capacity) -> None:
        self._view = view
        self._out, self.lane = stage.layout, piece.number
        self.rows, self.first = piece.count, piece.row
        self._layer = layer[0]
        self._place = self._layer * self._out.lanes + self.lane
        pairs = self.lane * self._out.capacity.slots
        self._slots = [
            SlotAt(table, self._out, layer[0], pairs + s) for s in range(self._out.capacity.slots)
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

    def params(
        self, scale: Any, bias: Any, factors: Any, shortcut: Any, *, mapped: bool
    ) -> dict[str, Any]:
        """What the layer's output depends on."""
        found: dict[str, Any] = {}
        c = self._out.capacity
        if c.post:
            found["norm"] = load(scale, self._norm()), load(bias, self._norm())
        if c.weighted:
            found["factors"] = [factors[self._place * c.slots + s] for s in range(c.slots)]
        if mapped:
            found["shortcut"] = load(shortcut, self._shortcut()).astype(self._out.dtype)
        return found

    def cases(self) -> list[tuple[Array, bool]]:
        """Whether the shortcut is a map, each with the condition of it."""
        if not self._out.capacity.reshapes:
            return [(self.lane >= 0, False)]
        mapped = self.at[Column.MAPPED] > 0
        return [(mapped, True), (~mapped, False)]

    def output(self, params: Any, x: Array, parts: Any) -> Array:
        """The layer's output for a row; float32."""
        mapped = "shortcut" in params
        y = dot(params["shortcut"], x, (0, 0)) if mapped else x.astype(jnp.float32)
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

    def entering(self, row: Array, count: int) -> Block:
        """A row's embeddings in an array of ``count`` of them."""
        c, out, view = self._out.capacity, self._out, self._view
        start = (self.lane * out.batch + self.first + row) * count * c.width
        return matrix(start, (view.positions, view.width), c.width, (count, view.width))

    def x(self, row: Array) -> Block:
        """A row's embeddings that come into the layer."""
        return self._embeddings(row, self._place, Column.POSITIONS)

    def y(self, row: Array) -> Block:
        """A row's embeddings behind the layer."""
        return self._embeddings(row, self._place + self._out.lanes, Column.LEAVING)

    def to_x(self, row: Array) -> Block:
        """The slope of what comes into the layer, for a row."""
        return self._slope(row, self._layer, Column.POSITIONS)

    def to_y(self, row: Array) -> Block:
        """The slope of what leaves the layer, for a row."""
        return self._slope(row, self._layer + 1, Column.LEAVING)

    def _slope(self, row: Array, place: Array, count: Column) -> Block:
        # Layers take turns with two halves of one array: a loop would copy an array that it exchanged for a new one.
        return self._embeddings(row, (place & 1) * self._out.lanes + self.lane, count)

    def _embeddings(self, row: Array, lane: Array, count: Column) -> Block:
        place = lane * self._out.batch + self.first + row
        return embeddings(self._out, self._view, self.at, place, count)

    def read(self, slot: int, row: Array) -> Block:
        """The slope of what a slot reads of a row."""
        at, out = self._slots[slot], self._out
        place = at.pair * out.batch + self.first + row
        block = embeddings(out, self._view, at, place, Column.POSITIONS)
        return Block(block.index, block.inside & (at[Column.MODULE] > 0))

    def part(self, slot: int, row: Array, room: Room) -> Block:
        """What a slot puts out for a row, among the embeddings that leave the layer."""
        c, out, at = self._view, self._out, self._slots[slot]
        place, width, tokens = at[Column.PLACE], at[Column.WIDTH], at[Column.TOKENS]
        start = (room.pair * out.batch + self.first + row) * out.result
        whole = matrix(
            start - place * width, (c.positions, c.width), width, (place + tokens, width)
        )
        i = jax.lax.broadcasted_iota(jnp.int32, whole.index.shape, 0)
        return Block(whole.index, whole.inside & (i >= place) & (at[Column.MODULE] > 0))

    def parts(self, results: Any, row: Array) -> list[Array]:
        """What the slots put out for a row."""
        return [load(results, self.part(s, row, at.kept)) for s, at in enumerate(self._slots)]

    def slopes(self, row: Array) -> list[Block]:
        """The slopes of what the slots put out for a row."""
        return [self.part(s, row, at.sloped) for s, at in enumerate(self._slots)]

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
        return vector(self._place * self._out.capacity.width, self._view.width)

    def _shortcut(self) -> Block:
        m, sizes = self._out.capacity.positions, (self._view.positions, self._view.positions)
        return matrix(self._place * m * m, sizes, m, sizes)


def pre_normed(at: SlotAt, norm: Any, x: Array) -> Array:
    """A row as modules read it: normed where the model does so first."""
    if not norm:
        return x
    y = first_rows(normed(x, *norm, width=at[Column.WIDTH]), at[Column.POSITIONS])
    return jnp.where(at[Column.PRE] > 0, y, x.astype(jnp.float32)).astype(x.dtype)


def embeddings(out: Layout, view: Capacity, at: SlotAt, row: Array, count: Column) -> Block:
    """The model's own embeddings, in an array of rows; ``count`` tells how many they are."""
    own = at[count], at[Column.WIDTH]
    return matrix(row * out.row, (view.positions, view.width), out.capacity.width, own)
