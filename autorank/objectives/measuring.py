"""A measure of each window of the training rows, from scores that training leaves (`autorank.training.scored`)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from autorank.base.measurable import targets_of
from autorank.base.scored_rows import measure_of
from autorank.base.searched import NE, OF_USERS
from autorank.data.format.batches import Dataset
from autorank.data.format.users import USER_FIELDS, users_of
from autorank.training.memory import Shape


@dataclass(frozen=True, eq=False)
class WindowMeasure:
    """One measure on rows of the training part, for every metric of a head.

    Args:
        measure: one of `searched.MEASURES`.
        metrics: of the head, in order.
        labels: ``[rows, labels]`` of the training part.
        users: ``[rows]``, negative where unknown; None where the measure does not need them.
    """

    measure: str
    metrics: Sequence[str]
    labels: np.ndarray
    users: np.ndarray | None

    @classmethod
    def of(cls, dataset: Dataset, measure: str, metrics: Sequence[str]) -> "WindowMeasure":
        """The measure on a data set's training rows.

        Raises:
            ValueError: it is one of users, and the log names none.
        """
        train = dataset.train()
        users = users_of(dataset.schema, train.sparse) if measure in OF_USERS else None
        if measure in OF_USERS and users is None:
            raise ValueError(
                f"search.metric={measure} is measured within users, and no field of {dataset.schema.name} is named "
                f"{', '.join(USER_FIELDS)}; rename one in the schema, or write search.metric=auc"
            )
        return cls(measure, metrics, train.labels, users)

    @classmethod
    def wanted(
        cls, dataset: Dataset, measure: str, metrics: Sequence[str]
    ) -> "WindowMeasure | None":
        """The same; None for NE, which sums of losses give."""
        return None if measure == NE else cls.of(dataset, measure, metrics)

    @property
    def name(self) -> str:
        """See `MeasureRows`."""
        return "measured"

    @property
    def size(self) -> int:
        """One value for each metric."""
        return len(self.metrics)

    def __call__(self, first: int, last: int, scores: np.ndarray, /) -> np.ndarray:
        """Values ``[q]`` of rows ``[first, last)`` with probabilities ``[last - first, q]``; NaN where not defined."""
        labels = np.asarray(self.labels[first:last])
        own = None if self.users is None else self.users[first:last]
        found = []
        for q, metric in enumerate(self.metrics):
            targets, rows = targets_of(labels, metric)
            groups = None if own is None else own[rows]
            found.append(measure_of(self.measure, scores[rows, q], targets, groups))
        return np.array(found, np.float64)

    def known(self, shape: Shape) -> np.ndarray:
        """Bool ``[t, q]``: windows in which the measure is defined; that depends on labels and users alone."""
        return np.array(
            [
                np.isfinite(self(first, last, np.full((last - first, len(self.metrics)), 0.5)))
                for first, last in shape.window_rows
            ]
        )
