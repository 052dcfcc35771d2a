"""Running trials through a launcher: in rounds, or each on its own as soon as a worker is free.

A launcher's ``launch`` waits for its jobs. Where several may run side by side, each trial gets a thread of its own with
one ``launch`` of one job, so that nobody waits for the slowest.
"""

import contextlib
import logging
import queue
import re
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher

from autorank.base.result import Result, described, first_line, of_error, read_result
from autorank.ledger.trial import Trial
from autorank.sweep.sweep import Sweep
from hydra_plugins.autorank_sweeper import _signals
from hydra_plugins.autorank_sweeper._attempts import Attempts
from hydra_plugins.autorank_sweeper._job import Failed, Interrupted, Job, Superseded, name_of
from hydra_plugins.autorank_sweeper._launchers import in_process

LOG = logging.getLogger(__name__)
GRACE_SECONDS = 0.5  # Ctrl-C in a terminal reaches workers and driver, one of them first
# What launchers raise where a worker is gone; by name, as none of them need be installed.
WORKER_DEATHS = (
    "TerminatedWorkerError",  # joblib
    "BrokenProcessPool",
    "ShutdownExecutorError",
    "UncompletedJobError",  # submitit
    "WorkerCrashedError",  # Ray
    "NodeDiedError",
    "OutOfMemoryError",
    "LocalRayletDiedError",
    "Superseded",
)


class Driver:
    """Launches trials and writes down what becomes of them."""

    def __init__(
        self,
        sweep: Sweep,
        launcher: Launcher,
        overrides: Callable[[Trial], list[str]],
        composes: Callable[[list[str]], None],
        job: Job,
        *,
        attempts: int,
        report: Callable[[Trial], None],
    ) -> None:
        self.sweep, self.launcher = sweep, launcher
        self.overrides, self.composes, self.report = overrides, composes, report
        self.job = job
        self.in_process = in_process(launcher)
        self.attempts = Attempts(sweep.ledger, attempts, self.in_process)
        self.returns: list[list[JobReturn]] = []
        self._composed: set[int] = set()

    # --- rounds ----------------------------------------------------------------------------------

    def rounds(self, batch_size: int, max_batch_size: int | None) -> None:
        """Asks only when nothing is left to run."""
        while True:
            waiting = self._composable(self._startable(self.sweep.waiting()))
            if not waiting:
                if self.sweep.waiting():
                    continue
                if not self.sweep.propose(batch_size):
                    return
                continue
            for batch in consecutive(waiting, max_batch_size or len(waiting)):
                returns: list[JobReturn] = []
                # In the driver's own process one by one, so that each result is written at once.
                single = self.in_process or any(map(self.attempts.is_suspect, batch))
                for part in [[t] for t in batch] if single else [batch]:
                    returns += self._launch(part)
                self.returns.append(returns)

    def _launch(self, batch: Sequence[Trial]) -> list[JobReturn]:
        batch = [t for t in batch if not self._adopted(t)]
        if not batch:
            return []
        if any(b.id != batch[0].id + i for i, b in enumerate(batch)):
            return [r for part in consecutive(batch, len(batch)) for r in self._launch(part)]
        jobs = [self.overrides(t) for t in batch]
        self.attempts.started(batch)
        started = time.time()
        try:
            returns = list(self.launcher.launch(jobs, initial_job_idx=batch[0].id - 1))
            if len(returns) != len(batch):
                raise RuntimeError(f"the launcher gave {len(returns)} results of {len(batch)} jobs")
        except BaseException as error:
            if _signals.requested() is not None:
                self.attempts.interrupted(batch)
                _signals.check()
            if len(batch) > 1:
                LOG.warning(
                    "a launch of %d jobs broke (%s); they are started again one by one",
                    len(batch),
                    first_line(error),
                )
                for trial in batch:
                    self.attempts.died(trial, described(error), alone=False)
                return [r for trial in batch for r in self._launch([trial])]
            self._died(batch[0], error, started, alone=True)
            return []
        try:
            for trial, job in zip(batch, returns, strict=True):
                self._ended(trial, job, started)
            _signals.check()
        except BaseException:
            self.attempts.interrupted([t for t in batch if not self.sweep.has_ended(t)])
            raise
        return returns

    # --- each on its own -------------------------------------------------------------------------

    def in_flight(self, size: int, shared_fate: bool) -> None:
        """Keeps ``size`` trials running; asks with the others pending.

        With ``shared_fate`` (a pool that breaks as a whole) a trial that may have broken it runs alone afterwards.
        """
        done: queue.SimpleQueue[tuple[Trial, Any, float]] = queue.SimpleQueue()
        running: dict[int, Trial] = {}
        ended: list[Trial] = []  # the last one to end, until that is in the ledger
        accompanied: set[int] = set()  # of those running: had company at any time since their start

        def work(trial: Trial, job: list[str]) -> None:
            started = time.time()
            try:
                result: Any = self.launcher.launch([job], initial_job_idx=trial.id - 1)[0]
            except BaseException as error:
                result = error
            done.put((trial, result, started))

        def start(trial: Trial) -> None:
            self.attempts.started([trial])
            running[trial.id] = trial
            if shared_fate and len(running) > 1:
                accompanied.update(running)
            arguments = (trial, self.overrides(trial))
            # Daemons: an interrupted driver does not wait for its jobs.
            threading.Thread(target=work, args=arguments, daemon=True).start()

        try:
            while True:
                waiting = [
                    t
                    for t in self._composable(self._startable(self.sweep.waiting()))
                    if t.id not in running and not self._adopted(t)
                ]
                suspects = [t for t in waiting if self.attempts.is_suspect(t)]
                suspects += [t for t in waiting if shared_fate and self.attempts.lost[t.id]]
                if suspects:
                    if not running:
                        start(suspects[0])
                else:
                    for trial in waiting[: size - len(running)]:
                        start(trial)
                    room = size - len(running)
                    if room > 0 and self.sweep.propose(room):
                        continue
                if not running:
                    if self.sweep.waiting():
                        continue
                    return
                trial, result, started = done.get()
                del running[trial.id]
                ended = [trial]
                alone = trial.id not in accompanied
                accompanied.discard(trial.id)
                if isinstance(result, JobReturn):
                    self.returns.append([result])
                    self._ended(trial, result, started)
                else:
                    self._died(trial, result, started, alone)
        except BaseException:
            left = [t for t in ended if not self.sweep.has_ended(t)]
            self.attempts.interrupted([*running.values(), *left])
            raise

    # --- what became of it -----------------------------------------------------------------------

    def _ended(self, trial: Trial, job: JobReturn, started: float) -> None:
        value = job._return_value
        if job.status == JobStatus.COMPLETED:
            result = read_result(value)
        elif _is(value, Superseded):
            self._died(trial, value, started, alone=True)  # a late one; run it again
            return
        elif _is(value, Interrupted):
            time.sleep(GRACE_SECONDS)  # the driver's own signal would end this
            result = Result(None, None, first_line(value))
        elif _is(value, Failed):
            result = Result(None, None, first_line(value))
        else:
            result = of_error(value)
        _forget_frames(value)
        if result.failed:
            _signals.check()  # a job that was stopped has not failed
        self._finish(trial, result, started)

    def _adopted(self, trial: Trial) -> bool:
        """Whether the trial had ended while no driver was there to see it; then that is its result."""
        result = self.job.found(name_of(self.overrides(trial)))
        if result is not None:
            LOG.info("trial %d had ended while its driver was gone", trial.id - 1)
            self._finish(trial, result, None)
        return result is not None

    def _died(self, trial: Trial, error: BaseException, started: float, alone: bool) -> None:
        """The launcher itself failed: the job's worker is gone, or its folder cannot be made.

        A death in company is nobody's attempt: another job may have broken the pool. Each of them runs alone next.
        """
        if isinstance(error, KeyboardInterrupt):
            time.sleep(GRACE_SECONDS)
        _signals.check()
        deaths = self.attempts.died(trial, first_line(error), alone)
        gone = type(error).__name__ in WORKER_DEATHS
        LOG.warning(
            "trial %d %s (%s): %s",
            trial.id - 1,
            "lost its worker" if gone else "could not be run",
            f"{deaths} of {self.attempts.attempts} attempts"
            if alone
            else "as others did; it runs again alone",
            first_line(error) if gone else _cause(error),
        )
        if deaths >= self.attempts.attempts:
            what = "its worker died" if gone else "it could not be run"
            last = first_line(error) if gone else _cause(error)
            reason = f"{what} in {deaths} attempts; the last time: {last}"
            self._finish(trial, Result(None, None, reason), started)

    def _finish(self, trial: Trial, result: Result, started: float | None) -> None:
        seconds = None if started is None else round(time.time() - started, 3)
        try:
            self.report(self.sweep.finish(trial, result._replace(details={"seconds": seconds})))
        finally:
            if self.sweep.has_ended(trial):
                self.job.forget(name_of(self.overrides(trial)))

    def _composable(self, trials: Sequence[Trial]) -> list[Trial]:
        """Trials whose overrides make a config; the others fail. That some do was seen before the sweep began."""
        good = []
        for trial in trials:
            if trial.id in self._composed:
                good.append(trial)
                continue
            try:
                self.composes(self.overrides(trial))
            except Exception as error:
                reason = f"its config cannot be composed: {first_line(error)}"
                self._finish(trial, Result(None, None, reason), time.time())
            else:
                self._composed.add(trial.id)
                good.append(trial)
        return good

    def _startable(self, trials: Sequence[Trial]) -> list[Trial]:
        """Trials that have not taken the driver with them again and again."""
        good = []
        for trial in trials:
            reason = self.attempts.given_up(trial)
            if reason and not self._adopted(trial):
                self._finish(trial, Result(None, None, reason), None)
            elif not reason:
                good.append(trial)
        return good


def _cause(error: BaseException) -> str:
    """An error as a reason; of one that holds (Ray) or quotes (submitit) what the worker raised, that."""
    with contextlib.suppress(Exception):
        cause = getattr(error, "cause", None)
        if isinstance(cause, BaseException):
            return described(cause)
        lines = str(error).splitlines()
        raised = [line for line in lines if re.match(r"[A-Za-z_][\w.]*: ", line)]
        if raised and any(line.startswith("Traceback") for line in map(str.strip, lines)):
            return first_line(raised[-1])
    return described(error)


def _forget_frames(error: object) -> None:
    """A traceback holds all that a failed job had in memory."""
    if isinstance(error, BaseException):
        error.__traceback__ = error.__cause__ = error.__context__ = None


def _is(error: object, kind: type) -> bool:
    """By name: it may have come from a process that loaded the plugin anew."""
    return type(error).__name__ == kind.__name__


def consecutive(trials: Sequence[Trial], most: int) -> list[list[Trial]]:
    """Batches of at most ``most`` trials with consecutive numbers, as job numbers are."""
    batches: list[list[Trial]] = []
    for trial in trials:
        last = batches[-1] if batches else []
        if (
            last
            and trial.id == last[-1].id + 1
            and trial.round == last[-1].round
            and len(last) < most
        ):
            last.append(trial)
        else:
            batches.append([trial])
    return batches
