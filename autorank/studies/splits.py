"""Repeated random splits of records into some to learn from and some to be tested on."""

import zlib
from typing import NamedTuple

import numpy as np


class Split(NamedTuple):
    """One random order of the records of a table."""

    test: np.ndarray  # places of the tested records
    rest: np.ndarray  # the others in random order: an arm with N records learns from the first N
    seed: int  # of what is random in a fit: the same for all arms


def split_of(table: str, num_records: int, num_test: int, number: int, seed: int) -> Split:
    """A split; it depends on nothing else than these arguments, and different tables have independent splits.

    All arms test on the same records, and the records of a smaller arm are among those of a larger one, so that arms
    are compared in pairs.

    Examples:
        >>> split = split_of("dhen/kuairand", 10, 4, number=0, seed=0)
        >>> sorted([*split.test.tolist(), *split.rest.tolist()]) == list(range(10))
        True
    """
    rng = np.random.default_rng([seed, zlib.crc32(table.encode()), number])
    order = rng.permutation(num_records)
    return Split(order[:num_test], order[num_test:], int(rng.integers(2**31)))


def overlap(num_records: int, num_test: int) -> float:
    """The share of the records that a split tests: the expected overlap of two test sets."""
    return num_test / num_records
