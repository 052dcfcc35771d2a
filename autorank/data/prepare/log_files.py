"""A log in one file, in a folder of files, or in the files that a pattern names: Spark and BigQuery write many.

The files come in the order of their names, which is the order of time where there is no time column.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

from autorank.data.format.column_types import describe, kind_of
from autorank.data.format.files import form_of
from autorank.data.format.source import Columns, Cut, Piece
from autorank.data.prepare.table_file import TableFile, look, pieces_of
from autorank.data.prepare.text import CsvFormat

# Kinds of type whose values of a category are the same text in one file as in another.
_AS_TEXT = ("text", "whole number", "number", "decimal", "uuid")
_NUMBERS = ("whole number", "number", "decimal")


def files_of(path: Path) -> tuple[Path, ...]:
    """The files that a path, a folder or a pattern (* and ? in its last part) names.

    Files of a folder that begin with "." or "_" are no part of the log; folders in it are refused.

    Raises:
        FileNotFoundError: nothing there.
        ValueError: a folder that holds no file, or further folders.
    """
    if path.is_dir():
        within = sorted(p for p in path.iterdir() if not p.name.startswith((".", "_")))
        folders = [p.name for p in within if p.is_dir()]
        if folders:
            raise ValueError(
                f"{path} holds folders ({folders[0]}, ...); data.path must name one whose files are the log"
            )
        if not within:
            raise ValueError(f"{path} is a folder without a file; data.path must name a log")
        return tuple(within)
    if not path.exists() and set("*?[") & set(path.name):
        found = sorted(p for p in path.parent.glob(path.name) if p.is_file())
        if not found:
            raise FileNotFoundError(f"no file matches {path}; data.path must name a log")
        return tuple(found)
    return (path,)


def look_at_all(files: Sequence[Path], csv: CsvFormat) -> list[TableFile]:
    """What is in the files, which must have the same columns.

    Raises:
        FileNotFoundError, ValueError: as `look`; files with other columns, both by name.
    """
    found: list[TableFile] = []
    for path in files:
        if len(files) > 1 and path.stat().st_size == 0:
            continue  # an empty part of many
        found.append(look(path, csv))
        first, names = found[0], found[-1].names
        if set(names) != set(first.names):
            lacks = [name for name in first.names if name not in names]
            more = [name for name in names if name not in first.names]
            raise ValueError(
                f"{path} and {first.path} have other columns: {path.name} lacks {lacks} and has {more} besides"
            )
    if not found:
        form_of(files[0])  # says that it is empty
    return found


def require_alike(files: Sequence[TableFile], columns: Columns) -> None:
    """Refuses columns whose types have no common reading in all files.

    Raises:
        ValueError: by column, with both files and types.
    """
    for name in (*columns.categorical, *([columns.time] if columns.time else [])):
        seen: dict[str, tuple[TableFile, str]] = {}
        for file in files:
            family, what = _family(file, name, name == columns.time)
            if family is not None:
                seen.setdefault(family, (file, what))
        if len(seen) > 1:
            (one, is_one), (other, is_other) = list(seen.values())[:2]
            raise ValueError(
                f"column {name!r} is {is_one} in {one.path} and {is_other} in {other.path}; write "
                "it in one type"
            )


def _family(file: TableFile, name: str, is_time: bool) -> tuple[str | None, str]:
    """What a column's values can be compared with, None: anything; and its type in words."""
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


def pieces_of_all(files: Sequence[TableFile], columns: Columns, start: Cut) -> Iterator[Piece]:
    """Pieces of all files in their order, from a cut on; see `table_file.pieces_of`."""
    sizes = [file.path.stat().st_size for file in files]
    for index in range(start.file, len(files)):
        begin = start if index == start.file else Cut()
        for piece in pieces_of(files[index], columns, begin._replace(file=0)):
            share = (sum(sizes[:index]) + piece.share * sizes[index]) / max(sum(sizes), 1)
            yield piece._replace(end=piece.end._replace(file=index), share=share)
