"""Compiled loops over packed strings (`fast_text.short_strings`): distinct values, canonical forms, hashes and text.

In this module a "word" is one packed string.
"""

from typing import no_type_check

import numpy as np
from numba import njit, types

from autorank.data.fast_text.compiled import BYTES, INT32S, UINT64S, compiled

_NONE, _ONE, _EIGHT, _HALF = np.uint64(0), np.uint64(1), np.uint64(8), np.uint64(32)
_SPREAD = np.uint64(0x9E3779B97F4A7C15)
_EIGHT_BYTES = np.uint64(1 << 56)  # the smallest word of eight bytes
_LAST_BYTE = np.uint64(0xFF)
_SPACE, _POINT, _MINUS, _ZERO, _NINE = (np.uint64(ord(byte)) for byte in " .-09")
_ONES, _HIGH = np.uint64(0x0101010101010101), np.uint64(0x8080808080808080)
_TAB, _RETURN = np.uint64(ord("\t")), np.uint64(ord("\r"))
_POINTS, _ABOVE_SPACES = _ONES * _POINT, _ONES * (_SPACE + _ONE)
_MINUS_ZERO, _TRUE, _TRUE_UPPER, _TRUE_LOWER, _FALSE, _FALSE_UPPER, _FALSE_LOWER = (
    np.uint64(int.from_bytes(text, "little"))
    for text in (b"-0", b"True", b"TRUE", b"true", b"False", b"FALSE", b"false")
)


@compiled(BYTES, types.uint8)
@no_type_check
def count(content, byte):
    """The number of occurrences of a byte."""
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
    UINT64S,
    INT32S,
    types.uint64,
    types.int32[::1],
    types.int32[::1],
    types.uint64[::1],
    types.int64[::1],
)
@no_type_check
def distinct(words, weights, seed, codes, first_row, values, counts):
    """Numbers words from 1 on, in order of first appearance.

    Args:
        words: [n], 0 for the empty string, which gets no number.
        weights: [n], or empty for a weight of 1 each.
        seed: decides which words collide in the table, and nothing else.
        codes: output, [n], from 0 on; -1 for the empty string.
        first_row, values, counts: outputs, [n + 1], from index 1 on: the first row of each distinct word, the word, and
            the sum of its weights.

    Returns:
        The number of distinct words.
    """
    bits = 10
    while 2 * len(weights) >> bits:  # weighted words were counted before: most are distinct
        bits += 1
    most = (1 << bits) >> 3
    shift, mask = np.uint64(64 - bits), np.uint64((1 << bits) - 1)
    # A hash table with open addressing: numbers of words, 0 for a free slot. Small entries and a low load keep random
    # reads cheap.
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
            counts[np.uint64(number)] += weight
            continue
        codes[np.uint64(row)] = found
        found += 1
        table[slot] = found
        first_row[np.uint64(found)], values[np.uint64(found)] = row, word
        counts[np.uint64(found)] = weight
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
    """`prepare.hashing.hash_text` of one word."""
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
    """Nonzero if a byte of the word equals the byte that ``eight`` repeats."""
    bits = word ^ eight
    return (bits - _ONES) & ~bits & _HIGH


@njit
@no_type_check
def _is_candidate(word):
    """Whether `_canonical` may change the word: it contains white space or a point, or is one of a few texts."""
    empty = (word - _ONES) & ~word & _HIGH  # the unused bytes after the text
    blank = (word - _ABOVE_SPACES) & ~word & _HIGH & ~empty  # or any other control character
    return (
        blank | _holds(word, _POINTS)
        or word == _MINUS_ZERO
        or word == _TRUE
        or word == _TRUE_UPPER
        or word == _FALSE
        or word == _FALSE_UPPER
    )


@njit
@no_type_check
def _is_blank(byte):
    return byte == _SPACE or _TAB <= byte <= _RETURN


@njit
@no_type_check
def _canonical(word):
    """`canonical_text.canonical` of one word."""
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
    digits = point - 1 - first  # before the point
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
    if word == _TRUE or word == _TRUE_UPPER:
        return _TRUE_LOWER
    if word == _FALSE or word == _FALSE_UPPER:
        return _FALSE_LOWER
    return word


@compiled(UINT64S)
@no_type_check
def any_candidate(words):
    """Whether `canonical` may change any of the words."""
    for row in range(len(words)):
        if _is_candidate(words[np.uint64(row)]):
            return True
    return False


@compiled(UINT64S, types.uint64[::1])
@no_type_check
def canonical(words, into):
    """`canonical_text.canonical` of each word."""
    for row in range(len(words)):
        word = words[np.uint64(row)]
        into[np.uint64(row)] = _canonical(word) if _is_candidate(word) else word


@compiled(UINT64S, types.uint64[::1])
@no_type_check
def hashes(words, into):
    """The hash of each word; 0 for the empty string."""
    for row in range(len(words)):
        word = words[np.uint64(row)]
        into[np.uint64(row)] = _hash(word) if word != _NONE else _NONE


@compiled(UINT64S, types.uint64, types.int32, types.int32[::1])
@no_type_check
def buckets(words, num_buckets, first, into):
    """The bucket of each word plus ``first``; 0 for the empty string."""
    for row in range(len(words)):
        word = words[np.uint64(row)]
        bucket = np.int32(((_hash(word) >> _HALF) * num_buckets) >> _HALF) + first
        into[np.uint64(row)] = bucket if word != _NONE else np.int32(0)


@compiled(INT32S, BYTES, types.uint64[::1])
@no_type_check
def from_text(offsets, data, words):
    """Packs concatenated strings; returns False if one of them cannot be packed."""
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


@compiled(UINT64S, types.int32[::1], types.uint8[::1])
@no_type_check
def to_text(words, offsets, data):
    """The inverse of `from_text`; returns the number of bytes."""
    size = 0
    offsets[0] = 0
    for i in range(len(words)):
        word = words[np.uint64(i)]
        if word >= _EIGHT_BYTES:
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
