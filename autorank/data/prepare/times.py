"""Reads a time column, whether numbers, timestamps or text, as one number per row that sorts."""

from typing import Any

import numpy as np

from autorank.data.fast_text.short_strings import ShortStrings
from autorank.data.prepare.columns import as_series
from autorank.data.prepare.time_forms import (
    ACCEPTED,
    FRACTIONS,
    NAIVE,
    NUMBER,
    ZONED,
    TimeColumn,
    count_form,
    count_units,
)
from autorank.data.prepare.time_layouts import (
    BILLION,
    MAX_LENGTH,
    nanoseconds_since_1970,
    parse_times,
)

TILE = 1 << 16  # rows whose text is parsed at a time


def read_times(column: Any) -> TimeColumn:
    """Reads a time column: an Arrow array, `ShortStrings`, or anything that polars accepts.

    Raises:
        ValueError: a type that is not a time.
    """
    import pyarrow as pa

    array = _as_arrow(column)
    kind = array.type
    if pa.types.is_timestamp(kind):
        form = NAIVE if kind.tz is None else ZONED
        per_second = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[kind.unit]
        return _read_timestamps(array, per_second, form)
    if pa.types.is_date32(kind):
        return _read_timestamps(array.cast(pa.date64()), 1000, NAIVE)
    if pa.types.is_date64(kind):
        return _read_timestamps(array, 1000, NAIVE)
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return _read_text(array)
    if pa.types.is_null(kind):
        array = array.cast(pa.float64())
    elif pa.types.is_boolean(kind):
        array = array.cast(pa.int8())
    elif pa.types.is_decimal(kind) or pa.types.is_float16(kind):
        array = array.cast(pa.float64())
    elif not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        raise ValueError(f"values of type {kind} are not times; write {ACCEPTED}")
    known = array.is_valid().to_numpy(zero_copy_only=False)
    values = array.fill_null(0).to_numpy(zero_copy_only=False)
    return _read_numbers(values, known)


def _as_arrow(column: Any) -> Any:
    import pyarrow as pa

    if isinstance(column, ShortStrings):
        return column.to_arrow()
    if not isinstance(column, pa.Array):
        column = as_series(column).to_arrow()
    while pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    return column.cast(pa.large_string()) if pa.types.is_string_view(column.type) else column


def _read_timestamps(array: Any, per_second: int, form: str) -> TimeColumn:
    import pyarrow as pa

    known = array.is_valid().to_numpy(zero_copy_only=False)
    units = array.cast(pa.int64()).fill_null(0).to_numpy(zero_copy_only=False)
    seconds, rest = np.divmod(units, per_second)
    values = nanoseconds_since_1970(seconds, rest * (BILLION // per_second))
    return TimeColumn(values, known, count_form(form, known))


def _read_numbers(values: np.ndarray, known: np.ndarray) -> TimeColumn:
    """Whole numbers exactly, as int64; any others as float64."""
    if values.dtype.kind == "f":
        known = known & np.isfinite(values)
        values = np.where(known, values, 0).astype(np.float64, copy=False)
        if _fit_int64(values):
            values = values.astype(np.int64)
    elif values.dtype == np.uint64 and len(values) and values.max() >= 1 << 63:
        values = values.astype(np.float64)
    if values.dtype.kind != "f":
        values = values.astype(np.int64, copy=False)
    forms = count_form(NUMBER, known)
    if not forms:
        return TimeColumn(values, known, forms)
    if values.dtype.kind == "f":
        forms |= {FRACTIONS: forms[NUMBER]}
    return TimeColumn(values, known, forms | count_units(values, known))


def _fit_int64(numbers: np.ndarray) -> bool:
    return bool((numbers == np.trunc(numbers)).all() and (np.abs(numbers) < 2.0**63).all())


def _read_text(array: Any) -> TimeColumn:
    """Numbers written as text, and dates."""
    import polars as pl

    series = pl.Series(pl.from_arrow(array)).str.strip_chars()
    whole = series.cast(pl.Int64, strict=False)
    is_whole = whole.is_not_null().to_numpy()
    known, values = is_whole, whole.fill_null(0).to_numpy()
    if not is_whole.all():
        floats = series.filter(~is_whole).cast(pl.Float64, strict=False)
        floats = floats.fill_null(np.nan).to_numpy()
        if np.isfinite(floats).any():
            integers, values = values, values.astype(np.float64)
            values[~is_whole] = floats
            known = np.isfinite(values)
            # One whole number that is written as 1700000000.0 must not cost the others their last digits.
            rounded = np.where(known, values, 0)
            if _fit_int64(rounded):
                values = np.where(is_whole, integers, rounded.astype(np.int64))
    numbers = _read_numbers(values, known)
    if numbers.known.all():
        return numbers
    dates = _read_dates(array, np.flatnonzero(~numbers.known))
    if NUMBER in numbers.forms:  # a mixture is refused later, so its values do not matter
        known, forms = numbers.known | dates.known, numbers.forms | dates.forms
        return TimeColumn(numbers.values, known, forms)
    return dates


def _read_dates(array: Any, rows: np.ndarray) -> TimeColumn:
    """The dates among the given rows of an Arrow string array."""
    import pyarrow as pa

    values, known = np.zeros(len(array), np.int64), np.zeros(len(array), bool)
    _, offsets, data = array.buffers()
    if not len(rows) or data is None:
        return TimeColumn(values, known, {})
    width = np.int64 if pa.types.is_large_string(array.type) else np.int32
    starts = np.frombuffer(offsets, width)[array.offset :][: len(array) + 1].astype(np.int64)
    content = np.frombuffer(data, np.uint8)
    zoned = np.zeros(len(array), bool)
    lengths = np.diff(starts)[rows]
    if array.null_count:
        lengths[~array.is_valid().to_numpy(zero_copy_only=False)[rows]] = 0
    for length in np.unique(lengths):
        if not 0 < length <= MAX_LENGTH:
            continue
        windows = np.lib.stride_tricks.sliding_window_view(content, int(length))
        same = rows[lengths == length]
        for first in range(0, len(same), TILE):
            tile = same[first : first + TILE]
            values[tile], known[tile], zoned[tile] = parse_times(windows[starts[tile]])
    forms = count_form(NAIVE, known & ~zoned) | count_form(ZONED, known & zoned)
    return TimeColumn(values, known, forms)
