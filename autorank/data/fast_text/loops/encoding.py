"""Compiled loops that encode rows of the final matrices."""

from typing import no_type_check

import numpy as np
from numba import types

from autorank.data.fast_text.compiled import INT32S, compiled

_BLOCK = 128  # rows written together, to stay in the L1 cache
_FLOATS = types.Array(types.float32, 1, "C", readonly=True)


@compiled(
    types.int32[:, ::1],
    types.int64,
    INT32S,
    types.int64[::1],
    INT32S,
    types.int32,
    types.boolean[::1],
    types.int64[:, ::1],
    types.int32[:, ::1],
)
@no_type_check
def encode_codes(codes, first, ids, starts, offsets, unknown, train, num_unknown, into):
    """Encodes a range of rows: codes, stored by column, become ids with offsets, stored by row.

    Args:
        codes: [f, rows of the staged part].
        first: first row of the range.
        ids, starts: `matrices.IdTables`.
        offsets: [f], first id of each field.
        unknown: the id (without offset) of unknown values.
        train: [b], which rows are for training.
        num_unknown: [2, f], incremented by the training and the other rows with the id ``unknown``.
        into: output, [b, f].
    """
    for begin in range(0, len(into), _BLOCK):
        end = min(begin + _BLOCK, len(into))
        for field in range(len(codes)):
            start, offset, column = starts[field], offsets[field], np.uint64(field)
            in_train, num_all = 0, 0
            for row in range(begin, end):
                found = codes[column, np.uint64(first + row)]
                if start:
                    found = ids[np.uint64(start + found)]
                    # Counted without a branch, which would be hard to predict.
                    is_unknown = np.int64(found == unknown)
                    in_train += is_unknown & np.int64(train[np.uint64(row)])
                    num_all += is_unknown
                into[np.uint64(row), column] = found + offset
            num_unknown[0, field] += in_train
            num_unknown[1, field] += num_all - in_train


@compiled(types.float32[:, ::1], types.int64, _FLOATS, _FLOATS, types.float32[:, ::1])
@no_type_check
def standardise(numbers, first, means, stds, into):
    """`encoders.standardise` of a range of rows: [m, rows of the staged part] to [b, m]."""
    for begin in range(0, len(into), _BLOCK):
        end = min(begin + _BLOCK, len(into))
        for column in range(len(numbers)):
            mean, std = means[column], stds[column]
            for row in range(begin, end):
                found = (numbers[np.uint64(column), np.uint64(first + row)] - mean) / std
                known = np.float32(0) if np.isnan(found) else found
                into[np.uint64(row), np.uint64(column)] = known


@compiled(INT32S, types.int32, _FLOATS, types.float32[::1], types.int32[::1])
@no_type_check
def look_up_integers(values, empty, table, into, large):
    """Looks integers up in a table of an odd function: negative integers give negative values, ``empty`` gives NaN.

    Args:
        values: [n], the integers.
        empty: the integer that marks an empty cell.
        table: value of the function for 0, 1, 2, ...
        into: output, [n].
        large: output, [n]: the rows whose integer is outside the table.

    Returns:
        The number of these rows.
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
def drop_nan(numbers, into):
    """Writes the numbers that are not NaN; returns how many."""
    found = 0
    for row in range(len(numbers)):
        number = numbers[np.uint64(row)]
        into[np.uint64(found)] = number
        found += not np.isnan(number)
    return found
