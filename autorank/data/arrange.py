"""From checked rows to the matrices of a prepared folder.

Ids and scales from the training rows, order of time.
"""

from pathlib import Path
from typing import Any

import numpy as np

from autorank.data.encoders import DenseEncoder, Encoders, FieldEncoder, standardise
from autorank.data.intake import Intake
from autorank.data.schema import MISSING, NUM_RESERVED, UNKNOWN
from autorank.data.source import Columns, Progress

BLOCK = 1 << 18  # rows gathered at a time
ARRAYS = {"sparse.npy": np.int32, "dense.npy": np.float32, "labels.npy": np.int8}


def learn(
    intake: Intake, train: np.ndarray, columns: Columns, min_count: int
) -> tuple[Encoders, list[np.ndarray]]:
    """Vocabularies and scales of the training rows.

    Args:
        train: rows of the intake that are for training, rising.

    Returns:
        The encoders, and for each field the ids (offset added) of its codes, the last for -1.
    """
    fields: list[FieldEncoder] = []
    lookups: list[np.ndarray] = []
    offset = 0
    for j, name in enumerate(columns.categorical):
        values = intake.values[j]
        codes = intake.codes[train, j]
        counts = np.bincount(codes[codes >= 0], minlength=len(values))
        ranked = np.argsort(-counts, kind="stable")
        kept = ranked[counts[ranked] >= min_count]
        ids = np.full(len(values) + 1, UNKNOWN, np.int32)
        ids[-1] = MISSING  # Read by the code -1.
        ids[kept] = NUM_RESERVED + np.arange(len(kept), dtype=np.int32)
        lookups.append(ids + np.int32(offset))
        fields.append(FieldEncoder(name, offset, tuple(values[code] for code in kept)))
        offset += NUM_RESERVED + len(kept)
    dense: list[DenseEncoder] = []
    for j, name in enumerate(columns.dense):
        known = intake.dense[train, j].astype(np.float64)
        known = known[~np.isnan(known)]
        mean, std = (float(known.mean()), float(known.std())) if len(known) else (0.0, 0.0)
        dense.append(DenseEncoder(name, mean, std if std > 1e-9 else 1.0))
    return Encoders(tuple(fields), tuple(dense)), lookups


def write_arrays(
    intake: Intake,
    order: np.ndarray,
    num_train: int,
    learned: Encoders,
    lookups: list[np.ndarray],
    folder: Path,
    progress: Progress,
) -> dict[str, Any]:
    """Writes the matrices in the order of time, block by block; what it counted on the way."""
    num_rows = len(order)
    unknown = {part: np.zeros(len(lookups)) for part in ("train", "test")}
    sources = {"sparse.npy": intake.codes, "dense.npy": intake.dense, "labels.npy": intake.labels}
    out = {
        name: _create(folder / name, sources[name].shape, dtype) for name, dtype in ARRAYS.items()
    }
    for first in range(0, num_rows, BLOCK):
        rows = order[first : first + BLOCK]
        block = slice(first, first + len(rows))
        codes, numbers = intake.codes[rows], intake.dense[rows]
        in_train = np.arange(first, first + len(rows)) < num_train
        for j, ids in enumerate(lookups):
            found = ids[codes[:, j]]
            out["sparse.npy"][block, j] = found
            new = found == learned.fields[j].offset + UNKNOWN
            unknown["train"][j] += (new & in_train).sum()
            unknown["test"][j] += (new & ~in_train).sum()
        for j, encoder in enumerate(learned.dense):
            out["dense.npy"][block, j] = standardise(numbers[:, j], encoder)
        out["labels.npy"][block] = intake.labels[rows]
        progress(f"wrote {block.stop:,} of {num_rows:,} rows")
    labels = out["labels.npy"]
    rates = {
        part: labels[rows].mean(0).round(6).tolist() for part, rows in _parts(num_train).items()
    }
    for name, array in out.items():
        _save(folder / name, array)
    sizes = {"train": num_train, "test": num_rows - num_train}
    names = [field.name for field in learned.fields]
    return {
        "bad_rows": {
            "count": intake.num_bad,
            "first": [f"{row.place}: {row.reason}" for row in intake.bad],
        },
        "positive_rates": rates,
        "unknown_share": {
            part: dict(zip(names, (counts / sizes[part]).round(4).tolist(), strict=True))
            for part, counts in unknown.items()
        },
    } | dict(intake.counts)


def _parts(num_train: int) -> dict[str, slice]:
    return {"train": slice(0, num_train), "test": slice(num_train, None)}


def _create(path: Path, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    # An empty matrix cannot be mapped.
    if 0 in shape:
        return np.zeros(shape, dtype)
    return np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)


def _save(path: Path, array: np.ndarray) -> None:
    if isinstance(array, np.memmap):
        array.flush()
    else:
        np.save(path, array, allow_pickle=False)
