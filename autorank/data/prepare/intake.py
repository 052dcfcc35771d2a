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

from autorank.data.fast_text import buffer_pool as recycled
from autorank.data.fast_text.short_cells import EMPTY, Numbers
from autorank.data.fast_text.words import Words, distinct_words, plain_words
from autorank.data.format.source import BadRow, Chunk, Columns, Piece, Progress
from autorank.data.prepare.encoders import (
    as_series,
    distinct_text,
    hashed_ids,
    item,
    long_floats,
    signed_log,
    to_numbers,
)
from autorank.data.prepare.parts import Part, text_buffers, write_part
from autorank.data.prepare.times import ACCEPTED, UNITS, Forms, Moments, clash, read_times, refusal

KEPT_BAD_ROWS = 10
SMALL = 1 << 16  # integers whose logarithm is looked up
TILE = 1 << 14  # numbers worked on at a time, in a core's cache
LONG_FLOATS = "long_floats."  # in front of a column's name: identifiers that may have lost digits
NO_TIME = "is not a time"


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
        ValueError: a piece without one of the columns, a time column of several forms that have no common order, no
            good row.
    """
    parts = list(done)
    num_rows, num_bad = sum(part.num_rows for part in parts), bad_rows(parts)[0]
    report = Report(float("nan"), progress, num_rows)
    waiting: deque[Future[Part]] = deque()
    forms: dict[str, tuple[int, str]] = {}
    for part in parts:
        forms = _merge(forms, part.times)

    def collect(most: int) -> None:
        nonlocal num_rows, num_bad, forms
        while len(waiting) > most:
            part = waiting.popleft().result()
            parts.append(part)
            forms = _merge(forms, part.times)
            _refuse_mixture(columns.time, forms, units=False)
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
    _refuse_mixture(columns.time, forms)
    if not num_rows:
        bad = bad_rows(parts)[1]
        reasons = "; ".join(f"{row.place}: {row.reason}" for row in bad) or "the source is empty"
        raise ValueError(f"not one usable row ({num_bad:,} bad): {reasons}{advice(reasons)}")
    return parts


def advice(reasons: str) -> str:
    """What a time may look like, where rows were left out for theirs."""
    return f". A time column has {ACCEPTED}" if NO_TIME in reasons else ""


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


def _merge(forms: Forms, more: Forms) -> dict[str, tuple[int, str]]:
    """Forms of rows and of those behind them."""
    return {
        form: (
            sum(found[form][0] for found in (forms, more) if form in found),
            (forms if form in forms else more)[form][1],
        )
        for form in {**forms, **more}
    }


def _refuse_mixture(name: str | None, forms: Forms, *, units: bool = True) -> None:
    """Refuses forms without a common order; which unit numbers have is known when all are (``units``)."""
    seen = forms if units else {form: found for form, found in forms.items() if form not in UNITS}
    two = clash(seen)
    if two is not None:
        raise refusal(name, forms, two)


def _take(piece: Piece, index: int, columns: Columns, folder: Path, hash_size: int) -> Part:
    """Checks, codes and writes one piece."""
    chunk = piece.read()
    good, found, parsed = _check(chunk, columns)
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
    moments, times = np.zeros(0), {}
    if parsed.time is not None:
        moments = parsed.time.values[keep]
        arrays["time"] = moments[None].view(np.int64)
        times = _places(chunk, columns.time, parsed.time)
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
        times=times,
        first_time=moments[0].item() if len(moments) else 0,
        last_time=moments[-1].item() if len(moments) else 0,
        sorted=bool((moments[1:] >= moments[:-1]).all()),
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
    time: Moments | None


def _check(chunk: Chunk, columns: Columns) -> tuple[np.ndarray, list[BadRow], _Parsed]:
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
        numbers = _labels(chunk.columns[name])
        refuse((numbers != 0) & (numbers != 1), name, "is not a label 0 or 1")
        labels.append(numbers)
    moments = None
    if columns.time is not None:
        try:
            moments = read_times(chunk.columns[columns.time])
        except ValueError as error:
            raise ValueError(f"{chunk.file}: time column {columns.time!r}: {error}") from error
        refuse(~moments.known, columns.time, NO_TIME)
    good = np.ones(num_rows, bool)
    good[list(reasons)] = False
    found = [BadRow(_place(chunk, row), reasons[row]) for row in sorted(reasons)]
    return good, found, _Parsed(dense, labels, moments)


def _labels(column: Any) -> np.ndarray:
    """Numbers float64 [n]; the words true and false, in any case, are 1 and 0."""
    numbers, _ = to_numbers(column)
    rows = np.flatnonzero((numbers != 0) & (numbers != 1))
    if not len(rows) or (isinstance(column, np.ndarray) and column.dtype.kind in "biuf"):
        return numbers
    import polars as pl

    if isinstance(column, Numbers):
        words = pl.Series([column[row] for row in rows], dtype=pl.String)
    else:
        words = as_series(column)[rows]
    if words.dtype == pl.String:
        words = words.str.strip_chars().str.to_lowercase()
        numbers[rows[(words == "true").fill_null(False).to_numpy()]] = 1
        numbers[rows[(words == "false").fill_null(False).to_numpy()]] = 0
    return numbers


def _place(chunk: Chunk, row: int) -> str:
    return f"{chunk.file}:{'?' if chunk.lines is None else chunk.lines[row]}"


def _shown(value: Any) -> str:
    """A cell in one line of a message."""
    text = " ".join(str(value).split())
    return text if len(text) <= 40 else f"{text[:40]}..."


def _places(chunk: Chunk, name: str | None, moments: Moments) -> dict[str, tuple[int, str]]:
    """Forms of times with their first place and value."""
    assert name is not None
    return {
        form: (count, f"{_place(chunk, row)}: {_shown(item(chunk.columns[name], row))}")
        for form, (count, row) in moments.forms.items()
    }


def _logarithms(numbers: np.ndarray | Numbers, keep: Any, into: np.ndarray) -> None:
    """`signed_log` of the good rows as float32; that of small integers is read from a table."""
    if isinstance(numbers, Numbers):
        from autorank.data.fast_text.loops import rows as loops_of_rows

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
