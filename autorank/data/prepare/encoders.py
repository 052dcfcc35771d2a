"""Encodes raw columns as ids and standardised numbers.

Encoders are learned on the training rows and stored with the model and the data. Categorical values are compared by
their canonical text (`format.canonical_text`): the integer 3, the float 3.0 and the texts "3" and "3.0" are one value.
Dense values are transformed by ``sign(x) log(1 + |x|)`` and standardised; a missing value becomes 0, the training mean.
"""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from autorank.data.fast_text.short_strings import ShortStrings, canonical_packed
from autorank.data.format.schema import MISSING, NUM_RESERVED, UNKNOWN, Field
from autorank.data.prepare.columns import as_written, distinct_values, item, to_numbers
from autorank.data.prepare.hashing import buckets_of, ids_of_short_strings


class FieldEncoder(NamedTuple):
    """Ids of a categorical field.

    With a vocabulary, ``values[i]`` has the id ``offset + 2 + i``. With ``buckets``, every value, seen in training or
    not, has the id ``offset + 2 +`` the bucket of its hash (`hashing`).

    Attributes:
        name: the column.
        offset: first id of the field.
        values: the vocabulary, most frequent value first.
        buckets: number of hash buckets; 0 for a vocabulary.
    """

    name: str
    offset: int
    values: tuple[str, ...] = ()
    buckets: int = 0

    @property
    def size(self) -> int:
        """Number of ids of the field, including the reserved ones."""
        return NUM_RESERVED + (self.buckets or len(self.values))


class DenseEncoder(NamedTuple):
    """Mean and standard deviation of the known values in the training rows, after the logarithm."""

    name: str
    mean: float
    std: float


class Encoders(NamedTuple):
    """Contents of `encoders.json`, in the order of the arrays' columns.

    ``canonical`` is False for models of an older version, which distinguish 3 from 3.0.

    Examples:
        >>> user = FieldEncoder("user", offset=0, buckets=10)
        >>> encoders = Encoders((user,), (DenseEncoder("price", mean=0.0, std=1.0),))
        >>> sparse, dense = encode(encoders, {"user": np.array([7, 8, 7]), "price": np.array([0.0, np.e - 1, np.nan])})
        >>> bool(sparse[0, 0] == sparse[2, 0]), user.size
        (True, 12)
        >>> dense.ravel().tolist()
        [0.0, 1.0, 0.0]
    """

    fields: tuple[FieldEncoder, ...]
    dense: tuple[DenseEncoder, ...]
    canonical: bool = True


def encode(encoders: Encoders, columns: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Encodes raw columns (arrays, lists, polars series or Arrow arrays) for a model; further columns are ignored.

    Returns:
        sparse int32 [n, f] with offsets added; dense float32 [n, m].

    Raises:
        ValueError: a missing column, columns of different lengths, or text in place of a number.
    """
    sparse, dense, reasons = encode_rows(encoders, columns)
    for row in sorted(reasons):
        name, reason = reasons[row]
        raise ValueError(f"column {name}, row {row}: {reason}")
    return sparse, dense


def encode_rows(
    encoders: Encoders, columns: Mapping[str, Any]
) -> tuple[np.ndarray, np.ndarray, dict[int, tuple[str, str]]]:
    """`encode`, except that rows which preparation would leave out are reported: row -> column and reason.

    Raises:
        ValueError: a missing column, or columns of different lengths.
    """
    num_rows = _require_columns(encoders, columns)
    sparse = np.empty((num_rows, len(encoders.fields)), np.int32)
    for j, field in enumerate(encoders.fields):
        column = columns[field.name]
        if not encoders.canonical:
            column = as_written(column)
        if field.buckets:
            ids = hashed_ids(column, field.buckets, canonical=encoders.canonical)
        else:
            codes, values = distinct_values(column, canonical=encoders.canonical)
            ids = ids_of(values.to_pylist(), field.values)[codes]
        sparse[:, j] = field.offset + ids
    dense = np.empty((num_rows, len(encoders.dense)), np.float32)
    reasons: dict[int, tuple[str, str]] = {}
    for j, encoder in enumerate(encoders.dense):
        numbers, malformed = to_numbers(columns[encoder.name])
        for row in np.flatnonzero(malformed).tolist():
            found = item(columns[encoder.name], row)
            reasons.setdefault(row, (encoder.name, f"{found!r} is not a number"))
        # Rounded to float32 after the logarithm, like the staged rows that prepared data is made of.
        logs = signed_log(numbers).astype(np.float32)
        dense[:, j] = standardise(logs, np.float32(encoder.mean), np.float32(encoder.std))
    return sparse, dense, reasons


def _require_columns(encoders: Encoders, columns: Mapping[str, Any]) -> int:
    """The number of rows of the columns that the encoders need."""
    names = [encoder.name for encoder in (*encoders.fields, *encoders.dense)]
    absent = [name for name in names if name not in columns]
    if absent:
        raise ValueError(f"columns {absent} are missing; the model reads {names}")
    lengths = {name: len(columns[name]) for name in names}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"columns differ in length: {lengths}")
    return next(iter(lengths.values()), 0)


def ids_of(values: Iterable[str], vocabulary: Iterable[str]) -> np.ndarray:
    """Ids (without offset) of distinct values, int32; one more at the end for the code -1, which is missing.

    Examples:
        >>> ids_of(["b", "new"], vocabulary=["a", "b"]).tolist()
        [3, 1, 0]
    """
    known = {value: NUM_RESERVED + i for i, value in enumerate(vocabulary)}
    return np.array([*(known.get(value, UNKNOWN) for value in values), MISSING], np.int32)


def hashed_ids(column: Any, buckets: int, *, canonical: bool = True) -> np.ndarray:
    """Ids (without offset) by hash, int32 [n]."""
    if isinstance(column, ShortStrings):
        packed = canonical_packed(column.packed) if canonical else column.packed
        return ids_of_short_strings(ShortStrings(packed), buckets, NUM_RESERVED)
    codes, values = distinct_values(column, canonical=canonical)
    ids = np.append(NUM_RESERVED + buckets_of(values, buckets), np.int32(MISSING))
    return ids[codes].astype(np.int32, copy=False)


def signed_log(numbers: np.ndarray) -> np.ndarray:
    """``sign(x) log(1 + |x|)`` for an array of any shape; NaN stays NaN.

    Examples:
        >>> signed_log(np.array([0.0, np.e - 1, 1 - np.e])).round(6).tolist()
        [0.0, 1.0, -1.0]
    """
    # Replaces NaN, which would slow the vectorised logarithm down.
    sizes = np.fmax(np.abs(numbers), 0)
    np.log1p(sizes, out=sizes)
    np.copysign(sizes, numbers, out=sizes)
    sizes += numbers - numbers  # restores NaN
    return sizes


def standardise(numbers: np.ndarray, mean: Any, std: Any) -> np.ndarray:
    """``(x - mean) / std`` as float32; NaN becomes 0."""
    found = ((numbers - mean) / std).astype(np.float32, copy=False)
    return np.where(np.isnan(found), np.float32(0), found)


def fields_of(encoders: Encoders) -> tuple[Field, ...]:
    """The fields of the schema."""
    return tuple(Field(e.name, e.size, e.offset) for e in encoders.fields)
