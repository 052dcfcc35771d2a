"""Compiling ahead: threads train the programs that are ready and compile the next ones meanwhile."""

import threading
from collections import Counter, deque
from collections.abc import Callable, Generator, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from queue import SimpleQueue
from typing import Any, NamedTuple

from autorank.base.jax_settings import own_settings


class Job(NamedTuple):
    """One program and what is trained with it; both functions run in threads."""

    program: str  # jobs of one program wait for a single compilation, without occupying a thread
    # Returns the argument of `train`. Every later job of the program calls it again and hits the cache.
    compile: Callable[[], Any]
    # Results, and jobs to add. An iterator's results go out as they come, and None is left out: it is a moment at which
    # the work may stop. The jobs are read at its end.
    train: Callable[[Any], tuple[Iterable[Any], Sequence["Job"]]]
    lane: Hashable = ""  # what it occupies while it trains, a key of `run_jobs`' lanes


class Lane(NamedTuple):
    """How many jobs may train side by side in one place."""

    slots: int
    # Whether threads with nothing to compile may exceed it. A device that merely queues more work allows that; one
    # whose memory cannot hold another job does not.
    elastic: bool = False


def run_jobs(
    jobs: Sequence[Job],
    workers: int,
    lanes: Mapping[Hashable, Lane],
    settings: Callable[[], AbstractContextManager[None]] = own_settings,
) -> Iterator[Any]:
    """Results in the order in which they come; training goes before compiling, in at most ``workers`` threads.

    Each thread works within ``settings``, which JAX keeps per thread. An error of a job stops all jobs and is raised
    here. A caller that stops iterating waits only for what is under way.

    Examples:
        >>> jobs = [Job(name, name.upper, lambda compiled: ([compiled], [])) for name in ("a", "b")]
        >>> sorted(run_jobs(jobs, workers=2, lanes={}))
        ['A', 'B']
    """
    queue = _Queue(jobs, lanes)

    def work() -> None:
        with settings():
            queue.work()

    threads = [threading.Thread(target=work, daemon=True) for _ in range(max(1, workers))]
    for thread in threads:
        thread.start()
    try:
        ended = 0
        while ended < len(threads):
            kind, value = queue.results.get()
            if kind == "error":
                raise value
            if kind == "end":
                ended += 1
            else:
                yield value
    finally:
        queue.stop()
        for thread in threads:
            thread.join()


class _Queue:
    """The jobs of one call, shared by its threads."""

    def __init__(self, jobs: Sequence[Job], lanes: Mapping[Hashable, Lane]) -> None:
        self.results: SimpleQueue[tuple[str, Any]] = SimpleQueue()
        self._lanes, self._changed = lanes, threading.Condition()
        self._new: deque[Job] = deque()  # the first job of each program that is not being compiled
        self._waiting: dict[str, list[Job]] = {}  # later jobs of a program that is not ready
        self._compiled: set[str] = set()
        self._ready: deque[tuple[Job, Callable[[], Any]]] = deque()
        self._training: Counter[Hashable] = Counter()
        self._unfinished = 0
        self._stopped = False
        self._add(jobs)

    def _add(self, jobs: Sequence[Job]) -> None:
        for job in jobs:
            self._unfinished += 1
            if job.program in self._compiled:
                self._ready.append((job, job.compile))
            elif job.program in self._waiting:
                self._waiting[job.program].append(job)
            else:
                self._waiting[job.program] = []
                self._new.append(job)

    def stop(self) -> None:
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def work(self) -> None:
        try:
            while (found := self._next()) is not None:
                job, prepared = found
                if prepared is None:
                    self._compile(job)
                else:
                    self._train(job, prepared)
        except BaseException as error:  # noqa: BLE001  raised by `run_jobs`
            self.stop()
            self.results.put(("error", error))
        self.results.put(("end", None))

    def _next(self) -> tuple[Job, Callable[[], Any] | None] | None:
        """A job to train, or one to compile (None beside it), or None at the end."""
        with self._changed:
            while not self._stopped and self._unfinished:
                for strict in (True, False):
                    for i, (job, _) in enumerate(self._ready):
                        lane = self._lanes.get(job.lane, Lane(1, True))
                        full = self._training[job.lane] >= lane.slots
                        if not full or (not strict and lane.elastic):
                            found = self._ready[i]
                            del self._ready[i]
                            self._training[job.lane] += 1
                            return found
                    if self._new:
                        return self._new.popleft(), None
                self._changed.wait()
            return None

    def _compile(self, job: Job) -> None:
        prepared = job.compile()
        with self._changed:
            self._compiled.add(job.program)
            self._ready.append((job, lambda: prepared))
            self._ready += [(other, other.compile) for other in self._waiting.pop(job.program)]
            self._changed.notify_all()

    def _train(self, job: Job, prepared: Callable[[], Any]) -> None:
        results, more = job.train(prepared())
        try:
            for result in results:
                if result is not None:
                    self.results.put(("result", result))
                if self._stopped:
                    break
        finally:
            if isinstance(results, Generator):
                results.close()
        with self._changed:
            self._training[job.lane] -= 1
            self._add(more)
            self._unfinished -= 1
            self._changed.notify_all()
