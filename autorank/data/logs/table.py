"""Any CSV, Parquet or Arrow files, with a YAML file that gives each column a role.

name: shop
click: clicked            # 0 or 1
conversion: bought        # optional
time: ts                  # optional: numbers or ISO dates; without it, the rows of the file are in time order
categorical: [user, item, hour]
dense: [price]
drop: [dwell_seconds]     # outcomes, and other columns that a model must not see
licence: own data
source: export of 2026-01
separator: ","            # optional; "\\t" for tabs
quote: '"'                # optional; null: quotes have no meaning
columns: [clicked, ...]   # optional: names of all columns of a file without a header
"""

import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from autorank.base.records import location
from autorank.data.format.file_format import name_mismatch
from autorank.data.format.source import (
    Columns,
    Position,
    Progress,
    Segment,
    Source,
    chunks_of,
    validate_columns,
)
from autorank.data.logs.base import SOURCES, DataConfig
from autorank.data.prepare.csv_format import CsvFormat
from autorank.data.prepare.log_files import (
    files_of,
    inspect_tables,
    require_same_types,
    segments_of_files,
)
from autorank.data.prepare.table_file import check_types, has_rows

LOG = logging.getLogger(__name__)
VERSION = 2


class Roles(NamedTuple):
    """Contents of the YAML file."""

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


@dataclass(frozen=True)
class TableConfig(DataConfig):
    """Location of the table, and the roles of its columns."""

    source: str = "table"
    path: str | None = location()  # a CSV or Parquet file, a folder or a pattern of files
    schema: str | None = location()  # the YAML file that gives each column its role


@SOURCES.register("table", TableConfig)
def from_settings(settings: TableConfig) -> Source:
    """Your own CSV or Parquet with a schema file that gives each column its role."""
    if settings.path is None or settings.schema is None:
        raise ValueError(
            "data=table needs data.path (a CSV or Parquet file) and data.schema (a YAML file with its columns' roles)"
        )
    return source(Path(settings.path), Path(settings.schema))


def source(path: Path, schema: Path) -> Source:
    """The log in ``path`` (delimited text, also compressed; Parquet; Arrow) with the roles in ``schema``.

    Raises:
        FileNotFoundError: either file is missing.
        ValueError: invalid roles, a column without a role, or a role for a missing column; names the columns.
    """
    roles = read_roles(schema)
    files = inspect_tables(files_of(path), roles.csv)
    _require_roles(files[0].names, roles, files[0].path, schema)
    for file in files:
        check_types(file, roles.columns, roles.columns.read)
        mismatch = name_mismatch(file.path, file.form)
        if mismatch is not None:
            LOG.info(mismatch)
    require_same_types(files, roles.columns)
    if not any(map(has_rows, files)):
        raise ValueError(f"{path} has a header but no rows")

    def read_segments(raw: Path, progress: Progress, start: Position) -> Iterator[Segment]:
        return segments_of_files(files, roles.columns, start)

    return Source(
        name=roles.name,
        settings={
            "reader": "table",
            "version": VERSION,
            "csv": roles.csv._asdict(),
            "content": [file.form.content for file in files],
        },
        files=tuple(file.path for file in files),
        columns=roles.columns,
        chunks=chunks_of(read_segments),
        origin=roles.source,
        licence=roles.licence,
        segments=read_segments,
    )


def read_roles(path: Path) -> Roles:
    """Reads and checks the YAML file; the docstring of this module lists its keys.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not such a YAML file; names the key and the value.

    Examples:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "shop.yaml"
        ...     _ = path.write_text("name: shop\\nclick: clicked\\ncategorical: [user, item]\\n")
        ...     read_roles(path).columns.read
        ('user', 'item', 'clicked')
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is not a file; data.schema must name a YAML file with the columns' roles"
        )
    record = _read_yaml(path)
    if not isinstance(record, dict):
        raise ValueError(f"{path}: expected keys and values, such as name: shop")
    unknown = [key for key in record if key not in (*_REQUIRED, *_OPTIONAL)]
    missing = [key for key in _REQUIRED if record.get(key) in (None, [])]
    if unknown or missing:
        raise ValueError(
            f"{path}: unknown keys {unknown}, missing keys {missing}; see docs/data.md"
        )
    columns = Columns(
        categorical=_names(path, record, "categorical"),
        dense=_names(path, record, "dense"),
        click=_text(path, record, "click"),
        conversion=_optional_text(path, record, "conversion"),
        time=_optional_text(path, record, "time"),
        dropped=_names(path, record, "drop"),
    )
    try:
        validate_columns(columns)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    licence, origin = (str(record.get(key) or "not stated") for key in ("licence", "source"))
    name = _text(path, record, "name")
    return Roles(name, columns, _csv_format(path, record), licence, origin)


def _csv_format(path: Path, record: dict[str, Any]) -> CsvFormat:
    separator, quote = str(record.get("separator", ",")), record.get("quote", '"')
    if len(separator) != 1 or (quote is not None and len(str(quote)) != 1):
        raise ValueError(
            f"{path}: separator={separator!r} and quote={quote!r} must be one character each"
        )
    return CsvFormat(separator, quote, _names(path, record, "columns") or None)


def _read_yaml(path: Path) -> Any:
    """The contents of a YAML file; a repeated key is an error."""
    import yaml

    try:
        text = path.read_text("utf-8")
        node = yaml.compose(text, yaml.SafeLoader)
        record = yaml.safe_load(text)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text ({error}); it must be a YAML file") from error
    except yaml.YAMLError as error:
        reason = " ".join(str(error).replace('in "<unicode string>", ', "").split())
        raise ValueError(f"{path} is not valid YAML: {reason}") from error
    if isinstance(node, yaml.MappingNode):
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        twice = sorted({key for key in keys if keys.count(key) > 1})
        if twice:
            raise ValueError(f"{path}: keys {twice} occur twice; write each once")
    return record


def _text(path: Path, record: dict[str, Any], key: str) -> str:
    if not isinstance(record[key], str):
        raise ValueError(f"{path}: {key}: {record[key]!r} is not a name; write it in quotes")
    return record[key]


def _optional_text(path: Path, record: dict[str, Any], key: str) -> str | None:
    return None if record.get(key) is None else _text(path, record, key)


def _names(path: Path, record: dict[str, Any], key: str) -> tuple[str, ...]:
    names = record.get(key) or []
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(
            f"{path}: {key}: {names!r} must be a list of names; quote those that YAML does not "
            "read as text"
        )
    return tuple(names)


def _require_roles(names: tuple[str, ...], roles: Roles, path: Path, schema: Path) -> None:
    """Rejects columns without a role and roles for missing columns; suggests the separator if it is wrong."""
    c = roles.columns
    given = {*c.categorical, *c.dense, *c.labels, *c.dropped} | ({c.time} if c.time else set())
    without = [name for name in names if name not in given]
    absent = sorted(given - set(names))
    if not without and not absent:
        return
    mark = next((mark for mark in ";\t|,:" if mark in names[0]), None)
    if len(names) == 1 and mark is not None:
        raise ValueError(
            f"{path} has only one column, {names[0]!r}; if {mark!r} separates its cells, write "
            f"separator: {json.dumps(mark)} in {schema}"
        )
    raise ValueError(
        f"{schema}: columns of {path.name} without a role: {without} (list them under "
        f"categorical, dense or drop); roles for columns it does not have: {absent}"
        + (f" (it has {list(names)})" if absent else "")
    )
