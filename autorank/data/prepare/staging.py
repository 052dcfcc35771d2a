"""Staged parts: the checked and coded rows of one segment of a log, stored as files from which preparation resumes.

A part is three files; the last one marks it as complete:

- ``000012.rows``: labels, dense columns after the logarithm, codes and times, column by column;
- ``000012.values``: for each field the count of each distinct value, in the order of the codes, and the values in
  Arrow's layout of strings;
- ``000012.json``: the `StagedPart` and the sizes of the other files.
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from autorank.data.fast_text import buffer_pool
from autorank.data.fast_text.short_strings import ShortStrings, from_buffers
from autorank.data.format.source import Position

Arrays = dict[str, np.ndarray]
DTYPES = {"labels": np.int8, "dense": np.float32, "codes": np.int32, "time": np.int64}


class StagedPart(NamedTuple):
    """The description of a staged part.

    Attributes:
        index: number of the part, from 0.
        num_rows: usable rows.
        num_values: distinct values of each field; empty if ids are hashed.
        num_bytes: bytes of the text of these values.
        widths: number of columns of each kind, a key of `DTYPES`.
        end: the position in the log after the part.
        share: the fraction of the log up to ``end``; 0 if unknown.
        num_bad: rows that were left out.
        bad: place and reason of the first few of them.
        counts: counters of the chunk, and of inexact identifiers.
        times: `time_forms.Forms` of the part. If they include fractions, the 64 bits of a time are those of a float64.
        first_time, last_time: times of the first and last row.
        sorted: whether the rows are in time order.
    """

    index: int
    num_rows: int
    num_values: tuple[int, ...]
    num_bytes: tuple[int, ...]
    widths: dict[str, int]
    end: Position
    share: float
    num_bad: int
    bad: tuple[tuple[str, str], ...]
    counts: dict[str, int]
    times: dict[str, tuple[int, str]]
    first_time: float | int
    last_time: float | int
    sorted: bool


def write_part(
    folder: Path, part: StagedPart, arrays: Arrays, texts: list[Any], counts: list[Any]
) -> None:
    """Writes a part; an existing one is replaced.

    Args:
        folder: where to write it.
        part: its description.
        arrays: kind -> [columns, rows].
        texts, counts: for each field its distinct values (`text_buffers`) and the rows with each (int64).
    """
    rows, values, record = _paths(folder, part.index)
    record.unlink(missing_ok=True)
    with rows.open("wb") as file:
        for kind, dtype in DTYPES.items():
            if kind in arrays:
                file.write(np.ascontiguousarray(arrays[kind], dtype).data)
    with values.open("wb") as file:
        for (offsets, data), count in zip(texts, counts, strict=True):
            for array in (np.asarray(count, np.int32), offsets, data):
                file.write(np.ascontiguousarray(array).data)
    sizes = {path.name: path.stat().st_size for path in (rows, values) if path.exists()}
    write_atomically(record, json.dumps({"part": part._asdict(), "sizes": sizes}))


def read_parts(folder: Path) -> list[StagedPart]:
    """The complete parts, up to the first one that is missing or broken."""
    found: list[StagedPart] = []
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
        if set(part) != set(StagedPart._fields):  # written by another version
            return found
        found.append(
            StagedPart(**part)._replace(
                num_values=tuple(part["num_values"]),
                num_bytes=tuple(part["num_bytes"]),
                end=Position(*part["end"]),
                bad=tuple((place, reason) for place, reason in part["bad"]),
                times={form: (count, place) for form, (count, place) in part["times"].items()},
            )
        )


def read_rows(
    folder: Path, part: StagedPart, kind: str, first: int = 0, stop: int | None = None
) -> np.ndarray:
    """Columns ``first .. stop - 1`` of one kind, [columns, rows]."""
    offset = 0
    for name, dtype in DTYPES.items():
        if name == kind:
            break
        offset += part.widths[name] * part.num_rows * np.dtype(dtype).itemsize
    dtype = np.dtype(DTYPES[kind])
    stop = part.widths[kind] if stop is None else stop
    path = _path(folder, part.index, "rows")
    found = buffer_pool.empty((stop - first, part.num_rows), dtype)
    read_at(path, offset + first * part.num_rows * dtype.itemsize, found)
    return found


def read_values(
    folder: Path, part: StagedPart, field: int, *, as_short_strings: bool = False
) -> tuple[Any, np.ndarray]:
    """The distinct values of a field in the order of the codes, and the rows with each.

    The values are an Arrow string array, or `ShortStrings` if ``as_short_strings`` is set and all of them are short.
    """
    import pyarrow as pa

    numbers = [2 * size + 1 for size in part.num_values]  # counts and offsets, 4 bytes each
    start = sum(4 * n + size for n, size in zip(numbers[:field], part.num_bytes, strict=False))
    size = part.num_values[field]
    content = buffer_pool.empty(4 * numbers[field] + part.num_bytes[field], np.uint8)
    read_at(_path(folder, part.index, "values"), start, content)
    counts, offsets = np.split(content[: 4 * numbers[field]].view(np.int32), [size])
    data = content[4 * numbers[field] :]
    strings = from_buffers(offsets, data) if as_short_strings else None
    if strings is not None:
        return strings, counts
    buffers = pa.py_buffer(offsets), pa.py_buffer(data)
    return pa.StringArray.from_buffers(size, *buffers), counts


def read_at(path: Path, offset: int, into: np.ndarray) -> None:
    """Fills an array with the bytes of a file from an offset on."""
    left = into.data.cast("B") if into.size else memoryview(b"")
    with path.open("rb", buffering=0) as file:
        file.seek(offset)
        while left:
            found = file.readinto(left)
            if not found:
                raise OSError(f"{path} is shorter than it was; remove its folder and start again")
            left = left[found:]


def num_bytes(parts: Sequence[StagedPart]) -> int:
    """Bytes of the rows of all parts."""
    return sum(
        part.num_rows
        * sum(part.widths[kind] * np.dtype(DTYPES[kind]).itemsize for kind in part.widths)
        for part in parts
    )


def text_buffers(values: Any) -> tuple[np.ndarray, np.ndarray]:
    """Offsets int32 [n + 1] from 0 and bytes uint8 of an Arrow string array without nulls, or of `ShortStrings`."""
    if isinstance(values, ShortStrings):
        return values.buffers()
    _, offsets, data = values.buffers()
    if offsets is None or len(values) == 0:
        return np.zeros(1, np.int32), np.zeros(0, np.uint8)
    bounds = np.frombuffer(offsets, np.int32)[values.offset : values.offset + len(values) + 1]
    content = np.zeros(0, np.uint8) if data is None else np.frombuffer(data, np.uint8)
    return bounds - bounds[0], content[bounds[0] : bounds[-1]]


def write_atomically(path: Path, text: str) -> None:
    """Writes a text file that appears complete or not at all."""
    partial = path.with_name(path.name + ".new")
    partial.write_text(text, "utf-8")
    os.replace(partial, path)


def _paths(folder: Path, index: int) -> tuple[Path, Path, Path]:
    return tuple(_path(folder, index, end) for end in ("rows", "values", "json"))  # type: ignore[return-value]


def _path(folder: Path, index: int, end: str) -> Path:
    return folder / f"{index:06d}.{end}"


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else -1
