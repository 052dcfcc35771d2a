"""Raw pieces to checked, provisionally coded rows in parts on the disk.

Pieces are worked on side by side, each for itself, so that parts do not depend on how many workers there are, and a run
that was stopped goes on behind the last part that is whole. Memory holds a few pieces for each worker.
"""

import time
from collections import deque
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from autorank.data import recycled
from autorank.data.encoders import (
    as_series,
    distinct_text,
    hashed_ids,
    item,
    long_floats,
    signed_log,
    to_numbers,
)
from autorank.data.parts import Part, text_buffers, write_part
from autorank.data.short_cells import EMPTY, Numbers
from autorank.data.source import BadRow, Chunk, Columns, Piece, Progress
from autorank.data.words import Words, distinct_words, plain_words

KEPT_BAD_ROWS = 10
SMALL = 1 << 16  # integers whose logarithm is looked up
TILE = 1 << 14  # numbers worked on at a time, in a core's cache
LONG_FLOATS = "long_floats."  # in front of a column's name: identifiers that may have lost digits
DATES = ("%Y-%m-%d", "%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%dT%H:%M:%S%.f")


def take_in(
    pieces: Iterable[Piece],
    columns: Columns,
    folder: Path,
    progress: Progress,
    *,
    done: Sequence[Part] = (),
    hash_size: int = 0,
    workers: int = 1,
) -> list[Part]:
    """Reads all pieces; a broken row is counted and left out.

    Args:
        pieces: behind the parts ``done``.
        hash_size: codes are ids by hash, of this many buckets a field; 0: codes index the part's values.
        workers: pieces read side by side.

    Raises:
        ValueError: a piece without one of the columns, a time column with both numbers and dates,
            no good row.
    """
    parts = list(done)
    num_rows, num_bad = sum(part.num_rows for part in parts), bad_rows(parts)[0]
    report = Report(float("nan"), progress, num_rows)
    waiting: deque[Future[Part]] = deque()
    kinds = {kind for part in parts for kind in part.kinds}

    def collect(most: int) -> None:
        nonlocal num_rows, num_bad
        while len(waiting) > most:
            part = waiting.popleft().result()
            parts.append(part)
            kinds.update(part.kinds)
            if len(kinds) > 1:
                raise _two_kinds(columns.time)
            num_rows, num_bad = num_rows + part.num_rows, num_bad + part.num_bad
            if part.share:
                report.estimate(num_rows / part.share)
            report("read", num_rows, f", {num_bad:,} bad")

    with ThreadPoolExecutor(workers) as pool:
        try:
            for index, piece in enumerate(pieces, len(parts)):
                waiting.append(pool.submit(_take, piece, index, columns, folder, hash_size))
                collect(workers)
            collect(0)
        finally:
            for future in waiting:
                future.cancel()
    report("read", num_rows, f", {num_bad:,} bad", last=True)
    if not num_rows:
        bad = bad_rows(parts)[1]
        reasons = "; ".join(f"{row.place}: {row.reason}" for row in bad) or "the source is empty"
        raise ValueError(f"not one usable row ({num_bad:,} bad): {reasons}")
    return parts


def bad_rows(parts: Sequence[Part]) -> tuple[int, list[BadRow]]:
    """How many rows were left out, and the first few."""
    first = [BadRow(*row) for part in parts for row in part.bad]
    return sum(part.num_bad for part in parts), first[:KEPT_BAD_ROWS]


class Report:
    """Lines of progress now and then: rows, rows/s, time left, of what was done since the start of this run."""

    def __init__(
        self, num_rows: float | int, progress: Progress, done: int = 0, every: float = 2.0
    ) -> None:
        self._total, self._progress, self._every = num_rows, progress, every
        self._first, self._began = done, time.monotonic()
        self._last = self._began
        if done:
            progress(f"going on behind the first {done:,} rows, which are there")

    def __call__(self, verb: str, rows: int, more: str = "", last: bool = False) -> None:
        """``rows`` are done, of a number that may only be an estimate (then set ``total`` before)."""
        now = time.monotonic()
        if not last and now - self._last < self._every:
            return
        self._last = now
        rate = (rows - self._first) / max(now - self._began, 1e-9)
        line = f"{verb} {rows:,} rows ({rate:,.0f} rows/s){more}"
        if not last and rate > 0 and np.isfinite(self._total):
            line += f", {100 * rows / self._total:.1f} %, {(self._total - rows) / rate:,.0f} s left"
        self._progress(line)

    def estimate(self, num_rows: float | int) -> None:
        """Another guess at the number of rows."""
        self._total = num_rows


def _two_kinds(name: str | None) -> ValueError:
    return ValueError(f"time column {name!r} mixes numbers and dates; write all rows in one form")


def _take(piece: Piece, index: int, columns: Columns, folder: Path, hash_size: int) -> Part:
    """Checks, codes and writes one piece."""
    chunk = piece.read()
    kinds: set[str] = set()
    good, found, parsed = _check(chunk, columns, kinds)
    keep = slice(None) if good.all() else good
    num_rows = int(good.sum())
    codes = recycled.empty((len(columns.categorical), num_rows), np.int32)
    texts: list[tuple[np.ndarray, np.ndarray]] = []
    uses: list[np.ndarray] = []
    for j, name in enumerate(columns.categorical):
        if hash_size:
            codes[j] = hashed_ids(chunk.columns[name], hash_size)[keep]
        else:
            value, count = _code(chunk.columns[name], keep, codes[j])
            texts.append(text_buffers(value))
            uses.append(count)
    dense = recycled.empty((len(columns.dense), num_rows), np.float32)
    for j, numbers in enumerate(parsed.dense):
        _logarithms(numbers, keep, dense[j])
    labels = np.stack([label[keep] for label in parsed.labels]).astype(np.int8)
    arrays = {"labels": labels, "dense": dense, "codes": codes}
    moments = np.zeros(0)
    if parsed.time is not None:
        moments = parsed.time[keep]
        arrays["time"] = moments[None]
    part = Part(
        index=index,
        num_rows=num_rows,
        num_values=tuple(map(len, uses)),
        num_bytes=tuple(len(data) for _, data in texts),
        widths={kind: len(array) for kind, array in arrays.items()},
        end=piece.end,
        share=float(np.nan_to_num(piece.share)),
        num_bad=len(chunk.bad) + len(found),
        bad=tuple((row.place, row.reason) for row in [*chunk.bad, *found][:KEPT_BAD_ROWS]),
        counts=dict(chunk.counts) | _long_floats(chunk, columns),
        kinds=tuple(sorted(kinds)),
        first_time=float(moments[0]) if len(moments) else 0.0,
        last_time=float(moments[-1]) if len(moments) else 0.0,
        sorted=bool((np.diff(moments) >= 0).all()),
    )
    write_part(folder, part, arrays, texts, uses)
    return part


def _long_floats(chunk: Chunk, columns: Columns) -> dict[str, int]:
    """How many identifiers of a column are floats that may have lost digits."""
    found = {name: len(long_floats(chunk.columns[name])) for name in columns.categorical}
    return {LONG_FLOATS + name: count for name, count in found.items() if count}


class _Parsed(NamedTuple):
    dense: list[np.ndarray | Numbers]  # float64 [n] each, or integers as they were read
    labels: list[np.ndarray]  # [n] each
    time: np.ndarray | None  # float64 [n]


def _check(
    chunk: Chunk, columns: Columns, kinds: set[str]
) -> tuple[np.ndarray, list[BadRow], _Parsed]:
    """Which rows are good, what is wrong with the others, and the numbers of all."""
    absent = [name for name in columns.read if name not in chunk.columns]
    if absent:
        raise ValueError(
            f"{chunk.file}: columns {absent} are missing; it has {list(chunk.columns)}"
        )
    num_rows = len(chunk.columns[columns.click])
    reasons: dict[int, str] = {}

    def refuse(wrong: np.ndarray, name: str, what: str) -> None:
        for row in np.flatnonzero(wrong).tolist():
            reasons.setdefault(row, f"{name}={item(chunk.columns[name], row)!r} {what}")

    dense, labels = [], []
    for name in columns.dense:
        column = chunk.columns[name]
        if isinstance(column, Numbers) and not column.odd:
            dense.append(column)
            continue
        numbers, malformed = to_numbers(column)
        refuse(malformed, name, "is not a number")
        dense.append(numbers)
    for name in columns.labels:
        numbers, _ = to_numbers(chunk.columns[name])
        refuse((numbers != 0) & (numbers != 1), name, "is not a label 0 or 1")
        labels.append(numbers)
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


def _moments(column: Any, name: str, kinds: set[str]) -> np.ndarray:
    """Sortable float64.

    The numbers themselves, or microseconds since 1970 for dates; NaN = unreadable.
    """
    import polars as pl

    series = as_series(column)
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
        raise _two_kinds(name)
    return numbers


def _logarithms(numbers: np.ndarray | Numbers, keep: Any, into: np.ndarray) -> None:
    """`signed_log` of the good rows as float32; that of small integers is read from a table."""
    if isinstance(numbers, Numbers):
        from autorank.data import loops_of_rows

        values = numbers.values[keep]
        large = np.empty(len(values), np.int32)
        large = large[: loops_of_rows.look_up_numbers(values, EMPTY, _small_logs(), into, large)]
        into[large] = signed_log(values[large].astype(np.float64))
        return
    kept = numbers[keep]
    for first in range(0, len(kept), TILE):
        tile = slice(first, first + TILE)
        into[tile] = signed_log(kept[tile])


@cache
def _small_logs() -> np.ndarray:
    return signed_log(np.arange(SMALL, dtype=np.float64)).astype(np.float32)


def _code(column: Any, keep: Any, into: np.ndarray) -> tuple[Any, np.ndarray]:
    """Writes the codes int32 of the good rows (-1 = missing); the values that they use, and how often."""
    if isinstance(column, Words) and isinstance(keep, slice):
        found = distinct_words(plain_words(column.words), codes=into)
        return found.values, found.uses
    codes, values = distinct_text(column)
    codes = codes[keep]
    uses = np.bincount(codes + 1, minlength=len(values) + 1)[1:]
    used = np.flatnonzero(uses)
    if len(used) < len(values):
        lookup = np.full(len(values) + 1, -1, np.int32)
        lookup[used] = np.arange(len(used), dtype=np.int32)
        codes, values, uses = lookup[codes], values.take(used), uses[used]
    into[:] = codes
    return values, uses
