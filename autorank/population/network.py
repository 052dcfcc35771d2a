"""The models of all lanes as one function of their parameters: a layer loops over the modules that are in use.

For each group of modules (`families`), a loop runs over the (lane, slot) pairs that hold one of them (`pairs`), so a
step costs what its modules cost, whatever the architectures are. A module's output goes straight into its lane's sum.
The backward pass computes each module again: only the layers' inputs are kept.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from autorank.base.typing import Array, Bool, Float, Int, PyTree
from autorank.models.blocks import Norm
from autorank.models.embedding import Embedding
from autorank.models.maps import mix
from autorank.models.parameters import call, prefix
from autorank.population.capacity import MAX_FLAT_WIDTH, Capacity, Lane
from autorank.population.families import Forms, Group, Slot, groups
from autorank.population.pairs import Pairs
from autorank.population.storage import LAYERED, group_size, head_module, slot_params


@dataclass(frozen=True)
class Network:
    """All lanes of one program.

    Args:
        capacity: what the program can hold.
        chunk: pairs that a loop handles at a time, side by side: few for large batches, more for small ones.
        dtype: of activations and of the weights' copies in matrix products, whose sums are float32.
        flat: whether linear maps are products over the flattened embeddings (`maps.mix`).
        kernels: which form of `small_products`, "" for none.
    """

    capacity: Capacity
    chunk: int = 1
    dtype: Any = jnp.float32
    flat: bool = False
    kernels: str = ""

    def tuned(self, backend: str) -> "Network":
        """In the forms that are fastest on a backend (`jax.default_backend`); equal up to rounding."""
        return replace(
            self,
            flat=backend != "cpu" and self.capacity.width <= MAX_FLAT_WIDTH,
            kernels="gpu" if backend == "gpu" else "",
        )

    def apply(
        self,
        params: PyTree,
        x: Float[Array, "p b f d"],
        dense: Float[Array, "p b n"],
        lanes: Lane,
        pairs: Pairs,
    ) -> Float[Array, "p b t"]:
        """Logits of every lane from its looked-up rows and dense features."""
        c = self.capacity
        embedding, head = Embedding(c.width), head_module(c)
        # Without a model, a lane's logits are arbitrary.
        x, dense = x.astype(self.dtype), dense.astype(self.dtype)
        cast = partial(jax.tree.map, lambda a: a.astype(self.dtype))
        with jax.named_scope("features"):
            x = jax.vmap(partial(call, embedding))(cast(params["embedding"]), x, dense)
        x = jnp.pad(x, ((0, 0), (0, 0), (0, c.positions - x.shape[2]), (0, 0)))
        on = jax.vmap(partial(prefix, c.num_layers))(lanes.num_layers)
        by_layer = partial(jnp.swapaxes, axis1=0, axis2=1)
        per_layer = LayerInputs(
            {name: params[name] for name in LAYERED},
            by_layer(lanes.positions[:, :-1]),
            by_layer(lanes.positions[:, 1:]),
            by_layer(on),
            pairs,
        )

        def step(x: Array, at: LayerInputs) -> tuple[Array, None]:
            return jax.lax.cond(jnp.any(at.on), self._layer, lambda x, *_: x, x, at, lanes), None

        x, _ = jax.lax.scan(step, x, per_layer)
        with jax.named_scope("head"):
            return jax.vmap(partial(call, head))(cast(params["head"]), x, lanes.head_depth)

    def _layer(self, x: Float[Array, "p b m d"], at: "LayerInputs", lanes: Lane) -> Array:
        """One layer of all lanes."""
        c = self.capacity
        y: Any = x
        if c.reshapes:
            changes = at.positions != at.outputs
            y = jax.lax.cond(jnp.any(changes & at.on), self._shortcut, lambda x, *_: x, x, at)
        if c.kinds:
            before = x
            if c.pre:
                norm = jax.vmap(self._normed)(at.params["norm"], x, at.positions)
                before = jnp.where(lanes.pre[:, None, None, None], norm, x)
            own = SlotParams(at.params["arena"], at.params["scale"])
            layer = LaneLayer(
                at.positions,
                lanes.num_tokens,
                lanes.rank,
                lanes.mlp_depth,
                lanes.concat,
                lanes.weighted,
            )
            y = _add_modules(self, before, y, own, layer, at.pairs)
        if c.post:
            norm = jax.vmap(self._normed)(at.params["norm"], y, at.outputs)
            y = jnp.where((lanes.post)[:, None, None, None], norm, y)
        return jnp.where(at.on[:, None, None, None], y, x)

    def _shortcut(self, x: Array, at: "LayerInputs") -> Array:
        """The linear map to another number of embeddings, for the lanes where it changes."""
        weight = at.params["shortcut"].astype(self.dtype)
        mixed = jax.vmap(partial(mix, flat=self.flat))(x, weight)
        return jnp.where((at.positions != at.outputs)[:, None, None, None], mixed, x)

    def _normed(self, params: PyTree, x: Array, count: Array) -> Array:
        """Layer norm over the width, of the first ``count`` embeddings of one lane."""
        y = call(Norm({"width": self.capacity.width}), params, x)
        return jnp.where(prefix(x.shape[1], count)[None, :, None], y, 0).astype(self.dtype)

    def contribution(
        self,
        group: Group,
        params: "SlotParams",
        x: Float[Array, "b m d"],
        at: "PairAt",
    ) -> Float[Array, "b m d"]:
        """What one module adds to its layer's output; ``x`` is its input, normed where its model does so first."""
        c, lane = self.capacity, at.lane
        own = slot_params(group, params.arena.astype(self.dtype))
        slot = Slot(at.kind, lane.positions, lane.rank, lane.mlp_depth)
        with jax.named_scope(type(group).__name__):
            y = group.apply(own, x, slot, Forms(self.flat, self.kernels))
        # A norm puts its offset everywhere, also beyond the tokens of the model.
        y = jnp.where(prefix(y.shape[1], lane.num_tokens)[None, :, None], y, 0).astype(self.dtype)
        if c.weighted:
            y = y * jnp.where(lane.weighted, params.scale, 1.0).astype(self.dtype)
        placed = _fit(y, 0, c.positions)
        if c.concat:
            # A few static shifts and a choice between them: elementwise, where a dynamic shift would be a gather.
            for first, here in self._offsets(at):
                placed = jnp.where(here, _fit(y, first, c.positions), placed)
        return placed

    def _offsets(self, at: "PairAt") -> list[tuple[int, Array]]:
        """First embeddings that a slot's tokens may go to besides 0, and whether they do."""
        found = []
        for s in range(1, self.capacity.slots):
            for tokens in self.capacity.tokens:
                if s * tokens < self.capacity.positions:
                    here = at.lane.concat & (at.slot == s) & (at.lane.num_tokens == tokens)
                    found.append((s * tokens, here))
        return found


class LayerInputs(NamedTuple):
    """What a layer takes beside its embeddings; an axis of layers comes first."""

    params: PyTree  # of `LAYERED`
    positions: Int[Array, "... p"]
    outputs: Int[Array, "... p"]
    on: Bool[Array, "... p"]
    pairs: Pairs


class SlotParams(NamedTuple):
    """Parameters of slots: of all lanes in a layer ``[p, s, ...]``, or of one slot."""

    arena: Float[Array, "..."]
    scale: Float[Array, "..."]


class LaneLayer(NamedTuple):
    """One layer of the lanes as numbers ``[p]``, or of one lane."""

    positions: Int[Array, "..."]
    num_tokens: Int[Array, "..."]
    rank: Int[Array, "..."]
    mlp_depth: Int[Array, "..."]
    concat: Bool[Array, "..."]
    weighted: Bool[Array, "..."]


class PairAt(NamedTuple):
    """One (lane, slot) pair, or several of them."""

    slot: Int[Array, "..."]
    kind: Int[Array, "..."]
    lane: LaneLayer


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _add_modules(
    network: Network,
    x: Float[Array, "p b m d"],
    y: Float[Array, "p b m d"],
    params: SlotParams,
    layer: LaneLayer,
    pairs: Pairs,
) -> Float[Array, "p b m d"]:
    """``y`` with the modules' outputs on ``x`` added."""
    return _add_modules_fwd(network, x, y, params, layer, pairs)[0]


def _add_modules_fwd(
    network: Network, x: Array, y: Array, params: SlotParams, layer: LaneLayer, pairs: Pairs
) -> tuple[Array, Any]:
    for g, group in enumerate(groups(network.capacity)):

        def body(first: Array, y: Array, g: int = g, group: Group = group) -> Array:
            chunk = _Chunk(network, group, pairs, g, first)
            parts = jax.vmap(partial(network.contribution, group))(
                chunk.params(params), chunk.of_lanes(x), chunk.at(layer)
            )
            return chunk.add(y, parts)

        y = _loop(network, pairs.count[g], body, y)
    return y, (x, params, layer, pairs)


def _add_modules_bwd(network: Network, saved: Any, slope: Array) -> tuple[Any, ...]:
    x, params, layer, pairs = saved
    found = jnp.zeros_like(x), jax.tree.map(jnp.zeros_like, params)
    for g, group in enumerate(groups(network.capacity)):

        def body(first: Array, found: Any, g: int = g, group: Group = group) -> Any:
            chunk = _Chunk(network, group, pairs, g, first)
            at = chunk.at(layer)

            def run(params: SlotParams, x: Array) -> Array:
                return jax.vmap(partial(network.contribution, group))(params, x, at)

            _, pull = jax.vjp(run, chunk.params(params), chunk.of_lanes(x))
            to_params, to_x = pull(chunk.of_lanes(slope))
            return chunk.add(found[0], to_x), chunk.set_params(found[1], to_params)

        found = _loop(network, pairs.count[g], body, found)
    to_x, to_params = found
    none = partial(jax.tree.map, lambda a: np.zeros(a.shape, jax.dtypes.float0))
    return to_x, slope, to_params, none(layer), none(pairs)


_add_modules.defvjp(_add_modules_fwd, _add_modules_bwd)


def _loop(network: Network, count: Array, body: Callable[[Array, Any], Any], start: Any) -> Any:
    """``body`` for the first pair of each chunk."""
    chunks = (count + network.chunk - 1) // network.chunk
    return jax.lax.fori_loop(0, chunks, lambda i, found: body(i * network.chunk, found), start)


class _Chunk:
    """Some pairs of a group: what they read, and where their results go. Padding reads lane 0 and adds nothing."""

    def __init__(self, network: Network, group: Group, pairs: Pairs, g: int, first: Array) -> None:
        self._n, self._size = network.chunk, group_size(group)
        self._weighted = network.capacity.weighted
        take = partial(jax.lax.dynamic_slice_in_dim, start_index=first, slice_size=self._n)
        pad = ((0, self._n - 1),)
        self._lane, self._slot, self._kind = (
            take(jnp.pad(a[g], pad)) for a in (pairs.lane, pairs.slot, pairs.kind)
        )
        self._valid = first + jnp.arange(self._n) < pairs.count[g]

    def of_lanes(self, a: Array) -> Array:
        """Rows of the pairs' lanes from an array with a first axis of lanes."""
        one = partial(jax.lax.dynamic_slice_in_dim, a, slice_size=1)
        return jnp.concatenate([one(self._lane[j]) for j in range(self._n)])

    def at(self, layer: LaneLayer) -> PairAt:
        """The pairs as numbers."""
        return PairAt(self._slot, self._kind, LaneLayer(*(a[self._lane] for a in layer)))

    def params(self, params: SlotParams) -> SlotParams:
        """The parameters of the pairs' slots."""
        arena = [self._arena_of(params.arena, j) for j in range(self._n)]
        return SlotParams(jnp.concatenate(arena), params.scale[self._lane, self._slot])

    def _arena_of(self, arena: Float[Array, "p s a"], j: int) -> Array:
        at = self._lane[j], self._slot[j], 0
        return jax.lax.dynamic_slice(arena, at, (1, 1, self._size))[0]

    def add(self, whole: Array, parts: Array) -> Array:
        """``whole`` with the pairs' ``parts`` added to their lanes."""
        for j in range(self._n):
            old = jax.lax.dynamic_slice_in_dim(whole, self._lane[j], 1)
            part = jnp.where(self._valid[j], parts[j : j + 1], 0)
            whole = jax.lax.dynamic_update_slice_in_dim(whole, old + part, self._lane[j], 0)
        return whole

    def set_params(self, whole: SlotParams, parts: SlotParams) -> SlotParams:
        """``whole`` with the gradients of the pairs' slots, each of which is in one chunk only."""
        arena, scale = whole
        for j in range(self._n):
            part = parts.arena[j][None, None]
            if self._n > 1:
                part = jnp.where(self._valid[j], part, self._arena_of(arena, j)[None])
            at = self._lane[j], self._slot[j], 0
            arena = jax.lax.dynamic_update_slice(arena, part, at)
        if self._weighted:
            own = jnp.where(self._valid, parts.scale, 0)
            scale = scale.at[self._lane, self._slot].add(own)
        return SlotParams(arena, scale)


def _fit(y: Float[Array, "b l d"], first: int, positions: int) -> Float[Array, "b m d"]:
    """``y`` from position ``first`` on, among zeros; what lies beyond is inactive."""
    y = y[:, : positions - first]
    return jnp.pad(y, ((0, 0), (first, positions - first - y.shape[1]), (0, 0)))
