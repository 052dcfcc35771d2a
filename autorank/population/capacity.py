"""What one population program can hold: the largest sizes of a set of models, and the modules they use.

The architecture of a model is *data* (`Lane`): every model within the `Capacity` runs in the same compiled program.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from autorank.base.typing import Array, Bool, Int
from autorank.models.dhen import (
    DhenConfig,
    canonical,
    layer_outputs,
    layers,
)
from autorank.models.embedding import num_embeddings
from autorank.models.interactions import MODULES, Sizes

# Beyond it, the extra arithmetic of flat maps costs more than the transposes that they spare (`maps.mix`).
MAX_FLAT_WIDTH = 32
# Sizes of a module that a smaller one is padded to.
PADDED = ("rank", "kernel", "mlp_depth", "mlp_width")


class Kind(NamedTuple):
    """Modules that share one piece of the program."""

    module: str
    heads: int  # 1 without attention


class Capacity(NamedTuple):
    """Largest sizes of one program; static and hashable. All its models have one head."""

    width: int
    head: str
    num_fields: int
    num_dense: int
    num_layers: int
    slots: int
    tokens: tuple[int, ...]  # numbers of tokens that a module may put out
    positions: int  # embeddings that enter or leave a layer, at most
    kinds: tuple[Kind, ...]
    rank: int
    kernel: int
    mlp_depth: int
    mlp_width: int
    head_depth: int
    head_width: int
    reshapes: bool  # whether the number of embeddings may change
    concat: bool
    weighted: bool
    pre: bool
    post: bool
    # Whether the modules of a family run apart (`families`): with large batches, fewer kernels gain nothing.
    split: bool = False

    def sizes(self, kind: Kind, *, flat: bool = False, kernels: str = "") -> Sizes:
        """The sizes of a module of this kind."""
        return Sizes(
            self.positions,
            max(self.tokens),
            self.width,
            self.rank,
            kind.heads,
            self.kernel,
            self.mlp_depth,
            self.mlp_width,
            flat,
            kernels,
        )


class Lane(NamedTuple):
    """One model within a capacity, as numbers; stacked along a first axis for several lanes."""

    num_layers: Int[Array, "..."]
    positions: Int[
        Array, "... n"
    ]  # embeddings coming into each layer of the maximum, then the head
    kinds: Int[Array, "... n s"]  # index of the kind in each slot, -1 for none
    width: Int[Array, "..."]
    num_tokens: Int[Array, "..."]
    rank: Int[Array, "..."]
    mlp_depth: Int[Array, "..."]
    mlp_width: Int[Array, "..."]
    head_depth: Int[Array, "..."]
    concat: Bool[Array, "..."]
    weighted: Bool[Array, "..."]
    pre: Bool[Array, "..."]
    post: Bool[Array, "..."]


def kind_of(module: str, config: DhenConfig) -> Kind:
    """The kind of a configuration's module."""
    return Kind(module, config.heads if "heads" in MODULES[module].traits["uses"] else 1)


def capacity_of(configs: Iterable[DhenConfig], num_fields: int, num_dense: int) -> Capacity:
    """The smallest capacity that holds ``configs``.

    Raises:
        ValueError: no configuration, or several heads.

    Examples:
        >>> from autorank.models.dhen import LayerConfig
        >>> models = [DhenConfig(num_layers=1, layer1=LayerConfig(a)) for a in ("dot", "cross")]
        >>> [kind.module for kind in capacity_of(models, num_fields=4, num_dense=2).kinds]
        ['cross', 'dot']
    """
    found = [canonical(config) for config in configs]
    heads = sorted({config.head for config in found})
    if len(heads) != 1:
        raise ValueError(
            f"one population has one model.head, got {heads}; form one population for each"
        )
    first = num_embeddings(num_fields, num_dense)
    every = [(config, layer) for config in found for layer in layers(config)]
    positions = [_positions(config, first) for config in found]
    kinds = {kind_of(name, config) for config, layer in every for name in layer.modules}
    sizes = {name: max(getattr(config, name) for config in found) for name in PADDED}
    return Capacity(
        width=max(config.width for config in found),
        head=found[0].head,
        num_fields=num_fields,
        num_dense=num_dense,
        num_layers=max(config.num_layers for config in found),
        slots=max(1, *(len(layer.modules) for _, layer in every)),
        tokens=tuple(sorted({config.num_tokens for config in found})),
        positions=max(map(max, positions)),
        kinds=tuple(sorted(kinds)),
        head_depth=max(config.head_depth for config in found),
        head_width=max(config.head_width for config in found),
        reshapes=any(len(set(own)) > 1 for own in positions),
        concat=any(config.ensemble == "concat" for config in found),
        weighted=any(config.ensemble == "weighted" for config in found),
        pre=any(config.norm == "pre" for config in found),
        post=any(config.norm == "post" for config in found),
        **sizes,
    )


def widest(capacities: Iterable[Capacity]) -> Capacity:
    """The smallest capacity that holds what any of ``capacities`` holds.

    Raises:
        ValueError: none, or several heads or data sets.
    """
    found = list(capacities)
    for name in ("head", "num_fields", "num_dense"):
        if len({getattr(c, name) for c in found}) != 1:
            raise ValueError(f"capacities of one {name} are joined, got {found}")
    joined: dict[str, Any] = {}
    for name in Capacity._fields:
        values = [getattr(c, name) for c in found]
        if name in ("tokens", "kinds"):
            joined[name] = tuple(sorted(set().union(*values)))
        elif name == "head":
            joined[name] = values[0]
        else:
            joined[name] = max(values)
    return Capacity(**joined)


def misfit(capacity: Capacity, config: DhenConfig) -> str:
    """Why the program of a capacity does not hold a configuration, or "".

    Examples:
        >>> small = capacity_of([DhenConfig(width=8)], num_fields=4, num_dense=2)
        >>> misfit(small, DhenConfig(width=16))
        "width=16 is beyond the program's 8"
    """
    own = capacity_of([config], capacity.num_fields, capacity.num_dense)
    if own.head != capacity.head:
        return f"model.head={own.head}, the program has {capacity.head}"
    for name in ("tokens", "kinds"):
        beyond = set(getattr(own, name)) - set(getattr(capacity, name))
        if beyond:
            return f"{name} {sorted(beyond)} are not in the program"
    for name in Capacity._fields:
        mine, most = getattr(own, name), getattr(capacity, name)
        if name not in ("head", "tokens", "kinds") and mine > most:
            return f"{name}={mine} is beyond the program's {most}"
    return ""


def lane_of(config: DhenConfig, capacity: Capacity) -> Lane:
    """The arrays (NumPy) that make a program compute ``config``.

    Raises:
        ValueError: the configuration is beyond the capacity.
    """
    config = canonical(config)
    if reason := misfit(capacity, config):
        raise ValueError(reason)
    positions = _positions(config, num_embeddings(capacity.num_fields, capacity.num_dense))
    positions += [positions[-1]] * (capacity.num_layers + 1 - len(positions))
    kinds = np.full((capacity.num_layers, capacity.slots), -1, np.int32)
    for i, layer in enumerate(layers(config)):
        for slot, name in enumerate(layer.modules):
            kinds[i, slot] = capacity.kinds.index(kind_of(name, config))
    fields: dict[str, Any] = {
        "num_layers": np.int32(config.num_layers),
        "positions": np.asarray(positions, np.int32),
        "kinds": kinds,
        "concat": np.bool_(config.ensemble == "concat"),
        "weighted": np.bool_(config.ensemble == "weighted"),
        "pre": np.bool_(config.norm == "pre"),
        "post": np.bool_(config.norm == "post"),
    }
    sizes = ("width", "num_tokens", "rank", "mlp_depth", "mlp_width", "head_depth")
    fields |= {name: np.int32(getattr(config, name)) for name in sizes}
    return Lane(**fields)


def empty_lane(capacity: Capacity) -> Lane:
    """A lane without a model: no layer, no embedding."""
    numbers = ("num_layers", "width", "num_tokens", "rank", "mlp_depth", "mlp_width", "head_depth")
    fields: dict[str, Any] = {name: np.int32(0) for name in numbers}
    fields |= {name: np.bool_(False) for name in ("concat", "weighted", "pre", "post")}
    fields["positions"] = np.zeros(capacity.num_layers + 1, np.int32)
    fields["kinds"] = np.full((capacity.num_layers, capacity.slots), -1, np.int32)
    return Lane(**fields)


def stacked(lanes: Sequence[Lane]) -> Lane:
    """Lanes along a first axis."""
    columns: Any = (np.stack(column) for column in zip(*lanes, strict=True))
    return Lane(*columns)


def _positions(config: DhenConfig, first: int) -> list[int]:
    """Embeddings that come into each layer of a canonical configuration, then into its head."""
    positions = [first]
    for layer in layers(config):
        positions.append(layer_outputs(config, layer, positions[-1]))
    return positions
