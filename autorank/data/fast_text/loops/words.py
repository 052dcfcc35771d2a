"""Compiled loops over words (`words`): distinct ones, hashes, and the text that they stand for."""

from typing import no_type_check

import numpy as np
from numba import njit, types

from autorank.data.fast_text.compiled import BYTES, INTS, WORDS, compiled

_NONE, _ONE, _EIGHT, _HALF = np.uint64(0), np.uint64(1), np.uint64(8), np.uint64(32)
_SPREAD = np.uint64(0x9E3779B97F4A7C15)
_FULL = np.uint64(1 << 56)  # words of eight bytes lie from here on
_LAST_BYTE = np.uint64(0xFF)
_SPACE, _POINT, _MINUS, _ZERO, _NINE = (np.uint64(ord(byte)) for byte in " .-09")
_ONES, _HIGH = np.uint64(0x0101010101010101), np.uint64(0x8080808080808080)
_TAB, _RETURN = np.uint64(ord("\t")), np.uint64(ord("\r"))
_POINTS, _ABOVE_SPACES = _ONES * _POINT, _ONES * (_SPACE + _ONE)
_MINUS_ZERO, _TRUE, _TRUE_LOUD, _TRUE_PLAIN, _FALSE, _FALSE_LOUD, _FALSE_PLAIN = (
    np.uint64(int.from_bytes(text, "little"))
    for text in (b"-0", b"True", b"TRUE", b"true", b"False", b"FALSE", b"false")
)


@compiled(BYTES, types.uint8)
@no_type_check
def count(content, byte):
    """How often a byte occurs."""
    found = 0
    for i in range(len(content)):
        found += content[np.uint64(i)] == byte
    return found


@njit
@no_type_check
def _slot(word, seed, shift):
    mixed = word ^ seed
    return ((mixed ^ (mixed >> _HALF)) * _SPREAD) >> shift


@compiled(
    WORDS,
    INTS,
    types.uint64,
    types.int32[::1],
    types.int32[::1],
    types.uint64[::1],
    types.int64[::1],
)
@no_type_check
def distinct(words, weights, seed, codes, first, values, uses):
    """Numbers words from 1 on in the order of first appearance.

    Args:
        words: [n], 0 for the empty text, which is none of them.
        weights: [n], or empty for one each.
        seed: any; decides which words meet in the table and nothing else.
        codes: written, [n], from 0 on, -1 for the empty text.
        first, values, uses: written from place 1 on, [n + 1]: of each distinct word its first row, itself, the sum of
            its weights.

    Returns:
        How many there are.
    """
    bits = 10
    while 2 * len(weights) >> bits:  # words that were counted before are mostly distinct
        bits += 1
    most = (1 << bits) >> 3
    shift, mask = np.uint64(64 - bits), np.uint64((1 << bits) - 1)
    # An open table of numbers, 0 where none; of small entries and mostly empty, as it is read in no order.
    table = np.zeros(1 << bits, np.int32)
    values[0] = _NONE
    found = 0
    for row in range(len(words)):
        word = words[np.uint64(row)]
        if word == _NONE:
            codes[np.uint64(row)] = -1
            continue
        slot = _slot(word, seed, shift)
        number = table[slot]
        while number != 0 and values[np.uint64(number)] != word:
            slot = (slot + _ONE) & mask
            number = table[slot]
        weight = np.int64(weights[np.uint64(row)]) if len(weights) else 1
        if number != 0:
            codes[np.uint64(row)] = number - 1
            uses[np.uint64(number)] += weight
            continue
        codes[np.uint64(row)] = found
        found += 1
        table[slot] = found
        first[np.uint64(found)], values[np.uint64(found)], uses[np.uint64(found)] = (
            row,
            word,
            weight,
        )
        if found == most:
            bits += 2 if bits < 16 else 1
            most = (1 << bits) >> (3 if bits < 17 else 2)
            shift, mask = np.uint64(64 - bits), np.uint64((1 << bits) - 1)
            table = np.zeros(1 << bits, np.int32)
            for number in range(1, found + 1):
                slot = _slot(values[np.uint64(number)], seed, shift)
                while table[slot] != 0:
                    slot = (slot + _ONE) & mask
                table[slot] = number
    return found


@njit
@no_type_check
def _hash(word):
    """`hashing.hash_text` of one word."""
    num_bytes = _EIGHT
    for byte in range(8):
        num_bytes -= np.uint64(word < _ONE << np.uint64(8 * byte))
    h = word ^ (num_bytes * _SPREAD)
    h = (h ^ (h >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    h = (h ^ (h >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return h ^ (h >> np.uint64(31))


@njit
@no_type_check
def _holds(word, eight):
    """Whether one of its bytes is the byte that ``eight`` repeats."""
    bits = word ^ eight
    return (bits - _ONES) & ~bits & _HIGH


@njit
@no_type_check
def _is_candidate(word):
    """Whether `_plain` may change it: it holds white space or a point, or is one of a few texts."""
    empty = (word - _ONES) & ~word & _HIGH  # the bytes behind the text
    blank = (word - _ABOVE_SPACES) & ~word & _HIGH & ~empty  # or another control character
    return (
        blank | _holds(word, _POINTS)
        or word == _MINUS_ZERO or word == _TRUE or word == _TRUE_LOUD or word == _FALSE or word == _FALSE_LOUD
    )  # fmt: skip


@njit
@no_type_check
def _is_blank(byte):
    return byte == _SPACE or _TAB <= byte <= _RETURN


@njit
@no_type_check
def _plain(word):
    """`values.plain` of one word."""
    while _is_blank(word & _LAST_BYTE):
        word >>= _EIGHT
    length = 0
    for byte in range(8):
        length += word >> np.uint64(8 * byte) != _NONE
    while length and _is_blank(word >> np.uint64(8 * (length - 1))):
        length -= 1
        word &= (_ONE << np.uint64(8 * length)) - _ONE
    point = length
    while point and (word >> np.uint64(8 * (point - 1))) & _LAST_BYTE == _ZERO:
        point -= 1
    first = 1 if word & _LAST_BYTE == _MINUS else 0
    digits = point - 1 - first  # in front of the point
    if (
        point < length
        and digits > 0
        and (word >> np.uint64(8 * (point - 1))) & _LAST_BYTE == _POINT
    ):
        whole = digits == 1 or (word >> np.uint64(8 * first)) & _LAST_BYTE != _ZERO
        for byte in range(first, point - 1):
            digit = (word >> np.uint64(8 * byte)) & _LAST_BYTE
            whole &= _ZERO <= digit <= _NINE
        if whole:
            word &= (_ONE << np.uint64(8 * (point - 1))) - _ONE
    if word == _MINUS_ZERO:
        return _ZERO
    if word == _TRUE or word == _TRUE_LOUD:
        return _TRUE_PLAIN
    if word == _FALSE or word == _FALSE_LOUD:
        return _FALSE_PLAIN
    return word


@compiled(WORDS)
@no_type_check
def any_candidate(words):
    """Whether `plain` may change one of them."""
    for row in range(len(words)):
        if _is_candidate(words[np.uint64(row)]):
            return True
    return False


@compiled(WORDS, types.uint64[::1])
@no_type_check
def plain(words, into):
    """`values.plain` of each word."""
    for row in range(len(words)):
        word = words[np.uint64(row)]
        into[np.uint64(row)] = _plain(word) if _is_candidate(word) else word


@compiled(WORDS, types.uint64[::1])
@no_type_check
def hashes(words, into):
    """The hash of each word."""
    for row in range(len(words)):
        word = words[np.uint64(row)]
        into[np.uint64(row)] = _hash(word) if word != _NONE else _NONE


@compiled(WORDS, types.uint64, types.int32, types.int32[::1])
@no_type_check
def buckets(words, num_buckets, add, into):
    """The bucket of each word and so much more; 0 for the empty text."""
    for row in range(len(words)):
        word = words[np.uint64(row)]
        bucket = np.int32(((_hash(word) >> _HALF) * num_buckets) >> _HALF) + add
        into[np.uint64(row)] = bucket if word != _NONE else np.int32(0)


@compiled(INTS, BYTES, types.uint64[::1])
@no_type_check
def from_text(offsets, data, words):
    """Words of texts that lie one behind the other; false where one has no word."""
    for i in range(len(words)):
        begin, end = offsets[i], offsets[i + 1]
        length = end - begin
        if length > 8:
            return False
        word, zeros = _NONE, False
        for byte in range(8 if length == 8 else length):
            found = np.uint64(data[np.uint64(begin + byte)])
            zeros |= found == _NONE
            word |= found << np.uint64(8 * byte)
        if zeros:
            return False
        words[np.uint64(i)] = word
    return True


@compiled(WORDS, types.int32[::1], types.uint8[::1])
@no_type_check
def to_text(words, offsets, data):
    """The inverse; returns the number of bytes."""
    size = 0
    offsets[0] = 0
    for i in range(len(words)):
        word = words[np.uint64(i)]
        if word >= _FULL:
            for byte in range(8):
                data[np.uint64(size + byte)] = (word >> np.uint64(8 * byte)) & _LAST_BYTE
            size += 8
        else:
            while word != _NONE:
                data[np.uint64(size)] = word & _LAST_BYTE
                word >>= _EIGHT
                size += 1
        offsets[np.uint64(i + 1)] = size
    return size
