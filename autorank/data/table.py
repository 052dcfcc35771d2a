"""Any CSV or Parquet file with a YAML file that gives each of its columns a role.

name: shop
click: clicked            # 0 or 1
conversion: bought        # optional
time: ts                  # optional: numbers or ISO dates; without it the file is in the order of
    time
categorical: [user, item, hour]
dense: [price]
drop: [dwell_seconds]     # outcomes, and whatever a model must not see
licence: own data
source: export of 2026-01
separator: ","            # optional; "\\t" for tabs
quote: '"'                # optional; null: quotes mean nothing
columns: [clicked, ...]   # optional: names of all columns of a file without a header line
"""

import csv
import io
from bisect import bisect_left
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from autorank.data.source import BadRow, Chunk, Columns, Source, validate_columns

VERSION = 1
ROWS = 1 << 19  # rows of a chunk of a Parquet file
BLOCK = 1 << 26  # bytes of a chunk of a CSV file


class CsvFormat(NamedTuple):
    """How lines are cut. One row is one line."""

    separator: str = ","
    quote: str | None = '"'
    columns: tuple[str, ...] | None = None  # None: the first line has the names
    encoding: str = "utf-8"


class Roles(NamedTuple):
    """Content of the YAML file."""

    name: str
    columns: Columns
    csv: CsvFormat
    licence: str
    source: str


_REQUIRED = ("name", "click", "categorical")
_OPTIONAL = (
    "conversion",
    "time",
    "dense",
    "drop",
    "licence",
    "source",
    "separator",
    "quote",
    "columns",
)


def source(path: Path, schema: Path) -> Source:
    """The log in ``path`` (.csv, .tsv, .txt, optionally .gz; .parquet) with the roles in
    ``schema``.

    Raises:
        FileNotFoundError: either file.
        ValueError: bad roles; a column without a role, or a role for a column that the file lacks,
            by name.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is no file; data.path must name a CSV or Parquet file")
    roles = read_roles(schema)
    _require_roles(column_names(path, roles.csv), roles, path, schema)
    parquet = path.suffix == ".parquet"
    return Source(
        name=roles.name,
        settings={
            "reader": "table",
            "version": VERSION,
            "csv": roles.csv._asdict(),
            "parquet": parquet,
        },
        files=(path,),
        columns=roles.columns,
        chunks=lambda raw, progress: read_parquet(path) if parquet else read_csv(path, roles.csv),
        origin=roles.source,
        licence=roles.licence,
    )


def read_roles(path: Path) -> Roles:
    """Reads and checks the YAML file; see the module's text for its keys."""
    import yaml

    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is no file; data.schema must name a YAML file with the columns' roles"
        )
    record = yaml.safe_load(path.read_text("utf-8"))
    if not isinstance(record, dict):
        raise ValueError(f"{path}: expected keys and values, such as name: shop")
    unknown = [key for key in record if key not in (*_REQUIRED, *_OPTIONAL)]
    missing = [key for key in _REQUIRED if record.get(key) in (None, [])]
    if unknown or missing:
        raise ValueError(
            f"{path}: unknown keys {unknown}, missing keys {missing}; see autorank/data/table.py"
        )
    columns = Columns(
        categorical=_names(path, record, "categorical"),
        dense=_names(path, record, "dense"),
        click=_text(path, record, "click"),
        conversion=_text(path, record, "conversion")
        if record.get("conversion") is not None
        else None,
        time=_text(path, record, "time") if record.get("time") is not None else None,
        dropped=_names(path, record, "drop"),
    )
    try:
        validate_columns(columns)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    header = _names(path, record, "columns") or None
    quote = record.get("quote", '"')
    form = CsvFormat(str(record.get("separator", ",")), quote, header)
    if len(form.separator) != 1 or (quote is not None and len(str(quote)) != 1):
        raise ValueError(
            f"{path}: separator={form.separator!r} and quote={quote!r} must be one character each"
        )
    licence, origin = (str(record.get(key) or "not stated") for key in ("licence", "source"))
    return Roles(_text(path, record, "name"), columns, form, licence, origin)


def _text(path: Path, record: dict[str, Any], key: str) -> str:
    if not isinstance(record[key], str):
        raise ValueError(f"{path}: {key}: {record[key]!r} is not a name; write it in quotes")
    return record[key]


def _names(path: Path, record: dict[str, Any], key: str) -> tuple[str, ...]:
    names = record.get(key) or []
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(
            f"{path}: {key}: {names!r} must be a list of names; quote those that YAML reads "
            "otherwise"
        )
    return tuple(names)


def _require_roles(names: tuple[str, ...], roles: Roles, path: Path, schema: Path) -> None:
    c = roles.columns
    given = {*c.categorical, *c.dense, *c.labels, *c.dropped} | ({c.time} if c.time else set())
    without = [name for name in names if name not in given]
    absent = sorted(given - set(names))
    if without or absent:
        raise ValueError(
            f"{schema}: columns of {path.name} without a role: {without} (list them under "
            "categorical, dense or drop); "
            f"roles for columns it does not have: {absent}"
        )


def column_names(path: Path, form: CsvFormat) -> tuple[str, ...]:
    """Names of the columns of a CSV or Parquet file.

    Raises:
        ValueError: an empty file, or a name that occurs twice.
    """
    if path.suffix == ".parquet":
        import pyarrow.parquet as pq

        names = tuple(pq.read_schema(path).names)
    else:
        names = form.columns or _header(path, form)
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice or not names:
        raise ValueError(f"{path}: columns {twice} occur twice" if twice else f"{path} is empty")
    return names


def _header(path: Path, form: CsvFormat) -> tuple[str, ...]:
    with _open(path) as stream, io.TextIOWrapper(stream, form.encoding, newline="") as file:
        try:
            line = file.readline().lstrip("\ufeff").rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise ValueError(f"{path}: {error}; the file must be {form.encoding} text") from error
    quoting: dict[str, Any] = (
        {"quoting": csv.QUOTE_NONE} if form.quote is None else {"quotechar": form.quote}
    )
    return tuple(next(csv.reader([line], delimiter=form.separator, **quoting), []))


def _open(path: Path) -> Any:
    import pyarrow as pa

    return pa.input_stream(path, compression="detect")


def read_parquet(path: Path) -> Iterator[Chunk]:
    """Chunks of a Parquet file; "lines" are row numbers from 1."""
    import polars as pl
    import pyarrow.parquet as pq

    first = 1
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(ROWS):
            frame = pl.from_arrow(batch)
            assert isinstance(frame, pl.DataFrame)
            lines = np.arange(first, first + len(frame))
            first += len(frame)
            yield Chunk(frame.to_dict(as_series=True), path.name, lines)


def read_csv(path: Path, form: CsvFormat) -> Iterator[Chunk]:
    """Chunks of a CSV file, all columns as text. Lines with a wrong number of fields come out as
    bad rows.

    Blank lines are skipped. A quote that is never closed swallows the lines up to the next one:
    each counts as bad.

    Raises:
        ValueError: text in another encoding.
    """
    import polars as pl
    import pyarrow as pa
    import pyarrow.csv as pc

    names = column_names(path, form)
    numbering = _Numbering(path.name, 1 if form.columns else 2)
    try:
        with _open(path) as stream:
            reader = pc.open_csv(
                stream,
                # One thread: only then do invalid rows have numbers.
                pc.ReadOptions(
                    use_threads=False,
                    block_size=BLOCK,
                    column_names=list(names),
                    skip_rows=0 if form.columns else 1,
                    encoding=form.encoding,
                ),
                pc.ParseOptions(
                    delimiter=form.separator,
                    quote_char=form.quote if form.quote is not None else False,
                    invalid_row_handler=numbering.refuse,
                    ignore_empty_lines=False,
                ),
                pc.ConvertOptions(
                    column_types={name: pa.string() for name in names}, strings_can_be_null=False
                ),
            )
            for batch in reader:
                frame = pl.from_arrow(batch)
                assert isinstance(frame, pl.DataFrame)
                lines = numbering.lines(len(frame))
                blank = frame.select(pl.all_horizontal(pl.all() == "")).to_series().to_numpy()
                frame, lines = frame.filter(pl.Series(~blank)), lines[~blank]
                yield Chunk(frame.to_dict(as_series=True), path.name, lines, numbering.new())
            rest = numbering.new()
            if rest:
                empty = {name: pl.Series(name, [], pl.String) for name in names}
                yield Chunk(empty, path.name, np.zeros(0, np.int64), rest)
    except pa.ArrowInvalid as error:
        raise ValueError(
            f"{path}: {error}; the file must be {form.encoding} text, one row a line"
        ) from error


class _Numbering:
    """Line numbers of good and bad rows while a file is read.

    The reader numbers rows, not lines.
    """

    def __init__(self, file: str, first: int):
        self.file = file
        self.next_row = first
        self.bad_rows: list[int] = []  # rows ahead of next_row, rising
        self.swallowed: list[tuple[int, int]] = []  # row, extra lines in it
        self.found: list[BadRow] = []

    def refuse(self, row: Any) -> str:
        self.bad_rows.append(row.number)
        line = row.number + sum(extra for _, extra in self.swallowed)
        reason = f"{row.actual_columns} fields instead of {row.expected_columns}"
        extra = row.text.count("\n")
        self.found += [BadRow(f"{self.file}:{line + i}", reason) for i in range(extra + 1)]
        if extra:
            self.swallowed.append((row.number, extra))
        return "skip"

    def lines(self, num_good: int) -> np.ndarray:
        """Line numbers of the next good rows."""
        start = stop = self.next_row
        while True:
            skipped = bisect_left(self.bad_rows, stop)
            if stop == start + num_good + skipped:
                break
            stop = start + num_good + skipped
        rows = np.setdiff1d(np.arange(start, stop), self.bad_rows)
        self.next_row = stop
        self.bad_rows = [row for row in self.bad_rows if row >= stop]
        shifts = np.cumsum([0, *(extra for _, extra in self.swallowed)])
        return rows + shifts[np.searchsorted([row for row, _ in self.swallowed], rows)]

    def new(self) -> tuple[BadRow, ...]:
        """Bad rows found since the last call."""
        found, self.found = tuple(self.found), []
        return found
