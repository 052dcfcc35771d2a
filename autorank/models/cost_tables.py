"""The FLOPs of many configurations at once, inside ``jit``: sums of looked-up integers, exact.

`cost.flops_per_example` counts one configuration in Python. A search that weighs costs asks for thousands a proposal,
in a compiled program, whose float32 holds not every integer above 2^24. So each term of the count (a module at its
sizes, what surrounds the modules of a layer, the head) is counted in Python for all sizes that the space can give it,
and the compiled program adds up the terms in two int32 parts of 20 and 31 bits.
"""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from autorank.base.typing import Array, Bool, Float, Int
from autorank.models.cost import frame_flops, head_flops, input_flops
from autorank.models.dhen import LAYER_NAMES, MAX_SLOTS, DhenConfig, LayerConfig, layer_outputs
from autorank.models.embedding import num_embeddings
from autorank.models.heads import NUM_LOGITS
from autorank.models.interactions import MODULES, SHARED_SIZES, Sizes

LOW_BITS = 20
MOST_TERMS = 4_000_000
SLOTS = ("a", "b", "c")
# Settings whose choices a term may depend on.
SIZES = ("width", "num_tokens", *SHARED_SIZES)
AROUND = ("norm", "ensemble")
HEAD = ("head", "head_depth", "head_width")
FIELDS = ("num_layers", *SIZES, *AROUND, *HEAD)


class Count(NamedTuple):
    """Integers ``high * 2^20 + low``; ``low`` has 20 bits."""

    high: Array  # int32 [n]
    low: Array  # int32 [n]

    def log(self) -> Float[Array, " n"]:
        """Natural logarithms."""
        value = self.high.astype(jnp.float32) * 2.0**LOW_BITS + self.low.astype(jnp.float32)
        return jnp.log(jnp.maximum(value, 1.0))

    def at_most(self, limit: float) -> Bool[Array, " n"]:
        """Whether they are at most a number, exactly."""
        high, low = divmod(math.floor(limit), 1 << LOW_BITS)
        return (self.high < high) | ((self.high == high) & (self.low <= low))


class Terms(NamedTuple):
    """Counts of one kind of term, by the choices that they depend on."""

    high: np.ndarray  # int32 [t]
    low: np.ndarray  # int32 [t]

    def at(self, place: Int[Array, " n"]) -> Count:
        """The counts at places of the list."""
        return Count(jnp.asarray(self.high)[place], jnp.asarray(self.low)[place])


def terms(values: Sequence[int]) -> Terms:
    """A list of counts."""
    found = np.asarray(values, np.int64)
    return Terms((found >> LOW_BITS).astype(np.int32), (found % (1 << LOW_BITS)).astype(np.int32))


class Grid(NamedTuple):
    """The places of a list that has one entry for each combination of choices of its axes."""

    strides: Mapping[str, int]
    size: int

    def place(self, at: Mapping[str, Array]) -> Array:
        """Where combinations are, from the index of each axis."""
        return sum((at[axis] * stride for axis, stride in self.strides.items()), jnp.int32(0))


def grid(lengths: Mapping[str, int]) -> Grid:
    """The last axis moves fastest, as in `itertools.product`."""
    strides, size = {}, 1
    for axis, length in reversed(list(lengths.items())):
        strides[axis] = size
        size *= length
    return Grid(strides, size)


def every(choices: Mapping[str, Sequence[Any]], count: Callable[..., int]) -> list[int]:
    """Counts of all combinations of choices, given by name, in the order of `grid`.

    Raises:
        ValueError: there are too many.
    """
    if math.prod(map(len, choices.values())) > MOST_TERMS:
        many = ", ".join(f"model.{k} ({len(v)})" for k, v in choices.items() if len(v) > 8)
        raise ValueError(
            f"too many sizes to count the FLOPs of each: write fewer choices of {many}, or a smaller space.grid_size"
        )
    names = list(choices)
    return [count(**dict(zip(names, c, strict=True))) for c in itertools.product(*choices.values())]


@dataclass(frozen=True, eq=False)
class CostTables:
    """Counts the FLOPs of configurations; made by `cost_tables`."""

    choices: Mapping[str, Sequence[Any]]  # by setting of the model; those of slots are names
    names: tuple[str, ...]  # of modules that occur; 0 is none
    slots: Mapping[str, np.ndarray]  # int32 [choices of the slot]: places among the names
    grids: tuple[Grid, ...]  # of each module's terms
    firsts: np.ndarray  # int32 [modules]: where its terms begin
    modules: Terms
    frame: tuple[Grid, Terms]
    head: tuple[Grid, Terms]

    def __call__(self, at: Mapping[str, Int[Array, " n"]]) -> Count:
        """The FLOPs of ``n`` configurations, from the index of each setting's choice; one left out is 0."""
        n = len(next(iter(at.values())))
        at = {name: at.get(name, jnp.zeros(n, jnp.int32)) for name in self.choices}
        depth = jnp.asarray(self.choices["num_layers"], jnp.int32)[at["num_layers"]]
        concat = jnp.asarray([e == "concat" for e in self.choices["ensemble"]])[at["ensemble"]]
        position, parts = jnp.zeros(n, jnp.int32), []
        for layer in LAYER_NAMES[: max(self.choices["num_layers"])]:
            on = depth > LAYER_NAMES.index(layer)
            filled = jnp.zeros(n, jnp.int32)
            for slot in SLOTS:
                key = f"{layer}.{slot}"
                module = jnp.asarray(self.slots[key])[at[key]]
                parts.append(_where(on, self._module(module, at | {"position": position})))
                filled += module > 0
            grid, counts = self.frame
            around = at | {"position": position, "filled": filled}
            parts.append(_where(on, counts.at(grid.place(around))))
            position = jnp.where(on & (filled > 0), jnp.where(concat, filled, 1), position)
        grid, counts = self.head
        parts.append(counts.at(grid.place(at | {"position": position})))
        nothing = jnp.zeros(n, jnp.int32)
        low = sum((p.low for p in parts), nothing)
        high = sum((p.high for p in parts), nothing)
        return Count(high + (low >> LOW_BITS), low & ((1 << LOW_BITS) - 1))

    def _module(self, module: Int[Array, " n"], at: Mapping[str, Array]) -> Count:
        axes = ("position", *SIZES)
        strides = np.array([[g.strides.get(a, 0) for a in axes] for g in self.grids], np.int32)
        own = jnp.asarray(strides)[module]
        index = jnp.stack([at[axis] for axis in axes], axis=1)
        return self.modules.at(jnp.asarray(self.firsts)[module] + jnp.sum(own * index, axis=1))


def _where(on: Any, count: Count) -> Count:
    return Count(jnp.where(on, count.high, 0), jnp.where(on, count.low, 0))


def cost_tables(
    choices: Mapping[str, Sequence[Any]], num_fields: int, num_dense: int
) -> CostTables:
    """The counter of all models whose settings have these choices.

    Args:
        choices: by the setting's key under ``model``, ``layer1.a`` for example; a missing one is at its default.
        num_fields: of the log.
        num_dense: of the log.

    Raises:
        ValueError: more sizes than can be counted one by one.

    Examples:
        >>> tables = cost_tables({"width": (8, 16), "num_layers": (1,)}, num_fields=4, num_dense=2)
        >>> count = tables({"width": jnp.array([0, 1])})
        >>> count.low.tolist()[0], count.at_most(6369.0).tolist()
        (6369, [True, False])
    """
    defaults = DhenConfig()
    keys = [f"{layer}.{slot}" for layer in LAYER_NAMES for slot in SLOTS]
    full = {k: tuple(choices.get(k, (getattr(defaults, k),))) for k in FIELDS}
    for key in keys:
        layer, slot = key.split(".")
        full[key] = tuple(choices.get(key, (getattr(getattr(defaults, layer), slot),)))
    used = sorted({name for key in keys for name in full[key]} - {"none"})
    names = ("none", *used)
    slots = {k: np.array([names.index(v) for v in full[k]], np.int32) for k in keys}
    # Embeddings that come into a layer: those of the log, or so many times the tokens.
    first = num_embeddings(num_fields, num_dense)
    position = tuple(range(1 + MAX_SLOTS))
    grids, lists = [grid({})], [[0]]
    for name in used:
        own = {s: full[s] for s in SIZES[:2] + tuple(MODULES[name].traits["uses"])}
        own = {"position": position} | own
        grids.append(grid({k: len(v) for k, v in own.items()}))
        lists.append(every(own, _module_count(name, first)))
    firsts = np.cumsum([0] + [len(found) for found in lists[:-1]]).astype(np.int32)
    modules = terms([v for found in lists for v in found])
    frame = _table(position, full, first, ("filled",), SIZES[:2] + AROUND, _frame_count)
    head = _table(position, full, first, (), SIZES[:2] + HEAD, _head_count(num_dense))
    return CostTables(full, names, slots, tuple(grids), firsts, modules, frame, head)


def _table(
    position: Sequence[int],
    full: Mapping[str, Sequence[Any]],
    first: int,
    extra: Sequence[str],
    names: Sequence[str],
    count: Callable[..., int],
) -> tuple[Grid, Terms]:
    own = {"position": position} | {name: position for name in extra}
    own |= {name: full[name] for name in names}
    counted = terms(every(own, lambda **values: count(first, **values)))
    return grid({k: len(v) for k, v in own.items()}), counted


def _coming_in(first: int, position: int, num_tokens: int) -> int:
    return position * num_tokens if position else first


def sizes_of(positions: int, tokens: int, width: int, shared: Mapping[str, int]) -> Sizes:
    """The sizes of a module."""
    rank, heads, kernel, depth, hidden = (shared[size] for size in SHARED_SIZES)
    return Sizes(positions, tokens, width, rank, heads, kernel, depth, hidden)


def _module_count(name: str, first: int) -> Callable[..., int]:
    count = MODULES[name].traits["flops"]

    def counted(position: int, width: int, num_tokens: int, **shared: int) -> int:
        rest = {size: shared.get(size, 1) for size in SHARED_SIZES}
        came = _coming_in(first, position, num_tokens)
        return count(sizes_of(came, num_tokens, width, rest))

    return counted


def _frame_count(
    first: int,
    position: int,
    filled: int,
    width: int,
    num_tokens: int,
    norm: str,
    ensemble: str,
) -> int:
    came = _coming_in(first, position, num_tokens)
    config = DhenConfig(width=width, num_tokens=num_tokens, ensemble=ensemble, heads=1)
    outputs = layer_outputs(config, LayerConfig(*["linear"] * filled), came)
    sizes = sizes_of(came, num_tokens, width, dict.fromkeys(SHARED_SIZES, 1))
    return frame_flops(sizes, filled, outputs, norm, ensemble)


def _head_count(num_dense: int) -> Callable[..., int]:
    def counted(
        first: int,
        position: int,
        width: int,
        num_tokens: int,
        head: str,
        head_depth: int,
        head_width: int,
    ) -> int:
        inputs = _coming_in(first, position, num_tokens) * width
        last = head_flops(inputs, head_depth, head_width, NUM_LOGITS[head])
        return input_flops(width, num_dense) + last

    return counted
