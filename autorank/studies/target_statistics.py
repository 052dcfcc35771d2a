"""Features for models that read no ids: for each categorical value, how often earlier rows with it had the target.

A row's statistics come from earlier rows alone, so no row sees its own target, nor that of a later one; held-out rows
use the training part (Prokhorenkova et al., CatBoost, NeurIPS 2018, ordered target statistics; here the order is time).
"Earlier" goes by blocks of consecutive rows: within a block none knows the others, as rows of one moment must not.
"""

from typing import NamedTuple

import numpy as np

from autorank.base.typing import Bool, Float, Int

BLOCKS = 200  # of the training rows
PRIOR_ROWS = 20.0  # rows that the rate of all counts for in that of a value


class Statistics(NamedTuple):
    """Counts per id so far."""

    positives: np.ndarray  # [ids]
    rows: np.ndarray  # [ids]
    total: np.ndarray  # [2]: positives and rows of all

    @classmethod
    def empty(cls, num_ids: int) -> "Statistics":
        """Nothing seen."""
        return cls(np.zeros(num_ids), np.zeros(num_ids), np.zeros(2))

    def features(self, ids: Int[np.ndarray, "n f"]) -> Float[np.ndarray, "n g"]:
        """Smoothed log-odds and log frequency of each field, float32 ``[n, 2 f]``.

        The frequency, unlike the count, does not grow as the log goes on.
        """
        rate = (self.total[0] + 0.5) / (self.total[1] + 1.0)
        rows = self.rows[ids]
        p = (self.positives[ids] + PRIOR_ROWS * rate) / (rows + PRIOR_ROWS)
        return np.concatenate(
            [np.log(p) - np.log1p(-p), np.log((rows + 1) / (self.total[1] + 1))], axis=1
        ).astype(np.float32)

    def add(
        self,
        ids: Int[np.ndarray, "n f"],
        targets: Float[np.ndarray, " n"],
        where: Bool[np.ndarray, " n"],
    ) -> None:
        """Counts the rows of ``where``; in place."""
        own, y = ids[where], targets[where]
        flat = own.ravel()
        np.add.at(self.rows, flat, 1.0)
        np.add.at(self.positives, flat, np.repeat(y, own.shape[1]))
        self.total[:] += [y.sum(), y.size]


def encode(
    ids: Int[np.ndarray, "n f"],
    targets: Float[np.ndarray, " n"],
    where: Bool[np.ndarray, " n"],
    num_ids: int,
    num_train: int,
    *,
    follow: bool = False,
    blocks: int = BLOCKS,
) -> Float[np.ndarray, "n g"]:
    """The features of rows in time order, ``[n, 2 f]``.

    Args:
        ids: of all fields, each with its own range of numbers.
        targets: 0 or 1 for each row.
        where: rows whose target exists (conversions: those with a click); only these are counted.
        num_ids: above all ids.
        num_train: rows of the training part; those after it are held out.
        follow: held-out rows are counted too, block by block, each after its own features were made; else they all
            use the training part.
        blocks: of the training rows; held-out ones have blocks of the same size.
    """
    statistics, parts = Statistics.empty(num_ids), []
    size = max(1, -(-num_train // blocks))
    for first in range(0, len(ids), size):
        # A block never reaches over the end of the training part.
        ends = [first, *([num_train] if first < num_train < first + size else []), first + size]
        for start, stop in zip(ends, ends[1:], strict=False):
            rows = slice(start, min(stop, len(ids)))
            parts.append(statistics.features(ids[rows]))
            if start < num_train or follow:
                statistics.add(ids[rows], targets[rows], where[rows])
    return np.concatenate(parts)
