"""Parses whole lines of delimited text into columns.

There are three parsers, from the fastest to the most general: the compiled parser of short cells
(`fast_text.cell_parser`), Arrow with numeric columns, and Arrow with text columns. Each declines what it cannot read.
Lines with a wrong number of cells become bad rows.
"""

from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

from autorank.data.fast_text.cell_parser import CellLayout, parse_cells
from autorank.data.fast_text.short_strings import ShortStrings
from autorank.data.format.source import BadRow, Chunk, Columns
from autorank.data.prepare.csv_format import CsvFormat
from autorank.data.prepare.line_numbers import LineNumbers

_ARROW_BLOCK = 1 << 22  # bytes that Arrow parses at a time
_TAIL = 1 << 16  # bytes inspected for line endings and quotes
LINE_ENDS_INSIDE = "line_ends_inside_cells"  # key of `Chunk.counts`


@runtime_checkable
class DeriveColumns(Protocol):
    """Computes the columns that have a role from the columns of a file."""

    def __call__(self, columns: dict[str, Any], /) -> dict[str, Any]:
        """The columns with a role, all of the same length as the given ones."""
        ...


class TextLayout(NamedTuple):
    """How the text of a file becomes columns.

    Attributes:
        file: the name of the file, for messages.
        names: names of all columns.
        csv_format: how lines are divided into cells.
        columns: the roles of the columns.
        wanted: the columns to read.
        derive: computes the columns that have a role, if they are not in the file.
        short_cells: whether to try the compiled parser, which pays off for large files only.
        as_text: whether to read all cells as text.
    """

    file: str
    names: tuple[str, ...]
    csv_format: CsvFormat
    columns: Columns
    wanted: tuple[str, ...]
    derive: DeriveColumns | None = None
    short_cells: bool = True
    as_text: bool = False


def parse(text: bytes | memoryview, first_line: int, layout: TextLayout) -> Chunk:
    """Parses whole lines, the first of which is line ``first_line`` of the file.

    Raises:
        ValueError: text in another encoding.
    """
    import pyarrow as pa

    if first_line == 1 and bytes(text[:3]) == b"\xef\xbb\xbf":
        text = text[3:]
    if layout.short_cells:
        chunk = _parse_short_cells(text, first_line, layout)
        if chunk is not None:
            return chunk
    if len(text) and text[-1] != ord("\n"):
        # An unclosed quote is recognised by the last line end, which its cell contains.
        text = bytes(text) + b"\n"
    numbers = LineNumbers(layout.file, first_line, first_line - 1)
    try:
        as_text = layout.as_text or _may_be_unclosed(text, layout.csv_format.quote)
        found = None if as_text else _parse_typed(text, numbers, layout)
    except pa.ArrowInvalid:
        found = None
    if found is None:
        numbers = LineNumbers(layout.file, first_line, first_line - 1)
        found = _parse_as_text(text, numbers, layout)
    columns, lines = found
    if layout.derive is not None:
        columns = layout.derive(columns)
    inside = numbers.cells_with_line_ends
    counts = {LINE_ENDS_INSIDE: inside} if inside else {}
    return Chunk(columns, layout.file, lines, numbers.take_bad_rows(), counts)


def count_lines(text: bytes | memoryview, compiled: bool = False) -> int:
    """The number of lines of a text, whose last line may lack its end.

    Examples:
        >>> count_lines(b"a,b\\nc,d"), count_lines(b"a,b\\n"), count_lines(b"")
        (2, 1, 0)
    """
    content = np.frombuffer(text, np.uint8)
    if compiled:
        from autorank.data.fast_text.loops import short_strings as string_loops

        ends = string_loops.count(content, ord("\n"))
    else:
        ends = int(np.count_nonzero(content == ord("\n")))
    return ends + int(len(content) > 0 and content[-1] != ord("\n"))


def parse_options(csv_format: CsvFormat, numbers: LineNumbers) -> Any:
    """Arrow's options for a format; rows with a wrong number of cells are recorded in ``numbers``."""
    import pyarrow.csv as pc

    return pc.ParseOptions(
        delimiter=csv_format.separator,
        quote_char=csv_format.quote if csv_format.quote is not None else False,
        invalid_row_handler=numbers.refuse,
        ignore_empty_lines=False,
    )


def encoding_error(file: str, csv_format: CsvFormat, error: Exception) -> ValueError:
    """The error for text that Arrow cannot decode."""
    return ValueError(
        f"{file}: {error}; the file must be {csv_format.encoding} text, one row a line"
    )


def is_blank(frame: Any) -> np.ndarray:
    """Marks the rows of a polars data frame of text in which every cell is empty; bool [n]."""
    import polars as pl

    return frame.select(pl.all_horizontal(pl.all() == "")).to_series().to_numpy()


def _may_be_unclosed(text: bytes | memoryview, quote: str | None) -> bool:
    """Whether the last line has an odd number of quotes."""
    if quote is None:
        return False
    tail = bytes(text[-_TAIL:])
    return tail[tail[:-1].rfind(b"\n") + 1 :].count(quote.encode()) % 2 == 1


def _parse_short_cells(
    text: bytes | memoryview, first_line: int, layout: TextLayout
) -> Chunk | None:
    """Columns of short strings and integers; None if the text contains anything else."""
    csv_format, roles = layout.csv_format, layout.columns
    if csv_format.encoding.lower() not in ("utf-8", "utf8", "ascii"):
        return None
    if b"\r\n" in bytes(text[:_TAIL]):
        text = bytes(text).replace(b"\r\n", b"\n")
    place = {name: index for index, name in enumerate(layout.names)}
    labels = [name for name in roles.labels if name in layout.wanted]
    dense = [name for name in roles.dense if name in layout.wanted]
    strings = [name for name in layout.wanted if name not in dense and name not in labels]
    cell_layout = CellLayout(
        len(layout.names),
        csv_format.separator,
        csv_format.quote,
        *([place[name] for name in names] for names in (strings, labels, dense)),
    )
    cells = parse_cells(text, cell_layout)
    if cells is None:
        return None
    columns: dict[str, Any] = dict(zip(strings, map(ShortStrings, cells.strings), strict=True))
    columns |= zip((*labels, *dense), cells.integers, strict=True)
    if layout.derive is not None:
        columns = layout.derive(columns)
    expected = len(layout.names)
    bad = (
        BadRow(f"{layout.file}:{first_line + line}", f"{found} fields instead of {expected}")
        for line, found in cells.wrong
    )
    return Chunk(columns, layout.file, first_line + cells.lines, tuple(bad))


def _parse_typed(
    text: bytes | memoryview, numbers: LineNumbers, layout: TextLayout
) -> tuple[dict[str, Any], np.ndarray] | None:
    """Columns and line numbers, with labels as int8 and dense columns as float64 (NaN for empty cells).

    None if a number is malformed or a row spans several lines, which `_parse_as_text` reports.
    """
    import pyarrow as pa

    types: dict[str, Any] = dict.fromkeys(layout.wanted, pa.string())
    types |= {name: pa.float64() for name in layout.columns.dense if name in types}
    types |= {name: pa.int8() for name in layout.columns.labels if name in types}
    table = _read_arrow(text, numbers, layout, types)
    if numbers.has_multiline_rows(count_lines(text), len(table)):
        return None
    found: dict[str, Any] = {}
    for name, kind in types.items():
        column = table[name]
        if pa.types.is_string(kind):
            found[name] = column.combine_chunks()
            continue
        values = column.to_numpy()
        if pa.types.is_floating(kind):
            if np.isinf(values).any() or np.isnan(values).sum() != column.null_count:
                return None
        elif column.null_count or (values.view(np.uint8) > 1).any():
            return None
        found[name] = values
    return found, numbers.next_lines(len(table))


def _parse_as_text(
    text: bytes | memoryview, numbers: LineNumbers, layout: TextLayout
) -> tuple[dict[str, Any], np.ndarray]:
    """Columns of text and line numbers; reports rows that span several lines and unclosed quotes."""
    import polars as pl
    import pyarrow as pa

    try:
        table = _read_arrow(text, numbers, layout, dict.fromkeys(layout.names, pa.string()))
    except pa.ArrowInvalid as error:
        raise encoding_error(layout.file, layout.csv_format, error) from error
    frame = pl.DataFrame(pl.from_arrow(table))
    num_lines = count_lines(text)
    if numbers.has_multiline_rows(num_lines, len(frame)):
        line_ends = pl.sum_horizontal(pl.all().str.count_matches("\n", literal=True))
        inside = frame.select(line_ends).to_series().to_numpy()
        lines = numbers.lines_of_multiline_rows(inside)
    else:
        lines = numbers.next_lines(len(frame))
    last_row = sum(cell.count("\n") for cell in frame.row(-1)) if len(frame) else 0
    if numbers.refuse_unclosed_quote(num_lines, lines, last_row):
        frame, lines = frame[:-1], lines[:-1]
    blank = is_blank(frame)
    if layout.as_text:
        numbers.refuse_empty_rows(text, lines[blank])
    frame, lines = frame.filter(pl.Series(~blank)), lines[~blank]
    return {name: frame[name] for name in layout.wanted}, lines


def _read_arrow(
    text: bytes | memoryview, numbers: LineNumbers, layout: TextLayout, types: dict[str, Any]
) -> Any:
    import pyarrow as pa
    import pyarrow.csv as pc

    return pc.read_csv(
        pa.BufferReader(pa.py_buffer(text)),
        # Arrow numbers invalid rows only when it reads with a single thread; segments are read in parallel instead.
        pc.ReadOptions(
            use_threads=False,
            block_size=_ARROW_BLOCK,
            column_names=list(layout.names),
            encoding=layout.csv_format.encoding,
        ),
        parse_options(layout.csv_format, numbers),
        pc.ConvertOptions(
            column_types=types,
            include_columns=list(types),
            null_values=[""],
            strings_can_be_null=False,
        ),
    )
