"""Checked and coded rows of one piece of a log, as files: what preparing goes on from.

A part is three files, the last of which says that it is whole: ``000012.rows`` (labels, dense columns after the
logarithm, codes, times; column by column), ``000012.values`` (per field the distinct values in the order of the codes
and how often each occurs; Arrow) and ``000012.json``.
"""

import json
import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from autorank.data.source import Cut

Arrays = dict[str, np.ndarray]
DTYPES = {"labels": np.int8, "dense": np.float32, "codes": np.int32, "time": np.float64}


class Part(NamedTuple):
    """What is known of a part without opening it."""

    index: int
    num_rows: int
    num_values: tuple[int, ...]  # distinct values of each field; empty when ids are hashed
    widths: dict[str, int]  # columns of each kind
    end: Cut
    share: float
    num_bad: int
    bad: tuple[tuple[str, str], ...]  # the first few: place, reason
    counts: dict[str, int]
    kinds: tuple[str, ...]  # of times: numbers, dates
    first_time: float
    last_time: float
    sorted: bool


def write_part(
    folder: Path, part: Part, arrays: Arrays, values: list[Any], uses: list[Any]
) -> None:
    """Writes a part; one that is already there is replaced.

    Args:
        arrays: by kind [columns, rows].
        values, uses: for each field its distinct values (Arrow strings) and their counts (int64).
    """
    import pyarrow as pa

    rows, texts, record = _paths(folder, part.index)
    record.unlink(missing_ok=True)
    with rows.open("wb") as file:
        for kind, dtype in DTYPES.items():
            if kind in arrays:
                file.write(np.ascontiguousarray(arrays[kind], dtype).data)
    if values:
        columns = {}
        for j, (value, count) in enumerate(zip(values, uses, strict=True)):
            columns[f"values{j}"] = pa.ListArray.from_arrays(
                pa.array([0, len(value)], pa.int32()), value
            )
            columns[f"uses{j}"] = pa.ListArray.from_arrays(
                pa.array([0, len(value)], pa.int32()), pa.array(count)
            )
        table = pa.table(columns)
        with pa.OSFile(str(texts), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
    sizes = {path.name: path.stat().st_size for path in (rows, texts) if path.exists()}
    write_whole(record, json.dumps({"part": part._asdict(), "sizes": sizes}))


def read_parts(folder: Path) -> list[Part]:
    """The whole parts from the first on, up to the first that is absent or broken."""
    found: list[Part] = []
    while True:
        _, _, record = _paths(folder, len(found))
        try:
            content = json.loads(record.read_text("utf-8"))
        except (FileNotFoundError, ValueError):
            return found
        sizes = content["sizes"]
        if any(_size(folder / name) != size for name, size in sizes.items()):
            return found
        part = content["part"]
        found.append(
            Part(**part)._replace(
                num_values=tuple(part["num_values"]),
                end=Cut(*part["end"]),
                bad=tuple((place, reason) for place, reason in part["bad"]),
                kinds=tuple(part["kinds"]),
            )
        )


def read_rows(
    folder: Path, part: Part, kind: str, first: int = 0, stop: int | None = None
) -> np.ndarray:
    """Columns ``first .. stop`` of one kind of a part, [columns, rows]."""
    offset = 0
    for name, dtype in DTYPES.items():
        if name == kind:
            break
        offset += part.widths[name] * part.num_rows * np.dtype(dtype).itemsize
    dtype = np.dtype(DTYPES[kind])
    stop = part.widths[kind] if stop is None else stop
    path = _paths(folder, part.index)[0]
    found = np.fromfile(
        path,
        dtype,
        (stop - first) * part.num_rows,
        offset=offset + first * part.num_rows * dtype.itemsize,
    )
    return found.reshape(stop - first, part.num_rows)


def read_values(folder: Path, part: Part, field: int) -> tuple[Any, np.ndarray]:
    """Distinct values of a field (Arrow strings) in the order of the codes, and their counts."""
    import pyarrow as pa

    with pa.memory_map(str(_paths(folder, part.index)[1])) as source:
        batch = pa.ipc.open_file(source).get_batch(0)
        values, uses = (
            batch.column(f"values{field}").flatten(),
            batch.column(f"uses{field}").flatten(),
        )
        # Copies: the file is not to stay mapped.
        return pa.concat_arrays([values, values[:0]]), np.array(uses)


def write_whole(path: Path, text: str) -> None:
    """A file that is there whole or not at all."""
    partial = path.with_name(path.name + ".new")
    partial.write_text(text, "utf-8")
    os.replace(partial, path)


def _paths(folder: Path, index: int) -> tuple[Path, Path, Path]:
    return tuple(folder / f"{index:06d}.{end}" for end in ("rows", "values", "json"))  # type: ignore[return-value]


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else -1
