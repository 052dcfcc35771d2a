"""Criteo-shaped rows as the text of a Criteo file, and as a log to search on."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from autorank.data import criteo_like
from autorank.data.schema import MISSING

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
