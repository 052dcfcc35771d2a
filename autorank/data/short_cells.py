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

    def __getitem__(self, row: int | np.integer) -> str:
        value = self.values[row]
        return self.odd.get(int(row), "" if np.isnan(value) else str(int(value)))


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
    are no plain integer where one belongs, a line longer than `WINDOW`. Lines of nothing but separators are blank.
    """
    if not len(text) or layout.num_cells < 2 or not _usable(layout.separator):
        return None
    if layout.quote is not None and len(layout.quote.encode()) != 1:
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
        length = _read_window(buffer, block, layout, out, len(content) - begin)
        if not length:
            return None
        begin += length
    return out.cells()


def _usable(separator: str) -> bool:
    return separator.isascii() and len(separator) == 1 and separator not in "\r\n-0123456789"


class _Collected:
    """What was read so far, in arrays that grow."""

    def __init__(self, layout: Layout):
        self._layout, self._expected = layout, np.empty(0, np.uint8)
        self.num_rows = self.num_lines = 0
        self.words = np.empty((len(layout.words), 0), np.uint64)
        self.numbers = np.empty((len(layout.labels) + len(layout.numbers), 0))
        self.lines = np.empty(0, np.int64)
        self.odd: list[dict[int, str]] = [{} for _ in self.numbers]
        self.wrong: list[tuple[int, int]] = []

    def expected(self, num_lines: int) -> np.ndarray:
        """The ends of cells of so many lines."""
        width = self._layout.num_cells
        if len(self._expected) < num_lines * width:
            ends = np.full((2 * num_lines, width), ord(self._layout.separator), np.uint8)
            ends[:, -1] = ord("\n")
            self._expected = ends.ravel()
        return self._expected[: num_lines * width]

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
    layout: Layout,
    out: _Collected,
    left: int,
) -> int:
    """Reads the whole lines of a block, behind eight bytes of the buffer; how long they are, 0 where it cannot."""
    separator = ord(layout.separator)
    is_end = block < 32
    if separator >= 32:
        is_end |= block == separator
    ends = np.flatnonzero(is_end)
    kinds = block.take(ends)
    is_line = kinds == ord("\n")
    tail = max(len(kinds) - 8 * layout.num_cells, 0)
    line_ends = np.flatnonzero(is_line[tail:])
    if not len(line_ends):
        tail, line_ends = 0, np.flatnonzero(is_line)
    if not len(line_ends) or block.max() >= 128:
        return 0
    if layout.quote is not None and (block == ord(layout.quote)).any():
        return 0
    last = tail + int(line_ends[-1]) + 1
    ends, kinds = ends[:last], kinds[:last]
    spans = np.empty_like(ends)  # bytes of each cell with its end
    spans[0] = ends[0] + 1
    np.subtract(ends[1:], ends[:-1], out=spans[1:])
    length, width = int(ends[-1]) + 1, layout.num_cells
    lines = None
    num_lines, rest = divmod(last, width)
    if rest or not np.array_equal(kinds, out.expected(num_lines)):
        is_line = is_line[:last]
        if (kinds[~is_line] != separator).any():
            return 0
        line_ends = np.flatnonzero(is_line)
        counts = np.diff(line_ends, prepend=-1)
        num_lines = len(counts)
        filled = (counts > 1) | (spans[line_ends] > 1)
        wrong = np.flatnonzero((counts != width) & filled)
        out.wrong += [(out.num_lines + int(line), int(counts[line])) for line in wrong]
        lines = np.flatnonzero(counts == width)
        kept = np.repeat(counts == width, counts)
        ends, spans = ends[kept], spans[kept]
    filled = ends[width - 1 :: width] - ends[::width] + spans[::width] > width
    if not filled.all():
        lines = np.flatnonzero(filled) if lines is None else lines[filled]
        kept = np.repeat(filled, width)
        ends, spans = ends[kept], spans[kept]
    num_rows = len(ends) // width
    out.reserve(num_rows, length / left)
    if num_rows and not _read_rows(buffer, spans, ends, layout, out):
        return 0
    rows = slice(out.num_rows, out.num_rows + num_rows)
    out.lines[rows] = out.num_lines + (np.arange(num_lines) if lines is None else lines)
    out.num_rows, out.num_lines = rows.stop, out.num_lines + num_lines
    return length


def _read_rows(
    buffer: np.ndarray, spans: np.ndarray, ends: np.ndarray, layout: Layout, out: _Collected
) -> bool:
    """Reads the cells that end there, [rows x cells]."""
    # The eight bytes in front of every place, as a copy: unaligned ones are taken slowly.
    places = int(ends[-1]) + 1
    loads = np.ascontiguousarray(np.ndarray((places,), "<u8", buffer.data, strides=(1,)))
    loaded = loads.take(ends, mode="clip")
    shifts = spans * -8
    shifts += 8 * (WIDTH + 1)
    # As unsigned more than `_EMPTY` where longer than eight bytes.
    shifts = shifts.view(np.uint64)
    loaded >>= shifts
    loaded, shifts = (array.reshape(-1, layout.num_cells) for array in (loaded, shifts))
    num_rows = len(loaded)
    rows = slice(out.num_rows, out.num_rows + num_rows)
    _take_columns(loaded, layout.words, out.words[:, rows])
    if shifts.max() > _EMPTY and (shifts[:, list(layout.words)] > _EMPTY).any():
        return False
    limit, first = 16 + num_rows // 8, 0
    for places, read in ((layout.labels, _labels), (layout.numbers, _integers)):
        if not places:
            continue
        words, cut = np.empty((2, len(places), num_rows), np.uint64)
        _take_columns(loaded, places, words)
        _take_columns(shifts, places, cut)
        into = out.numbers[first : first + len(places), rows]
        odd = read(words, cut, into)
        limit -= len(odd)
        if limit < 0:
            return False
        for place in odd.tolist():
            column, row = divmod(place, num_rows)
            cell = row * layout.num_cells + places[column]
            end = WIDTH + ends[cell]
            text = buffer[end + 1 - spans[cell] : end].tobytes()
            out.odd[first + column][rows.start + row] = text.decode("ascii")
            into[column, row] = np.nan
        first += len(places)
    return True


def _take_columns(cells: np.ndarray, places: Sequence[int], into: np.ndarray) -> None:
    """Columns of [rows, cells] as rows; in one go where they lie side by side."""
    if places and places[-1] - places[0] == len(places) - 1 and list(places) == sorted(places):
        into[:] = cells[:, places[0] : places[-1] + 1].T
        return
    for column, place in enumerate(places):
        into[column] = cells[:, place]


def _labels(words: np.ndarray, shifts: np.ndarray, into: np.ndarray) -> np.ndarray:
    """Cells that are 0 or 1; places of those that are neither nor empty."""
    words ^= np.uint64(ord("0"))
    empty = shifts == _EMPTY
    odd = words > 1
    odd |= shifts > _EMPTY
    into[:] = np.where(empty, np.nan, words.view(np.int64))
    return np.flatnonzero(odd & ~empty) if odd.any() else np.zeros(0, np.int64)


def _integers(words: np.ndarray, shifts: np.ndarray, into: np.ndarray) -> np.ndarray:
    """Cells of up to eight digits, or a minus and up to seven; places of those that are neither nor empty."""
    digits = _ZEROS >> shifts
    digits ^= words
    digits <<= shifts  # zeros in front
    marks = _not_digits(digits)
    is_odd = marks != 0
    if shifts.max() > _EMPTY:
        is_odd |= shifts > _EMPTY
    odd = negative = np.flatnonzero(is_odd)
    if len(odd):
        flat, cut = digits.reshape(-1), shifts.reshape(-1)[odd]
        rest = flat[odd] ^ (_MINUS << cut)
        signed = ((flat[odd] >> cut) & _BITS == _MINUS) & (cut < 56) & (_not_digits(rest) == 0)
        negative, odd = odd[signed], odd[~signed]
        flat[negative] = rest[signed]
    values = _sum_digits(digits).view(np.int64).astype(np.float64)
    values[shifts == _EMPTY] = np.nan
    if len(negative):
        flat = values.reshape(-1)
        flat[negative] = -flat[negative]
    into[:] = values
    return odd


def _not_digits(digits: np.ndarray) -> np.ndarray:
    """The highest bit of each byte above 9."""
    found = digits + _ABOVE_NINE
    found |= digits
    found &= _HIGH
    return found


def _sum_digits(digits: np.ndarray) -> np.ndarray:
    """The number of eight digits, the first in the lowest byte: pairs of digits, of pairs, of fours. In place."""
    for factor, bits, kept in (
        (10 * (1 << 8) + 1, 8, 0x00FF00FF00FF00FF),
        (100 * (1 << 16) + 1, 16, 0x0000FFFF0000FFFF),
        (10_000 * (1 << 32) + 1, 32, 0x00000000FFFFFFFF),
    ):
        digits *= np.uint64(factor)
        digits >>= np.uint64(bits)
        digits &= np.uint64(kept)
    return digits
