"""Levels between which regret is measured: best known loss and the median of random configurations, per benchmark.

python -m experiments.comparison.levels        (a few minutes on one core; writes experiments/results/bench_levels.csv)

Tables and the planted functions have an exact minimum. For the surrogates the best of 30,000 random configurations is
improved by coordinate descent from the 20 best (all grid values of one decision after another, until nothing improves).
"""

import argparse
import csv
import os
import time
from pathlib import Path

import jax
import numpy as np

from autorank.benchmarks.base import Benchmark, ask_table
from autorank.benchmarks.catalogue import get, matching
from experiments.machine import RESULTS, ROOT

COLUMNS: tuple[str, ...] = ("benchmark", "best", "typical", "failed_share", "kind")
DATA = Path(os.environ.get("AUTORANK_SHARED_DATA", ROOT.parent / "shared" / "data"))


def measure(benchmark: Benchmark, num_random: int, num_starts: int) -> dict[str, str]:
    """Measures the row of one benchmark."""
    space = benchmark.space
    few = 4000 if benchmark.optimum is not None else num_random
    configs = np.asarray(space.sample(jax.random.key(0), few))
    losses = ask_table(benchmark, configs)[:, 0]
    typical = float(np.nanmedian(losses[:4000]))
    best, kind = benchmark.optimum, "exact"
    if best is None:
        order = np.argsort(np.where(np.isnan(losses), np.inf, losses))[:num_starts]
        best = min(descend(benchmark, configs[i]) for i in order)
        kind = "best known"
    return {
        "benchmark": benchmark.name,
        "best": repr(best),
        "typical": repr(typical),
        "failed_share": f"{np.isnan(losses[:4000]).mean():.4f}",
        "kind": kind,
    }


def descend(benchmark: Benchmark, config: np.ndarray) -> float:
    """Loss of the local optimum that one-decision changes reach from a configuration."""
    space, value = benchmark.space, np.inf
    while True:
        neighbours = np.repeat(config[None], int(space.num_choices.sum()), axis=0)
        at = 0
        for i, size in enumerate(space.num_choices):
            neighbours[at : at + size, i] = np.arange(size)
            at += size
        neighbours = np.unique(np.asarray(space.canonical(neighbours)), axis=0)
        losses = ask_table(benchmark, neighbours)[:, 0]
        i = int(np.nanargmin(losses))
        if not losses[i] < value - 1e-12:
            return float(value)
        config, value = neighbours[i], losses[i]


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", default="*")
    parser.add_argument("--random", type=int, default=30_000)
    parser.add_argument("--starts", type=int, default=20)
    parser.add_argument("--out", type=Path, default=RESULTS / "bench_levels.csv")
    options = parser.parse_args()
    rows: dict[str, dict[str, str]] = {}
    if options.out.exists():
        with options.out.open(newline="") as stream:
            rows = {r["benchmark"]: r for r in csv.DictReader(stream)}
    # A recorded table says its levels itself.
    names = [name for name in matching(options.tasks) if not name.startswith("tables/")]
    for i, name in enumerate(names):
        started = time.perf_counter()
        rows[name] = measure(get(name, DATA), options.random, options.starts)
        seconds = time.perf_counter() - started
        print(f"{i + 1}/{len(names)} {rows[name]} {seconds:.1f} s", flush=True)
        with options.out.open("w", newline="") as stream:
            writer = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows.values())


if __name__ == "__main__":
    main()
