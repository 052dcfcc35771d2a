"""What a population program can hold, and where its models go in it: static layouts, routing as arrays.

Which slots go where is data (`Routing`): populations that fit the same `Layout` share one program.
"""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from autorank.base.typing import Array, Bool, Int
from autorank.models.dhen import DhenConfig, canonical, layer_outputs, layers
from autorank.models.embedding import num_embeddings
from autorank.models.interactions import USES, Sizes

MAX_FLAT_WIDTH = (
    32  # wider, the extra arithmetic of `Layout.flat` costs more than the transposes that it spares
)
PADDED = ("rank", "kernel", "mlp_depth", "mlp_width")  # sizes that a bank pads to its largest


class Bank(NamedTuple):
    """Instances of one module that run side by side in a layer; static."""

    module: str
    heads: int  # the same for all instances, 1 without attention
    rank: int
    kernel: int
    mlp_depth: int
    mlp_width: int
    count: int


class LayerLayout(NamedTuple):
    """One layer of all models that have it; static."""

    size: int  # models that have it
    inputs: int  # embeddings coming in, at most
    outputs: int
    banks: tuple[Bank, ...]
    reshapes: bool  # some model's number of embeddings changes
    has_pre: bool
    has_post: bool

    @property
    def instances(self) -> int:
        """``i``, over all banks."""
        return sum(bank.count for bank in self.banks)

    @property
    def starts(self) -> list[int]:
        """First instance of each bank."""
        ends = np.cumsum([bank.count for bank in self.banks])
        return [int(end) - bank.count for end, bank in zip(ends, self.banks, strict=True)]


class Layout(NamedTuple):
    """What a population program can hold; static, hashable: one program each."""

    size: int  # p, models
    width: int
    slots: int
    tokens: tuple[int, ...]  # numbers of tokens that a module may put out
    layers: tuple[LayerLayout, ...]
    positions: int  # embeddings that reach a head, at most
    head_depth: int
    head_width: int
    has_concat: bool
    head: str
    loose: bool = (
        False  # has room to spare: fewer or smaller models fit too, at the cost of some masks
    )
    flat: bool = False  # see `interactions.Sizes`
    kernels: str = ""  # likewise
    remat: bool = (
        False  # layers are computed again in the backward pass: memory of one instead of all
    )

    @property
    def instances(self) -> int:
        """Over all layers."""
        return sum(layer.instances for layer in self.layers)


class LayerRouting(NamedTuple):
    """One layer of one population; models in the order of depth, ``q`` of them, ``s`` slots, ``i`` instances."""

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


def layout_of(
    configs: Sequence[DhenConfig], num_fields: int, num_dense: int, *, headroom: float = 1.0
) -> Layout:
    """The smallest layout that holds ``configs``; with ``headroom`` above 1 other populations fit, too.

    Raises:
        ValueError: no configuration, several widths or several heads.
    """
    found = deepest_first(configs)
    for name in ("width", "head"):
        values = sorted({getattr(config, name) for config in found})
        if len(values) != 1:
            raise ValueError(
                f"one population has one model.{name}, got {values}; layout one population for each"
            )
    positions = [num_embeddings(num_fields, num_dense)] * len(found)
    planned = []
    for index in range(found[0].num_layers):
        alive = [config for config in found if config.num_layers > index]
        stack = [layers(config)[index] for config in alive]
        outputs = [
            layer_outputs(config, layer, at)
            for config, layer, at in zip(alive, stack, positions, strict=False)
        ]
        counts: Counter[tuple[str, int]] = Counter()
        largest: dict[tuple[str, int], dict[str, int]] = {}
        for config, layer in zip(alive, stack, strict=True):
            for module in layer.modules:
                key = bank_key(module, config)
                counts[key] += 1
                sizes = largest.setdefault(key, dict.fromkeys(PADDED, 1))
                for name in PADDED:
                    sizes[name] = max(sizes[name], size_of(config, module, name))
        planned.append(
            LayerLayout(
                size=len(found) if headroom > 1 else len(alive),
                inputs=max(positions if headroom > 1 else positions[: len(alive)]),
                outputs=max([*outputs, *(positions[len(alive) :] if headroom > 1 else [])]),
                banks=tuple(
                    Bank(*key, **largest[key], count=int(np.ceil(headroom * count - 1e-9)))
                    for key, count in sorted(counts.items())
                ),
                reshapes=outputs != positions[: len(alive)],
                has_pre=any(config.norm == "pre" for config in alive),
                has_post=any(config.norm == "post" for config in alive),
            )
        )
        positions[: len(alive)] = outputs
    return Layout(
        size=len(found),
        width=found[0].width,
        slots=max(1, *(len(layer.modules) for config in found for layer in layers(config))),
        tokens=tuple(sorted({config.num_tokens for config in found})),
        layers=tuple(planned),
        positions=max(positions),
        head_depth=max(config.head_depth for config in found),
        head_width=max(config.head_width for config in found),
        has_concat=any(config.ensemble == "concat" for config in found),
        head=found[0].head,
        loose=headroom > 1,
    )


def tuned(layout: Layout, backend: str) -> Layout:
    """The layout in the forms that are fastest on a backend (`jax.default_backend`); equal up to rounding."""
    return layout._replace(
        flat=backend != "cpu" and layout.width <= MAX_FLAT_WIDTH,
        kernels="gpu" if backend == "gpu" else "",
    )


def bank_key(module: str, config: DhenConfig) -> tuple[str, int]:
    """What the instances of one bank have in common."""
    return module, size_of(config, module, "heads")


def routing(
    layout: Layout, configs: Sequence[DhenConfig], num_fields: int, num_dense: int
) -> Routing:
    """The arrays that make a program of ``layout`` compute ``configs``; places to spare compute nothing of use.

    Raises:
        ValueError: they do not fit, by name.
    """
    found = [canonical(config) for config in configs]
    reason = misfit(layout, found, num_fields, num_dense)
    if reason:
        raise ValueError(reason)
    size = layout.size
    depth = np.array([c.num_layers for c in found] + [0] * (size - len(found)))
    order = np.argsort(-depth, kind="stable")
    filled = found + [found[0]] * (size - len(found))
    by_depth = [filled[p] for p in order]
    depth = depth[order]
    positions = [num_embeddings(num_fields, num_dense)] * size
    routed = []
    for index, layer in enumerate(layout.layers):
        model = np.full(layer.instances, layer.size, np.int32)
        slot = np.full((layer.size, layout.slots), layer.instances, np.int32)
        sizes = {name: np.ones(layer.instances, np.int32) for name in PADDED}
        free = {bank[:2]: start for bank, start in zip(layer.banks, layer.starts, strict=True)}
        before = positions[: layer.size]
        for q in range(layer.size):
            if index >= depth[q]:
                continue
            config, own = by_depth[q], layers(by_depth[q])[index]
            positions[q] = layer_outputs(config, own, positions[q])
            for s, module in enumerate(own.modules):
                key = bank_key(module, config)
                place = free[key]
                free[key] = place + 1
                model[place], slot[q, s] = q, place
                for name in PADDED:
                    sizes[name][place] = size_of(config, module, name)
        routed.append(
            LayerRouting(
                positions=jnp.asarray(np.array(before, np.int32)),
                outputs=jnp.asarray(np.array(positions[: layer.size], np.int32)),
                on=jnp.asarray(depth[: layer.size] > index),
                model=jnp.asarray(model),
                slot=jnp.asarray(slot),
                sizes={name: jnp.asarray(value) for name, value in sizes.items()},
            )
        )
    place = np.argsort(order)

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


def misfit(layout: Layout, configs: Sequence[DhenConfig], num_fields: int, num_dense: int) -> str:
    """Why ``configs`` do not fit the layout together, or ""."""
    found = [canonical(config) for config in configs]
    if not found or len(found) > layout.size or (len(found) < layout.size and not layout.loose):
        return f"{len(found)} models for layout.size={layout.size}"
    for config in found:
        if config.width != layout.width or config.head != layout.head:
            return f"model.width={config.width}, model.head={config.head} are not the layout's"
    own = layout_of(found, num_fields, num_dense)
    if len(own.layers) > len(layout.layers):
        return f"{len(own.layers)} layers are beyond the layout's {len(layout.layers)}"
    for name in ("slots", "positions", "head_depth", "head_width", "has_concat"):
        if getattr(own, name) > getattr(layout, name):
            return f"{name}={getattr(own, name)} is beyond layout.{name}={getattr(layout, name)}"
    if not set(own.tokens) <= set(layout.tokens):
        return f"num_tokens={own.tokens} are not in layout.tokens={layout.tokens}"
    for index, layer in enumerate(layout.layers):
        mine = own.layers[index] if index < len(own.layers) else None
        if not layout.loose and (mine is None or mine.size != layer.size):
            return f"layer {index + 1}: the layout is for {layer.size} models that have it"
        if mine is None:
            continue
        for name in ("inputs", "outputs", "reshapes", "has_pre", "has_post"):
            if getattr(mine, name) > getattr(layer, name):
                return f"layer {index + 1}: {name}={getattr(mine, name)} is beyond the layout's"
        room = {bank[:2]: bank for bank in layer.banks}
        for bank in mine.banks:
            held = room.get(bank[:2])
            if held is None:
                return f"layer {index + 1}: no bank for {bank}"
            for name in (*PADDED, "count"):
                if getattr(bank, name) > getattr(held, name):
                    return f"layer {index + 1}: {bank.module}.{name}={getattr(bank, name)} is beyond the layout's"
    return ""


def deepest_first(configs: Sequence[DhenConfig]) -> list[DhenConfig]:
    """Canonical configurations in the order of depth; ``ValueError`` for none."""
    found = sorted(map(canonical, configs), key=lambda config: -config.num_layers)
    if not found:
        raise ValueError("a population needs at least one configuration")
    return found


def size_of(config: DhenConfig, module: str, name: str) -> int:
    """A size that the module depends on, 1 for others."""
    return getattr(config, name) if module in USES[name] else 1


def sizes_of(layout: Layout, layer: LayerLayout, bank: Bank) -> Sizes:
    """Of a bank's module."""
    return Sizes(
        layer.inputs,
        max(layout.tokens),
        layout.width,
        bank.rank,
        bank.heads,
        bank.kernel,
        bank.mlp_depth,
        bank.mlp_width,
        layout.flat,
        layout.kernels,
    )
