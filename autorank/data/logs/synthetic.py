"""The rows of `synthetic_stream` as a log, whose Bayes-optimal NE is known."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from autorank.data.format.source import Chunk, Columns, Progress, Source
from autorank.data.logs.base import SOURCES, DataConfig
from autorank.data.logs.synthetic_stream import (
    BIASES,
    LATENTS,
    NUM_DENSE,
    SIZES,
    WEIGHTS,
    Rows,
    bayes_ne,
    generate,
    pairs,
    triples,
)

VERSION = 1


@dataclass(frozen=True)
class SyntheticConfig(DataConfig):
    """Length and seed of the stream."""

    source: str = "synthetic"
    num_rows: int = 500_000  # rows
    seed: int = 0  # different seeds give different streams


@SOURCES.register("synthetic", SyntheticConfig)
def from_settings(settings: SyntheticConfig) -> Source:
    """A stream with planted interactions and drift, whose Bayes-optimal NE is known exactly."""
    return source(settings.num_rows, seed=settings.seed)


def source(
    num_rows: int = 500_000,
    *,
    seed: int = 0,
    sizes: tuple[int, ...] = SIZES,
    drift_rows: int = 2_000_000,
) -> Source:
    """The first ``num_rows`` rows of the stream ``seed``; a longer stream extends a shorter one.

    Args:
        num_rows: rows in total.
        seed: chooses the stream.
        sizes: ids of each field.
        drift_rows: rows in which a drifting effect completes a full turn; after a quarter turn it is another effect.

    Raises:
        ValueError: fewer than 4 fields, a field with fewer than 8 ids, no rows, or an invalid seed.
    """
    sizes = tuple(int(size) for size in sizes)
    if len(sizes) < 4 or min(sizes) < 2 * LATENTS:
        raise ValueError(
            f"sizes={sizes}: give at least 4 fields of at least {2 * LATENTS} ids each"
        )
    if num_rows < 2 or drift_rows < 1 or not 0 <= seed < 1 << 63:
        raise ValueError(
            f"num_rows={num_rows}, drift_rows={drift_rows}, seed={seed}: need at least 2 rows, "
            "drift_rows >= 1 and 0 <= seed < 2**63"
        )
    stream = _Stream(num_rows, seed, sizes, drift_rows)
    return Source(
        name="synthetic",
        settings={
            "reader": "synthetic",
            "version": VERSION,
            "num_rows": num_rows,
            "seed": seed,
            "sizes": list(sizes),
            "drift_rows": drift_rows,
            "weights": WEIGHTS,
            "biases": list(BIASES),
        },
        files=(),
        columns=stream.columns,
        chunks=stream.chunks,
        origin=f"generated, seed {seed}",
        licence="public domain",
        notes=stream.notes,
    )


class _Stream(NamedTuple):
    """The arguments of `synthetic_stream.generate`, and what is read from it."""

    num_rows: int
    seed: int
    sizes: tuple[int, ...]
    drift_rows: int

    @property
    def columns(self) -> Columns:
        """The roles of the columns."""
        return Columns(
            categorical=tuple(f"field{j}" for j in range(len(self.sizes))),
            dense=tuple(f"dense{j}" for j in range(NUM_DENSE)),
            click="click",
            conversion="conversion",
        )

    def rows(self) -> Iterator[Rows]:
        """The rows with their truth."""
        return generate(self.num_rows, seed=self.seed, sizes=self.sizes, drift_rows=self.drift_rows)

    def chunks(self, raw: Path, progress: Progress) -> Iterator[Chunk]:
        """The rows as a log; see `source.ReadChunks`."""
        columns = self.columns
        names = (*columns.categorical, *columns.dense, *columns.labels)
        for rows in self.rows():
            arrays = (*rows.ids.T, *rows.dense.T, *rows.labels.T)
            yield Chunk(dict(zip(names, arrays, strict=True)), "synthetic")

    def notes(self, num_train: int, num_rows: int) -> dict[str, Any]:
        """The Bayes-optimal NE and the planted interactions; see `source.DescribeSplit`."""
        labels, truth = (
            np.concatenate(arrays)
            for arrays in zip(*((rows.labels, rows.truth) for rows in self.rows()), strict=True)
        )
        num_fields = len(self.sizes)
        return {
            "bayes_ne": {
                "train": bayes_ne(labels[:num_train], truth[:num_train]),
                "test": bayes_ne(labels[num_train:num_rows], truth[num_train:num_rows]),
            },
            "planted": {
                "pairs": [[f"field{j}" for j in pair] for pair in pairs(num_fields)],
                "triples": [[f"field{j}" for j in triple] for triple in triples(num_fields)],
                "weights": dict(WEIGHTS),
            },
        }
