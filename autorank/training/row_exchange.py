"""How the devices of a mesh exchange the rows of a table that is spread over them; these run inside ``shard_map``.

1. A device finds the distinct ids of its part of a batch, at most ``u = min(lookups, v)``, padded to ``u``.
2. All devices gather all ids (``all_gather``) and read the rows that they hold, zeros elsewhere.
3. ``psum_scatter`` gives every device the rows of its ids. One summand is a row and the others are zero, so the sum is
   exact.
4. Gradients of distinct ids go back by ``all_gather``. A device sums those of each row that it holds, duplicates from
   all devices included, *before* the accumulator sees them (that makes it Adagrad), and updates its block in place.

Why not ``all_to_all``: a static shape that can never overflow needs room for all ``u`` ids towards every device. That
moves as many bytes as gathering them (`exchange_bytes`) and needs bucketing besides. Here nothing can overflow.
"""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp

from autorank.base.typing import Array, Int
from autorank.training.tables import Table, deduplicate, rowwise_adagrad

AXIS = "devices"


class Exchanged(NamedTuple):
    """The distinct ids of all devices, as one device sees them."""

    inverse: Int[Array, "b f"]  # position of each own look-up among the own distinct ids
    # Row in the own block of every device's ids; the block's length where another device holds it.
    local: Int[Array, " w"]


@dataclass(frozen=True)
class RowExchange:
    """Exchanges rows between ``devices`` that hold ``block`` rows each, ``num_ids`` of them in use."""

    devices: int
    num_ids: int
    width: int

    @property
    def block(self) -> int:
        """Rows of the table on each device."""
        return -(-self.num_ids // self.devices)

    def send_ids(self, sparse: Array) -> Exchanged:
        """Sends the own distinct ids to all devices."""
        capacity = min(sparse.size, self.num_ids)
        own, inverse = unique_ids(sparse, self.devices * self.block, capacity)
        ids = jax.lax.all_gather(own, AXIS, tiled=True)
        local = ids - jax.lax.axis_index(AXIS) * self.block
        inside = (local >= 0) & (local < self.block)
        return Exchanged(inverse, jnp.where(inside, local, self.block))

    def fetch(self, rows: Array, exchanged: Exchanged) -> Array:
        """The rows of the own distinct ids, from whichever devices hold them."""
        held = rows.at[exchanged.local].get(mode="fill", fill_value=0.0)
        return jax.lax.psum_scatter(held, AXIS, tiled=True)

    def update(
        self, table: Table, exchanged: Exchanged, gradient: Array, rate: Array, eps: Array
    ) -> Table:
        """Row-wise Adagrad on the own block, by the gradients of all devices."""
        gradients = jax.lax.all_gather(gradient, AXIS, tiled=True)
        touched, owner = deduplicate(exchanged.local[:, None], table.owner)
        zeros = jnp.zeros((len(touched.ids), self.width))
        total = zeros.at[touched.inverse[:, 0]].add(gradients)
        # The entry of the other devices' ids lies beyond the block: scatters drop it.
        return rowwise_adagrad(table._replace(owner=owner), touched, total, rate=rate, eps=eps)


def unique_ids(
    ids: Int[Array, "b f"], padding: int, capacity: int
) -> tuple[Int[Array, " u"], Int[Array, "b f"]]:
    """Distinct ids in ascending order, then ``padding``; and each look-up's position among them.

    By sorting: `tables.deduplicate` needs scratch of the whole vocabulary, which no device has here.
    """
    flat = ids.reshape(-1)
    order = jnp.argsort(flat)
    ascending = flat.at[order].get(mode="promise_in_bounds", unique_indices=True)
    is_first = jnp.concatenate([jnp.ones(1, bool), ascending[1:] != ascending[:-1]])
    slot = jnp.cumsum(is_first.astype(jnp.int32)) - 1
    unique = jnp.full(capacity, padding, jnp.int32).at[slot].set(ascending, mode="drop")
    inverse = jnp.zeros_like(slot).at[order].set(slot, unique_indices=True)
    return unique, inverse.reshape(ids.shape)


def exchange_bytes(
    *, batch_size: int, num_fields: int, width: int, num_ids: int, devices: int
) -> int:
    """Bytes that each device receives in a step for table rows and their gradients (ids int32, rows float32).

    A ring moves ``devices - 1`` pieces of ``u`` ids (all_gather), ``u`` rows (psum_scatter) and ``u`` gradients
    (all_gather).

    Examples:
        >>> exchange_bytes(batch_size=64, num_fields=2, width=4, num_ids=1000, devices=2)
        2304
    """
    capacity = min(rows_per_device(batch_size, devices) * num_fields, num_ids)
    return (devices - 1) * capacity * (4 + 2 * 4 * width)


def rows_per_device(batch_size: int, devices: int) -> int:
    """Rows of a batch on each device."""
    if batch_size % devices:
        lower = batch_size // devices * devices
        near = f"{lower} or {lower + devices}" if lower else f"{devices}"
        raise ValueError(
            f"training.batch_size={batch_size} does not divide by the {devices} devices of training.devices; "
            f"write training.batch_size={near}"
        )
    return batch_size // devices
