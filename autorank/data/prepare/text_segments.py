"""Cuts delimited text files into segments of whole lines, which are parsed independently."""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from autorank.data.fast_text import buffer_pool
from autorank.data.fast_text.short_strings import worth_compiling
from autorank.data.format.file_format import compression_of
from autorank.data.format.source import Columns, Position, Segment
from autorank.data.prepare.csv_format import CsvFormat, column_names
from autorank.data.prepare.parse_text import DeriveColumns, TextLayout, count_lines, parse

SEGMENT_BYTES = 1 << 24  # a thread needs about six times as much memory
_LONGEST_LINE = 1 << 26  # bytes
_SEARCHED = 1 << 16  # bytes searched for a line end at a time


def segments(
    files: Sequence[Path],
    csv_format: CsvFormat,
    columns: Columns,
    start: Position,
    *,
    derive: DeriveColumns | None = None,
    read: Sequence[str] | None = None,
    as_text: bool = False,
) -> Iterator[Segment]:
    """Segments of about `SEGMENT_BYTES` bytes of text files, in the given order; compressed files are decompressed.

    The cut positions depend on the bytes of the files alone.

    Args:
        files: text files with the same columns.
        csv_format: how lines are divided into cells.
        columns: the roles of the columns.
        start: where to begin, `Position()` or the end of an earlier segment.
        derive: computes the columns that have a role from the columns read.
        read: columns to read, if they are not the columns with a role.
        as_text: reads every cell as text, and omits no line without a reason except empty ones.

    Raises:
        ValueError: a truncated compressed file, or a line without end.
    """
    wanted = tuple(read) if read is not None else columns.read
    total = sum(path.stat().st_size for path in files)
    before = sum(path.stat().st_size for path in files[: start.file])
    short_cells = worth_compiling(total) and not as_text
    for index in range(start.file, len(files)):
        path = files[index]
        names = column_names(path, csv_format)
        layout = TextLayout(
            path.name, names, csv_format, columns, wanted, derive, short_cells, as_text
        )
        begin = start if index == start.file else Position(index)
        for block in _line_blocks(path, csv_format, begin, short_cells):
            share = (before + block.position_on_disk) / max(total, 1)
            read_block = partial(parse, block.text, block.first_line, layout)
            yield Segment(read_block, block.end._replace(file=index), share)
        before += path.stat().st_size


class _LineBlock(NamedTuple):
    """Whole lines of a file.

    Attributes:
        text: their bytes, decompressed.
        first_line: number of the first line.
        end: the position after them.
        position_on_disk: bytes of the (compressed) file read so far.
    """

    text: memoryview
    first_line: int
    end: Position
    position_on_disk: int


def _line_blocks(
    path: Path, csv_format: CsvFormat, begin: Position, compiled: bool
) -> Iterator[_LineBlock]:
    """The lines of a file from a position on, without its header, in blocks of about `SEGMENT_BYTES`."""
    import pyarrow as pa

    compression = compression_of(path)
    offset, line, rest = begin.offset, begin.line, b""
    with (
        pa.OSFile(str(path)) as raw,
        pa.CompressedInputStream(raw, compression) if compression else raw as stream,
    ):
        try:
            if compression:
                _skip(stream, offset)
            else:
                stream.seek(offset)
            in_header = offset == 0 and csv_format.columns is None
            while True:
                # The cuts are the same whether or not reading resumed here, as the first read fills up to a full block.
                missing = SEGMENT_BYTES - len(rest)
                block = _read(stream, missing if missing > 0 else SEGMENT_BYTES)
                end = _end_of_last_line(block)
                if block and not end:
                    if len(rest) > _LONGEST_LINE:
                        raise ValueError(
                            f"{path}:{line}: no end of line in {len(rest):,} bytes; is this a text file?"
                        )
                    rest += bytes(block)
                    continue
                text = block[:end]
                if rest:
                    text = memoryview(b"".join((rest, text)))
                rest = bytes(block[end:])
                if not compression and rest:
                    # Reading it again is cheaper than copying it to the next block.
                    stream.seek(stream.tell() - len(rest))
                    rest = b""
                header_size = bytes(text).find(b"\n") + 1 if in_header and text else 0
                in_header = in_header and not text
                first_line = line + (header_size > 0)
                offset += len(text)
                line += count_lines(text, compiled)
                if len(text) > header_size:
                    end_position = Position(0, offset, line)
                    yield _LineBlock(text[header_size:], first_line, end_position, raw.tell())
                if not block:
                    return
        except OSError as error:
            raise ValueError(f"{path}: {error}; is the file whole? Fetch it again") from error


def _skip(stream: Any, num_bytes: int) -> None:
    while num_bytes > 0:
        num_bytes -= len(_read(stream, min(num_bytes, SEGMENT_BYTES))) or num_bytes


def _end_of_last_line(block: memoryview) -> int:
    """The position after the last line end, 0 if there is none."""
    stop = len(block)
    while stop > 0:
        start = max(0, stop - _SEARCHED)
        found = bytes(block[start:stop]).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        stop = start
    return 0


def _read(stream: Any, size: int) -> memoryview:
    """``size`` bytes; fewer only at the end of the stream."""
    block = buffer_pool.empty(size, np.uint8).data
    found = 0
    while found < size:
        more = stream.readinto(block[found:])
        if not more:
            break
        found += more
    return block[:found]
