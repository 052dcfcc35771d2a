"""Running trials through a launcher: in rounds, or each on its own as soon as a worker is free.

A launcher's ``launch`` waits for its jobs. Where several may run side by side, each trial gets a thread of its own with
one ``launch`` of one job, so that nobody waits for the slowest.
"""

import logging
import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher

from autorank.ledger import Trial
from autorank.results import Result, first_line, of_error, read_result
from autorank.sweep import Sweep
from hydra_plugins.autorank_sweeper._job import Earlier, Job, Superseded, name_of
from hydra_plugins.autorank_sweeper._launchers import in_process

LOG = logging.getLogger(__name__)
IN_PROCESS_DEATHS = (
    3  # starts without an end after which a job in the driver's process is held to have killed it
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
        self.job, self.attempts = job, attempts
        self.in_process = in_process(launcher)
        self.returns: list[list[JobReturn]] = []
        self._lost = self._count("death")  # by trial: how often its worker died
        alone = [r for r in sweep.ledger.records("death") if r.get("alone", True)]
        self._deaths = Counter(r["trial"] for r in alone)  # of those, with nobody else to blame
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
                for part in [[t] for t in batch] if self.in_process else [batch]:
                    returns += self._launch(part)
                self.returns.append(returns)

    def _launch(self, batch: Sequence[Trial]) -> list[JobReturn]:
        batch = [t for t in batch if not self._adopted(t)]
        if not batch:
            return []
        if any(b.id != batch[0].id + i for i, b in enumerate(batch)):
            return [r for part in consecutive(batch, len(batch)) for r in self._launch(part)]
        jobs = [self.overrides(t) for t in batch]
        self._started(batch)
        started = time.time()
        try:
            returns = list(self.launcher.launch(jobs, initial_job_idx=batch[0].id - 1))
        except Exception as error:
            if self.in_process:  # no worker that could have died: a full disk, a broken config
                self._interrupted(batch)
                raise
            if len(batch) > 1:
                LOG.warning(
                    "a launch of %d jobs broke (%s); they are started again one by one",
                    len(batch),
                    first_line(error),
                )
                return [r for trial in batch for r in self._launch([trial])]
            self._died(batch[0], error, started, alone=True)
            return []
        except BaseException:
            self._interrupted(batch)
            raise
        for trial, job in zip(batch, returns, strict=True):
            self._ended(trial, job, started)
        return returns

    # --- each on its own -------------------------------------------------------------------------

    def in_flight(self, size: int, shared_fate: bool) -> None:
        """Keeps ``size`` trials running; asks with the others pending.

        With ``shared_fate`` (a pool that breaks as a whole) a trial that may have broken it runs alone afterwards.
        """
        done: queue.SimpleQueue[tuple[Trial, Any, float]] = queue.SimpleQueue()
        running: dict[int, Trial] = {}
        accompanied: set[int] = set()  # of those running: had company at any time since their start

        def work(trial: Trial, job: list[str]) -> None:
            started = time.time()
            try:
                result: Any = self.launcher.launch([job], initial_job_idx=trial.id - 1)[0]
            except BaseException as error:
                result = error
            done.put((trial, result, started))

        def start(trial: Trial) -> None:
            self._started([trial])
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
                suspects = [t for t in waiting if self._lost.get(t.id)] if shared_fate else []
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
                alone = trial.id not in accompanied
                accompanied.discard(trial.id)
                if isinstance(result, JobReturn):
                    self.returns.append([result])
                    self._ended(trial, result, started)
                elif isinstance(result, Exception):
                    self._died(trial, result, started, alone)
                else:
                    raise result
        except BaseException:
            self._interrupted(list(running.values()))
            raise

    # --- what became of it -----------------------------------------------------------------------

    def _ended(self, trial: Trial, job: JobReturn, started: float) -> None:
        if job.status == JobStatus.COMPLETED:
            result = read_result(job._return_value)
        elif _is(job._return_value, Superseded):
            self._died(trial, job._return_value, started, alone=True)  # a late one; run it again
            return
        elif _is(job._return_value, Earlier):
            result = Result(None, None, str(job._return_value))
        else:
            result = of_error(job._return_value)
        self._finish(trial, result, started)

    def _adopted(self, trial: Trial) -> bool:
        """Whether the trial had ended while no driver was there to see it; then that is its result."""
        result = self.job.found(name_of(self.overrides(trial)))
        if result is not None:
            LOG.info("trial %d had ended while its driver was gone", trial.id - 1)
            self._finish(trial, result, None)
        return result is not None

    def _died(self, trial: Trial, error: BaseException, started: float, alone: bool) -> None:
        """The launcher itself failed: the job's worker is gone.

        A death in company is nobody's attempt: another job may have broken the pool. Each of them runs alone next.
        """
        lost = self._lost[trial.id] = self._lost.get(trial.id, 0) + 1
        self._deaths[trial.id] += alone
        deaths = self._deaths[trial.id]
        LOG.warning(
            "trial %d lost its worker (%s): %s",
            trial.id - 1,
            f"{deaths} of {self.attempts} attempts"
            if alone
            else "as others did; it runs again alone",
            first_line(error),
        )
        record = {"trial": trial.id, "error": first_line(error), "alone": alone}
        self.sweep.ledger.record("death", f"{trial.id}-{lost}", record)
        if deaths >= self.attempts:
            reason = f"its worker died in {deaths} attempts; the last time: {first_line(error)}"
            self._finish(trial, Result(None, None, reason), started)

    def _finish(self, trial: Trial, result: Result, started: float | None) -> None:
        seconds = None if started is None else round(time.time() - started, 3)
        try:
            self.report(self.sweep.finish(trial, result._replace(details={"seconds": seconds})))
        finally:
            if self.sweep.has_ended(trial):
                self.job.forget(name_of(self.overrides(trial)))

    def _composable(self, trials: Sequence[Trial]) -> list[Trial]:
        """Trials whose overrides make a config; the others fail. The very first must compose: a typo is no result."""
        good = []
        for trial in trials:
            if trial.id in self._composed:
                good.append(trial)
                continue
            try:
                self.composes(self.overrides(trial))
            except Exception as error:
                if trial.id == 1:
                    raise
                reason = f"its config cannot be composed: {first_line(error)}"
                self._finish(trial, Result(None, None, reason), time.time())
            else:
                self._composed.add(trial.id)
                good.append(trial)
        return good

    def _startable(self, trials: Sequence[Trial]) -> list[Trial]:
        """Trials that have not taken the driver's process with them again and again."""
        if not self.in_process:
            return list(trials)
        starts = self._count("start")
        stops = self._count("interrupt")
        good = []
        for trial in trials:
            if starts.get(trial.id, 0) - stops.get(trial.id, 0) >= IN_PROCESS_DEATHS:
                reason = f"the process that ran it ended {IN_PROCESS_DEATHS} times without a result"
                self._finish(trial, Result(None, None, reason), time.time())
            else:
                good.append(trial)
        return good

    def _count(self, kind: str) -> dict[int, int]:
        counts: dict[int, int] = {}
        for record in self.sweep.ledger.records(kind):
            counts[record["trial"]] = counts.get(record["trial"], 0) + 1
        return counts

    def _started(self, trials: Sequence[Trial]) -> None:
        if self.in_process:
            self._note("start", trials)

    def _interrupted(self, trials: Sequence[Trial]) -> None:
        if self.in_process:
            self._note("interrupt", trials)

    def _note(self, kind: str, trials: Sequence[Trial]) -> None:
        number = len(self.sweep.ledger.records(kind))
        for i, trial in enumerate(trials):
            self.sweep.ledger.record(kind, str(number + i), {"trial": trial.id})


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
