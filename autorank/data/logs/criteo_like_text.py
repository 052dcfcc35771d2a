"""Criteo-shaped rows as the text of a Criteo file, and as a log to search on."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from autorank.data.format.schema import MISSING
from autorank.data.format.source import Chunk, Cut, Piece, Progress, Source
from autorank.data.logs import criteo_like
from autorank.data.logs.base import SOURCES, DataConfig
from autorank.data.logs.criteo import COLUMNS, FORMAT
from autorank.data.prepare.text import Plan, parse

# Of the logarithms of the integers I1 .. I13; I2 starts at -3 as in the original.
MEANS = (1.0, 2.5, 2.0, 1.5, 8.5, 4.0, 2.0, 2.0, 4.0, 0.3, 1.0, 0.2, 1.8)
DEVIATIONS = (1.0, 1.6, 1.2, 1.0, 1.5, 1.5, 1.2, 0.9, 1.3, 0.5, 0.9, 0.6, 1.0)
LOWEST = (0, -3, *(0 for _ in range(11)))
DIGITS = 7  # of the largest integer
_ABSENT = np.iinfo(np.int64).min
_HEX = np.array([f"{i:04x}".encode() for i in range(1 << 16)]).view(np.uint8).reshape(-1, 4)


def text(
    num_rows: int, seed: int = 0, *, max_vocabulary: int | None = None, first_row: int = 0
) -> Iterator[bytes]:
    """Lines of a Criteo file: label, 13 integers, 26 values of 8 hexadecimal digits; tabs between.

    Missing values are empty. Yields the lines of one block of the stream at a time.
    """
    fixed = criteo_like.world(seed, max_vocabulary)
    for rows in criteo_like.blocks(
        num_rows, seed, max_vocabulary=max_vocabulary, first_row=first_row
    ):
        for first in range(0, len(rows.truth), criteo_like.TILE):
            cut = slice(first, first + criteo_like.TILE)
            yield _lines(criteo_like.Rows(*(array[cut] for array in rows)), fixed)


def write(path: Path, num_rows: int, seed: int = 0, *, max_vocabulary: int | None = None) -> None:
    """Writes a Criteo file of generated rows."""
    with path.open("wb") as file:
        for lines in text(num_rows, seed, max_vocabulary=max_vocabulary):
            file.write(lines)


@dataclass(frozen=True)
class CriteoLikeConfig(DataConfig):
    """Which rows of which stream."""

    source: str = "criteo_like"
    num_rows: int = 500_000  # length of the stream
    seed: int = 0  # which stream
    max_vocabulary: int | None = None  # ids of all fields together; null = 33.8M as published


@SOURCES.register("criteo_like", CriteoLikeConfig)
def from_settings(settings: CriteoLikeConfig) -> Source:
    """Rows of Criteo's shape, any number of them, whose Bayes-optimal NE is known."""
    return source(settings.num_rows, seed=settings.seed, max_vocabulary=settings.max_vocabulary)


def source(num_rows: int = 500_000, *, seed: int = 0, max_vocabulary: int | None = None) -> Source:
    """The first ``num_rows`` rows of the stream ``seed`` as a log, through the text of a Criteo file.

    Raises:
        ValueError: fewer than 2 rows, a bad seed or vocabulary.
    """
    if num_rows < 2:
        raise ValueError(f"num_rows={num_rows}: need at least 2 rows")
    criteo_like.world(seed, max_vocabulary)  # refuses what is bad
    plan = Plan("criteo_like", FORMAT.columns or (), FORMAT, COLUMNS, COLUMNS.read)

    def read(first: int, stop: int) -> Chunk:
        lines = text(stop - first, seed, max_vocabulary=max_vocabulary, first_row=first)
        return parse(b"".join(lines), first + 1, plan)

    def pieces(raw: Path, progress: Progress, start: Cut) -> Iterator[Piece]:
        for first in range(start.offset, num_rows, criteo_like.BLOCK):
            stop = min(first + criteo_like.BLOCK, num_rows)
            yield Piece(partial(read, first, stop), Cut(0, stop, stop + 1), stop / num_rows)

    def notes(num_train: int, rows: int) -> dict[str, Any]:
        parts = {"train": (0, num_train), "test": (num_train, rows)}
        return {
            "bayes_ne": {
                part: {"ctr": _bayes_ne(first, stop, seed, max_vocabulary)}
                for part, (first, stop) in parts.items()
            },
            "planted": {
                "pairs": [[f"C{i + 1}", f"C{j + 1}"] for i, j in criteo_like.PAIRS],
                "weights": dict(criteo_like.WEIGHTS),
            },
        }

    return Source(
        name="criteo_like",
        settings={
            "reader": "criteo_like",
            "version": criteo_like.VERSION,
            "num_rows": num_rows,
            "seed": seed,
            "max_vocabulary": max_vocabulary,
        },
        files=(),
        columns=COLUMNS,
        chunks=lambda raw, progress: (piece.read() for piece in pieces(raw, progress, Cut())),
        origin=f"generated in the shape of Criteo's Kaggle log, seed {seed}",
        licence="public domain",
        notes=notes,
        pieces=pieces,
    )


def _bayes_ne(first: int, stop: int, seed: int, max_vocabulary: int | None) -> float | None:
    """NE of the true probabilities of rows; None where there is one class only."""
    loss = clicks = 0.0
    for rows in criteo_like.blocks(
        stop - first, seed, max_vocabulary=max_vocabulary, first_row=first
    ):
        truth = rows.truth.astype(np.float64)
        clicked = rows.labels[:, 0] == 1
        loss -= float(np.log(np.where(clicked, truth, 1 - truth)).sum())
        clicks += float(clicked.sum())
    rate = clicks / (stop - first)
    if rate in (0.0, 1.0):
        return None
    entropy = -(rate * np.log(rate) + (1 - rate) * np.log(1 - rate))
    return float(loss / (stop - first) / entropy)


def _lines(rows: criteo_like.Rows, fixed: criteo_like.World) -> bytes:
    """The text: all cells at full width, then without the bytes that are nothing."""
    num_rows = len(rows.truth)
    cells = [(rows.labels[:, :1] + ord("0")).astype(np.uint8)]
    tab = np.full((num_rows, 1), ord("\t"), np.uint8)
    for k in range(criteo_like.NUM_DENSE):
        z = rows.dense[:, k].astype(np.float64)
        numbers = np.exp(MEANS[k] + DEVIATIONS[k] * z).astype(np.int64) + LOWEST[k]
        numbers = np.minimum(numbers, 10**DIGITS - 1)
        cells += [tab, _decimal(np.where(z == 0, _ABSENT, numbers))]
    local = rows.sparse - fixed.offsets.T
    values = criteo_like._mix(local.astype(np.uint32) + fixed.effect_keys.T)
    for j in range(criteo_like.NUM_FIELDS):
        digits = np.concatenate([_HEX[values[:, j] >> 16], _HEX[values[:, j] & 0xFFFF]], 1)
        digits[local[:, j] == MISSING] = 0
        cells += [tab, digits]
    cells.append(np.full((num_rows, 1), ord("\n"), np.uint8))
    whole = np.concatenate(cells, 1)
    return whole[whole != 0].tobytes()


def _decimal(numbers: np.ndarray) -> np.ndarray:
    """Decimal digits of int64 [n] as bytes [n, 1 + DIGITS], 0 where there is none."""
    digits = np.zeros((len(numbers), 1 + DIGITS), np.uint8)
    digits[:, 0] = np.where(numbers < 0, ord("-"), 0)
    rest = np.abs(numbers)
    for position in range(DIGITS, 0, -1):
        shown = (rest > 0) | (position == DIGITS)
        digits[:, position] = np.where(shown, rest % 10 + ord("0"), 0)
        rest = rest // 10
    digits[numbers == _ABSENT] = 0
    return digits
