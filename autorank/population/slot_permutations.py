"""Slots of many models to the instances of a module and back: two linear maps, each the other's transpose.

Written so that neither needs a scatter, in the forward or the backward pass.
"""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from autorank.base.typing import Array, Int


@jax.custom_vjp
def permute(x: Array, order: Int[Array, " p"], place: Int[Array, " p"]) -> Array:
    """``x[order]``; ``place`` is the inverse of ``order``."""
    return x.at[order].get(mode="promise_in_bounds", unique_indices=True)


def _permute_fwd(x: Array, order: Array, place: Array) -> tuple:
    return permute(x, order, place), place


def _permute_bwd(place: Array, gradient: Array) -> tuple:
    return permute(gradient, place, place), None, None


permute.defvjp(_permute_fwd, _permute_bwd)


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def dispatch(x: Array, model: Array, slot: Array, counts: tuple[int, ...]) -> list[Array]:
    """Each instance's input, one array ``[n, b, m, d]`` for each bank of ``n``."""
    return _split(x, model, counts)


def _split(x: Array, model: Array, counts: tuple[int, ...]) -> list[Array]:
    ends = np.cumsum(counts)
    return [
        x.at[model[end - count : end]].get(mode="fill", fill_value=0)
        for end, count in zip(map(int, ends), counts, strict=True)
    ]


def _dispatch_fwd(x: Array, model: Array, slot: Array, counts: tuple[int, ...]) -> tuple:
    return _split(x, model, counts), (model, slot)


def _dispatch_bwd(counts: tuple[int, ...], saved: tuple, gradient: list[Array]) -> tuple:
    _, slot = saved
    return sum(_gather_slots(gradient, slot)), None, None


dispatch.defvjp(_dispatch_fwd, _dispatch_bwd)


def _gather_slots(parts: Sequence[Array], slot: Array) -> list[Array]:
    joined = jnp.concatenate(parts) if len(parts) > 1 else parts[0]
    return [joined.at[slot[:, s]].get(mode="fill", fill_value=0) for s in range(slot.shape[1])]


@jax.custom_vjp
def combine(parts: tuple[Array, ...], model: Array, slot: Array) -> list[Array]:
    """What fills each slot, an array ``[q, b, l, d]`` for each, zeros where nothing does; parts: ``[n, b, l, d]``."""
    return _gather_slots(parts, slot)


def _combine_fwd(parts: tuple[Array, ...], model: Array, slot: Array) -> tuple:
    return _gather_slots(parts, slot), (model, slot, [p.shape[0] for p in parts])


def _combine_bwd(saved: tuple, gradient: list[Array]) -> tuple:
    model, slot, counts = saved
    # Instance i fills slot s of model[i]; s is found by comparing, so that no scatter is needed.
    size = slot.shape[0]
    numbers = jnp.arange(model.shape[0])
    owner = jnp.minimum(model, size - 1)
    stacked = jnp.concatenate(gradient)  # slot-major: row s * p + model
    which = jnp.argmax(slot[owner] == numbers[:, None], axis=1)
    row = jnp.where(model < size, which * size + owner, stacked.shape[0])
    return tuple(_split(stacked, row, tuple(counts))), None, None


combine.defvjp(_combine_fwd, _combine_bwd)
