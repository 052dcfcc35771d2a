"""Losses of slices of the rows in each window: groups of users, say, whose shares of the log change over time."""

from dataclasses import dataclass

import numpy as np

from autorank.base.measurable import targets_of
from autorank.base.metrics import log_losses
from autorank.base.typing import Float, Int
from autorank.data.format.batches import Dataset
from autorank.training.memory import Shape


@dataclass(frozen=True)
class Slicing:
    """The slices of a log: one for each of the most frequent values of a field, and one for all others."""

    field: str
    count: int = 8  # slices, at least 2


@dataclass(frozen=True, eq=False)
class SliceLosses:
    """The mean log loss of each slice of a window, in nats (`MeasureRows`).

    Args:
        slicing: names the slices.
        of_row: the slice of each training row.
        metric: whose losses.
        labels: ``[rows, labels]`` of the training part.
    """

    slicing: Slicing
    of_row: Int[np.ndarray, " n"]
    metric: str
    labels: np.ndarray

    @classmethod
    def of(cls, dataset: Dataset, slicing: Slicing, metric: str) -> "SliceLosses":
        """The slices of a data set's training rows.

        Raises:
            ValueError: the log has no field of that name.
        """
        train, names = dataset.train(), [field.name for field in dataset.schema.fields]
        if slicing.field not in names:
            raise ValueError(
                f"slices={slicing.field}: no field of {dataset.schema.name} has that name; write one of "
                f"{', '.join(names)}"
            )
        ids = np.asarray(train.sparse[:, names.index(slicing.field)])
        return cls(slicing, slices_of(ids, slicing.count), metric, train.labels)

    @property
    def name(self) -> str:
        """See `MeasureRows`."""
        return "slices"

    @property
    def size(self) -> int:
        """One value for each slice."""
        return self.slicing.count

    def __call__(self, first: int, last: int, scores: np.ndarray, /) -> Float[np.ndarray, " s"]:
        """Mean losses ``[s]`` of rows ``[first, last)``; NaN for a slice without rows. Scores are of all metrics."""
        targets, rows = targets_of(np.asarray(self.labels[first:last]), self.metric)
        own = self.of_row[first:last][rows]
        losses = log_losses(scores[rows, 0], targets)
        counts = np.bincount(own, minlength=self.size)
        sums = np.bincount(own, losses, minlength=self.size)
        return np.divide(sums, counts, out=np.full(self.size, np.nan), where=counts > 0)

    def counts(self, shape: Shape) -> Int[np.ndarray, "t s"]:
        """Rows of each slice in each window."""
        found = []
        for first, last in shape.window_rows:
            _, rows = targets_of(np.asarray(self.labels[first:last]), self.metric)
            found.append(np.bincount(self.of_row[first:last][rows], minlength=self.size))
        return np.array(found)


def slices_of(values: Int[np.ndarray, " n"], count: int) -> Int[np.ndarray, " n"]:
    """The slice of each row: the most frequent values in order, then all others together.

    Examples:
        >>> slices_of(np.array([7, 7, 7, 3, 3, 9, 4]), 3).tolist()
        [0, 0, 0, 1, 1, 2, 2]
    """
    found, inverse, rows = np.unique(values, return_inverse=True, return_counts=True)
    slices = np.full(len(found), count - 1)
    order = np.argsort(-rows, kind="stable")[: count - 1]
    slices[order] = np.arange(len(order))
    return slices[inverse]
