"""Rows of the shape of Criteo-Kaggle, any number of them: power-law ids, dense columns, clicks.

The numbers of ids are those of the 26 fields of the Kaggle file's 45.8M rows (33,762,577 in all, as
DLRM counts them); shares of missing values are rounded from the same file. An id's rank is drawn by
inverting a bounded Pareto law, its effects on the click are hashed from it, so that no table of the
size of the vocabulary is held. The logit

    bias + sum_j w_j a_j[id_j] + sum over pairs b_i[id_i] b_j[id_j] + sum_k v_k x_k

has effects a, b of unit variance and known weights: the true probability of every row is known. All
randomness is a hash of (seed, row, column), in 32-bit integers that NumPy and JAX compute alike: a
row is the same whatever came before it, in whatever order, however many workers, and a longer
stream extends a shorter one. On a device, ids may differ by one from the host's in the tail of the
power law, where the exponential is rounded otherwise.
"""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np

from autorank.data.format.schema import MISSING, NUM_RESERVED

VERSION = 1
BLOCK = 1 << 16  # rows that share hash keys; part of what a seed means
TILE = 1 << 12  # rows computed together: their temporaries stay in a core's cache
CARDINALITIES = (
    1460, 583, 10131227, 2202608, 305, 24, 12517, 633, 3, 93145, 5683, 8351593, 3194, 27, 14992, 5461306, 10, 5652,
    2173, 4, 7046547, 18, 15, 286181, 105, 142572,
)  # fmt: skip
NUM_FIELDS = len(CARDINALITIES)
# Shares of rows without the value.
FIELD_MISSING = (
    0, 0, .034, .034, 0, .12, 0, 0, 0, 0, 0, .034, 0, 0, 0, .034, 0, 0, .44, .44, .034, .76, 0, .034, .44, .44,
)  # fmt: skip
DENSE_MISSING = (.45, 0, .21, .22, .026, .22, .043, .0005, .043, .45, .043, .76, .22)  # fmt: skip
NUM_DENSE = len(DENSE_MISSING)
EXPONENT = 1.05  # popularity of the i-th id: about i ** -EXPONENT
BASE_RATE = 0.256  # clicks of the Kaggle file
# Standard deviations of the groups of terms in the logit.
WEIGHTS = {"main": 1.1, "pair": 0.75, "dense": 0.6}
PAIRS = ((0, 25), (1, 9), (2, 5), (3, 13), (4, 10), (6, 17), (7, 14), (12, 18))
# Every field counts, every third one more.
FIELD_WEIGHTS = tuple((1.0, 0.5, 0.25)[j % 3] for j in range(NUM_FIELDS))
_NUM_DRAWS = NUM_FIELDS + NUM_DENSE + 1  # the last is the coin of the click


class Rows(NamedTuple):
    """Rows in the layout of a prepared data set, with their truth."""

    sparse: Any  # int32 [n, 26], field offsets added
    dense: Any  # [n, 13], unit variance where known, missing = 0
    labels: Any  # int8 [n, 1]
    truth: Any  # float32 [n], P(click)


class World(NamedTuple):
    """What a seed and a vocabulary decide before any row: shapes [26, 1] for columns of fields."""

    seed: int
    sizes: tuple[int, ...]  # reserved ids included
    offsets: np.ndarray  # int32 [26, 1]
    num_values: np.ndarray  # float32 [26, 1]
    effect_keys: np.ndarray  # uint32 [26, 1]
    bias: float


def sizes(max_vocabulary: int | None = None) -> tuple[int, ...]:
    """Table rows of each field, the two reserved ids included; of all together at most ``max_vocabulary``.

    The largest fields are cut to one size, so that the sum is ``max_vocabulary`` exactly unless the full vocabulary is
    smaller. ``None``: the full vocabulary.

    Raises:
        ValueError: fewer than 3 rows a field.
    """
    full = np.array(CARDINALITIES) + NUM_RESERVED
    if max_vocabulary is None or max_vocabulary >= full.sum():
        return tuple(full.tolist())
    if max_vocabulary < 3 * NUM_FIELDS:
        raise ValueError(
            f"max_vocabulary={max_vocabulary} is too few for {NUM_FIELDS} fields; write at least {3 * NUM_FIELDS}"
        )
    low, high = 3, int(full.max())  # The largest cap whose sum fits.
    while low < high:
        cap = (low + high + 1) // 2
        low, high = (cap, high) if np.minimum(full, cap).sum() <= max_vocabulary else (low, cap - 1)
    cut = np.minimum(full, low)
    rest = max_vocabulary - int(cut.sum())
    cut[np.flatnonzero(full > low)[:rest]] += 1
    return tuple(cut.tolist())


def world(seed: int = 0, max_vocabulary: int | None = None) -> World:
    """The fixed part; see `World`.

    Raises:
        ValueError: a bad seed or vocabulary.
    """
    if not 0 <= seed < 1 << 63:
        raise ValueError(f"seed={seed} must lie in [0, 2**63)")
    found = sizes(max_vocabulary)
    start = World(
        seed=seed,
        sizes=found,
        offsets=np.cumsum([0, *found[:-1]]).astype(np.int32)[:, None],
        num_values=(np.array(found, np.float32) - NUM_RESERVED)[:, None],
        effect_keys=_keys(seed, 1 << 62, NUM_FIELDS)[:, :1],
        bias=0.0,
    )
    # The base rate is met on rows of another part of the stream; rounded, so that no last bit of a sum matters.
    logits = np.concatenate(
        [_tile(np, start, _keys(seed, 1 << 61, _NUM_DRAWS), first)[2] for first in (0, TILE)]
    )
    low, high = -12.0, 12.0
    for _ in range(40):
        bias = (low + high) / 2
        above = (1 / (1 + np.exp(-(logits.astype(np.float64) + bias)))).mean() > BASE_RATE
        low, high = (low, bias) if above else (bias, high)
    return start._replace(bias=round(low, 3))


def blocks(
    num_rows: int,
    seed: int = 0,
    *,
    max_vocabulary: int | None = None,
    dense_dtype: Any = np.float32,
    first_row: int = 0,
) -> Iterator[Rows]:
    """Rows ``first_row .. first_row + num_rows - 1`` of the stream, in blocks that end at multiples of `BLOCK`."""
    fixed = world(seed, max_vocabulary)
    row, stop = first_row, first_row + num_rows
    while row < stop:
        end = min(stop, (row // BLOCK + 1) * BLOCK)
        out = _empty(end - row, dense_dtype)
        _fill(fixed, out, row)
        yield out
        row = end


def arrays(
    num_rows: int,
    seed: int = 0,
    *,
    max_vocabulary: int | None = None,
    dense_dtype: Any = np.float32,
    workers: int | None = None,
) -> Rows:
    """The first ``num_rows`` rows at once, made by ``workers`` threads (None: one for each core)."""
    fixed = world(seed, max_vocabulary)
    out = _empty(num_rows, dense_dtype)

    def fill(first: int) -> None:
        _fill(fixed, Rows(*(array[first : first + BLOCK] for array in out)), first)

    if workers is None:
        workers = (
            len(os.sched_getaffinity(0))
            if hasattr(os, "sched_getaffinity")
            else os.cpu_count() or 1
        )
    with ThreadPoolExecutor(workers) as pool:
        for _ in pool.map(fill, range(0, num_rows, BLOCK)):
            pass
    return out


def device_arrays(
    seed: int, num_rows: int, *, max_vocabulary: int | None = None, dense_dtype: Any = np.float32
) -> Rows:
    """`arrays`, made by JAX where its arrays live: one compiled loop over blocks, no copy from the host."""
    import jax
    import jax.numpy as jnp

    fixed = world(seed, max_vocabulary)
    num_blocks = -(-num_rows // BLOCK)
    keys = np.stack([_keys(seed, block, _NUM_DRAWS) for block in range(num_blocks)])

    @jax.jit
    def make(keys: jax.Array) -> Rows:
        def tile(block_keys: jax.Array, first: jax.Array) -> Rows:
            ids, dense, logits, coins = _tile(jnp, fixed, block_keys, first)
            truth = 1 / (1 + jnp.exp(-(logits + np.float32(fixed.bias))))
            labels = (coins < truth).astype(jnp.int8)
            return Rows(ids.T, dense.T.astype(dense_dtype), labels[:, None], truth)

        firsts = jnp.arange(0, BLOCK, TILE, dtype=jnp.uint32)
        made = jax.lax.map(lambda k: jax.vmap(lambda first: tile(k, first))(firsts), keys)
        return Rows(*(x.reshape(-1, *x.shape[3:])[:num_rows] for x in made))

    return make(jnp.asarray(keys))


def _empty(num_rows: int, dense_dtype: Any) -> Rows:
    return Rows(
        np.empty((num_rows, NUM_FIELDS), np.int32),
        np.empty((num_rows, NUM_DENSE), dense_dtype),
        np.empty((num_rows, 1), np.int8),
        np.empty(num_rows, np.float32),
    )


def _fill(fixed: World, out: Rows, first_row: int) -> None:
    """Writes rows of one block."""
    keys = _keys(fixed.seed, first_row // BLOCK, _NUM_DRAWS)
    start = first_row % BLOCK
    stop = start + len(out.truth)
    # Whole tiles always: how sums of floats round may depend on the length of arrays.
    for first in range(start // TILE * TILE, stop, TILE):
        ids, dense, logits, coins = _tile(np, fixed, keys, first)
        truth = 1 / (1 + np.exp(-(logits + np.float32(fixed.bias))))
        cut = slice(max(start - first, 0), min(stop - first, TILE))
        into = slice(first + cut.start - start, first + cut.stop - start)
        out.sparse[into] = ids.T[cut]
        out.dense[into] = dense.T[cut]
        out.truth[into] = truth[cut]
        out.labels[into, 0] = (coins < truth)[cut]


def _tile(xp: Any, fixed: World, keys: Any, first: Any) -> tuple[Any, ...]:
    """Ids [26, n], dense [13, n], logits without bias [n], coins [n] of `TILE` rows of a block, from its row ``first``.

    ``xp`` is numpy or jax.numpy.
    """
    rows = xp.arange(TILE, dtype=np.uint32) + xp.asarray(first, dtype=np.uint32)
    bits = _mix(_mix(rows[None] * np.uint32(0x9E3779B9) + keys[:, :1]) ^ keys[:, 1:])
    ranks, values = _ranks(xp, bits[:NUM_FIELDS], fixed)
    dense = _dense(xp, bits[NUM_FIELDS:-1])
    effects = _mix(values.astype(np.uint32) ^ fixed.effect_keys)
    main, latent = _unit(effects >> np.uint32(16)), _unit(effects & np.uint32(0xFFFF))
    logits = _logits(main, latent, dense)
    coins = (bits[-1] >> np.uint32(8)).astype(np.float32) * np.float32(2.0**-24)
    return ranks, dense, logits, coins


def _ranks(xp: Any, bits: Any, fixed: World) -> tuple[Any, Any]:
    """Ids with offsets, and as values 0 (missing), 2, 3, ... of their field; int32 [26, n]."""
    uniform, known = _known(bits, np.array(FIELD_MISSING, np.float32)[:, None])
    power = np.float32(1 - EXPONENT)
    span = (fixed.num_values + np.float32(1)) ** power - np.float32(1)
    ranks = xp.exp(xp.log(span * uniform + np.float32(1)) * np.float32(1 / power))
    # The 24 bits of a uniform leave gaps in the tail: the low 8 bits fill them.
    gap = ranks ** np.float32(EXPONENT) * (np.abs(span / power) * np.float32(2.0**-24))
    jitter = gap * ((bits & np.uint32(0xFF)).astype(np.float32) * np.float32(2.0**-8))
    ranks = xp.minimum(xp.floor(ranks + jitter), fixed.num_values).astype(np.int32)
    values = xp.where(known, ranks + np.int32(NUM_RESERVED - 1), np.int32(MISSING))
    return values + fixed.offsets, values


def _dense(xp: Any, bits: Any) -> Any:
    """Logistic numbers of unit variance, 0 where missing; float32 [13, n]."""
    uniform, known = _known(bits, np.array(DENSE_MISSING, np.float32)[:, None])
    uniform = xp.clip(uniform, np.float32(2.0**-24), np.float32(1 - 2.0**-24))
    numbers = np.float32(np.sqrt(3) / np.pi) * xp.log(uniform / (np.float32(1) - uniform))
    return xp.where(known, numbers, np.float32(0))


def _known(bits: Any, missing: np.ndarray) -> tuple[Any, Any]:
    """A uniform number in [0, 1) of the rows that have a value, and which have."""
    uniform = (bits >> np.uint32(8)).astype(np.float32) * np.float32(2.0**-24)
    return (uniform - missing) * (np.float32(1) / (np.float32(1) - missing)), uniform >= missing


def _logits(main: Any, latent: Any, dense: Any) -> Any:
    """Weighted sums; [n]."""
    fields = np.array(FIELD_WEIGHTS, np.float32)
    fields *= np.float32(WEIGHTS["main"]) / np.sqrt((fields**2).sum())
    # Falling weights, signs in turn.
    numbers = np.array([(-1) ** k / (1 + k) for k in range(NUM_DENSE)], np.float32)
    numbers *= np.float32(WEIGHTS["dense"]) / np.sqrt((numbers**2).sum())
    pair = sum(latent[i] * latent[j] for i, j in PAIRS)
    # No matrix product: an accelerator may round its inputs.
    single = (fields[:, None] * main).sum(0) + (numbers[:, None] * dense).sum(0)
    return single + np.float32(WEIGHTS["pair"] / len(PAIRS) ** 0.5) * pair


def _unit(bits: Any) -> Any:
    """16 bits to a uniform number of zero mean and unit variance."""
    return bits.astype(np.float32) * np.float32(12**0.5 / 65536) - np.float32(12**0.5 / 2)


def _mix(x: Any) -> Any:
    """A bijection of 32-bit integers that changes half of the bits for every bit (lowbias32 of C. Wellons)."""
    x = (x ^ (x >> np.uint32(16))) * np.uint32(0x7FEB352D)
    x = (x ^ (x >> np.uint32(15))) * np.uint32(0x846CA68B)
    return x ^ (x >> np.uint32(16))


def _keys(seed: int, block: int, num_draws: int) -> np.ndarray:
    """Two 32-bit keys for each column of a block, uint32 [num_draws, 2] (splitmix64)."""
    keys = (
        _split(_split(seed) ^ block)
        + 0x9E3779B97F4A7C15 * np.arange(1, num_draws + 1, dtype=object)
    ) % (1 << 64)
    mixed = [_split(int(key)) for key in keys]
    return np.array([(key >> 32, key & 0xFFFFFFFF) for key in mixed], np.uint32)


def _split(x: int) -> int:
    mask = (1 << 64) - 1
    x = (x + 0x9E3779B97F4A7C15) & mask
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & mask
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & mask
    return x ^ (x >> 31)
