"""Text of at most eight bytes as one 64-bit integer: its word.

The first byte is the lowest, zeros fill the rest; 0 is the empty text. Equal words are equal texts, so that values are
compared, counted and hashed without a string. Text with a zero byte in it has no word.

What is done with words is compiled (`loops_of_words`), which takes seconds once on a machine and part of one in every
process that uses it: words are for much data (`worth_compiling`), Arrow's strings for little.
"""

import os
from typing import Any, NamedTuple

import numpy as np

from autorank.data.fast_text import buffer_pool as recycled

WIDTH = 8  # bytes of the longest text with a word
WORTH = 1 << 26  # bytes of data that are worth loading compiled loops for
# Which words meet in a table: so that no log can be made to let all of them meet. Results do not depend on it.
SEED = int.from_bytes(os.urandom(8), "little")
_ONCE = np.zeros(0, np.int32)


def worth_compiling(num_bytes: int) -> bool:
    """Whether so much data is gone through faster by compiled loops, their loading included."""
    return num_bytes >= WORTH


class Words:
    """A column of short texts, empty where missing."""

    __slots__ = ("words",)

    def __init__(self, words: np.ndarray):
        self.words = words  # uint64 [n]

    def __len__(self) -> int:
        return len(self.words)

    def __getitem__(self, row: int | np.integer) -> str:
        return int(self.words[row]).to_bytes(WIDTH, "little").rstrip(b"\0").decode()

    def take(self, rows: np.ndarray) -> "Words":
        """Some of the values."""
        return Words(self.words.take(rows))

    def to_pylist(self) -> list[str]:
        """The values as Python text."""
        return self.to_arrow().to_pylist()

    def to_arrow(self) -> Any:
        """An Arrow string array."""
        import pyarrow as pa

        offsets, data = self.buffers()
        buffers = pa.py_buffer(offsets), pa.py_buffer(data)
        return pa.StringArray.from_buffers(len(self), *buffers)

    def buffers(self) -> tuple[np.ndarray, np.ndarray]:
        """Offsets int32 [n + 1] from 0 and bytes uint8, as Arrow lays text out."""
        from autorank.data.fast_text.loops import words as loops_of_words

        offsets, data = np.empty(len(self) + 1, np.int32), np.empty(WIDTH * len(self), np.uint8)
        return offsets, data[: loops_of_words.to_text(self.words, offsets, data)]


def from_buffers(offsets: np.ndarray, data: np.ndarray) -> Words | None:
    """The inverse of `Words.buffers`; None where a value is longer than `WIDTH` or has a zero byte."""
    from autorank.data.fast_text.loops import words as loops_of_words

    words = np.empty(len(offsets) - 1, np.uint64)
    return Words(words) if loops_of_words.from_text(offsets, data, words) else None


def plain_words(words: np.ndarray) -> np.ndarray:
    """`values.plain` of each word (uint64 [n]); the same array where that changes none."""
    from autorank.data.fast_text.loops import words as loops_of_words

    if not loops_of_words.any_candidate(words):
        return words
    found = np.empty(len(words), np.uint64)
    loops_of_words.plain(words, found)
    return found


class Distinct(NamedTuple):
    """Which values occur, in the order of first appearance; the empty text is none of them."""

    codes: np.ndarray  # int32 [n], -1 for the empty text
    first: np.ndarray  # int32, the first row of each
    values: Words
    uses: np.ndarray  # int64, rows of each, or the sum of their weights


def distinct_words(
    words: np.ndarray, weights: np.ndarray | None = None, *, codes: np.ndarray | None = None
) -> Distinct:
    """The distinct ones of ``words`` (uint64 [n]).

    Args:
        weights: int32 [n], what a row counts.
        codes: int32 [n], where to write the codes.
    """
    from autorank.data.fast_text.loops import words as loops_of_words

    num = len(words)
    codes = np.empty(num, np.int32) if codes is None else codes
    first = recycled.empty(num + 1, np.int32)
    values, uses = recycled.empty(num + 1, np.uint64), recycled.empty(num + 1, np.int64)
    counted = _ONCE if weights is None else weights
    found = loops_of_words.distinct(words, counted, SEED, codes, first, values, uses)
    # Copies: what is kept is mostly much shorter.
    kept = slice(1, found + 1)
    return Distinct(codes, first[kept].copy(), Words(values[kept].copy()), uses[kept].copy())
