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

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from autorank.data.source import Chunk, Columns, Cut, Piece, Source, validate_columns
from autorank.data.text import CsvFormat, column_names, pieces, read_csv

VERSION = 1
ROWS = 1 << 19  # rows of a chunk of a Parquet file
LARGE_GROUP = 1 << 22  # rows of a row group that is read in more than one piece


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
    parts = (
        partial(_parquet_pieces, path, roles.columns)
        if parquet
        else lambda start: pieces([path], roles.csv, roles.columns, start)
    )
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
        pieces=lambda raw, progress, start: parts(start),
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


def _parquet_pieces(path: Path, columns: Columns, start: Cut) -> Iterator[Piece]:
    """Row groups; each is read by opening the file again, so that they can be read side by side."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        sizes = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
    total, before = sum(sizes), 0
    for group, size in enumerate(sizes):
        step = ROWS if size > LARGE_GROUP else max(size, 1)
        for first in range(0, size, step):
            end = before + min(first + step, size)
            if end > start.offset:
                read = partial(_read_parquet, path, columns, group, first, step, before + 1)
                yield Piece(read, Cut(0, end, end + 1), end / total)
        before += size


def _read_parquet(
    path: Path, columns: Columns, group: int, first: int, num_rows: int, line: int
) -> Chunk:
    """Rows of a row group whose first is row ``line`` of the file."""
    import polars as pl
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        found = file.read_row_group(group, columns=list(columns.read)).slice(first, num_rows)
    frame = pl.DataFrame(pl.from_arrow(found))
    lines = np.arange(line + first, line + first + len(frame))
    return Chunk(frame.to_dict(as_series=True), path.name, lines)
