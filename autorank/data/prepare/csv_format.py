"""The format of delimited text files: separator, quotes, and column names."""

import csv
import io
from pathlib import Path
from typing import Any, NamedTuple

from autorank.data.format.file_format import open_text

_HEAD = 1 << 20  # bytes read to find the first lines


class CsvFormat(NamedTuple):
    """How lines are divided into cells. One row is one line.

    Attributes:
        separator: one character.
        quote: one character; None if quotes have no meaning.
        columns: names of all columns; None if the first line has them.
        encoding: a Python codec name.
    """

    separator: str = ","
    quote: str | None = '"'
    columns: tuple[str, ...] | None = None
    encoding: str = "utf-8"


def column_names(path: Path, csv_format: CsvFormat) -> tuple[str, ...]:
    """The names of a text file's columns.

    Raises:
        ValueError: an empty file, or a name that occurs twice.
    """
    return require_distinct(path, csv_format.columns or _header(path, csv_format))


def require_distinct(path: Path, names: tuple[str, ...]) -> tuple[str, ...]:
    """Returns the names of a file's columns.

    Raises:
        ValueError: there are no names, or a name occurs twice.

    Examples:
        >>> require_distinct(Path("log.csv"), ("user", "item", "user"))
        Traceback (most recent call last):
            ...
        ValueError: log.csv: columns ['user'] occur twice; rename them
    """
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"{path}: columns {twice} occur twice; rename them")
    if not names:
        raise ValueError(f"{path} is empty")
    return names


def has_rows(path: Path, csv_format: CsvFormat) -> bool:
    """Whether anything but blank lines follows the header."""
    with open_text(path) as stream, io.BufferedReader(stream) as file:
        if csv_format.columns is None:
            file.readline()
        return any(line.strip() for line in file)


def first_lines(path: Path, csv_format: CsvFormat, most: int = 100) -> list[list[str]]:
    """The cells of at most ``most`` first lines, header included and empty lines omitted."""
    with open_text(path) as stream:
        head = bytes(stream.read(_HEAD))
    text = head.decode(csv_format.encoding, "replace").removeprefix("\ufeff")
    lines = [line.removesuffix("\r") for line in text.split("\n")[:most]]
    return [_cells(line, csv_format) for line in lines if line]


def _header(path: Path, csv_format: CsvFormat) -> tuple[str, ...]:
    encoding = csv_format.encoding
    with open_text(path) as stream, io.TextIOWrapper(stream, encoding, newline="") as file:
        try:
            line = file.readline().lstrip("\ufeff").rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise ValueError(f"{path}: {error}; the file must be {encoding} text") from error
    return tuple(_cells(line, csv_format))


def _cells(line: str, csv_format: CsvFormat) -> list[str]:
    quoting: dict[str, Any] = (
        {"quoting": csv.QUOTE_NONE} if csv_format.quote is None else {"quotechar": csv_format.quote}
    )
    return next(csv.reader([line], delimiter=csv_format.separator, **quoting), [])
