"""Learns the scale of a dense column: mean and standard deviation over the training rows of all staged parts."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from autorank.data.prepare.encoders import DenseEncoder
from autorank.data.prepare.split import TimeSplit, first_rows
from autorank.data.prepare.staging import StagedPart, read_rows

BATCH_ROWS = 1 << 21  # numbers whose mean is computed at a time
_SMALLEST_STD = 1e-9  # below it a column is constant


def learn_scale(
    parts: Sequence[StagedPart],
    staged: Path,
    column: int,
    name: str,
    split: TimeSplit,
    *,
    compiled: bool = False,
) -> DenseEncoder:
    """The mean and standard deviation of the known values of a dense column in the training rows.

    Args:
        parts: the staged parts.
        staged: their folder.
        column: number of the dense column.
        name: its name.
        split: which rows are for training.
        compiled: whether a compiled loop drops NaN, which pays off for many rows.
    """
    moments = RunningMoments()
    waiting: list[np.ndarray] = []
    for part, first in zip(parts, first_rows(parts), strict=True):
        wanted = split.all_or_none(first, part.num_rows)
        if wanted is not False:
            numbers = read_rows(staged, part, "dense", column, column + 1)[0]
            waiting.append(numbers if wanted else numbers[split.mask(first, part.num_rows)])
        if sum(map(len, waiting)) >= BATCH_ROWS:
            moments.add(_known(waiting, compiled))
            waiting = []
    if waiting:
        moments.add(_known(waiting, compiled))
    std = float(np.sqrt(moments.variance))
    return DenseEncoder(name, moments.mean, std if std > _SMALLEST_STD else 1.0)


class RunningMoments:
    """Mean and variance of numbers that arrive in batches (Chan, Golub and LeVeque, 1979).

    Examples:
        >>> moments = RunningMoments()
        >>> moments.add(np.array([1.0, 2.0]))
        >>> moments.add(np.array([3.0, 6.0]))
        >>> moments.mean, moments.variance
        (3.0, 3.5)
    """

    def __init__(self) -> None:
        self.mean = self.variance = 0.0
        self._count = 0.0

    def add(self, numbers: np.ndarray) -> None:
        """Adds a batch, float64 [n], which is overwritten."""
        if not len(numbers):
            return
        mean, count = float(numbers.mean()), self._count + len(numbers)
        numbers -= mean
        np.square(numbers, out=numbers)
        variance = float(numbers.mean())
        if self._count:
            share = len(numbers) / count
            variance += (self.variance - variance) * (1 - share)
            variance += (mean - self.mean) ** 2 * share * (1 - share)
            mean = self.mean + (mean - self.mean) * share
        self._count, self.mean, self.variance = count, mean, variance


def _known(columns: list[np.ndarray], compiled: bool) -> np.ndarray:
    """The numbers of all columns that are not NaN, as float64."""
    if not compiled:
        numbers = np.concatenate(columns)
        return numbers[~np.isnan(numbers)].astype(np.float64)
    from autorank.data.fast_text.loops import encoding as encoding_loops

    found, end = np.empty(sum(map(len, columns)) + 1), 0
    for numbers in columns:
        end += encoding_loops.drop_nan(numbers, found[end:])
    return found[:end]
