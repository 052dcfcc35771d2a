"""Cells of delimited text read in place, without a string for any of them.

For lines that all logs of hashed features have: cells of at most eight bytes, or integers. One compiled loop
(`loops_of_cells`) goes once over the bytes. What is no such line, or no such cell, is handed back for the careful
reader (`text`) to judge: this one never guesses.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from autorank.data.fast_text import buffer_pool as recycled

# Bytes worked on at a time, in a core's nearest cache; a longer line is not read here.
WINDOW = 1 << 15


EMPTY = -(2**31)


class Numbers:
    """A column of integers of up to eight digits, and the text of the cells that are neither that nor empty."""

    __slots__ = ("values", "odd")

    def __init__(self, values: np.ndarray, odd: dict[int, str]):
        self.values, self.odd = values, odd  # int32 [n], `EMPTY` where empty or odd

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, row: int | np.integer) -> str:
        value = int(self.values[row])
        return self.odd.get(int(row), "" if value == EMPTY else str(value))


class Cells(NamedTuple):
    """The cells of the lines that have the right number of them."""

    words: np.ndarray  # uint64 [words, n]
    numbers: list[Numbers]  # one for each label and number
    lines: np.ndarray  # int64 [n], which line of the text each row is, from 0
    wrong: list[tuple[int, int]]  # line and number of cells of the others; blank ones are left out


class Layout(NamedTuple):
    """Where what is among the cells of a line."""

    num_cells: int
    separator: str
    quote: str | None  # what no cell may hold, as it would mean more than itself
    words: Sequence[int]
    labels: Sequence[int]  # 0 or 1
    numbers: Sequence[int]


def read_cells(text: bytes | memoryview, layout: Layout) -> Cells | None:
    """Cells of whole lines; None where the careful reader must do it.

    That is: a byte that is not ASCII, a control character or a quote, a word longer than eight bytes, many cells that
    are no plain integer where one belongs, many lines with another number of cells, a line longer than `WINDOW`. Lines
    of nothing but separators are blank.
    """
    if not len(text) or layout.num_cells < 2 or not _usable(layout.separator):
        return None
    if layout.quote is not None and len(layout.quote.encode()) != 1:
        return None
    from autorank.data.fast_text.loops import cells as loops_of_cells
    from autorank.data.fast_text.loops import words as loops_of_words

    content = np.frombuffer(text, np.uint8)
    most = int(loops_of_words.count(content, ord("\n"))) + 1
    words = recycled.empty((len(layout.words), most), np.uint64)
    numbers = recycled.empty((len(layout.labels) + len(layout.numbers), most), np.int32)
    lines = recycled.empty(most, np.int64)
    room = 16 + most // 8
    odd, wrong = np.empty((room, 4), np.int64), np.empty((room, 2), np.int64)
    num_rows, _, num_odd, num_wrong = loops_of_cells.read(
        content,
        ord(layout.separator),
        ord(layout.quote or "\0"),
        WINDOW,
        layout.num_cells,
        *(np.array(p, np.int64) for p in (layout.words, layout.labels, layout.numbers)),
        words,
        numbers,
        lines,
        odd,
        wrong,
    )
    if num_rows == loops_of_cells.NOT_READ:
        return None
    texts: list[dict[int, str]] = [{} for _ in numbers]
    for column, row, begin, end in odd[:num_odd].tolist():
        texts[column][row] = bytes(text[begin:end]).decode("ascii")
    return Cells(
        words[:, :num_rows],
        [Numbers(values[:num_rows], odd) for values, odd in zip(numbers, texts, strict=True)],
        lines[:num_rows],
        list(map(tuple, wrong[:num_wrong].tolist())),
    )


def _usable(separator: str) -> bool:
    return separator.isascii() and len(separator) == 1 and separator not in "\r\n-0123456789"
