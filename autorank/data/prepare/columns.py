"""Conversions of raw columns: to text, to numbers, and to distinct values.

A raw column is a NumPy array, list, polars series or Arrow array, or a column of the compiled parser (`ShortStrings`,
`IntegerColumn`).
"""

from typing import Any

import numpy as np

from autorank.data.fast_text.cell_parser import EMPTY, IntegerColumn
from autorank.data.fast_text.short_strings import (
    ShortStrings,
    canonical_packed,
    distinct_short_strings,
)
from autorank.data.format.canonical_text import canonical_texts, digits_lost, texts_of_floats


def as_series(column: Any) -> Any:
    """A column as a polars series."""
    import polars as pl
    import pyarrow as pa

    if isinstance(column, ShortStrings):
        column = column.to_arrow()
    if isinstance(column, (pa.Array, pa.ChunkedArray)):
        return pl.Series(pl.from_arrow(column))
    return column if isinstance(column, pl.Series) else pl.Series(column, strict=False)


def as_text(column: Any) -> Any:
    """A column as an Arrow string array, with floats in canonical form; empty for null and NaN."""
    import pyarrow as pa

    if isinstance(column, ShortStrings):
        return column.to_arrow()
    if isinstance(column, pa.StringArray):
        text = column
    else:
        series = as_series(column)
        if series.dtype.is_float():
            return texts_of_floats(series.fill_null(np.nan).to_numpy())
        text = pa.array(series.cast(str).to_arrow()).cast(pa.string())
    return text.fill_null("") if text.null_count else text


def as_written(column: Any) -> Any:
    """A column as models of older versions read it: floats keep their fraction, 7.0 is not 7."""
    if isinstance(column, ShortStrings) or (
        isinstance(column, np.ndarray) and column.dtype.kind in "iu"
    ):
        return column
    series = as_series(column)
    return series.fill_nan(None).cast(str) if series.dtype.is_float() else series


def distinct_values(column: Any, *, canonical: bool = True) -> tuple[np.ndarray, Any]:
    """The distinct values of a column as text, and the code of each row.

    Args:
        column: a raw column.
        canonical: whether values with the same canonical text are one value.

    Returns:
        Codes int32 [n], -1 for missing values (null, NaN or empty); and the values as an Arrow string array, or as
        `ShortStrings` if the column is one. NumPy integers are in ascending order, all else by first appearance.
    """
    if isinstance(column, ShortStrings):
        packed = canonical_packed(column.packed) if canonical else column.packed
        found = distinct_short_strings(packed)
        return found.codes, found.values
    import pyarrow as pa

    if isinstance(column, np.ndarray) and column.dtype.kind in "iu":
        found, codes = np.unique(column, return_inverse=True)
        return codes.astype(np.int32), pa.array(found).cast(pa.string())
    coded = as_text(column).dictionary_encode()
    codes = coded.indices.to_numpy(zero_copy_only=False).astype(np.int32, copy=False)
    values = coded.dictionary
    # The canonical form is computed once per distinct value; values that become equal are merged into the first one.
    changed = canonical_texts(values) if canonical else values
    if changed is not values:
        merged = changed.dictionary_encode()
        codes = merged.indices.to_numpy(zero_copy_only=False).astype(np.int32, copy=False)[codes]
        values = merged.dictionary
    empty = values.index("").as_py()
    if empty >= 0:
        codes = np.where(codes == empty, np.int32(-1), codes)
    return codes, values


def to_numbers(column: Any) -> tuple[np.ndarray, np.ndarray]:
    """A column as numbers.

    Returns:
        Values float64 [n], NaN where missing or malformed; and malformed bool [n], true for text that is not a finite
        number.

    Examples:
        >>> values, malformed = to_numbers(np.array([1.5, np.nan, np.inf]))
        >>> values.tolist(), malformed.tolist()
        ([1.5, nan, nan], [False, False, True])
    """
    if isinstance(column, IntegerColumn):
        numbers, malformed = column.values.astype(np.float64), np.zeros(len(column), bool)
        numbers[column.values == EMPTY] = np.nan
        if column.other_text:
            rows = list(column.other_text)
            numbers[rows], malformed[rows] = to_numbers(list(column.other_text.values()))
        return numbers, malformed
    if isinstance(column, np.ndarray) and column.dtype.kind in "biuf":
        numbers = column.astype(np.float64)
        malformed = np.isinf(numbers)
    else:
        import polars as pl

        series = as_series(column)
        if series.dtype == pl.String:
            series = series.str.strip_chars()
            given = ((series != "") & series.is_not_null()).fill_null(False).to_numpy()
        else:
            given = series.is_not_null().to_numpy()
        parsed = series.cast(pl.Float64, strict=False)
        malformed = given & (parsed.is_null() | parsed.is_infinite()).fill_null(True).to_numpy()
        numbers = parsed.fill_null(np.nan).to_numpy().copy()
    numbers[malformed] = np.nan
    return numbers, malformed


def inexact_identifiers(column: Any) -> np.ndarray:
    """Rows of a column whose identifier is a float that may have lost digits (`canonical_text.digits_lost`)."""
    none = np.zeros(0, np.int64)
    if isinstance(column, (ShortStrings, IntegerColumn)):
        return none
    if not isinstance(column, np.ndarray):
        series = as_series(column)
        if not series.dtype.is_float():
            return none
        column = series.to_numpy()
    return np.flatnonzero(digits_lost(column)) if column.dtype.kind == "f" else none


def inexact_identifiers_warning(name: str, count: int) -> str:
    """The warning about identifiers that are stored as floats."""
    return (
        f"column {name}: {count:,} values are floats too large to hold every whole number, so that "
        "different identifiers may have become one; write the column as integers or text"
    )


def item(column: Any, row: int) -> Any:
    """A cell as a Python object, for messages."""
    value = column[row]
    if hasattr(value, "as_py"):
        return value.as_py()
    return value.item() if isinstance(value, np.generic) else value
