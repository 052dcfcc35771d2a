"""A planted function on nested spaces of 10 to 10^20 configurations: its first decisions matter most.

Twenty decisions of ten choices; numbers and categories take turns. A space of ``10^n`` configurations has the first
``n`` decisions free and the others at the baseline, so that each space holds the smaller ones. The loss is 0 at the one
planted optimum and positive elsewhere; the weight of a decision falls by a fifth from one to the next.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from autorank.benchmarks.base import Benchmark, Values, middle
from autorank.space.space import Decision, Space

NUM_DECISIONS, NUM_CHOICES = 20, 10
DECAY = 0.8  # weight of a decision relative to the one before
PAIR = 0.5  # weight of the table of two neighbouring decisions relative to the first one's own


class _Planted(NamedTuple):
    """The function of one seed."""

    best: np.ndarray  # [k]: the optimum's choices
    own: np.ndarray  # [k, c]: effects of single decisions, zero at the optimum
    pairs: np.ndarray  # [k - 1, c, c]: effects of neighbouring decisions, zero at the optimum

    def losses(self, configs: np.ndarray) -> np.ndarray:
        """Of configurations ``[n, k]``."""
        k = np.arange(NUM_DECISIONS)
        single = self.own[k, configs].sum(axis=1)
        return single + self.pairs[k[:-1], configs[:, :-1], configs[:, 1:]].sum(axis=1)


def nested(seed: int = 0) -> Benchmark:
    """The function of ``seed``; the cost of all configurations is the same.

    Examples:
        >>> benchmark = nested(0)
        >>> benchmark.space.cardinality() == 10**20
        True
        >>> benchmark.query([benchmark.space.decode(planted_best(0))])[0, 0].item()
        0.0
    """
    planted = _planted(seed)
    choices = tuple(range(NUM_CHOICES))
    kinds = ["number" if i % 2 == 0 else "categorical" for i in range(NUM_DECISIONS)]
    decisions = tuple(Decision(f"d{i:02d}", choices, kind) for i, kind in enumerate(kinds))
    space = Space(decisions, middle(decisions))

    def query(rows: Sequence[Values]) -> np.ndarray:
        configs = np.array([space.encode(values) for values in rows], np.int32)
        losses = planted.losses(configs.reshape(-1, NUM_DECISIONS))
        return np.stack([losses, np.zeros(len(losses))], axis=1)

    return Benchmark("nested", str(seed), space, {}, query, 0.0)


def planted_best(seed: int = 0) -> np.ndarray:
    """The configuration at which the function of ``seed`` is 0."""
    return _planted(seed).best


def _planted(seed: int) -> _Planted:
    rng = np.random.default_rng([seed, 3])
    best = rng.integers(NUM_CHOICES, size=NUM_DECISIONS).astype(np.int32)
    weights = DECAY ** np.arange(NUM_DECISIONS)
    own = np.empty((NUM_DECISIONS, NUM_CHOICES))
    for i in range(NUM_DECISIONS):
        away = np.abs(np.arange(NUM_CHOICES) - best[i]) / (NUM_CHOICES - 1)
        drawn = rng.gamma(2.0, 0.2, NUM_CHOICES)
        own[i] = weights[i] * (away**1.5 if i % 2 == 0 else drawn)
        own[i, best[i]] = 0.0
    pairs = rng.gamma(1.0, PAIR * 0.2, (NUM_DECISIONS - 1, NUM_CHOICES, NUM_CHOICES))
    pairs *= weights[:-1, None, None]
    pairs[np.arange(NUM_DECISIONS - 1), best[:-1], best[1:]] = 0.0
    return _Planted(best, own, pairs)
