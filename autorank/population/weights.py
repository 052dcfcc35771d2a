"""Parameters of a population: their shapes, and single models' weights put in and taken out."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from autorank.base.typing import Array, PyTree
from autorank.models.blocks import Norm
from autorank.models.dhen import DhenConfig, canonical, layers, parameters, place_of
from autorank.models.embedding import Embedding
from autorank.models.heads import NUM_LOGITS, Head
from autorank.models.interactions import MODULES
from autorank.models.parameters import IN, Leaf, is_leaf, leaves
from autorank.population.layouts import LayerLayout, Layout, bank_key, sizes_of
from autorank.population.routing import Routing


def parameter_leaves(layout: Layout, num_fields: int, num_dense: int) -> PyTree:
    """Tree of `Leaf` with the shapes of one model or instance."""
    dense = jax.ShapeDtypeStruct((1, num_dense), jnp.float32)

    def embeddings(count: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((1, count, layout.width), jnp.float32)

    def of_layer(layer: LayerLayout) -> PyTree:
        x, m = embeddings(layer.inputs), layer.inputs
        return {
            "norm": leaves(Norm({"width": layout.width}), x),
            "scale": Leaf(("scale",), (layout.slots,), ("slots",)),
            "shortcut": Leaf(("shortcut",), (m, layer.outputs), (IN + "positions", "outputs")),
            "banks": [
                leaves(MODULES[b.module].make(sizes_of(layout, layer, b)), x) for b in layer.banks
            ],
        }

    axes = {"positions": layout.positions, "width": layout.width}
    head = Head(axes, layout.head_depth, layout.head_width, NUM_LOGITS[layout.head])
    return {
        "embedding": leaves(Embedding(layout.width), embeddings(num_fields), dense),
        "layers": [of_layer(layer) for layer in layout.layers],
        "head": leaves(head, embeddings(layout.positions)),
    }


def insert(
    members: Sequence[PyTree],
    configs: Sequence[DhenConfig],
    layout: Layout,
    routing: Routing,
    num_fields: int,
    num_dense: int,
) -> PyTree:
    """The population's parameters (NumPy) from compact ones of each model; elsewhere zero, norm scales one."""
    empty = jax.tree.map(
        lambda leaf, s: np.full(s.shape, 1.0 if leaf.path[-1] == "scale" else 0.0, np.float32),
        parameter_leaves(layout, num_fields, num_dense),
        shapes(layout, num_fields, num_dense),
        is_leaf=is_leaf,
    )
    at = jax.tree.map(np.asarray, routing)
    for p, (config, params) in enumerate(zip(configs, members, strict=True)):
        config = canonical(config)

        def put(leaf: Leaf, value: Any, config: DhenConfig = config, p: int = p) -> None:
            target, index = _find(empty, leaf, config, p, layout, at)
            target[index] = np.asarray(value)

        jax.tree.map(put, parameters(config, num_fields, num_dense), params, is_leaf=is_leaf)
    return empty


def extract(
    params: PyTree,
    config: DhenConfig,
    index: int,
    layout: Layout,
    routing: Routing,
    num_fields: int,
    num_dense: int,
) -> PyTree:
    """Compact parameters of model ``index``, from the population's; nothing is compiled for NumPy arrays."""
    config, at = canonical(config), jax.tree.map(np.asarray, routing)

    def take(leaf: Leaf) -> Any:
        value, where = _find(params, leaf, config, index, layout, at)
        return value[where]

    return jax.tree.map(take, parameters(config, num_fields, num_dense), is_leaf=is_leaf)


def _find(
    tree: PyTree, leaf: Leaf, config: DhenConfig, p: int, layout: Layout, at: Routing
) -> tuple[Any, tuple]:
    """The population's array that holds a compact parameter, and its place there."""
    place, lead, value = place_of(leaf), p, tree
    if place.layer is not None:
        value, lead = tree["layers"][place.layer], int(at.place[p])
        if place.slot is not None:
            key = bank_key(layers(config)[place.layer].modules[place.slot], config)
            layer = layout.layers[place.layer]
            bank = [b[:2] for b in layer.banks].index(key)
            lead = int(at.layers[place.layer].slot[lead, place.slot]) - layer.starts[bank]
            value = value["banks"][bank]
    for name in place.names:
        value = value[name]
    return value, (lead, *(slice(n) for n in leaf.shape))


def owners(layout: Layout, routing: Routing, num_fields: int, num_dense: int) -> PyTree:
    """The model that each entry of every leaf's leading axis belongs to, by its number in the caller's order."""
    tree = parameter_leaves(layout, num_fields, num_dense)

    def constant(tree: PyTree, value: Array) -> PyTree:
        return jax.tree.map(lambda _: value, tree, is_leaf=is_leaf)

    def of_layer(index: int) -> PyTree:
        layer, at, own = layout.layers[index], routing.layers[index], tree["layers"][index]
        order = routing.order[: layer.size]
        model = order[jnp.minimum(at.model, layer.size - 1)]
        banks = [
            constant(t, model[start : start + bank.count])
            for t, start, bank in zip(own["banks"], layer.starts, layer.banks, strict=True)
        ]
        return {n: constant(own[n], order) for n in ("norm", "scale", "shortcut")} | {
            "banks": banks
        }

    each = jnp.arange(layout.size)
    whole = {n: constant(tree[n], each) for n in ("embedding", "head")}
    return whole | {"layers": [of_layer(i) for i in range(len(layout.layers))]}


def shapes(layout: Layout, num_fields: int, num_dense: int) -> PyTree:
    """`jax.ShapeDtypeStruct` of every parameter array, leading axis included."""
    tree = parameter_leaves(layout, num_fields, num_dense)

    def lead(tree: PyTree, count: int) -> PyTree:
        return jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct((count, *leaf.shape), jnp.float32),
            tree,
            is_leaf=is_leaf,
        )

    def of_layer(layer: LayerLayout, own: PyTree) -> PyTree:
        banks = [lead(t, b.count) for t, b in zip(own["banks"], layer.banks, strict=True)]
        return {n: lead(own[n], layer.size) for n in ("norm", "scale", "shortcut")} | {
            "banks": banks
        }

    whole = {n: lead(tree[n], layout.size) for n in ("embedding", "head")}
    return whole | {
        "layers": [of_layer(*pair) for pair in zip(layout.layers, tree["layers"], strict=True)]
    }
