"""What a raw log must offer so that it can be prepared.

Identity, roles of its columns, and chunks of rows.
"""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

Progress = Callable[[str], None]


class Columns(NamedTuple):
    """The role of each column.

    One column, one role: what is a label or dropped can never be a feature.
    """

    categorical: tuple[str, ...]
    dense: tuple[str, ...]
    click: str
    conversion: str | None = None
    time: str | None = None  # numbers or ISO dates; None: rows come in the order of time
    dropped: tuple[str, ...] = ()  # outcomes, and whatever else a model must not see

    @property
    def labels(self) -> tuple[str, ...]:
        """Label columns, click first."""
        return (self.click,) if self.conversion is None else (self.click, self.conversion)

    @property
    def read(self) -> tuple[str, ...]:
        """All columns but the dropped ones."""
        time = () if self.time is None else (self.time,)
        return (*self.categorical, *self.dense, *self.labels, *time)


class BadRow(NamedTuple):
    """A row that could not be used."""

    place: str  # "file:line"
    reason: str


class Chunk(NamedTuple):
    """Some rows.

    Every column with a role but the dropped ones, as numpy array, list or polars series.
    """

    columns: Mapping[str, Any]
    file: str = ""
    lines: np.ndarray | None = None  # int [n], of each row in its file; None: unknown
    bad: tuple[BadRow, ...] = ()  # rows the reader had to leave out
    counts: Mapping[str, int] = {}  # further things worth reporting, summed over chunks


class Cut(NamedTuple):
    """A place where a log can be taken up again."""

    file: int = 0  # index among the files
    offset: int = 0  # bytes of its text, or rows, that lie before
    line: int = 1  # of the file, from 1


class Piece(NamedTuple):
    """A part of a log that can be read for itself, in another thread."""

    read: Callable[[], Chunk]
    end: Cut  # where the next piece begins
    share: float = float("nan")  # of the log, up to the end


class Source(NamedTuple):
    """A raw log."""

    name: str
    settings: Mapping[
        str, Any
    ]  # JSON: all that decides the rows besides the files; a version number among it
    files: tuple[Path, ...]  # local raw files; their contents are part of the identity
    columns: Columns
    chunks: Callable[[Path, Progress], Iterator[Chunk]]  # may fetch raw files into the given folder
    origin: str
    licence: str
    notes: Callable[[int, int], dict[str, Any]] | None = (
        None  # (num_train, num_rows) -> notes of the schema
    )
    # Pieces from a cut on, cut alike every time: preparing goes on where it was stopped. None: the
    # log is read by ``chunks``, from its start.
    pieces: Callable[[Path, Progress, Cut], Iterator[Piece]] | None = None


def validate_columns(columns: Columns) -> None:
    """Refuses roles that contradict each other.

    Raises:
        ValueError: a column with two roles, or no feature at all.
    """
    roles: dict[str, str] = {}
    given = [(name, "categorical") for name in columns.categorical]
    given += [(name, "dense") for name in columns.dense]
    given += [(columns.click, "click")]
    given += [] if columns.conversion is None else [(columns.conversion, "conversion")]
    given += [] if columns.time is None else [(columns.time, "time")]
    given += [(name, "drop") for name in columns.dropped]
    for name, role in given:
        if name in roles:
            raise ValueError(
                f"column {name!r} is listed as {roles[name]} and as {role}; a column has one "
                "role, and an outcome "
                f"(click, conversion, drop) can never be a feature"
            )
        roles[name] = role
    if not columns.categorical:
        raise ValueError("no categorical column; list at least one under categorical")
