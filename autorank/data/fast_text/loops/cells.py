"""The compiled loop behind `short_cells`: finds the cells of lines and writes words and numbers.

As simdjson does (Langdale and Lemire, "Parsing gigabytes of JSON per second", 2019): ends of cells are found 64 bytes
at a time, one bit each; a cell is then the 64-bit load in front of its end, and the digits of an integer are added up
side by side in it. No branch depends on how long a cell is.
"""

from typing import Any, no_type_check

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from autorank.data.fast_text.compiled import BYTES, compiled

AHEAD = 8  # bytes in front of a window, for the load before an early end
VECTOR = 64  # bytes compared at a time
NOT_READ = -1
_NEWLINE = np.uint8(ord("\n"))
_EMPTY = np.int32(-(2**31))  # `short_cells.EMPTY`
_MINUS = np.uint8(ord("-"))
_SPACE = np.uint8(32)
_ONE, _EIGHT = np.uint64(1), np.uint64(8)
_CUT = np.uint64(63)
_ALL = np.uint64(2**64 - 1)
_ZEROS = np.uint64(0x3030303030303030)  # eight times the digit 0
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
    """Eight bytes from a place on, which need not be aligned."""

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
    """Which of the 64 bytes from a place on are this one: a bit each, the first the lowest."""

    @no_type_check
    def code(*arguments):
        return _compare(*arguments, "==")

    return types.uint64(text, types.intp, types.uint8), code


@intrinsic
@no_type_check
def _outside(typing, text, place, byte):
    """Which of the 64 bytes are below this one, or above 127."""

    @no_type_check
    def code(*arguments):
        return _compare(*arguments, "<")  # as signed bytes

    return types.uint64(text, types.intp, types.uint8), code


@intrinsic
@no_type_check
def _lowest_bit(typing, word):
    """Its number; 64 where there is none."""

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
def _find(buffer, size, separator, quote, ends, line_ends):
    """Places of the ends of cells and of lines, how many; whether a byte is in the way."""
    num_ends, num_lines, wrong = np.uint64(0), np.uint64(0), np.uint64(0)
    for place in range(AHEAD, AHEAD + size, VECTOR):
        at_line = _equal(buffer, place, _NEWLINE)
        at_end = at_line | _equal(buffer, place, separator)
        wrong |= _outside(buffer, place, _SPACE) & ~at_end
        if quote:
            wrong |= _equal(buffer, place, quote)
        after = num_ends + _num_bits(at_end)
        while (
            True
        ):  # eight at a time: how many there are is no branch; what is too much is written over
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
    return np.int64(num_ends), np.int64(num_lines), wrong != 0


@njit
@no_type_check
def _not_digits(digits):
    """The highest bit of each byte above 9."""
    return ((digits + _ABOVE_NINE) | digits) & _HIGH


@njit
@no_type_check
def _sum_digits(digits):
    """The number of eight digits, the first in the lowest byte: pairs of digits, of pairs, of fours."""
    pairs = ((digits * np.uint64(10 * (1 << 8) + 1)) >> _EIGHT) & np.uint64(0x00FF00FF00FF00FF)
    fours = ((pairs * np.uint64(100 * (1 << 16) + 1)) >> np.uint64(16)) & np.uint64(0x0000FFFF0000FFFF)  # fmt: skip
    return np.int32((fours * np.uint64(10_000 * (1 << 32) + 1)) >> np.uint64(32))


@compiled(
    BYTES, types.uint8, types.uint8, types.int64, types.int64, types.int64[::1], types.int64[::1],
    types.int64[::1], types.uint64[:, ::1], types.int32[:, ::1], types.int64[::1], types.int64[:, ::1],
    types.int64[:, ::1],
)  # fmt: skip
@no_type_check
def read(
    text, separator, quote, window, width, word_places, label_places, number_places, words, numbers, lines, odd, wrong,
):  # fmt: skip
    """Reads whole lines.

    Args:
        text: of one line at least; the last one may lack its end.
        quote: 0 if there is none.
        window: bytes worked on at a time.
        width: cells of a line.
        word_places, label_places, number_places: which cells are what.
        words, numbers, lines: written, as `short_cells.Cells` has them; labels lie in front of numbers.
        odd: written: column of ``numbers``, row, begin and end of cells that are neither plain nor empty.
        wrong: written: lines with another number of cells, and that number.

    Returns:
        How many rows, lines, odd cells and wrong lines there are; the first is `NOT_READ` where the careful reader must
        do it.
    """
    buffer = np.zeros(AHEAD + window + VECTOR, np.uint8)
    # Up to 64 ends lie behind the last line; the place in front of the first cell leads.
    all_ends = np.empty(1 + window + 2 * VECTOR, np.int32)
    all_ends[0] = AHEAD - 1
    ends, line_ends = all_ends[1:], np.empty(window + 2 * VECTOR, np.int32)
    firsts = np.empty(window + 1, np.uint32)  # of each row, the place of its first end
    num_rows, num_lines, num_odd, num_wrong = 0, 0, 0, 0
    failed = NOT_READ, 0, 0, 0
    begin = 0
    while begin < len(text):
        size = min(window, len(text) - begin)
        for i in range(size):
            buffer[np.uint64(AHEAD + i)] = text[np.uint64(begin + i)]
        if begin + size == len(text) and buffer[AHEAD + size - 1] != _NEWLINE:
            buffer[AHEAD + size] = _NEWLINE
            size += 1
        for i in range(AHEAD + size, min(AHEAD + size + VECTOR, len(buffer))):
            buffer[i] = _NEWLINE
        num_ends, found, in_the_way = _find(buffer, size, separator, quote, ends, line_ends)
        while found and line_ends[found - 1] >= AHEAD + size:
            found -= 1
        if in_the_way or not found:
            return failed
        rows, first, before = 0, 0, AHEAD - 1
        for line in range(found):
            end = line_ends[line]
            cells = width
            if first + width > num_ends or ends[first + width - 1] != end:
                cells = 1
                while ends[first + cells - 1] != end:
                    cells += 1
            if cells == width:
                if end - before > width:  # not all empty
                    firsts[rows] = first
                    lines[num_rows + rows] = num_lines + line
                    rows += 1
            elif cells > 1 or end - before > 1:
                if num_wrong == len(wrong):
                    return failed
                wrong[num_wrong, 0], wrong[num_wrong, 1] = num_lines + line, cells
                num_wrong += 1
            first, before = first + cells, end
        too_long = False
        for column in range(len(word_places)):
            into, place = words[column, num_rows : num_rows + rows], np.uint64(word_places[column])
            for row in range(rows):
                at = np.uint64(firsts[np.uint64(row)]) + place
                end = all_ends[at + _ONE]
                length = end - all_ends[at] - 1
                too_long |= length > 8
                cut = np.uint64(64 - 8 * length) & _CUT
                word = _word_at(buffer, end - 8)
                into[np.uint64(row)] = word >> cut if length else np.uint64(0)
        if too_long:
            return failed
        for column in range(len(label_places) + len(number_places)):
            into = numbers[column, num_rows : num_rows + rows]
            is_label = column < len(label_places)
            if is_label:
                place = np.uint64(label_places[column])
            else:
                place = np.uint64(number_places[column - len(label_places)])
            for row in range(rows):
                at = np.uint64(firsts[np.uint64(row)]) + place
                end = all_ends[at + _ONE]
                length = end - all_ends[at] - 1
                cut = np.uint64(64 - 8 * length) & _CUT
                kept = _ALL << cut if length else np.uint64(0)
                digits = (_word_at(buffer, end - 8) ^ _ZEROS) & kept  # zeros in front
                value = _sum_digits(digits)
                into[np.uint64(row)] = value if length else _EMPTY
                is_odd = _not_digits(digits) != 0 or length > 8
                if is_label:
                    is_odd = length > 1 or is_odd or value > 1
                elif is_odd and 1 < length <= 8 and buffer[end - length] == _MINUS:
                    digits &= kept << _EIGHT
                    is_odd = _not_digits(digits) != 0
                    into[np.uint64(row)] = -_sum_digits(digits)
                if is_odd:
                    if num_odd == len(odd):
                        return failed
                    into[np.uint64(row)] = _EMPTY
                    odd[num_odd, 0], odd[num_odd, 1] = column, num_rows + row
                    odd[num_odd, 2], odd[num_odd, 3] = (
                        begin + end - length - AHEAD,
                        begin + end - AHEAD,
                    )
                    num_odd += 1
        num_rows += rows
        num_lines += found
        begin += line_ends[found - 1] + 1 - AHEAD
    return num_rows, num_lines, num_odd, num_wrong
