"""Recorded tables of random configurations as benchmarks: a `Pool`, with the curves of every seed as an objective."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from autorank.benchmarks.base import Benchmark, SliceCurves, Values
from autorank.objectives.base import Objective
from autorank.objectives.table import table_objective
from autorank.recorded.pool import Pool
from autorank.recorded.statistics import final_ne
from autorank.recorded.table import RecordedTable
from autorank.recorded.table_file import read_table


def recorded_benchmark(task: str, file: Path) -> Benchmark:
    """A pool of the random configurations of a table; see `autorank.recorded.table_file`.

    The loss is the final NE of the first seed, so that no configuration is judged by more luck than another: the mean
    of the last quarter of the windows, of the first metric. The cost is the forward FLOPs of a row. The baseline is
    in `curves`, with all seeds, but not in the pool.

    Raises:
        FileNotFoundError: the table does not exist.
        ValueError: it is not a table, or no configuration of it succeeded.
    """
    table = read_table(file)
    number, repeat = table.columns["number"], table.columns["repeat"]
    first = np.flatnonzero((number > 0) & (repeat == 0))
    losses, log_costs = final_ne(table)[first], np.log(table.columns["flops"][first])
    if not np.isfinite(losses).any():
        raise ValueError(
            f"{file}: all {len(first)} configurations failed; there is nothing to find"
        )
    pool = Pool(table.space, table.configs[first])

    def query(rows: Sequence[Values]) -> np.ndarray:
        places = [pool.place(values) for values in rows]
        return np.stack([losses[places], log_costs[places]], axis=1).reshape(-1, 2)

    best = float(np.nanmin(losses))
    curves = recorded_objective(f"tables/{task}", table)
    return Benchmark(
        *("tables", task, table.space, {}, query, best, pool, curves),
        slices=recorded_slices(table, first),
    )


def recorded_slices(table: RecordedTable, first: np.ndarray) -> SliceCurves | None:
    """The losses of slices of some runs of a table, and of the baseline's first one; None where none were kept."""
    if table.slices is None:
        return None
    number, repeat = table.columns["number"], table.columns["repeat"]
    baseline = np.flatnonzero((number == 0) & (repeat == 0))[0]
    losses = table.slices.astype(np.float64)
    return SliceCurves(losses[first], losses[baseline], np.array(table.about["slices"]["rows"]))


def recorded_objective(name: str, table: RecordedTable) -> Objective:
    """All runs of a table as an objective; a fidelity is a share of the windows, a seed picks a run."""
    return table_objective(
        name,
        table.configs,
        table.curves,
        table.columns["flops"],
        metrics=table.metrics,
        num_rows=table.about["num_rows"],
        failed=table.failed,
        measurable=table.measurable,
    )


def pool_levels(benchmark: Benchmark) -> tuple[float, float]:
    """The best and the median loss of a pool, between which regret is measured."""
    assert benchmark.pool is not None
    found = benchmark.query([benchmark.pool.values(i) for i in range(len(benchmark.pool))])[:, 0]
    typical = float(np.nanmedian(found))
    best = float(np.nanmin(found))
    # One configuration, or equal ones: regret has no unit of its own.
    return best, typical if typical > best else math.nextafter(best, math.inf)
