"""Ingests a log: reads segments, checks and codes their rows, and stages them on disk.

Segments are processed in parallel and independently, so the staged parts do not depend on the number of workers, and an
interrupted run resumes after the last complete part. Memory holds a few segments per worker.
"""

from collections import deque
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from autorank.data.fast_text import buffer_pool
from autorank.data.fast_text.cell_parser import EMPTY, IntegerColumn
from autorank.data.fast_text.short_strings import (
    ShortStrings,
    canonical_packed,
    distinct_short_strings,
)
from autorank.data.format.source import BadRow, Chunk, Columns, Progress, Segment
from autorank.data.prepare.check_rows import advice, check_rows, first_places
from autorank.data.prepare.columns import distinct_values, inexact_identifiers
from autorank.data.prepare.encoders import hashed_ids, signed_log
from autorank.data.prepare.progress import ProgressReport
from autorank.data.prepare.staging import StagedPart, text_buffers, write_part
from autorank.data.prepare.time_forms import (
    UNITS,
    Forms,
    incompatible_forms,
    merge_forms,
    mixed_forms_error,
)

KEPT_BAD_ROWS = 10
TABLE_SIZE = 1 << 16  # integers whose logarithm is looked up
TILE = 1 << 14  # numbers processed at a time, to fit the L1 cache
INEXACT = "long_floats."  # prefix of the column name in `StagedPart.counts`


def ingest_log(
    segments: Iterable[Segment],
    columns: Columns,
    folder: Path,
    progress: Progress,
    *,
    done: Sequence[StagedPart] = (),
    hash_size: int = 0,
    workers: int = 1,
) -> list[StagedPart]:
    """Stages all segments; broken rows are counted and left out.

    Args:
        segments: the segments after the parts ``done``.
        columns: the role of each column.
        folder: where the parts are written.
        progress: receives progress lines.
        done: parts that an earlier run staged.
        hash_size: buckets per field, if codes are ids by hash; 0: codes index the distinct values of a part.
        workers: segments processed in parallel.

    Raises:
        ValueError: a segment lacks a column, the time column mixes forms that cannot be compared, or no row is usable.
    """
    staged = _StagedLog(columns.time, progress, done)
    waiting: deque[Future[StagedPart]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        try:
            for index, segment in enumerate(segments, len(done)):
                arguments = segment, index, columns, folder, hash_size
                waiting.append(pool.submit(stage_segment, *arguments))
                while len(waiting) > workers:
                    staged.add(waiting.popleft().result())
            while waiting:
                staged.add(waiting.popleft().result())
        finally:
            for future in waiting:
                future.cancel()
    staged.finish()
    return staged.parts


class _StagedLog:
    """The parts staged so far, and what is known of all of them."""

    def __init__(self, time: str | None, progress: Progress, done: Sequence[StagedPart]) -> None:
        self.parts = list(done)
        self._time = time
        self._num_rows = sum(part.num_rows for part in done)
        self._num_bad = bad_rows(done)[0]
        self._report = ProgressReport(float("nan"), progress, self._num_rows)
        self._forms: dict[str, tuple[int, str]] = {}
        for part in done:
            self._forms = merge_forms(self._forms, part.times)

    def add(self, part: StagedPart) -> None:
        """Adds the next part; refuses forms of times that cannot be compared."""
        self.parts.append(part)
        self._forms = merge_forms(self._forms, part.times)
        # The unit of numbers is known only at the end.
        self._refuse_mixture({f: found for f, found in self._forms.items() if f not in UNITS})
        self._num_rows, self._num_bad = self._num_rows + part.num_rows, self._num_bad + part.num_bad
        if part.share:
            self._report.estimate(self._num_rows / part.share)
        self._report("read", self._num_rows, f", {self._num_bad:,} bad")

    def finish(self) -> None:
        """Checks the log as a whole."""
        self._report("read", self._num_rows, f", {self._num_bad:,} bad", last=True)
        self._refuse_mixture(self._forms)
        if not self._num_rows:
            bad = bad_rows(self.parts)[1]
            reasons = (
                "; ".join(f"{row.place}: {row.reason}" for row in bad) or "the source is empty"
            )
            raise ValueError(
                f"not one usable row ({self._num_bad:,} bad): {reasons}{advice(reasons)}"
            )

    def _refuse_mixture(self, forms: Forms) -> None:
        two = incompatible_forms(forms)
        if two is not None:
            raise mixed_forms_error(self._time, self._forms, two)


def bad_rows(parts: Sequence[StagedPart]) -> tuple[int, list[BadRow]]:
    """The number of rows that were left out, and the first few of them."""
    first = [BadRow(*row) for part in parts for row in part.bad]
    return sum(part.num_bad for part in parts), first[:KEPT_BAD_ROWS]


def stage_segment(
    segment: Segment, index: int, columns: Columns, folder: Path, hash_size: int
) -> StagedPart:
    """Checks, codes and stages one segment."""
    chunk = segment.read()
    checked = check_rows(chunk, columns)
    kept = slice(None) if checked.usable.all() else checked.usable
    num_rows = int(checked.usable.sum())
    codes = buffer_pool.empty((len(columns.categorical), num_rows), np.int32)
    texts: list[tuple[np.ndarray, np.ndarray]] = []
    counts: list[np.ndarray] = []
    for j, name in enumerate(columns.categorical):
        if hash_size:
            codes[j] = hashed_ids(chunk.columns[name], hash_size)[kept]
        else:
            values, count = code_column(chunk.columns[name], kept, codes[j])
            texts.append(text_buffers(values))
            counts.append(count)
    dense = buffer_pool.empty((len(columns.dense), num_rows), np.float32)
    for j, numbers in enumerate(checked.dense):
        take_logs(numbers, kept, dense[j])
    labels = np.stack([label[kept] for label in checked.labels]).astype(np.int8)
    arrays = {"labels": labels, "dense": dense, "codes": codes}
    times, forms = np.zeros(0), {}
    if checked.time is not None and columns.time is not None:
        times = checked.time.values[kept]
        arrays["time"] = times[None].view(np.int64)
        forms = first_places(chunk, columns.time, checked.time)
    bad = [*chunk.bad, *checked.bad]
    part = StagedPart(
        index=index,
        num_rows=num_rows,
        num_values=tuple(map(len, counts)),
        num_bytes=tuple(len(data) for _, data in texts),
        widths={kind: len(array) for kind, array in arrays.items()},
        end=segment.end,
        share=float(np.nan_to_num(segment.share)),
        num_bad=len(bad),
        bad=tuple((row.place, row.reason) for row in bad[:KEPT_BAD_ROWS]),
        counts=dict(chunk.counts) | _count_inexact(chunk, columns),
        times=forms,
        first_time=times[0].item() if len(times) else 0,
        last_time=times[-1].item() if len(times) else 0,
        sorted=bool((times[1:] >= times[:-1]).all()),
    )
    write_part(folder, part, arrays, texts, counts)
    return part


def _count_inexact(chunk: Chunk, columns: Columns) -> dict[str, int]:
    """For each column, the number of identifiers that are floats and may have lost digits."""
    found = {name: len(inexact_identifiers(chunk.columns[name])) for name in columns.categorical}
    return {INEXACT + name: count for name, count in found.items() if count}


def take_logs(numbers: np.ndarray | IntegerColumn, kept: Any, into: np.ndarray) -> None:
    """Writes `signed_log` of the kept rows as float32; that of small integers is looked up in a table."""
    if isinstance(numbers, IntegerColumn):
        from autorank.data.fast_text.loops import encoding as encoding_loops

        values = numbers.values[kept]
        large = np.empty(len(values), np.int32)
        num_large = encoding_loops.look_up_integers(values, EMPTY, _log_table(), into, large)
        large = large[:num_large]
        into[large] = signed_log(values[large].astype(np.float64))
        return
    values = numbers[kept]
    for first in range(0, len(values), TILE):
        tile = slice(first, first + TILE)
        into[tile] = signed_log(values[tile])


@cache
def _log_table() -> np.ndarray:
    return signed_log(np.arange(TABLE_SIZE, dtype=np.float64)).astype(np.float32)


def code_column(column: Any, kept: Any, into: np.ndarray) -> tuple[Any, np.ndarray]:
    """Writes the codes int32 of the kept rows (-1 for missing values).

    Returns:
        The distinct values of these rows, and the number of rows with each.
    """
    if isinstance(column, ShortStrings) and isinstance(kept, slice):
        found = distinct_short_strings(canonical_packed(column.packed), codes=into)
        return found.values, found.counts
    codes, values = distinct_values(column)
    codes = codes[kept]
    counts = np.bincount(codes + 1, minlength=len(values) + 1)[1:]
    used = np.flatnonzero(counts)
    if len(used) < len(values):
        new_codes = np.full(len(values) + 1, -1, np.int32)
        new_codes[used] = np.arange(len(used), dtype=np.int32)
        codes, values, counts = new_codes[codes], values.take(used), counts[used]
    into[:] = codes
    return values, counts
