"""Parses delimited text in place, without creating a string per cell.

It handles what logs of hashed features contain: cells of at most eight bytes, and integers. One compiled loop
(`loops.cell_parser`) passes over the bytes once. The parser never guesses: it declines text with other lines or cells,
and the caller falls back to the general parser (`prepare.parse_text`).
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from autorank.data.fast_text import buffer_pool

WINDOW = 1 << 15  # bytes parsed at a time, to fit the L1 cache; also the longest line
EMPTY = -(2**31)  # marks a cell without an integer in `IntegerColumn.values`


class IntegerColumn:
    """A column of integers of up to eight digits.

    Attributes:
        values: int32 [n], `EMPTY` where the cell is empty or not such an integer.
        other_text: row -> text of each cell that is neither empty nor such an integer.
    """

    __slots__ = ("values", "other_text")

    def __init__(self, values: np.ndarray, other_text: dict[int, str]):
        self.values, self.other_text = values, other_text

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, row: int | np.integer) -> str:
        value = int(self.values[row])
        return self.other_text.get(int(row), "" if value == EMPTY else str(value))


class CellLayout(NamedTuple):
    """The columns of a line and what to parse them as.

    Attributes:
        num_cells: cells per line.
        separator: one ASCII character.
        quote: a byte that declines the whole text if it occurs, as it has a meaning that this parser ignores.
        strings, labels, integers: the places of the columns to parse; a label is 0 or 1.
    """

    num_cells: int
    separator: str
    quote: str | None
    strings: Sequence[int]
    labels: Sequence[int]
    integers: Sequence[int]


class ParsedCells(NamedTuple):
    """The cells of all lines with the right number of cells.

    Attributes:
        strings: uint64 [columns, n], packed as in `short_strings`.
        integers: one column for each label and then for each integer column.
        lines: int64 [n], the line of the text that each row comes from, from 0.
        wrong: line and number of cells of the other lines; blank lines are omitted.
    """

    strings: np.ndarray
    integers: list[IntegerColumn]
    lines: np.ndarray
    wrong: list[tuple[int, int]]


def parse_cells(text: bytes | memoryview, layout: CellLayout) -> ParsedCells | None:
    """Parses whole lines; None if the general parser must do it.

    It declines text with a non-ASCII byte, a control character or a quote; a string cell longer than eight bytes; many
    integer cells that hold something else; many lines with a wrong number of cells; or a line longer than `WINDOW`.
    Lines of nothing but separators count as blank.
    """
    if not len(text) or layout.num_cells < 2 or not _is_supported(layout.separator):
        return None
    if layout.quote is not None and len(layout.quote.encode()) != 1:
        return None
    from autorank.data.fast_text.loops import cell_parser as cell_loops
    from autorank.data.fast_text.loops import short_strings as string_loops

    content = np.frombuffer(text, np.uint8)
    max_rows = int(string_loops.count(content, ord("\n"))) + 1
    strings = buffer_pool.empty((len(layout.strings), max_rows), np.uint64)
    integers = buffer_pool.empty((len(layout.labels) + len(layout.integers), max_rows), np.int32)
    lines = buffer_pool.empty(max_rows, np.int64)
    capacity = 16 + max_rows // 8
    other, wrong = np.empty((capacity, 4), np.int64), np.empty((capacity, 2), np.int64)
    num_rows, _, num_other, num_wrong = cell_loops.parse(
        content,
        ord(layout.separator),
        ord(layout.quote or "\0"),
        WINDOW,
        layout.num_cells,
        *(np.array(p, np.int64) for p in (layout.strings, layout.labels, layout.integers)),
        strings,
        integers,
        lines,
        other,
        wrong,
    )
    if num_rows == cell_loops.DECLINED:
        return None
    texts: list[dict[int, str]] = [{} for _ in integers]
    for column, row, begin, end in other[:num_other].tolist():
        texts[column][row] = bytes(text[begin:end]).decode("ascii")
    return ParsedCells(
        strings[:, :num_rows],
        [IntegerColumn(v[:num_rows], found) for v, found in zip(integers, texts, strict=True)],
        lines[:num_rows],
        list(map(tuple, wrong[:num_wrong].tolist())),
    )


def _is_supported(separator: str) -> bool:
    return separator.isascii() and len(separator) == 1 and separator not in "\r\n-0123456789"
