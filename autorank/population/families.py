"""Modules that compute alike run as one: a family is a piece of the program for several kinds of modules.

On an accelerator a step of many small models waits for the start of kernels more than for arithmetic, so fewer and
larger ones win. Within a family every slot goes through the same products; what a module does not have is zero in its
arena (a missing weight adds nothing), and a few choices between elementwise results make the rest. Modules without a
family, such as those of a plug-in, are a group of their own and run as they are.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, NamedTuple, Protocol, runtime_checkable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from autorank.base.typing import Array, Float, Int, PyTree
from autorank.models.blocks import Norm
from autorank.models.interactions import FFN_FACTOR, MODULES, attention_of
from autorank.models.maps import along, flat_map, kronecker, mix
from autorank.models.parameters import Active, call, is_leaf, leaves, prefix
from autorank.population.capacity import Capacity, Kind

Index = tuple[Any, ...]


class Slot(NamedTuple):
    """One (lane, slot) pair as numbers: what a module needs to know of its model."""

    kind: Int[Array, "..."]  # index in `Capacity.kinds`
    positions: Int[Array, "..."]
    width: Int[Array, "..."]
    rank: Int[Array, "..."]
    mlp_depth: Int[Array, "..."]


@dataclass(frozen=True)
class Forms:
    """How maps are computed; equal up to rounding."""

    flat: bool = False  # `maps.mix`
    kernels: str = ""  # `models.small_products`


@runtime_checkable
class Group(Protocol):
    """Kinds of modules that run together."""

    @property
    def capacity(self) -> Capacity:
        """What the program can hold."""
        ...

    @property
    def kinds(self) -> tuple[int, ...]:
        """Indices in `Capacity.kinds`."""
        ...

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The arrays that a slot of this group holds."""
        ...

    def place(self, kind: Kind, path: tuple[str, ...], shape: tuple[int, ...]) -> tuple[str, Index]:
        """The array, and the place in it, of a parameter of the compact module."""
        ...

    def apply(
        self, params: dict[str, Array], x: Float[Array, "b m d"], slot: Slot, forms: Forms
    ) -> Float[Array, "b l d"]:
        """What one slot puts out; arbitrary beyond the tokens of its model."""
        ...


@dataclass(frozen=True)
class Single:
    """A kind without a family: its module at the largest sizes."""

    capacity: Capacity
    kinds: tuple[int, ...]

    @cached_property
    def _kind(self) -> Kind:
        return self.capacity.kinds[self.kinds[0]]

    @cached_property
    def _tree(self) -> PyTree:
        c = self.capacity
        x = jax.ShapeDtypeStruct((1, c.positions, c.width), jnp.float32)
        return leaves(MODULES[self._kind.module].make(c.sizes(self._kind)), x)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """See `Group`."""
        flat = jax.tree.leaves(self._tree, is_leaf=is_leaf)
        return {"/".join(leaf.path): leaf.shape for leaf in flat}

    def place(self, kind: Kind, path: tuple[str, ...], shape: tuple[int, ...]) -> tuple[str, Index]:
        """See `Group`."""
        return "/".join(path), prefixes(shape)

    def apply(self, params: dict[str, Array], x: Array, slot: Slot, forms: Forms) -> Array:
        """See `Group`."""
        own = jax.tree.map(lambda leaf: params["/".join(leaf.path)], self._tree, is_leaf=is_leaf)
        sizes = self.capacity.sizes(self._kind, flat=forms.flat, kernels=forms.kernels)
        active = Active(slot.positions, slot.width, slot.rank, None, slot.mlp_depth)
        return call(MODULES[self._kind.module].make(sizes), own, x, active)


@dataclass(frozen=True)
class Gated:
    """``linear``, ``cross``, ``cross_low`` and ``convolution``: ``W`` over the embedding axis of ``x`` or of ``x``
    combined with one linear map ``g`` of itself (``x * g`` or ``relu(g)``).

    The map's matrix over the flattened embeddings is the sum of a Kronecker product, a low-rank product and a band;
    a module has one of them.
    """

    capacity: Capacity
    kinds: tuple[int, ...]

    MEMBERS = ("linear", "cross", "cross_low", "convolution")

    @cached_property
    def _has(self) -> set[str]:
        return {self.capacity.kinds[k].module for k in self.kinds}

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """See `Group`."""
        c = self.capacity
        m, d = c.positions, c.width
        found: dict[str, tuple[int, ...]] = {"out": (m, max(c.tokens))}
        if self._has & {"cross", "cross_low"}:
            found["bias"] = (m, d)
        if "cross" in self._has:
            found |= {"across": (m, m), "along": (d, d)}
        if "cross_low" in self._has:
            found |= {"down": (m, d, c.rank), "up": (c.rank, m, d)}
        if "convolution" in self._has:
            found |= {"kernel": (c.kernel, d, d), "channels": (d,)}
        return found

    def place(self, kind: Kind, path: tuple[str, ...], shape: tuple[int, ...]) -> tuple[str, Index]:
        """See `Group`."""
        (name,) = path
        if kind.module == "convolution" and name == "bias":
            name = "channels"
        return name, prefixes(shape)

    def apply(self, params: dict[str, Array], x: Array, slot: Slot, forms: Forms) -> Array:
        """See `Group`."""
        y = x
        if self._has != {"linear"}:
            slope = flat_map(x, self._matrix(params))
            offset: Any = params.get("bias", 0)
            if "channels" in params:
                offset = offset + params["channels"][None]
            slope = slope + offset[None]
            if self._has & {"cross", "cross_low"}:
                crosses = self._is(slot, "cross") | self._is(slot, "cross_low")
                y = jnp.where(crosses, x * slope, y)
            if "convolution" in self._has:
                y = jnp.where(self._is(slot, "convolution"), nn.relu(slope), y)
        return mix(y, params["out"], flat=forms.flat)

    @property
    def _offsets(self) -> tuple[int, ...]:
        """Positions that the taps read, from the centre out as in the module."""
        reach = self.capacity.kernel // 2
        return tuple(sorted(range(-reach, reach + 1), key=abs))

    def _matrix(self, params: dict[str, Array]) -> Float[Array, "m d m d"]:
        found: Any = 0
        if "across" in params:
            found = found + kronecker(params["across"], params["along"])
        if "down" in params:
            rank = self.capacity.rank
            low = params["down"].reshape(-1, rank) @ params["up"].reshape(rank, -1)
            shape = params["down"].shape[:2]
            found = found + low.reshape(*shape, *shape)
        if "kernel" in params:
            for tap, offset in enumerate(self._offsets):
                band = jnp.eye(self.capacity.positions, k=-offset, dtype=params["kernel"].dtype)
                found = found + kronecker(band, params["kernel"][tap])
        return found

    def _is(self, slot: Slot, module: str) -> Array:
        return is_module(self.capacity, slot, module)


@dataclass(frozen=True)
class Perceptrons:
    """``dot``, ``fmb`` and ``mask``: an MLP on all dot products of the embeddings, on their products with a few
    mixtures of them, or on the embeddings themselves; the last one's output is a factor on the embeddings.
    """

    capacity: Capacity
    kinds: tuple[int, ...]

    MEMBERS = ("dot", "fmb", "mask")

    @cached_property
    def _has(self) -> set[str]:
        return {self.capacity.kinds[k].module for k in self.kinds}

    @cached_property
    def _columns(self) -> int:
        """Columns of the MLP's input ``[m, columns]``."""
        c = self.capacity
        most = {"dot": c.positions, "fmb": c.rank, "mask": c.width}
        return max(most[name] for name in self._has)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """See `Group`."""
        c = self.capacity
        m, d, h, n = c.positions, c.width, c.mlp_width, self._columns
        found: dict[str, tuple[int, ...]] = {"kernel1": (m, n, h), "bias1": (h,)}
        for i in range(2, c.mlp_depth + 1):
            found |= {f"kernel{i}": (h, h), f"bias{i}": (h,)}
        outputs = m if "mask" in self._has else max(c.tokens)
        found |= {"out": (h, outputs, d), "bias": (outputs, d)}
        if "fmb" in self._has:
            found |= {"project": (m, c.rank), "scale": (m, n), "offset": (m, n)}
        if "mask" in self._has:
            found |= {f"{name}{i}": (d,) for i in (1, 2) for name in ("norm_scale", "norm_offset")}
            found["mixed"] = (m, max(c.tokens))
        return found

    def place(self, kind: Kind, path: tuple[str, ...], shape: tuple[int, ...]) -> tuple[str, Index]:
        """See `Group`."""
        name = path[-1]
        if path[0] == "norm":
            return {"scale": "scale", "bias": "offset"}[name], prefixes(shape)
        if path[0].startswith("norm"):
            kinds = {"scale": "norm_scale", "bias": "norm_offset"}
            return kinds[name] + path[0].removeprefix("norm"), prefixes(shape)
        if path == ("out",):
            return "mixed", prefixes(shape)
        if kind.module == "dot" and name == "kernel1":
            # The pairs of the first n embeddings are the first n (n - 1) / 2 below the diagonal.
            rows, columns = (a[: shape[0]] for a in np.tril_indices(self.capacity.positions, -1))
            return name, (rows, columns, slice(shape[1]))
        return name, prefixes(shape)

    def apply(self, params: dict[str, Array], x: Array, slot: Slot, forms: Forms) -> Array:
        """See `Group`."""
        c = self.capacity
        y = self._inputs(params, x, slot, forms).reshape(x.shape[0], -1)
        for i in range(1, c.mlp_depth + 1):
            weight = params[f"kernel{i}"].reshape(-1, c.mlp_width)
            new = nn.relu(y @ weight + params[f"bias{i}"][None])
            y = new if i == 1 else jnp.where(i <= slot.mlp_depth, new, y)
        out = params["out"]
        y = (y @ out.reshape(c.mlp_width, -1)).reshape(-1, *out.shape[1:]) + params["bias"][None]
        tokens = max(c.tokens)
        if "mask" not in self._has:
            return y
        norms = norms_of(params)
        gated = mix(normed(x, *norms[0], width=slot.width) * y, params["mixed"], flat=forms.flat)
        gated = nn.relu(normed(gated, *norms[1], width=slot.width))
        return jnp.where(is_module(c, slot, "mask"), gated, y[:, :tokens])

    def _inputs(self, params: dict[str, Array], x: Array, slot: Slot, forms: Forms) -> Array:
        """The MLP's inputs ``[b, m, columns]``."""
        c, n = self.capacity, self._columns
        found: Any = None
        if self._has & {"dot", "fmb"}:
            others = x
            if "fmb" in self._has:
                mixed = mix(x, params["project"], flat=forms.flat)
                others = jnp.pad(mixed, ((0, 0), (0, n - c.rank), (0, 0)))
                if "dot" in self._has:
                    own = jnp.pad(x, ((0, 0), (0, n - c.positions), (0, 0)))
                    others = jnp.where(is_module(c, slot, "dot"), own, others)
            found = jnp.einsum("bmd,bnd->bmn", x, others)
            if "fmb" in self._has:
                where = prefix(c.positions, slot.positions)[:, None] & prefix(n, slot.rank)[None]
                fmb = is_module(c, slot, "fmb")
                own = {"scale": params["scale"], "bias": params["offset"]}
                norm = Norm({"positions": c.positions, "rank": n})
                scaled = call(norm, own, found, where)
                found = jnp.where(fmb, scaled, found)
        if "mask" not in self._has:
            return found
        own = jnp.pad(x, ((0, 0), (0, 0), (0, n - c.width)))
        return own if found is None else jnp.where(is_module(c, slot, "mask"), own, found)


@dataclass(frozen=True)
class Heads:
    """``attention`` with any number of heads."""

    capacity: Capacity
    kinds: tuple[int, ...]

    MEMBERS = ("attention",)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """See `Group`."""
        m, d = self.capacity.positions, self.capacity.width
        ffn = FFN_FACTOR * d
        found: dict[str, tuple[int, ...]] = {"qkv": (d, 3, d), "project": (d, d)}
        found |= {"up": (d, ffn), "up_bias": (ffn,), "down": (ffn, d), "down_bias": (d,)}
        found |= {f"{name}{i}": (d,) for i in (1, 2) for name in ("norm_scale", "norm_offset")}
        return found | {"out": (m, max(self.capacity.tokens))}

    def place(self, kind: Kind, path: tuple[str, ...], shape: tuple[int, ...]) -> tuple[str, Index]:
        """See `Group`."""
        if path[0].startswith("norm"):
            kinds = {"scale": "norm_scale", "bias": "norm_offset"}
            return kinds[path[1]] + path[0].removeprefix("norm"), prefixes(shape)
        return path[0], prefixes(shape)

    def apply(self, params: dict[str, Array], x: Array, slot: Slot, forms: Forms) -> Array:
        """See `Group`."""
        c, flat = self.capacity, forms.flat
        d = c.width
        norms = norms_of(params)
        parts = along(x, params["qkv"].reshape(d, -1), flat=flat)
        mixed = along(self._attend(parts, slot), params["project"], flat=flat)
        x = normed(x + mixed, *norms[0], width=slot.width)
        hidden = nn.relu(along(x, params["up"], flat=flat) + params["up_bias"][None, None])
        down = along(hidden, params["down"], flat=flat) + params["down_bias"][None, None]
        return mix(normed(x + down, *norms[1], width=slot.width), params["out"], flat=flat)

    @property
    def _most_heads(self) -> int:
        return max(self.capacity.kinds[k].heads for k in self.kinds)

    def _heads(self, slot: Slot) -> Array:
        """Heads of a slot's module."""
        return jnp.asarray([kind.heads for kind in self.capacity.kinds], jnp.int32)[slot.kind]

    def _attend(self, qkv: Float[Array, "b m c"], slot: Slot) -> Array:
        """Attention of every head."""
        c = self.capacity
        parts = qkv.reshape(*qkv.shape[:2], 3, c.width)
        active = Active(slot.positions, slot.width, slot.rank, self._heads(slot), slot.mlp_depth)
        return attention_of(parts, self._most_heads, active)


def norms_of(params: dict[str, Array]) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    """Scale and offset of a module's two layer norms."""
    first, second = ((params[f"norm_scale{i}"], params[f"norm_offset{i}"]) for i in (1, 2))
    return first, second


def is_module(capacity: Capacity, slot: Slot, module: str) -> Array:
    """Whether a slot holds a module."""
    return jnp.asarray([kind.module == module for kind in capacity.kinds])[slot.kind]


def normed(
    x: Float[Array, "b m d"], scale: Array, offset: Array, width: Array
) -> Float[Array, "b m d"]:
    """Layer norm over the first ``width`` numbers of each embedding; the others have no part in it."""
    norm = Norm({"width": x.shape[-1]})
    return call(norm, {"scale": scale, "bias": offset}, x, prefix(x.shape[-1], width))


def prefixes(shape: tuple[int, ...]) -> Index:
    """The active prefix of every axis."""
    return tuple(slice(n) for n in shape)


FAMILIES = (Gated, Perceptrons, Heads)


@lru_cache(maxsize=64)
def groups(capacity: Capacity) -> tuple[Group, ...]:
    """The groups of a capacity; every kind is in one of them."""

    def make() -> Iterator[Group]:
        left = list(range(len(capacity.kinds)))
        for family in FAMILIES:
            parts = [(name,) for name in family.MEMBERS] if capacity.split else [family.MEMBERS]
            for names in parts:
                own = tuple(k for k in left if capacity.kinds[k].module in names)
                left = [k for k in left if k not in own]
                if own:
                    yield family(capacity, own)
        for k in left:
            yield Single(capacity, (k,))

    return tuple(make())
