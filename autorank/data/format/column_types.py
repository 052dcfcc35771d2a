"""Which types of Parquet and Arrow columns are accepted in which role, and how they are read.

The table `READINGS` is the whole specification: for each kind of type and each role, a reading or the reason why there
is none. Types are checked before any row is read.
"""

from collections.abc import Mapping
from typing import Any

from autorank.data.format.source import Columns

ROLES = ("click", "conversion", "time", "categorical", "dense")
# Arrow extension types by name, and their kind; "storage" stands for the kind of the storage type.
EXTENSIONS = {
    "arrow.uuid": "uuid",
    "arrow.json": "json",
    "arrow.bool8": "bool8",
    "google:sqlType:json": "json",
    "google:sqlType:datetime": "storage",
}
# Readings: unchanged (text, numbers, bools, timestamps), as text, or as float64. Any other string is advice to users.
PLAIN, TEXT, NUMBER = "plain", "text", "number"
_LABEL = "a label is 0 or 1; write it as a bool or an integer"
_TIME = "a time is a timestamp, a date, a number or ISO text"
_DENSE = "a dense feature is a number"
_NONE = "it has no values"
_BYTES = "bytes are not text; cast it to text (a string column) where it is written"
_PARTS = "it holds more than one value per row; write the one that matters as a column of its own"
_STORAGE = "this extension type is not supported; write its values as text, a number or a timestamp"
_INTERVAL = "write it as a number of days or seconds"


def _row(click: Any, time: Any, categorical: Any, dense: Any) -> dict[str, Any]:
    """The readings of one kind; both labels follow the same rule."""
    return {
        "click": click,
        "conversion": click,
        "time": time,
        "categorical": categorical,
        "dense": dense,
    }


def _never(why: str) -> dict[str, Any]:
    return dict.fromkeys(ROLES, why)


# Kind of type -> role -> reading, or advice on what to write instead.
READINGS: Mapping[str, Mapping[str, str]] = {
    "text": _row(PLAIN, PLAIN, PLAIN, PLAIN),
    "whole number": _row(PLAIN, PLAIN, PLAIN, PLAIN),
    "number": _row(PLAIN, PLAIN, PLAIN, PLAIN),
    "decimal": _row(NUMBER, TEXT, TEXT, NUMBER),
    "bool": _row(PLAIN, _TIME, PLAIN, PLAIN),
    "timestamp": _row(
        _LABEL, PLAIN, TEXT, f"{_DENSE}; write the hour, the age or another quantity as a number"
    ),
    "date": _row(
        _LABEL,
        PLAIN,
        TEXT,
        f"{_DENSE}; write the weekday, the age or another quantity as a number",
    ),
    "time of day": _row(
        _LABEL,
        f"{_TIME}; a time of day has no date",
        TEXT,
        f"{_DENSE}; write it as a number of seconds",
    ),
    "duration": _row(
        _LABEL,
        f"{_TIME}; a duration has no origin: write it as a number",
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
    """The role of each column that is read.

    Examples:
        >>> roles_of(Columns(("user",), ("price",), click="clicked", time="ts"))
        {'user': 'categorical', 'price': 'dense', 'clicked': 'click', 'ts': 'time'}
    """
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
    """How a column is read in a role; None if it cannot be."""
    found = READINGS[kind_of(field)][role]
    return found if found in (PLAIN, TEXT, NUMBER) else None


def require_types(file: Any, schema: Any, roles: Mapping[str, str]) -> None:
    """Rejects columns whose type does not fit their role, all in one message.

    Args:
        file: named in the message.
        schema: the Arrow schema.
        roles: the role of each column to check; other columns are ignored.

    Raises:
        ValueError: names each column, its type and its role, with advice.
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
    """A short, one-line description of an Arrow field's type."""
    text = " ".join(str(field.type).split())
    name = (field.metadata or {}).get(b"ARROW:extension:name", b"").decode("utf-8", "replace")
    text = f"{name} ({text})" if name else text
    return text if len(text) <= 80 else f"{text[:77]}..."
