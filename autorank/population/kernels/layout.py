"""How the kernels' arrays lie, and how programs read and write parts of them.

Every array is flat, and a program computes the places of the numbers that it wants: they may depend on the model.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

from autorank.base.typing import Array, Bool, Int
from autorank.population.capacity import Capacity
from autorank.population.kernels.relaxed import add_relaxed
from autorank.population.kernels.row_formulas import Own, Part
from autorank.population.kernels.slot_table import Column
from autorank.population.storage import arena_size

KERNELS = ("gpu", "interpret")  # what may be asked for; "" leaves everything to the compiler


@dataclass(frozen=True)
class Layout:
    """Sizes that are the same for all programs of a step; hashable.

    Args:
        capacity: what the lanes can hold.
        lanes: how many.
        batch: rows of a step.
        dtype: of activations.
        kernels: one of `KERNELS`; "interpret" runs the same code anywhere, for tests.
    """

    capacity: Capacity
    lanes: int
    batch: int
    dtype: Any
    kernels: str

    @property
    def pairs(self) -> int:
        """Slots of a layer of all lanes."""
        return self.lanes * self.capacity.slots

    @property
    def row(self) -> int:
        """Numbers of the embeddings of a row."""
        return self.capacity.positions * self.capacity.width

    @property
    def inputs(self) -> int:
        """Room for the inputs of a slot's matrix products, for a row."""
        c = self.capacity
        return c.positions * max(c.positions, c.width, c.rank)

    @property
    def result(self) -> int:
        """Room for what a slot puts out, for a row."""
        c = self.capacity
        return max(c.positions, max(c.tokens)) * c.width

    @property
    def hidden(self) -> int:
        """Room for a layer of hidden units of a slot's products, for a row."""
        return max(self.capacity.mlp_width, self.capacity.rank)

    @property
    def depth(self) -> int:
        """Layers of hidden units of a slot's products."""
        return max(1, self.capacity.mlp_depth)

    @property
    def scratch(self) -> int:
        """Numbers that the stages leave for each other, with their slopes, for a row of a lane."""
        chain = self.inputs + self.depth * self.hidden + 2 * self.result
        return self.capacity.slots * ((self.kept_layers + 1) * chain + self.row) + self.row

    @property
    def is_addressable(self) -> bool:
        """Whether a place in every array is an int32."""
        c = self.capacity
        rows = max(self._chain, (c.num_layers + 1) * self.lanes * self.row * self.batch)
        return max(rows, c.num_layers * self.pairs * arena_size(c)) < 2**31

    @property
    def keeps(self) -> bool:
        """Whether the backward pass finds what the modules of every layer computed; else it computes that again."""
        return self._chain * self.capacity.num_layers < 2**31

    @property
    def kept_layers(self) -> int:
        """Layers whose modules' results are there at a time."""
        return self.capacity.num_layers if self.keeps else 1

    @property
    def _chain(self) -> int:
        """Numbers of the largest array that the stages of a layer leave for each other."""
        own = max(self.inputs, 2 * self.result, self.depth * self.hidden)
        return self.pairs * own * self.batch

    def shape(self, size: int, dtype: Any = None) -> jax.ShapeDtypeStruct:
        """A flat array."""
        return jax.ShapeDtypeStruct((size,), self.dtype if dtype is None else dtype)


def padded(size: int) -> int:
    """Sides of a block are powers of two; tensor cores want 16.

    Examples:
        >>> [padded(n) for n in (3, 16, 27, 33)]
        [16, 16, 32, 64]
    """
    return max(16, 1 << (size - 1).bit_length())


class Block(NamedTuple):
    """Places in a flat array, and which of them count."""

    index: Int[Array, "..."]
    inside: Bool[Array, "..."]


def load(ref: Any, block: Block) -> Array:
    """The numbers of a block, 0 where it does not count."""
    return triton.load(ref.at[block.index], mask=block.inside, other=0.0)


def store(ref: Any, block: Block, value: Array, kernels: str) -> None:
    """Writes a block."""
    index = block.index
    if kernels == "interpret":
        # There, what does not count is written as it was, also where another place of the block has just been written.
        index = jnp.where(block.inside, index, jnp.iinfo(jnp.int32).max)
    triton.store(ref.at[index], value.astype(ref.dtype), mask=block.inside)


def add(ref: Any, block: Block, value: Array, kernels: str) -> None:
    """Adds to a block, beside other programs that do so."""
    value = jnp.where(block.inside, value, 0.0).astype(ref.dtype)
    if kernels == "interpret":
        # Programs run one after another there.
        store(ref, block, load(ref, block) + value, kernels)
    else:
        add_relaxed(ref, block.index, value, block.inside)


def matrix(start: Array, sizes: tuple[int, int], stride: Any, own: tuple[Any, Any]) -> Block:
    """A matrix of ``sizes``, padded, whose rows lie ``stride`` apart; only the ``own`` first rows and columns count."""
    shape = padded(sizes[0]), padded(sizes[1])
    i, j = (jax.lax.broadcasted_iota(jnp.int32, shape, axis) for axis in (0, 1))
    return Block(start + i * stride + j, (i < own[0]) & (j < own[1]))


def vector(start: Array, size: int) -> Block:
    """A vector, padded."""
    i = jax.lax.broadcasted_iota(jnp.int32, (padded(size),), 0)
    return Block(start + i, i < size)


class Room(NamedTuple):
    """The place of a slot in an array ``[pairs, ...]``."""

    pair: Array
    pairs: int


class SlotAt:
    """What the table says of one slot, read when asked for."""

    def __init__(self, table: Any, layout: Layout, layer: Array, pair: Array) -> None:
        self._table, self.pair = table, pair
        # Slopes have room for one layer.
        self.sloped = Room(pair, layout.pairs)
        kept = layer * layout.pairs + pair if layout.keeps else pair
        self.kept = Room(kept, layout.kept_layers * layout.pairs)
        self._first = (layer * layout.pairs + pair) * len(Column)

    def __getitem__(self, column: Column) -> Int[Array, ""]:
        return self._table[self._first + int(column)]

    @property
    def own(self) -> Own:
        """The model's own sizes."""
        names = Column.POSITIONS, Column.WIDTH, Column.TOKENS, Column.RANK, Column.HEADS
        return Own(*(self[name] for name in names))

    def block(self, start: int, part: Part, sizes: tuple[int, int]) -> Block:
        """The first rows and columns of a parameter in the slot's arena; ``start`` is the place of its array."""
        begin = self[Column.ARENA] + start + part.offset
        if not part.rows:
            return vector(begin, sizes[1])
        return matrix(begin, sizes, part.stride, sizes)


def call(
    layout: Layout,
    kernel: Callable[..., None],
    grid: tuple[int, ...],
    inputs: Sequence[Array],
    outputs: Sequence[jax.ShapeDtypeStruct],
    *,
    sums: Sequence[Array] = (),
    warps: int = 4,
    name: str = "",
) -> tuple[list[Array], list[Array]]:
    """Runs a kernel on whole arrays.

    ``kernel`` gets the references of ``inputs``, then of ``outputs``, then of ``sums``, which it adds to.

    Returns:
        the outputs, and the sums after it.
    """
    n = len(inputs)
    arrays = [*inputs, *sums]
    shapes = [*outputs, *(jax.ShapeDtypeStruct(a.shape, a.dtype) for a in sums)]

    def body(*refs: Any) -> None:
        # An aliased array comes as an input and as an output.
        kernel(*refs[:n], *refs[len(arrays) :])

    def whole(a: Any) -> pl.BlockSpec:
        return pl.BlockSpec(a.shape, lambda *_: (0,) * len(a.shape))

    found = pl.pallas_call(
        body,
        grid=grid,
        in_specs=[whole(a) for a in arrays],
        out_specs=[whole(a) for a in shapes],
        out_shape=shapes,
        input_output_aliases={n + i: len(outputs) + i for i in range(len(sums))},
        compiler_params=triton.CompilerParams(num_warps=warps, num_stages=1),
        interpret=layout.kernels == "interpret",
        name=name or name_of(kernel),
    )(*arrays)
    return list(found[: len(outputs)]), list(found[len(outputs) :])


def empty(layout: Layout, *sizes: int) -> list[Array]:
    """Arrays of arbitrary numbers: nothing is written."""

    def nothing(*_: Any) -> None:
        pass

    return call(layout, nothing, (1,), [], [layout.shape(size) for size in sizes])[0]


def name_of(function: Callable[..., None]) -> str:
    """What a profile calls a function as a kernel.

    Examples:
        >>> name_of(Layout.shape), name_of(lambda: None)
        ('Layout_shape', '<lambda>')
    """
    return function.__qualname__.replace(".<locals>", "").replace("._", ".").replace(".", "_")
