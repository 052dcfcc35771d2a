"""No trial is proposed twice: configurations that are neither told nor proposed already."""

from typing import NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import UInt32

from autorank.base.typing import Array, Bool, Int, Key
from autorank.searchers.base import History, Proposal, known
from autorank.space.space import Space


class Fresh(NamedTuple):
    """``n`` chosen rows of a list of ``m`` candidates."""

    position: Array  # int32 [n]: among the candidates
    # bool [n]: False for repeats, which are chosen only where the fresh ones ran out
    is_fresh: Array
    num_fresh: Array  # int32: fresh candidates in all


class Proposed(NamedTuple):
    """``n`` configurations to train next."""

    configs: Array  # int32 [n, k]
    repeat: Array  # bool [n]: told before
    position: Array  # int32 [n]: among the given candidates; ``m`` for a random sample


@runtime_checkable
class Propose(Protocol):
    """Fills a batch with fresh configurations."""

    def __call__(self, key: Key, history: History, candidates: Int[Array, "m k"], /) -> Proposed:
        """The first fresh candidates (``m`` may be 0); fresh random samples where these run out."""
        ...


def fresh(history: History, candidates: Int[Array, "m k"], n: int) -> Fresh:
    """The first ``n`` candidates that are neither in the history nor earlier among the candidates.

    Rows are compared by two 32-bit hashes. Equal rows are always recognised. Two different rows are taken for equal
    once in 2^64 pairs, which loses a candidate but never lets a repeat through. Where fresh candidates run out, the
    first repeats are chosen.

    Examples:
        >>> from autorank.searchers.base import append, empty
        >>> from autorank.space.space import Decision
        >>> space = Space((Decision("width", (8, 16, 32)),), (0,))
        >>> history = append(empty(space, 4), jnp.array([[0]]), jnp.array([[1.0, 0.0]]))
        >>> fresh(history, jnp.array([[0], [2], [2], [1]]), 2).position.tolist()
        [1, 3]
    """
    rows = jnp.concatenate([history.configs, candidates])
    used = jnp.concatenate([known(history), jnp.ones(len(candidates), bool)])
    position = jnp.arange(len(rows), dtype=jnp.int32)
    first, second = hashes(rows)
    first, second, unused, position = jax.lax.sort(
        (first, second, (~used).astype(jnp.int32), position), num_keys=3, is_stable=True
    )
    same = (first[1:] == first[:-1]) & (second[1:] == second[:-1]) & (unused[1:] == unused[:-1])
    repeat = jnp.zeros(len(rows), bool).at[position[1:]].set(same)[len(history.configs) :]
    num_fresh = jnp.sum(~repeat)
    place = jnp.where(repeat, num_fresh + jnp.cumsum(repeat), jnp.cumsum(~repeat)) - 1
    chosen = jnp.zeros(len(candidates), jnp.int32).at[place].set(jnp.arange(len(candidates)))[:n]
    return Fresh(chosen, ~repeat[chosen], num_fresh)


def proposer(space: Space, *, batch_size: int, capacity: int) -> Propose:
    """Makes the function that fills batches of ``batch_size``.

    Where candidates and random samples run out, it falls back on a list of ``capacity + batch_size`` different
    configurations, which cannot all have been told. Repeats occur only when the space is exhausted.

    Raises:
        ValueError: ``batch_size`` outside ``[1, capacity]``.

    Examples:
        >>> from autorank.searchers.base import append, empty
        >>> from autorank.space.space import Decision
        >>> space = Space((Decision("width", (8, 16)),), (0,))
        >>> history = append(empty(space, 4), jnp.array([[0]]), jnp.array([[1.0, 0.0]]))
        >>> propose = proposer(space, batch_size=1, capacity=4)
        >>> propose(jax.random.key(0), history, jnp.array([[0], [1]])).configs.tolist()
        [[1]]
    """
    if batch_size < 1 or capacity < batch_size:
        raise ValueError(f"batch_size={batch_size} must lie between 1 and capacity={capacity}")
    reserve = space.enumerate(capacity + batch_size)

    def propose(key: Key, history: History, candidates: Int[Array, "m k"]) -> Proposed:
        m = len(candidates)
        sampled = space.sample(key, 4 * batch_size)
        pool = jnp.concatenate([candidates, sampled, jnp.asarray(reserve)])
        chosen = fresh(history, pool, batch_size)
        return Proposed(pool[chosen.position], ~chosen.is_fresh, jnp.minimum(chosen.position, m))

    return propose


def unpredicted(configs: Array, repeat: Array) -> Proposal:
    """A batch that no model has chosen."""
    nan = jnp.full(len(configs), jnp.nan)
    info = {"repeat": repeat, "alpha": nan, "spread": nan, "acquisition": nan, "feasible": nan}
    return Proposal(configs, jnp.full((len(configs), 2), jnp.nan), info)


def hashes(rows: Int[Array, "m k"]) -> tuple[UInt32[Array, " m"], UInt32[Array, " m"]]:
    """Two independent multilinear hashes of each row."""
    factors = np.random.default_rng(20231107).integers(0, 1 << 32, (2, rows.shape[1]), np.uint32)
    values = rows.astype(jnp.uint32) + 1
    first, second = (
        jnp.sum(values * jnp.asarray(f)[None, :], axis=1, dtype=jnp.uint32) for f in factors
    )
    return first, second


def equal_rows(
    left: tuple[UInt32[Array, " m"], UInt32[Array, " m"]],
    right: tuple[UInt32[Array, " n"], UInt32[Array, " n"]],
) -> Bool[Array, "m n"]:
    """Which rows of two lists are the same, by their `hashes`."""
    (first, second), (other_first, other_second) = left, right
    return (first[:, None] == other_first[None]) & (second[:, None] == other_second[None])
