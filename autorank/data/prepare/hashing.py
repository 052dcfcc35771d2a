"""A stable hash of text: the same on every machine, in every process and with every version of every library.

With ``words`` the UTF-8 bytes as little-endian 64-bit integers, the last one padded with zeros, modulo 2**64:

    h = 0x9E3779B97F4A7C15 * number of bytes
    for word in words: h = finalise(h ^ word)        # the last step of splitmix64
    bucket = (h >> 32) * buckets >> 32
"""

from typing import Any

import numpy as np

from autorank.data.fast_text.short_strings import ShortStrings

MAX_BUCKETS = 1 << 30
_PER_BYTE = np.uint64(0x9E3779B97F4A7C15)
_HALF = np.uint64(32)
_MASKS = np.array([(1 << (8 * n)) - 1 for n in range(9)], np.uint64)


def hash_text(values: Any) -> np.ndarray:
    """Hashes of an Arrow string array without nulls, or of `ShortStrings`: uint64 [n].

    Examples:
        >>> import pyarrow as pa
        >>> hash_text(pa.array(["", "a", "a longer text"])).tolist()
        [0, 18119689086777206668, 11069716346130188742]
    """
    if isinstance(values, ShortStrings):
        from autorank.data.fast_text.loops import short_strings as string_loops

        hashes = np.empty(len(values), np.uint64)
        string_loops.hashes(values.packed, hashes)
        return hashes
    width, data, starts, lengths = _buffers(values)
    hashes = lengths.astype(np.uint64) * _PER_BYTE
    if width == 0:
        return hashes
    # The eight bytes from every position on, padded at the end.
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
    """The bucket of each value of an Arrow string array without nulls, or of `ShortStrings`.

    Returns:
        int32 [n] in [0, buckets).

    Raises:
        ValueError: fewer than 1 bucket or more than `MAX_BUCKETS`.
    """
    _require_valid(buckets)
    if isinstance(values, ShortStrings):
        return ids_of_short_strings(values, buckets, 0)
    hashes = hash_text(values)
    hashes >>= _HALF
    hashes *= np.uint64(buckets)
    hashes >>= _HALF
    return hashes.astype(np.int32)


def ids_of_short_strings(values: ShortStrings, buckets: int, reserved: int) -> np.ndarray:
    """The bucket of each string plus ``reserved``, int32 [n]; 0 for the empty string."""
    from autorank.data.fast_text.loops import short_strings as string_loops

    _require_valid(buckets)
    ids = np.empty(len(values), np.int32)
    string_loops.buckets(values.packed, buckets, reserved, ids)
    return ids


def _require_valid(buckets: int) -> None:
    if not 1 <= buckets <= MAX_BUCKETS:
        raise ValueError(f"hash_size={buckets} must lie in [1, {MAX_BUCKETS}]")


def _buffers(values: Any) -> tuple[int, np.ndarray, np.ndarray, np.ndarray]:
    """The length of the longest value; all bytes; and the first byte and the length of each value."""
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
    """The last step of splitmix64, computed in place."""
    shifted = h >> np.uint64(30)
    h ^= shifted
    h *= np.uint64(0xBF58476D1CE4E5B9)
    np.right_shift(h, np.uint64(27), out=shifted)
    h ^= shifted
    h *= np.uint64(0x94D049BB133111EB)
    np.right_shift(h, np.uint64(31), out=shifted)
    h ^= shifted
    return h
