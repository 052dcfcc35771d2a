"""One stacked embedding table, updated on the touched rows only.

All fields share one ``(v, d)`` array; a field's ids are shifted by its offset. A step looks its rows up,
differentiates with respect to what was looked up, and scatters the update back, so that its cost depends on the batch
and not on the vocabulary. Gradients of duplicate ids are summed per row *before* the accumulator sees them: that is
what makes it Adagrad (Duchi et al. 2011; row-wise form: one accumulator a row, Gupta et al. 2014).
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from autorank.base.typing import Array, Bool, Float, Int, Key

# Elements drawn at once for a new table: noise for a large one must not need another table's memory.
BLOCK = 1 << 17


class Table(NamedTuple):
    """Rows and their optimiser state."""

    rows: Float[Array, "v d"]
    accumulator: Float[Array, " v"]  # running sum of the mean squared gradient of each row
    owner: Int[Array, " v"]  # scratch of `deduplicate`; holds no information between steps


class Touched(NamedTuple):
    """The distinct rows of a batch."""

    ids: Int[Array, " u"]  # distinct ids first, then padding with ids >= v, which scatters drop
    inverse: Int[Array, "b f"]  # position in `ids` of each looked-up id


def draw_rows(
    key: Key, rows: Float[Array, "v d"], scale: Float[Array, ""], first_row: Array | int = 0
) -> Float[Array, "v d"]:
    """``scale`` times standard normal values in the place of ``rows``, block by block.

    A row's values depend on its number alone (``rows[0]`` is row ``first_row``), not on how many rows there are or on
    which device holds them.
    """
    num_rows, width = rows.shape
    size = max(1, BLOCK // width)

    def one(block: Array, rows: Array) -> Array:
        noise = scale * jax.random.normal(jax.random.fold_in(key, block), (size, width))
        at = block * size - first_row + jnp.arange(size)
        at = jnp.where(at < 0, num_rows + size + jnp.arange(size), at)  # beyond: dropped
        return rows.at[at].set(noise, mode="drop", unique_indices=True)

    return jax.lax.fori_loop(first_row // size, -(-(first_row + num_rows) // size), one, rows)


def freeze_rows(
    rows: Float[Array, "v ..."],
    accumulator: Float[Array, "v ..."],
    ids: Sequence[int],
    first_row: Array | int = 0,
) -> tuple[Float[Array, "v ..."], Float[Array, "v ..."]]:
    """Sets the rows of ``ids`` to zero and keeps training from ever changing them.

    Their accumulator is infinite, so row-wise Adagrad divides every gradient by infinity: nothing is added to a step.
    ``rows[0]`` is row ``first_row``; ids that lie elsewhere are left out.
    """
    if not ids:
        return rows, accumulator
    at = jnp.asarray(ids, jnp.int32) - first_row
    at = jnp.where(at < 0, rows.shape[0], at)
    return rows.at[at].set(0.0, mode="drop"), accumulator.at[at].set(jnp.inf, mode="drop")


def max_distinct(ids: np.ndarray, batch_size: int) -> int:
    """The most distinct ids in any batch of ``[n, f]``, counted on the host; rounded up to a multiple of 256.

    Walks the log once, in about 0.1 s for a million rows.

    Examples:
        >>> max_distinct(np.array([[0, 1], [1, 2], [2, 2]]), batch_size=2)
        256
    """
    last_seen = np.full(int(ids.max(initial=0)) + 1, -1, np.int32)
    most = 0
    for batch in range(-(-len(ids) // batch_size)):
        rows = ids[batch * batch_size : (batch + 1) * batch_size].reshape(-1)
        last_seen[rows] = np.arange(rows.size, dtype=np.int32)
        most = max(most, int(np.count_nonzero(last_seen[rows] == np.arange(rows.size))))
    return -(-most // 256) * 256


def deduplicate(
    ids: Int[Array, "b f"], owner: Int[Array, " v"], capacity: int | None = None
) -> tuple[Touched, Int[Array, " v"]]:
    """Finds the distinct ids without sorting (XLA's sort is slow on CPUs).

    Each lookup writes its position into ``owner[id]``; the one that is read back represents the id. Capacity is
    ``u = min(b f, v)``, so nothing can overflow, or a smaller ``capacity`` known from the data (`max_distinct`): ids
    beyond it are left out of the update, and `overflows` says so. ``owner`` need not be cleared: only entries just
    written are read.
    """
    flat = ids.reshape(-1)
    num_lookups, num_rows = flat.shape[0], owner.shape[0]
    capacity = min(num_lookups, num_rows, capacity or num_lookups)
    position = jnp.arange(num_lookups, dtype=jnp.int32)
    owner = owner.at[flat].set(position, mode="promise_in_bounds", wrap_negative_indices=False)
    representative = owner.at[flat].get(mode="promise_in_bounds", wrap_negative_indices=False)
    is_first = representative == position
    slot = jnp.cumsum(is_first.astype(jnp.int32)) - 1
    inverse = slot.at[representative].get(mode="promise_in_bounds", wrap_negative_indices=False)
    padding = num_rows + jnp.arange(capacity, dtype=jnp.int32)
    unique = padding.at[jnp.where(is_first, slot, capacity)].set(
        flat, mode="drop", unique_indices=True
    )
    return Touched(unique, inverse.reshape(ids.shape)), owner


def overflows(touched: Touched) -> Bool[Array, ""]:
    """Whether the batch holds more distinct ids than ``touched`` has room for."""
    return jnp.max(touched.inverse) >= touched.ids.shape[0]


def look_up(table: Table, ids: Int[Array, "b f"]) -> Float[Array, "b f d"]:
    """The rows of a batch, straight from the table.

    A gather of the distinct rows first and then of the lookups is fused by XLA:CPU, which computes both indices for
    every element; likewise it fuses one gather with the reshape that a model begins with. Behind a condition (that
    always holds) nothing can be fused: 3 ms less for 106,496 lookups of 16.
    """

    def read() -> Array:
        flat = table.rows.at[ids.reshape(-1)]
        return flat.get(mode="promise_in_bounds", wrap_negative_indices=False)

    if jax.default_backend() == "cpu":
        shape = (ids.size, table.rows.shape[1])
        rows = jax.lax.cond(ids[0, 0] >= 0, read, lambda: jnp.zeros(shape, table.rows.dtype))
    else:
        rows = read()
    return rows.reshape(*ids.shape, -1)


def sum_duplicates(gradient: Float[Array, "b f d"], touched: Touched) -> Float[Array, "u d"]:
    """Gradient of each distinct row from that of every lookup; zero for padding."""
    width = gradient.shape[-1]
    zeros = jnp.zeros((touched.ids.shape[0], width), gradient.dtype)
    return zeros.at[touched.inverse.reshape(-1)].add(
        gradient.reshape(-1, width), mode="drop", wrap_negative_indices=False
    )


def rowwise_adagrad(
    table: Table,
    touched: Touched,
    gradient: Float[Array, "u d"],
    *,
    rate: Float[Array, ""],
    eps: Float[Array, ""],
    width: Int[Array, ""] | None = None,
) -> Table:
    """``acc += mean_d g^2``; ``row -= rate g / (sqrt(acc) + eps)`` on the touched rows.

    The mean is over the first ``width`` numbers where the others are zero; None for all.
    """
    # The padding's ids are large, not negative.
    rows = table.rows.at[touched.ids]
    of_row = table.accumulator.at[touched.ids]
    accumulator = of_row.get(mode="clip", unique_indices=True, wrap_negative_indices=False)
    squares = jnp.square(gradient)
    mean = jnp.mean(squares, axis=-1) if width is None else jnp.sum(squares, axis=-1) / width
    accumulator = accumulator + mean
    step = gradient * (-rate / (jnp.sqrt(accumulator) + eps))[:, None]
    place: dict[str, Any] = {
        "mode": "drop",
        "unique_indices": True,
        "wrap_negative_indices": False,
    }
    return Table(rows.add(step, **place), of_row.set(accumulator, **place), table.owner)
