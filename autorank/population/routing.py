"""Where the models of one population go in a layout, as arrays: which slots go where is data."""

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from autorank.base.typing import Array, Bool, Int
from autorank.models.dhen import DhenConfig, canonical, layer_outputs, layers
from autorank.models.embedding import num_embeddings
from autorank.population.layouts import PADDED, LayerLayout, Layout, bank_key, misfit, size_of


class LayerRouting(NamedTuple):
    """One layer of one population: ``q`` models, deepest first, ``s`` slots, ``i`` instances."""

    positions: Int[Array, " q"]  # embeddings coming in
    outputs: Int[Array, " q"]
    on: Bool[Array, " q"]  # has this layer
    model: Int[Array, " i"]  # whose slot each instance is; q = nobody's
    slot: Int[Array, "q s"]  # which instance fills each slot; i = none
    sizes: dict[str, Int[Array, " i"]]  # of each instance, by the names in `PADDED`


class Routing(NamedTuple):
    """One population within a layout, as arrays; per model in the caller's order unless said otherwise."""

    order: Int[Array, " p"]  # the models, deepest first: the order within layers
    place: Int[Array, " p"]  # its inverse
    positions: Int[Array, " p"]  # embeddings that reach the head
    head_depth: Int[Array, " p"]
    head_width: Int[Array, " p"]
    num_tokens: Int[Array, " p"]  # these five by depth
    concat: Bool[Array, " p"]
    weighted: Bool[Array, " p"]
    pre: Bool[Array, " p"]
    post: Bool[Array, " p"]
    layers: tuple[LayerRouting, ...]


def routing(
    layout: Layout, configs: Sequence[DhenConfig], num_fields: int, num_dense: int
) -> Routing:
    """The arrays that make a program of ``layout`` compute ``configs``; free places compute nothing of use.

    Raises:
        ValueError: they do not fit the layout together.
    """
    found = [canonical(config) for config in configs]
    if reason := misfit(layout, found, num_fields, num_dense):
        raise ValueError(reason)
    free = layout.size - len(found)
    depth = np.array([c.num_layers for c in found] + [0] * free)
    filled = found + [found[0]] * free
    order = np.argsort(-depth, kind="stable")
    place = np.argsort(order)
    by_depth, depth = [filled[p] for p in order], depth[order]
    positions = [num_embeddings(num_fields, num_dense)] * layout.size
    routed = []
    for index, layer in enumerate(layout.layers):
        alive = int(np.sum(depth > index))
        routed.append(_route_layer(layout, layer, index, by_depth[:alive], positions))

    def numbers(name: str, models: Sequence[DhenConfig]) -> Array:
        return jnp.asarray(np.array([getattr(config, name) for config in models], np.int32))

    def marks(name: str, value: str) -> Array:
        return jnp.asarray(np.array([getattr(config, name) == value for config in by_depth]))

    return Routing(
        order=jnp.asarray(order.astype(np.int32)),
        place=jnp.asarray(place.astype(np.int32)),
        positions=jnp.asarray(np.array(positions, np.int32)[place]),
        head_depth=numbers("head_depth", filled),
        head_width=numbers("head_width", filled),
        num_tokens=numbers("num_tokens", by_depth),
        concat=marks("ensemble", "concat"),
        weighted=marks("ensemble", "weighted"),
        pre=marks("norm", "pre"),
        post=marks("norm", "post"),
        layers=tuple(routed),
    )


def _route_layer(
    layout: Layout,
    layer: LayerLayout,
    index: int,
    alive: Sequence[DhenConfig],
    positions: list[int],
) -> LayerRouting:
    """Fills the banks of one layer with the modules of the models that have it.

    Args:
        layout: of the whole program.
        layer: of this layer.
        index: of this layer.
        alive: canonical models that have it, deepest first.
        positions: embeddings of every model in front of the layer; afterwards, behind it.
    """
    before = positions[: layer.size]
    model = np.full(layer.instances, layer.size, np.int32)
    slot = np.full((layer.size, layout.slots), layer.instances, np.int32)
    sizes = {name: np.ones(layer.instances, np.int32) for name in PADDED}
    free = {bank[:2]: start for bank, start in zip(layer.banks, layer.starts, strict=True)}
    for q, config in enumerate(alive):
        own = layers(config)[index]
        positions[q] = layer_outputs(config, own, positions[q])
        for s, module in enumerate(own.modules):
            key = bank_key(module, config)
            place = free[key]
            free[key] = place + 1
            model[place], slot[q, s] = q, place
            for name in PADDED:
                sizes[name][place] = size_of(config, module, name)
    return LayerRouting(
        positions=jnp.asarray(np.array(before, np.int32)),
        outputs=jnp.asarray(np.array(positions[: layer.size], np.int32)),
        on=jnp.asarray(np.arange(layer.size) < len(alive)),
        model=jnp.asarray(model),
        slot=jnp.asarray(slot),
        sizes={name: jnp.asarray(value) for name, value in sizes.items()},
    )
