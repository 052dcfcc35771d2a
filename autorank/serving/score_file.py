"""Scores of a file's rows, one for each, written as they are made."""

import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from autorank.data.format.schema import UNKNOWN
from autorank.data.logs.rows_to_score import Rows
from autorank.data.prepare.columns import inexact_identifiers, inexact_identifiers_warning
from autorank.data.prepare.encoders import Encoders, encode_rows

LOG = logging.getLogger(__name__)
LINE, REASON = "line", "reason"
KEPT = 5  # reasons that are told of


def names_of(metrics: tuple[str, ...]) -> tuple[str, ...]:
    """The columns that are added to a file's own."""
    return LINE, *(f"p_{metric}" for metric in metrics), REASON


class Tally(NamedTuple):
    """What was met on the way."""

    num_rows: int
    num_scored: int
    unknown: dict[
        str, int
    ]  # field -> scored rows with an unknown id; fields with hashed ids have none
    first: tuple[str, ...]  # the first few reasons


def write_scores(
    rows: Iterator[Rows],
    encoders: Encoders,
    predict: Callable[[np.ndarray, np.ndarray], np.ndarray],
    metrics: tuple[str, ...],
    out: Path,
) -> Tally:
    """Writes ``out``, a .csv or Parquet file, whole or not at all.

    Its rows are those of the file in their order, each with its ``line``, ``p_<metric>`` and ``reason``: either it has
    probabilities, or a reason why not. The file's own columns stand in front; those of a line that could not be read
    are empty.
    """
    counts = _Counts(encoders)
    partial = out.with_name(f".{out.name}.part")
    writer: _Writer | None = None
    try:
        for part in rows:
            table = _scored(part, encoders, predict, metrics, counts)
            if writer is None:
                lost = [name for name in part.cells.column_names if name in names_of(metrics)]
                if lost:
                    LOG.warning("%s has columns %s of its own in place of the file's", out, lost)
                writer = _Writer(partial, table.schema, as_csv=out.suffix.lower() == ".csv")
            writer.write(table)
        assert writer is not None, "a file gives its columns at least"
        writer.close()
        os.replace(partial, out)
    finally:
        if writer is not None:
            writer.close()
        partial.unlink(missing_ok=True)
    for name, count in counts.long_floats.items():
        LOG.warning("%s", inexact_identifiers_warning(name, count))
    return Tally(counts.num_rows, counts.num_scored, counts.unknown, tuple(counts.first))


class _Counts:
    """Sums over the parts of a file."""

    def __init__(self, encoders: Encoders):
        self.num_rows = self.num_scored = 0
        self.unknown = {field.name: 0 for field in encoders.fields if not field.buckets}
        self.long_floats: dict[str, int] = {}
        self.first: list[str] = []


def _scored(
    part: Rows,
    encoders: Encoders,
    predict: Callable[[np.ndarray, np.ndarray], np.ndarray],
    metrics: tuple[str, ...],
    counts: _Counts,
) -> Any:
    """The rows of a part as they are written: an Arrow table."""
    import pyarrow as pa

    sparse, dense, wrong = encode_rows(encoders, part.features)
    reasons = {row: f"{name}={reason}" for row, (name, reason) in wrong.items()} | part.reasons
    good = np.ones(len(part.cells), bool)
    good[list(reasons)] = False
    probabilities = np.full((len(good), len(metrics)), np.nan, np.float32)
    probabilities[good] = predict(sparse[good], dense[good])
    for j, field in enumerate(encoders.fields):
        if field.name in counts.unknown:
            unknown = np.count_nonzero(sparse[good, j] == field.offset + UNKNOWN)
            counts.unknown[field.name] += int(unknown)
        count = len(inexact_identifiers(part.features[field.name]))
        if count:
            counts.long_floats[field.name] = counts.long_floats.get(field.name, 0) + count
    # Lines that could not be read come behind the others, and all are put into their order.
    num_bad = len(part.bad)
    lines = np.concatenate([part.lines, [line for line, _ in part.bad]]).astype(np.int64)
    order = np.argsort(lines, kind="stable")
    told = [reasons.get(row) for row in range(len(good))] + [reason for _, reason in part.bad]
    unread = np.append(np.zeros(len(good), bool), np.ones(num_bad, bool))
    absent = np.append(~good, np.ones(num_bad, bool))
    place = pa.array(np.where(unread, 0, np.arange(len(unread))), mask=unread)
    theirs = [name for name in part.cells.column_names if name not in names_of(metrics)]
    table = part.cells.select(theirs).take(place).append_column(LINE, pa.array(lines))
    for q, metric in enumerate(metrics):
        column = np.append(probabilities[:, q], np.full(num_bad, np.nan, np.float32))
        table = table.append_column(f"p_{metric}", pa.array(column, mask=absent))
    table = table.append_column(REASON, pa.array(told, pa.string())).take(pa.array(order))
    counts.num_rows += len(order)
    counts.num_scored += int(good.sum())
    found = ((lines[row], told[row]) for row in order.tolist() if told[row] is not None)
    for _, (line, reason) in zip(range(KEPT - len(counts.first)), found, strict=False):
        counts.first.append(f"{LINE} {line}: {reason}")
    return table


class _Writer:
    """A CSV or Parquet file that is written table by table."""

    def __init__(self, path: Path, schema: Any, *, as_csv: bool):
        import pyarrow.csv as pc
        import pyarrow.parquet as pq

        self._file: Any = (pc.CSVWriter if as_csv else pq.ParquetWriter)(str(path), schema)
        self._schema, self._open = schema, True

    def write(self, table: Any) -> None:
        self._file.write_table(table.cast(self._schema))

    def close(self) -> None:
        if self._open:
            self._open = False
            self._file.close()
