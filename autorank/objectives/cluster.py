"""An objective whose trials are evaluated by the workers of a Ray cluster.

Each worker is an actor that holds a whole objective of its own (its data on its own device); the
driver hands out configurations, collects outcomes and alone writes the ledger. A worker that dies in
mid-trial is replaced and its trials are evaluated elsewhere; a trial that takes its worker along
``attempts`` times is a failed trial. Which worker evaluates a trial changes nothing about the
outcome, so a search on a cluster proposes what the same search on one machine does.
"""

import logging
import math
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from autorank.base.programs import ProgramStats
from autorank.objectives.base import Objective, Outcome

LOG = logging.getLogger("autorank")


class Workers(NamedTuple):
    """How many workers there are and what each gets."""

    address: str | None = None  # None: a local cluster; "auto" or host:port: an existing one
    num_workers: int = 2
    population: int = 1  # trials handed to a worker at a time
    num_cpus: float = 1.0  # of each worker
    num_gpus: float = 0.0
    attempts: int = 2
    trial_seconds: float | None = None  # a worker that takes longer is killed


class ClusterError(RuntimeError):
    """No worker can do the work; the message says what to look at."""


def connect(workers: Workers) -> None:
    """Joins the cluster or starts a local one. From the main thread, before JAX has threads of its own.

    Raises:
        ClusterError: Ray is not installed or the cluster cannot be reached.
    """
    try:
        import ray  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ClusterError("backend=ray needs Ray: pip install 'autorank[ray]'") from error
    if ray.is_initialized():
        return
    try:
        if workers.address:
            ray.init(address=workers.address)
        else:
            cores = math.ceil(workers.num_workers * workers.num_cpus)
            # "local": without it Ray joins whatever cluster was started on this machine last.
            ray.init(address="local", num_cpus=max(1, cores), include_dashboard=False)
    except ConnectionError as error:
        raise ClusterError(
            f"backend.address={workers.address}: no Ray cluster answers there ({error}); start one with "
            f"`ray start --head`, or write backend.address=null for a local one"
        ) from error


class _Worker:
    """Lives in a process of the cluster."""

    def __init__(self, make: Callable[[], Objective]) -> None:
        self.objective = make()

    def ready(self) -> int:
        """The process, for logs."""
        return os.getpid()

    def evaluate(
        self, configs: np.ndarray, seeds: list[int], fidelity: float
    ) -> list[tuple[int, Outcome]]:
        return list(self.objective.evaluate(configs, seeds, fidelity))


def distributed(local: Objective, make: Callable[[], Objective], workers: Workers) -> Objective:
    """``local`` with its ``evaluate`` farmed out; everything else (costs, held-out test, export) stays on the driver.

    Args:
        local: names, costs and windows; never trains a trial.
        make: builds the same objective inside a worker; sent by Ray, so it must be importable there.
        workers: see `Workers`; `connect` was called.
    """
    import ray  # pyright: ignore[reportMissingImports]
    from ray.exceptions import RayActorError, RayTaskError  # pyright: ignore[reportMissingImports]

    environment = {n: os.environ[n] for n in ("XLA_FLAGS", "JAX_PLATFORMS") if n in os.environ}
    actor = ray.remote(
        num_cpus=workers.num_cpus,
        num_gpus=workers.num_gpus,
        max_restarts=0,
        max_task_retries=0,
        runtime_env={"env_vars": environment},
    )(_Worker)
    pool: list[Any] = []
    spent = {"compiles": 0, "hits": 0, "seconds": 0.0}

    def start() -> None:
        """All workers, once; a worker that cannot be made stops the search at the beginning."""
        pool.extend(actor.remote(make) for _ in range(workers.num_workers))
        try:
            processes = ray.get([worker.ready.remote() for worker in pool])
        except RayActorError as error:
            pool.clear()
            raise ClusterError(
                f"a worker cannot build its objective: {str(error).strip().splitlines()[-1]}. The data's folder and "
                f"this package must be where the workers run"
            ) from error
        LOG.info("%d workers on the cluster (processes %s)", len(pool), processes)

    def lost(config: np.ndarray, reason: str) -> Outcome:
        q = len(local.metrics)
        flops = float(local.cost(config[None])[0]) if local.cost else math.nan
        curve = np.full((local.num_windows, q), np.nan)
        return Outcome(curve, (math.nan,) * q, flops, 0, 0.0, 0.0, reason, {})

    def evaluate(
        configs: np.ndarray, seeds: Sequence[int], fidelity: float
    ) -> Iterator[tuple[int, Outcome]]:
        configs, seeds = np.asarray(configs, np.int32), [int(s) for s in seeds]
        if not pool:
            start()
        size = max(1, workers.population)
        waiting = deque(
            list(range(i, min(i + size, len(configs)))) for i in range(0, len(configs), size)
        )
        deaths = dict.fromkeys(range(len(configs)), 0)
        idle = list(pool)
        running: dict[Any, tuple[Any, list[int], float]] = {}
        overdue: set[Any] = set()
        try:
            while waiting or running:
                while waiting and idle:
                    chunk, worker = waiting.popleft(), idle.pop()
                    job = worker.evaluate.remote(
                        configs[chunk], [seeds[i] for i in chunk], fidelity
                    )
                    running[job] = (worker, chunk, time.monotonic())
                ready, _ = ray.wait(list(running), num_returns=1, timeout=1.0)
                for job in ready:
                    worker, chunk, _ = running.pop(job)
                    try:
                        found = ray.get(job)
                    except RayTaskError:
                        raise  # the objective's own error: as on one machine, it stops the search
                    except RayActorError as error:
                        late = job in overdue
                        first = str(error).strip().splitlines()[0]
                        what = f"took longer than {workers.trial_seconds} s" if late else first
                        LOG.warning("a worker died with trials %s in hand: %s", chunk, what)
                        replacement = actor.remote(make)
                        pool[pool.index(worker)] = replacement
                        idle.append(replacement)
                        for i in chunk:
                            deaths[i] += 1
                            # A population's culprit is not known: from now on one by one.
                            if deaths[i] < workers.attempts:
                                waiting.append([i])
                            else:
                                yield (
                                    i,
                                    lost(configs[i], f"{deaths[i]} workers died; the last: {what}"),
                                )
                    else:
                        idle.append(worker)
                        for j, outcome in found:
                            compiled = outcome.compile_seconds > 0
                            spent["compiles" if compiled else "hits"] += 1
                            spent["seconds"] += outcome.compile_seconds
                            yield chunk[j], outcome
                if workers.trial_seconds is not None:
                    for job, (worker, chunk, since) in running.items():
                        if time.monotonic() - since > workers.trial_seconds * len(chunk):
                            overdue.add(job)
                            ray.kill(worker)
        finally:
            for worker, _, _ in running.values():  # the search stopped: nobody waits for these
                ray.kill(worker)
                pool[pool.index(worker)] = actor.remote(make)

    return local._replace(
        evaluate=evaluate,
        stats=lambda: ProgramStats(spent["compiles"], spent["hits"], spent["seconds"]),
    )
