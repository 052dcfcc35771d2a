"""Opening a file that should be a table: CSV or other delimited text, Parquet, or an Arrow (Feather) file.

What it is, which columns it has and whether their types fit their roles is known, or refused by name, before any row is
read. Preparing and scoring open files here, so that both read the same.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from autorank.data.format.column_types import describe, read_as, require_types, roles_of
from autorank.data.format.files import FileForm, form_of
from autorank.data.format.source import Chunk, Columns, Cut, Piece
from autorank.data.prepare import text
from autorank.data.prepare.text import CsvFormat

ROWS = 1 << 19  # rows of a chunk of a Parquet file
LARGE_GROUP = 1 << 22  # rows of a row group that is read in more than one piece


class TableFile(NamedTuple):
    """A file whose columns are known."""

    path: Path
    form: FileForm
    csv: CsvFormat  # how lines are cut, for text
    names: tuple[str, ...]
    schema: Any = None  # the Arrow schema; None for text, whose columns have no type


def look(path: Path, csv: CsvFormat, key: str = "data.path") -> TableFile:
    """What is in a file.

    Args:
        key: the setting or argument that named the file, for messages.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no table, an empty or broken file, a column name that occurs twice.
    """
    form = form_of(path, key)
    if form.content == "text":
        return TableFile(path, form, csv, text.column_names(path, csv))
    with _opened(path, form) as file:
        schema = file.schema_arrow if form.content == "parquet" else file.schema
        names = tuple(schema.names)
    text.require_distinct(path, names)
    return TableFile(path, form, csv, names, schema)


def open_table(
    path: Path,
    columns: Columns,
    csv: CsvFormat,
    *,
    read: Sequence[str] | None = None,
    key: str = "data.path",
) -> TableFile:
    """`look`, and the columns to be read are there and have types that fit their roles.

    Args:
        read: columns to read, where they are not all those with a role.

    Raises:
        FileNotFoundError, ValueError: as `look`; an absent column; a type that cannot be read in a role.
    """
    file = look(path, csv, key)
    wanted = columns.read if read is None else tuple(read)
    absent = [name for name in wanted if name not in file.names]
    if absent:
        raise ValueError(f"{path}: columns {absent} are missing; it has {list(file.names)}")
    check_types(file, columns, wanted)
    return file


def check_types(file: TableFile, columns: Columns, read: Sequence[str]) -> None:
    """Refuses columns whose type does not fit their role; see `column_types.require_types`."""
    if file.schema is not None:
        roles = {name: role for name, role in roles_of(columns).items() if name in read}
        require_types(file.path, file.schema, roles)


def has_rows(file: TableFile) -> bool:
    """Whether there is anything behind the header."""
    if file.form.content == "text":
        return text.has_rows(file.path, file.csv)
    with _opened(file.path, file.form) as opened:
        if file.form.content == "parquet":
            return opened.metadata.num_rows > 0
        batches = range(opened.num_record_batches)
        return any(opened.get_batch(index).num_rows for index in batches)


def pieces_of(
    file: TableFile, columns: Columns, start: Cut, *, read: Sequence[str] | None = None
) -> Iterator[Piece]:
    """Pieces that can be read side by side, in the order of the rows, from a cut on.

    A chunk's columns are as their roles need them (`column_types.read_as`); those without a role as the file has them.
    "Lines" of a Parquet or Arrow file are row numbers from 1.

    Raises:
        ValueError: a broken file.
    """
    if file.form.content == "text":
        yield from text.pieces([file.path], file.csv, columns, start, read=read)
        return
    wanted = tuple(columns.read if read is None else read)
    roles = roles_of(columns)
    plan = _Plan(file, {name: roles.get(name) for name in wanted})
    sizes = _group_sizes(file)
    total, before = sum(sizes), 0
    for group, size in enumerate(sizes):
        step = ROWS if size > LARGE_GROUP else max(size, 1)
        for first in range(0, size, step):
            end = before + min(first + step, size)
            if end > start.offset:
                take = partial(_read_group, plan, group, first, step, before + 1)
                yield Piece(take, Cut(0, end, end + 1), end / total)
        before += size


class _Plan(NamedTuple):
    file: TableFile
    roles: Mapping[str, str | None]  # of the columns to read


def _group_sizes(file: TableFile) -> list[int]:
    """Rows of each row group or record batch."""
    with _opened(file.path, file.form) as opened:
        if file.form.content == "parquet":
            found = opened.metadata
            return [found.row_group(i).num_rows for i in range(found.num_row_groups)]
        return [opened.get_batch(i).num_rows for i in range(opened.num_record_batches)]


def _read_group(plan: _Plan, group: int, first: int, num_rows: int, line: int) -> Chunk:
    """Rows of a row group whose first is row ``line`` of the file."""
    import polars as pl
    import pyarrow as pa

    file, names = plan.file, list(plan.roles)
    # The file is opened again, so that groups can be read side by side.
    with _opened(file.path, file.form) as opened:
        if file.form.content == "parquet":
            found = opened.read_row_group(group, columns=names)
        else:
            found = pa.Table.from_batches([opened.get_batch(group).select(names)])
            found.validate(full=True)  # a broken file may point anywhere
    found = found.slice(first, num_rows)
    columns: dict[str, Any] = {}
    for name, role in plan.roles.items():
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
    """A Parquet or Arrow file; what goes wrong inside names it."""

    def __init__(self, path: Path, form: FileForm):
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
            advice = "write it without what is named there"
        return ValueError(
            f"{self._path}: this {self._form.content} file cannot be read ({reason}); {advice}"
        )
