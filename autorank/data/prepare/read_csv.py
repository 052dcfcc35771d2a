"""Reads a whole CSV file in order, for sources whose files are joined before any row is used."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from autorank.data.format.file_format import open_text
from autorank.data.format.source import Chunk
from autorank.data.prepare.csv_format import CsvFormat, column_names
from autorank.data.prepare.line_numbers import LineNumbers
from autorank.data.prepare.parse_text import encoding_error, is_blank, parse_options

BLOCK = 1 << 26  # bytes per chunk


def read_csv(path: Path, csv_format: CsvFormat) -> Iterator[Chunk]:
    """Chunks of a CSV file with all columns as text; lines with a wrong number of cells become bad rows.

    Blank lines are skipped. An unclosed quote extends its cell to the next quote; every line inside counts as bad.

    Raises:
        ValueError: text in another encoding.
    """
    import polars as pl
    import pyarrow as pa
    import pyarrow.csv as pc

    names = column_names(path, csv_format)
    numbers = LineNumbers(path.name, 1 if csv_format.columns else 2)
    try:
        with open_text(path) as stream:
            reader = pc.open_csv(
                stream,
                # Arrow numbers invalid rows only when it reads with a single thread.
                pc.ReadOptions(
                    use_threads=False,
                    block_size=BLOCK,
                    column_names=list(names),
                    skip_rows=0 if csv_format.columns else 1,
                    encoding=csv_format.encoding,
                ),
                parse_options(csv_format, numbers),
                pc.ConvertOptions(
                    column_types={name: pa.string() for name in names}, strings_can_be_null=False
                ),
            )
            for batch in reader:
                frame = pl.DataFrame(pl.from_arrow(batch))
                lines = numbers.next_lines(len(frame))
                blank = is_blank(frame)
                frame, lines = frame.filter(pl.Series(~blank)), lines[~blank]
                bad = numbers.take_bad_rows()
                yield Chunk(frame.to_dict(as_series=True), path.name, lines, bad)
            bad = numbers.take_bad_rows()
            if bad:
                empty = {name: pl.Series(name, [], pl.String) for name in names}
                yield Chunk(empty, path.name, np.zeros(0, np.int64), bad)
    except pa.ArrowInvalid as error:
        raise encoding_error(str(path), csv_format, error) from error
