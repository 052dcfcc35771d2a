"""Raw chunks to checked, provisionally coded rows in scratch files.

Memory holds vocabularies and times only.
"""

import time
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from autorank.data.encoders import distinct, signed_log, to_numbers
from autorank.data.source import BadRow, Chunk, Columns, Progress

KEPT_BAD_ROWS = 10
DATES = ("%Y-%m-%d", "%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%dT%H:%M:%S%.f")


class Intake(NamedTuple):
    """The good rows in the order read.

    Codes index ``values[j]``; they become ids once the split is known.
    """

    codes: np.ndarray  # int32 [n, f], -1 = missing
    dense: np.ndarray  # float32 [n, m], after the logarithm, NaN = missing
    labels: np.ndarray  # int8 [n, 1 or 2]
    time: np.ndarray  # float64 [n]
    values: tuple[tuple[str, ...], ...]
    num_bad: int
    bad: tuple[BadRow, ...]  # the first few
    counts: dict[str, int]


def take_in(chunks: Iterable[Chunk], columns: Columns, scratch: Path, progress: Progress) -> Intake:
    """Reads all chunks; a broken row is counted and left out.

    Raises:
        ValueError: a chunk without one of the columns, a time column with both numbers and dates,
            no good row.
    """
    vocabularies: list[dict[str, int]] = [{} for _ in columns.categorical]
    times: list[np.ndarray] = []
    kinds: set[str] = set()
    num_rows = num_bad = 0
    bad: list[BadRow] = []
    counts: dict[str, int] = {}
    began = time.monotonic()
    paths = {name: scratch / f"{name}.raw" for name in ("codes", "dense", "labels")}
    with ExitStack() as stack:
        files = {name: stack.enter_context(path.open("wb")) for name, path in paths.items()}
        for chunk in chunks:
            good, found, parsed = _check(chunk, columns, kinds)
            num_bad += len(chunk.bad) + len(found)
            bad += [*chunk.bad, *found][: KEPT_BAD_ROWS - len(bad)]
            for key, count in chunk.counts.items():
                counts[key] = counts.get(key, 0) + count
            codes = [
                _code(chunk.columns[name], vocabulary, good)
                for name, vocabulary in zip(columns.categorical, vocabularies, strict=True)
            ]
            files["codes"].write(np.stack(codes, 1).tobytes())
            files["dense"].write(signed_log(parsed.dense[good]).astype(np.float32).tobytes())
            files["labels"].write(parsed.labels[good].astype(np.int8).tobytes())
            moments = (
                np.arange(num_rows, num_rows + good.sum())
                if parsed.time is None
                else parsed.time[good]
            )
            times.append(moments.astype(np.float64))
            num_rows += len(moments)
            rate = num_rows / max(time.monotonic() - began, 1e-9)
            progress(f"read {num_rows:,} rows ({rate:,.0f} rows/s), {num_bad:,} bad")
    if num_rows == 0:
        reasons = "; ".join(f"{row.place}: {row.reason}" for row in bad) or "the source is empty"
        raise ValueError(f"not one usable row ({num_bad:,} bad): {reasons}")
    shapes: dict[str, tuple[int, Any]] = {
        "codes": (len(columns.categorical), np.int32),
        "dense": (len(columns.dense), np.float32),
        "labels": (len(columns.labels), np.int8),
    }
    arrays = {name: _map(paths[name], num_rows, *shape) for name, shape in shapes.items()}
    values = tuple(tuple(vocabulary) for vocabulary in vocabularies)
    return Intake(
        **arrays,
        time=np.concatenate(times),
        values=values,
        num_bad=num_bad,
        bad=tuple(bad),
        counts=counts,
    )


class _Parsed(NamedTuple):
    dense: np.ndarray  # float64 [n, m]
    labels: np.ndarray  # float64 [n, 1 or 2]
    time: np.ndarray | None  # float64 [n]


def _check(
    chunk: Chunk, columns: Columns, kinds: set[str]
) -> tuple[np.ndarray, list[BadRow], _Parsed]:
    """Which rows are good, what is wrong with the others, and the numbers of all."""
    absent = [name for name in _read(columns) if name not in chunk.columns]
    if absent:
        raise ValueError(
            f"{chunk.file}: columns {absent} are missing; it has {list(chunk.columns)}"
        )
    num_rows = len(chunk.columns[columns.click])
    reasons: dict[int, str] = {}

    def refuse(wrong: np.ndarray, name: str, what: str) -> None:
        for row in np.flatnonzero(wrong).tolist():
            reasons.setdefault(row, f"{name}={_item(chunk.columns[name], row)!r} {what}")

    dense = np.empty((num_rows, len(columns.dense)))
    for j, name in enumerate(columns.dense):
        dense[:, j], malformed = to_numbers(chunk.columns[name])
        refuse(malformed, name, "is not a number")
    labels = np.empty((num_rows, len(columns.labels)))
    for j, name in enumerate(columns.labels):
        labels[:, j], _ = to_numbers(chunk.columns[name])
        refuse(~np.isin(labels[:, j], (0.0, 1.0)), name, "is not a label 0 or 1")
    moments = None
    if columns.time is not None:
        moments = _moments(chunk.columns[columns.time], columns.time, kinds)
        refuse(np.isnan(moments), columns.time, "is not a time")
    good = np.ones(num_rows, bool)
    good[list(reasons)] = False
    lines = chunk.lines
    places = {row: "?" if lines is None else str(lines[row]) for row in reasons}
    found = [BadRow(f"{chunk.file}:{places[row]}", reasons[row]) for row in sorted(reasons)]
    return good, found, _Parsed(dense, labels, moments)


def _read(columns: Columns) -> tuple[str, ...]:
    time_column = () if columns.time is None else (columns.time,)
    return (*columns.categorical, *columns.dense, *columns.labels, *time_column)


def _item(column: Any, row: int) -> Any:
    value = column[row]
    return value.item() if isinstance(value, np.generic) else value


def _moments(column: Any, name: str, kinds: set[str]) -> np.ndarray:
    """Sortable float64.

    The numbers themselves, or microseconds since 1970 for dates; NaN = unreadable.
    """
    import polars as pl

    series = column if isinstance(column, pl.Series) else pl.Series(column, strict=False)
    if series.dtype.is_temporal():
        numbers, dates = np.full(len(series), np.nan), series.cast(pl.Datetime("us"))
    else:
        numbers, _ = to_numbers(column)
        dates = None
        if np.isnan(numbers).any() and series.dtype == pl.String:
            text = series.str.strip_chars().str.strip_suffix("Z")
            parsed = [text.str.to_datetime(f, strict=False, time_unit="us") for f in DATES]
            dates = pl.select(pl.coalesce(parsed)).to_series()
    if dates is not None:
        stamps = dates.dt.epoch("us").cast(pl.Float64).fill_null(np.nan).to_numpy()
        kinds |= {"dates"} if np.isfinite(stamps[np.isnan(numbers)]).any() else set()
        kinds |= {"numbers"} if np.isfinite(numbers).any() else set()
        numbers = np.where(np.isnan(numbers), stamps, numbers)
    else:
        kinds |= {"numbers"} if np.isfinite(numbers).any() else set()
    if len(kinds) > 1:
        raise ValueError(
            f"time column {name!r} mixes numbers and dates; write all rows in one form"
        )
    return numbers


def _code(column: Any, vocabulary: dict[str, int], good: np.ndarray) -> np.ndarray:
    """Codes of the good rows in the growing vocabulary, int32."""
    codes, values = distinct(column)
    codes = codes[good]
    lookup = np.full(len(values) + 1, -1, np.int32)  # The last entry serves the code -1.
    for code in np.unique(codes[codes >= 0]).tolist():
        lookup[code] = vocabulary.setdefault(values[code], len(vocabulary))
    return lookup[codes]


def _map(path: Path, num_rows: int, width: int, dtype: Any) -> np.ndarray:
    if width == 0:
        return np.zeros((num_rows, 0), dtype)
    return np.memmap(path, dtype, mode="r", shape=(num_rows, width))
