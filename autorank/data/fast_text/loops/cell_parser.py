"""The compiled loop behind `fast_text.cell_parser`: finds the cells of lines and packs strings and integers.

As in simdjson (Langdale and Lemire, "Parsing gigabytes of JSON per second", 2019), the ends of cells are found 64 bytes
at a time, as one bit each. A cell is then the 64-bit load that ends at its end, and the digits of an integer are summed
in parallel within that word. No branch depends on the length of a cell.
"""

from typing import Any, no_type_check

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from autorank.data.fast_text.compiled import BYTES, compiled

AHEAD = 8  # bytes in front of the window, so that the load before an early end stays inside
VECTOR = 64  # bytes compared at a time
DECLINED = -1
_NEWLINE = np.uint8(ord("\n"))
_EMPTY = np.int32(-(2**31))  # `fast_text.cell_parser.EMPTY`
_MINUS = np.uint8(ord("-"))
_SPACE = np.uint8(32)
_ONE, _EIGHT = np.uint64(1), np.uint64(8)
_SHIFT_MASK = np.uint64(63)
_ALL = np.uint64(2**64 - 1)
_ZEROS = np.uint64(0x3030303030303030)  # the digit 0, eight times
_ABOVE_NINE = np.uint64(0x7676767676767676)
_HIGH = np.uint64(0x8080808080808080)


@no_type_check
def _load(context: Any, builder: Any, array_type: Any, array: Any, place: Any, kind: Any) -> Any:
    data = context.make_array(array_type)(context, builder, array).data
    pointer = builder.bitcast(builder.gep(data, [place]), kind.as_pointer())
    return builder.load(pointer, align=1)


@intrinsic
@no_type_check
def _word_at(typing, text, place):
    """The eight bytes from a position on, which need not be aligned."""

    @no_type_check
    def code(context, builder, signature, values):
        return _load(context, builder, signature.args[0], values[0], values[1], ir.IntType(64))

    return types.uint64(text, types.intp), code


@no_type_check
def _compare(context, builder, signature, values, operator):
    vector = ir.VectorType(ir.IntType(8), VECTOR)
    found = _load(context, builder, signature.args[0], values[0], values[1], vector)
    undefined, first = ir.Constant(vector, ir.Undefined), ir.Constant(ir.IntType(32), 0)
    one = builder.insert_element(undefined, values[2], first)
    nowhere = ir.Constant(ir.VectorType(ir.IntType(32), VECTOR), [0] * VECTOR)
    other = builder.shuffle_vector(one, undefined, nowhere)
    return builder.bitcast(builder.icmp_signed(operator, found, other), ir.IntType(VECTOR))


@intrinsic
@no_type_check
def _equal(typing, text, place, byte):
    """Which of the 64 bytes from a position on equal ``byte``: one bit each, the first byte lowest."""

    @no_type_check
    def code(*arguments):
        return _compare(*arguments, "==")

    return types.uint64(text, types.intp, types.uint8), code


@intrinsic
@no_type_check
def _outside(typing, text, place, byte):
    """Which of the 64 bytes from a position on are less than ``byte`` or greater than 127: one bit each."""

    @no_type_check
    def code(*arguments):
        return _compare(*arguments, "<")  # as signed bytes

    return types.uint64(text, types.intp, types.uint8), code


@intrinsic
@no_type_check
def _lowest_bit(typing, word):
    """The index of the lowest set bit; 64 if there is none."""

    @no_type_check
    def code(context, builder, signature, values):
        return builder.cttz(values[0], ir.Constant(ir.IntType(1), 0))

    return types.uint64(types.uint64), code


@intrinsic
@no_type_check
def _num_bits(typing, word):
    @no_type_check
    def code(context, builder, signature, values):
        return builder.ctpop(values[0])

    return types.uint64(types.uint64), code


@njit
@no_type_check
def _find_ends(buffer, size, separator, quote, ends, line_ends):
    """Writes the positions of the ends of cells and lines; returns their counts, and whether a byte is unsupported."""
    num_ends, num_lines, unsupported = np.uint64(0), np.uint64(0), np.uint64(0)
    for place in range(AHEAD, AHEAD + size, VECTOR):
        at_line = _equal(buffer, place, _NEWLINE)
        at_end = at_line | _equal(buffer, place, separator)
        unsupported |= _outside(buffer, place, _SPACE) & ~at_end
        if quote:
            unsupported |= _equal(buffer, place, quote)
        after = num_ends + _num_bits(at_end)
        # Eight at a time, so that no branch depends on their number; surplus entries are overwritten later.
        while True:
            for i in range(8):
                ends[num_ends + np.uint64(i)] = np.int32(np.uint64(place) + _lowest_bit(at_end))
                at_end &= at_end - _ONE
            num_ends += _EIGHT
            if not at_end:
                break
        num_ends = after
        while at_line:
            line_ends[num_lines] = np.int32(np.uint64(place) + _lowest_bit(at_line))
            num_lines += _ONE
            at_line &= at_line - _ONE
    return np.int64(num_ends), np.int64(num_lines), unsupported != 0


@njit
@no_type_check
def _not_digits(digits):
    """Sets the highest bit of each byte that is greater than 9."""
    return ((digits + _ABOVE_NINE) | digits) & _HIGH


@njit
@no_type_check
def _sum_digits(digits):
    """The number with these eight digits, the first in the lowest byte: sums neighbours in three steps."""
    pairs = ((digits * np.uint64(10 * (1 << 8) + 1)) >> _EIGHT) & np.uint64(0x00FF00FF00FF00FF)
    fours = ((pairs * np.uint64(100 * (1 << 16) + 1)) >> np.uint64(16)) & np.uint64(0x0000FFFF0000FFFF)  # fmt: skip
    return np.int32((fours * np.uint64(10_000 * (1 << 32) + 1)) >> np.uint64(32))


@njit
@no_type_check
def _load_window(buffer, text, begin, size):
    """Copies ``size`` bytes of the text into the buffer and pads them with line ends.

    Returns the number of bytes, one more if the last line of the text lacked its end.
    """
    for i in range(size):
        buffer[np.uint64(AHEAD + i)] = text[np.uint64(begin + i)]
    if begin + size == len(text) and buffer[AHEAD + size - 1] != _NEWLINE:
        buffer[AHEAD + size] = _NEWLINE
        size += 1
    for i in range(AHEAD + size, min(AHEAD + size + VECTOR, len(buffer))):
        buffer[i] = _NEWLINE
    return size


@njit
@no_type_check
def _find_rows(
    ends, num_ends, line_ends, num_found, num_cells, num_lines, first_ends, lines, wrong, num_wrong,
):  # fmt: skip
    """Separates lines with ``num_cells`` cells from blank and wrong ones.

    Writes the index of the first cell end of each row and its line number. Returns the number of rows and the new
    number of wrong lines, or `DECLINED` if these are too many.
    """
    num_rows, first, before = 0, 0, AHEAD - 1
    for line in range(num_found):
        end = line_ends[line]
        cells = num_cells
        if first + num_cells > num_ends or ends[first + num_cells - 1] != end:
            cells = 1
            while ends[first + cells - 1] != end:
                cells += 1
        if cells == num_cells:
            if end - before > num_cells:  # not all cells are empty
                first_ends[num_rows] = first
                lines[num_rows] = num_lines + line
                num_rows += 1
        elif cells > 1 or end - before > 1:
            if num_wrong == len(wrong):
                return DECLINED, num_wrong
            wrong[num_wrong, 0], wrong[num_wrong, 1] = num_lines + line, cells
            num_wrong += 1
        first, before = first + cells, end
    return num_rows, num_wrong


@njit
@no_type_check
def _pack_strings(buffer, bounds, first_ends, num_rows, places, into):
    """Packs the string cells of the rows; returns whether all of them fit into eight bytes."""
    too_long = False
    for column in range(len(places)):
        packed, place = into[column], np.uint64(places[column])
        for row in range(num_rows):
            at = np.uint64(first_ends[np.uint64(row)]) + place
            end = bounds[at + _ONE]
            length = end - bounds[at] - 1
            too_long |= length > 8
            shift = np.uint64(64 - 8 * length) & _SHIFT_MASK
            word = _word_at(buffer, end - 8)
            packed[np.uint64(row)] = word >> shift if length else np.uint64(0)
    return not too_long


@njit
@no_type_check
def _parse_integers(
    buffer, bounds, first_ends, num_rows, places, num_labels, into, first_row, text_begin, other, num_other,
):  # fmt: skip
    """Parses the label cells (the first ``num_labels`` places) and integer cells of the rows.

    Records cells that hold anything else. Returns their new number, or `DECLINED` if they are too many.
    """
    for column in range(len(places)):
        numbers, place, is_label = into[column], np.uint64(places[column]), column < num_labels
        for row in range(num_rows):
            at = np.uint64(first_ends[np.uint64(row)]) + place
            end = bounds[at + _ONE]
            length = end - bounds[at] - 1
            shift = np.uint64(64 - 8 * length) & _SHIFT_MASK
            kept = _ALL << shift if length else np.uint64(0)
            digits = (_word_at(buffer, end - 8) ^ _ZEROS) & kept  # with leading zeros
            value = _sum_digits(digits)
            numbers[np.uint64(row)] = value if length else _EMPTY
            is_other = _not_digits(digits) != 0 or length > 8
            if is_label:
                is_other = length > 1 or is_other or value > 1
            elif is_other and 1 < length <= 8 and buffer[end - length] == _MINUS:
                digits &= kept << _EIGHT
                is_other = _not_digits(digits) != 0
                numbers[np.uint64(row)] = -_sum_digits(digits)
            if is_other:
                if num_other == len(other):
                    return DECLINED
                numbers[np.uint64(row)] = _EMPTY
                stop = text_begin + end - AHEAD
                other[num_other, 0], other[num_other, 1] = column, first_row + row
                other[num_other, 2], other[num_other, 3] = stop - length, stop
                num_other += 1
    return num_other


@compiled(
    BYTES, types.uint8, types.uint8, types.int64, types.int64, types.int64[::1], types.int64[::1],
    types.int64[::1], types.uint64[:, ::1], types.int32[:, ::1], types.int64[::1], types.int64[:, ::1],
    types.int64[:, ::1],
)  # fmt: skip
@no_type_check
def parse(
    text, separator, quote, window, num_cells, string_places, label_places, integer_places, strings, integers, lines,
    other, wrong,
):  # fmt: skip
    """Parses whole lines, one window at a time.

    Args:
        text: at least one line; the last one may lack its end.
        separator: the byte between cells.
        quote: the byte that declines the text; 0 if there is none.
        window: bytes parsed at a time.
        num_cells: cells per line.
        string_places, label_places, integer_places: the columns to parse.
        strings, integers, lines: outputs, as in `fast_text.cell_parser.ParsedCells`; labels precede integers.
        other: output: column of ``integers``, row, begin and end of each cell that is neither an integer nor empty.
        wrong: output: each line with a wrong number of cells, and that number.

    Returns:
        The numbers of rows, lines, other cells and wrong lines. The first is `DECLINED` if the general parser must be
        used.
    """
    buffer = np.zeros(AHEAD + window + VECTOR, np.uint8)
    # The end of the cell in front of the first one, then the ends of all cells; up to 64 padding ends follow.
    bounds = np.empty(1 + window + 2 * VECTOR, np.int32)
    bounds[0] = AHEAD - 1
    ends, line_ends = bounds[1:], np.empty(window + 2 * VECTOR, np.int32)
    first_ends = np.empty(window + 1, np.uint32)
    places = np.concatenate((label_places, integer_places))
    num_rows, num_lines, num_other, num_wrong = 0, 0, 0, 0
    declined = DECLINED, 0, 0, 0
    begin = 0
    while begin < len(text):
        size = _load_window(buffer, text, begin, min(window, len(text) - begin))
        num_ends, found, unsupported = _find_ends(buffer, size, separator, quote, ends, line_ends)
        while found and line_ends[found - 1] >= AHEAD + size:
            found -= 1
        if unsupported or not found:
            return declined
        rows, num_wrong = _find_rows(
            ends, num_ends, line_ends, found, num_cells, num_lines, first_ends, lines[num_rows:], wrong, num_wrong
        )  # fmt: skip
        if rows == DECLINED:
            return declined
        stop = num_rows + rows
        if not _pack_strings(
            buffer, bounds, first_ends, rows, string_places, strings[:, num_rows:stop]
        ):
            return declined
        num_other = _parse_integers(
            buffer, bounds, first_ends, rows, places, len(label_places), integers[:, num_rows:stop], num_rows, begin,
            other, num_other,
        )  # fmt: skip
        if num_other == DECLINED:
            return declined
        num_rows = stop
        num_lines += found
        begin += line_ends[found - 1] + 1 - AHEAD
    return num_rows, num_lines, num_other, num_wrong
