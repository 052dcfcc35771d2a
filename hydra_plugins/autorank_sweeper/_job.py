"""Runs a job in its process, the driver's or a worker's. Workers import this too: nothing heavy here.

A job holds a lock while it runs and leaves its result in a file. A result is therefore kept even if nobody waits for it
any more. A trial whose driver was killed is not run a second time beside the first: the next driver's job waits for the
lock and finds the result.
"""

import os
import signal
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import TaskFunction

from autorank.base.result import Result, described, of_error, read_result
from hydra_plugins.autorank_sweeper import _guard, _signals
from hydra_plugins.autorank_sweeper._kept import KeptResults, job_name
from hydra_plugins.autorank_sweeper._lock import Superseded, exclusive


class Failed(Exception):  # noqa: N818
    """The job failed, now or while its driver was gone; the text is the trial's reason.

    It replaces what the job raised or returned, which may not survive the way between two processes.
    """


class Interrupted(Exception):  # noqa: N818
    """The job ended by KeyboardInterrupt. Only the driver knows whether somebody stopped all jobs."""


class Job:
    """A task function that never runs twice at a time and whose result outlives its driver.

    It only calls the task until the sweep says where results go (`watch`).
    """

    def __init__(self, task: TaskFunction) -> None:
        self.task = task
        self.kept: KeptResults | None = None
        self.process: int | None = None  # the driver's
        # Parent of a pool's workers, which end after their job if it has died; None without a pool.
        self.parent: int | None = None

    def watch(self, folder: Path, ledger: str, driver: str, pool: bool) -> None:
        """Keeps results in ``folder`` from now on; jobs of earlier drivers that have not begun will not run.

        With ``pool``, workers are children of this process that would wait for more jobs after its end.

        Args:
            folder: of this ledger's results.
            ledger: its token.
            driver: a token of this driver alone.
            pool: see above.

        Raises:
            OSError: the folder cannot be written to.
        """
        self.process = os.getpid()
        self.parent = self.process if pool else None
        folder.mkdir(parents=True, exist_ok=True)
        self.kept = KeptResults(str(folder.resolve()), ledger, driver)
        self.kept.claim()

    def __call__(self, config: Any) -> Any:
        """Runs the job, or returns the result that it already has.

        Raises:
            Failed: the job gave no result; in the driver's process its exceptions are raised unchanged.
            Interrupted: the job was interrupted in a worker.
            Superseded: a later driver has taken over; the job was not run.
        """
        if self.kept is None:
            return self.task(config)
        name = job_name(HydraConfig.get().overrides.task)
        with exclusive(self.kept.lock_of(name)):
            found = self.kept.found(name)
            if found is not None:
                if found.failed:
                    raise Failed(found.failed)
                return _value_of(found)
            if self.kept.is_superseded():
                raise Superseded("another driver has taken this sweep over")
            if os.getpid() == self.process:
                return self._run_in_driver(config, name, self.kept)
            value = self._run_in_worker(config, name, self.kept)
            if self.parent not in (None, os.getppid()):
                os._exit(0)  # the workers of the next driver need its memory
            return value

    def found(self, name: str) -> Result | None:
        """The result that a job left behind; None if there is none."""
        return None if self.kept is None else self.kept.found(name)

    def forget(self, name: str) -> None:
        """Removes a job's files once its result is in the ledger."""
        if self.kept is not None:
            self.kept.forget(name)

    def _run_in_driver(self, config: Any, name: str, kept: KeptResults) -> Any:
        try:
            with _guard.restored(), _signals.job():
                value = self.task(config)
        except BaseException as error:
            if _signals.requested() is not None:
                raise  # the driver stops: not a failure, whatever the job made of the signal
            kept.keep(name, of_error(error))
            if isinstance(error, Exception):
                raise
            # sys.exit, KeyboardInterrupt, GeneratorExit, ... would end the driver.
            raise Failed(described(error)) from error
        result = read_result(value)
        if not result.failed or _signals.requested() is None:
            kept.keep(name, result)
        return value

    def _run_in_worker(self, config: Any, name: str, kept: KeptResults) -> Any:
        try:
            with _guard.restored(), _signals.stops((signal.SIGINT,)):
                value = self.task(config)
        except BaseException as error:
            if _is_exit_of_launcher(error):
                raise
            reason = described(error)
            if isinstance(error, KeyboardInterrupt) or _signals.requested() is not None:
                raise Interrupted(reason) from None
            # Other exceptions are not kept: a process that is asked to end because its driver is gone raises the same.
            if isinstance(error, Exception):
                kept.keep(name, Result(None, None, reason))
            raise Failed(reason) from None
        result = read_result(value)
        if result.failed and _signals.requested() is not None:
            raise Interrupted(result.failed)
        kept.keep(name, result)
        if result.failed:
            raise Failed(result.failed)
        return _value_of(result)


def _value_of(result: Result) -> float | tuple[float, float]:
    assert result.quality is not None
    return result.quality if result.cost is None else (result.quality, result.cost)


def _is_exit_of_launcher(error: BaseException) -> bool:
    """Whether a launcher's signal handler ends the process: submitit's to queue the job again, Ray's to cancel it."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    module = "" if trace is None else str(trace.tb_frame.f_globals.get("__name__"))
    return isinstance(error, SystemExit) and module.split(".")[0] in ("submitit", "ray")
