"""The truth behind `criteo_like`: the distribution of ids and numbers, and the probability of a click.

The numbers of ids are those of the 26 fields in the 45.8M rows of the Kaggle file (33,762,577 in all, as DLRM counts
them). Shares of missing values are rounded from the same file. The rank of an id is drawn by inverting a bounded Pareto
distribution, and its effects on the click are hashed from it, so that no table of the size of the vocabulary is needed.
The logit

    bias + sum_j w_j a_j[id_j] + sum over pairs b_i[id_i] b_j[id_j] + sum_k v_k x_k

has effects a, b of unit variance and known weights, so that the true probability of every row is known.

All randomness is a hash of (seed, row, column) in 32-bit integers, which NumPy and JAX compute alike. On a device, ids
may differ by one from the host's in the tail of the distribution, where the exponential is rounded differently.
"""

from typing import Any, NamedTuple

import numpy as np

from autorank.data.format.schema import MISSING, NUM_RESERVED

VERSION = 1
BLOCK = 1 << 16  # rows that share hash keys; part of what a seed means
TILE = 1 << 12  # rows computed together, so that temporaries fit the cache
CARDINALITIES = (
    1460,
    583,
    10131227,
    2202608,
    305,
    24,
    12517,
    633,
    3,
    93145,
    5683,
    8351593,
    3194,
    27,
    14992,
    5461306,
    10,
    5652,
    2173,
    4,
    7046547,
    18,
    15,
    286181,
    105,
    142572,
)
NUM_FIELDS = len(CARDINALITIES)
# Share of rows in which the value is missing.
FIELD_MISSING = (
    0,
    0,
    0.034,
    0.034,
    0,
    0.12,
    0,
    0,
    0,
    0,
    0,
    0.034,
    0,
    0,
    0,
    0.034,
    0,
    0,
    0.44,
    0.44,
    0.034,
    0.76,
    0,
    0.034,
    0.44,
    0.44,
)
DENSE_MISSING = (0.45, 0, 0.21, 0.22, 0.026, 0.22, 0.043, 0.0005, 0.043, 0.45, 0.043, 0.76, 0.22)
NUM_DENSE = len(DENSE_MISSING)
EXPONENT = 1.05  # popularity of the i-th id: about i ** -EXPONENT
BASE_RATE = 0.256  # clicks of the Kaggle file
# Standard deviation of each group of terms in the logit.
WEIGHTS = {"main": 1.1, "pair": 0.75, "dense": 0.6}
PAIRS = ((0, 25), (1, 9), (2, 5), (3, 13), (4, 10), (6, 17), (7, 14), (12, 18))
# Relative weights of the fields' own effects.
FIELD_WEIGHTS = tuple((1.0, 0.5, 0.25)[j % 3] for j in range(NUM_FIELDS))
NUM_DRAWS = NUM_FIELDS + NUM_DENSE + 1  # the last one decides the click


class World(NamedTuple):
    """Everything that a seed and a vocabulary fix for all rows; arrays have one row per field.

    Attributes:
        sizes: ids of each field, reserved ids included.
        offsets: int32 [26, 1], first id of each field.
        num_values: float32 [26, 1], ids of each field without the reserved ones.
        effect_keys: uint32 [26, 1], keys of the hashes that give the effects.
        bias: of the logit.
    """

    seed: int
    sizes: tuple[int, ...]
    offsets: np.ndarray
    num_values: np.ndarray
    effect_keys: np.ndarray
    bias: float


def sizes(max_vocabulary: int | None = None) -> tuple[int, ...]:
    """The number of ids of each field, the two reserved ids included, at most ``max_vocabulary`` in total.

    The largest fields are reduced to a common size, so that the sum is exactly ``max_vocabulary`` unless the full
    vocabulary is smaller. None means the full vocabulary.

    Raises:
        ValueError: fewer than 3 ids per field.

    Examples:
        >>> sum(sizes()), sum(sizes(10_000))
        (33762629, 10000)
    """
    full = np.array(CARDINALITIES) + NUM_RESERVED
    if max_vocabulary is None or max_vocabulary >= full.sum():
        return tuple(full.tolist())
    if max_vocabulary < 3 * NUM_FIELDS:
        raise ValueError(
            f"max_vocabulary={max_vocabulary} is too few for {NUM_FIELDS} fields; write at least {3 * NUM_FIELDS}"
        )
    low, high = 3, int(full.max())  # bisects for the largest cap whose sum fits
    while low < high:
        cap = (low + high + 1) // 2
        low, high = (cap, high) if np.minimum(full, cap).sum() <= max_vocabulary else (low, cap - 1)
    cut = np.minimum(full, low)
    rest = max_vocabulary - int(cut.sum())
    cut[np.flatnonzero(full > low)[:rest]] += 1
    return tuple(cut.tolist())


def world(seed: int = 0, max_vocabulary: int | None = None) -> World:
    """The world of a seed and a vocabulary.

    Raises:
        ValueError: an invalid seed or vocabulary.
    """
    if not 0 <= seed < 1 << 63:
        raise ValueError(f"seed={seed} must lie in [0, 2**63)")
    found = sizes(max_vocabulary)
    start = World(
        seed=seed,
        sizes=found,
        offsets=np.cumsum([0, *found[:-1]]).astype(np.int32)[:, None],
        num_values=(np.array(found, np.float32) - NUM_RESERVED)[:, None],
        effect_keys=block_keys(seed, 1 << 62, NUM_FIELDS)[:, :1],
        bias=0.0,
    )
    # The bias gives the base rate on rows outside the stream. It is rounded, so that the last bits of a sum do not
    # matter.
    logits = np.concatenate(
        [
            draw_tile(np, start, block_keys(seed, 1 << 61, NUM_DRAWS), first)[2]
            for first in (0, TILE)
        ]
    )
    low, high = -12.0, 12.0
    for _ in range(40):
        bias = (low + high) / 2
        above = (1 / (1 + np.exp(-(logits.astype(np.float64) + bias)))).mean() > BASE_RATE
        low, high = (low, bias) if above else (bias, high)
    return start._replace(bias=round(low, 3))


def draw_tile(xp: Any, fixed: World, keys: Any, first: Any) -> tuple[Any, ...]:
    """Draws the `TILE` rows of a block from its row ``first`` on.

    Args:
        xp: numpy or jax.numpy.
        fixed: the world.
        keys: `block_keys` of the block.
        first: first row, relative to the block.

    Returns:
        Ids [26, n], dense [13, n], logits without bias [n], and uniform numbers [n]; a row is a click if its number is
        less than its probability.
    """
    rows = xp.arange(TILE, dtype=np.uint32) + xp.asarray(first, dtype=np.uint32)
    bits = mix_bits(mix_bits(rows[None] * np.uint32(0x9E3779B9) + keys[:, :1]) ^ keys[:, 1:])
    ranks, values = _ranks(xp, bits[:NUM_FIELDS], fixed)
    dense = _dense(xp, bits[NUM_FIELDS:-1])
    effects = mix_bits(values.astype(np.uint32) ^ fixed.effect_keys)
    main, latent = _unit(effects >> np.uint32(16)), _unit(effects & np.uint32(0xFFFF))
    logits = _logits(main, latent, dense)
    coins = (bits[-1] >> np.uint32(8)).astype(np.float32) * np.float32(2.0**-24)
    return ranks, dense, logits, coins


def _ranks(xp: Any, bits: Any, fixed: World) -> tuple[Any, Any]:
    """Ids with and without offsets, int32 [26, n]."""
    uniform, known = _known(bits, np.array(FIELD_MISSING, np.float32)[:, None])
    power = np.float32(1 - EXPONENT)
    span = (fixed.num_values + np.float32(1)) ** power - np.float32(1)
    ranks = xp.exp(xp.log(span * uniform + np.float32(1)) * np.float32(1 / power))
    # Uniform numbers of 24 bits leave gaps in the tail, which the other 8 bits fill.
    gap = ranks ** np.float32(EXPONENT) * (np.abs(span / power) * np.float32(2.0**-24))
    jitter = gap * ((bits & np.uint32(0xFF)).astype(np.float32) * np.float32(2.0**-8))
    ranks = xp.minimum(xp.floor(ranks + jitter), fixed.num_values).astype(np.int32)
    values = xp.where(known, ranks + np.int32(NUM_RESERVED - 1), np.int32(MISSING))
    return values + fixed.offsets, values


def _dense(xp: Any, bits: Any) -> Any:
    """Logistic numbers of unit variance, 0 if missing; float32 [13, n]."""
    uniform, known = _known(bits, np.array(DENSE_MISSING, np.float32)[:, None])
    uniform = xp.clip(uniform, np.float32(2.0**-24), np.float32(1 - 2.0**-24))
    numbers = np.float32(np.sqrt(3) / np.pi) * xp.log(uniform / (np.float32(1) - uniform))
    return xp.where(known, numbers, np.float32(0))


def _known(bits: Any, missing: np.ndarray) -> tuple[Any, Any]:
    """Uniform numbers in [0, 1) for the rows that have a value, and which rows those are."""
    uniform = (bits >> np.uint32(8)).astype(np.float32) * np.float32(2.0**-24)
    return (uniform - missing) * (np.float32(1) / (np.float32(1) - missing)), uniform >= missing


def _logits(main: Any, latent: Any, dense: Any) -> Any:
    """The weighted sums of all terms, without bias; [n]."""
    fields = np.array(FIELD_WEIGHTS, np.float32)
    fields *= np.float32(WEIGHTS["main"]) / np.sqrt((fields**2).sum())
    # Decreasing weights with alternating signs.
    numbers = np.array([(-1) ** k / (1 + k) for k in range(NUM_DENSE)], np.float32)
    numbers *= np.float32(WEIGHTS["dense"]) / np.sqrt((numbers**2).sum())
    pair = sum(latent[i] * latent[j] for i, j in PAIRS)
    # Not a matrix product, whose inputs an accelerator may round.
    single = (fields[:, None] * main).sum(0) + (numbers[:, None] * dense).sum(0)
    return single + np.float32(WEIGHTS["pair"] / len(PAIRS) ** 0.5) * pair


def _unit(bits: Any) -> Any:
    """Maps 16 bits to a uniform number of zero mean and unit variance."""
    return bits.astype(np.float32) * np.float32(12**0.5 / 65536) - np.float32(12**0.5 / 2)


def mix_bits(x: Any) -> Any:
    """A bijection of 32-bit integers: flipping one bit flips about half of the result (lowbias32 of C. Wellons)."""
    x = (x ^ (x >> np.uint32(16))) * np.uint32(0x7FEB352D)
    x = (x ^ (x >> np.uint32(15))) * np.uint32(0x846CA68B)
    return x ^ (x >> np.uint32(16))


def block_keys(seed: int, block: int, num_draws: int) -> np.ndarray:
    """Two 32-bit keys for each column of a block, uint32 [num_draws, 2], from splitmix64."""
    keys = (
        _splitmix(_splitmix(seed) ^ block)
        + 0x9E3779B97F4A7C15 * np.arange(1, num_draws + 1, dtype=object)
    ) % (1 << 64)
    mixed = [_splitmix(int(key)) for key in keys]
    return np.array([(key >> 32, key & 0xFFFFFFFF) for key in mixed], np.uint32)


def _splitmix(x: int) -> int:
    mask = (1 << 64) - 1
    x = (x + 0x9E3779B97F4A7C15) & mask
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & mask
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & mask
    return x ^ (x >> 31)
