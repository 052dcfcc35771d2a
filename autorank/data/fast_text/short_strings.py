"""Columns of short strings: text of at most eight bytes, packed into one 64-bit integer each.

The first byte is the lowest and unused bytes are zero, so 0 is the empty string. Equal integers are equal strings:
values are compared, counted and hashed without creating string objects. Text with a zero byte cannot be packed.

The operations are compiled loops (`loops.short_strings`). Compiling them takes seconds once per machine, and loading
them takes a fraction of a second per process, so they pay off for large inputs only (`worth_compiling`); Arrow strings
serve small ones.
"""

import os
from typing import Any, NamedTuple

import numpy as np

from autorank.data.fast_text import buffer_pool

WIDTH = 8  # bytes of the longest string that can be packed
COMPILE_FROM_BYTES = 1 << 26  # size of the data from which loading the compiled loops pays off
# Seed of the hash table, random so that no input can be made to collide. Results do not depend on it.
SEED = int.from_bytes(os.urandom(8), "little")
_NO_WEIGHTS = np.zeros(0, np.int32)


def worth_compiling(num_bytes: int) -> bool:
    """Whether compiled loops process this much data faster, including the time to load them.

    Examples:
        >>> worth_compiling(10_000), worth_compiling(1 << 30)
        (False, True)
    """
    return num_bytes >= COMPILE_FROM_BYTES


class ShortStrings:
    """A column of strings of at most eight bytes; the empty string is a missing value.

    Attributes:
        packed: uint64 [n], one string each.

    Examples:
        >>> column = ShortStrings(np.array([0x6261, 0], np.uint64))
        >>> column[0], column[1], len(column)
        ('ab', '', 2)
    """

    __slots__ = ("packed",)

    def __init__(self, packed: np.ndarray):
        self.packed = packed

    def __len__(self) -> int:
        return len(self.packed)

    def __getitem__(self, row: int | np.integer) -> str:
        return int(self.packed[row]).to_bytes(WIDTH, "little").rstrip(b"\0").decode()

    def take(self, rows: np.ndarray) -> "ShortStrings":
        """The given rows."""
        return ShortStrings(self.packed.take(rows))

    def to_pylist(self) -> list[str]:
        """The values as Python strings."""
        return self.to_arrow().to_pylist()

    def to_arrow(self) -> Any:
        """The values as an Arrow string array."""
        import pyarrow as pa

        offsets, data = self.buffers()
        buffers = pa.py_buffer(offsets), pa.py_buffer(data)
        return pa.StringArray.from_buffers(len(self), *buffers)

    def buffers(self) -> tuple[np.ndarray, np.ndarray]:
        """Offsets int32 [n + 1], starting at 0, and bytes uint8, in Arrow's layout of strings."""
        from autorank.data.fast_text.loops import short_strings as string_loops

        offsets, data = np.empty(len(self) + 1, np.int32), np.empty(WIDTH * len(self), np.uint8)
        return offsets, data[: string_loops.to_text(self.packed, offsets, data)]


def from_buffers(offsets: np.ndarray, data: np.ndarray) -> ShortStrings | None:
    """The inverse of `ShortStrings.buffers`; None if a value is longer than `WIDTH` or contains a zero byte."""
    from autorank.data.fast_text.loops import short_strings as string_loops

    packed = np.empty(len(offsets) - 1, np.uint64)
    return ShortStrings(packed) if string_loops.from_text(offsets, data, packed) else None


def canonical_packed(packed: np.ndarray) -> np.ndarray:
    """`canonical_text.canonical` of each packed string (uint64 [n]); the same array if none changes."""
    from autorank.data.fast_text.loops import short_strings as string_loops

    if not string_loops.any_candidate(packed):
        return packed
    found = np.empty(len(packed), np.uint64)
    string_loops.canonical(packed, found)
    return found


class DistinctStrings(NamedTuple):
    """The distinct values of a column in order of first appearance, without the empty string.

    Attributes:
        codes: int32 [n], index into ``values``; -1 for the empty string.
        first_row: int32 [distinct], the first row of each value.
        values: the distinct values.
        counts: int64 [distinct], the rows of each value, or the sum of their weights.
    """

    codes: np.ndarray
    first_row: np.ndarray
    values: ShortStrings
    counts: np.ndarray


def distinct_short_strings(
    packed: np.ndarray, weights: np.ndarray | None = None, *, codes: np.ndarray | None = None
) -> DistinctStrings:
    """Finds the distinct values of packed strings (uint64 [n]).

    Args:
        packed: the strings.
        weights: int32 [n], the weight of each row in ``counts``; None for 1 each.
        codes: int32 [n], receives the codes.
    """
    from autorank.data.fast_text.loops import short_strings as string_loops

    num = len(packed)
    codes = np.empty(num, np.int32) if codes is None else codes
    first_row = buffer_pool.empty(num + 1, np.int32)
    values, counts = buffer_pool.empty(num + 1, np.uint64), buffer_pool.empty(num + 1, np.int64)
    weights = _NO_WEIGHTS if weights is None else weights
    found = string_loops.distinct(packed, weights, SEED, codes, first_row, values, counts)
    # Copies, because the distinct values are usually far fewer than the rows.
    kept = slice(1, found + 1)
    return DistinctStrings(
        codes, first_row[kept].copy(), ShortStrings(values[kept].copy()), counts[kept].copy()
    )
