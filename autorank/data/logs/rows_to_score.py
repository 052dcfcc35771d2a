"""Reads rows to be scored, in the way that the log of the model was read.

Such a file has the feature columns of the log; labels, time and outcomes are optional. Text is read with the log's own
separator, quotes and column names, and with its rules for broken lines. Columns that a source derives or joins (Avazu's
hours, MovieLens' films) are derived and joined here too. A file whose columns are named like those of the model, as
text, Parquet or Arrow, can always be read, whatever the log was.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from autorank.data.format.file_format import detect_format
from autorank.data.format.source import Chunk, Columns, Position
from autorank.data.logs import avazu, criteo, kuairand, movielens
from autorank.data.logs.base import DeriveForScoring
from autorank.data.prepare import csv_format, text_segments
from autorank.data.prepare.columns import as_text
from autorank.data.prepare.csv_format import CsvFormat
from autorank.data.prepare.encoders import Encoders
from autorank.data.prepare.table_file import check_types, inspect_table, table_segments

SEPARATORS = (",", "\t", ";", "|")
SHOWN = 12  # names listed in a message
KEY = "ROWS"  # the argument that names the file, for messages


class RowsToScore(NamedTuple):
    """Consecutive rows of a file.

    Attributes:
        cells: Arrow table [n], the file's columns, for the rows that could be read.
        lines: int64 [n], the line of a text file or the row of another file, from 1.
        features: the columns that the model needs, [n] each.
        reasons: row of the table -> why it cannot be scored.
        bad: line and reason of each row that could not be read.
    """

    cells: Any
    lines: np.ndarray
    features: Mapping[str, Any]
    reasons: dict[int, str]
    bad: tuple[tuple[int, str], ...]


class InputColumns(NamedTuple):
    """Names of raw columns that are sufficient, and how the features are computed from them."""

    names: tuple[str, ...]
    derive: DeriveForScoring


def read_rows_to_score(
    path: Path, reading: Mapping[str, Any] | None, encoders: Encoders
) -> Iterator[RowsToScore]:
    """The rows of a file in order; at least one item, without rows if the file has none.

    Args:
        path: the file.
        reading: result of `scoring_files.load_reading`; None for a table with a header.
        encoders: of the model, which determine the columns that are needed.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a table, or missing columns; names them.
    """
    import polars as pl
    import pyarrow as pa

    form = detect_format(path, KEY)
    kind = str(reading["settings"]["reader"]) if reading is not None else "table"
    inputs = _sufficient_inputs(kind, path, encoders)
    try:
        if form.content == "text":
            yield from _read_text(path, _log_formats(kind, reading), reading, inputs)
        else:
            yield from _read_columns(path, inputs, encoders)
    except (pa.ArrowException, pl.exceptions.PolarsError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path}: {reason}; is the file whole, and a table?") from error


def _sufficient_inputs(kind: str, path: Path, encoders: Encoders) -> list[InputColumns]:
    """The sets of columns each of which is sufficient; the features themselves come first."""
    names = tuple(encoder.name for encoder in (*encoders.fields, *encoders.dense))
    found = [InputColumns(names, lambda columns: (columns, {}))]
    if kind == "avazu":
        others = tuple(name for name in names if name not in avazu.DERIVED)
        found.append(InputColumns(("hour", *others), avazu.for_scoring))
    elif kind == "movielens":
        derive = movielens.for_scoring(path.parent)
        found += [InputColumns(columns, derive) for columns in movielens.SCORED]
    elif kind == "kuairand":
        found.append(InputColumns(kuairand.SCORED, kuairand.for_scoring(path.parent)))
    return found


def _log_formats(kind: str, reading: Mapping[str, Any] | None) -> list[CsvFormat]:
    """The formats in which text of such a log may be; several if the source has several layouts."""
    if kind in ("criteo", "criteo_like"):
        return [criteo.FORMAT, CsvFormat("\t")]
    if kind == "movielens":
        return [movielens.FORMAT, CsvFormat("\t")]
    given = reading["settings"].get("csv") if reading is not None and kind == "table" else None
    if given is None:
        return [CsvFormat()]
    columns = given["columns"]
    return [CsvFormat(**{**given, "columns": None if columns is None else tuple(columns)})]


def _detect_text_format(
    path: Path,
    forms: Sequence[CsvFormat],
    reading: Mapping[str, Any] | None,
    inputs: Sequence[InputColumns],
) -> tuple[CsvFormat, InputColumns]:
    """The format of a file, and which of its columns to use.

    A file with a header is recognised by the names in it, trying the log's own separator first and then the usual ones.
    A file without a header must have the log's columns in their order; those that are not features may be missing.
    """
    seen: list[str] = []
    for form in forms:
        for separator in dict.fromkeys((form.separator, *SEPARATORS)):
            named = form._replace(separator=separator, columns=None)
            lines = csv_format.first_lines(path, named, 1)
            names = lines[0] if lines else []
            # If the log has no header, one of its rows must not be mistaken for one.
            known = form.columns is None or set(names) <= set(form.columns)
            for needed in inputs:
                if known and set(needed.names) <= set(names):
                    return named, needed
            seen = seen or names
    if forms[0].columns is None:
        raise ValueError(f"{path}: {_missing_message(inputs, seen)}")
    for needed in inputs:
        if set(needed.names) <= set(forms[0].columns):
            return _format_without_header(path, forms[0], reading, needed), needed
    raise AssertionError("a log without a header has the columns that its models need")


def _format_without_header(
    path: Path, form: CsvFormat, reading: Mapping[str, Any] | None, needed: InputColumns
) -> CsvFormat:
    """The format with the names of the columns that the file has, inferred from their number.

    Raises:
        ValueError: no subset of the log's columns has this number, or several do.
    """
    assert form.columns is not None
    layouts: dict[int, dict[tuple[int, ...], tuple[str, ...]]] = {}
    for without in _optional_columns(form.columns, reading, needed):
        names = tuple(name for name in form.columns if name not in without)
        # Other columns do not matter if the needed ones are at the same places.
        places = tuple(names.index(name) for name in needed.names)
        layouts.setdefault(len(names), {}).setdefault(places, names)
    sizes = [len(cells) for cells in csv_format.first_lines(path, form)]
    fitting = [size for size in sizes if size in layouts]
    if not fitting:
        raise ValueError(
            f"{path}: its first line has {sizes[0] if sizes else 0} cells instead of "
            f"{' or '.join(map(str, sorted(layouts, reverse=True)))}; the log of the model has no header, "
            f"and its columns are {_shown(form.columns)}"
        )
    size = max(sorted(set(fitting), reverse=True), key=fitting.count)
    if len(layouts[size]) > 1:
        choices = " or ".join(map(_shown, sorted(layouts[size].values())))
        raise ValueError(
            f"{path}: {size} cells per line can be {choices}; add a header with the columns' names"
        )
    return form._replace(columns=next(iter(layouts[size].values())))


def _optional_columns(
    names: Sequence[str], reading: Mapping[str, Any] | None, needed: InputColumns
) -> list[set[str]]:
    """The sets of columns that a file may lack: none; or the labels, possibly with the time, the outcomes or both."""
    given = reading["columns"] if reading is not None else {}
    unneeded = set(names) - set(needed.names)
    labels = unneeded & {given.get("click"), given.get("conversion")}
    others = [unneeded & {given.get("time")}, unneeded & set(given.get("dropped", ()))]
    return [set(), *(labels.union(*more) for n in range(3) for more in combinations(others, n))]


def _read_text(
    path: Path,
    forms: Sequence[CsvFormat],
    reading: Mapping[str, Any] | None,
    inputs: Sequence[InputColumns],
) -> Iterator[RowsToScore]:
    import polars as pl

    form, needed = _detect_text_format(path, forms, reading, inputs)
    names = csv_format.column_names(path, form)
    roles = Columns(categorical=names, dense=(), click="")
    yield _rows(Chunk({name: pl.Series(name, [], pl.String) for name in names}), needed)
    for segment in text_segments.segments(
        (path,), form, roles, Position(), read=names, as_text=True
    ):
        yield _rows(segment.read(), needed)


def _read_columns(
    path: Path, inputs: Sequence[InputColumns], encoders: Encoders
) -> Iterator[RowsToScore]:
    file = inspect_table(path, CsvFormat(), KEY)
    needed = next((needed for needed in inputs if set(needed.names) <= set(file.names)), None)
    if needed is None:
        raise ValueError(f"{path}: {_missing_message(inputs, file.names)}")
    fields, dense = (
        tuple(encoder.name for encoder in part if encoder.name in needed.names)
        for part in encoders[:2]
    )
    roles = Columns(categorical=fields, dense=dense, click="")
    check_types(file, roles, needed.names)
    for segment in table_segments(file, roles, Position(), read=file.names):
        yield _rows(segment.read(), needed)


def _rows(chunk: Chunk, needed: InputColumns) -> RowsToScore:
    import pyarrow as pa

    cells = pa.table({name: _arrow(column) for name, column in chunk.columns.items()})
    features, reasons = needed.derive({name: chunk.columns[name] for name in needed.names})
    lines = np.arange(1, len(cells) + 1) if chunk.lines is None else chunk.lines
    bad = tuple((int(row.place.rpartition(":")[2]), row.reason) for row in chunk.bad)
    return RowsToScore(cells, lines, features, reasons, bad)


def _arrow(column: Any) -> Any:
    import polars as pl
    import pyarrow as pa

    if not isinstance(column, pl.Series):
        return column
    return as_text(column) if column.dtype == pl.String else pa.array(column.to_arrow())


def _missing_message(inputs: Sequence[InputColumns], names: Sequence[str]) -> str:
    sets = []
    for needed in inputs:
        absent = [name for name in needed.names if name not in names]
        sets.append(f"columns {_shown(absent)} are missing")
    return f"{', or else '.join(sets)}; its columns are {_shown(names)}"


def _shown(names: Sequence[str]) -> str:
    """A short list of names for a message."""
    cut = [name if len(name) <= 40 else name[:37] + "..." for name in names[:SHOWN]]
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{cut}{more}"
