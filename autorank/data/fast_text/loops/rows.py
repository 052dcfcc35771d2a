"""Compiled loops that put the rows of the final matrices together."""

from typing import no_type_check

import numpy as np
from numba import types

from autorank.data.fast_text.compiled import INTS, compiled

_BLOCK = 128  # rows written together, in the nearest cache
_FLOATS = types.Array(types.float32, 1, "C", readonly=True)


@compiled(
    types.int32[:, ::1], types.int64, INTS, types.int64[::1], INTS, types.int32, types.boolean[::1],
    types.int64[:, ::1], types.int32[:, ::1],
)  # fmt: skip
@no_type_check
def look_up(codes, first, ids, places, offsets, unknown, train, num_unknown, into):
    """Codes of some rows, column by column, as ids with offsets, row by row.

    Args:
        codes: [f, rows of a part].
        first: of the rows.
        ids, places: as `arrange` lays them out.
        train: [b], which rows are for training.
        num_unknown: [2, f], grows by the rows with the id ``unknown``, in training and in the others.
        into: written, [b, f].
    """
    for begin in range(0, len(into), _BLOCK):
        end = min(begin + _BLOCK, len(into))
        for field in range(len(codes)):
            place, offset, column = places[field], offsets[field], np.uint64(field)
            in_train, num_all = 0, 0
            for row in range(begin, end):
                found = codes[column, np.uint64(first + row)]
                if place:
                    found = ids[np.uint64(place + found)]
                    is_unknown = np.int64(found == unknown)  # no branch: no two rows are alike
                    in_train += is_unknown & np.int64(train[np.uint64(row)])
                    num_all += is_unknown
                into[np.uint64(row), column] = found + offset
            num_unknown[0, field] += in_train
            num_unknown[1, field] += num_all - in_train


@compiled(types.float32[:, ::1], types.int64, _FLOATS, _FLOATS, types.float32[:, ::1])
@no_type_check
def standardise(numbers, first, means, stds, into):
    """`encoders.standardise` of some rows: [m, rows of a part] to [b, m]."""
    for begin in range(0, len(into), _BLOCK):
        end = min(begin + _BLOCK, len(into))
        for column in range(len(numbers)):
            mean, std = means[column], stds[column]
            for row in range(begin, end):
                found = (numbers[np.uint64(column), np.uint64(first + row)] - mean) / std
                into[np.uint64(row), np.uint64(column)] = (
                    np.float32(0) if np.isnan(found) else found
                )


@compiled(INTS, types.int32, _FLOATS, types.float32[::1], types.int32[::1])
@no_type_check
def look_up_numbers(values, empty, table, into, large):
    """What a table gives for integers: negative for negative ones, NaN for ``empty``.

    Args:
        into: written, [n].
        large: written, [n]: the rows that the table is too short for.

    Returns:
        How many these are.
    """
    found = 0
    for row in range(len(values)):
        value = values[np.uint64(row)]
        size = np.int64(value) if value >= 0 else -np.int64(value)
        is_small, is_empty = size < len(table), value == empty
        looked_up = table[np.uint64(size if is_small else 0)]
        looked_up = looked_up if value >= 0 else -looked_up
        into[np.uint64(row)] = np.float32(np.nan) if is_empty else looked_up
        large[np.uint64(found)] = row
        found += np.int64(not is_small) & np.int64(not is_empty)
    return found


@compiled(_FLOATS, types.float64[::1])
@no_type_check
def known(numbers, into):
    """Writes those that are not NaN; returns how many."""
    found = 0
    for row in range(len(numbers)):
        number = numbers[np.uint64(row)]
        into[np.uint64(found)] = number
        found += not np.isnan(number)
    return found
