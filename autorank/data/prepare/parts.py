"""Checked and coded rows of one piece of a log, as files: what preparing goes on from.

A part is three files, the last of which says that it is whole: ``000012.rows`` (labels, dense
columns after the logarithm, codes, times; column by column), ``000012.values`` (field by field how
often each distinct value occurs, in the order of the codes, and its text as Arrow lays it out) and
``000012.json``.
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from autorank.data.fast_text import buffer_pool as recycled
from autorank.data.fast_text.words import Words, from_buffers
from autorank.data.format.source import Cut

Arrays = dict[str, np.ndarray]
DTYPES = {"labels": np.int8, "dense": np.float32, "codes": np.int32, "time": np.int64}


class Part(NamedTuple):
    """What is known of a part without opening it."""

    index: int
    num_rows: int
    num_values: tuple[int, ...]  # distinct values of each field; empty when ids are hashed
    num_bytes: tuple[int, ...]  # of these values' text
    widths: dict[str, int]  # columns of each kind
    end: Cut
    share: float
    num_bad: int
    bad: tuple[tuple[str, str], ...]  # the first few: place, reason
    counts: dict[str, int]
    # Forms of times (`times`): how many rows are of each, and where the first stands. With fractions among them, the
    # 64 bits of a time are those of a float64.
    times: dict[str, tuple[int, str]]
    first_time: float | int
    last_time: float | int
    sorted: bool


def write_part(folder: Path, part: Part, arrays: Arrays, texts: list[Any], uses: list[Any]) -> None:
    """Writes a part; one that is already there is replaced.

    Args:
        arrays: by kind [columns, rows].
        texts, uses: for each field its distinct values (`text_buffers`) and their counts (int64).
    """
    rows, values, record = _paths(folder, part.index)
    record.unlink(missing_ok=True)
    with rows.open("wb") as file:
        for kind, dtype in DTYPES.items():
            if kind in arrays:
                file.write(np.ascontiguousarray(arrays[kind], dtype).data)
    with values.open("wb") as file:
        for (offsets, data), count in zip(texts, uses, strict=True):
            for array in (np.asarray(count, np.int32), offsets, data):
                file.write(np.ascontiguousarray(array).data)
    sizes = {path.name: path.stat().st_size for path in (rows, values) if path.exists()}
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
        if set(part) != set(Part._fields):  # left by another version
            return found
        found.append(
            Part(**part)._replace(
                num_values=tuple(part["num_values"]),
                num_bytes=tuple(part["num_bytes"]),
                end=Cut(*part["end"]),
                bad=tuple((place, reason) for place, reason in part["bad"]),
                times={form: (count, place) for form, (count, place) in part["times"].items()},
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
    path = _path(folder, part.index, "rows")
    found = recycled.empty((stop - first, part.num_rows), dtype)
    read_at(path, offset + first * part.num_rows * dtype.itemsize, found)
    return found


def read_values(
    folder: Path, part: Part, field: int, *, as_words: bool = False
) -> tuple[Any, np.ndarray]:
    """Distinct values of a field in the order of the codes, and their counts.

    Arrow strings; with ``as_words`` `Words` where all are short.
    """
    import pyarrow as pa

    numbers = [2 * size + 1 for size in part.num_values]  # counts and offsets, 4 bytes each
    start = sum(4 * n + size for n, size in zip(numbers[:field], part.num_bytes, strict=False))
    size = part.num_values[field]
    content = recycled.empty(4 * numbers[field] + part.num_bytes[field], np.uint8)
    read_at(_path(folder, part.index, "values"), start, content)
    uses, offsets = np.split(content[: 4 * numbers[field]].view(np.int32), [size])
    data = content[4 * numbers[field] :]
    words = from_buffers(offsets, data) if as_words else None
    if words is not None:
        return words, uses
    buffers = pa.py_buffer(offsets), pa.py_buffer(data)
    return pa.StringArray.from_buffers(size, *buffers), uses


def read_at(path: Path, offset: int, into: np.ndarray) -> None:
    """Fills an array from a place of a file on."""
    left = into.data.cast("B") if into.size else memoryview(b"")
    with path.open("rb", buffering=0) as file:
        file.seek(offset)
        while left:
            found = file.readinto(left)
            if not found:
                raise OSError(f"{path} has become shorter; remove its folder and start again")
            left = left[found:]


def num_bytes(parts: Sequence[Part]) -> int:
    """Of the rows of all parts."""
    return sum(
        part.num_rows
        * sum(part.widths[kind] * np.dtype(DTYPES[kind]).itemsize for kind in part.widths)
        for part in parts
    )


def text_buffers(values: Any) -> tuple[np.ndarray, np.ndarray]:
    """Offsets int32 [n + 1] from 0 and bytes uint8 of an Arrow string array without nulls, or of `Words`."""
    if isinstance(values, Words):
        return values.buffers()
    _, offsets, data = values.buffers()
    if offsets is None or len(values) == 0:
        return np.zeros(1, np.int32), np.zeros(0, np.uint8)
    bounds = np.frombuffer(offsets, np.int32)[values.offset : values.offset + len(values) + 1]
    content = np.zeros(0, np.uint8) if data is None else np.frombuffer(data, np.uint8)
    return bounds - bounds[0], content[bounds[0] : bounds[-1]]


def write_whole(path: Path, text: str) -> None:
    """A file that is there whole or not at all."""
    partial = path.with_name(path.name + ".new")
    partial.write_text(text, "utf-8")
    os.replace(partial, path)


def _paths(folder: Path, index: int) -> tuple[Path, Path, Path]:
    return tuple(_path(folder, index, end) for end in ("rows", "values", "json"))  # type: ignore[return-value]


def _path(folder: Path, index: int, end: str) -> Path:
    return folder / f"{index:06d}.{end}"


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else -1
