"""An objective whose trials are evaluated by the workers of a Ray cluster.

Each worker is an actor with a whole objective of its own, its data on its own device. The driver hands out
configurations, collects outcomes and alone writes the ledger. A worker that dies is replaced, and its trials are
evaluated elsewhere; a trial whose workers died ``attempts`` times has failed. The outcome of a trial does not depend on
the worker, so a search on a cluster proposes what the same search on one machine does.
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
from autorank.objectives.outcomes import lost_outcome

LOG = logging.getLogger("autorank")


class Workers(NamedTuple):
    """How many workers there are, and the resources of each."""

    address: str | None = None  # None: a local cluster; "auto" or host:port: an existing one
    num_workers: int = 2
    population: int = 1  # trials handed to a worker at a time
    num_cpus: float = 1.0  # of each worker
    num_gpus: float = 0.0
    attempts: int = 2
    trial_seconds: float | None = None  # a worker that takes longer for a trial is killed


class ClusterError(RuntimeError):
    """No worker can evaluate trials; the message says what to check."""


def connect(workers: Workers) -> None:
    """Joins the cluster or starts a local one; call it from the main thread, before JAX starts threads of its own.

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
            # Without "local", Ray joins whatever cluster was started on this machine last.
            ray.init(address="local", num_cpus=max(1, cores), include_dashboard=False)
    except ConnectionError as error:
        raise ClusterError(
            f"backend.address={workers.address}: no Ray cluster answers there ({error}); start one with "
            f"`ray start --head`, or write backend.address=null for a local one"
        ) from error


def distributed(local: Objective, make: Callable[[], Objective], workers: Workers) -> Objective:
    """``local`` with its trials evaluated on a cluster; costs, held-out test and export stay on the driver.

    Args:
        local: names, costs and windows; never trains a trial.
        make: builds the same objective inside a worker. Ray sends it there, so it must be importable there.
        workers: resources; `connect` was called with them.
    """
    evaluate = ClusterEvaluate(local, WorkerPool(make, workers), workers)
    return local._replace(evaluate=evaluate, stats=evaluate.stats)


class ClusterEvaluate:
    """`Evaluate` on a pool of workers, which start with the first call."""

    def __init__(self, local: Objective, pool: "WorkerPool", workers: Workers) -> None:
        self.local, self.pool, self.workers = local, pool, workers
        self._stats = ProgramStats(0, 0, 0.0)

    def __call__(
        self, configs: np.ndarray, seeds: Sequence[int], fidelity: float
    ) -> Iterator[tuple[int, Outcome]]:
        """Outcomes in the order in which the workers finish.

        Raises:
            ClusterError: a worker cannot build its objective.
        """
        self.pool.start()
        call = _Call(self, configs, seeds, fidelity)
        yield from call.outcomes()

    def stats(self) -> ProgramStats:
        """What compiling cost on all workers, as their outcomes tell."""
        return self._stats

    def count(self, outcome: Outcome) -> None:
        """Adds what a worker spent on compiling."""
        compiled = outcome.compile_seconds > 0
        self._stats = ProgramStats(
            self._stats.num_compiles + compiled,
            self._stats.num_hits + (not compiled),
            self._stats.compile_seconds + outcome.compile_seconds,
        )


class Worker:
    """Evaluates trials in a process of the cluster."""

    def __init__(self, make: Callable[[], Objective]) -> None:
        self._objective = make()

    def process(self) -> int:
        """The number of its process, for logs."""
        return os.getpid()

    def evaluate(
        self, configs: np.ndarray, seeds: list[int], fidelity: float
    ) -> list[tuple[int, Outcome]]:
        """All outcomes at once."""
        return list(self._objective.evaluate(configs, seeds, fidelity))


class WorkerPool:
    """The actors of a cluster; one that dies is replaced."""

    def __init__(self, make: Callable[[], Objective], workers: Workers) -> None:
        import ray  # pyright: ignore[reportMissingImports]

        names = ("XLA_FLAGS", "JAX_PLATFORMS")
        environment = {name: os.environ[name] for name in names if name in os.environ}
        self._actor = ray.remote(
            num_cpus=workers.num_cpus,
            num_gpus=workers.num_gpus,
            max_restarts=0,
            max_task_retries=0,
            runtime_env={"env_vars": environment},
        )(Worker)
        self._make, self._size = make, workers.num_workers
        self._actors: list[Any] = []

    def start(self) -> None:
        """Starts all workers, once.

        Raises:
            ClusterError: a worker cannot build its objective.
        """
        import ray  # pyright: ignore[reportMissingImports]
        from ray.exceptions import RayActorError  # pyright: ignore[reportMissingImports]

        if self._actors:
            return
        self._actors = [self._actor.remote(self._make) for _ in range(self._size)]
        try:
            processes = ray.get([actor.process.remote() for actor in self._actors])
        except RayActorError as error:
            self._actors = []
            raise ClusterError(
                f"a worker cannot build its objective: {str(error).strip().splitlines()[-1]}. The data's folder and "
                f"this package must be where the workers run"
            ) from error
        LOG.info("%d workers on the cluster (processes %s)", len(self._actors), processes)

    def actors(self) -> list[Any]:
        """The workers, all of them idle between two calls."""
        return list(self._actors)

    def replace(self, actor: Any) -> Any:
        """A new worker in place of one that is dead or was killed."""
        new = self._actor.remote(self._make)
        self._actors[self._actors.index(actor)] = new
        return new


class _Task(NamedTuple):
    """Trials that a worker is evaluating."""

    actor: Any
    chunk: list[int]  # indices of the call's configurations
    since: float  # monotonic seconds


class _Call:
    """One call of `ClusterEvaluate`: what waits, what runs, and how often each trial's worker died."""

    def __init__(
        self,
        cluster: ClusterEvaluate,
        configs: np.ndarray,
        seeds: Sequence[int],
        fidelity: float,
    ) -> None:
        self._cluster = cluster
        self._local, self._pool, self._workers = cluster.local, cluster.pool, cluster.workers
        self._configs = np.asarray(configs, np.int32)
        self._seeds, self._fidelity = [int(s) for s in seeds], fidelity
        count, size = len(self._configs), max(1, self._workers.population)
        self._waiting = deque(list(range(i, min(i + size, count))) for i in range(0, count, size))
        self._deaths = dict.fromkeys(range(count), 0)
        self._idle = self._pool.actors()
        self._running: dict[Any, _Task] = {}
        self._overdue: set[Any] = set()

    def outcomes(self) -> Iterator[tuple[int, Outcome]]:
        """Every trial's outcome, as it comes."""
        import ray  # pyright: ignore[reportMissingImports]

        try:
            while self._waiting or self._running:
                self._hand_out()
                ready, _ = ray.wait(list(self._running), num_returns=1, timeout=1.0)
                for task in ready:
                    yield from self._collect(task)
                self._kill_overdue()
        finally:
            # The search stopped early: nobody waits for what still runs.
            for task in self._running.values():
                ray.kill(task.actor)
                self._pool.replace(task.actor)

    def _hand_out(self) -> None:
        """Gives waiting trials to idle workers."""
        while self._waiting and self._idle:
            chunk, actor = self._waiting.popleft(), self._idle.pop()
            seeds = [self._seeds[i] for i in chunk]
            task = actor.evaluate.remote(self._configs[chunk], seeds, self._fidelity)
            self._running[task] = _Task(actor, chunk, time.monotonic())

    def _collect(self, task: Any) -> Iterator[tuple[int, Outcome]]:
        """The outcomes of a task that ended, or its trials back in the queue.

        An error of the objective itself is raised: it stops the search, as on one machine.
        """
        import ray  # pyright: ignore[reportMissingImports]
        from ray.exceptions import RayActorError, RayTaskError  # pyright: ignore[reportMissingImports]

        actor, chunk, _ = self._running.pop(task)
        try:
            found = ray.get(task)
        except RayTaskError:  # some are both, so this one comes first
            raise
        except RayActorError as error:
            late = f"took longer than {self._workers.trial_seconds} s"
            first = str(error).strip().splitlines()[0]
            yield from self._lost(actor, chunk, late if task in self._overdue else first)
        else:
            self._idle.append(actor)
            for j, outcome in found:
                self._cluster.count(outcome)
                yield chunk[j], outcome

    def _lost(self, actor: Any, chunk: list[int], reason: str) -> Iterator[tuple[int, Outcome]]:
        """Replaces a dead worker; its trials wait again, or have failed after too many attempts."""
        LOG.warning("a worker died with trials %s in hand: %s", chunk, reason)
        self._idle.append(self._pool.replace(actor))
        for i in chunk:
            self._deaths[i] += 1
            # It is not known which trial of a chunk is to blame, so they are retried one by one.
            if self._deaths[i] < self._workers.attempts:
                self._waiting.append([i])
            else:
                yield i, self._failed(i, reason)

    def _failed(self, i: int, reason: str) -> Outcome:
        cost = self._local.cost
        return lost_outcome(
            f"{self._deaths[i]} workers died; the last: {reason}",
            num_windows=self._local.num_windows,
            num_metrics=len(self._local.metrics),
            flops=float(cost(self._configs[i][None])[0]) if cost else math.nan,
            details={},
        )

    def _kill_overdue(self) -> None:
        """Kills workers that took too long; their tasks then end with an error."""
        import ray  # pyright: ignore[reportMissingImports]

        if self._workers.trial_seconds is None:
            return
        for task, (actor, chunk, since) in self._running.items():
            if time.monotonic() - since > self._workers.trial_seconds * len(chunk):
                self._overdue.add(task)
                ray.kill(actor)
