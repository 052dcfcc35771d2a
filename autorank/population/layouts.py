"""What a population program can hold, as a static `Layout`: populations that fit the same one share a program."""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from autorank.models.dhen import DhenConfig, LayerConfig, canonical, layer_outputs, layers
from autorank.models.embedding import num_embeddings
from autorank.models.interactions import MODULES, Sizes

# Beyond it, the extra arithmetic of `Layout.flat` costs more than the transposes that it spares.
MAX_FLAT_WIDTH = 32
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
        """Number of instances over all banks, ``i``."""
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
    # Whether there is room to spare: fewer or smaller models fit too, at the cost of some masks.
    loose: bool = False
    flat: bool = False  # see `interactions.Sizes`
    kernels: str = ""  # likewise
    # Whether layers are computed again in the backward pass: the memory of one instead of all.
    remat: bool = False

    @property
    def instances(self) -> int:
        """Number of instances over all layers."""
        return sum(layer.instances for layer in self.layers)


def layout_of(
    configs: Sequence[DhenConfig], num_fields: int, num_dense: int, *, headroom: float = 1.0
) -> Layout:
    """The smallest layout that holds ``configs``; with ``headroom`` above 1 other populations fit, too.

    Raises:
        ValueError: no configuration, several widths or several heads.

    Examples:
        >>> from autorank.models.dhen import LayerConfig
        >>> models = [DhenConfig(num_layers=1, layer1=LayerConfig(a)) for a in ("dot", "cross", "dot")]
        >>> layout = layout_of(models, num_fields=4, num_dense=2)
        >>> [(bank.module, bank.count) for bank in layout.layers[0].banks]
        [('cross', 1), ('dot', 2)]
    """
    found = deepest_first(configs)
    for name in ("width", "head"):
        values = sorted({getattr(config, name) for config in found})
        if len(values) != 1:
            raise ValueError(
                f"one population has one model.{name}, got {values}; form one population for each"
            )
    positions = [num_embeddings(num_fields, num_dense)] * len(found)
    laid_out = []
    for index in range(found[0].num_layers):
        layer, positions = _layer_layout(found, index, positions, headroom)
        laid_out.append(layer)
    return Layout(
        size=len(found),
        width=found[0].width,
        slots=max(1, *(len(layer.modules) for config in found for layer in layers(config))),
        tokens=tuple(sorted({config.num_tokens for config in found})),
        layers=tuple(laid_out),
        positions=max(positions),
        head_depth=max(config.head_depth for config in found),
        head_width=max(config.head_width for config in found),
        has_concat=any(config.ensemble == "concat" for config in found),
        head=found[0].head,
        loose=headroom > 1,
    )


def _layer_layout(
    found: Sequence[DhenConfig], index: int, positions: Sequence[int], headroom: float
) -> tuple[LayerLayout, list[int]]:
    """One layer of models, deepest first, and the embeddings that each model has behind it."""
    alive = [config for config in found if config.num_layers > index]
    stack = [layers(config)[index] for config in alive]
    before, ended = list(positions[: len(alive)]), list(positions[len(alive) :])
    outputs = [
        layer_outputs(config, layer, at)
        for config, layer, at in zip(alive, stack, before, strict=True)
    ]
    # With headroom, models that ended pass through the layer.
    passing = ended if headroom > 1 else []
    layout = LayerLayout(
        size=len(found) if headroom > 1 else len(alive),
        inputs=max([*before, *passing]),
        outputs=max([*outputs, *passing]),
        banks=_banks(alive, stack, headroom),
        reshapes=outputs != before,
        has_pre=any(config.norm == "pre" for config in alive),
        has_post=any(config.norm == "post" for config in alive),
    )
    return layout, outputs + ended


def _banks(
    configs: Sequence[DhenConfig], stack: Sequence[LayerConfig], headroom: float
) -> tuple[Bank, ...]:
    """The instances of each module in one layer, padded to the largest sizes."""
    counts: Counter[tuple[str, int]] = Counter()
    largest: dict[tuple[str, int], dict[str, int]] = {}
    for config, layer in zip(configs, stack, strict=True):
        for module in layer.modules:
            key = bank_key(module, config)
            counts[key] += 1
            sizes = largest.setdefault(key, dict.fromkeys(PADDED, 1))
            for name in PADDED:
                sizes[name] = max(sizes[name], size_of(config, module, name))
    return tuple(
        Bank(*key, **largest[key], count=int(np.ceil(headroom * count - 1e-9)))
        for key, count in sorted(counts.items())
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
    """Canonical configurations by falling depth; raises ``ValueError`` for none."""
    found = sorted(map(canonical, configs), key=lambda config: -config.num_layers)
    if not found:
        raise ValueError("a population needs at least one configuration")
    return found


def size_of(config: DhenConfig, module: str, name: str) -> int:
    """A size that the module depends on, 1 for others."""
    return getattr(config, name) if name in MODULES[module].traits["uses"] else 1


def sizes_of(layout: Layout, layer: LayerLayout, bank: Bank) -> Sizes:
    """Sizes of a bank's module."""
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
