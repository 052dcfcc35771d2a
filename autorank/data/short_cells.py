"""Cells of delimited text read in place, without a string for any of them.

For lines that all logs of hashed features have: cells of at most eight bytes, or integers. Each cell's last eight bytes
are one 64-bit load; shifts cut away what lies in front of it, and the digits of an integer are added up side by side in
the word (D. Lemire and others, "simdjson", 2019). What is no such line, or no such cell, is handed back for the careful
reader (`text`) to judge: this one never guesses.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from autorank.data.words import WIDTH

WINDOW = 1 << 18  # bytes worked on at a time, in a core's cache
_ZEROS = np.uint64(0x3030303030303030)  # eight times the digit 0
_ABOVE_NINE = np.uint64(0x7676767676767676)
_HIGH = np.uint64(0x8080808080808080)
_MINUS = np.uint64(ord("-") ^ ord("0"))
_EMPTY = np.uint64(64)  # bits shifted out of an empty cell
_BITS = np.uint64(0xFF)


class Numbers:
    """A column of numbers, NaN where empty, and the text of the cells that are no plain integer."""

    __slots__ = ("values", "odd")

    def __init__(self, values: np.ndarray, odd: dict[int, str]):
        self.values, self.odd = values, odd  # float64 [n], NaN where odd

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, row: int) -> str:
        value = self.values[row]
        return self.odd.get(row, "" if np.isnan(value) else str(int(value)))


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
    words: Sequence[int]
    labels: Sequence[int]  # 0 or 1
    numbers: Sequence[int]


def read_cells(text: bytes | memoryview, layout: Layout) -> Cells | None:
    """Cells of whole lines; None where the careful reader must do it.

    That is: a byte that is not ASCII or a control character, a word longer than eight bytes, many cells that are no
    plain integer where one belongs, a line longer than `WINDOW`. Lines of nothing but separators are blank.
    """
    separator = ord(layout.separator)
    if layout.num_cells < 2 or separator >= 128 or layout.separator in "\r\n0123456789-":
        return None
    if text[-1:] != b"\n":
        text = b"".join((text, b"\n"))
    content = np.frombuffer(text, np.uint8)
    buffer = np.zeros(WIDTH + min(WINDOW, len(content)), np.uint8)
    out = _Collected(layout)
    begin = 0
    while begin < len(content):
        block = buffer[WIDTH : WIDTH + min(WINDOW, len(content) - begin)]
        block[:] = content[begin : begin + len(block)]
        length = _read_window(buffer, block, separator, layout, out, len(content) - begin)
        if not length:
            return None
        begin += length
    return out.cells()


class _Collected:
    """What was read so far, in arrays that grow."""

    def __init__(self, layout: Layout):
        self.num_rows = self.num_lines = 0
        self.words = np.empty((len(layout.words), 0), np.uint64)
        self.numbers = np.empty((len(layout.labels) + len(layout.numbers), 0))
        self.lines = np.empty(0, np.int64)
        self.odd: list[dict[int, str]] = [{} for _ in self.numbers]
        self.wrong: list[tuple[int, int]] = []

    def reserve(self, rows: int, share: float) -> None:
        """Room for more rows, which are this share of what is left."""
        needed = self.num_rows + rows
        if needed <= len(self.lines):
            return
        room = needed if share >= 1 else self.num_rows + int(1.02 * rows / share) + 64
        self.words, self.numbers, self.lines = (
            _larger(array, room, self.num_rows) for array in (self.words, self.numbers, self.lines)
        )

    def cells(self) -> Cells:
        num = self.num_rows
        columns = zip(self.numbers, self.odd, strict=True)
        numbers = [Numbers(values[:num], odd) for values, odd in columns]
        return Cells(self.words[:, :num], numbers, self.lines[:num], self.wrong)


def _larger(array: np.ndarray, room: int, used: int) -> np.ndarray:
    new = np.empty((*array.shape[:-1], room), array.dtype)
    new[..., :used] = array[..., :used]
    return new


def _read_window(
    buffer: np.ndarray,
    block: np.ndarray,
    separator: int,
    layout: Layout,
    out: _Collected,
    left: int,
) -> int:
    """Reads the whole lines of a block, behind eight bytes of the buffer; how long they are, 0 where it cannot."""
    is_end = block < 32
    if separator >= 32:
        is_end |= block == separator
    ends = np.flatnonzero(is_end)
    kinds = block.take(ends)
    is_line = kinds == ord("\n")
    last = len(kinds) - int(is_line[::-1].argmax()) if len(kinds) else 0
    if not last or not is_line[last - 1] or block.max() >= 128:
        return 0
    ends, kinds = ends[:last], kinds[:last]
    starts = np.empty_like(ends)
    starts[0] = 0
    np.add(ends[:-1], 1, out=starts[1:])
    length, width = int(ends[-1]) + 1, layout.num_cells
    expected = np.full(width, separator, np.uint8)
    expected[-1] = ord("\n")
    lines = None
    if last % width or (kinds.reshape(-1, width) != expected).any():
        is_line = is_line[:last]
        if (kinds[~is_line] != separator).any():
            return 0
        line_ends = np.flatnonzero(is_line)
        counts = np.diff(line_ends, prepend=-1)
        filled = (counts > 1) | (ends[line_ends] > starts[line_ends])
        wrong = np.flatnonzero((counts != width) & filled)
        out.wrong += [(out.num_lines + int(line), int(counts[line])) for line in wrong]
        lines = np.flatnonzero(counts == width)
        kept = np.repeat(counts == width, counts)
        ends, starts = ends[kept], starts[kept]
        num_lines = len(counts)
    else:
        num_lines = last // width
    ends, starts = ends.reshape(-1, width), starts.reshape(-1, width)
    filled = ends[:, -1] - starts[:, 0] >= width
    if not filled.all():
        lines = np.flatnonzero(filled) if lines is None else lines[filled]
        ends, starts = ends[filled], starts[filled]
    out.reserve(len(ends), length / left)
    if not _read_rows(buffer, starts, ends, layout, out):
        return 0
    rows = slice(out.num_rows, out.num_rows + len(ends))
    out.lines[rows] = out.num_lines + (np.arange(num_lines) if lines is None else lines)
    out.num_rows, out.num_lines = rows.stop, out.num_lines + num_lines
    return length


def _read_rows(
    buffer: np.ndarray, starts: np.ndarray, ends: np.ndarray, layout: Layout, out: _Collected
) -> bool:
    """Reads the cells whose first bytes and whose separators lie there, [rows, cells]."""
    if not len(ends):
        return True
    # The eight bytes in front of every place, as a copy: unaligned ones are taken slowly.
    places = int(ends[-1, -1]) + 1
    before = np.ascontiguousarray(np.ndarray((places,), "<u8", buffer.data, strides=(1,)))
    loaded = before.take(ends, mode="clip")
    lengths = ends - starts
    shifts = np.left_shift(lengths, 3)
    np.subtract(64, shifts, out=shifts)  # more than 64 where longer than eight bytes, as unsigned
    shifts = shifts.view(np.uint64)
    rows = slice(out.num_rows, out.num_rows + len(ends))
    columns = _columns(layout.words)
    found, cut = loaded[:, columns], shifts[:, columns]
    if len(layout.words) and cut.max() > _EMPTY:
        return False
    out.words[:, rows] = (found >> cut).T
    limit, num_odd = 16 + len(ends) // 8, 0
    for first, places, read in (
        (0, layout.labels, _labels),
        (len(layout.labels), layout.numbers, _integers),
    ):
        if not places:
            continue
        columns = _columns(places)
        into = out.numbers[first : first + len(places), rows]
        odd = read(
            np.ascontiguousarray(loaded[:, columns].T),
            np.ascontiguousarray(shifts[:, columns].T),
            into,
        )
        num_odd += len(odd)
        if num_odd > limit:
            return False
        for place in odd.tolist():
            column, row = divmod(place, len(ends))
            cell = slice(
                WIDTH + starts[row, places[column]], WIDTH + ends[row, places[column]]
            )
            out.odd[first + column][rows.start + row] = buffer[cell].tobytes().decode("ascii")
            into[column, row] = np.nan
    return True


def _columns(places: Sequence[int]) -> slice | list[int]:
    """A slice where they lie side by side."""
    if list(places) == list(range(places[0], places[-1] + 1)) if places else False:
        return slice(places[0], places[-1] + 1)
    return list(places)


def _labels(loaded: np.ndarray, shifts: np.ndarray, into: np.ndarray) -> np.ndarray:
    """Cells that are 0 or 1; places of those that are neither nor empty."""
    words = (loaded >> shifts) ^ np.uint64(ord("0"))
    into[:] = words
    into[shifts == _EMPTY] = np.nan
    return np.flatnonzero(((words > 1) & (shifts != _EMPTY)) | (shifts > _EMPTY))


def _integers(loaded: np.ndarray, shifts: np.ndarray, into: np.ndarray) -> np.ndarray:
    """Cells of up to eight digits, or a minus and up to seven; places of those that are neither nor empty."""
    digits = loaded ^ _ZEROS
    digits >>= shifts
    digits <<= shifts  # zeros in front
    odd = np.flatnonzero((_not_digits(digits) != 0) | (shifts > _EMPTY))
    negative = odd
    if len(odd):
        flat, cut = digits.reshape(-1), shifts.reshape(-1)[odd]
        rest = flat[odd] ^ (_MINUS << cut)
        signed = ((flat[odd] >> cut) & _BITS == _MINUS) & (cut < 56) & (_not_digits(rest) == 0)
        negative, odd = odd[signed], odd[~signed]
        flat[negative] = rest[signed]
    into[:] = _sum_digits(digits).view(np.int64)
    if len(negative):
        columns, rows = np.divmod(negative, into.shape[1])
        into[columns, rows] = -into[columns, rows]
    into[shifts == _EMPTY] = np.nan
    return odd


def _not_digits(digits: np.ndarray) -> np.ndarray:
    """The highest bit of each byte above 9."""
    found = digits + _ABOVE_NINE
    found |= digits
    found &= _HIGH
    return found


def _sum_digits(digits: np.ndarray) -> np.ndarray:
    """The number of eight digits, the first in the lowest byte: pairs, then all at once. Changes ``digits``."""
    tens = digits >> np.uint64(8)
    digits *= np.uint64(10)
    digits += tens
    pairs = np.uint64(0x000000FF000000FF)
    odd = digits >> np.uint64(16)
    odd &= pairs
    odd *= np.uint64(0x0000271000000001)
    digits &= pairs
    digits *= np.uint64(0x000F424000000064)
    digits += odd
    digits >>= np.uint64(32)
    return digits
