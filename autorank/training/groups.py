"""Which trials may train as one population: of one width and head, as many as fit the memory of a device."""

import os
from collections import defaultdict
from collections.abc import Sequence
from math import prod
from typing import Any, NamedTuple, TypeAlias

import jax
import numpy as np

from autorank.models.dhen import DhenConfig, canonical, layer_outputs, layers, parameters
from autorank.models.embedding import num_embeddings
from autorank.models.parameters import is_leaf

Device: TypeAlias = Any  # `jax.Device`, which type checkers take for a variable
MEMORY_SHARE = 0.6  # of the device's free bytes that one group may take
MAX_MODELS = 128  # of one group; a larger program takes longer to compile than it saves
COPIES = 8  # of a layer's input and output that the backward pass keeps, roughly
# Parameters, two moments, gradient, and the copies in the activations' precision.
DENSE_COPIES = 5


class Shape(NamedTuple):
    """What all trials of an objective share."""

    num_fields: int
    num_dense: int
    num_ids: int
    batch_size: int
    num_windows: int
    num_steps: int
    untrained: tuple[int, ...] = ()  # rows of the table that stay zero (`tables.freeze_rows`)


def bytes_per_model(config: DhenConfig, shape: Shape) -> int:
    """Estimated device bytes of one member: its table (rows and accumulator), dense part and activations."""
    c = canonical(config)
    table = shape.num_ids * (4 * c.width + 4)
    dense = DENSE_COPIES * 4 * dense_size(c, shape)
    positions = num_embeddings(shape.num_fields, shape.num_dense)
    kept = 4 * shape.num_fields * c.width  # looked up, transposed, gradient, update
    for layer in layers(c):
        outputs, n = layer_outputs(c, layer, positions), len(layer.modules)
        kept += COPIES * (1 + n) * (positions + outputs) * c.width
        kept += 3 * n * (c.mlp_depth * c.mlp_width + positions * max(positions, c.rank))
        positions = outputs
    kept += 3 * c.head_depth * c.head_width
    return table + dense + 4 * shape.batch_size * kept


def member_bytes(config: DhenConfig, shape: Shape) -> int:
    """Bytes of one member's state as a compact program continues from it."""
    return shape.num_ids * (4 * config.width + 8) + 12 * dense_size(config, shape)


def dense_size(config: DhenConfig, shape: Shape) -> int:
    """Number of parameters in the dense part of a compact model."""
    tree = parameters(canonical(config), shape.num_fields, shape.num_dense)
    return sum(prod(leaf.shape) for leaf in jax.tree.leaves(tree, is_leaf=is_leaf))


def free_bytes(device: Device) -> int:
    """Free bytes that the device reports; free memory of the machine where it reports none (CPU)."""
    stats = device.memory_stats() or {}
    if "bytes_limit" in stats:
        return int(stats["bytes_limit"]) - int(stats.get("bytes_in_use", 0))
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):
        return 1 << 31


def form_groups(
    configs: Sequence[DhenConfig], shape: Shape, *, free: int, parts: int = 1, limit: int = 0
) -> list[list[int]]:
    """Indices of ``configs`` in groups of one width and head that fit the memory, similar depths together.

    Args:
        configs: models.
        shape: of the data and the steps.
        free: free bytes of one device; a group takes `MEMORY_SHARE` of them.
        parts: devices; there are at least that many groups where there are models enough.
        limit: most models of a group, 0 for `MAX_MODELS`.

    Examples:
        >>> shape = Shape(num_fields=2, num_dense=1, num_ids=100, batch_size=16, num_windows=4, num_steps=40)
        >>> form_groups([DhenConfig(width=8), DhenConfig(width=4), DhenConfig(width=8)], shape, free=1 << 30)
        [[0, 2], [1]]
    """
    alike: dict[tuple[int, str], list[int]] = defaultdict(list)
    for i, config in enumerate(configs):
        alike[config.width, config.head].append(i)
    groups = []
    for members in alike.values():
        sizes = {i: bytes_per_model(configs[i], shape) for i in members}
        most = max(1, int(MEMORY_SHARE * free / max(sizes.values())))
        most = min(most, limit or MAX_MODELS, -(-len(members) // parts))
        members.sort(key=lambda i: (-canonical(configs[i]).num_layers, sizes[i], i))
        count = -(-len(members) // most)
        groups += [list(map(int, part)) for part in np.array_split(np.array(members), count)]
    return groups
