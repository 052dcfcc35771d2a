"""How many configurations a space has, and which ones, without trying every combination of choices."""

from collections.abc import Iterator
from itertools import islice

import numpy as np

from autorank.space.tables import Tables


def cardinality(tables: Tables) -> int:
    """Number of distinct canonical configurations, exact.

    Visits the decisions, parents first. For every set of decisions that are activated but not yet visited it keeps
    how many partial configurations lead there: as many states as conditions can tell apart, not as many as there
    are configurations.
    """
    # Sets are bit masks. Map from activated decisions to the number of partial configurations.
    counts = {0: 1}
    for i in tables.order:
        masks = [
            sum(1 << int(j) for j in np.flatnonzero(tables.children[i, choice]))
            for choice in range(tables.num_choices[i])
        ]
        after: dict[int, int] = {}
        for state, count in counts.items():
            rest = state & ~(1 << i)
            for mask in masks if tables.roots[i] or state >> i & 1 else [0]:
                after[rest | mask] = after.get(rest | mask, 0) + count
        counts = after
    return sum(counts.values())


def first_configurations(tables: Tables, limit: int) -> np.ndarray:
    """The first ``min(limit, cardinality)`` canonical configurations, int32 ``[n, k]``.

    Depth first with parents first; the decisions that come later change fastest.
    """
    rows = list(islice(walk(tables), limit))
    return np.array(rows, np.int32).reshape(-1, len(tables.roots))


def walk(tables: Tables) -> Iterator[list[int]]:
    """All canonical configurations, one by one."""
    children = tables.children > 0
    config = tables.baseline.tolist()

    def below(position: int, activated: np.ndarray) -> Iterator[list[int]]:
        if position == len(config):
            yield list(config)
            return
        i = tables.order[position]
        if not activated[i]:
            config[i] = int(tables.baseline[i])
            yield from below(position + 1, activated)
            return
        for choice in range(tables.num_choices[i]):
            config[i] = choice
            yield from below(position + 1, activated | children[i, choice])

    return below(0, tables.roots)
