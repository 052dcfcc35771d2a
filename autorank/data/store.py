"""Preparing a log once, and opening it: row-major `.npy` matrices, `encoders.json` and
`schema.json` in a folder.

Rows are sorted by time, stably: equal times keep the order of the files. The split is by row count,
so rows with one
time may lie on both sides of it. All that is learned (vocabularies, means, deviations) comes from
the training part.
"""

import fcntl
import hashlib
import json
import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from autorank.data import encoders as coding
from autorank.data.arrange import ARRAYS, learn, write_arrays
from autorank.data.batches import Dataset
from autorank.data.encoders import Encoders
from autorank.data.intake import Intake, take_in
from autorank.data.schema import Schema, from_json, to_json
from autorank.data.source import Progress, Source, validate_columns

LOG = logging.getLogger(__name__)
VERSION = 1  # of the way rows are prepared; a change makes old folders stale

__all__ = ["Source", "load", "load_encoders", "prepare", "save_encoders"]


def prepare(
    source: Source,
    folder: Path,
    *,
    train_fraction: float = 0.8,
    min_count: int = 2,
    max_bad_share: float = 0.01,
    progress: Progress = LOG.info,
) -> Schema:
    """Writes ``folder`` from ``source``, or finds it done. Fetched raw files stay in
    ``<folder>/../raw/<name>``.

    The folder appears whole or not at all; two processes that start together prepare once. It is
    prepared again when
    the source, its files or a setting differ from those it was made from.

    Args:
        train_fraction: share of the rows, first in time, for training.
        min_count: values seen less often in training share the id "unknown".
        max_bad_share: refuse the source when more than this share of its rows is broken.
        progress: called with a line of text now and then.

    Raises:
        ValueError: a bad setting, contradicting column roles, too many broken rows, one class of
            clicks only.
    """
    _validate(source, train_fraction, min_count, max_bad_share)
    settings = {
        "version": VERSION,
        "train_fraction": train_fraction,
        "min_count": min_count,
        "max_bad_share": max_bad_share,
    }
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _locked(folder.parent / f".{folder.name}.lock"):
        made_from = _made_from(source, settings)
        found = _reusable(folder, made_from, progress)
        if found is not None:
            return found
        partial = folder.parent / f".{folder.name}.partial"
        shutil.rmtree(partial, ignore_errors=True)  # What a killed process left.
        partial.mkdir()
        try:
            schema = _write(
                source, partial, settings, made_from, folder.parent / "raw" / source.name, progress
            )
            shutil.rmtree(folder, ignore_errors=True)
            partial.rename(folder)
        finally:
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
    """Copies the data set's `encoders.json` into ``folder``.

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
    (folder / coding.FILE).write_bytes(content)


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
        "files": {path.name: _sha256(path) for path in source.files},
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


def _write(
    source: Source,
    folder: Path,
    settings: dict[str, Any],
    made_from: dict[str, Any],
    raw: Path,
    progress: Progress,
) -> Schema:
    """Fills an empty folder."""
    scratch = folder / "scratch"
    scratch.mkdir()
    intake = take_in(source.chunks(raw, progress), source.columns, scratch, progress)
    num_rows = len(intake.time)
    _refuse_bad(intake, settings["max_bad_share"])
    num_train = min(max(1, round(settings["train_fraction"] * num_rows)), num_rows - 1)
    order = np.argsort(intake.time, kind="stable")
    train = np.sort(order[:num_train])  # Counting does not need the order; reading does.
    _refuse_one_class(intake.labels[train, 0], source.columns.click)
    learned, lookups = learn(intake, train, source.columns, settings["min_count"])
    notes = write_arrays(intake, order, num_train, learned, lookups, folder, progress)
    coding.write_encoders(learned, folder)
    del intake  # Its files are mapped.
    shutil.rmtree(scratch)
    if source.notes is not None:
        notes |= source.notes(num_train, num_rows)
    schema = Schema(
        name=source.name,
        fields=coding.fields_of(learned),
        dense=source.columns.dense,
        labels=("click", "conversion")[: len(source.columns.labels)],
        num_rows=num_rows,
        num_train=num_train,
        label_names=source.columns.labels,
        source=source.origin,
        licence=source.licence,
        sha256={name: _sha256(folder / name) for name in (*ARRAYS, coding.FILE)},
        notes=notes | {"made_from": made_from},
    )
    text = json.dumps(to_json(schema), indent=1, ensure_ascii=False)
    (folder / "schema.json").write_text(text, "utf-8")
    return schema


def _refuse_bad(intake: Intake, max_bad_share: float) -> None:
    total = len(intake.time) + intake.num_bad
    first = "; ".join(f"{row.place}: {row.reason}" for row in intake.bad)
    if intake.num_bad > max_bad_share * total:
        raise ValueError(
            f"{intake.num_bad:,} of {total:,} rows are broken, more than "
            f"max_bad_share={max_bad_share}: {first}"
        )
    if len(intake.time) < 2:
        raise ValueError("one usable row cannot be split into training and test; give a longer log")
    if intake.num_bad:
        LOG.warning("%s of %s rows are broken and left out: %s", intake.num_bad, total, first)


def _refuse_one_class(clicks: np.ndarray, name: str) -> None:
    if clicks.min() == clicks.max():
        raise ValueError(
            f"label {name} is {clicks[0]} in all {len(clicks):,} training rows; nothing can be "
            "learned"
        )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Holds a lock that the kernel frees when the process dies."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(file, fcntl.LOCK_UN)
