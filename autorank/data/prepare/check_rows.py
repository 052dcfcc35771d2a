"""Checks the rows of a chunk: labels, numbers and times."""

from typing import Any, NamedTuple

import numpy as np

from autorank.data.fast_text.cell_parser import IntegerColumn
from autorank.data.format.source import BadRow, Chunk, Columns
from autorank.data.prepare.columns import as_series, item, to_numbers
from autorank.data.prepare.time_forms import ACCEPTED, TimeColumn
from autorank.data.prepare.times import read_times

NO_TIME = "is not a time"


class CheckedRows(NamedTuple):
    """The parsed columns of a chunk, and which rows are usable.

    Attributes:
        usable: bool [n].
        bad: the place and the reason of each other row.
        dense: for each dense column float64 [n], or the integers as they were read.
        labels: for each label numbers [n].
        time: the time column, if there is one.
    """

    usable: np.ndarray
    bad: list[BadRow]
    dense: list[np.ndarray | IntegerColumn]
    labels: list[np.ndarray]
    time: TimeColumn | None


def check_rows(chunk: Chunk, columns: Columns) -> CheckedRows:
    """Parses the columns of a chunk and finds the rows that cannot be used.

    Raises:
        ValueError: a column is missing, or the time column has a type that is not a time.

    Examples:
        >>> chunk = Chunk({"user": ["a", "b"], "clicked": np.array([1, 2])}, "log.csv", np.array([2, 3]))
        >>> check_rows(chunk, Columns(("user",), (), click="clicked")).bad
        [BadRow(place='log.csv:3', reason='clicked=2 is not a label 0 or 1')]
    """
    absent = [name for name in columns.read if name not in chunk.columns]
    if absent:
        raise ValueError(
            f"{chunk.file}: columns {absent} are missing; it has {list(chunk.columns)}"
        )
    reasons: dict[int, str] = {}

    def refuse(wrong: np.ndarray, name: str, what: str) -> None:
        for row in np.flatnonzero(wrong).tolist():
            reasons.setdefault(row, f"{name}={item(chunk.columns[name], row)!r} {what}")

    dense, labels = [], []
    for name in columns.dense:
        column = chunk.columns[name]
        if isinstance(column, IntegerColumn) and not column.other_text:
            dense.append(column)
            continue
        numbers, malformed = to_numbers(column)
        refuse(malformed, name, "is not a number")
        dense.append(numbers)
    for name in columns.labels:
        numbers = read_labels(chunk.columns[name])
        refuse((numbers != 0) & (numbers != 1), name, "is not a label 0 or 1")
        labels.append(numbers)
    time = None
    if columns.time is not None:
        try:
            time = read_times(chunk.columns[columns.time])
        except ValueError as error:
            raise ValueError(f"{chunk.file}: time column {columns.time!r}: {error}") from error
        refuse(~time.known, columns.time, NO_TIME)
    usable = np.ones(len(chunk.columns[columns.click]), bool)
    usable[list(reasons)] = False
    bad = [BadRow(place_of(chunk, row), reasons[row]) for row in sorted(reasons)]
    return CheckedRows(usable, bad, dense, labels, time)


def read_labels(column: Any) -> np.ndarray:
    """Labels as float64 [n]; the texts true and false, in any case, are 1 and 0."""
    numbers, _ = to_numbers(column)
    rows = np.flatnonzero((numbers != 0) & (numbers != 1))
    if not len(rows) or (isinstance(column, np.ndarray) and column.dtype.kind in "biuf"):
        return numbers
    import polars as pl

    if isinstance(column, IntegerColumn):
        texts = pl.Series([column[row] for row in rows], dtype=pl.String)
    else:
        texts = as_series(column)[rows]
    if texts.dtype == pl.String:
        texts = texts.str.strip_chars().str.to_lowercase()
        numbers[rows[(texts == "true").fill_null(False).to_numpy()]] = 1
        numbers[rows[(texts == "false").fill_null(False).to_numpy()]] = 0
    return numbers


def first_places(chunk: Chunk, name: str, time: TimeColumn) -> dict[str, tuple[int, str]]:
    """The forms of a time column, with the place and value of the first row of each."""
    return {
        form: (count, f"{place_of(chunk, row)}: {_shortened(item(chunk.columns[name], row))}")
        for form, (count, row) in time.forms.items()
    }


def place_of(chunk: Chunk, row: int) -> str:
    """The place of a row as ``file:line``."""
    return f"{chunk.file}:{'?' if chunk.lines is None else chunk.lines[row]}"


def advice(reasons: str) -> str:
    """A sentence on valid times, if rows were left out because of theirs."""
    return f". A time column has {ACCEPTED}" if NO_TIME in reasons else ""


def _shortened(value: Any) -> str:
    """A cell as one short line of a message."""
    text = " ".join(str(value).split())
    return text if len(text) <= 40 else f"{text[:40]}..."
