"""The masked form of a model: a padded DHEN that takes its architecture as arrays.

One program serves every configuration within its `Limits`, so that different models train side by side under
``vmap``. It computes what the compact model computes: every axis is cut to its active prefix, activations are zero
beyond it, and weights beyond it (or of modules that a slot does not hold) are replaced by zeros, so they never get a
gradient. Layers are scanned, slots vmapped; layers beyond ``num_layers`` pass their input on.
"""

from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from autorank.base.typing import Array, Bool, Float, Key, PyTree
from autorank.models.architecture import Arch, Limits, axis_counts
from autorank.models.blocks import Norm
from autorank.models.dhen import DhenConfig, canonical, layers, parameters, place_of, residual_gain
from autorank.models.embedding import Embedding, num_embeddings
from autorank.models.heads import NUM_LOGITS, Head
from autorank.models.interactions import MODULES, Sizes
from autorank.models.maps import mix
from autorank.models.parameters import IN, Active, Leaf, call, cut, draw, is_leaf, leaves, prefix


@dataclass(frozen=True)
class MaskedModel:
    """A program for every configuration within ``limits``; the architecture is an argument.

    Rows ``x [b, f, limits.width]`` may hold anything beyond the architecture's width: it has no effect.
    """

    limits: Limits
    num_fields: int
    num_dense: int

    @cached_property
    def sizes(self) -> Sizes:
        """Sizes of every module: the limits."""
        return _sizes(self.limits, self.num_fields, self.num_dense)

    @cached_property
    def tree(self) -> PyTree:
        """Tree of `Leaf`: every parameter's shape and axes."""
        return _parameters(self.limits, self.num_fields, self.num_dense)

    def init(self, key: Key, scale: Array | float, arch: Arch) -> PyTree:
        """New parameters; ``scale`` is a factor on every kernel."""
        return draw(key, self.tree, lambda leaf: scale * _spread(leaf, arch))

    def apply(
        self, params: PyTree, x: Float[Array, "b f d"], dense: Float[Array, "b n"], arch: Arch
    ) -> Float[Array, "b t"]:
        """Logits of one architecture."""
        limits, sizes, tree = self.limits, self.sizes, self.tree
        axes = {"positions": sizes.positions, "width": limits.width}
        head = Head(axes, limits.head_depth, limits.head_width, NUM_LOGITS[limits.head])

        def run(module: nn.Module, name: str, counts: dict, *inputs: Array) -> Array:
            return call(module, cut(params[name], tree[name], counts), *inputs)

        counts = axis_counts(arch, arch.positions[-1], arch.positions[-1])
        x = jnp.where(prefix(limits.width, arch.width)[None, None], x, 0.0)
        x = run(Embedding(limits.width), "embedding", counts, x, dense)
        x = jnp.pad(x, ((0, 0), (0, sizes.positions - x.shape[1]), (0, 0)))
        per_layer = (
            params["layers"],
            arch.positions[:-1],
            arch.positions[1:],
            arch.modules,
            prefix(limits.num_layers, arch.num_layers),
        )
        x, _ = jax.lax.scan(lambda x, at: (self._layer(x, arch, *at), None), x, per_layer)
        return run(head, "head", counts, x, arch.head_depth)

    def _layer(
        self,
        x: Array,
        arch: Arch,
        params: PyTree,
        positions: Array,
        outputs: Array,
        held: Bool[Array, "s k"],
        on: Bool[Array, ""],
    ) -> Array:
        """One layer; ``params`` of this layer."""
        counts, layer = axis_counts(arch, positions, outputs), self.tree["layers"]
        norm = Norm({"width": self.limits.width})
        norm_params = cut(params["norm"], layer["norm"], counts, skip=1)

        def normed(x: Array, count: Array) -> Array:
            y = call(norm, norm_params, x, prefix(self.limits.width, arch.width))
            return jnp.where(prefix(self.sizes.positions, count)[None, :, None], y, 0.0)

        before = jnp.where(arch.pre, normed(x, positions), x)
        factor = jnp.where(arch.weighted, params["scale"], 1.0)
        shortcut = cut(params["shortcut"], layer["shortcut"], counts, skip=1)
        y = jnp.where(positions == outputs, x, mix(x, shortcut))
        if self.limits.modules:
            active = Active(positions, arch.width, arch.rank, arch.heads, arch.mlp_depth)
            parts = self._modules(params["modules"], before, held, counts, active)
            place = _place(arch, held, self.sizes) * factor[:, None, None]
            y = y + jnp.einsum("sbld,slm->bmd", parts, place)
        y = jnp.where(arch.post, normed(y, outputs), y)
        return jnp.where(on, y, x)

    def _modules(
        self, params: PyTree, x: Array, held: Bool[Array, "s k"], counts: dict, active: Active
    ) -> Float[Array, "s b l d"]:
        """What the modules put into each slot: every module runs in every slot, with zeros for weights if not held."""
        tree = self.tree["layers"]["modules"]

        def part(name: str, params: PyTree, gate: Array) -> Array:
            own = cut(params, tree[name], counts, gate, skip=2)
            return call(MODULES[name].make(self.sizes), own, x, active)

        return sum(
            jax.vmap(partial(part, name))(params[name], held[:, k])
            for k, name in enumerate(self.limits.modules)
        )  # pyright: ignore[reportReturnType]


def extract(
    params: PyTree, config: DhenConfig, limits: Limits, num_fields: int, num_dense: int
) -> PyTree:
    """Parameters of the compact model that computes the same function: active prefixes of the masked ones.

    Takes JAX or NumPy arrays (nothing is compiled for the latter) of one model, and gives the same kind.
    """
    config = canonical(config)
    stack = layers(config)

    def take(leaf: Leaf) -> Any:
        layer, slot, names = place_of(leaf)
        value, lead = params, ()
        if layer is not None:
            value, lead = value["layers"], (layer,)
            if slot is not None:
                value, lead = value["modules"][stack[layer].modules[slot]], (layer, slot)
        for name in names:
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
