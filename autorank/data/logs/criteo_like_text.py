"""Rows of `criteo_like` as the text of a Criteo file, and as a log to search on."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from autorank.data.format.schema import MISSING
from autorank.data.format.source import Chunk, Position, Progress, Segment, Source, chunks_of
from autorank.data.logs import criteo_like, criteo_like_truth
from autorank.data.logs.base import SOURCES, DataConfig
from autorank.data.logs.criteo import COLUMNS, FORMAT
from autorank.data.prepare.parse_text import TextLayout, parse

# Mean and standard deviation of the logarithm of each integer I1 .. I13, and its minimum, as in the original.
MEANS = (1.0, 2.5, 2.0, 1.5, 8.5, 4.0, 2.0, 2.0, 4.0, 0.3, 1.0, 0.2, 1.8)
DEVIATIONS = (1.0, 1.6, 1.2, 1.0, 1.5, 1.5, 1.2, 0.9, 1.3, 0.5, 0.9, 0.6, 1.0)
LOWEST = (0, -3, *(0 for _ in range(11)))
NUM_DIGITS = 7  # of the largest integer
_ABSENT = np.iinfo(np.int64).min
_HEX = np.array([f"{i:04x}".encode() for i in range(1 << 16)]).view(np.uint8).reshape(-1, 4)


def text(
    num_rows: int, seed: int = 0, *, max_vocabulary: int | None = None, first_row: int = 0
) -> Iterator[bytes]:
    """Lines of a Criteo file: label, 13 integers and 26 values of 8 hexadecimal digits, separated by tabs.

    Missing values are empty. Yields the lines of one tile of the stream at a time.
    """
    fixed = criteo_like_truth.world(seed, max_vocabulary)
    for rows in criteo_like.blocks(
        num_rows, seed, max_vocabulary=max_vocabulary, first_row=first_row
    ):
        for first in range(0, len(rows.truth), criteo_like_truth.TILE):
            cut = slice(first, first + criteo_like_truth.TILE)
            yield _lines(criteo_like.Rows(*(array[cut] for array in rows)), fixed)


def write(path: Path, num_rows: int, seed: int = 0, *, max_vocabulary: int | None = None) -> None:
    """Writes a Criteo file of generated rows."""
    with path.open("wb") as file:
        for lines in text(num_rows, seed, max_vocabulary=max_vocabulary):
            file.write(lines)


@dataclass(frozen=True)
class CriteoLikeConfig(DataConfig):
    """Length and seed of the stream."""

    source: str = "criteo_like"
    num_rows: int = 500_000  # rows
    seed: int = 0  # different seeds give different streams
    max_vocabulary: int | None = None  # ids of all fields together; null = 33.8M, as published


@SOURCES.register("criteo_like", CriteoLikeConfig)
def from_settings(settings: CriteoLikeConfig) -> Source:
    """Any number of rows in the shape of Criteo's log, whose Bayes-optimal NE is known."""
    return source(settings.num_rows, seed=settings.seed, max_vocabulary=settings.max_vocabulary)


def source(num_rows: int = 500_000, *, seed: int = 0, max_vocabulary: int | None = None) -> Source:
    """The first ``num_rows`` rows of the stream ``seed`` as a log, read through the text of a Criteo file.

    Raises:
        ValueError: fewer than 2 rows, or an invalid seed or vocabulary.
    """
    if num_rows < 2:
        raise ValueError(f"num_rows={num_rows}: need at least 2 rows")
    criteo_like_truth.world(seed, max_vocabulary)  # raises for invalid arguments
    layout = TextLayout("criteo_like", FORMAT.columns or (), FORMAT, COLUMNS, COLUMNS.read)

    def read(first: int, stop: int) -> Chunk:
        lines = text(stop - first, seed, max_vocabulary=max_vocabulary, first_row=first)
        return parse(b"".join(lines), first + 1, layout)

    def read_segments(raw: Path, progress: Progress, start: Position) -> Iterator[Segment]:
        for first in range(start.offset, num_rows, criteo_like_truth.BLOCK):
            stop = min(first + criteo_like_truth.BLOCK, num_rows)
            yield Segment(partial(read, first, stop), Position(0, stop, stop + 1), stop / num_rows)

    def notes(num_train: int, rows: int) -> dict[str, Any]:
        parts = {"train": (0, num_train), "test": (num_train, rows)}
        return {
            "bayes_ne": {
                part: {"ctr": _bayes_ne(first, stop, seed, max_vocabulary)}
                for part, (first, stop) in parts.items()
            },
            "planted": {
                "pairs": [[f"C{i + 1}", f"C{j + 1}"] for i, j in criteo_like_truth.PAIRS],
                "weights": dict(criteo_like_truth.WEIGHTS),
            },
        }

    return Source(
        name="criteo_like",
        settings={
            "reader": "criteo_like",
            "version": criteo_like_truth.VERSION,
            "num_rows": num_rows,
            "seed": seed,
            "max_vocabulary": max_vocabulary,
        },
        files=(),
        columns=COLUMNS,
        chunks=chunks_of(read_segments),
        origin=f"generated in the shape of Criteo's Kaggle log, seed {seed}",
        licence="public domain",
        notes=notes,
        segments=read_segments,
    )


def _bayes_ne(first: int, stop: int, seed: int, max_vocabulary: int | None) -> float | None:
    """NE of the true probabilities of rows; None if all labels are equal."""
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


def _lines(rows: criteo_like.Rows, fixed: criteo_like_truth.World) -> bytes:
    """The text of rows: all cells are written at full width, then unused bytes are removed."""
    num_rows = len(rows.truth)
    cells = [(rows.labels[:, :1] + ord("0")).astype(np.uint8)]
    tab = np.full((num_rows, 1), ord("\t"), np.uint8)
    for k in range(criteo_like_truth.NUM_DENSE):
        z = rows.dense[:, k].astype(np.float64)
        numbers = np.exp(MEANS[k] + DEVIATIONS[k] * z).astype(np.int64) + LOWEST[k]
        numbers = np.minimum(numbers, 10**NUM_DIGITS - 1)
        cells += [tab, _decimal(np.where(z == 0, _ABSENT, numbers))]
    local = rows.sparse - fixed.offsets.T
    values = criteo_like_truth.mix_bits(local.astype(np.uint32) + fixed.effect_keys.T)
    for j in range(criteo_like_truth.NUM_FIELDS):
        digits = np.concatenate([_HEX[values[:, j] >> 16], _HEX[values[:, j] & 0xFFFF]], 1)
        digits[local[:, j] == MISSING] = 0
        cells += [tab, digits]
    cells.append(np.full((num_rows, 1), ord("\n"), np.uint8))
    whole = np.concatenate(cells, 1)
    return whole[whole != 0].tobytes()


def _decimal(numbers: np.ndarray) -> np.ndarray:
    """Decimal digits of int64 [n] as bytes [n, 1 + NUM_DIGITS]; unused bytes are 0."""
    digits = np.zeros((len(numbers), 1 + NUM_DIGITS), np.uint8)
    digits[:, 0] = np.where(numbers < 0, ord("-"), 0)
    rest = np.abs(numbers)
    for position in range(NUM_DIGITS, 0, -1):
        shown = (rest > 0) | (position == NUM_DIGITS)
        digits[:, position] = np.where(shown, rest % 10 + ord("0"), 0)
        rest = rest // 10
    digits[numbers == _ABSENT] = 0
    return digits
