"""Some of the slots that hold a module of one group: what they read, and where their results go."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from autorank.base.typing import Array, Bool, Float, Int
from autorank.population.families import Group
from autorank.population.pairs import Pairs
from autorank.population.storage import group_size


class SlotParams(NamedTuple):
    """Parameters of slots: of all layers and lanes ``[n, p, s, ...]``, or of one slot."""

    arena: Float[Array, "..."]
    scale: Float[Array, "..."]


class LaneLayer(NamedTuple):
    """One layer of the lanes as numbers ``[p]``, or of one lane."""

    positions: Int[Array, "..."]
    width: Int[Array, "..."]
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


class Chunk:
    """Some pairs of a group: what they read, and where their results go. Padding reads lane 0 and adds nothing."""

    def __init__(
        self, group: Group, size: int, pairs: Pairs, layer: Array, g: int, first: Array
    ) -> None:
        self._n, self._size = size, group_size(group)
        self._weighted = group.capacity.weighted
        self._layer = layer
        take = partial(jax.lax.dynamic_slice_in_dim, start_index=first, slice_size=self._n)
        pad = ((0, self._n - 1),)
        self._lane, self._slot, self._kind = (
            take(jnp.pad(a[layer, g], pad)) for a in (pairs.lane, pairs.slot, pairs.kind)
        )
        self._valid = first + jnp.arange(self._n) < pairs.count[layer, g]

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
        return SlotParams(jnp.concatenate(arena), params.scale[self._layer, self._lane, self._slot])

    def _arena_of(self, arena: Float[Array, "n p s a"], j: int) -> Array:
        return jax.lax.dynamic_slice(arena, self._place(j), (1, 1, 1, self._size))[0, 0]

    def _place(self, j: int) -> tuple[Any, ...]:
        return self._layer, self._lane[j], self._slot[j], 0

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
            part = parts.arena[j][None]
            if self._n > 1:
                part = jnp.where(self._valid[j], part, self._arena_of(arena, j))
            arena = jax.lax.dynamic_update_slice(arena, part[None, None], self._place(j))
        if self._weighted:
            own = jnp.where(self._valid, parts.scale, 0)
            scale = scale.at[self._layer, self._lane, self._slot].add(own)
        return SlotParams(arena, scale)
