"""Repeated random splits of records into some to learn from and some to be tested on."""

import zlib
from typing import NamedTuple

import numpy as np

from autorank.base.typing import Bool


class Split(NamedTuple):
    """One random order of the records of a table."""

    test: np.ndarray  # places of the tested records
    rest: np.ndarray  # the others in random order: an arm with N records learns from the first N
    seed: int  # of what is random in a fit: the same for all arms
    own: np.ndarray | None = None  # bool [m]: records of the tested part; None: all are

    def learnt(self, num_train: int, num_own: int | None) -> np.ndarray:
        """Places of the records to learn from, ``num_own`` of them of the tested part; None: as they come.

        Examples:
            >>> own = np.array([True, True, True, False, False, False])
            >>> split = split_of("table", 6, 1, number=0, seed=0, own=own)
            >>> own[split.learnt(3, 1)].tolist()
            [True, False, False]
        """
        if num_own is None or self.own is None:
            return self.rest[:num_train]
        inside = self.own[self.rest]
        return np.concatenate(
            [self.rest[inside][:num_own], self.rest[~inside][: num_train - num_own]]
        )


def split_of(
    table: str,
    num_records: int,
    num_test: int,
    number: int,
    seed: int,
    own: Bool[np.ndarray, " m"] | None = None,
) -> Split:
    """A split; it depends on nothing else than these arguments, and different tables have independent splits.

    Only records of the part ``own`` are tested, if there is one.

    All arms test on the same records, and the records of a smaller arm are among those of a larger one, so that arms
    are compared in pairs.

    Examples:
        >>> split = split_of("dhen/kuairand", 10, 4, number=0, seed=0)
        >>> sorted([*split.test.tolist(), *split.rest.tolist()]) == list(range(10))
        True
    """
    rng = np.random.default_rng([seed, zlib.crc32(table.encode()), number])
    order = rng.permutation(num_records)
    fit_seed = int(rng.integers(2**31))
    if own is None:
        return Split(order[:num_test], order[num_test:], fit_seed)
    test = order[own[order]][:num_test]
    # In an order of its own: in the first one, the part's other records come late.
    return Split(test, rng.permutation(np.setdiff1d(order, test)), fit_seed, own)


def overlap(num_records: int, num_test: int) -> float:
    """The share of the records that a split tests: the expected overlap of two test sets."""
    return num_test / num_records
