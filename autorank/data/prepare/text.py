"""Reading delimited text: names, chunks in order, and pieces that are read side by side.

One row is one line. Lines with a wrong number of fields come out as bad rows with their numbers.
"""

import csv
import io
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from autorank.data.fast_text import buffer_pool as recycled
from autorank.data.fast_text.short_cells import Layout, read_cells
from autorank.data.fast_text.words import Words, worth_compiling
from autorank.data.format.files import open_text, packing_of
from autorank.data.format.source import BadRow, Chunk, Columns, Cut, Piece

BLOCK = 1 << 26  # bytes of a chunk that is read in order
PIECE = 1 << 24  # bytes of a piece: a thread holds about six times as many
_PARSE = 1 << 22  # bytes that the parser takes at a time
_LINES_SEEN = 1 << 16  # bytes that tell how lines end
_LONGEST = 1 << 26  # bytes of a line
LINES_INSIDE = "line_ends_inside_cells"  # among the counts of a chunk
_HEAD = 1 << 20  # bytes that the first lines are looked for in

Derive = Callable[[dict[str, Any]], dict[str, Any]]


class CsvFormat(NamedTuple):
    """How lines are cut. One row is one line."""

    separator: str = ","
    quote: str | None = '"'
    columns: tuple[str, ...] | None = None  # None: the first line has the names
    encoding: str = "utf-8"


def column_names(path: Path, form: CsvFormat) -> tuple[str, ...]:
    """Names of the columns of a text file.

    Raises:
        ValueError: an empty file, or a name that occurs twice.
    """
    return require_distinct(path, form.columns or _header(path, form))


def require_distinct(path: Path, names: tuple[str, ...]) -> tuple[str, ...]:
    """The names, none of which may occur twice."""
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice or not names:
        raise ValueError(
            f"{path}: columns {twice} occur twice; rename them" if twice else f"{path} is empty"
        )
    return names


def has_rows(path: Path, form: CsvFormat) -> bool:
    """Whether anything but blank lines follows the header."""
    with open_text(path) as stream, io.BufferedReader(stream) as file:
        if form.columns is None:
            file.readline()
        return any(line.strip() for line in file)


def _header(path: Path, form: CsvFormat) -> tuple[str, ...]:
    with open_text(path) as stream, io.TextIOWrapper(stream, form.encoding, newline="") as file:
        try:
            line = file.readline().lstrip("\ufeff").rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise ValueError(f"{path}: {error}; the file must be {form.encoding} text") from error
    quoting: dict[str, Any] = (
        {"quoting": csv.QUOTE_NONE} if form.quote is None else {"quotechar": form.quote}
    )
    return tuple(next(csv.reader([line], delimiter=form.separator, **quoting), []))


def first_lines(path: Path, form: CsvFormat, most: int = 100) -> list[list[str]]:
    """The cells of the first lines, the names among them; empty lines are left out."""
    quoting: dict[str, Any] = (
        {"quoting": csv.QUOTE_NONE} if form.quote is None else {"quotechar": form.quote}
    )
    with open_text(path) as stream:
        head = bytes(stream.read(_HEAD))
    whole = head.decode(form.encoding, "replace").removeprefix("\ufeff").split("\n")[:most]
    lines = [line.removesuffix("\r") for line in whole]
    return [next(csv.reader([line], delimiter=form.separator, **quoting)) for line in lines if line]


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
        with open_text(path) as stream:
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
                _parse_options(form, numbering),
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
        raise _not_text(str(path), form, error) from error


def pieces(
    files: Sequence[Path],
    form: CsvFormat,
    columns: Columns,
    start: Cut,
    *,
    derive: Derive | None = None,
    read: Sequence[str] | None = None,
    as_text: bool = False,
) -> Iterator[Piece]:
    """Pieces of about `PIECE` bytes of text files, in the order given; packed ones are unpacked on the way.

    Where a file is cut depends on its bytes alone.

    Args:
        derive: from the columns read to those with a role.
        read: columns to read, where they are not those with a role.
        as_text: every cell as text, and no line left out without a reason but the empty ones.

    Raises:
        ValueError: a compressed file that breaks off, a line without end.
    """
    wanted = tuple(read) if read is not None else columns.read
    total = sum(path.stat().st_size for path in files)
    before = sum(path.stat().st_size for path in files[: start.file])
    for index in range(start.file, len(files)):
        path = files[index]
        names, in_place = column_names(path, form), worth_compiling(total) and not as_text
        plan = Plan(path.name, names, form, columns, wanted, derive, in_place, as_text)
        begin = start if index == start.file else Cut(index)
        for text, line, end, position in _cut(path, form, begin, in_place):
            share = (before + position) / max(total, 1)
            yield Piece(partial(parse, text, line, plan), end._replace(file=index), share)
        before += path.stat().st_size


class Plan(NamedTuple):
    """How the text of a file becomes columns."""

    file: str  # its name in messages
    names: tuple[str, ...]  # of all columns
    form: CsvFormat
    columns: Columns
    wanted: tuple[str, ...]  # columns to read
    derive: Derive | None = None
    in_place: bool = True  # whether short cells are: worth it for much text only
    as_text: bool = False  # whether all cells are text


def _cut(
    path: Path, form: CsvFormat, begin: Cut, in_place: bool
) -> Iterator[tuple[memoryview, int, Cut, int]]:
    """Whole lines, the number of the first, where they end, the position in the file on the disk."""
    import pyarrow as pa

    packed = packing_of(path)
    offset, line, rest = begin.offset, begin.line, b""
    with (
        pa.OSFile(str(path)) as raw,
        pa.CompressedInputStream(raw, packed) if packed else raw as stream,
    ):
        try:
            if not packed:
                stream.seek(offset)
            else:
                left = offset
                while left > 0:
                    left -= len(_read(stream, min(left, PIECE))) or left
            header = offset == 0 and form.columns is None
            while True:
                # As many bytes from here on whether or not this is where reading was taken up.
                block = _read(stream, PIECE - len(rest) if len(rest) < PIECE else PIECE)
                end = _end_of_lines(block)
                if block and not end:
                    if len(rest) > _LONGEST:
                        raise ValueError(
                            f"{path}:{line}: no end of line in {len(rest):,} bytes; is this a "
                            "text file?"
                        )
                    rest += bytes(block)
                    continue
                text = block[:end]
                if rest:
                    text = memoryview(b"".join((rest, text)))
                rest = bytes(block[end:])
                if not packed and rest:
                    stream.seek(stream.tell() - len(rest))  # cheaper than putting it in front
                    rest = b""
                first = bytes(text).find(b"\n") + 1 if header and text else 0
                header = header and not text
                begins = line + (first > 0)
                offset += len(text)
                line += _count_lines(text, in_place)
                if len(text) > first:
                    yield text[first:], begins, Cut(0, offset, line), raw.tell()
                if not block:
                    return
        except OSError as error:
            raise ValueError(f"{path}: {error}; is the file whole? Fetch it again") from error


def _count_lines(text: memoryview, fast: bool) -> int:
    """Lines of a text; the last one may lack its end."""
    content = np.frombuffer(text, np.uint8)
    if fast:
        from autorank.data.fast_text.loops import words as loops_of_words

        ends = loops_of_words.count(content, ord("\n"))
    else:
        ends = int(np.count_nonzero(content == ord("\n")))
    return ends + int(len(content) > 0 and content[-1] != ord("\n"))


def _end_of_lines(block: memoryview) -> int:
    """Where the last whole line ends, 0 where none does."""
    stop = len(block)
    while stop > 0:
        start = max(0, stop - _LINES_SEEN)
        found = bytes(block[start:stop]).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        stop = start
    return 0


def _read(stream: Any, size: int) -> memoryview:
    """``size`` bytes, fewer at the end only."""
    block = recycled.empty(size, np.uint8).data
    found = 0
    while found < size:
        more = stream.readinto(block[found:])
        if not more:
            break
        found += more
    return block[:found]


def parse(text: bytes | memoryview, first_line: int, plan: Plan) -> Chunk:
    """The columns of some whole lines, the first of which is line ``first_line`` of the file.

    Lines of short cells are read as words and integers (`short_cells`). Others by Arrow, numbers as such where all are
    plain; where one is not, all columns are read again as text, which can say what is wrong.
    """
    import pyarrow as pa

    if first_line == 1 and bytes(text[:3]) == b"\xef\xbb\xbf":
        text = text[3:]
    short = _read_short(text, first_line, plan) if plan.in_place else None
    if short is not None:
        return short
    if len(text) and text[-1] != ord("\n"):
        text = (
            bytes(text) + b"\n"
        )  # so that a quote that is never closed can be told: it holds the last line end
    numbering = _Numbering(plan.file, first_line, first_line - 1)
    try:
        as_text = plan.as_text or _may_be_unclosed(text, plan.form.quote)
        found = None if as_text else _read_typed(text, numbering, plan)
    except pa.ArrowInvalid:
        found = None
    if found is None:
        numbering = _Numbering(plan.file, first_line, first_line - 1)
        found = _read_text(text, numbering, plan)
    columns, lines = found
    if plan.derive is not None:
        columns = plan.derive(columns)
    counts = {LINES_INSIDE: numbering.inside} if numbering.inside else {}
    return Chunk(columns, plan.file, lines, numbering.new(), counts)


def _may_be_unclosed(text: bytes | memoryview, quote: str | None) -> bool:
    """Whether the last line has an odd number of quotes."""
    if quote is None:
        return False
    tail = bytes(text[-_LINES_SEEN:])
    return tail[tail[:-1].rfind(b"\n") + 1 :].count(quote.encode()) % 2 == 1


def _read_short(text: bytes | memoryview, first_line: int, plan: Plan) -> Chunk | None:
    """The columns as words and integers; None where that is not what they are."""
    form, roles = plan.form, plan.columns
    if form.encoding.lower() not in ("utf-8", "utf8", "ascii"):
        return None
    if b"\r\n" in bytes(text[:_LINES_SEEN]):
        text = bytes(text).replace(b"\r\n", b"\n")
    place = {name: index for index, name in enumerate(plan.names)}
    labels = [name for name in roles.labels if name in plan.wanted]
    dense = [name for name in roles.dense if name in plan.wanted]
    words = [name for name in plan.wanted if name not in dense and name not in labels]
    layout = Layout(
        len(plan.names),
        form.separator,
        form.quote,
        *([place[name] for name in names] for names in (words, labels, dense)),
    )
    cells = read_cells(text, layout)
    if cells is None:
        return None
    columns: dict[str, Any] = dict(zip(words, map(Words, cells.words), strict=True))
    columns |= zip((*labels, *dense), cells.numbers, strict=True)
    if plan.derive is not None:
        columns = plan.derive(columns)
    wanted = len(plan.names)
    bad = (
        BadRow(f"{plan.file}:{first_line + line}", f"{found} fields instead of {wanted}")
        for line, found in cells.wrong
    )
    return Chunk(columns, plan.file, first_line + cells.lines, tuple(bad))


def _read_typed(
    text: bytes | memoryview, numbering: "_Numbering", plan: Plan
) -> tuple[dict[str, Any], np.ndarray] | None:
    """Labels int8 and dense columns float64 (NaN: empty) without a detour; None where a value is odd."""
    import pyarrow as pa

    types: dict[str, Any] = dict.fromkeys(plan.wanted, pa.string())
    types |= {name: pa.float64() for name in plan.columns.dense if name in types}
    types |= {name: pa.int8() for name in plan.columns.labels if name in types}
    table = _read_arrow(text, numbering, plan, types)
    if numbering.is_short_of(text, len(table)):
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
    return found, numbering.lines(len(table))


def _read_text(
    text: bytes | memoryview, numbering: "_Numbering", plan: Plan
) -> tuple[dict[str, Any], np.ndarray]:
    import polars as pl
    import pyarrow as pa

    try:
        table = _read_arrow(text, numbering, plan, dict.fromkeys(plan.names, pa.string()))
    except pa.ArrowInvalid as error:
        raise _not_text(plan.file, plan.form, error) from error
    frame = pl.DataFrame(pl.from_arrow(table))
    if numbering.is_short_of(text, len(frame)):
        ends = pl.sum_horizontal(pl.all().str.count_matches("\n", literal=True))
        inside = frame.select(ends).to_series().to_numpy()
        lines = numbering.lines_of_long_rows(inside)
    else:
        lines = numbering.lines(len(frame))
    if numbering.refuse_unclosed(
        text, lines, sum(c.count("\n") for c in frame.row(-1)) if len(frame) else 0
    ):
        frame, lines = frame[:-1], lines[:-1]
    blank = frame.select(pl.all_horizontal(pl.all() == "")).to_series().to_numpy()
    if plan.as_text:
        numbering.refuse_empty(text, lines[blank])
    frame, lines = frame.filter(pl.Series(~blank)), lines[~blank]
    return {name: frame[name] for name in plan.wanted}, lines


def _read_arrow(
    text: bytes | memoryview, numbering: "_Numbering", plan: Plan, types: dict[str, Any]
) -> Any:
    import pyarrow as pa
    import pyarrow.csv as pc

    return pc.read_csv(
        pa.BufferReader(pa.py_buffer(text)),
        # One thread: only then do invalid rows have numbers. Pieces are what runs side by side.
        pc.ReadOptions(
            use_threads=False,
            block_size=_PARSE,
            column_names=list(plan.names),
            encoding=plan.form.encoding,
        ),
        _parse_options(plan.form, numbering),
        pc.ConvertOptions(
            column_types=types,
            include_columns=list(types),
            null_values=[""],
            strings_can_be_null=False,
        ),
    )


def _parse_options(form: CsvFormat, numbering: "_Numbering") -> Any:
    import pyarrow.csv as pc

    return pc.ParseOptions(
        delimiter=form.separator,
        quote_char=form.quote if form.quote is not None else False,
        invalid_row_handler=numbering.refuse,
        ignore_empty_lines=False,
    )


def _not_text(file: str, form: CsvFormat, error: Exception) -> ValueError:
    return ValueError(f"{file}: {error}; the file must be {form.encoding} text, one row a line")


class _Numbering:
    """Line numbers of good and bad rows while a file is read.

    The reader numbers rows, not lines.
    """

    def __init__(self, file: str, first: int, before: int = 0):
        self.file = file
        self.before = before  # rows of the file that the reader does not see
        self.next_row = first
        self.bad_rows: list[int] = []  # rows ahead of next_row, rising
        self.swallowed: list[tuple[int, int]] = []  # row, extra lines in it
        self.found: list[BadRow] = []
        self.refused: list[tuple[int, int, str]] = []  # row, lines of it, reason
        self.inside = 0  # line ends inside the cells of good rows

    def refuse(self, row: Any) -> str:
        number = row.number + self.before
        self.bad_rows.append(number)
        line = number + sum(extra for _, extra in self.swallowed)
        reason = f"{row.actual_columns} fields instead of {row.expected_columns}"
        extra = row.text.count("\n")
        self.found += [BadRow(f"{self.file}:{line + i}", reason) for i in range(extra + 1)]
        self.refused.append((number, 1 + extra, reason))
        if extra:
            self.swallowed.append((number, extra))
        return "skip"

    def is_short_of(self, text: bytes | memoryview, num_good: int) -> bool:
        """Whether the rows read are fewer than the text's lines: a quoted cell of a good row goes over several."""
        seen = num_good + sum(lines for _, lines, _ in self.refused)
        return seen < _count_lines(memoryview(text), False)

    def lines_of_long_rows(self, ends: np.ndarray) -> np.ndarray:
        """`lines` of all good rows of a text, by the number of line ends in their cells."""
        rows = np.arange(self.next_row, self.next_row + len(ends) + len(self.refused))
        is_bad = np.isin(rows, [row for row, _, _ in self.refused])
        sizes = np.ones(len(rows), np.int64)
        sizes[~is_bad] += ends
        sizes[is_bad] = [lines for _, lines, _ in self.refused]
        firsts = self.next_row + np.cumsum(sizes) - sizes
        self.found = [
            BadRow(f"{self.file}:{first + i}", reason)
            for first, (_, lines, reason) in zip(firsts[is_bad].tolist(), self.refused, strict=True)
            for i in range(lines)
        ]
        self.inside = int(ends.sum())
        return firsts[~is_bad]

    def refuse_unclosed(self, text: bytes | memoryview, lines: np.ndarray, ends: int) -> bool:
        """Counts the lines of the last good row as bad if a quote in it is never closed.

        Such a row has the text's last line end in a cell, so that its ``ends`` lead beyond the text.
        """
        if not ends:
            return False
        first, last = int(lines[-1]), self.before + _count_lines(memoryview(text), False)
        if first + ends <= last:
            return False
        reason = f"the quote that opens in line {first} is never closed"
        self.found += [BadRow(f"{self.file}:{line}", reason) for line in range(first, last + 1)]
        self.inside = max(0, self.inside - ends)
        return True

    def refuse_empty(self, text: bytes | memoryview, lines: np.ndarray) -> None:
        """Counts the lines as bad that have nothing but separators; one without any is none."""
        if not len(lines):
            return
        whole = bytes(text).split(b"\n")
        for line in lines.tolist():
            index = line - self.before - 1  # beyond the end where a cell holds a carriage return
            if index >= len(whole) or whole[index].strip(b"\r\xef\xbb\xbf"):
                self.found.append(BadRow(f"{self.file}:{line}", "every cell is empty"))

    def lines(self, num_good: int) -> np.ndarray:
        """Line numbers of the next good rows."""
        if not self.bad_rows and not self.swallowed:
            self.next_row += num_good
            return np.arange(self.next_row - num_good, self.next_row)
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
