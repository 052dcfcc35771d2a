"""Writes what becomes of each started trial to the ledger: its result, its failure, or the loss of its worker."""

import logging
import time

from hydra.core.utils import JobReturn, JobStatus

from autorank.base.result import Result, first_line, of_error, read_result
from autorank.ledger.trial import Trial
from autorank.sweep.sweep import Sweep
from hydra_plugins.autorank_sweeper import _signals
from hydra_plugins.autorank_sweeper._attempts import Attempts
from hydra_plugins.autorank_sweeper._errors import cause, forget_frames, has_type, is_worker_death
from hydra_plugins.autorank_sweeper._job import Failed, Interrupted, Job
from hydra_plugins.autorank_sweeper._kept import job_name
from hydra_plugins.autorank_sweeper._lock import Superseded
from hydra_plugins.autorank_sweeper._progress import Progress
from hydra_plugins.autorank_sweeper._space import SweptSpace

LOG = logging.getLogger(__name__)
# Ctrl-C in a terminal reaches workers and driver, in either order: wait for the driver's own signal.
GRACE_SECONDS = 0.5


class Outcomes:
    """Records how trials end.

    Args:
        sweep: the ledger's.
        swept: writes trials as overrides.
        job: keeps results in files until they are in the ledger.
        attempts: counts the trials' starts and deaths.
        progress: logs each trial that has ended.
    """

    def __init__(
        self, sweep: Sweep, swept: SweptSpace, job: Job, attempts: Attempts, progress: Progress
    ) -> None:
        self.sweep, self.swept, self.job = sweep, swept, job
        self.attempts, self.progress = attempts, progress

    def returned(self, trial: Trial, job: JobReturn, started: float) -> None:
        """Records what the launcher returned for a trial, a result or the job's exception.

        Raises:
            KeyboardInterrupt, SystemExit: the driver was asked to stop, and the job failed by that.
            SweepStopped: too many trials fail.
        """
        value = job._return_value
        if job.status == JobStatus.COMPLETED:
            result = read_result(value)
        elif has_type(value, Superseded):
            self.died(trial, value, started, alone=True)  # this driver lost a race: run it again
            return
        elif has_type(value, Interrupted):
            time.sleep(GRACE_SECONDS)
            result = Result(None, None, first_line(value))
        elif has_type(value, Failed):
            result = Result(None, None, first_line(value))
        else:
            result = of_error(value)
        forget_frames(value)
        if result.failed:
            _signals.check()  # a job that was stopped has not failed
        self._finish(trial, result, started)

    def died(self, trial: Trial, error: BaseException, started: float, alone: bool) -> None:
        """Records that the launcher itself failed: the job's worker is gone, or its folder cannot be created.

        Crashes shared with other jobs do not count as attempts, since another job may have broken the pool. Each of
        them runs alone next time.

        Raises:
            KeyboardInterrupt, SystemExit: the driver was asked to stop.
            SweepStopped: too many trials fail.
        """
        if isinstance(error, KeyboardInterrupt):
            time.sleep(GRACE_SECONDS)
        _signals.check()
        used, limit = self.attempts.died(trial, first_line(error), alone), self.attempts.limit
        gone = is_worker_death(error)
        reason = first_line(error) if gone else cause(error)
        LOG.warning(
            "trial %d %s (%s): %s",
            trial.id - 1,
            "lost its worker" if gone else "could not be run",
            f"{used} of {limit} attempts" if alone else "as others did; it runs again alone",
            reason,
        )
        if used >= limit:
            what = "its worker died" if gone else "it could not be run"
            self.fail(trial, f"{what} in {used} attempts; the last time: {reason}", started)

    def adopt(self, trial: Trial) -> bool:
        """Records the result that a trial left behind while it had no driver; False if it left none."""
        result = self.job.found(job_name(self.swept.overrides(trial.config)))
        if result is not None:
            LOG.info("trial %d had ended while its driver was gone", trial.id - 1)
            self._finish(trial, result, None)
        return result is not None

    def fail(self, trial: Trial, reason: str, started: float | None = None) -> None:
        """Records a failed trial."""
        self._finish(trial, Result(None, None, reason), started)

    def _finish(self, trial: Trial, result: Result, started: float | None) -> None:
        seconds = None if started is None else round(time.time() - started, 3)
        try:
            self.progress(self.sweep.finish(trial, result._replace(details={"seconds": seconds})))
        finally:
            if self.sweep.has_ended(trial):
                self.job.forget(job_name(self.swept.overrides(trial.config)))
