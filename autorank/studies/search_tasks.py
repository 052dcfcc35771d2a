"""Tasks of searches with their truth: what each configuration gives, the best there is, and what is usual."""

import dataclasses
import zlib
from dataclasses import dataclass
from functools import cached_property

import jax
import numpy as np

from autorank.base.typing import Float, Int
from autorank.benchmarks.base import Benchmark, ask_table
from autorank.benchmarks.catalogue import RESULTS, levels
from autorank.space.space import Space
from autorank.studies.records import WHOLE
from autorank.studies.search_measures import hypervolume

SAMPLED = 4000  # random configurations whose median is the unit of regret, where no table has it


@dataclass(frozen=True, eq=False)
class SearchTask:
    """A benchmark, and the unit of regret: 0 is the best there is, 1 the median of random configurations."""

    benchmark: Benchmark
    best: float
    typical: float
    whole: (
        np.ndarray | None
    )  # [n, 2]: results of the whole table; None for functions and surrogates
    space: Space  # what is searched: the benchmark's, or its part
    earlier: "SearchTask | None" = None  # what was searched before, of the same space
    change: str = ""  # what was done to that search: one of `earlier_tasks.CHANGES`, or nothing

    @property
    def name(self) -> str:
        """``suite/task``, and what was searched before."""
        if self.earlier is None:
            return self.benchmark.name
        return f"{self.benchmark.name} after {self.earlier.name} {self.change}".rstrip()

    @property
    def identity(self) -> str:
        """What a searcher's programs depend on: the space, and the list of a pool."""
        own = self.space.fingerprint()
        return own if self.listed is None else f"{own} {self.name}"

    @property
    def listed(self) -> np.ndarray | None:
        """The only configurations ``[m, k]`` that can be tried; None where all can."""
        return None if self.benchmark.pool is None else self.benchmark.pool.configs

    @cached_property
    def baseline_cost(self) -> float:
        """The logarithm of the baseline's cost, which need not be among the configurations of a pool."""
        configs, curves = np.array([self.benchmark.space.baseline], np.int32), self.benchmark.curves
        if curves is not None and curves.cost is not None:
            return float(np.log(curves.cost(configs)[0]))
        if self.benchmark.pool is not None:
            return 0.0  # a ledger's costs are relative to its baseline
        return float(ask_table(self.benchmark, configs)[0, 1])

    def described(self) -> str:
        """Its size and levels."""
        size = float(self.space.cardinality())
        pool = (
            ""
            if self.benchmark.pool is None
            else f", of which {len(self.benchmark.pool)} are recorded"
        )
        return f"{size:.3g} configurations{pool}; best {self.best:.6g}, median {self.typical:.6g}"

    def fingerprint(self) -> str:
        """Changes with the space, the levels, and any result of a table or of 100 random configurations."""
        found = self.whole
        if found is None:
            found = ask_table(self.benchmark, np.asarray(self.space.sample(jax.random.key(1), 100)))
        parts = (found, np.array([self.best, self.typical]))
        sums = [zlib.crc32(np.ascontiguousarray(part).tobytes()) for part in parts]
        own = self.space.fingerprint()[:16] + "".join(f"{value:08x}" for value in sums)
        return own if self.earlier is None else own + self.earlier.fingerprint()

    def refuse(self, place: str, decisions: int, trials: int) -> None:
        """Refuses an arm that cannot be run here.

        Raises:
            ValueError: more trials than a pool has, or a part of a space that has no parts.
        """
        pool, k = self.benchmark.pool, self.benchmark.space.num_decisions
        if pool is not None and trials > len(pool):
            raise ValueError(
                f"study.trials={trials} are more than the {len(pool)} records of {self.name}; write fewer"
            )
        nested = pool is None and not any(d.parents for d in self.space.decisions)
        if decisions and not nested:
            raise ValueError(
                f"{place}.decisions={decisions} has no meaning on {self.name}: its records are no grid, or its "
                f"decisions have conditions; write study.records=[nested/0]"
            )
        if decisions > k:
            raise ValueError(f"{place}.decisions={decisions} is more than the {k} of {self.name}")

    def part(self, decisions: int) -> "SearchTask":
        """The task with only its first decisions free; 0 is the whole task."""
        if not decisions or decisions == self.space.num_decisions:
            return self
        baseline = self.space.baseline
        kept = [
            d if i < decisions else d._replace(choices=(d.choices[baseline[i]],))
            for i, d in enumerate(self.space.decisions)
        ]
        free = (*baseline[:decisions], *(0 for _ in kept[decisions:]))
        return dataclasses.replace(self, space=Space(tuple(kept), tuple(free)))

    def answered(self, asked: Int[np.ndarray, "n k"], tried: set[int]) -> Int[np.ndarray, "n k"]:
        """The configurations that are tried for proposals: themselves, or the nearest untried ones of a pool."""
        pool = self.benchmark.pool
        if pool is None:
            return asked
        places = pool.nearest([self.space.decode(config) for config in asked], tried)
        tried.update(places)
        return pool.configs[places]

    def results(self, configs: Int[np.ndarray, "n k"]) -> Float[np.ndarray, "n 2"]:
        """Quality, between 0 (best) and 1 (median) and beyond, and logarithm of the cost."""
        found = self.benchmark.query([self.space.decode(config) for config in np.asarray(configs)])
        return np.stack([self._scaled(found[:, 0]), found[:, 1]], axis=1)

    def _scaled(self, losses: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
        return (losses - self.best) / (self.typical - self.best)

    def scaled_cost(self, cost: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
        """0 for the cheapest configuration of a table, 1 for the dearest."""
        assert self.whole is not None
        low, high = np.nanmin(self.whole[:, 1]), np.nanmax(self.whole[:, 1])
        return (cost - low) / max(high - low, 1e-12)

    @cached_property
    def hypervolume(self) -> float | None:
        """Of the whole table's front; None for what is no table."""
        if self.whole is None:
            return None
        return hypervolume(self._scaled(self.whole[:, 0]), self.scaled_cost(self.whole[:, 1]))


def search_task(benchmark: Benchmark) -> SearchTask:
    """A benchmark with its levels: exact for a table, else the known best and the median of random configurations.

    Raises:
        ValueError: nobody knows the best of it.
    """
    space, pool = benchmark.space, benchmark.pool
    if pool is not None or space.cardinality() <= WHOLE:
        configs = space.enumerate(WHOLE) if pool is None else pool.configs
        whole = ask_table(benchmark, configs)
        best, typical = float(np.nanmin(whole[:, 0])), float(np.nanmedian(whole[:, 0]))
        return SearchTask(benchmark, best, max(typical, np.nextafter(best, np.inf)), whole, space)
    known = levels(RESULTS / "bench_levels.csv")
    if benchmark.name in known:
        return SearchTask(benchmark, *known[benchmark.name], None, space)
    if benchmark.optimum is None:
        raise ValueError(
            f"the best of {benchmark.name} is not known; run python -m experiments.comparison.levels"
        )
    losses = ask_table(benchmark, np.asarray(space.sample(jax.random.key(0), SAMPLED)))[:, 0]
    return SearchTask(benchmark, benchmark.optimum, float(np.nanmedian(losses)), None, space)
