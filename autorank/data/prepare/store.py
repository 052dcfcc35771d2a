"""Prepares a log once, and opens prepared data.

A prepared folder holds row-major `.npy` matrices, `encoders.json` and `schema.json`. Rows are sorted by time. The sort
is stable: rows with equal times keep the order of the files. The split is by number of rows, so rows with equal times
may lie on both sides of it. Vocabularies, means and deviations are learned from the training rows only.
"""

import fcntl
import json
import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from autorank.data.fast_text.buffer_pool import pooling
from autorank.data.format.batches import Dataset
from autorank.data.format.schema import Schema, from_json
from autorank.data.format.source import Progress, Source, validate_columns
from autorank.data.prepare import identity
from autorank.data.prepare.matrices import ARRAYS
from autorank.data.prepare.pipeline import PrepareSettings, write_prepared
from autorank.data.prepare.work_folder import WorkFolder

LOG = logging.getLogger(__name__)


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
    """Prepares ``source`` in ``folder``, unless it is prepared there already.

    The folder appears complete or not at all, and two processes that start together prepare once. It is prepared again
    if the source, its files or a setting has changed. Downloaded files stay in ``<folder>/../raw/<name>``. If the
    source has segments, an interrupted run resumes where it stopped, even after a kill; its unfinished work lies in
    ``<folder>/../.<name>.partial``.

    Memory holds a few segments per worker, one run of distinct values (`vocabulary`) and the vocabularies; 25 bytes per
    row more if the rows are not in time order.

    Args:
        source: the log.
        folder: the prepared folder.
        train_fraction: share of the rows, first in time, that are for training.
        min_count: values that occur in fewer training rows share the id "unknown".
        max_bad_share: largest share of broken rows that is accepted.
        encoding: ``vocabulary`` (of the training rows) or ``hash`` (ids by a stable hash).
        hash_size: hash buckets per field.
        workers: segments processed in parallel; None: one per core, at most 8. The result does not depend on it.
        progress: receives lines of text now and then.

    Raises:
        ValueError: an invalid setting, contradicting roles, too many broken rows, or training rows with only one label.
        OSError: for example a full disk; finished work is kept.
    """
    validate_columns(source.columns)
    settings = PrepareSettings(train_fraction, min_count, max_bad_share, encoding, hash_size)
    settings.validate()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _locked(folder.parent / f".{folder.name}.lock"):
        made_from = identity.made_from(source, settings.to_json())
        work = WorkFolder(folder.parent / f".{folder.name}.partial")
        found = _reusable(folder, made_from, progress)
        if found is not None:
            work.remove()
            return found
        work.open(made_from)
        raw = folder.parent / "raw" / source.name
        with work.removed_afterwards(resumable=source.segments is not None):
            with pooling():
                schema = write_prepared(source, work, settings, made_from, raw, workers, progress)
            shutil.rmtree(folder, ignore_errors=True)
            work.out.rename(folder)
    progress(f"{source.name}: {schema.num_rows:,} rows, {schema.num_ids:,} ids in {folder}")
    return schema


def load(folder: Path, *, verify: bool = False) -> Dataset:
    """Opens a prepared folder; its arrays are memory-mapped and read-only.

    Args:
        folder: the prepared folder.
        verify: also compares the hash of every file with the schema.

    Raises:
        FileNotFoundError: the folder holds no prepared data.
        ValueError: a file does not match `schema.json`.
    """
    path = folder / "schema.json"
    if not path.is_file():
        raise FileNotFoundError(
            f"{folder} holds no prepared data (schema.json is missing); prepare it first"
        )
    schema = from_json(json.loads(path.read_text("utf-8")))
    sizes = len(schema.fields), len(schema.dense), len(schema.labels)
    sparse, dense, labels = (
        _open_array(folder / name, (schema.num_rows, width), dtype)
        for (name, dtype), width in zip(ARRAYS.items(), sizes, strict=True)
    )
    if verify:
        for name, expected in schema.sha256.items():
            if identity.sha256(folder / name) != expected:
                raise ValueError(
                    f"{folder / name} has changed since it was written; remove {folder} and "
                    "prepare again"
                )
    return Dataset(schema, sparse, dense, labels, folder)


def _open_array(path: Path, shape: tuple[int, int], dtype: Any) -> np.ndarray:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(
            f"{path} is damaged ({error}); remove {path.parent} and prepare again"
        ) from error
    if array.shape != shape or array.dtype != dtype:
        raise ValueError(
            f"{path} is {array.dtype} {array.shape}, expected {np.dtype(dtype)} {shape}; "
            f"remove {path.parent} and prepare again"
        )
    return array


def _reusable(folder: Path, made_from: dict[str, Any], progress: Progress) -> Schema | None:
    """The schema of the folder, if it was made from the same."""
    if not folder.exists():
        return None
    if any(folder.iterdir()) and not (folder / "schema.json").exists():
        raise ValueError(f"{folder} holds other files; choose another data folder, or remove it")
    try:
        schema = load(folder).schema
    except (ValueError, FileNotFoundError) as error:
        progress(f"{folder}: {error}; preparing again")
        return None
    changed = identity.differences(schema.notes.get("made_from", {}), made_from)
    if changed:
        progress(f"{folder} was prepared from other {', '.join(changed)}; preparing again")
        return None
    return schema


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Holds a lock that the kernel releases if the process dies."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(file, fcntl.LOCK_UN)
