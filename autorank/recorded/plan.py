"""Which runs a recorded table has: a function of its settings alone, so that machines can share the work."""

from collections.abc import Iterator
from typing import NamedTuple

import jax
import numpy as np

from autorank.space.space import Space

BLOCK, MAX_BLOCKS = 1024, 1000  # configurations drawn at a time, and how often at most


class Plan(NamedTuple):
    """How many configurations and seeds; configuration 0 is the baseline, those from 1 on are random.

    Examples:
        >>> plan = Plan(configurations=3, repeated=1, more_seeds=1, seed=0)
        >>> plan.runs()
        [(0, 0), (1, 0), (2, 0), (3, 0), (0, 1), (1, 1)]
        >>> plan.runs(first=1, count=2)
        [(1, 0), (2, 0), (1, 1)]
    """

    configurations: int  # random ones
    repeated: int  # the first of them, and the baseline, have more than one seed
    more_seeds: int  # of those
    seed: int  # draws configurations and seeds

    def repeats(self, number: int) -> int:
        """How many seeds a configuration has."""
        return 1 + (self.more_seeds if number <= self.repeated else 0)

    def runs(self, first: int = 0, count: int | None = None) -> list[tuple[int, int]]:
        """Pairs (number of a configuration, number of its seed): all first seeds, then all second ones.

        Args:
            first: number of the first configuration.
            count: how many configurations; None for all from there on.
        """
        stop = self.configurations + 1 if count is None else first + count
        numbers = range(first, min(stop, self.configurations + 1))
        return [(i, r) for r in range(1 + self.more_seeds) for i in numbers if r < self.repeats(i)]

    def seed_of(self, number: int, repeat: int) -> int:
        """The training seed of a run, in [0, 2^31); no two configurations share their luck."""
        (drawn,) = np.random.SeedSequence([self.seed, number, repeat]).generate_state(1)
        return int(drawn) >> 1


def configurations(space: Space, plan: Plan) -> np.ndarray:
    """The configurations by number, int32 ``[1 + configurations, k]``: the baseline, then distinct random ones.

    Each decision of a random one is uniform. A configuration does not depend on how many are drawn, so a table can
    grow.

    Raises:
        ValueError: the space has fewer, or chance does not find them.
    """
    most = space.cardinality() - 1
    if plan.configurations > most:
        raise ValueError(
            f"configurations={plan.configurations}: the space has {most} beside its baseline; write {most} or fewer"
        )
    found: dict[bytes, np.ndarray] = {}
    for config in _drawn(space, plan.seed):
        found.setdefault(config.tobytes(), config)
        if len(found) > plan.configurations:
            return np.stack(list(found.values()))
    raise ValueError(
        f"configurations={plan.configurations}: {BLOCK * MAX_BLOCKS:,} random draws gave {len(found) - 1} distinct "
        f"ones of the space's {most}; write {len(found) - 1} or fewer"
    )


def _drawn(space: Space, seed: int) -> Iterator[np.ndarray]:
    """The baseline, then random configurations ``[k]``, repeats among them."""
    yield np.array(space.baseline, np.int32)
    key = jax.random.key(seed)
    for block in range(MAX_BLOCKS):
        yield from np.asarray(space.sample(jax.random.fold_in(key, block), BLOCK))


def ranges(numbers: list[int]) -> str:
    """Numbers as text, runs of them as ranges.

    Examples:
        >>> ranges([1, 2, 3, 7, 9, 10])
        '1-3, 7, 9-10'
    """
    parts: list[list[int]] = []
    for number in sorted(set(numbers)):
        if parts and parts[-1][1] == number - 1:
            parts[-1][1] = number
        else:
            parts.append([number, number])
    return ", ".join(f"{a}-{b}" if a < b else f"{a}" for a, b in parts)
