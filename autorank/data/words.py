"""Text of at most eight bytes as one 64-bit integer: its word.

The first byte is the lowest, zeros fill the rest; 0 is the empty text. Equal words are equal texts, so that values are
compared, counted and hashed without a string. Text with a zero byte in it has no word.
"""

from typing import Any

import numpy as np

WIDTH = 8  # bytes of the longest text with a word
_MASKS = np.array([(1 << (8 * n)) - 1 for n in range(WIDTH + 1)], np.uint64)
_SPREAD = (0x9E3779B97F4A7C15, 0xD1B54A32D192ED03, 0xAEF17502108EF2D9, 0xF1357AEA2E62A9C5)


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
        cells = np.ascontiguousarray(self.words, "<u8").view(np.uint8).reshape(-1, WIDTH)
        offsets = np.zeros(len(cells) + 1, np.int32)
        if (cells[:, -1] != 0).all():
            offsets[1:] = np.arange(WIDTH, WIDTH * len(cells) + 1, WIDTH)
            return offsets, cells.ravel()
        held = cells != 0
        np.cumsum(held.sum(1), out=offsets[1:])
        return offsets, cells[held]


def from_buffers(offsets: np.ndarray, data: np.ndarray) -> Words | None:
    """The inverse of `Words.buffers`; None where a value is longer than `WIDTH` or has a zero byte."""
    lengths = np.diff(offsets)
    if not len(lengths):
        return Words(np.zeros(0, np.uint64))
    if lengths.max() > WIDTH or not data.all():
        return None
    if lengths.min() == WIDTH:
        content = data[offsets[0] : offsets[-1]]
        return Words(np.frombuffer(content.tobytes(), "<u8").astype(np.uint64, copy=False))
    padded = np.concatenate([data, np.zeros(WIDTH, np.uint8)])
    everywhere = np.ndarray((len(data) + 1,), "<u8", padded.data, strides=(1,))
    return Words(everywhere[offsets[:-1]] & _MASKS[lengths])


def byte_counts(words: np.ndarray) -> np.ndarray:
    """Bytes of each text, uint64 [n]."""
    return np.searchsorted(_MASKS, words).astype(np.uint64)


def distinct_words(words: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which values occur, in the order of first appearance; the empty text is none of them.

    Rows meet in a table by a hash of their word; the first to write there stands for all with the same word, those with
    another one try again with another hash. Neither sorted nor compared one by one.

    Returns:
        codes int32 [n], -1 for the empty text; the first row of each value.
    """
    num = len(words)
    backwards = np.ascontiguousarray(words[::-1])
    shift = np.uint64(64 - max(8, min(num.bit_length(), 22)))
    table = np.empty(1 << (64 - int(shift)), np.int32)
    rows = np.arange(num - 1, -1, -1, dtype=np.int32)
    slots = _slots(backwards, _SPREAD[0], shift)
    table[slots] = rows  # of several rows the last one written stays: the first of the column
    stands = np.ascontiguousarray(table.take(slots, mode="clip")[::-1])
    other = np.flatnonzero(words.take(stands, mode="clip") != words)
    for spread in _SPREAD[1:]:
        if not len(other):
            break
        backwards = words[other[::-1]]
        slots = _slots(backwards, spread, shift)
        table[slots] = other[::-1]
        found = table.take(slots, mode="clip")[::-1]
        stands[other] = found
        other = other[words.take(found, mode="clip") != words[other]]
    if len(other):  # words made to meet
        _, first, inverse = np.unique(words[other], return_index=True, return_inverse=True)
        stands[other] = other[first[inverse]]
    first = np.flatnonzero(stands == rows[::-1])
    numbers = np.arange(len(first), dtype=np.int32)
    empty = np.flatnonzero(words.take(first) == 0)
    if len(empty):
        numbers[empty[0] + 1 :] -= 1
        numbers[empty] = -1
    coded = table if len(table) >= num else np.empty(num, np.int32)
    coded[first] = numbers
    return coded.take(stands, mode="clip"), np.delete(first, empty)


def _slots(words: np.ndarray, spread: int, shift: np.uint64) -> np.ndarray:
    slots = words * np.uint64(spread)
    slots >>= shift
    return slots.view(np.int64)
