"""The interface of a raw log: its identity, the roles of its columns, and its rows in chunks."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np


@runtime_checkable
class Progress(Protocol):
    """Receives one line of progress text at a time, such as ``logging.info`` does."""

    def __call__(self, line: str, /) -> Any:
        """Reports one line."""
        ...


class Columns(NamedTuple):
    """The role of each column.

    Every column has exactly one role, so a label or a dropped column can never be a feature.

    Attributes:
        categorical: features encoded as ids.
        dense: features encoded as standardised numbers.
        click: the label of the CTR task.
        conversion: the label of the CVR task, if any.
        time: numbers or ISO dates; None if the rows already come in time order.
        dropped: outcomes and other columns that a model must not see.

    Examples:
        >>> columns = Columns(("user", "item"), ("price",), click="clicked", conversion="bought", time="ts")
        >>> columns.labels
        ('clicked', 'bought')
        >>> columns.read
        ('user', 'item', 'price', 'clicked', 'bought', 'ts')
    """

    categorical: tuple[str, ...]
    dense: tuple[str, ...]
    click: str
    conversion: str | None = None
    time: str | None = None
    dropped: tuple[str, ...] = ()

    @property
    def labels(self) -> tuple[str, ...]:
        """Label columns, click first."""
        return (self.click,) if self.conversion is None else (self.click, self.conversion)

    @property
    def read(self) -> tuple[str, ...]:
        """All columns except the dropped ones."""
        time = () if self.time is None else (self.time,)
        return (*self.categorical, *self.dense, *self.labels, *time)


class BadRow(NamedTuple):
    """A row that cannot be used: its place as ``file:line``, and the reason."""

    place: str
    reason: str


class Chunk(NamedTuple):
    """Consecutive rows of a log.

    Attributes:
        columns: every column that has a role, except dropped ones, as a NumPy array, list or polars series [n].
        file: name of the file that the rows come from, for messages.
        lines: int [n], the line of each row in its file; None if unknown.
        bad: rows that the reader had to leave out.
        counts: further counters to report, summed over chunks.
    """

    columns: Mapping[str, Any]
    file: str = ""
    lines: np.ndarray | None = None
    bad: tuple[BadRow, ...] = ()
    counts: Mapping[str, int] = {}


class Position(NamedTuple):
    """A position in a log from which reading can resume.

    Attributes:
        file: index into the log's files.
        offset: bytes of (decompressed) text, or rows, that precede the position in that file.
        line: line number in that file, from 1.
    """

    file: int = 0
    offset: int = 0
    line: int = 1


@runtime_checkable
class ReadChunk(Protocol):
    """Reads the rows of one segment; safe to call from any thread."""

    def __call__(self) -> Chunk:
        """The rows."""
        ...


class Segment(NamedTuple):
    """A contiguous part of a log that can be read on its own, in any thread.

    Attributes:
        read: reads its rows.
        end: the position at which the next segment begins.
        share: the fraction of the log that lies before ``end``; NaN if unknown.
    """

    read: ReadChunk
    end: Position
    share: float = float("nan")


@runtime_checkable
class ReadChunks(Protocol):
    """Reads a whole log in order."""

    def __call__(self, raw: Path, progress: Progress, /) -> Iterator[Chunk]:
        """Chunks in the order of the log; missing raw files may be downloaded into the folder ``raw``."""
        ...


@runtime_checkable
class ReadSegments(Protocol):
    """Cuts a log into segments, at the same positions every time."""

    def __call__(self, raw: Path, progress: Progress, start: Position, /) -> Iterator[Segment]:
        """The segments from ``start`` on; missing raw files may be downloaded into the folder ``raw``."""
        ...


def chunks_of(segments: ReadSegments) -> ReadChunks:
    """Reads a whole log through its segments.

    Examples:
        >>> def segments(raw, progress, start):
        ...     yield Segment(lambda: Chunk({"user": ["a", "b"]}), Position(offset=2))
        >>> [chunk.columns["user"] for chunk in chunks_of(segments)(Path("raw"), print)]
        [['a', 'b']]
    """

    def read(raw: Path, progress: Progress) -> Iterator[Chunk]:
        return (segment.read() for segment in segments(raw, progress, Position()))

    return read


@runtime_checkable
class DescribeSplit(Protocol):
    """Notes for `schema.json` that depend on the split, such as the Bayes-optimal loss of generated rows."""

    def __call__(self, num_train: int, num_rows: int, /) -> dict[str, Any]:
        """Notes for ``num_rows`` rows, the first ``num_train`` of which are for training."""
        ...


class Source(NamedTuple):
    """A raw log.

    Attributes:
        name: identifies the log; also names the folder of its downloaded files.
        settings: JSON with everything besides the files that determines the rows, a version number included.
        files: local raw files; their contents are part of the log's identity.
        columns: the role of each column.
        chunks: reads the log in order.
        origin: where the log comes from, for people.
        licence: the terms of use, for people.
        notes: adds notes to the schema, if given.
        segments: reads the log in segments, so that preparation can resume where it stopped. If None, the log is read
            through ``chunks``, from its start.

    Examples:
        >>> rows = {"user": ["a", "b", "a"], "clicked": [1, 0, 1]}
        >>> log = Source(
        ...     name="toy", settings={"version": 1}, files=(), columns=Columns(("user",), (), click="clicked"),
        ...     chunks=lambda raw, progress: iter([Chunk(rows)]), origin="docs", licence="public domain",
        ... )
        >>> [len(chunk.columns["user"]) for chunk in log.chunks(Path("raw"), print)]
        [3]
    """

    name: str
    settings: Mapping[str, Any]
    files: tuple[Path, ...]
    columns: Columns
    chunks: ReadChunks
    origin: str
    licence: str
    notes: DescribeSplit | None = None
    segments: ReadSegments | None = None


def validate_columns(columns: Columns) -> None:
    """Rejects roles that contradict each other.

    Raises:
        ValueError: a column has two roles, or there is no categorical column.

    Examples:
        >>> validate_columns(Columns(("clicked",), (), click="clicked"))
        Traceback (most recent call last):
            ...
        ValueError: column 'clicked' is listed as categorical and as click; a column has one role, and an outcome \
(click, conversion, drop) can never be a feature
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
                "role, and an outcome (click, conversion, drop) can never be a feature"
            )
        roles[name] = role
    if not columns.categorical:
        raise ValueError("no categorical column; list at least one under categorical")
