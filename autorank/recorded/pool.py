"""A task on which only recorded configurations can be tried: a pool of random ones, without their neighbours.

The searcher `autorank` chooses among them (`autorank.searchers.base.Context.listed`). Any other proposal is moved to
the nearest recorded configuration that has not been tried, and the searcher is told that one, with its result:
everything that it learns is true, nothing is interpolated, and the best of the pool is known.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from autorank.space import arrays
from autorank.space.space import Space

# Active decisions and their values, as `Space.decode` returns them.
Values = Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class Pool:
    """Recorded configurations ``[n, k]`` of a space, each of them once.

    Examples:
        >>> from autorank.space.space import Decision
        >>> space = Space((Decision("depth", (1, 2, 4), "number"), Decision("norm", ("pre", "post"))), (0, 0))
        >>> pool = Pool(space, np.array([[0, 0], [2, 1]]))
        >>> pool.nearest([{"depth": 2, "norm": "post"}, {"depth": 4, "norm": "post"}], tried=())
        [1, 0]
    """

    space: Space
    configs: np.ndarray

    @cached_property
    def _places(self) -> dict[bytes, int]:
        return {c.astype(np.int32).tobytes(): i for i, c in enumerate(self.configs)}

    @cached_property
    def _active(self) -> np.ndarray:
        return np.asarray(arrays.active(np, self.space.tables, self.configs))

    def __len__(self) -> int:
        return len(self.configs)

    def values(self, place: int) -> dict[str, Any]:
        """The active decisions of a recorded configuration."""
        return self.space.decode(self.configs[place])

    def place(self, values: Values) -> int:
        """Where a configuration stands in the pool.

        Raises:
            ValueError: it is not recorded.
        """
        found = self._places.get(self.space.encode(values).tobytes())
        if found is None:
            raise ValueError(
                f"{dict(values)} is not recorded; look up configurations of the pool, which `Pool.nearest` finds"
            )
        return found

    def nearest(self, rows: Sequence[Values], tried: Collection[int]) -> list[int]:
        """For each proposal in turn the nearest recorded configuration that is not tried or taken before it.

        Args:
            rows: proposals; active decisions with values of the space.
            tried: places in the pool.

        Raises:
            ValueError: fewer configurations are left than there are proposals.
        """
        free = np.ones(len(self), bool)
        free[list(tried)] = False
        if free.sum() < len(rows):
            raise ValueError(
                f"trials: all but {free.sum()} of the {len(self)} recorded configurations have been tried; "
                f"write trials={len(self)} or fewer"
            )
        found = []
        for row in rows:
            apart = np.where(free, self.distances(row), np.inf)
            found.append(int(np.argmin(apart)))  # of equally near ones the first
            free[found[-1]] = False
        return found

    def distances(self, values: Values) -> np.ndarray:
        """How far each recorded configuration is from a proposal, ``[n]``: the sum over decisions.

        A number counts by the distance of the scaled values, at most 1. Another category counts 1, and so does a
        decision that only one of the two has.
        """
        tables = self.space.tables
        config = self.space.encode(values)
        active = np.asarray(arrays.active(np, tables, config[None]))[0]
        order = np.arange(self.space.num_decisions)
        numbers = np.array([d.kind == "number" for d in self.space.decisions])
        scaled = np.abs(tables.numbers[order, self.configs] - tables.numbers[order, config])
        differ = np.where(numbers, scaled, self.configs != config)
        both, one = self._active & active, self._active ^ active
        return np.where(both, differ, one).sum(axis=1)
