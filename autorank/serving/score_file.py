"""Scores the rows of a file and writes one row of output for each, as they are read."""

import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from autorank.data.format.schema import UNKNOWN
from autorank.data.logs.rows_to_score import RowsToScore
from autorank.data.prepare.columns import inexact_identifiers, inexact_identifiers_warning
from autorank.data.prepare.encoders import Encoders, encode_rows
from autorank.serving.export import Scorer

LOG = logging.getLogger(__name__)
LINE, REASON = "line", "reason"
KEPT_REASONS = 5


def added_columns(metrics: tuple[str, ...]) -> tuple[str, ...]:
    """The columns that are added to those of the file.

    Examples:
        >>> added_columns(("ctr", "cvr"))
        ('line', 'p_ctr', 'p_cvr', 'reason')
    """
    return LINE, *(f"p_{metric}" for metric in metrics), REASON


class Tally(NamedTuple):
    """The counts of a scored file.

    Attributes:
        num_rows: rows of the file.
        num_scored: rows with probabilities.
        unknown: field -> scored rows with an unknown id, for fields with a vocabulary.
        first: the first few reasons why a row has no probability.
    """

    num_rows: int
    num_scored: int
    unknown: dict[str, int]
    first: tuple[str, ...]


def write_scores(
    rows: Iterator[RowsToScore], encoders: Encoders, scorer: Scorer, out: Path
) -> Tally:
    """Writes ``out``, a .csv or Parquet file, completely or not at all.

    It has the rows of the file in their order, each with its ``line``, ``p_<metric>`` and ``reason``: either
    probabilities, or a reason why there are none. The file's own columns come first; those of a line that could not be
    read are empty.
    """
    scoring = _FileScoring(encoders, scorer)
    added = added_columns(scorer.metrics)
    partial = out.with_name(f".{out.name}.part")
    writer: _Writer | None = None
    try:
        for part in rows:
            table = scoring.score(part)
            if writer is None:
                lost = [name for name in part.cells.column_names if name in added]
                if lost:
                    LOG.warning("%s: columns %s of the file are replaced by the scores'", out, lost)
                writer = _Writer(partial, table.schema, as_csv=out.suffix.lower() == ".csv")
            writer.write(table)
        assert writer is not None, "even a file without rows yields its columns"
        writer.close()
        os.replace(partial, out)
    finally:
        if writer is not None:
            writer.close()
        partial.unlink(missing_ok=True)
    for name, count in scoring.inexact.items():
        LOG.warning("%s", inexact_identifiers_warning(name, count))
    return scoring.tally()


class _FileScoring:
    """Scores the parts of a file, and counts."""

    def __init__(self, encoders: Encoders, scorer: Scorer):
        self.inexact: dict[str, int] = {}
        self._encoders, self._scorer = encoders, scorer
        self._num_rows = self._num_scored = 0
        self._unknown = {field.name: 0 for field in encoders.fields if not field.buckets}
        self._first: list[str] = []

    def tally(self) -> Tally:
        """The counts so far."""
        return Tally(self._num_rows, self._num_scored, self._unknown, tuple(self._first))

    def score(self, part: RowsToScore) -> Any:
        """The output rows of a part: an Arrow table."""
        sparse, dense, wrong = encode_rows(self._encoders, part.features)
        reasons = {row: f"{name}={reason}" for row, (name, reason) in wrong.items()} | part.reasons
        good = np.ones(len(part.cells), bool)
        good[list(reasons)] = False
        probabilities = np.full((len(good), len(self._scorer.metrics)), np.nan, np.float32)
        probabilities[good] = self._scorer.predict(sparse[good], dense[good])
        for j, field in enumerate(self._encoders.fields):
            if field.name in self._unknown:
                unknown = np.count_nonzero(sparse[good, j] == field.offset + UNKNOWN)
                self._unknown[field.name] += int(unknown)
            count = len(inexact_identifiers(part.features[field.name]))
            if count:
                self.inexact[field.name] = self.inexact.get(field.name, 0) + count
        self._num_rows += len(good) + len(part.bad)
        self._num_scored += int(good.sum())
        table = self._table(part, good, probabilities, reasons)
        self._keep_first_reasons(table)
        return table

    def _table(
        self,
        part: RowsToScore,
        good: np.ndarray,
        probabilities: np.ndarray,
        reasons: dict[int, str],
    ) -> Any:
        import pyarrow as pa

        # Unreadable lines are appended, and then all rows are sorted by line.
        num_bad = len(part.bad)
        lines = np.concatenate([part.lines, [line for line, _ in part.bad]]).astype(np.int64)
        order = np.argsort(lines, kind="stable")
        all_reasons = [reasons.get(row) for row in range(len(good))]
        all_reasons += [reason for _, reason in part.bad]
        unread = np.append(np.zeros(len(good), bool), np.ones(num_bad, bool))
        absent = np.append(~good, np.ones(num_bad, bool))
        rows = pa.array(np.where(unread, 0, np.arange(len(unread))), mask=unread)
        added = added_columns(self._scorer.metrics)
        own = [name for name in part.cells.column_names if name not in added]
        table = part.cells.select(own).take(rows).append_column(LINE, pa.array(lines))
        for q, metric in enumerate(self._scorer.metrics):
            column = np.append(probabilities[:, q], np.full(num_bad, np.nan, np.float32))
            table = table.append_column(f"p_{metric}", pa.array(column, mask=absent))
        return table.append_column(REASON, pa.array(all_reasons, pa.string())).take(pa.array(order))

    def _keep_first_reasons(self, table: Any) -> None:
        if len(self._first) == KEPT_REASONS:
            return
        for line, reason in zip(table[LINE].to_pylist(), table[REASON].to_pylist(), strict=True):
            if reason is not None and len(self._first) < KEPT_REASONS:
                self._first.append(f"{LINE} {line}: {reason}")


class _Writer:
    """Writes a CSV or Parquet file, one table at a time."""

    def __init__(self, path: Path, schema: Any, *, as_csv: bool):
        import pyarrow.csv as pc
        import pyarrow.parquet as pq

        self._file: Any = (pc.CSVWriter if as_csv else pq.ParquetWriter)(str(path), schema)
        self._schema, self._open = schema, True

    def write(self, table: Any) -> None:
        """Appends a table, cast to the schema of the first one."""
        self._file.write_table(table.cast(self._schema))

    def close(self) -> None:
        """Completes the file; may be called again."""
        if self._open:
            self._open = False
            self._file.close()
