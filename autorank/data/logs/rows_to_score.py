"""Rows to be scored, read as the log of the model was.

A file to be scored has the log's feature columns; labels, time and outcomes may be there or not. Text is cut by the
log's own separator, quotes and names, with its rules for broken lines; what a source derives from its columns or joins
to them (Avazu's hours, MovieLens' films) is derived and joined here too. A file that has a model's columns by their
names, as text, Parquet or Arrow, is read whatever the log was.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from autorank.data.format.file_format import detect_format
from autorank.data.format.source import Chunk, Columns, Position
from autorank.data.logs import avazu, criteo, kuairand, movielens
from autorank.data.prepare import csv_format, text_segments
from autorank.data.prepare.columns import as_text
from autorank.data.prepare.csv_format import CsvFormat
from autorank.data.prepare.encoders import Encoders
from autorank.data.prepare.table_file import check_types, inspect_table, table_segments

SEPARATORS = (",", "\t", ";", "|")
SHOWN = 12  # names in a message
KEY = "ROWS"  # the argument that names the file, for messages

Derive = Callable[[dict[str, Any]], tuple[Mapping[str, Any], dict[int, str]]]


class Rows(NamedTuple):
    """Some rows of a file."""

    cells: Any  # Arrow table [n]: the columns of the file, of the rows that could be read
    lines: np.ndarray  # int64 [n]: line of a text file, row of another, from 1
    features: Mapping[str, Any]  # [n] each
    reasons: dict[int, str]  # row of the table -> why it cannot be scored
    bad: tuple[tuple[int, str], ...]  # line and reason of what could not be read


class Raw(NamedTuple):
    """Raw columns from which features are made."""

    names: tuple[str, ...]
    derive: Derive


def read(path: Path, reading: Mapping[str, Any] | None, encoders: Encoders) -> Iterator[Rows]:
    """The rows of a file in their order: at least once, with no row if there is none.

    Args:
        reading: what `store.load_reading` gives; None: a table with a line of names.
        encoders: of the model, whose columns are needed.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no table, or one that lacks columns, by name.
    """
    import polars as pl
    import pyarrow as pa

    form = detect_format(path, KEY)
    kind = str(reading["settings"]["reader"]) if reading is not None else "table"
    raws = _raws(kind, path, encoders)
    try:
        if form.content == "text":
            yield from _read_text(path, _forms(kind, reading), reading, raws)
        else:
            yield from _read_columns(path, raws, encoders)
    except (pa.ArrowException, pl.exceptions.PolarsError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path}: {reason}; is the file whole, and a table?") from error


def _raws(kind: str, path: Path, encoders: Encoders) -> list[Raw]:
    """Sets of columns each of which is enough, the features themselves first."""
    names = tuple(encoder.name for encoder in (*encoders.fields, *encoders.dense))
    found = [Raw(names, lambda columns: (columns, {}))]
    if kind == "avazu":
        others = tuple(name for name in names if name not in avazu.DERIVED)
        found.append(Raw(("hour", *others), avazu.for_scoring))
    elif kind == "movielens":
        derive = movielens.for_scoring(path.parent)
        found += [Raw(columns, derive) for columns in movielens.SCORED]
    elif kind == "kuairand":
        found.append(Raw(kuairand.SCORED, kuairand.for_scoring(path.parent)))
    return found


def _forms(kind: str, reading: Mapping[str, Any] | None) -> list[CsvFormat]:
    """How text of such a log is cut; several where the source has several layouts."""
    if kind in ("criteo", "criteo_like"):
        return [criteo.FORMAT, CsvFormat("\t")]
    if kind == "movielens":
        return [movielens.FORMAT, CsvFormat("\t")]
    given = reading["settings"].get("csv") if reading is not None and kind == "table" else None
    if given is None:
        return [CsvFormat()]
    columns = given["columns"]
    return [CsvFormat(**{**given, "columns": None if columns is None else tuple(columns)})]


def _text_form(
    path: Path, forms: Sequence[CsvFormat], reading: Mapping[str, Any] | None, raws: Sequence[Raw]
) -> tuple[CsvFormat, Raw]:
    """How to cut a file, and which of its columns to take.

    A file with a line of names is known by them: the log's own separator first, then the usual ones. One without must
    have the log's columns in their order; those that are no feature may be absent.
    """
    seen: list[str] = []
    for form in forms:
        for separator in dict.fromkeys((form.separator, *SEPARATORS)):
            named = form._replace(separator=separator, columns=None)
            lines = csv_format.first_lines(path, named, 1)
            names = lines[0] if lines else []
            # Where the log has no such line, a row of it must not be taken for one.
            known = form.columns is None or set(names) <= set(form.columns)
            for raw in raws:
                if known and set(raw.names) <= set(names):
                    return named, raw
            seen = seen or names
    if forms[0].columns is None:
        raise ValueError(f"{path}: {_absent(raws, seen)}")
    for raw in raws:
        if set(raw.names) <= set(forms[0].columns):
            return _without_names(path, forms[0], reading, raw), raw
    raise AssertionError("a layout without names has the columns that a model needs")


def _without_names(
    path: Path, form: CsvFormat, reading: Mapping[str, Any] | None, raw: Raw
) -> CsvFormat:
    """The form with the names of the columns that are there, told by their number."""
    assert form.columns is not None
    layouts: dict[int, dict[tuple[int, ...], tuple[str, ...]]] = {}
    for without in _lacking(form.columns, reading, raw):
        names = tuple(name for name in form.columns if name not in without)
        # What else is there does not matter where the needed columns have the same places.
        places = tuple(names.index(name) for name in raw.names)
        layouts.setdefault(len(names), {}).setdefault(places, names)
    sizes = [len(cells) for cells in csv_format.first_lines(path, form)]
    fitting = [size for size in sizes if size in layouts]
    if not fitting:
        raise ValueError(
            f"{path}: its first line has {sizes[0] if sizes else 0} cells instead of "
            f"{' or '.join(map(str, sorted(layouts, reverse=True)))}; the log of the model has no line of "
            f"names, and its columns are {_shown(form.columns)}"
        )
    size = max(sorted(set(fitting), reverse=True), key=fitting.count)
    if len(layouts[size]) > 1:
        choices = " or ".join(map(_shown, sorted(layouts[size].values())))
        raise ValueError(
            f"{path}: {size} cells a line can be {choices}; write the columns' names in its first line"
        )
    return form._replace(columns=next(iter(layouts[size].values())))


def _lacking(names: Sequence[str], reading: Mapping[str, Any] | None, raw: Raw) -> list[set[str]]:
    """Sets of columns that a file may lack: none, or the labels, and with them the time, or outcomes, or both."""
    given = reading["columns"] if reading is not None else {}
    unneeded = set(names) - set(raw.names)
    labels = unneeded & {given.get("click"), given.get("conversion")}
    others = [unneeded & {given.get("time")}, unneeded & set(given.get("dropped", ()))]
    return [set(), *(labels.union(*more) for n in range(3) for more in combinations(others, n))]


def _read_text(
    path: Path, forms: Sequence[CsvFormat], reading: Mapping[str, Any] | None, raws: Sequence[Raw]
) -> Iterator[Rows]:
    import polars as pl

    form, raw = _text_form(path, forms, reading, raws)
    names = csv_format.column_names(path, form)
    roles = Columns(categorical=names, dense=(), click="")
    yield _rows(Chunk({name: pl.Series(name, [], pl.String) for name in names}), raw)
    for piece in text_segments.segments((path,), form, roles, Position(), read=names, as_text=True):
        yield _rows(piece.read(), raw)


def _read_columns(path: Path, raws: Sequence[Raw], encoders: Encoders) -> Iterator[Rows]:
    file = inspect_table(path, CsvFormat(), KEY)
    raw = next((raw for raw in raws if set(raw.names) <= set(file.names)), None)
    if raw is None:
        raise ValueError(f"{path}: {_absent(raws, file.names)}")
    fields, dense = (
        tuple(encoder.name for encoder in part if encoder.name in raw.names)
        for part in encoders[:2]
    )
    roles = Columns(categorical=fields, dense=dense, click="")
    check_types(file, roles, raw.names)
    for piece in table_segments(file, roles, Position(), read=file.names):
        yield _rows(piece.read(), raw)


def _rows(chunk: Chunk, raw: Raw) -> Rows:
    import pyarrow as pa

    cells = pa.table({name: _arrow(column) for name, column in chunk.columns.items()})
    features, reasons = raw.derive({name: chunk.columns[name] for name in raw.names})
    lines = np.arange(1, len(cells) + 1) if chunk.lines is None else chunk.lines
    bad = tuple((int(row.place.rpartition(":")[2]), row.reason) for row in chunk.bad)
    return Rows(cells, lines, features, reasons, bad)


def _arrow(column: Any) -> Any:
    import polars as pl
    import pyarrow as pa

    if not isinstance(column, pl.Series):
        return column
    return as_text(column) if column.dtype == pl.String else pa.array(column.to_arrow())


def _absent(raws: Sequence[Raw], names: Sequence[str]) -> str:
    sets = []
    for raw in raws:
        absent = [name for name in raw.names if name not in names]
        sets.append(f"columns {_shown(absent)} are missing")
    return f"{', or else '.join(sets)}; its columns are {_shown(names)}"


def _shown(names: Sequence[str]) -> str:
    """Names in a message, which may be many or no names at all."""
    cut = [name if len(name) <= 40 else name[:37] + "..." for name in names[:SHOWN]]
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{cut}{more}"
