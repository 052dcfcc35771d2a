"""One stacked embedding table, updated on the touched rows only.

All fields share one ``(v, d)`` array; a field's ids are shifted by its offset. A step gathers each touched row once,
differentiates with respect to the gathered rows, and scatters the update back, so that its cost depends on the batch
and not on the vocabulary. Gradients of duplicate ids are summed per row *before* the accumulator sees them: that is
what makes it Adagrad (Duchi et al. 2011; row-wise form: one accumulator a row, Gupta et al. 2014).
"""

from typing import NamedTuple

import jax.numpy as jnp

from autorank.typing import Array, Float, Int


class Table(NamedTuple):
    """Rows and their optimiser state."""

    rows: Float[Array, "v d"]
    accumulator: Float[Array, " v"]  # running sum of the mean squared gradient of each row
    owner: Int[Array, " v"]  # scratch of `deduplicate`; holds no information between steps


class Touched(NamedTuple):
    """The distinct rows of a batch."""

    ids: Int[Array, " u"]  # distinct ids first, then padding with ids >= v, which scatters drop
    inverse: Int[Array, "b f"]  # position in `ids` of each looked-up id


def deduplicate(
    ids: Int[Array, "b f"], owner: Int[Array, " v"]
) -> tuple[Touched, Int[Array, " v"]]:
    """Finds the distinct ids without sorting (XLA's sort is slow on CPUs).

    Each lookup writes its position into ``owner[id]``; the one that is read back represents the id. Capacity is
    ``u = min(b f, v)``, so nothing can overflow. ``owner`` need not be cleared: only entries just written are read.
    """
    flat = ids.reshape(-1)
    num_lookups, num_rows = flat.shape[0], owner.shape[0]
    capacity = min(num_lookups, num_rows)
    position = jnp.arange(num_lookups, dtype=jnp.int32)
    owner = owner.at[flat].set(position, mode="promise_in_bounds")
    representative = owner.at[flat].get(mode="promise_in_bounds")
    is_first = representative == position
    slot = jnp.cumsum(is_first.astype(jnp.int32)) - 1
    inverse = slot.at[representative].get(mode="promise_in_bounds")
    padding = num_rows + jnp.arange(capacity, dtype=jnp.int32)
    unique = padding.at[jnp.where(is_first, slot, capacity)].set(
        flat, mode="drop", unique_indices=True
    )
    return Touched(unique, inverse.reshape(ids.shape)), owner


def gather(table: Table, touched: Touched) -> Float[Array, "u d"]:
    """Reads each distinct row once; padding reads some row and never reaches a lookup."""
    return table.rows.at[touched.ids].get(mode="clip", unique_indices=True)


def look_up(rows: Float[Array, "u d"], touched: Touched) -> Float[Array, "b f d"]:
    """Expands distinct rows to lookups; its transpose sums the gradients of duplicates."""
    return rows.at[touched.inverse].get(mode="promise_in_bounds")


def rowwise_adagrad(
    table: Table,
    touched: Touched,
    gradient: Float[Array, "u d"],
    *,
    rate: Float[Array, ""],
    eps: Float[Array, ""],
) -> Table:
    """``acc += mean_d g^2``; ``row -= rate g / (sqrt(acc) + eps)`` on the touched rows."""
    accumulator = table.accumulator.at[touched.ids].get(mode="clip", unique_indices=True)
    accumulator = accumulator + jnp.mean(jnp.square(gradient), axis=-1)
    step = -rate * gradient / (jnp.sqrt(accumulator) + eps)[:, None]
    return Table(
        rows=table.rows.at[touched.ids].add(step, mode="drop", unique_indices=True),
        accumulator=table.accumulator.at[touched.ids].set(
            accumulator, mode="drop", unique_indices=True
        ),
        owner=table.owner,
    )
