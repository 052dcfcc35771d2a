"""From parts to the matrices of a prepared folder, in the order of time.

Parts are encoded in the order read and appended to row-major files; how far it came is written down after each, so that
a run that was stopped goes on there. Only where rows do not lie in the order of time are they gathered into it
afterwards (times and order of all rows are then in memory: 25 bytes a row).
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from autorank.data.fast_text.words import worth_compiling
from autorank.data.format.schema import MISSING, UNKNOWN
from autorank.data.format.source import Progress
from autorank.data.prepare.encoders import Encoders, standardise
from autorank.data.prepare.intake import Report, bad_rows
from autorank.data.prepare.parts import Part, num_bytes, read_rows
from autorank.data.prepare.times import FRACTIONS
from autorank.data.prepare.vocabulary import Split, lookup, starts

TILE = 1 << 13  # rows put together at a time, in a core's cache
BLOCK = 1 << 18  # rows gathered at a time
ARRAYS = {"sparse.npy": np.int32, "dense.npy": np.float32, "labels.npy": np.int8}
STATE = "arranged.json"


def split_of(parts: Sequence[Part], source: Path, train_fraction: float) -> Split:
    """The first ``train_fraction`` of the rows in the order of time, at least one and not all."""
    num_rows = sum(part.num_rows for part in parts)
    num_train = min(max(1, round(train_fraction * num_rows)), num_rows - 1)
    filled = [part for part in parts if part.num_rows]
    ends = zip(filled[:-1], filled[1:], strict=True)
    if all(part.sorted for part in filled) and all(a.last_time <= b.first_time for a, b in ends):
        return Split(num_train, None, None)
    moments = np.concatenate([_moments(source, part) for part in filled])
    order = np.argsort(moments, kind="stable")
    train = np.zeros(num_rows, bool)
    train[order[:num_train]] = True
    return Split(num_train, order, train)


def _moments(source: Path, part: Part) -> np.ndarray:
    """Times of a part's rows: int64, or float64 where there are fractions (and then of all, put together)."""
    found = read_rows(source, part, "time")[0]
    return found.view(np.float64) if FRACTIONS in part.times else found


def write_arrays(
    parts: Sequence[Part],
    source: Path,
    merged: Path,
    split: Split,
    learned: Encoders,
    folder: Path,
    progress: Progress,
) -> dict[str, Any]:
    """Writes the matrices; what it counted on the way.

    Args:
        source, merged: folders of the parts and of the fields' ids.
    """
    folder.mkdir(exist_ok=True)
    first_rows = starts(parts)
    num_rows = sum(part.num_rows for part in parts)
    widths = dict(
        zip(
            ARRAYS,
            (len(learned.fields), len(learned.dense), parts[0].widths["labels"]),
            strict=True,
        )
    )
    paths = {name: folder / (name if split.order is None else f"as_read_{name}") for name in ARRAYS}
    done = _continued(folder, paths.values(), widths)
    headers = {
        name: _header(paths[name], (num_rows, widths[name]), ARRAYS[name]) for name in ARRAYS
    }
    fast = worth_compiling(num_bytes(parts))
    report = Report(num_rows, progress, sum(part.num_rows for part in parts[: done["parts"]]))
    for part in parts[done["parts"] :]:
        mask = split.mask(first_rows[part.index], part.num_rows)
        tiles = _encode(parts, part, source, merged, learned, mask, done, fast)
        with ExitStack() as stack:
            files = {}
            for name, path in paths.items():
                files[name] = file = stack.enter_context(path.open("r+b", buffering=0))
                row = widths[name] * np.dtype(ARRAYS[name]).itemsize
                file.seek(headers[name] + first_rows[part.index] * row)
            for tile in tiles:
                for name, block in tile.items():
                    if block.size:
                        _write(files[name], block)
        done["parts"] += 1
        with (folder / STATE).open("a", encoding="utf-8") as file:
            file.write(json.dumps(done) + "\n")  # a new file in place of it would wait for the disk
        report("wrote", first_rows[part.index] + part.num_rows)
    if split.order is not None:
        for name, path in paths.items():
            _gather(path, folder / name, split.order)
        for path in paths.values():
            path.unlink()
    (folder / STATE).unlink()
    return _notes(parts, num_rows, split.num_train, learned, done)


def _encode(
    parts: Sequence[Part],
    part: Part,
    source: Path,
    merged: Path,
    learned: Encoders,
    mask: np.ndarray,
    done: dict[str, Any],
    fast: bool,
) -> Iterator[dict[str, np.ndarray]]:
    """The rows of a part as they are written, some at a time; counts in ``done`` grow. ``fast``: by compiled loops."""
    codes, numbers, labels = (
        read_rows(source, part, kind) for kind in ("codes", "dense", "labels")
    )
    offsets = np.array([field.offset for field in learned.fields], np.int32)
    # As float32, which the numbers are.
    means = np.array([encoder.mean for encoder in learned.dense], np.float32)
    stds = np.array([encoder.std for encoder in learned.dense], np.float32)
    ids, places = _lookups(parts, part, merged, learned)
    sparse = np.empty((TILE, len(codes)), np.int32)
    dense = np.empty((TILE, len(numbers)), np.float32)
    num_unknown = np.zeros((2, len(codes)), np.int64)
    for first in range(0, part.num_rows, TILE):
        rows = slice(first, first + TILE)
        train = mask[rows]
        num_rows = len(train)
        if fast:
            from autorank.data.fast_text.loops import rows as loops_of_rows

            loops_of_rows.look_up(
                codes, first, ids, places, offsets, UNKNOWN, train, num_unknown, sparse[:num_rows]
            )
            loops_of_rows.standardise(numbers, first, means, stds, dense[:num_rows])
        else:
            for j, place in enumerate(places):
                found = codes[j, rows]
                if place:
                    found = ids.take(place + found)
                    num_unknown[0, j] += np.count_nonzero((found == UNKNOWN) & train)
                    num_unknown[1, j] += np.count_nonzero((found == UNKNOWN) & ~train)
                sparse[:num_rows, j] = found + offsets[j]
            dense[:num_rows] = standardise(numbers[:, rows].T, means, stds)
        yield {
            "sparse.npy": sparse[:num_rows],
            "dense.npy": dense[:num_rows],
            "labels.npy": np.ascontiguousarray(labels[:, rows].T),
        }
    for kind, counts in zip(("train", "test"), num_unknown.tolist(), strict=True):
        done["unknown"][kind] = [a + b for a, b in zip(done["unknown"][kind], counts, strict=True)]
    for k, label in enumerate(labels):
        done["positive"]["train"][k] += int(label[mask].sum())
        done["positive"]["test"][k] += int(label[~mask].sum())


def _lookups(
    parts: Sequence[Part], part: Part, merged: Path, learned: Encoders
) -> tuple[np.ndarray, np.ndarray]:
    """Ids (offset not added) of the codes of all fields, and the place of each field's code 0; 0 where codes are ids.

    In front of each field's lies the one that the code -1 reads.
    """
    missing = np.array([MISSING], np.int32)
    found, places, end = [missing], [], 1
    for j, field in enumerate(learned.fields):
        places.append(0 if field.buckets else end)
        if not field.buckets:
            found += [lookup(parts, merged, j, part.index), missing]
            end += len(found[-2]) + 1
    return np.concatenate(found), np.array(places, np.int64)


def _write(file: Any, block: np.ndarray) -> None:
    """All of it: a file without a buffer may take less at a time."""
    left = block.data.cast("B")
    while left:
        left = left[file.write(left) :]


def _continued(folder: Path, paths: Iterable[Path], widths: dict[str, int]) -> dict[str, Any]:
    """How far an earlier run came, and what it counted."""
    state = folder / STATE
    lines = state.read_text("utf-8").split("\n") if state.exists() else []
    if len(lines) > 1:  # the last one has no end: it is empty, or was cut off
        state.write_text(lines[-2] + "\n", "utf-8")
        return json.loads(lines[-2])
    for path in (*paths, state):
        path.unlink(missing_ok=True)
    fields, labels = widths["sparse.npy"], widths["labels.npy"]
    return {
        "parts": 0,
        "unknown": {part: [0] * fields for part in ("train", "test")},
        "positive": {part: [0] * labels for part in ("train", "test")},
    }


def _header(path: Path, shape: tuple[int, int], dtype: Any) -> int:
    """Starts a `.npy` file, unless it is there; bytes before its rows."""
    if not path.exists():
        array = {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False}
        with path.open("wb") as file:
            np.lib.format.write_array_header_1_0(file, array | {"shape": shape})
    with path.open("rb") as file:
        np.lib.format.read_magic(file)
        np.lib.format.read_array_header_1_0(file)
        return file.tell()


def _gather(path: Path, into: Path, order: np.ndarray) -> None:
    """Rows of a `.npy` file in another order."""
    rows = (
        np.load(path, mmap_mode="r", allow_pickle=False)
        if path.stat().st_size > 128
        else np.load(path)
    )
    into.unlink(missing_ok=True)
    header = _header(into, rows.shape, rows.dtype)
    with into.open("r+b") as file:
        file.seek(header)
        for first in range(0, len(order), BLOCK):
            file.write(np.ascontiguousarray(rows[order[first : first + BLOCK]]).tobytes())


def _notes(
    parts: Sequence[Part], num_rows: int, num_train: int, learned: Encoders, done: dict[str, Any]
) -> dict[str, Any]:
    sizes = {"train": num_train, "test": num_rows - num_train}
    names = [field.name for field in learned.fields]
    num_bad, bad = bad_rows(parts)
    counts: dict[str, int] = {}
    for part in parts:
        for key, count in part.counts.items():
            counts[key] = counts.get(key, 0) + count
    notes: dict[str, Any] = {
        "bad_rows": {"count": num_bad, "first": [f"{row.place}: {row.reason}" for row in bad]},
        "positive_rates": {
            part: (np.array(found) / sizes[part]).round(6).tolist()
            for part, found in done["positive"].items()
        },
        "unknown_share": {
            part: dict(zip(names, (np.array(found) / sizes[part]).round(4).tolist(), strict=True))
            for part, found in done["unknown"].items()
        },
    }
    return notes | counts
