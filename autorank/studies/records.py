"""Recorded results of many configurations: what a study of predictors learns from and is tested on."""

import zlib
from typing import NamedTuple

import jax
import numpy as np

from autorank.benchmarks.base import Benchmark, ask_table
from autorank.space.space import Space

# Finite spaces up to this size are taken whole.
WHOLE = 20_000


class Records(NamedTuple):
    """Finished configurations ``[m, k]`` of one task with their results."""

    name: str  # suite/task
    space: Space
    configs: np.ndarray  # int32 [m, k]
    # float64 [m], lower is better: 0 is the best record, 1 the median one, so that tasks can be averaged.
    quality: np.ndarray
    cost: np.ndarray  # float64 [m]: logarithm of the cost
    curves: np.ndarray | None  # window NE of the first seed [m, t]; None where none were recorded
    num_failed: int  # configurations that have no result and were left out

    def __len__(self) -> int:
        return len(self.configs)

    @property
    def metrics(self) -> np.ndarray:
        """Quality and cost, float32 ``[m, 2]``: what surrogates are fitted to."""
        return np.stack([self.quality, self.cost], axis=1).astype(np.float32)

    def described(self) -> str:
        """How many there are."""
        return f"{len(self)} records, {self.num_failed} failed ones left out"

    def fingerprint(self) -> str:
        """Changes with any configuration or result."""
        parts = (self.configs, self.quality, self.cost)
        sums = [zlib.crc32(np.ascontiguousarray(part).tobytes()) for part in parts]
        return "".join(f"{value:08x}" for value in sums)


def records_of(benchmark: Benchmark, sampled: int = 2000) -> Records:
    """All records of a table; of a surrogate or a function the results of random configurations.

    Args:
        benchmark: a recorded pool or a finite table is taken whole.
        sampled: draws from a space of more than `WHOLE` configurations; repeats are left out.

    Raises:
        ValueError: fewer than two different results.

    Examples:
        >>> from autorank.benchmarks.mixed import mixed
        >>> records = records_of(mixed(0), sampled=50)
        >>> len(records), float(records.quality.min()), round(float(np.median(records.quality)), 9)
        (50, 0.0, 1.0)
    """
    space, pool = benchmark.space, benchmark.pool
    if pool is not None:
        configs = pool.configs
    elif space.cardinality() <= WHOLE:
        configs = space.enumerate(WHOLE)
    else:
        drawn = np.asarray(space.sample(jax.random.key(0), sampled), np.int32)
        configs = np.unique(drawn, axis=0)
    found = ask_table(benchmark, configs)
    finished = np.isfinite(found).all(axis=1)
    kept, results = np.asarray(configs, np.int32)[finished], found[finished]
    if len(np.unique(results[:, 0])) < 2:
        raise ValueError(
            f"{benchmark.name} has {len(kept)} finished records, all with the same result; name another benchmark"
        )
    best, median = results[:, 0].min(), float(np.median(results[:, 0]))
    unit = (median - best) or float(results[:, 0].max() - best)
    return Records(
        benchmark.name,
        space,
        kept,
        (results[:, 0] - best) / unit,
        results[:, 1],
        _curves(benchmark, kept),
        int((~finished).sum()),
    )


def _curves(benchmark: Benchmark, configs: np.ndarray) -> np.ndarray | None:
    """Window NE of the first metric ``[m, t]``, as each configuration's first seed gave it."""
    if benchmark.curves is None:
        return None
    outcomes = dict(benchmark.curves.evaluate(configs, [0] * len(configs), 1.0))
    return np.stack([np.asarray(outcomes[i].curve)[:, 0] for i in range(len(configs))])
