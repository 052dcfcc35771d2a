"""A prepared data set: memory-mapped arrays and their schema."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from autorank.data.format.schema import Schema


class Dataset(NamedTuple):
    """Prepared rows in time order.

    `train`, `test` and `prefix` return views: they share memory with the whole data set and keep its schema.

    Attributes:
        sparse: int32 [rows, f], ids with field offsets added.
        dense: float32 [rows, m], standardised; missing values are 0.
        labels: int8 [rows, 1 or 2], each 0 or 1.
        folder: the folder the arrays were loaded from; None for arrays made in memory.

    Examples:
        >>> from autorank.data.format.schema import Field
        >>> schema = Schema(
        ...     name="toy", fields=(Field("user", 5, 0),), dense=(), labels=("click",), num_rows=3, num_train=2,
        ...     label_names=("clicked",), source="docs", licence="public domain", sha256={}, notes={},
        ... )
        >>> labels = np.array([[0], [1], [1]], np.int8)
        >>> data = Dataset(schema, np.zeros((3, 1), np.int32), np.zeros((3, 0), np.float32), labels)
        >>> len(data.train().labels), data.test().labels.tolist()
        (2, [[1]])
    """

    schema: Schema
    sparse: np.ndarray
    dense: np.ndarray
    labels: np.ndarray
    folder: Path | None = None

    def fingerprint(self) -> str:
        """SHA-256 over schema and contents, which identifies the data in ledgers.

        A view has the fingerprint of the whole data set.
        """
        return self.schema.fingerprint()

    def train(self) -> "Dataset":
        """The training rows.

        For a view, the training rows that it contains (views start at the first row).
        """
        return self.prefix(self.schema.num_train)

    def test(self) -> "Dataset":
        """The held-out rows, which are last in time."""
        return self._rows(slice(self.schema.num_train, None))

    def prefix(self, num_rows: int) -> "Dataset":
        """The first ``num_rows`` rows, or all rows if there are fewer."""
        return self._rows(slice(0, num_rows))

    def _rows(self, rows: slice) -> "Dataset":
        return self._replace(
            sparse=self.sparse[rows], dense=self.dense[rows], labels=self.labels[rows]
        )
