"""The schema of a prepared data set, stored as `schema.json`: fields, labels, split and provenance."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any, NamedTuple

FORMAT = 1
# Reserved ids of every field, relative to its offset.
MISSING = 0  # the cell is empty
UNKNOWN = 1  # the value occurs fewer than min_count times in the training rows, or never
NUM_RESERVED = 2


class Field(NamedTuple):
    """A categorical field: ids ``offset .. offset + size - 1`` of the stacked embedding table.

    ``size`` includes the two reserved ids.
    """

    name: str
    size: int
    offset: int


class Schema(NamedTuple):
    """Contents of `schema.json`.

    Rows are in time order; the first ``num_train`` are for training.

    Attributes:
        labels: ``("click",)`` or ``("click", "conversion")``.
        label_names: the columns of the log that the labels come from.
        sha256: file name to content hash.
        notes: what preparation found: bad rows, shares of unknown ids, ``bayes_ne``, ...

    Examples:
        >>> schema = Schema(
        ...     name="toy", fields=(Field("user", 5, 0), Field("item", 7, 5)), dense=(), labels=("click",),
        ...     num_rows=3, num_train=2, label_names=("clicked",), source="docs", licence="public domain",
        ...     sha256={}, notes={},
        ... )
        >>> schema.num_ids, schema.unknown_ids
        (12, (1, 6))
        >>> from_json(to_json(schema)) == schema
        True
    """

    name: str
    fields: tuple[Field, ...]
    dense: tuple[str, ...]
    labels: tuple[str, ...]
    num_rows: int
    num_train: int
    label_names: tuple[str, ...]
    source: str
    licence: str
    sha256: dict[str, str]
    notes: dict[str, Any]

    @property
    def num_ids(self) -> int:
        """Number of rows of the stacked embedding table."""
        return sum(field.size for field in self.fields)

    @property
    def unknown_ids(self) -> tuple[int, ...]:
        """The id of unknown values in each field, offset added.

        Training never updates their embedding rows.
        """
        return tuple(field.offset + UNKNOWN for field in self.fields)

    def fingerprint(self) -> str:
        """SHA-256 of everything that training can see; notes, source and licence do not affect it."""
        seen = {key: value for key, value in to_json(self).items() if key not in _NOT_HASHED}
        return hashlib.sha256(json.dumps(seen, sort_keys=True).encode()).hexdigest()


_NOT_HASHED = ("notes", "source", "licence")


def to_json(schema: Schema) -> dict[str, Any]:
    """The schema as plain dicts and lists; `from_json` is the inverse."""
    record = schema._asdict() | {"fields": [field._asdict() for field in schema.fields]}
    return {"format": FORMAT} | json.loads(json.dumps(record, allow_nan=False))


def from_json(record: Mapping[str, Any]) -> Schema:
    """The inverse of `to_json`.

    Raises:
        ValueError: missing or unknown keys, an unsupported format, or values that contradict each other.
    """
    if record.get("format") != FORMAT:
        raise ValueError(
            f"schema.json has format {record.get('format')!r}, this version reads {FORMAT}; "
            "prepare the data again"
        )
    given = {key: value for key, value in record.items() if key != "format"}
    _require_keys("schema.json", given, Schema._fields)
    for field in given["fields"]:
        _require_keys("schema.json: fields", field, Field._fields)
    schema = Schema(
        name=record["name"],
        fields=tuple(Field(**field) for field in record["fields"]),
        dense=tuple(record["dense"]),
        labels=tuple(record["labels"]),
        num_rows=record["num_rows"],
        num_train=record["num_train"],
        label_names=tuple(record["label_names"]),
        source=record["source"],
        licence=record["licence"],
        sha256=dict(record["sha256"]),
        notes=dict(record["notes"]),
    )
    _validate(schema)
    return schema


def _require_keys(where: str, given: Mapping[str, Any], wanted: tuple[str, ...]) -> None:
    unknown, missing = sorted(set(given) - set(wanted)), sorted(set(wanted) - set(given))
    if unknown or missing:
        raise ValueError(
            f"{where}: unknown keys {unknown}, missing keys {missing}; prepare the data again"
        )


def _validate(schema: Schema) -> None:
    offset = 0
    for field in schema.fields:
        if field.offset != offset or field.size < NUM_RESERVED:
            raise ValueError(
                f"schema.json: field {field.name} has offset {field.offset} and size "
                f"{field.size}, expected offset {offset} and size >= {NUM_RESERVED}"
            )
        offset += field.size
    if schema.labels not in (("click",), ("click", "conversion")):
        raise ValueError(
            f"schema.json: labels {schema.labels} must be click, or click and conversion"
        )
    if len(schema.label_names) != len(schema.labels):
        raise ValueError(
            f"schema.json: label_names {schema.label_names} do not match labels {schema.labels}"
        )
    if not 0 < schema.num_train <= schema.num_rows:
        raise ValueError(
            f"schema.json: num_train={schema.num_train} is outside 1..num_rows={schema.num_rows}"
        )
