"""Casts columns of Parquet and Arrow files to the few types that preparation handles."""

from typing import Any

import numpy as np

from autorank.data.format.column_types import TEXT, kind_of, reading_of


def read_as(column: Any, field: Any, role: str | None) -> Any:
    """Casts a column to text, numbers, bools, timestamps or dates, as its role requires (`column_types.READINGS`).

    Args:
        column: Arrow chunked array.
        field: the Arrow field of the column.
        role: if None, only dictionary, run-end and extension encodings are removed.

    Raises:
        pyarrow.ArrowException: values that the type does not allow, such as text that is not UTF-8.
    """
    import pyarrow as pa

    kind = kind_of(field)
    column = _decoded(column)
    if role is None:
        return column
    reading = reading_of(field, role)
    if kind == "bool8":
        return column.cast(pa.bool_())
    if kind == "text":
        column.validate(full=True)  # polars would crash on bytes that are not UTF-8
        return column
    if kind == "no type":
        return column.cast(pa.string() if reading == TEXT else pa.float64())
    if kind == "number" and pa.types.is_float16(column.type):
        return column.cast(pa.float32())
    if kind == "decimal":
        return _decimal(column, reading == TEXT)
    if reading != TEXT:
        return column
    if kind == "uuid":
        return pa.chunked_array([_uuids(chunk) for chunk in column.chunks], pa.string())
    return _timestamp_text(column)


def _timestamp_text(column: Any) -> Any:
    """Dates and times as ISO text; zoned ones in UTC.

    Trailing zeros of fractions are dropped, so that the same instant has the same text in every unit.
    """
    import pyarrow as pa

    pc = _kernels()
    kind = column.type
    zoned = pa.types.is_timestamp(kind) and kind.tz is not None
    if zoned:
        column = column.cast(pa.timestamp(kind.unit, "UTC")).cast(pa.int64())
        column = column.cast(pa.timestamp(kind.unit))
    text = column.cast(pa.string())
    text = pc.replace_substring_regex(text, r"\.0+$", "")
    text = pc.replace_substring_regex(text, r"(\.\d*[1-9])0+$", r"\1")
    return pc.binary_join_element_wise(text, "+00:00", "") if zoned else text


def _decoded(column: Any) -> Any:
    """Removes dictionary, run-end, extension and view encodings, however they are nested."""
    import pyarrow as pa

    chunks = [_decoded_chunk(chunk) for chunk in column.chunks]
    if not chunks:
        chunks = [_decoded_chunk(pa.array([], column.type))]
    return pa.chunked_array(chunks)


def _decoded_chunk(array: Any) -> Any:
    import pyarrow as pa

    kind = array.type
    if isinstance(kind, pa.BaseExtensionType):
        return _decoded_chunk(array.storage)
    if pa.types.is_dictionary(kind):
        return _decoded_chunk(array.dictionary).take(array.indices)
    if pa.types.is_run_end_encoded(kind):
        rows = np.arange(array.offset, array.offset + len(array))
        runs = np.searchsorted(array.run_ends.to_numpy(), rows, side="right")
        return _decoded_chunk(array.values).take(pa.array(runs))
    if pa.types.is_string(kind) or pa.types.is_string_view(kind):
        return array.cast(pa.large_string())  # 32-bit offsets overflow for long columns
    return array


def _decimal(column: Any, as_text: bool) -> Any:
    """Decimals as float64, or exactly as text: 12 for 12.00, like an integer column."""
    import pyarrow as pa

    pc = _kernels()
    if not as_text:
        return column.cast(pa.string()).cast(pa.float64())
    text = column.cast(pa.string())
    text = pc.replace_substring_regex(text, r"^(-?\d+)\.0*$", r"\1")
    return pc.replace_substring_regex(text, r"^(-?\d+\.\d*[1-9])0+$", r"\1")


def _uuids(storage: Any) -> Any:
    """UUIDs of 16 bytes each as text in the form 8-4-4-4-12 hexadecimal digits."""
    import pyarrow as pa

    num = len(storage)
    if storage.null_count == num:
        return pa.nulls(num, pa.string())
    content = np.frombuffer(storage.buffers()[1], np.uint8)
    content = content[16 * storage.offset : 16 * (storage.offset + num)].reshape(num, 16)
    digits = np.frombuffer(b"0123456789abcdef", np.uint8)
    spread = np.stack([digits[content >> 4], digits[content & 15]], -1).reshape(num, 32)
    dash = np.full((num, 1), ord("-"), np.uint8)
    cuts = np.split(spread, [8, 12, 16, 20], axis=1)
    text = np.concatenate([cuts[0], *(p for cut in cuts[1:] for p in (dash, cut))], axis=1)
    offsets = np.arange(0, 36 * num + 1, 36, dtype=np.int32)
    found = pa.StringArray.from_buffers(
        num, pa.py_buffer(offsets), pa.py_buffer(np.ascontiguousarray(text))
    )
    return _kernels().if_else(storage.is_valid(), found, pa.scalar(None, pa.string()))


def _kernels() -> Any:
    """`pyarrow.compute`, whose functions are defined at import time and therefore unknown to type checkers."""
    import pyarrow.compute

    return pyarrow.compute
