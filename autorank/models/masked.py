"""The masked build: a padded DHEN that takes its architecture as arrays.

One program serves every configuration within its `Limits`, so that different models train side by side under
``vmap``. It computes what the compact build computes: every axis is cut to its active prefix, activations are zero
beyond it, and weights beyond it (or of modules that a slot does not hold) are replaced by zeros, so they never get a
gradient. Layers are scanned, slots vmapped; layers beyond ``num_layers`` pass their input on.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from autorank.base.typing import Array, Bool, Float, Key, PyTree
from autorank.models.architecture import Arch, Limits, architecture, axis_counts, limits_of
from autorank.models.blocks import (
    IN,
    Active,
    Leaf,
    Norm,
    call,
    cut,
    draw,
    is_leaf,
    leaves,
    mix,
    prefix,
)
from autorank.models.dhen import DhenConfig, canonical, layers, parameters, residual_gain
from autorank.models.embedding import Embedding, num_embeddings
from autorank.models.heads import NUM_LOGITS, Head
from autorank.models.interactions import MODULES, Sizes

__all__ = ["Arch", "Limits", "MaskedModel", "architecture", "extract", "limits_of", "masked"]


class MaskedModel(NamedTuple):
    """Like `Model`, with the architecture as an argument; what ``x`` holds beyond its width has no effect."""

    init: Callable[[Key, Array | float, Arch], PyTree]
    apply: Callable[[PyTree, Array, Array, Arch], Array]  # x [b, f, limits.width]


def masked(limits: Limits, num_fields: int, num_dense: int) -> MaskedModel:
    """A program for every configuration within ``limits``."""
    tree, sizes = _parameters(limits, num_fields, num_dense), _sizes(limits, num_fields, num_dense)
    axes = {"positions": sizes.positions, "width": limits.width}
    embedding, norm = Embedding(limits.width), Norm({"width": limits.width})
    head = Head(axes, limits.head_depth, limits.head_width, NUM_LOGITS[limits.head])
    modules = {name: MODULES[name].make(sizes) for name in limits.modules}

    def init(key: Key, scale: Array | float, arch: Arch) -> PyTree:
        return draw(key, tree, lambda leaf: scale * _spread(leaf, arch))

    def apply(params: PyTree, x: Array, dense: Array, arch: Arch) -> Array:
        def run(module: nn.Module, name: str, counts: dict, *inputs: Array) -> Array:
            return call(module, cut(params[name], tree[name], counts), *inputs)

        counts = axis_counts(arch, arch.positions[-1], arch.positions[-1])
        x = jnp.where(prefix(limits.width, arch.width)[None, None], x, 0.0)
        x = run(embedding, "embedding", counts, x, dense)
        x = jnp.pad(x, ((0, 0), (0, sizes.positions - x.shape[1]), (0, 0)))
        per_layer = (
            params["layers"],
            arch.positions[:-1],
            arch.positions[1:],
            arch.modules,
            prefix(limits.num_layers, arch.num_layers),
        )
        x, _ = jax.lax.scan(lambda x, layer: (step(x, arch, *layer), None), x, per_layer)
        return run(head, "head", counts, x, arch.head_depth)

    def step(
        x: Array,
        arch: Arch,
        params: PyTree,
        positions: Array,
        outputs: Array,
        held: Bool[Array, "s k"],
        on: Bool[Array, ""],
    ) -> Array:
        """One layer; ``params`` of this layer."""
        counts, layer = axis_counts(arch, positions, outputs), tree["layers"]
        active = Active(positions, arch.width, arch.rank, arch.heads, arch.mlp_depth)
        norm_params = cut(params["norm"], layer["norm"], counts, skip=1)

        def normed(x: Array, count: Array) -> Array:
            y = call(norm, norm_params, x, prefix(limits.width, arch.width))
            return jnp.where(prefix(sizes.positions, count)[None, :, None], y, 0.0)

        def part(name: str, slot: PyTree, gate: Array, x: Array) -> Array:
            own = cut(slot, layer["modules"][name], counts, gate, skip=2)
            return call(modules[name], own, x, active)

        before = jnp.where(arch.pre, normed(x, positions), x)
        factor = jnp.where(arch.weighted, params["scale"], 1.0)
        shortcut = cut(params["shortcut"], layer["shortcut"], counts, skip=1)
        y = jnp.where(positions == outputs, x, mix(x, shortcut))
        if modules:
            parts = sum(
                jax.vmap(lambda slot, gate, name=name: part(name, slot, gate, before))(
                    params["modules"][name], held[:, k]
                )
                for k, name in enumerate(limits.modules)
            )
            place = _place(arch, held, sizes) * factor[:, None, None]
            y = y + jnp.einsum("sbld,slm->bmd", parts, place)
        y = jnp.where(arch.post, normed(y, outputs), y)
        return jnp.where(on, y, x)

    return MaskedModel(init, apply)


def extract(
    params: PyTree, config: DhenConfig, limits: Limits, num_fields: int, num_dense: int
) -> PyTree:
    """Parameters of the compact build that computes the same function: active prefixes of the masked ones.

    Takes JAX or NumPy arrays (which cost no compilation) without a population axis, and gives the same kind.
    """
    config = canonical(config)
    stack = layers(config)

    def take(leaf: Leaf) -> Any:
        part, *rest = leaf.path
        lead: tuple[int, ...] = ()
        if part.startswith("layer"):
            index = int(part.removeprefix("layer")) - 1
            part, lead = "layers", (index,)
            if rest[0].startswith("slot"):
                slot = int(rest[0].removeprefix("slot"))
                lead, rest = (index, slot), ["modules", stack[index].modules[slot], *rest[1:]]
        value = params[part]
        for name in rest:
            value = value[name]
        return value[(*lead, *(slice(n) for n in leaf.shape))]

    return jax.tree.map(take, parameters(config, num_fields, num_dense), is_leaf=is_leaf)


def _sizes(limits: Limits, num_fields: int, num_dense: int) -> Sizes:
    s = limits
    positions = max(num_embeddings(num_fields, num_dense), s.outputs)
    return Sizes(
        positions, s.num_tokens, s.width, s.rank, s.heads, s.kernel, s.mlp_depth, s.mlp_width
    )


def _parameters(limits: Limits, num_fields: int, num_dense: int) -> PyTree:
    """Tree of `Leaf`; those of layers have a leading layer axis, those of modules layer and slot."""
    sizes, width = _sizes(limits, num_fields, num_dense), {"width": limits.width}
    positions = sizes.positions
    x = jax.ShapeDtypeStruct((1, positions, limits.width), jnp.float32)
    dense = jax.ShapeDtypeStruct((1, num_dense), jnp.float32)
    head = Head(sizes.input, limits.head_depth, limits.head_width, NUM_LOGITS[limits.head])

    def stacked(tree: PyTree, lead: dict[str, int]) -> PyTree:
        shape, axes = tuple(lead.values()), tuple(lead)
        return jax.tree.map(
            lambda leaf: Leaf(("layers", *leaf.path), shape + leaf.shape, axes + leaf.axes),
            tree,
            is_leaf=is_leaf,
        )

    layer = {
        "norm": leaves(Norm(width), x),
        "scale": Leaf(("scale",), (limits.slots,), ("slots",)),
        "shortcut": Leaf(("shortcut",), (positions, positions), (IN + "positions", "outputs")),
    }
    modules = {name: leaves(MODULES[name].make(sizes), x) for name in limits.modules}
    num_layers = {"layer": limits.num_layers}
    return {
        "embedding": leaves(Embedding(limits.width), x, dense),
        "layers": {
            **stacked(layer, num_layers),
            "modules": stacked(modules, {**num_layers, "slot": limits.slots}),
        },
        "head": leaves(head, x),
    }


def _spread(leaf: Leaf, arch: Arch) -> Array:
    """Standard deviation of a kernel, from its *active* fan-in: a number, or one for each layer."""
    is_layer = leaf.path[0] == "layers"
    positions = arch.positions[:-1] if is_layer else arch.positions[-1]
    counts = axis_counts(arch, positions, arch.positions[1:] if is_layer else positions)
    fan_in = jnp.float32(1.0)
    for axis, size in zip(leaf.axes, leaf.shape, strict=True):
        if axis.startswith(IN):
            fan_in = fan_in * counts.get(axis.removeprefix(IN), size)
    spread = jax.lax.rsqrt(jnp.maximum(fan_in, 1.0))
    if not is_layer:
        return spread
    if leaf.path[-1] == "out":
        held = jnp.maximum(jnp.sum(arch.modules, axis=(1, 2)), 1).astype(jnp.float32)
        spread = spread * residual_gain(arch.num_layers, held)
    spread = jnp.broadcast_to(spread, leaf.shape[:1])
    return jnp.expand_dims(spread, tuple(range(1, len(leaf.shape))))


def _place(arch: Arch, held: Bool[Array, "s k"], sizes: Sizes) -> Float[Array, "s l m"]:
    """1 where token ``l`` of slot ``s`` is added to position ``m`` of the layer's output."""
    slots = held.shape[0]
    slot = jnp.arange(slots)[:, None, None]
    token = jnp.arange(sizes.tokens)[None, :, None]
    target = token + jnp.where(arch.concat, slot * arch.num_tokens, 0)
    filled = jnp.any(held, axis=1)[:, None, None] & (token < arch.num_tokens)
    here = target == jnp.arange(sizes.positions)[None, None]
    return (here & filled).astype(jnp.float32)
