"""The split of a log into training and test rows, by time."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from autorank.data.prepare.staging import StagedPart, read_rows
from autorank.data.prepare.time_forms import FRACTIONS


class TimeSplit(NamedTuple):
    """The time order of all rows, and which of them are for training.

    Attributes:
        num_train: number of training rows.
        order: rows in time order, int64 [n]; None if they were read in time order.
        train: bool [n], by row as read; None for the first ``num_train`` rows.

    Examples:
        >>> split = TimeSplit(num_train=3, order=None, train=None)
        >>> split.mask(2, 3).tolist(), split.all_or_none(0, 2)
        ([True, False, False], True)
    """

    num_train: int
    order: np.ndarray | None
    train: np.ndarray | None

    def mask(self, first: int, num_rows: int) -> np.ndarray:
        """Which of ``num_rows`` rows from ``first`` on, as read, are for training."""
        if self.train is not None:
            return self.train[first : first + num_rows]
        return np.arange(first, first + num_rows) < self.num_train

    def all_or_none(self, first: int, num_rows: int) -> bool | None:
        """Whether all or none of these rows are for training; None if it takes a mask to tell."""
        if self.train is not None or first < self.num_train < first + num_rows:
            return None
        return first < self.num_train


def split_by_time(parts: Sequence[StagedPart], staged: Path, train_fraction: float) -> TimeSplit:
    """Puts the first ``train_fraction`` of the rows into training: at least one row, and not all.

    Args:
        parts: the staged parts.
        staged: their folder.
        train_fraction: share of the training rows.
    """
    num_rows = sum(part.num_rows for part in parts)
    num_train = min(max(1, round(train_fraction * num_rows)), num_rows - 1)
    filled = [part for part in parts if part.num_rows]
    neighbours = zip(filled[:-1], filled[1:], strict=True)
    if all(part.sorted for part in filled) and all(
        a.last_time <= b.first_time for a, b in neighbours
    ):
        return TimeSplit(num_train, None, None)
    times = np.concatenate([_times(staged, part) for part in filled])
    order = np.argsort(times, kind="stable")
    train = np.zeros(num_rows, bool)
    train[order[:num_train]] = True
    return TimeSplit(num_train, order, train)


def first_rows(parts: Sequence[StagedPart]) -> list[int]:
    """The number of the first row of each part, as read."""
    return np.cumsum([0, *(part.num_rows for part in parts)])[:-1].tolist()


def _times(staged: Path, part: StagedPart) -> np.ndarray:
    """The times of a part's rows, int64, or float64 if there are fractions (and after concatenation, for all parts)."""
    found = read_rows(staged, part, "time")[0]
    return found.view(np.float64) if FRACTIONS in part.times else found
