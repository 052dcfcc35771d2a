"""Reads and writes `encoders.json`, which lies in the folder of prepared data and in that of a model."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from autorank.data.prepare.encoders import DenseEncoder, Encoders, FieldEncoder

FILE = "encoders.json"
FORMAT = 3
# Values were compared as written; format 2 added hash buckets.
OLD_FORMATS = (1, 2)


def write_encoders(encoders: Encoders, folder: Path) -> None:
    """Writes `encoders.json`.

    Examples:
        >>> import tempfile
        >>> encoders = Encoders((FieldEncoder("user", 0, ("a", "b")),), (DenseEncoder("price", 0.5, 2.0),))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_encoders(encoders, Path(folder))
        ...     read_encoders(Path(folder)) == encoders
        True
    """
    assert encoders.canonical, "encoders of an older version are only read"
    fields: list[str] = []
    for field in encoders.fields:
        head = json.dumps({"name": field.name, "offset": field.offset}, ensure_ascii=False)[:-1]
        tail = f', "buckets": {field.buckets}}}' if field.buckets else "}"
        fields.append(f'{head}, "values": {_json_of(field.values)}{tail}')
    dense = [encoder._asdict() for encoder in encoders.dense]
    text = (
        f'{{"format": {FORMAT}, "fields": [{", ".join(fields)}], '
        f'"dense": {json.dumps(dense, allow_nan=False, ensure_ascii=False)}}}'
    )
    (folder / FILE).write_text(text, "utf-8")


def read_encoders(folder: Path) -> Encoders:
    """Reads `encoders.json`, also of older formats.

    Raises:
        FileNotFoundError: no such file.
        ValueError: an unsupported format.
    """
    path = folder / FILE
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is missing; give a prepared data set's or a model's folder"
        )
    record = json.loads(path.read_text("utf-8"))
    if record.get("format") not in (*OLD_FORMATS, FORMAT):
        raise ValueError(
            f"{path}: format {record.get('format')!r}, this version reads {FORMAT} and older ones; "
            "prepare the data, or train the model, with this version"
        )
    return Encoders(
        tuple(
            FieldEncoder(**field | {"values": tuple(field["values"])}) for field in record["fields"]
        ),
        tuple(DenseEncoder(**encoder) for encoder in record["dense"]),
        canonical=record["format"] == FORMAT,
    )


def _json_of(values: Sequence[str]) -> str:
    """`json.dumps` of texts; in one step if none needs an escape, as there may be millions."""
    joined = '", "'.join(values)
    content = np.frombuffer(joined.encode(), np.uint8)
    quotes = np.count_nonzero(content == ord('"'))
    if not values or "\\" in joined or quotes > 2 * len(values) - 2 or (content < 32).any():
        return json.dumps(values, ensure_ascii=False)
    return f'["{joined}"]'
