"""A hash of text that stays: the same on every machine, in every process and with every version of every library.

With ``words`` the UTF-8 bytes as little-endian 64-bit integers, the last one filled with zeros, modulo 2**64:

    h = 0x9E3779B97F4A7C15 * number of bytes
    for word in words: h = finalise(h ^ word)        # the last step of splitmix64
    bucket = (h >> 32) * buckets >> 32
"""

from typing import Any

import numpy as np

from autorank.data.words import Words, byte_counts

MAX_BUCKETS = 1 << 30
_TILE = 1 << 14  # hashed together: their temporaries stay in a core's cache
_PER_BYTE = np.uint64(0x9E3779B97F4A7C15)
_EIGHT_BYTES = np.uint64(8 * 0x9E3779B97F4A7C15 % 2**64)
_FULL = np.uint64(1 << 56)  # words of eight bytes lie from here on
_HALF = np.uint64(32)
_MASKS = np.array([(1 << (8 * n)) - 1 for n in range(9)], np.uint64)


def hash_text(values: Any) -> np.ndarray:
    """Hashes of an Arrow string array without nulls, or of `Words`: uint64 [n]."""
    if isinstance(values, Words):
        return np.concatenate([_hash_words(tile) for tile in _tiles(values.words)])
    width, data, starts, lengths = _layout(values)
    hashes = lengths.astype(np.uint64) * _PER_BYTE
    if width == 0:
        return hashes
    # Eight bytes from every position on, and as many behind the end.
    padded = np.concatenate([data, np.zeros(8, np.uint8)])
    words = np.ndarray((len(padded) - 7,), "<u8", padded.data, strides=(1,))
    for first in range(0, width, 8):
        rest = lengths - first
        if rest.min() >= 8:
            hashes = _finalise(hashes ^ words[starts + first])
        else:
            rows = np.flatnonzero(rest > 0)
            found = words[starts[rows] + first] & _MASKS[np.minimum(rest[rows], 8)]
            hashes[rows] = _finalise(hashes[rows] ^ found)
    return hashes


def buckets_of(values: Any, buckets: int) -> np.ndarray:
    """The bucket of each value, of an Arrow string array without nulls or of `Words`: int32 [n] in [0, buckets).

    Raises:
        ValueError: fewer than 1 bucket or more than `MAX_BUCKETS`.
    """
    if not 1 <= buckets <= MAX_BUCKETS:
        raise ValueError(f"hash_size={buckets} must lie in [1, {MAX_BUCKETS}]")
    found = np.empty(len(values), np.int32)
    if isinstance(values, Words):
        hashes = map(_hash_words, _tiles(values.words))
    else:
        hashes = iter([hash_text(values)])
    first = 0
    for tile in hashes:
        tile >>= _HALF
        tile *= np.uint64(buckets)
        tile >>= _HALF
        found[first : first + len(tile)] = tile
        first += len(tile)
    return found


def _tiles(words: np.ndarray) -> list[np.ndarray]:
    return [words[first : first + _TILE] for first in range(0, max(len(words), 1), _TILE)]


def _hash_words(words: np.ndarray) -> np.ndarray:
    """`hash_text` of texts of at most eight bytes."""
    hashes = _finalise(words ^ _EIGHT_BYTES)
    filled = words != 0
    short = np.flatnonzero((words < _FULL) & filled)
    if len(short):
        few = words[short]
        hashes[short] = _finalise(few ^ byte_counts(few) * _PER_BYTE)
    hashes *= filled  # the hash of the empty text is 0
    return hashes


def _layout(values: Any) -> tuple[int, np.ndarray, np.ndarray, np.ndarray]:
    """Longest length, bytes, first byte and length of each value."""
    import pyarrow as pa

    if not pa.types.is_string(values.type) or values.null_count:
        raise TypeError(f"expected strings without nulls, not {values.type}")
    _, offsets, data = values.buffers()
    if offsets is None or len(values) == 0:
        return 0, np.zeros(0, np.uint8), np.zeros(0, np.int64), np.zeros(0, np.int64)
    bounds = np.frombuffer(offsets, np.int32)[values.offset : values.offset + len(values) + 1]
    bounds = bounds.astype(np.int64)
    content = np.zeros(0, np.uint8) if data is None else np.frombuffer(data, np.uint8)
    lengths = np.diff(bounds)
    return int(lengths.max()), content, bounds[:-1], lengths


def _finalise(h: np.ndarray) -> np.ndarray:
    """The last step of splitmix64, in place."""
    shifted = h >> np.uint64(30)
    h ^= shifted
    h *= np.uint64(0xBF58476D1CE4E5B9)
    np.right_shift(h, np.uint64(27), out=shifted)
    h ^= shifted
    h *= np.uint64(0x94D049BB133111EB)
    np.right_shift(h, np.uint64(31), out=shifted)
    h ^= shifted
    return h
