"""The DHEN family (arXiv 2203.11014): a configuration, what it computes, and its compact model.

A layer is ``X' = Norm(Ensemble_i Interaction_i(X) + ShortCut(X))``. Configurations that compute the same thing (sizes
that nothing uses, layers beyond ``num_layers``, the order of summed modules) share one `structure_key` and one program.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from autorank.base.typing import Array, Float, Key, PyTree
from autorank.models.blocks import Norm
from autorank.models.embedding import Embedding, num_embeddings
from autorank.models.heads import METRICS, NUM_LOGITS, Head
from autorank.models.interactions import MODULES, SHARED_SIZES, Sizes
from autorank.models.maps import mix
from autorank.models.parameters import Leaf, below, bias, call, draw, kernel, leaves

MAX_LAYERS, MAX_SLOTS = 8, 3
MAX_DEPTH = 8  # hidden layers of an MLP
# Names of the parameters of each layer, and of each slot within a layer.
LAYER_NAMES = tuple(f"layer{i}" for i in range(1, MAX_LAYERS + 1))
SLOT_NAMES = tuple(f"slot{i}" for i in range(MAX_SLOTS))
CHOICES = {
    "kernel": (1, 3, 5),
    "norm": ("pre", "post", "none"),
    "ensemble": ("concat", "sum", "weighted"),
    "head": tuple(METRICS),
}


@dataclass(frozen=True)
class LayerConfig:
    """One interaction module for each slot; ``none`` leaves it empty.

    Examples:
        >>> LayerConfig("dot", "none", "linear").modules
        ('dot', 'linear')
    """

    a: str = "none"
    b: str = "none"
    c: str = "none"

    def __post_init__(self) -> None:
        for slot in fields(self):
            name = getattr(self, slot.name)
            if name != "none" and name not in MODULES:
                raise ValueError(
                    f"model.layer*.{slot.name}={name!r} is not known; write one of none, {', '.join(MODULES)}"
                )

    @property
    def modules(self) -> tuple[str, ...]:
        """The filled slots, in order."""
        return tuple(name for name in (self.a, self.b, self.c) if name != "none")


@dataclass(frozen=True)
class DhenConfig:
    """One model. The sizes are shared by the modules of all layers."""

    width: int = 16  # d, of every embedding
    num_layers: int = 2  # layers beyond are ignored
    layer1: LayerConfig = LayerConfig()
    layer2: LayerConfig = LayerConfig()
    layer3: LayerConfig = LayerConfig()
    layer4: LayerConfig = LayerConfig()
    layer5: LayerConfig = LayerConfig()
    layer6: LayerConfig = LayerConfig()
    layer7: LayerConfig = LayerConfig()
    layer8: LayerConfig = LayerConfig()
    num_tokens: int = 16  # l, embeddings that each module puts out
    rank: int = 16  # cross_low, fmb, wukong
    heads: int = 2  # attention; divides width
    kernel: int = 3  # convolution
    mlp_depth: int = 1  # dot, fmb, wukong, mask: hidden layers
    mlp_width: int = 128
    norm: str = "post"  # post: of a layer's output; pre: of its modules' input; none
    # concat: along the embedding axis; sum; weighted: a learned factor for each module
    ensemble: str = "sum"
    head: str = "ctr"  # ctr, esmm, shared_bottom
    head_depth: int = 1  # hidden layers
    head_width: int = 64

    def __post_init__(self) -> None:
        for key, allowed in CHOICES.items():
            if getattr(self, key) not in allowed:
                raise ValueError(
                    f"model.{key}={getattr(self, key)!r} is not known; "
                    f"write one of {', '.join(map(str, allowed))}"
                )
        for field in fields(self):
            value = getattr(self, field.name)
            if field.type is int and value < 1:
                raise ValueError(f"model.{field.name}={value!r} is too small; write 1 or more")
        most = {"num_layers": MAX_LAYERS, "mlp_depth": MAX_DEPTH, "head_depth": MAX_DEPTH}
        for key, limit in most.items():
            if getattr(self, key) > limit:
                raise ValueError(
                    f"model.{key}={getattr(self, key)!r} is too many; write 1 to {limit}"
                )
        if self.width % self.heads and "attention" in used_modules(self):
            raise ValueError(
                f"model.heads={self.heads} does not divide model.width={self.width}; write a divisor"
            )


class Model(NamedTuple):
    """A dense network over looked-up rows; functions are not jitted."""

    # Key, and a factor on every kernel -> parameters.
    init: Callable[[Key, Array | float], PyTree]
    # Parameters, looked-up rows [b, f, d], dense features [b, n] -> logits [b, 1 or 2].
    apply: Callable[[PyTree, Array, Array], Array]


def used_modules(config: DhenConfig) -> set[str]:
    """Names of all modules in the first ``num_layers`` layers."""
    return {name for layer in layers(config) for name in layer.modules}


def layers(config: DhenConfig) -> tuple[LayerConfig, ...]:
    """The layers in use."""
    return tuple(getattr(config, name) for name in LAYER_NAMES[: config.num_layers])


def layer_outputs(config: DhenConfig, layer: LayerConfig, positions: int) -> int:
    """Embeddings that a layer with ``positions`` coming in puts out."""
    if not layer.modules:
        return positions
    return config.num_tokens * (len(layer.modules) if config.ensemble == "concat" else 1)


@lru_cache(maxsize=4096)
def canonical(config: DhenConfig) -> DhenConfig:
    """The representative of all configurations that compute the same function of the same parameters.

    Empty slots go last, modules that are only summed are sorted, empty layers without a norm vanish (one, of no effect,
    is left if all do), and a size that nothing uses is 1.
    """
    kept = [layer.modules for layer in layers(config) if layer.modules or config.norm == "post"]
    if config.ensemble != "concat":
        kept = [tuple(sorted(modules)) for modules in kept]
    new = dict.fromkeys(LAYER_NAMES, LayerConfig())
    new |= {name: LayerConfig(*modules) for name, modules in zip(LAYER_NAMES, kept, strict=False)}
    used = {name for modules in kept for name in modules}
    new |= {size: 1 for size in SHARED_SIZES if not uses(used, size)}
    if not used:
        new |= {"num_tokens": 1}
    if not kept:
        new |= {"norm": "none"}
    # Concatenating one module is adding it; a learned factor on one module still is a parameter.
    summed = config.ensemble == "concat" and all(len(modules) < 2 for modules in kept)
    if summed or not used:
        new |= {"ensemble": "sum"}
    return replace(config, num_layers=max(1, len(kept)), **new)


def uses(modules: Iterable[str], size: str) -> bool:
    """Whether any of the modules depends on a size that layers share; all have ``num_tokens`` outputs."""
    return any(size == "num_tokens" or size in MODULES[name].traits["uses"] for name in modules)


def structure_key(config: DhenConfig) -> str:
    """Text that is equal for two configurations exactly when they are the same program."""
    c = canonical(config)
    stack = " ".join("[" + "+".join(layer.modules) + "]" for layer in layers(c))
    sizes = " ".join(
        f"{size}={getattr(c, size)}"
        for size in ("num_tokens", *SHARED_SIZES)
        if uses(used_modules(c), size)
    )
    head = f"{c.head}={c.head_depth}x{c.head_width}"
    return " ".join(filter(None, [f"d={c.width}", stack, c.ensemble, c.norm, sizes, head]))


class Place(NamedTuple):
    """Where a parameter of a compact model belongs."""

    layer: int | None  # index; None outside of the layers
    slot: int | None  # index within the layer; None outside of its modules
    names: tuple[str, ...]  # of the parameter there


def place_of(leaf: Leaf) -> Place:
    """The place of a parameter of a compact model.

    Examples:
        >>> place_of(Leaf(("layer2", "slot0", "out"), (4, 8), ("in positions", "tokens")))
        Place(layer=1, slot=0, names=('out',))
        >>> place_of(Leaf(("head", "logit"), (8, 1), ("in head", "task")))
        Place(layer=None, slot=None, names=('head', 'logit'))
    """
    if leaf.path[0] not in LAYER_NAMES:
        return Place(None, None, leaf.path)
    layer, rest = LAYER_NAMES.index(leaf.path[0]), leaf.path[1:]
    if rest[0] not in SLOT_NAMES:
        return Place(layer, None, rest)
    return Place(layer, SLOT_NAMES.index(rest[0]), rest[1:])


def residual_gain(num_layers: Any, num_modules: Any) -> Any:
    """Factor on the initial ``out`` kernels: the layers' additions to the shortcut sum to about its own size."""
    return (num_layers * num_modules) ** -0.5


def initial_spread(config: DhenConfig, leaf: Leaf) -> float:
    """Standard deviation of a new kernel of a canonical configuration (LeCun, with `residual_gain`)."""
    layer, gain = place_of(leaf).layer, 1.0
    if layer is not None and leaf.path[-1] == "out":
        num_modules = len(layers(config)[layer].modules)
        gain = residual_gain(config.num_layers, num_modules)
    return gain * leaf.fan_in**-0.5


def module_sizes(config: DhenConfig, positions: int) -> Sizes:
    """The sizes of a layer's modules when ``positions`` embeddings come in."""
    c = config
    shared = (c.rank, c.heads, c.kernel, c.mlp_depth, c.mlp_width)
    return Sizes(positions, c.num_tokens, c.width, *shared)


class Layer(nn.Module):
    """One DHEN layer of a compact model.

    Args:
        config: canonical.
        modules: of this layer.
        hollow: zeros take the place of what the modules put out, so that only the layer's own parameters are left.
    """

    config: DhenConfig
    modules: tuple[str, ...]
    hollow: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "b m d"]) -> Float[Array, "b l d"]:
        """``m`` embeddings in, `layer_outputs` out."""
        c, width, positions = self.config, {"width": self.config.width}, x.shape[1]
        outputs = layer_outputs(c, LayerConfig(*self.modules), positions)
        sizes = module_sizes(c, positions)
        normed = Norm(width, name="norm")(x) if c.norm == "pre" and self.modules else x
        named = zip(SLOT_NAMES, self.modules, strict=False)
        if self.hollow:
            parts = [jnp.zeros((x.shape[0], c.num_tokens, c.width), x.dtype) for _ in named]
        else:
            parts = [MODULES[module].make(sizes, name=name)(normed) for name, module in named]
        if parts and c.ensemble == "weighted":
            scale = bias(self, "scale", {"slots": len(parts)})
            parts = [part * scale[i] for i, part in enumerate(parts)]
        if outputs != positions:
            x = mix(x, kernel(self, "shortcut", {"positions": positions}, {"outputs": outputs}))
        if parts:
            joined = jnp.concatenate(parts, axis=1) if c.ensemble == "concat" else sum(parts)
            x = x + joined
        return Norm(width, name="norm")(x) if c.norm == "post" else x


class Dhen(nn.Module):
    """The whole dense network of one canonical configuration."""

    config: DhenConfig

    @nn.compact
    def __call__(self, x: Float[Array, "b f d"], dense: Float[Array, "b n"]) -> Float[Array, "b t"]:
        """Looked-up rows and dense features in, logits out."""
        c = self.config
        x = Embedding(c.width, name="embedding")(x, dense)
        for name, layer in zip(LAYER_NAMES, layers(c), strict=False):
            x = Layer(c, layer.modules, name=name)(x)
        axes = {"positions": x.shape[1], "width": c.width}
        return Head(axes, c.head_depth, c.head_width, NUM_LOGITS[c.head], name="head")(x)


def compact(config: DhenConfig, num_fields: int, num_dense: int) -> Model:
    """The model at its real sizes: the static program that is trained in full, measured and exported.

    Examples:
        >>> model = compact(DhenConfig(width=4, layer1=LayerConfig("dot", "linear")), num_fields=3, num_dense=2)
        >>> params = model.init(jax.random.key(0), 1.0)
        >>> model.apply(params, jnp.ones((5, 3, 4)), jnp.ones((5, 2))).shape
        (5, 1)
    """
    config = canonical(config)
    module = Dhen(config)

    def init(key: Key, scale: Array | float) -> PyTree:
        return draw(
            key,
            parameters(config, num_fields, num_dense),
            lambda leaf: scale * initial_spread(config, leaf),
        )

    def apply(params: PyTree, x: Array, dense: Array) -> Array:
        return call(module, params, x, dense)

    return Model(init, apply)


@lru_cache(maxsize=1024)
def parameters(config: DhenConfig, num_fields: int, num_dense: int) -> PyTree:
    """Tree of `Leaf`: every parameter's shape and axes, from the modules themselves.

    Part by part, and each part of a size is traced once: of a whole model that takes 50 ms, while lanes wait.
    """
    c = canonical(config)
    positions = num_embeddings(num_fields, num_dense)
    tree: dict[str, Any] = {"embedding": _embedding_leaves(c.width, num_fields, num_dense)}
    for name, layer in zip(LAYER_NAMES, layers(c), strict=False):
        tree[name] = _layer_leaves(c, layer, positions)
        positions = layer_outputs(c, layer, positions)
    tree["head"] = _head_leaves(positions, c.width, c.head_depth, c.head_width, NUM_LOGITS[c.head])
    return {name: below(name, part) for name, part in tree.items() if part}


def _layer_leaves(config: DhenConfig, layer: LayerConfig, positions: int) -> PyTree:
    """The parameters of one layer of a canonical configuration."""
    c, sizes = config, module_sizes(config, positions)
    own = _frame_leaves(positions, c.width, c.num_tokens, len(layer.modules), c.norm, c.ensemble)
    tree = dict(own)
    for slot, module in zip(SLOT_NAMES, layer.modules, strict=False):
        # A size that the module does not depend on would make it another one.
        unused = {size: 1 for size in SHARED_SIZES if not uses([module], size)}
        tree[slot] = below(slot, _module_leaves(module, sizes._replace(**unused)))
    return tree


@lru_cache(maxsize=64)
def _embedding_leaves(width: int, num_fields: int, num_dense: int) -> PyTree:
    x = jax.ShapeDtypeStruct((1, num_fields, width), jnp.float32)
    dense = jax.ShapeDtypeStruct((1, num_dense), jnp.float32)
    return leaves(Embedding(width), x, dense)


@lru_cache(maxsize=1024)
def _frame_leaves(
    positions: int, width: int, tokens: int, num_modules: int, norm: str, ensemble: str
) -> PyTree:
    """What a layer has beside its modules; which ones they are does not matter."""
    config = DhenConfig(width=width, num_tokens=tokens, heads=1, norm=norm, ensemble=ensemble)
    x = jax.ShapeDtypeStruct((1, positions, width), jnp.float32)
    return leaves(Layer(config, ("linear",) * num_modules, hollow=True), x)


@lru_cache(maxsize=4096)
def _module_leaves(module: str, sizes: Sizes) -> PyTree:
    x = jax.ShapeDtypeStruct((1, sizes.positions, sizes.width), jnp.float32)
    return leaves(MODULES[module].make(sizes), x)


@lru_cache(maxsize=1024)
def _head_leaves(positions: int, width: int, depth: int, units: int, num_logits: int) -> PyTree:
    axes = {"positions": positions, "width": width}
    x = jax.ShapeDtypeStruct((1, positions, width), jnp.float32)
    return leaves(Head(axes, depth, units, num_logits), x)
