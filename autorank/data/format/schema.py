"""What a prepared data set is.

Fields, labels, split and provenance, as written in `schema.json`.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any, NamedTuple

FORMAT = 1
MISSING = 0  # offset + 0: the value is absent
UNKNOWN = 1  # offset + 1: absent from the training part, or seen there less than min_count times
NUM_RESERVED = 2


class Field(NamedTuple):
    """A categorical field: ids ``offset .. offset + size - 1`` of the stacked embedding table."""

    name: str
    size: int  # the two reserved ids included
    offset: int


class Schema(NamedTuple):
    """Content of `schema.json`.

    Rows are in the order of time; the first ``num_train`` are for training.
    """

    name: str
    fields: tuple[Field, ...]
    dense: tuple[str, ...]
    labels: tuple[str, ...]  # ("click",) or ("click", "conversion")
    num_rows: int
    num_train: int
    label_names: tuple[str, ...]  # the columns that the labels came from
    source: str
    licence: str
    sha256: dict[str, str]  # file name -> content hash
    notes: dict[str, Any]  # what preparing found: bad rows, unknown shares, bayes_ne, ...

    @property
    def num_ids(self) -> int:
        """Rows of the stacked embedding table."""
        return sum(field.size for field in self.fields)

    @property
    def unknown_ids(self) -> tuple[int, ...]:
        """The id of unknown values in each field, offset added. Training never changes their rows."""
        return tuple(field.offset + UNKNOWN for field in self.fields)

    def fingerprint(self) -> str:
        """sha256 of what training can see. Notes, source and licence do not change it."""
        seen = {key: value for key, value in to_json(self).items() if key not in _UNSEEN}
        return hashlib.sha256(json.dumps(seen, sort_keys=True).encode()).hexdigest()


_UNSEEN = ("notes", "source", "licence")


def to_json(schema: Schema) -> dict[str, Any]:
    """Plain dicts and lists; `from_json` gives the same schema back."""
    record = schema._asdict() | {"fields": [field._asdict() for field in schema.fields]}
    return {"format": FORMAT} | json.loads(json.dumps(record, allow_nan=False))


def from_json(record: Mapping[str, Any]) -> Schema:
    """The inverse of `to_json`.

    Raises:
        ValueError: missing or unknown keys, another format, values that contradict each other.
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
                f"{field.size}, expected "
                f"offset {offset} and size >= {NUM_RESERVED}"
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
            f"schema.json: num_train={schema.num_train} outside 1..num_rows={schema.num_rows}"
        )
