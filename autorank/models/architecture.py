"""An architecture as arrays: what a masked program can hold, and one configuration within it."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from autorank.base.typing import Array, Bool, Int
from autorank.models.dhen import (
    MAX_DEPTH,
    DhenConfig,
    canonical,
    layer_outputs,
    layers,
    used_modules,
)
from autorank.models.embedding import DENSE_FACTOR, num_embeddings
from autorank.models.interactions import FFN_FACTOR

_SHARED = ("width", "rank", "heads", "kernel", "mlp_depth", "mlp_width", "head_depth", "head_width")


class Limits(NamedTuple):
    """Maximum sizes of a masked program, and the modules it has; static."""

    num_layers: int
    slots: int
    outputs: int  # embeddings that a layer puts out
    num_tokens: int
    width: int
    rank: int
    heads: int
    kernel: int
    mlp_depth: int
    mlp_width: int
    head_depth: int
    head_width: int
    modules: tuple[str, ...]
    head: str


class Arch(NamedTuple):
    """One architecture within the limits; stack them to vmap. Numbers are int32."""

    num_layers: Int[Array, ""]
    positions: Int[Array, " n"]  # embeddings coming into each layer of the maximum, then the head
    modules: Bool[Array, "n s k"]  # which module each slot of each layer holds
    num_tokens: Int[Array, ""]
    width: Int[Array, ""]
    rank: Int[Array, ""]
    heads: Int[Array, ""]
    kernel: Int[Array, ""]
    mlp_depth: Int[Array, ""]
    mlp_width: Int[Array, ""]
    head_depth: Int[Array, ""]
    head_width: Int[Array, ""]
    concat: Bool[Array, ""]
    weighted: Bool[Array, ""]
    pre: Bool[Array, ""]
    post: Bool[Array, ""]


def limits_of(configs: Iterable[DhenConfig]) -> Limits:
    """The smallest limits that hold all ``configs``.

    Raises:
        ValueError: no configuration, or several heads.
    """
    found = [canonical(config) for config in configs]
    heads = {config.head for config in found}
    if len(heads) != 1:
        raise ValueError(
            f"one masked program has one model.head, got {sorted(heads)}; build one for each"
        )
    every = [(config, layer) for config in found for layer in layers(config)]
    return Limits(
        num_layers=max(config.num_layers for config in found),
        slots=max(1, *(len(layer.modules) for _, layer in every)),
        outputs=max(layer_outputs(config, layer, 0) for config, layer in every),
        num_tokens=max(config.num_tokens for config in found),
        **{size: max(getattr(config, size) for config in found) for size in _SHARED},
        modules=tuple(sorted(set().union(*map(used_modules, found)))),
        head=heads.pop(),
    )


def architecture(config: DhenConfig, limits: Limits, num_fields: int, num_dense: int) -> Arch:
    """The arrays that make a masked model compute ``config``.

    Raises:
        ValueError: the configuration is beyond the limits, by name.
    """
    config = canonical(config)
    _require_within(config, limits)
    positions = [num_embeddings(num_fields, num_dense)]
    modules = np.zeros((limits.num_layers, limits.slots, len(limits.modules)), bool)
    for i, layer in enumerate(layers(config)):
        positions.append(layer_outputs(config, layer, positions[-1]))
        for slot, name in enumerate(layer.modules):
            modules[i, slot, limits.modules.index(name)] = True
    positions += [positions[-1]] * (limits.num_layers + 1 - len(positions))
    fields: dict[str, Any] = {
        "positions": np.asarray(positions, np.int32),
        "modules": modules,
        "concat": config.ensemble == "concat",
        "weighted": config.ensemble == "weighted",
        "pre": config.norm == "pre",
        "post": config.norm == "post",
    }
    fields |= {
        size: np.int32(getattr(config, size)) for size in ("num_layers", "num_tokens", *_SHARED)
    }
    return Arch(**{name: jnp.asarray(value) for name, value in fields.items()})


def axis_counts(arch: Arch, positions: Array, outputs: Array) -> dict[str, Array]:
    """Active length of every named axis that an architecture can cut; ``positions`` may be those of all layers."""
    depth = {"mlp": (arch.mlp_depth, arch.mlp_width), "head": (arch.head_depth, arch.head_width)}
    return {
        "positions": positions,
        "outputs": outputs,
        "pairs": positions * (positions - 1) // 2,
        "tokens": arch.num_tokens,
        "width": arch.width,
        "channels": arch.width,
        "ffn": FFN_FACTOR * arch.width,
        "dense_hidden": DENSE_FACTOR * arch.width,
        "dense_hidden1": DENSE_FACTOR * arch.width,
        "rank": arch.rank,
        "taps": arch.kernel,
        "tower": arch.head_width,
        **{name: width for name, (_, width) in depth.items()},
        **{
            f"{name}{i}": jnp.where(i <= count, width, 0)
            for name, (count, width) in depth.items()
            for i in range(1, MAX_DEPTH + 1)
        },
    }


def _require_within(config: DhenConfig, limits: Limits) -> None:
    """Says by name what does not fit."""
    for size in ("num_layers", "num_tokens", *_SHARED):
        value, limit = getattr(config, size), getattr(limits, size)
        if value > limit:
            raise ValueError(
                f"model.{size}={value} is beyond limits.{size}={limit}; raise the limit"
            )
    unknown = used_modules(config) - set(limits.modules)
    if unknown:
        raise ValueError(
            f"modules {sorted(unknown)} are not in limits.modules={limits.modules}; add them"
        )
    if config.head != limits.head:
        raise ValueError(f"model.head={config.head!r} is not limits.head={limits.head!r}")
    widest = max(len(layer.modules) for layer in layers(config))
    if widest > limits.slots:
        raise ValueError(
            f"{widest} modules in a layer are beyond limits.slots={limits.slots}; raise it"
        )
    outputs = max(layer_outputs(config, layer, 0) for layer in layers(config))
    if outputs > limits.outputs:
        raise ValueError(
            f"{outputs} embeddings are beyond limits.outputs={limits.outputs}; raise it"
        )
