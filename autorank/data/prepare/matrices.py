"""Writes the matrices of a prepared folder from staged parts, in time order.

Parts are encoded in the order they were read and appended to row-major files. The progress is recorded after each part,
so that an interrupted run resumes there. Only if the rows were not read in time order are they gathered into it at the
end; that needs the times and the order of all rows in memory, 25 bytes per row.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from autorank.data.fast_text.short_strings import worth_compiling
from autorank.data.format.schema import MISSING, UNKNOWN
from autorank.data.format.source import Progress
from autorank.data.prepare.encoders import Encoders, standardise
from autorank.data.prepare.ingest import bad_rows
from autorank.data.prepare.progress import ProgressReport
from autorank.data.prepare.split import TimeSplit, first_rows
from autorank.data.prepare.staging import StagedPart, num_bytes, read_rows
from autorank.data.prepare.vocabulary import ids_of_codes

TILE = 1 << 13  # rows encoded at a time, to fit the L1 cache
BLOCK = 1 << 18  # rows gathered at a time
ARRAYS = {"sparse.npy": np.int32, "dense.npy": np.float32, "labels.npy": np.int8}
STATE = "arranged.json"


def write_matrices(
    parts: Sequence[StagedPart],
    staged: Path,
    merged: Path,
    split: TimeSplit,
    encoders: Encoders,
    folder: Path,
    progress: Progress,
) -> dict[str, Any]:
    """Writes the matrices and returns the notes of the schema.

    Args:
        parts: the staged parts.
        staged: their folder.
        merged: the folder of the vocabularies (`vocabulary.learn_vocabulary`).
        split: time order and training rows.
        encoders: learned on the training rows.
        folder: where the matrices are written.
        progress: receives progress lines.
    """
    folder.mkdir(exist_ok=True)
    starts = first_rows(parts)
    num_rows = sum(part.num_rows for part in parts)
    sizes = len(encoders.fields), len(encoders.dense), parts[0].widths["labels"]
    widths = dict(zip(ARRAYS, sizes, strict=True))
    in_order = split.order is None
    paths = {name: folder / (name if in_order else f"as_read_{name}") for name in ARRAYS}
    done = _resume(folder, list(paths.values()), widths)
    headers = {
        name: _header_size(paths[name], (num_rows, widths[name]), ARRAYS[name]) for name in ARRAYS
    }
    encoder = _PartEncoder(parts, staged, merged, encoders, worth_compiling(num_bytes(parts)))
    rows_done = sum(part.num_rows for part in parts[: done["parts"]])
    report = ProgressReport(num_rows, progress, rows_done)
    for part in parts[done["parts"] :]:
        mask = split.mask(starts[part.index], part.num_rows)
        with ExitStack() as stack:
            files = {}
            for name, path in paths.items():
                files[name] = file = stack.enter_context(path.open("r+b", buffering=0))
                row_size = widths[name] * np.dtype(ARRAYS[name]).itemsize
                file.seek(headers[name] + starts[part.index] * row_size)
            for tile in encoder.encode(part, mask, done):
                for name, block in tile.items():
                    if block.size:
                        _write_all(files[name], block)
        done["parts"] += 1
        with (folder / STATE).open("a", encoding="utf-8") as file:
            # Appended, because replacing the file would wait for the disk.
            file.write(json.dumps(done) + "\n")
        rows_done += part.num_rows
        report("wrote", rows_done)
    if split.order is not None:
        for name, path in paths.items():
            _gather(path, folder / name, split.order)
        for path in paths.values():
            path.unlink()
    (folder / STATE).unlink()
    return _notes(parts, num_rows, split.num_train, encoders, done)


class IdTables(NamedTuple):
    """Tables from the codes of a part to ids.

    Attributes:
        ids: int32, the ids (without offset) of all fields, one after the other. The entry in front of each field's own
            is the id of missing values, which the code -1 reads.
        starts: int64 [f], the index of the id of each field's code 0; 0 if the codes of the field are ids.
    """

    ids: np.ndarray
    starts: np.ndarray


@dataclass(frozen=True)
class _PartEncoder:
    """Encodes the rows of staged parts.

    Attributes:
        parts: the staged parts.
        staged: their folder.
        merged: the folder of the vocabularies.
        encoders: learned on the training rows.
        compiled: whether compiled loops do the work, which pays off for many rows.
    """

    parts: Sequence[StagedPart]
    staged: Path
    merged: Path
    encoders: Encoders
    compiled: bool

    def encode(
        self, part: StagedPart, train: np.ndarray, done: dict[str, Any]
    ) -> Iterator[dict[str, np.ndarray]]:
        """Yields the rows of a part in tiles, array name -> rows, in memory that the next tile overwrites.

        Args:
            part: the part.
            train: bool [rows of the part], which rows are for training.
            done: its counters are incremented at the end.
        """
        codes, numbers, labels = (
            read_rows(self.staged, part, kind) for kind in ("codes", "dense", "labels")
        )
        tables = self._id_tables(part)
        sparse = np.empty((TILE, len(codes)), np.int32)
        dense = np.empty((TILE, len(numbers)), np.float32)
        num_unknown = np.zeros((2, len(codes)), np.int64)  # in training rows, in test rows
        for first in range(0, part.num_rows, TILE):
            rows = slice(first, first + TILE)
            num_rows = len(train[rows])
            self._encode_ids(codes, first, tables, train[rows], num_unknown, sparse[:num_rows])
            self._encode_numbers(numbers, first, dense[:num_rows])
            yield {
                "sparse.npy": sparse[:num_rows],
                "dense.npy": dense[:num_rows],
                "labels.npy": np.ascontiguousarray(labels[:, rows].T),
            }
        unknown, positive = done["unknown"], done["positive"]
        for kind, counts in zip(("train", "test"), num_unknown.tolist(), strict=True):
            unknown[kind] = [a + b for a, b in zip(unknown[kind], counts, strict=True)]
        for k, label in enumerate(labels):
            positive["train"][k] += int(label[train].sum())
            positive["test"][k] += int(label[~train].sum())

    def _encode_ids(
        self,
        codes: np.ndarray,
        first: int,
        tables: IdTables,
        train: np.ndarray,
        num_unknown: np.ndarray,
        into: np.ndarray,
    ) -> None:
        """Writes the ids, int32 [b, f], of the rows from ``first`` on; counts the unknown ones."""
        offsets = np.array([field.offset for field in self.encoders.fields], np.int32)
        if self.compiled:
            from autorank.data.fast_text.loops import encoding as encoding_loops

            encoding_loops.encode_codes(
                codes, first, *tables, offsets, UNKNOWN, train, num_unknown, into
            )
            return
        for j, start in enumerate(tables.starts):
            found = codes[j, first : first + len(into)]
            if start:
                found = tables.ids.take(start + found)
                num_unknown[0, j] += np.count_nonzero((found == UNKNOWN) & train)
                num_unknown[1, j] += np.count_nonzero((found == UNKNOWN) & ~train)
            into[:, j] = found + offsets[j]

    def _encode_numbers(self, numbers: np.ndarray, first: int, into: np.ndarray) -> None:
        """Writes the standardised numbers, float32 [b, m], of the rows from ``first`` on."""
        # In float32, like the numbers.
        means = np.array([encoder.mean for encoder in self.encoders.dense], np.float32)
        stds = np.array([encoder.std for encoder in self.encoders.dense], np.float32)
        if self.compiled:
            from autorank.data.fast_text.loops import encoding as encoding_loops

            encoding_loops.standardise(numbers, first, means, stds, into)
        else:
            into[:] = standardise(numbers[:, first : first + len(into)].T, means, stds)

    def _id_tables(self, part: StagedPart) -> IdTables:
        missing = np.array([MISSING], np.int32)
        found, starts, end = [missing], [], 1
        for j, field in enumerate(self.encoders.fields):
            starts.append(0 if field.buckets else end)
            if not field.buckets:
                found += [ids_of_codes(self.parts, self.merged, j, part.index), missing]
                end += len(found[-2]) + 1
        return IdTables(np.concatenate(found), np.array(starts, np.int64))


def _write_all(file: Any, block: np.ndarray) -> None:
    """Writes all bytes; an unbuffered file may write fewer at a time."""
    left = block.data.cast("B")
    while left:
        left = left[file.write(left) :]


def _resume(folder: Path, paths: Sequence[Path], widths: dict[str, int]) -> dict[str, Any]:
    """The progress and the counters of an earlier run, or fresh ones."""
    state = folder / STATE
    lines = state.read_text("utf-8").split("\n") if state.exists() else []
    if len(lines) > 1:  # the text after the last line end is empty or an incomplete line
        state.write_text(lines[-2] + "\n", "utf-8")
        return json.loads(lines[-2])
    for path in (*paths, state):
        path.unlink(missing_ok=True)
    fields, labels = widths["sparse.npy"], widths["labels.npy"]
    return {
        "parts": 0,
        "unknown": {kind: [0] * fields for kind in ("train", "test")},
        "positive": {kind: [0] * labels for kind in ("train", "test")},
    }


def _header_size(path: Path, shape: tuple[int, int], dtype: Any) -> int:
    """Bytes in front of the rows of a `.npy` file, whose header is written if the file does not exist."""
    if not path.exists():
        array = {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False}
        with path.open("wb") as file:
            np.lib.format.write_array_header_1_0(file, array | {"shape": shape})
    with path.open("rb") as file:
        np.lib.format.read_magic(file)
        np.lib.format.read_array_header_1_0(file)
        return file.tell()


def _gather(path: Path, into: Path, order: np.ndarray) -> None:
    """Writes the rows of a `.npy` file in another order."""
    is_empty = path.stat().st_size <= 128  # a header alone cannot be mapped
    rows = np.load(path) if is_empty else np.load(path, mmap_mode="r", allow_pickle=False)
    into.unlink(missing_ok=True)
    header = _header_size(into, rows.shape, rows.dtype)
    with into.open("r+b") as file:
        file.seek(header)
        for first in range(0, len(order), BLOCK):
            file.write(np.ascontiguousarray(rows[order[first : first + BLOCK]]).tobytes())


def _notes(
    parts: Sequence[StagedPart],
    num_rows: int,
    num_train: int,
    encoders: Encoders,
    done: dict[str, Any],
) -> dict[str, Any]:
    """The notes of the schema: bad rows, positive rates, shares of unknown ids and further counters."""
    sizes = {"train": num_train, "test": num_rows - num_train}
    names = [field.name for field in encoders.fields]
    num_bad, bad = bad_rows(parts)
    counts: dict[str, int] = {}
    for part in parts:
        for key, count in part.counts.items():
            counts[key] = counts.get(key, 0) + count
    notes: dict[str, Any] = {
        "bad_rows": {"count": num_bad, "first": [f"{row.place}: {row.reason}" for row in bad]},
        "positive_rates": {
            kind: (np.array(found) / sizes[kind]).round(6).tolist()
            for kind, found in done["positive"].items()
        },
        "unknown_share": {
            kind: dict(zip(names, (np.array(found) / sizes[kind]).round(4).tolist(), strict=True))
            for kind, found in done["unknown"].items()
        },
    }
    return notes | counts
