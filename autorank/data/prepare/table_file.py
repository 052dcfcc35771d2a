"""Table files: delimited text, Parquet, and Arrow (Feather) files.

The format, the columns and their types are checked before any row is read. Preparation and scoring both open files
here, so that they read them alike.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from autorank.data.format.column_casts import read_as
from autorank.data.format.column_types import describe, require_types, roles_of
from autorank.data.format.file_format import FileFormat, detect_format
from autorank.data.format.source import Chunk, Columns, Position, Segment
from autorank.data.prepare import csv_format, text_segments
from autorank.data.prepare.csv_format import CsvFormat

SEGMENT_ROWS = 1 << 19  # rows of a segment of a large row group
LARGE_GROUP = 1 << 22  # rows from which a row group is read in several segments


class TableFile(NamedTuple):
    """A table file whose columns are known.

    Attributes:
        path: the file.
        form: its format.
        csv: how lines are divided into cells, for text.
        names: names of all columns.
        schema: the Arrow schema; None for text, whose columns have no types.
    """

    path: Path
    form: FileFormat
    csv: CsvFormat
    names: tuple[str, ...]
    schema: Any = None


def inspect_table(path: Path, csv: CsvFormat, key: str = "data.path") -> TableFile:
    """Detects the format and the columns of a file.

    Args:
        path: the file.
        csv: how lines are divided into cells, if it is text.
        key: the setting or argument that named the file, for messages.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a table, an empty or broken file, or a column name that occurs twice.

    Examples:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "clicks.csv"
        ...     _ = path.write_text("clicked,user\\n1,a\\n")
        ...     inspect_table(path, CsvFormat()).names
        ('clicked', 'user')
    """
    form = detect_format(path, key)
    if form.content == "text":
        return TableFile(path, form, csv, csv_format.column_names(path, csv))
    with _opened(path, form) as file:
        schema = file.schema_arrow if form.content == "parquet" else file.schema
        names = tuple(schema.names)
    csv_format.require_distinct(path, names)
    return TableFile(path, form, csv, names, schema)


def check_types(file: TableFile, columns: Columns, read: Sequence[str]) -> None:
    """Rejects columns of the file whose type does not fit their role; see `column_types.require_types`."""
    if file.schema is not None:
        roles = {name: role for name, role in roles_of(columns).items() if name in read}
        require_types(file.path, file.schema, roles)


def has_rows(file: TableFile) -> bool:
    """Whether the file has any row."""
    if file.form.content == "text":
        return csv_format.has_rows(file.path, file.csv)
    with _opened(file.path, file.form) as opened:
        if file.form.content == "parquet":
            return opened.metadata.num_rows > 0
        batches = range(opened.num_record_batches)
        return any(opened.get_batch(index).num_rows for index in batches)


def table_segments(
    file: TableFile, columns: Columns, start: Position, *, read: Sequence[str] | None = None
) -> Iterator[Segment]:
    """The segments of a file in order, from a position on.

    Columns are cast as their roles require (`column_casts.read_as`); columns without a role are not. The "lines" of a
    Parquet or Arrow file are row numbers from 1.

    Raises:
        ValueError: a broken file.
    """
    if file.form.content == "text":
        yield from text_segments.segments([file.path], file.csv, columns, start, read=read)
        return
    wanted = tuple(columns.read if read is None else read)
    roles = roles_of(columns)
    to_read = {name: roles.get(name) for name in wanted}
    sizes = _group_sizes(file)
    total, before = sum(sizes), 0
    for group, size in enumerate(sizes):
        step = SEGMENT_ROWS if size > LARGE_GROUP else max(size, 1)
        for first in range(0, size, step):
            end = before + min(first + step, size)
            if end > start.offset:
                read_rows = partial(_read_rows, file, to_read, group, first, step, before + 1)
                yield Segment(read_rows, Position(0, end, end + 1), end / total)
        before += size


def _group_sizes(file: TableFile) -> list[int]:
    """Rows of each row group or record batch."""
    with _opened(file.path, file.form) as opened:
        if file.form.content == "parquet":
            found = opened.metadata
            return [found.row_group(i).num_rows for i in range(found.num_row_groups)]
        return [opened.get_batch(i).num_rows for i in range(opened.num_record_batches)]


def _read_rows(
    file: TableFile,
    roles: Mapping[str, str | None],
    group: int,
    first: int,
    num_rows: int,
    line: int,
) -> Chunk:
    """Reads rows of a row group.

    Args:
        file: the file.
        roles: the columns to read, and their roles.
        group: number of the row group or record batch.
        first: first row of the group to read.
        num_rows: at most so many rows are read.
        line: the number of the group's first row in the file.
    """
    import polars as pl
    import pyarrow as pa

    names = list(roles)
    # Each call opens the file, so that segments can be read in parallel.
    with _opened(file.path, file.form) as opened:
        if file.form.content == "parquet":
            found = opened.read_row_group(group, columns=names)
        else:
            found = pa.Table.from_batches([opened.get_batch(group).select(names)])
            found.validate(full=True)  # offsets of a broken file may lead out of bounds
    found = found.slice(first, num_rows)
    columns: dict[str, Any] = {}
    for name, role in roles.items():
        column = _as_role(file, name, found[name], role)
        if role is None or pa.types.is_temporal(column.type):
            columns[name] = column.combine_chunks()
        else:
            columns[name] = pl.Series(name, pl.from_arrow(column))
    lines = np.arange(line + first, line + first + len(found))
    return Chunk(columns, file.path.name, lines)


def _as_role(file: TableFile, name: str, column: Any, role: str | None) -> Any:
    import pyarrow as pa

    field = file.schema.field(name)
    try:
        return read_as(column, field, role)
    except pa.ArrowException as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"{file.path}: column {name!r} of type {describe(field)} cannot be read as {role}: {reason}"
        ) from error


class _opened:  # noqa: N801
    """An open Parquet or Arrow file; errors inside the block name the file."""

    def __init__(self, path: Path, form: FileFormat):
        self._path, self._form = path, form
        self._stack: list[Any] = []

    def __enter__(self) -> Any:
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            if self._form.content == "parquet":
                self._stack.append(pq.ParquetFile(self._path))
                return self._stack[-1]
            self._stack.append(pa.memory_map(str(self._path)))
            return pa.ipc.open_file(self._stack[-1])
        except (pa.ArrowException, OSError) as error:
            raise self._broken(error) from error

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        import pyarrow as pa

        for file in self._stack:
            file.close()
        if isinstance(error, pa.ArrowException | OSError | UnicodeDecodeError):
            raise self._broken(error) from error

    def _broken(self, error: Exception) -> ValueError:
        reason, advice = " ".join(str(error).split()), "is it whole? Fetch or write it again"
        if isinstance(error, NotImplementedError):
            advice = "write it without the feature named there"
        return ValueError(
            f"{self._path}: this {self._form.content} file cannot be read ({reason}); {advice}"
        )
