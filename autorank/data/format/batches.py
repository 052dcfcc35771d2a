"""A prepared data set in memory (memory-mapped), and its two parts."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from autorank.data.format.schema import Schema


class Dataset(NamedTuple):
    """Rows in the order of time.

    A view shares the arrays' memory and keeps the schema of the whole.
    """

    schema: Schema
    sparse: np.ndarray  # int32 [rows, f], field offsets added
    dense: np.ndarray  # float32 [rows, m], standardised, missing = 0
    labels: np.ndarray  # int8 [rows, 1 or 2] in {0, 1}
    folder: Path | None = None  # where it was loaded from

    def fingerprint(self) -> str:
        """Names the whole prepared data in ledgers.

        Sha256 over schema and contents; views have the same.
        """
        return self.schema.fingerprint()

    def train(self) -> "Dataset":
        """The training rows.

        Of a view, those of them that it holds (views start at the first row).
        """
        return self.prefix(self.schema.num_train)

    def test(self) -> "Dataset":
        """The held-out rows, last in time."""
        return self._rows(slice(self.schema.num_train, None))

    def prefix(self, num_rows: int) -> "Dataset":
        """The first ``num_rows`` rows (all of them when there are fewer)."""
        return self._rows(slice(0, num_rows))

    def _rows(self, rows: slice) -> "Dataset":
        return self._replace(
            sparse=self.sparse[rows], dense=self.dense[rows], labels=self.labels[rows]
        )
