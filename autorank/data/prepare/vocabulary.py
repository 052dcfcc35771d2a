"""What the training rows of all parts teach: a vocabulary for each field, a scale for each column.

A field's values are counted over the parts in runs by hash, of about `ENTRIES` values each, so that
memory holds one run (about 150 bytes an entry) and what is kept: the values seen at least
``min_count`` times, at most training rows / ``min_count`` of them.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from autorank.data.fast_text.words import Words, distinct_words
from autorank.data.format.schema import NUM_RESERVED, UNKNOWN
from autorank.data.prepare.encoders import DenseEncoder
from autorank.data.prepare.hashing import hash_text
from autorank.data.prepare.parts import Part, read_rows, read_values

ENTRIES = 1 << 21  # distinct values of parts merged at a time
ROWS = 1 << 21  # numbers whose mean is taken at a time


class Split(NamedTuple):
    """Order of time and training part of the rows of all parts."""

    num_train: int
    order: np.ndarray | None  # rows in the order of time; None: as read
    train: np.ndarray | None  # bool, by row as read; None: the first num_train

    def mask(self, first: int, num_rows: int) -> np.ndarray:
        """Which of some rows as read are for training."""
        if self.train is not None:
            return self.train[first : first + num_rows]
        return np.arange(first, first + num_rows) < self.num_train

    def all_or_none(self, first: int, num_rows: int) -> bool | None:
        """Whether all of some rows are for training, or none; None where it takes a mask to tell."""
        if self.train is not None or first < self.num_train < first + num_rows:
            return None
        return first < self.num_train


def starts(parts: Sequence[Part]) -> list[int]:
    """The first row of each part, as read."""
    return np.cumsum([0, *(part.num_rows for part in parts)])[:-1].tolist()


def merge(
    parts: Sequence[Part],
    source: Path,
    field: int,
    split: Split,
    min_count: int,
    folder: Path,
    *,
    as_words: bool = False,
) -> tuple[str, ...]:
    """The vocabulary of a field, most frequent first; equally frequent ones in the order of first appearance.

    Leaves ``<field>.merged``: for each value of each part its id, offset not added (`lookup` reads it), and behind them
    the vocabulary, as Arrow's files have it. Finished ones are not made again.

    Args:
        source: folder of the parts.
        folder: where the results go.
        as_words: short values are merged as words, which is worth it for many.
    """
    import pyarrow as pa

    path, partial = folder / f"{field}.merged", folder / f"{field}.new"
    bounds = np.cumsum([0, *(part.num_values[field] for part in parts)])
    num_entries = int(bounds[-1])
    if path.exists():
        with pa.memory_map(str(path)) as stream:
            content = pa.BufferReader(stream.read_buffer()[_length(num_entries) :])
            return tuple(pa.ipc.open_file(content).get_batch(0).column(0).to_pylist())
    runs = max(1, -(-num_entries // ENTRIES))
    groups = _scratch(partial, _length(num_entries) // 4, runs)
    kept: list[tuple[Any, np.ndarray, np.ndarray]] = []
    num_kept, only = 0, (np.zeros(0, np.int32), np.zeros(0, np.int32))
    for run in range(runs):
        values, uses, where = _entries(parts, source, field, split, bounds, run, runs, as_words)
        codes, dictionary, first, counts = _distinct(values, uses)
        first = first if where is None else where[first]
        found = np.flatnonzero(counts >= min_count)
        ordinals = np.zeros(len(dictionary), np.int32)  # from 1 on; 0 is unknown
        ordinals[found] = np.arange(num_kept + 1, num_kept + 1 + len(found), dtype=np.int32)
        if where is not None and len(where):
            groups[where] = ordinals.take(codes, mode="clip")
        only = ordinals, codes
        kept.append((dictionary.take(found), counts[found], first[found]))
        num_kept += len(found)
    counts, first = (np.concatenate([run[k] for run in kept]) for k in (1, 2))
    ranked = _rank(counts, first)
    ids = np.empty(num_kept + 1, np.int32)
    ids[0] = UNKNOWN
    ids[1 + ranked] = np.arange(NUM_RESERVED, NUM_RESERVED + num_kept, dtype=np.int32)
    if runs == 1 and num_entries:
        ordinals, codes = only
        groups[:num_entries] = ids.take(ordinals, mode="clip").take(codes, mode="clip")
    for begin in range(0, num_entries if runs > 1 else 0, ENTRIES):
        block = groups[begin : min(begin + ENTRIES, num_entries)]
        block[:] = ids.take(block, mode="clip")
    if not isinstance(groups, np.memmap):
        groups.tofile(partial)
    values = _joined([run[0] for run in kept]).take(ranked)
    if isinstance(values, Words):
        values = values.to_arrow()
    batch = pa.record_batch({"values": values})
    with partial.open("ab") as sink, pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)
    partial.replace(path)
    return tuple(values.to_pylist())


def lookup(parts: Sequence[Part], folder: Path, field: int, index: int) -> np.ndarray:
    """Ids (offset not added) of a part's codes of a field, int32."""
    first = sum(part.num_values[field] for part in parts[:index])
    return np.fromfile(
        folder / f"{field}.merged", np.int32, parts[index].num_values[field], offset=4 * first
    )


def scale(
    parts: Sequence[Part], source: Path, column: int, name: str, split: Split, *, fast: bool = False
) -> DenseEncoder:
    """Mean and standard deviation of the known values of a dense column in the training rows.

    ``fast``: NaN are left out by a compiled loop.
    """
    total = mean = variance = 0.0
    waiting: list[np.ndarray] = []

    def add() -> None:
        nonlocal total, mean, variance, waiting
        known = _known(waiting, fast)
        waiting = []
        if not len(known):
            return
        m, n = float(known.mean()), total + len(known)
        known -= m
        np.square(known, out=known)
        v = float(known.mean())
        if total:  # Two sets of numbers as one (Chan, Golub, LeVeque 1979).
            share = len(known) / n
            v += (variance - v) * (1 - share) + (m - mean) ** 2 * share * (1 - share)
            m = mean + (m - mean) * share
        total, mean, variance = n, m, v

    for part, first in zip(parts, starts(parts), strict=True):
        wanted = split.all_or_none(first, part.num_rows)
        if wanted is not False:
            numbers = read_rows(source, part, "dense", column, column + 1)[0]
            waiting.append(numbers if wanted else numbers[split.mask(first, part.num_rows)])
        if sum(map(len, waiting)) >= ROWS:
            add()
    if waiting:
        add()
    std = float(np.sqrt(variance))
    return DenseEncoder(name, mean, std if std > 1e-9 else 1.0)


def _known(columns: list[np.ndarray], fast: bool) -> np.ndarray:
    """The numbers of all columns that are not NaN, float64."""
    if not fast:
        numbers = np.concatenate(columns)
        return numbers[~np.isnan(numbers)].astype(np.float64)
    from autorank.data.fast_text.loops import rows as loops_of_rows

    found, end = np.empty(sum(map(len, columns)) + 1), 0
    for numbers in columns:
        end += loops_of_rows.known(numbers, found[end:])
    return found[:end]


def _entries(
    parts: Sequence[Part],
    source: Path,
    field: int,
    split: Split,
    bounds: np.ndarray,
    run: int,
    runs: int,
    as_words: bool,
) -> tuple[Any, np.ndarray, np.ndarray | None]:
    """Values of the parts in a run, their counts in training rows, and their places; None where it is all values."""
    found: list[tuple[Any, np.ndarray, np.ndarray]] = []
    for part, first, start in zip(parts, starts(parts), bounds, strict=False):
        values, uses = read_values(source, part, field, as_words=as_words)
        wanted = split.all_or_none(first, part.num_rows)
        if wanted is False:
            uses = np.zeros(len(values), np.int32)
        elif wanted is None:
            mask = split.mask(first, part.num_rows)
            codes = read_rows(source, part, "codes", field, field + 1)[0][mask]
            uses = np.bincount(codes + 1, minlength=len(values) + 1)[1:].astype(np.int32)
        where = np.zeros(0, np.int64)
        if runs > 1:
            where = np.arange(start, start + len(values))
            inside = np.flatnonzero(hash_text(values) % np.uint64(runs) == run)
            values, uses, where = values.take(inside), uses[inside], where[inside]
        found.append((values, uses, where))
    return (
        _joined([entry[0] for entry in found]),
        np.concatenate([entry[1] for entry in found]),
        np.concatenate([entry[2] for entry in found]) if runs > 1 else None,
    )


def _rank(counts: np.ndarray, first: np.ndarray) -> np.ndarray:
    """Places of values, highest count first and earlier ones before later ones."""
    order = np.argsort(first) if (np.diff(first) < 0).any() else np.arange(len(first))
    below = counts.max(initial=0) - counts[order]
    for kind in (np.uint8, np.uint16):  # sorted by their bits, in one or two passes
        if below.max(initial=0) <= np.iinfo(kind).max:
            below = below.astype(kind)
            break
    return order[np.argsort(below, kind="stable")]


def _joined(columns: Sequence[Any]) -> Any:
    """Values one behind the other: `Words` where all are, Arrow strings otherwise."""
    import pyarrow as pa

    if all(isinstance(values, Words) for values in columns):
        return Words(np.concatenate([values.words for values in columns]))
    texts = (v.to_arrow() if isinstance(v, Words) else v for v in columns)
    return pa.concat_arrays(list(texts))


def _distinct(values: Any, uses: np.ndarray) -> tuple[np.ndarray, Any, np.ndarray, np.ndarray]:
    """Codes of values that may repeat, the distinct ones, where each occurs first, and the sum of its uses."""
    if isinstance(values, Words):
        found = distinct_words(values.words, uses)
        return found.codes, found.values, found.first, found.uses
    coded = values.dictionary_encode()
    codes = np.asarray(coded.indices)
    first = np.empty(len(coded.dictionary), np.int64)
    first[codes[::-1]] = np.arange(len(codes))[::-1]
    counts = np.bincount(codes, uses, len(first)).astype(np.int64)
    return codes, coded.dictionary, first, counts


def _length(num_entries: int) -> int:
    """Bytes of so many ids, up to where Arrow's file may begin."""
    return -(-4 * num_entries // 64) * 64


def _scratch(path: Path, size: int, runs: int) -> np.ndarray:
    """An int32 array, on the disk where it is longer than a run."""
    if runs == 1:
        return np.zeros(size, np.int32)
    return np.memmap(path, np.int32, mode="w+", shape=(size,))
