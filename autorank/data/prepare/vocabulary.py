"""Learns the vocabulary of a categorical field from the training rows of all staged parts.

Values are counted in runs by hash, of about `RUN_ENTRIES` values each. Memory therefore holds one run (about 150 bytes
per entry) and the vocabulary: the values that occur at least ``min_count`` times, at most training rows / ``min_count``
of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from autorank.data.fast_text.short_strings import ShortStrings, distinct_short_strings
from autorank.data.format.schema import NUM_RESERVED, UNKNOWN
from autorank.data.prepare.hashing import hash_text
from autorank.data.prepare.split import TimeSplit, first_rows
from autorank.data.prepare.staging import StagedPart, read_rows, read_values

RUN_ENTRIES = 1 << 21  # distinct values of parts that are merged at a time


def learn_vocabulary(
    parts: Sequence[StagedPart],
    staged: Path,
    field: int,
    split: TimeSplit,
    min_count: int,
    folder: Path,
    *,
    as_short_strings: bool = False,
) -> tuple[str, ...]:
    """The vocabulary of a field, most frequent value first; ties are broken by first appearance.

    Writes ``<field>.merged``: the id (without offset) of each value of each part, which `ids_of_codes` reads, followed
    by the vocabulary as an Arrow file. An existing file is not made again.

    Args:
        parts: the staged parts.
        staged: their folder.
        field: number of the field.
        split: which rows are for training.
        min_count: training rows that a value must occur in.
        folder: where the result is written.
        as_short_strings: whether to merge short values as `ShortStrings`, which pays off for many.
    """
    path, partial = folder / f"{field}.merged", folder / f"{field}.new"
    entries = _FieldEntries(parts, staged, field, split, as_short_strings)
    num_entries = entries.num_entries
    if path.exists():
        return _read_vocabulary(path, num_entries)
    num_runs = max(1, -(-num_entries // RUN_ENTRIES))
    # The ordinal, and finally the id, of the value of each entry.
    ids_of_entries = _scratch(partial, _ids_size(num_entries) // 4, num_runs)
    kept: list[_FrequentValues] = []
    for run in range(num_runs):
        found = _frequent_values(entries.run(run, num_runs), min_count)
        if num_runs > 1 and len(found.codes):
            ordinals = found.ordinals + np.int32(sum(len(earlier.counts) for earlier in kept))
            ordinals[found.ordinals == 0] = 0
            ids_of_entries[found.places] = ordinals.take(found.codes, mode="clip")
        kept.append(found if num_runs == 1 else found.without_entries())
    counts = np.concatenate([run.counts for run in kept])
    ranked = _rank(counts, np.concatenate([run.first for run in kept]))
    ids = np.empty(len(counts) + 1, np.int32)  # by ordinal
    ids[0] = UNKNOWN
    ids[1 + ranked] = np.arange(NUM_RESERVED, NUM_RESERVED + len(counts), dtype=np.int32)
    if num_runs > 1:
        for begin in range(0, num_entries, RUN_ENTRIES):
            block = ids_of_entries[begin : min(begin + RUN_ENTRIES, num_entries)]
            block[:] = ids.take(block, mode="clip")
    elif num_entries:
        ids_of_values = ids.take(kept[0].ordinals, mode="clip")
        ids_of_entries[:num_entries] = ids_of_values.take(kept[0].codes, mode="clip")
    values = _concatenate([run.values for run in kept]).take(ranked)
    return _write_vocabulary(path, partial, ids_of_entries, values)


def ids_of_codes(parts: Sequence[StagedPart], folder: Path, field: int, index: int) -> np.ndarray:
    """The ids (without offset) of the codes of a field in part ``index``, int32."""
    first = sum(part.num_values[field] for part in parts[:index])
    num_values = parts[index].num_values[field]
    return np.fromfile(folder / f"{field}.merged", np.int32, num_values, offset=4 * first)


class _Entries(NamedTuple):
    """Values of parts, in the order of the parts; a value occurs once for each part that has it.

    Attributes:
        values: Arrow strings or `ShortStrings`.
        counts: training rows with each value in its part.
        places: number of each entry among all entries of the field; None if these are all.
    """

    values: Any
    counts: np.ndarray
    places: np.ndarray | None


@dataclass(frozen=True)
class _FieldEntries:
    """The values of a field in all parts."""

    parts: Sequence[StagedPart]
    staged: Path
    field: int
    split: TimeSplit
    as_short_strings: bool

    @property
    def num_entries(self) -> int:
        """Values of all parts, repetitions included."""
        return sum(part.num_values[self.field] for part in self.parts)

    def run(self, run: int, num_runs: int) -> _Entries:
        """The entries whose hash belongs to a run."""
        found: list[tuple[Any, np.ndarray, np.ndarray]] = []
        start = 0
        for part, first_row in zip(self.parts, first_rows(self.parts), strict=True):
            values, counts = self._values(part, first_row)
            places = np.zeros(0, np.int64)
            if num_runs > 1:
                inside = np.flatnonzero(hash_text(values) % np.uint64(num_runs) == run)
                values, counts, places = values.take(inside), counts[inside], start + inside
            start += part.num_values[self.field]
            found.append((values, counts, places))
        values, counts, places = zip(*found, strict=True)
        whole = np.concatenate(places) if num_runs > 1 else None
        return _Entries(_concatenate(values), np.concatenate(counts), whole)

    def _values(self, part: StagedPart, first_row: int) -> tuple[Any, np.ndarray]:
        """The distinct values of a part and their counts in training rows."""
        short = self.as_short_strings
        values, counts = read_values(self.staged, part, self.field, as_short_strings=short)
        wanted = self.split.all_or_none(first_row, part.num_rows)
        if wanted is False:
            counts = np.zeros(len(values), np.int32)
        elif wanted is None:
            mask = self.split.mask(first_row, part.num_rows)
            codes = read_rows(self.staged, part, "codes", self.field, self.field + 1)[0][mask]
            counts = np.bincount(codes + 1, minlength=len(values) + 1)[1:].astype(np.int32)
        return values, counts


class _FrequentValues(NamedTuple):
    """The frequent values of a run.

    Attributes:
        values: the frequent values.
        counts, first: their training rows and first entry.
        codes: for each entry, which distinct value it is.
        ordinals: for each distinct value, its number among the frequent ones from 1 on; 0 if it is rare.
        places: of the entries, as in `_Entries`.
    """

    values: Any
    counts: np.ndarray
    first: np.ndarray
    codes: np.ndarray
    ordinals: np.ndarray
    places: np.ndarray | None

    def without_entries(self) -> "_FrequentValues":
        """Drops what is known of single entries, to save memory."""
        nothing = np.zeros(0, np.int32)
        return self._replace(codes=nothing, ordinals=nothing, places=None)


def _frequent_values(entries: _Entries, min_count: int) -> _FrequentValues:
    """Merges equal values of a run."""
    codes, values, first, counts = _distinct(entries.values, entries.counts)
    first = first if entries.places is None else entries.places[first]
    frequent = np.flatnonzero(counts >= min_count)
    ordinals = np.zeros(len(values), np.int32)
    ordinals[frequent] = np.arange(1, 1 + len(frequent), dtype=np.int32)
    kept = values.take(frequent), counts[frequent], first[frequent]
    return _FrequentValues(*kept, codes, ordinals, entries.places)


def _distinct(values: Any, counts: np.ndarray) -> tuple[np.ndarray, Any, np.ndarray, np.ndarray]:
    """Codes of values that may repeat; the distinct values; the first entry of each; the sum of its counts."""
    if isinstance(values, ShortStrings):
        found = distinct_short_strings(values.packed, counts)
        return found.codes, found.values, found.first_row, found.counts
    coded = values.dictionary_encode()
    codes = np.asarray(coded.indices)
    first = np.empty(len(coded.dictionary), np.int64)
    first[codes[::-1]] = np.arange(len(codes))[::-1]
    sums = np.bincount(codes, counts, len(first)).astype(np.int64)
    return codes, coded.dictionary, first, sums


def _rank(counts: np.ndarray, first: np.ndarray) -> np.ndarray:
    """Sorts values by count, highest first, and equal counts by first appearance."""
    order = np.argsort(first) if (np.diff(first) < 0).any() else np.arange(len(first))
    below = counts.max(initial=0) - counts[order]
    for kind in (np.uint8, np.uint16):  # NumPy sorts these by radix, in one or two passes
        if below.max(initial=0) <= np.iinfo(kind).max:
            below = below.astype(kind)
            break
    return order[np.argsort(below, kind="stable")]


def _concatenate(columns: Sequence[Any]) -> Any:
    """`ShortStrings` if all columns are, Arrow strings otherwise."""
    import pyarrow as pa

    if all(isinstance(values, ShortStrings) for values in columns):
        return ShortStrings(np.concatenate([values.packed for values in columns]))
    texts = (v.to_arrow() if isinstance(v, ShortStrings) else v for v in columns)
    return pa.concat_arrays(list(texts))


def _write_vocabulary(
    path: Path, partial: Path, ids_of_entries: np.ndarray, values: Any
) -> tuple[str, ...]:
    import pyarrow as pa

    if not isinstance(ids_of_entries, np.memmap):
        ids_of_entries.tofile(partial)
    if isinstance(values, ShortStrings):
        values = values.to_arrow()
    batch = pa.record_batch({"values": values})
    with partial.open("ab") as sink, pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)
    partial.replace(path)
    return tuple(values.to_pylist())


def _read_vocabulary(path: Path, num_entries: int) -> tuple[str, ...]:
    import pyarrow as pa

    with pa.memory_map(str(path)) as stream:
        content = pa.BufferReader(stream.read_buffer()[_ids_size(num_entries) :])
        return tuple(pa.ipc.open_file(content).get_batch(0).column(0).to_pylist())


def _ids_size(num_entries: int) -> int:
    """Bytes of the ids of all entries, rounded up to the alignment of an Arrow file."""
    return -(-4 * num_entries // 64) * 64


def _scratch(path: Path, size: int, num_runs: int) -> np.ndarray:
    """An int32 array of zeros; on disk if it is longer than a run."""
    if num_runs == 1:
        return np.zeros(size, np.int32)
    return np.memmap(path, np.int32, mode="w+", shape=(size,))
