"""Many runs of one searcher on one space as one program: an accelerator computes hundreds of them at a time.

Each run has the key, the noise and the file that it has alone. Its proposals are those of the device that computes
them.
"""

import json
import time
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from autorank.benchmarks.base import Benchmark
from autorank.benchmarks.catalogue import get, levels
from experiments.comparison.peers.catalogue import PEERS
from experiments.comparison.runs import (
    DATA,
    LEVELS,
    POINTS,
    Job,
    capacity_for,
    evaluated,
    losses_of,
    made,
    metrics_of,
)
from experiments.machine import device_name


def grouped(jobs: Sequence[Job], folder: Path, lanes: int) -> tuple[list[list[Job]], list[Job]]:
    """Groups of at most ``lanes`` runs that one program can compute, and the runs that go alone.

    Alone go peers, runs on a pool of recorded configurations, and those whose file is there already.
    """
    groups: dict[Any, list[Job]] = {}
    alone = []
    for job in jobs:
        benchmark = get(job.task, DATA)
        if job.searcher in PEERS or benchmark.pool is not None or job.path(folder).exists():
            alone.append(job)
        else:
            key = (job.searcher, benchmark.space, job.batch, job.trials)
            groups.setdefault(key, []).append(job)
    return [part for group in groups.values() for part in parts(group, lanes)], alone


def parts(jobs: Iterable[Job], size: int) -> Iterator[list[Job]]:
    """The jobs in lists of at most ``size``.

    Examples:
        >>> list(parts("abcde", 2))
        [['a', 'b'], ['c', 'd'], ['e']]
    """
    left = iter(jobs)
    while part := list(islice(left, size)):
        yield part


class Lane:
    """One of the runs: what it evaluates and the file that it writes."""

    def __init__(self, job: Job, folder: Path) -> None:
        self.job = job
        self.benchmark: Benchmark = get(job.task, DATA)
        best, typical = levels(LEVELS)[job.task]
        self.scale = typical - best
        self.metrics = metrics_of(job, self.benchmark)
        self.path = job.path(folder)
        self.lines: list[dict[str, Any]] = []

    def answer(self, configs: np.ndarray, told: int) -> np.ndarray:
        """Evaluates a batch ``[n, k]``: what the searcher is told of it, float32 ``[n, 2]``."""
        rows = [self.benchmark.space.decode(config) for config in configs]
        line = evaluated(self.job, self.benchmark, rows, told, self.scale)
        self.lines.append(line)
        return self.metrics(losses_of(line), line["cost"])

    def write(self) -> None:
        """Appends the lines since the last call to the file."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a") as stream:
            stream.writelines(json.dumps(line) + "\n" for line in self.lines)
        self.lines = []


def run_together(jobs: Sequence[Job], folder: Path, until: float) -> int:
    """Runs without a file, side by side; returns the number of trials of them all.

    Args:
        jobs: of one searcher, on tasks of one space, of equal batch and length.
        folder: of all runs.
        until: no batch is begun after this time (`time.time`).
    """
    import jax

    # An accelerator's quicker products are too coarse for a Cholesky factor.
    with jax.default_matmul_precision("highest"):
        return _run_together(jobs, folder, until)


def _run_together(jobs: Sequence[Job], folder: Path, until: float) -> int:
    import jax

    from autorank.base.programs import compiler_options

    lanes, first = [Lane(job, folder) for job in jobs], jobs[0]
    space, capacity = lanes[0].benchmark.space, capacity_for(first.trials)
    searcher = made(first.searcher, space, first.batch, capacity)
    options = compiler_options()
    init, ask, tell, judge = (
        jax.jit(jax.vmap(f), compiler_options=options)
        for f in (searcher.init, searcher.ask, searcher.tell, searcher.judge)
    )
    fold = jax.jit(jax.vmap(jax.random.fold_in, in_axes=(0, None)))
    seeds = np.array([lane.job.seed for lane in lanes], np.int32)
    keys = jax.jit(jax.vmap(lambda s: jax.random.fold_in(jax.random.key(20231107), s)))(seeds)
    states, done = init(keys), 0
    for told in range(0, first.trials, first.batch):
        if time.time() > until:
            break
        size = min(first.batch, first.trials - told)
        cpu, wall = time.process_time(), time.perf_counter()
        configs = np.asarray(ask(fold(keys, np.int32(told)), states).configs)[:, :size]
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        metrics = np.stack([lane.answer(c, told) for lane, c in zip(lanes, configs, strict=True)])
        states = jax.block_until_ready(tell(states, configs, metrics))
        share = {
            "cpu": round(cpu / len(lanes), 6),
            "wall": round(wall / len(lanes), 6),
            "tell_cpu": 0.0,
        }
        reached = any(told < point <= told + size for point in POINTS)
        believed = np.asarray(judge(states)) if reached else None
        for i, lane in enumerate(lanes):
            line = lane.lines[-1]
            line |= share | ({"device": device_name(), "lanes": len(lanes)} if told == 0 else {})
            if believed is not None and np.isfinite(believed[i]).any():
                line["recommended"] = int(np.nanargmin(believed[i]))
            if reached:
                lane.write()
        done += size * len(lanes)
    for lane in lanes:
        lane.write()
    return done
