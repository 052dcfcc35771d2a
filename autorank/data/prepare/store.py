"""Preparing a log once, and opening it: row-major `.npy` matrices, `encoders.json` and
`schema.json` in a folder.

Rows are sorted by time, stably: equal times keep the order of the files. The split is by row count,
so rows with one
time may lie on both sides of it. All that is learned (vocabularies, means, deviations) comes from
the training part.
"""

import errno
import fcntl
import hashlib
import json
import logging
import mmap
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np

from autorank.data.fast_text.buffer_pool import recycling
from autorank.data.fast_text.words import worth_compiling
from autorank.data.format.batches import Dataset
from autorank.data.format.schema import Schema, from_json, to_json
from autorank.data.format.source import Columns, Cut, Piece, Progress, Source, validate_columns
from autorank.data.prepare import encoders as coding
from autorank.data.prepare.arrange import ARRAYS, split_of, write_arrays
from autorank.data.prepare.encoders import Encoders
from autorank.data.prepare.hashing import MAX_BUCKETS
from autorank.data.prepare.intake import LONG_FLOATS, advice, bad_rows, take_in
from autorank.data.prepare.parts import Part, num_bytes, read_parts, read_rows, write_whole
from autorank.data.prepare.vocabulary import Split, merge, scale, starts

LOG = logging.getLogger(__name__)
VERSION = 2  # of the way rows are prepared; a change makes old folders stale
LARGE = 1 << 26
MAPPED = 1 << 24  # bytes of a file hashed at a time
SAMPLES, SAMPLE = 64, 1 << 14  # how many, and bytes of each
READING, READING_FORMAT = "reading.json", 1  # in a model's folder
ENCODINGS = ("vocabulary", "hash")

__all__ = ["Source", "load", "load_encoders", "prepare", "save_encoders"]


def prepare(
    source: Source,
    folder: Path,
    *,
    train_fraction: float = 0.8,
    min_count: int = 2,
    max_bad_share: float = 0.01,
    encoding: str = "vocabulary",
    hash_size: int = 100_000,
    workers: int | None = None,
    progress: Progress = LOG.info,
) -> Schema:
    """Writes ``folder`` from ``source``, or finds it done. Fetched raw files stay in
    ``<folder>/../raw/<name>``.

    The folder appears whole or not at all; two processes that start together prepare once. It is
    prepared again when the source, its files or a setting differ from those it was made from. A
    source that can be taken up again (``source.pieces``) goes on where an earlier call was stopped,
    however hard; what is there so far lies in ``<folder>/../.<name>.partial`` until then.

    Memory holds some pieces for each worker, a run of distinct values (`vocabulary`) and the kept
    vocabulary; 25 bytes a row more where rows do not lie in the order of time.

    Args:
        train_fraction: share of the rows, first in time, for training.
        min_count: values seen less often in training share the id "unknown".
        max_bad_share: refuse the source when more than this share of its rows is broken.
        encoding: ``vocabulary`` (of the training rows) or ``hash``: ids by a hash that stays.
        hash_size: buckets of each field with ``encoding="hash"``.
        workers: pieces worked on side by side; None: one for each core, 8 at most. The result does
            not depend on it.
        progress: called with a line of text now and then.

    Raises:
        ValueError: a bad setting, contradicting column roles, too many broken rows, one class of
            clicks only.
        OSError: a full disk, among others; what is done is kept.
    """
    _validate(source, train_fraction, min_count, max_bad_share)
    settings = {
        "version": VERSION,
        "train_fraction": train_fraction,
        "max_bad_share": max_bad_share,
    }
    settings |= _encoding(encoding, hash_size, min_count)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _locked(folder.parent / f".{folder.name}.lock"):
        made_from = _made_from(source, settings)
        found = _reusable(folder, made_from, progress)
        partial = folder.parent / f".{folder.name}.partial"
        if found is not None:
            shutil.rmtree(partial, ignore_errors=True)
            return found
        _take_up(partial, made_from)
        raw = folder.parent / "raw" / source.name
        try:
            with recycling():
                schema = _write(source, partial, settings, made_from, raw, workers, progress)
            shutil.rmtree(folder, ignore_errors=True)
            (partial / "out").rename(folder)
        except OSError as error:
            if source.pieces is None:
                shutil.rmtree(partial, ignore_errors=True)
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise _full(partial) from error
            raise
        except Exception:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        shutil.rmtree(partial, ignore_errors=True)
    progress(f"{source.name}: {schema.num_rows:,} rows, {schema.num_ids:,} ids in {folder}")
    return schema


def load(folder: Path, *, verify: bool = False) -> Dataset:
    """Opens a prepared folder, memory-mapped and read-only. ``verify`` also hashes every file.

    Raises:
        FileNotFoundError: nothing prepared there.
        ValueError: files that do not fit schema.json.
    """
    path = folder / "schema.json"
    if not path.is_file():
        raise FileNotFoundError(
            f"{folder} holds no prepared data (schema.json is missing); prepare it first"
        )
    schema = from_json(json.loads(path.read_text("utf-8")))
    widths = {
        "sparse.npy": len(schema.fields),
        "dense.npy": len(schema.dense),
        "labels.npy": len(schema.labels),
    }
    arrays: dict[str, np.ndarray] = {}
    for name, dtype in ARRAYS.items():
        try:
            arrays[name] = np.load(folder / name, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise ValueError(
                f"{folder / name} is damaged ({error}); remove {folder} and prepare again"
            ) from error
        shape = (schema.num_rows, widths[name])
        if arrays[name].shape != shape or arrays[name].dtype != dtype:
            raise ValueError(
                f"{folder / name} is {arrays[name].dtype} {arrays[name].shape}, expected "
                f"{np.dtype(dtype)} {shape}; "
                f"remove {folder} and prepare again"
            )
    if verify:
        for name, expected in schema.sha256.items():
            if _sha256(folder / name) != expected:
                raise ValueError(
                    f"{folder / name} has changed since it was written; remove {folder} and "
                    "prepare again"
                )
    return Dataset(schema, arrays["sparse.npy"], arrays["dense.npy"], arrays["labels.npy"], folder)


def load_encoders(folder: Path) -> Encoders:
    """How raw columns become arrays, from a prepared folder or a model's folder."""
    return coding.read_encoders(folder)


def save_encoders(dataset: Dataset, folder: Path) -> None:
    """Copies the data set's `encoders.json` into ``folder``, and writes `reading.json`: how its log was read.

    Raises:
        ValueError: the data set was not loaded from a folder, or the folder was prepared anew
            since.
    """
    if dataset.folder is None:
        raise ValueError("this data set has no folder; open it with store.load")
    path = dataset.folder / coding.FILE
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != dataset.schema.sha256[coding.FILE]:
        raise ValueError(
            f"{path} has changed since this data set was opened; its model needs the old one: "
            "train again"
        )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / coding.FILE).write_bytes(content)
    write_whole(folder / READING, json.dumps(_reading(dataset.schema), indent=1, allow_nan=False))


def _reading(schema: Schema) -> dict[str, Any]:
    """What another file with rows of the same log is read by, and compared with."""
    made_from = schema.notes["made_from"]
    return {
        "format": READING_FORMAT,
        "source": made_from["source"],
        "settings": made_from["source_settings"],
        "columns": made_from["columns"],
        "held_out_rows": schema.num_rows - schema.num_train,
        "unknown_share": schema.notes["unknown_share"]["test"],
    }


def load_reading(folder: Path) -> dict[str, Any] | None:
    """What `save_encoders` noted of the log, from a model's folder; None where an older version saved the model.

    Raises:
        ValueError: another format.
    """
    path = folder / READING
    if not path.is_file():
        return None
    record = json.loads(path.read_text("utf-8"))
    if record.get("format") != READING_FORMAT:
        raise ValueError(
            f"{path}: format {record.get('format')!r}, this version reads {READING_FORMAT}; train the "
            "model with this version, or score with the one that saved it"
        )
    return record


def _validate(source: Source, train_fraction: float, min_count: int, max_bad_share: float) -> None:
    validate_columns(source.columns)
    if not 0 < train_fraction < 1:
        raise ValueError(
            f"train_fraction={train_fraction} must lie between 0 and 1, for example 0.8"
        )
    if min_count < 1:
        raise ValueError(f"min_count={min_count} must be at least 1, which keeps every value")
    if not 0 <= max_bad_share <= 1:
        raise ValueError(f"max_bad_share={max_bad_share} must lie in [0, 1], for example 0.01")


def _made_from(source: Source, settings: dict[str, Any]) -> dict[str, Any]:
    """All that decides the result, as JSON."""
    record = {
        "source": source.name,
        "source_settings": dict(source.settings),
        "columns": source.columns._asdict(),
        "files": {path.name: _identity(path) for path in source.files},
    }
    return json.loads(json.dumps(record | settings, allow_nan=False))


def _reusable(folder: Path, made_from: dict[str, Any], progress: Progress) -> Schema | None:
    """The schema of what is there, if it was made from the same."""
    if not folder.exists():
        return None
    if any(folder.iterdir()) and not (folder / "schema.json").exists():
        raise ValueError(f"{folder} holds other files; choose another data folder, or remove it")
    try:
        schema = load(folder).schema
    except (ValueError, FileNotFoundError) as error:
        progress(f"{folder}: {error}; preparing again")
        return None
    old = schema.notes.get("made_from", {})
    changed = sorted(key for key in {*old, *made_from} if old.get(key) != made_from.get(key))
    if changed:
        progress(f"{folder} was prepared from other {', '.join(changed)}; preparing again")
        return None
    return schema


def _encoding(encoding: str, hash_size: int, min_count: int) -> dict[str, Any]:
    """What decides ids; the settings of the other encoding decide nothing."""
    if encoding not in ENCODINGS:
        raise ValueError(f"encoding={encoding!r} is not known; write one of {', '.join(ENCODINGS)}")
    if encoding == "vocabulary":
        return {"min_count": min_count}
    if not 1 <= hash_size <= MAX_BUCKETS:
        raise ValueError(f"hash_size={hash_size} must lie in [1, {MAX_BUCKETS}]")
    return {"encoding": encoding, "hash_size": hash_size}


def _take_up(partial: Path, made_from: dict[str, Any]) -> None:
    """Keeps what an earlier call left of the same work; anything else is cleared."""
    record = partial / "made_from.json"
    try:
        same = json.loads(record.read_text("utf-8")) == made_from
    except (FileNotFoundError, ValueError):
        same = False
    if not same:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        write_whole(record, json.dumps(made_from))
    for name in ("parts", "merged", "out"):
        (partial / name).mkdir(exist_ok=True)


def _full(partial: Path) -> OSError:
    used = sum(path.stat().st_size for path in partial.rglob("*") if path.is_file())
    free = shutil.disk_usage(partial).free
    return OSError(
        errno.ENOSPC,
        f"no space left on the disk: {partial} holds {used / 1e9:,.3f} GB of unfinished work and "
        f"{free / 1e9:,.3f} GB are free. Make room and start again: it goes on from there. Or "
        "remove that folder, and write data.folder=... to prepare elsewhere",
    )


def _write(
    source: Source,
    partial: Path,
    settings: dict[str, Any],
    made_from: dict[str, Any],
    raw: Path,
    workers: int | None,
    progress: Progress,
) -> Schema:
    """Fills ``out`` of the partial folder."""
    parts_folder, merged, out = (partial / name for name in ("parts", "merged", "out"))
    workers = min(8, len(os.sched_getaffinity(0))) if workers is None else workers
    hash_size = settings.get("hash_size", 0)
    done = read_parts(parts_folder) if source.pieces is not None else []
    parts = take_in(
        _pieces(source, done[-1].end if done else Cut(), raw, progress),
        source.columns,
        parts_folder,
        progress,
        done=done,
        hash_size=hash_size,
        workers=workers,
    )
    num_rows = sum(part.num_rows for part in parts)
    _refuse_bad(parts, settings["max_bad_share"], source)
    _warn_of_long_floats(parts)
    split = split_of(parts, parts_folder, settings["train_fraction"])
    _refuse_one_class(parts, parts_folder, split, source.columns.click)
    progress(f"learning from the first {split.num_train:,} rows in time")
    learned = _learn(source.columns, parts, partial, split, settings, workers)
    notes = write_arrays(parts, parts_folder, merged, split, learned, out, progress)
    coding.write_encoders(learned, out)
    if source.notes is not None:
        notes |= source.notes(split.num_train, num_rows)
    schema = Schema(
        name=source.name,
        fields=coding.fields_of(learned),
        dense=source.columns.dense,
        labels=("click", "conversion")[: len(source.columns.labels)],
        num_rows=num_rows,
        num_train=split.num_train,
        label_names=source.columns.labels,
        source=source.origin,
        licence=source.licence,
        sha256={name: _sha256(out / name) for name in (*ARRAYS, coding.FILE)},
        notes=notes | {"made_from": made_from},
    )
    text = json.dumps(to_json(schema), indent=1, ensure_ascii=False)
    (out / "schema.json").write_text(text, "utf-8")
    return schema


def _pieces(source: Source, start: Cut, raw: Path, progress: Progress) -> Iterator[Piece]:
    """Pieces of the log from a cut on; chunks that are read in order are pieces too."""
    if source.pieces is not None:
        yield from source.pieces(raw, progress, start)
        return
    for index, chunk in enumerate(source.chunks(raw, progress)):
        yield Piece(lambda chunk=chunk: chunk, Cut(0, index + 1))


def _learn(
    columns: Columns,
    parts: list[Part],
    partial: Path,
    split: Split,
    settings: dict[str, Any],
    workers: int,
) -> coding.Encoders:
    """Vocabularies and scales of the training rows."""
    hash_size, source, merged = settings.get("hash_size", 0), partial / "parts", partial / "merged"
    fast = worth_compiling(num_bytes(parts))

    def vocabulary(j: int) -> tuple[str, ...]:
        count = settings["min_count"]
        return merge(parts, source, j, split, count, merged, as_words=fast)

    def dense(j: int) -> coding.DenseEncoder:
        return scale(parts, source, j, columns.dense[j], split, fast=fast)

    with ThreadPoolExecutor(workers) as pool:
        scales = tuple(pool.map(dense, range(len(columns.dense))))
        kept = () if hash_size else pool.map(vocabulary, range(len(columns.categorical)))
        fields: list[coding.FieldEncoder] = []
        offset = 0
        for name, values in zip_longest(columns.categorical, kept, fillvalue=()):
            fields.append(coding.FieldEncoder(str(name), offset, values, hash_size))
            offset += fields[-1].size
    if offset >= 1 << 31:
        raise ValueError(
            f"{offset:,} ids do not fit 32 bits; raise data.min_count or lower data.hash_size"
        )
    return coding.Encoders(tuple(fields), scales)


def _refuse_bad(parts: list[Part], max_bad_share: float, source: Source) -> None:
    num_rows = sum(part.num_rows for part in parts)
    num_bad, bad = bad_rows(parts)
    total = num_rows + num_bad
    first = "; ".join(f"{row.place}: {row.reason}" for row in bad)
    if num_bad > max_bad_share * total:
        raise ValueError(
            f"{num_bad:,} of {total:,} rows are broken, more than "
            f"max_bad_share={max_bad_share}: {first}{advice(first)}"
        )
    if num_rows < 2:
        where = ", ".join(path.name for path in source.files) or source.name
        raise ValueError(
            f"{where}: one usable row cannot be split into training and test; give a longer log"
        )
    if num_bad:
        LOG.warning("%s of %s rows are broken and left out: %s", num_bad, total, first)


def _warn_of_long_floats(parts: list[Part]) -> None:
    counts: dict[str, int] = {}
    for part in parts:
        for key, count in part.counts.items():
            if key.startswith(LONG_FLOATS):
                name = key.removeprefix(LONG_FLOATS)
                counts[name] = counts.get(name, 0) + count
    for name, count in counts.items():
        LOG.warning("%s", long_floats_warning(name, count))


def long_floats_warning(name: str, count: int) -> str:
    """What to tell about identifiers that were stored as floats."""
    return (
        f"column {name}: {count:,} values are floats too large to hold every whole number, so that "
        "different identifiers may have become one; write the column as integers or text"
    )


def _refuse_one_class(parts: list[Part], folder: Path, split: Split, name: str) -> None:
    seen: set[int] = set()
    for part, first in zip(parts, starts(parts), strict=True):
        clicks = read_rows(folder, part, "labels", 0, 1)[0]
        seen |= set(np.unique(clicks[split.mask(first, part.num_rows)]).tolist())
        if len(seen) > 1:
            return
    raise ValueError(
        f"label {name} is {min(seen)} in all {split.num_train:,} training rows; nothing can be "
        "learned"
    )


def _identity(path: Path) -> str:
    """What tells a raw file from another.

    Its hash; of a file over `LARGE` bytes, which takes long to read, its size, its time of change
    and the hash of samples.
    """
    status = path.stat()
    if status.st_size <= LARGE:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for sample in range(SAMPLES):
            file.seek((status.st_size - SAMPLE) * sample // (SAMPLES - 1))
            digest.update(file.read(SAMPLE))
    return f"{status.st_size}-{status.st_mtime_ns}-{digest.hexdigest()}"


def _sha256(path: Path) -> str:
    digest, size = hashlib.sha256(), path.stat().st_size
    with path.open("rb") as file:
        for begin in range(0, size, MAPPED):  # mapped, which spares a copy
            length = min(MAPPED, size - begin)
            with mmap.mmap(file.fileno(), length, access=mmap.ACCESS_READ, offset=begin) as content:
                digest.update(content)
    return digest.hexdigest()


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Holds a lock that the kernel frees when the process dies."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(file, fcntl.LOCK_UN)
