"""How raw columns become ids and standardised numbers; learned on the training part, kept with
model and data.

Categorical values are compared as plain text (`values`): the integer 3, the float 3.0 and the texts "3" and "3.0" are
one value. Dense values pass ``sign(x) log(1 + |x|)`` and are then standardised; a missing one becomes 0, the training
mean.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from autorank.data.fast_text.short_cells import EMPTY, Numbers
from autorank.data.fast_text.words import Words, distinct_words, plain_words
from autorank.data.format.schema import MISSING, NUM_RESERVED, UNKNOWN, Field
from autorank.data.format.values import digits_lost, plain_texts, texts_of_floats
from autorank.data.prepare.hashing import buckets_of, ids_of_words

FORMAT = 3
OLD_FORMATS = (1, 2)  # values compared as they were written; 2: with buckets
FILE = "encoders.json"


class FieldEncoder(NamedTuple):
    """``values[i]`` has the id ``offset + 2 + i``; most frequent in training first.

    With ``buckets`` a value has the id ``offset + 2 +`` its hash's bucket (`hashing`), seen or not.
    """

    name: str
    offset: int
    values: tuple[str, ...] = ()
    buckets: int = 0  # 0: by vocabulary

    @property
    def size(self) -> int:
        """Ids of the field, the reserved ones included."""
        return NUM_RESERVED + (self.buckets or len(self.values))


class DenseEncoder(NamedTuple):
    """Mean and standard deviation of the training part's known values, after the logarithm."""

    name: str
    mean: float
    std: float


class Encoders(NamedTuple):
    """Content of `encoders.json`, in the order of the arrays' columns."""

    fields: tuple[FieldEncoder, ...]
    dense: tuple[DenseEncoder, ...]
    plain: bool = True  # False, of an older version: 3 and 3.0 are two values


def encode(encoders: Encoders, columns: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Raw columns (arrays, lists, polars series, Arrow arrays; more than needed is fine) to arrays for a model.

    Returns:
        sparse int32 [n, f] with offsets added; dense float32 [n, m].

    Raises:
        ValueError: an absent column, columns of different lengths, or text where a number belongs.
    """
    sparse, dense, reasons = encode_rows(encoders, columns)
    for row in sorted(reasons):
        name, reason = reasons[row]
        raise ValueError(f"column {name}, row {row}: {reason}")
    return sparse, dense


def encode_rows(
    encoders: Encoders, columns: Mapping[str, Any]
) -> tuple[np.ndarray, np.ndarray, dict[int, tuple[str, str]]]:
    """`encode`, with the column and the reason of each row that preparing would leave out.

    Raises:
        ValueError: an absent column, or columns of different lengths.
    """
    names = [encoder.name for encoder in (*encoders.fields, *encoders.dense)]
    absent = [name for name in names if name not in columns]
    if absent:
        raise ValueError(f"columns {absent} are missing; the model reads {names}")
    lengths = {name: len(columns[name]) for name in names}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"columns differ in length: {lengths}")
    num_rows = next(iter(lengths.values()), 0)
    sparse = np.empty((num_rows, len(encoders.fields)), np.int32)
    for j, field in enumerate(encoders.fields):
        column = columns[field.name]
        if not encoders.plain:
            column = as_written(column)
        if field.buckets:
            sparse[:, j] = field.offset + hashed_ids(column, field.buckets, plain=encoders.plain)
            continue
        codes, values = distinct_text(column, plain=encoders.plain)
        sparse[:, j] = field.offset + ids_of(values.to_pylist(), field.values)[codes]
    dense = np.empty((num_rows, len(encoders.dense)), np.float32)
    reasons: dict[int, tuple[str, str]] = {}
    for j, encoder in enumerate(encoders.dense):
        numbers, malformed = to_numbers(columns[encoder.name])
        for row in np.flatnonzero(malformed).tolist():
            found = item(columns[encoder.name], row)
            reasons.setdefault(row, (encoder.name, f"{found!r} is not a number"))
        # As float32 from the logarithm on, which is how prepared rows are kept.
        logs = signed_log(numbers).astype(np.float32)
        dense[:, j] = standardise(logs, np.float32(encoder.mean), np.float32(encoder.std))
    return sparse, dense, reasons


def ids_of(values: Iterable[str], vocabulary: Iterable[str]) -> np.ndarray:
    """Ids (offset not added) of distinct values, int32.

    One more at the end for the code -1, missing.
    """
    known = {value: NUM_RESERVED + i for i, value in enumerate(vocabulary)}
    return np.array([*(known.get(value, UNKNOWN) for value in values), MISSING], np.int32)


def hashed_ids(column: Any, buckets: int, *, plain: bool = True) -> np.ndarray:
    """Ids (offset not added) by hash, int32 [n]."""
    if isinstance(column, Words):
        words = plain_words(column.words) if plain else column.words
        return ids_of_words(Words(words), buckets, NUM_RESERVED)  # `MISSING` is 0
    codes, values = distinct_text(column, plain=plain)
    ids = np.append(NUM_RESERVED + buckets_of(values, buckets), np.int32(MISSING))
    return ids[codes].astype(np.int32, copy=False)


def distinct(column: Any) -> tuple[np.ndarray, list[str]]:
    """Codes int32 [n] into the distinct values as text, -1 where missing (null, NaN or empty)."""
    codes, values = distinct_text(column)
    return codes, values.to_pylist()


def distinct_text(column: Any, *, plain: bool = True) -> tuple[np.ndarray, Any]:
    """`distinct` with the values as an Arrow string array, or as `Words` where the column is.

    Integers in NumPy come in the order of their size, all else in that of first appearance.
    """
    if isinstance(column, Words):
        found = distinct_words(plain_words(column.words) if plain else column.words)
        return found.codes, found.values
    import pyarrow as pa

    if isinstance(column, np.ndarray) and column.dtype.kind in "iu":
        found, codes = np.unique(column, return_inverse=True)
        return codes.astype(np.int32), pa.array(found).cast(pa.string())
    coded = as_text(column).dictionary_encode()
    codes = coded.indices.to_numpy(zero_copy_only=False).astype(np.int32, copy=False)
    values = coded.dictionary
    # Once for each value, not for each row; those that are the same then are merged into the first of them.
    changed = plain_texts(values) if plain else values
    if changed is not values:
        merged = changed.dictionary_encode()
        codes = merged.indices.to_numpy(zero_copy_only=False).astype(np.int32, copy=False)[codes]
        values = merged.dictionary
    empty = values.index("").as_py()
    if empty >= 0:
        codes = np.where(codes == empty, np.int32(-1), codes)
    return codes, values


def as_text(column: Any) -> Any:
    """A column as an Arrow string array, floats as `values` has them; empty where null or NaN."""
    import pyarrow as pa

    if isinstance(column, Words):
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
    """A column as models of older versions read it: floats keep their fraction."""
    if isinstance(column, Words) or (isinstance(column, np.ndarray) and column.dtype.kind in "iu"):
        return column
    series = as_series(column)
    return series.fill_nan(None).cast(str) if series.dtype.is_float() else series


def long_floats(column: Any) -> np.ndarray:
    """Rows whose identifier, a float, may have lost digits (`values.digits_lost`)."""
    if isinstance(column, (Words, Numbers)):
        return np.zeros(0, np.int64)
    if not isinstance(column, np.ndarray):
        series = as_series(column)
        if not series.dtype.is_float():
            return np.zeros(0, np.int64)
        column = series.to_numpy()
    return (
        np.flatnonzero(digits_lost(column)) if column.dtype.kind == "f" else np.zeros(0, np.int64)
    )


def item(column: Any, row: int) -> Any:
    """A cell as Python has it, for messages."""
    value = column[row]
    if hasattr(value, "as_py"):
        return value.as_py()
    return value.item() if isinstance(value, np.generic) else value


def to_numbers(column: Any) -> tuple[np.ndarray, np.ndarray]:
    """Values float64 [n], NaN where missing or malformed.

    Malformed bool [n]: text that is no finite number.
    """
    if isinstance(column, Numbers):
        numbers, malformed = column.values.astype(np.float64), np.zeros(len(column), bool)
        numbers[column.values == EMPTY] = np.nan
        if column.odd:
            rows = list(column.odd)
            numbers[rows], malformed[rows] = to_numbers(list(column.odd.values()))
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


def signed_log(numbers: np.ndarray) -> np.ndarray:
    """``sign(x) log(1 + |x|)``, any shape; NaN stays."""
    sizes = np.fmax(np.abs(numbers), 0)  # a NaN would leave the vectorised logarithm
    np.log1p(sizes, out=sizes)
    np.copysign(sizes, numbers, out=sizes)
    sizes += numbers - numbers  # NaN again
    return sizes


def standardise(numbers: np.ndarray, mean: Any, std: Any) -> np.ndarray:
    """``(x - mean) / std`` as float32; NaN becomes 0."""
    found = ((numbers - mean) / std).astype(np.float32, copy=False)
    return np.where(np.isnan(found), np.float32(0), found)


def fields_of(encoders: Encoders) -> tuple[Field, ...]:
    """The schema's fields."""
    return tuple(Field(e.name, e.size, e.offset) for e in encoders.fields)


def write_encoders(encoders: Encoders, folder: Path) -> None:
    """Writes `encoders.json`."""
    assert encoders.plain, "encoders of an older version are only read"
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


def _json_of(values: Sequence[str]) -> str:
    """`json.dumps` of texts; at once where none needs an escape, as there may be millions."""
    joined = '", "'.join(values)
    content = np.frombuffer(joined.encode(), np.uint8)
    quotes = np.count_nonzero(content == ord('"'))
    if not values or "\\" in joined or quotes > 2 * len(values) - 2 or (content < 32).any():
        return json.dumps(values, ensure_ascii=False)
    return f'["{joined}"]'


def read_encoders(folder: Path) -> Encoders:
    """The inverse.

    Raises:
        FileNotFoundError: no such file.
        ValueError: another format.
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
        plain=record["format"] == FORMAT,
    )


def as_series(column: Any) -> Any:
    """A column as a polars series."""
    import polars as pl
    import pyarrow as pa

    if isinstance(column, Words):
        column = column.to_arrow()
    if isinstance(column, (pa.Array, pa.ChunkedArray)):
        return pl.Series(pl.from_arrow(column))
    return column if isinstance(column, pl.Series) else pl.Series(column, strict=False)
