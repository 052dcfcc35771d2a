"""Logs of one or many files: a file, a folder, or a pattern of file names. Spark and BigQuery write many files.

The files are read in the order of their names, which must be the time order if there is no time column.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

from autorank.data.format.column_types import describe, kind_of
from autorank.data.format.file_format import detect_format
from autorank.data.format.source import Columns, Position, Segment
from autorank.data.prepare.csv_format import CsvFormat
from autorank.data.prepare.table_file import TableFile, inspect_table, table_segments

# Kinds of type whose values are comparable as canonical text.
_AS_TEXT = ("text", "whole number", "number", "decimal", "uuid")
_NUMBERS = ("whole number", "number", "decimal")


def files_of(path: Path) -> tuple[Path, ...]:
    """The files named by a path: a file, a folder, or a pattern with * and ? in its last component.

    Files of a folder that begin with "." or "_" are ignored; folders in it are rejected.

    Raises:
        FileNotFoundError: no file matches the pattern.
        ValueError: a folder without files, or with further folders.
    """
    if path.is_dir():
        within = sorted(p for p in path.iterdir() if not p.name.startswith((".", "_")))
        folders = [p.name for p in within if p.is_dir()]
        if folders:
            raise ValueError(
                f"{path} contains folders ({folders[0]}, ...); data.path must name one that holds the files of the log"
            )
        if not within:
            raise ValueError(f"{path} is an empty folder; data.path must name a log")
        return tuple(within)
    if not path.exists() and set("*?[") & set(path.name):
        found = sorted(p for p in path.parent.glob(path.name) if p.is_file())
        if not found:
            raise FileNotFoundError(f"no file matches {path}; data.path must name a log")
        return tuple(found)
    return (path,)


def inspect_tables(files: Sequence[Path], csv: CsvFormat) -> list[TableFile]:
    """`table_file.inspect_table` of all files, which must have the same columns.

    Raises:
        FileNotFoundError, ValueError: as `inspect_table`; files with different columns are named.
    """
    found: list[TableFile] = []
    for path in files:
        if len(files) > 1 and path.stat().st_size == 0:
            continue  # programs that write many files leave empty ones
        found.append(inspect_table(path, csv))
        first, names = found[0], found[-1].names
        if set(names) != set(first.names):
            lacks = [name for name in first.names if name not in names]
            more = [name for name in names if name not in first.names]
            raise ValueError(
                f"{path} and {first.path} have different columns: {path.name} lacks {lacks} and also has {more}"
            )
    if not found:
        detect_format(files[0])  # raises, as the file is empty
    return found


def require_same_types(files: Sequence[TableFile], columns: Columns) -> None:
    """Rejects columns whose values cannot be compared across files because of their types.

    Raises:
        ValueError: names the column, two files and their types.
    """
    for name in (*columns.categorical, *([columns.time] if columns.time else [])):
        seen: dict[str, tuple[TableFile, str]] = {}
        for file in files:
            group, what = _comparable_group(file, name, name == columns.time)
            if group is not None:
                seen.setdefault(group, (file, what))
        if len(seen) > 1:
            (one, is_one), (other, is_other) = list(seen.values())[:2]
            raise ValueError(
                f"column {name!r} is {is_one} in {one.path} and {is_other} in {other.path}; write "
                "it in one type"
            )


def _comparable_group(file: TableFile, name: str, is_time: bool) -> tuple[str | None, str]:
    """The group of types that a column can be compared with, None for any; and a description of its type."""
    import pyarrow as pa

    if file.schema is None:
        return (None if is_time else "text"), "text"
    field = file.schema.field(name)
    kind, what = kind_of(field), describe(field)
    zoned = pa.types.is_timestamp(field.type) and field.type.tz is not None
    if kind == "no type" or (is_time and kind == "text"):
        return None, what
    if is_time and kind == "date":
        return "timestamp", what
    if is_time and kind in _NUMBERS:
        return "numbers", what
    if not is_time and kind in _AS_TEXT:
        return "text", what
    return (f"{kind} with a zone" if zoned else kind), what


def segments_of_files(
    files: Sequence[TableFile], columns: Columns, start: Position
) -> Iterator[Segment]:
    """The segments of all files in order, from a position on; see `table_file.table_segments`."""
    sizes = [file.path.stat().st_size for file in files]
    for index in range(start.file, len(files)):
        begin = start if index == start.file else Position()
        for segment in table_segments(files[index], columns, begin._replace(file=0)):
            share = (sum(sizes[:index]) + segment.share * sizes[index]) / max(sum(sizes), 1)
            yield segment._replace(end=segment.end._replace(file=index), share=share)
