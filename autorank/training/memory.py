"""Sizes that all trials of an objective share, and how many models fit the memory of a device."""

import math
import os
from math import prod
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

from autorank.models.dhen import DhenConfig, canonical, parameters
from autorank.models.parameters import is_leaf
from autorank.population.capacity import Capacity
from autorank.population.kernels.layout import Layout
from autorank.population.storage import is_shape, shapes

Device: TypeAlias = Any  # `jax.Device`, which type checkers take for a variable
MEMORY_SHARE = 0.6  # of the device's free bytes that all lanes may take
STATE_SHARE = 0.125  # of an accelerator's bytes for the states that are kept
CPU_STATE_BYTES = 1 << 29
# Parameters, two moments, gradient, and the copies in the activations' precision.
DENSE_COPIES = 5
# Of a layer's input: kept for the backward pass, its gradient, and what a loop over modules reads and writes.
LAYER_COPIES = 3


# Rows of a batch below which kernels take longer to start than to run, on an H100.
SMALL_BATCH = 2048


class Shape(NamedTuple):
    """What all trials of an objective share."""

    num_fields: int
    num_dense: int
    num_ids: int
    batch_size: int
    num_windows: int
    num_steps: int
    untrained: tuple[int, ...] = ()  # rows of the table that stay zero (`tables.freeze_rows`)

    @property
    def has_small_batches(self) -> bool:
        """Whether a step on an accelerator waits for its kernels to start rather than for their work."""
        return self.batch_size < SMALL_BATCH

    @property
    def windows(self) -> list[tuple[int, int]]:
        """Steps ``[first, last)`` of each window of a learning curve."""
        count = self.num_windows
        ends = [math.ceil(w * self.num_steps / count) for w in range(count + 1)]
        return list(zip(ends, ends[1:], strict=False))

    @property
    def window_rows(self) -> list[tuple[int, int]]:
        """Rows ``[first, last)`` of each window."""
        return [(first * self.batch_size, last * self.batch_size) for first, last in self.windows]


def lane_bytes(capacity: Capacity, shape: Shape) -> int:
    """Estimated device bytes of one lane: its table (rows and accumulator), dense part and activations."""
    c = capacity
    table = shape.num_ids * (4 * c.width + 4)
    kept = 4 * shape.num_fields * c.width  # looked up, padded, gradient, update
    kept += LAYER_COPIES * (c.num_layers + 2) * c.positions * c.width
    kept += 3 * c.head_depth * c.head_width
    if jax.default_backend() == "gpu":
        kept += Layout(c, 1, shape.batch_size, jnp.float32, "gpu").scratch
    return table + DENSE_COPIES * 4 * lane_size(c) + 4 * shape.batch_size * kept


def lane_size(capacity: Capacity) -> int:
    """Number of parameters in the dense part of a lane; no model within the capacity has more."""
    return sum(map(prod, jax.tree.leaves(shapes(capacity), is_leaf=is_shape)))


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


def state_bytes(device: Device) -> int:
    """Bytes that the states which training leaves behind may take on a device."""
    stats = device.memory_stats() or {}
    if device.platform == "cpu" or "bytes_limit" not in stats:
        return CPU_STATE_BYTES
    return int(STATE_SHARE * int(stats["bytes_limit"]))
