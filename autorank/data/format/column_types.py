"""Which type of a column of a Parquet or Arrow file can be read in which role, and how.

The table `READINGS` says it all: a reading for each kind of type and role, or why there is none. Types are checked
before any row is read.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from autorank.data.format.source import Columns

ROLES = ("click", "conversion", "time", "categorical", "dense")
# Extension types by the name that files carry, and the kind they are of. "storage": what they are stored as.
EXTENSIONS = {
    "arrow.uuid": "uuid",
    "arrow.json": "json",
    "arrow.bool8": "bool8",
    "google:sqlType:json": "json",
    "google:sqlType:datetime": "storage",
}
# Readings: as it is (text, numbers, bools, timestamps), as text, as float64. Any other text says what to write instead.
PLAIN, TEXT, NUMBER = "plain", "text", "number"
_LABEL = "a label is 0 or 1; write it as a bool or an integer"
_TIME = "a time is a timestamp, a date, a number or ISO text"
_DENSE = "a dense feature is a number"
_NONE = "it has no value at all"
_BYTES = "bytes are no text; cast it to text (a string column) where it is written"
_PARTS = "it holds more than one value a row; write the one that matters as a column of its own"
_STORAGE = "its meaning is not known here; write its values as text, a number or a timestamp"
_INTERVAL = "write it as a number of days or seconds"


def _row(click: Any, time: Any, categorical: Any, dense: Any) -> dict[str, Any]:
    """Both labels have one rule."""
    return {
        "click": click,
        "conversion": click,
        "time": time,
        "categorical": categorical,
        "dense": dense,
    }


def _never(why: str) -> dict[str, Any]:
    return dict.fromkeys(ROLES, why)


# kind of type -> role -> reading, or a sentence that says what to write instead.
READINGS: Mapping[str, Mapping[str, str]] = {
    "text": _row(PLAIN, PLAIN, PLAIN, PLAIN),
    "whole number": _row(PLAIN, PLAIN, PLAIN, PLAIN),
    "number": _row(PLAIN, PLAIN, PLAIN, PLAIN),
    "decimal": _row(NUMBER, TEXT, TEXT, NUMBER),
    "bool": _row(PLAIN, _TIME, PLAIN, PLAIN),
    "timestamp": _row(
        _LABEL, PLAIN, TEXT, f"{_DENSE}; write the hour, the age or what else matters as a number"
    ),
    "date": _row(
        _LABEL,
        PLAIN,
        TEXT,
        f"{_DENSE}; write the weekday, the age or what else matters as a number",
    ),
    "time of day": _row(
        _LABEL,
        f"{_TIME}; a time of day has no date",
        TEXT,
        f"{_DENSE}; write it as a number of seconds",
    ),
    "duration": _row(
        _LABEL,
        f"{_TIME}; a duration has no beginning: write it as a number",
        "write it as text or as a number of seconds",
        f"{_DENSE}; write it as a number of seconds",
    ),
    "interval": _never(_INTERVAL),
    "bytes": _never(_BYTES),
    "uuid": _row(_LABEL, _TIME, TEXT, _DENSE),
    "bool8": _row(PLAIN, _TIME, PLAIN, PLAIN),
    "json": _never(_PARTS),
    "no type": _row(f"{_NONE}; {_LABEL}", f"{_NONE}; {_TIME}", TEXT, NUMBER),
    "list": _never(_PARTS),
    "map": _never(_PARTS),
    "struct": _never(_PARTS),
    "union": _never(_PARTS),
    "extension": _never(_STORAGE),
}


def roles_of(columns: Columns) -> dict[str, str]:
    """The role of each column that is read."""
    found = dict.fromkeys(columns.categorical, "categorical")
    found |= dict.fromkeys(columns.dense, "dense")
    found |= zip(columns.labels, ("click", "conversion"), strict=False)
    return found if columns.time is None else found | {columns.time: "time"}


def kind_of(field: Any) -> str:
    """The kind of an Arrow field's type, a key of `READINGS`."""
    import pyarrow as pa
    import pyarrow.types as t

    kind = field.type
    name = (field.metadata or {}).get(b"ARROW:extension:name", b"").decode("utf-8", "replace")
    if isinstance(kind, pa.BaseExtensionType):
        name, storage = kind.extension_name, kind.storage_type
    else:
        storage = kind
    if name:
        known = EXTENSIONS.get(name, "extension")
        return known if known != "storage" else kind_of(pa.field(field.name, storage))
    if t.is_dictionary(kind) or t.is_run_end_encoded(kind):
        return kind_of(pa.field(field.name, kind.value_type))
    tests = {
        "text": (t.is_string, t.is_large_string, t.is_string_view),
        "whole number": (t.is_integer,),
        "number": (t.is_floating,),
        "decimal": (t.is_decimal,),
        "bool": (t.is_boolean,),
        "timestamp": (t.is_timestamp,),
        "date": (t.is_date,),
        "time of day": (t.is_time,),
        "duration": (t.is_duration,),
        "interval": (t.is_interval,),
        "bytes": (t.is_binary, t.is_large_binary, t.is_binary_view, t.is_fixed_size_binary),
        "no type": (t.is_null,),
        "map": (t.is_map,),
        "struct": (t.is_struct,),
        "union": (t.is_union,),
        "list": (
            t.is_list,
            t.is_large_list,
            t.is_fixed_size_list,
            t.is_list_view,
            t.is_large_list_view,
        ),
    }
    found = (name for name, checks in tests.items() if any(check(kind) for check in checks))
    return next(found, "extension")


def reading_of(field: Any, role: str) -> str | None:
    """How a column is read in a role; None where it cannot be."""
    found = READINGS[kind_of(field)][role]
    return found if found in (PLAIN, TEXT, NUMBER) else None


def require_types(file: Any, schema: Any, roles: Mapping[str, str]) -> None:
    """Refuses columns whose type does not fit their role, all of them in one message.

    Args:
        file: named in the message.
        schema: the Arrow schema; fields without a role are not looked at.

    Raises:
        ValueError: by column, type and role, with what to write instead.
    """
    wrong = []
    for name, role in roles.items():
        field = schema.field(name)
        if reading_of(field, role) is None:
            why = READINGS[kind_of(field)][role]
            if role in ("categorical", "dense"):
                why += ", or list it under drop"
            wrong.append(
                f"column {name!r} of type {describe(field)} cannot be read as {role}: {why}"
            )
    if wrong:
        raise ValueError(f"{file}: " + "; ".join(wrong))


def describe(field: Any) -> str:
    """An Arrow type in words, on one line and not for ever."""
    text = " ".join(str(field.type).split())
    name = (field.metadata or {}).get(b"ARROW:extension:name", b"").decode("utf-8", "replace")
    text = f"{name} ({text})" if name else text
    return text if len(text) <= 80 else f"{text[:77]}..."


def read_as(column: Any, field: Any, role: str | None) -> Any:
    """A column in the form that the rest of preparing knows: text, numbers, bools, timestamps or dates.

    Args:
        column: Arrow chunked array.
        role: None: as it is, but for what has a plainer form.

    Raises:
        pyarrow.ArrowException: values that the type does not allow, such as text that is no UTF-8.
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
        column.validate(full=True)  # bytes that are no UTF-8 would end polars
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
    return _moment_text(column)


def _moment_text(column: Any) -> Any:
    """Dates and times without zeros at their end, so that the unit makes no other value; zoned ones in UTC."""
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
    """Without dictionary, run ends, extension and views, however they are nested."""
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
        return array.cast(pa.large_string())  # 32 bits would not number the text of a long column
    return array


def _decimal(column: Any, as_text: bool) -> Any:
    """As float64, or exactly as text: 12 for 12.00, as an integer column would have it."""
    import pyarrow as pa

    pc = _kernels()
    if not as_text:
        return column.cast(pa.string()).cast(pa.float64())
    text = column.cast(pa.string())
    text = pc.replace_substring_regex(text, r"^(-?\d+)\.0*$", r"\1")
    return pc.replace_substring_regex(text, r"^(-?\d+\.\d*[1-9])0+$", r"\1")


def _uuids(storage: Any) -> Any:
    """Sixteen bytes each as 8-4-4-4-12 hexadecimal digits."""
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
    """Arrow's functions on columns, which are made when the module is imported: type checkers see none of them."""
    import pyarrow.compute

    return pyarrow.compute
