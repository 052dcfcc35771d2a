"""The steps of preparation, from a raw log to the files of a prepared folder."""

import json
import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from autorank.base.cores import available_cores
from autorank.data.fast_text.short_strings import worth_compiling
from autorank.data.format.schema import Schema, to_json
from autorank.data.format.source import Columns, Position, Progress, Segment, Source
from autorank.data.prepare import encoders_file
from autorank.data.prepare.check_rows import advice
from autorank.data.prepare.columns import inexact_identifiers_warning
from autorank.data.prepare.encoders import DenseEncoder, Encoders, FieldEncoder, fields_of
from autorank.data.prepare.hashing import MAX_BUCKETS
from autorank.data.prepare.identity import sha256
from autorank.data.prepare.ingest import INEXACT, bad_rows, ingest_log
from autorank.data.prepare.matrices import ARRAYS, write_matrices
from autorank.data.prepare.scale import learn_scale
from autorank.data.prepare.split import TimeSplit, first_rows, split_by_time
from autorank.data.prepare.staging import StagedPart, num_bytes, read_parts, read_rows
from autorank.data.prepare.vocabulary import learn_vocabulary
from autorank.data.prepare.work_folder import WorkFolder

LOG = logging.getLogger(__name__)
VERSION = 2  # of the prepared rows; a new version makes old folders stale
ENCODINGS = ("vocabulary", "hash")
_MAX_WORKERS = 8


class PrepareSettings(NamedTuple):
    """The settings that determine the prepared rows; see `store.prepare`."""

    train_fraction: float
    min_count: int
    max_bad_share: float
    encoding: str
    hash_size: int

    @property
    def buckets(self) -> int:
        """Hash buckets per field; 0 for vocabularies."""
        return self.hash_size if self.encoding == "hash" else 0

    def validate(self) -> None:
        """Rejects values out of range.

        Raises:
            ValueError: names the setting, its value and the valid range.
        """
        if not 0 < self.train_fraction < 1:
            raise ValueError(
                f"train_fraction={self.train_fraction} must lie between 0 and 1, for example 0.8"
            )
        if self.min_count < 1:
            raise ValueError(
                f"min_count={self.min_count} must be at least 1, which keeps every value"
            )
        if not 0 <= self.max_bad_share <= 1:
            raise ValueError(
                f"max_bad_share={self.max_bad_share} must lie in [0, 1], for example 0.01"
            )
        if self.encoding not in ENCODINGS:
            raise ValueError(
                f"encoding={self.encoding!r} is not known; write one of {', '.join(ENCODINGS)}"
            )
        if self.encoding == "hash" and not 1 <= self.hash_size <= MAX_BUCKETS:
            raise ValueError(f"hash_size={self.hash_size} must lie in [1, {MAX_BUCKETS}]")

    def to_json(self) -> dict[str, Any]:
        """The settings as part of the folder's identity, without those of the other encoding."""
        record = {
            "version": VERSION,
            "train_fraction": self.train_fraction,
            "max_bad_share": self.max_bad_share,
        }
        if self.encoding == "vocabulary":
            return record | {"min_count": self.min_count}
        return record | {"encoding": self.encoding, "hash_size": self.hash_size}


def write_prepared(
    source: Source,
    work: WorkFolder,
    settings: PrepareSettings,
    made_from: dict[str, Any],
    raw: Path,
    workers: int | None,
    progress: Progress,
) -> Schema:
    """Fills ``work.out`` with the prepared data set.

    Args:
        source: the log.
        work: an open folder of unfinished work.
        settings: valid settings.
        made_from: recorded in the notes of the schema.
        raw: folder of downloaded files.
        workers: segments and columns processed in parallel; None: one per core, at most 8.
        progress: receives progress lines.
    """
    workers = min(_MAX_WORKERS, available_cores()) if workers is None else workers
    done = read_parts(work.staged) if source.segments is not None else []
    parts = ingest_log(
        _segments(source, done[-1].end if done else Position(), raw, progress),
        source.columns,
        work.staged,
        progress,
        done=done,
        hash_size=settings.buckets,
        workers=workers,
    )
    _refuse_bad_rows(parts, settings.max_bad_share, source)
    _warn_of_inexact_identifiers(parts)
    split = split_by_time(parts, work.staged, settings.train_fraction)
    _refuse_one_class(parts, work.staged, split, source.columns.click)
    progress(f"learning from the first {split.num_train:,} rows in time")
    encoders = _learn_encoders(source.columns, parts, work, split, settings, workers)
    notes = write_matrices(parts, work.staged, work.merged, split, encoders, work.out, progress)
    encoders_file.write_encoders(encoders, work.out)
    num_rows = sum(part.num_rows for part in parts)
    if source.notes is not None:
        notes |= source.notes(split.num_train, num_rows)
    schema = Schema(
        name=source.name,
        fields=fields_of(encoders),
        dense=source.columns.dense,
        labels=("click", "conversion")[: len(source.columns.labels)],
        num_rows=num_rows,
        num_train=split.num_train,
        label_names=source.columns.labels,
        source=source.origin,
        licence=source.licence,
        sha256={name: sha256(work.out / name) for name in (*ARRAYS, encoders_file.FILE)},
        notes=notes | {"made_from": made_from},
    )
    text = json.dumps(to_json(schema), indent=1, ensure_ascii=False)
    (work.out / "schema.json").write_text(text, "utf-8")
    return schema


def _segments(source: Source, start: Position, raw: Path, progress: Progress) -> Iterator[Segment]:
    """The segments of a log from a position on; for a source without segments, its chunks."""
    if source.segments is not None:
        yield from source.segments(raw, progress, start)
        return
    for index, chunk in enumerate(source.chunks(raw, progress)):
        yield Segment(lambda chunk=chunk: chunk, Position(0, index + 1))


def _learn_encoders(
    columns: Columns,
    parts: list[StagedPart],
    work: WorkFolder,
    split: TimeSplit,
    settings: PrepareSettings,
    workers: int,
) -> Encoders:
    """Learns vocabularies and scales from the training rows."""
    compiled = worth_compiling(num_bytes(parts))

    def vocabulary(j: int) -> tuple[str, ...]:
        arguments = parts, work.staged, j, split, settings.min_count, work.merged
        return learn_vocabulary(*arguments, as_short_strings=compiled)

    def scale(j: int) -> DenseEncoder:
        return learn_scale(parts, work.staged, j, columns.dense[j], split, compiled=compiled)

    with ThreadPoolExecutor(workers) as pool:
        scales = tuple(pool.map(scale, range(len(columns.dense))))
        learned = () if settings.buckets else pool.map(vocabulary, range(len(columns.categorical)))
        fields: list[FieldEncoder] = []
        offset = 0
        for name, values in zip_longest(columns.categorical, learned, fillvalue=()):
            fields.append(FieldEncoder(str(name), offset, values, settings.buckets))
            offset += fields[-1].size
    if offset >= 1 << 31:
        raise ValueError(
            f"{offset:,} ids do not fit 32 bits; raise data.min_count or lower data.hash_size"
        )
    return Encoders(tuple(fields), scales)


def _refuse_bad_rows(parts: list[StagedPart], max_bad_share: float, source: Source) -> None:
    """Refuses a log with too many broken rows or a single usable one; warns of any other broken rows."""
    num_rows = sum(part.num_rows for part in parts)
    num_bad, bad = bad_rows(parts)
    total = num_rows + num_bad
    first = "; ".join(f"{row.place}: {row.reason}" for row in bad)
    if num_bad > max_bad_share * total:
        raise ValueError(
            f"{num_bad:,} of {total:,} rows are broken, more than "
            f"max_bad_share={max_bad_share}: {first}{advice(first)}"
        )
    if num_rows < 2:
        where = ", ".join(path.name for path in source.files) or source.name
        raise ValueError(
            f"{where}: one usable row cannot be split into training and test; give a longer log"
        )
    if num_bad:
        LOG.warning("%s of %s rows are broken and left out: %s", num_bad, total, first)


def _warn_of_inexact_identifiers(parts: list[StagedPart]) -> None:
    counts: dict[str, int] = {}
    for part in parts:
        for key, count in part.counts.items():
            if key.startswith(INEXACT):
                name = key.removeprefix(INEXACT)
                counts[name] = counts.get(name, 0) + count
    for name, count in counts.items():
        LOG.warning("%s", inexact_identifiers_warning(name, count))


def _refuse_one_class(parts: list[StagedPart], staged: Path, split: TimeSplit, name: str) -> None:
    seen: set[int] = set()
    for part, first in zip(parts, first_rows(parts), strict=True):
        clicks = read_rows(staged, part, "labels", 0, 1)[0]
        seen |= set(np.unique(clicks[split.mask(first, part.num_rows)]).tolist())
        if len(seen) > 1:
            return
    raise ValueError(
        f"label {name} is {min(seen)} in all {split.num_train:,} training rows; nothing can be "
        "learned"
    )
