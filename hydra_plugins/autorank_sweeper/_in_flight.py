"""Keeps a number of trials running: a new one starts as soon as another has ended, so that none waits for the slowest.

A launcher's ``launch`` waits for its jobs. Each trial therefore has a thread of its own, which launches one job.
"""

import queue
import threading
import time
from collections.abc import Sequence
from typing import NamedTuple

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher

from autorank.ledger.trial import Trial
from autorank.sweep.sweep import Sweep
from hydra_plugins.autorank_sweeper import _signals
from hydra_plugins.autorank_sweeper._attempts import Attempts
from hydra_plugins.autorank_sweeper._launchers import is_pool
from hydra_plugins.autorank_sweeper._outcomes import Outcomes
from hydra_plugins.autorank_sweeper._waiting import Waiting

# The longest wait before signals are looked for.
LOOK_SECONDS = 1.0


class Ended(NamedTuple):
    """A launch that has ended."""

    trial: Trial
    result: JobReturn | BaseException
    started: float  # seconds since the epoch


class InFlight:
    """Launches trials side by side and asks the searcher while others are pending.

    Args:
        sweep: proposes.
        launcher: one whose ``launch`` may be called from several threads.
        waiting: which trials can be started.
        attempts: counts their starts.
        outcomes: records how they end.
        size: trials that run at a time.
    """

    def __init__(
        self,
        sweep: Sweep,
        launcher: Launcher,
        waiting: Waiting,
        attempts: Attempts,
        outcomes: Outcomes,
        *,
        size: int,
    ) -> None:
        self.sweep, self.launcher, self.waiting = sweep, launcher, waiting
        self.attempts, self.outcomes, self.size = attempts, outcomes, size
        # A pool breaks as a whole: a trial that may have broken it runs alone afterwards.
        self.pool = is_pool(launcher)
        self.returns: list[list[JobReturn]] = []
        self._ended: queue.SimpleQueue[Ended] = queue.SimpleQueue()
        self._running: dict[int, Trial] = {}
        self._accompanied: set[int] = set()  # running trials that shared the pool since their start

    def run(self) -> None:
        """Runs trials until all have ended.

        Raises:
            BaseException: whatever stops the driver; the running trials are recorded as interrupted first.
        """
        last: list[Trial] = []
        try:
            while True:
                self._start_trials()
                if self._running:
                    ended = self._next()
                    del self._running[ended.trial.id]
                    last = [ended.trial]
                    self._record(ended)
                elif not self.sweep.waiting():
                    return
        except BaseException:
            unrecorded = [t for t in last if not self.sweep.has_ended(t)]
            self.attempts.interrupted([*self._running.values(), *unrecorded])
            raise

    def _next(self) -> Ended:
        """Waits for the next launch to end.

        Python runs signal handlers in this thread only. A signal that another thread receives, or this one as it is
        about to wait, does not wake it; so it wakes by itself. What a handler raised may also have been lost, for
        instance in a callback of the garbage collector; so it asks.

        Raises:
            KeyboardInterrupt, SystemExit: the driver was asked to stop.
        """
        while True:
            try:
                return self._ended.get(timeout=LOOK_SECONDS)
            except queue.Empty:
                _signals.check()

    def _start_trials(self) -> None:
        """Starts as many trials as there is room for, proposing new ones if too few wait."""
        while True:
            waiting = [
                t
                for t in self.waiting.startable()
                if t.id not in self._running and not self.outcomes.adopt(t)
            ]
            suspects = self._suspects(waiting)
            if suspects:
                if not self._running:
                    self._start(suspects[0])
                return
            for trial in waiting[: self.size - len(self._running)]:
                self._start(trial)
            room = self.size - len(self._running)
            if room < 1 or not self.sweep.propose(room):
                return

    def _suspects(self, trials: Sequence[Trial]) -> list[Trial]:
        """Trials that must run alone, most suspect first."""
        found = [t for t in trials if self.attempts.is_suspect(t)]
        return found + [t for t in trials if self.pool and self.attempts.deaths(t)]

    def _start(self, trial: Trial) -> None:
        self.attempts.started([trial])
        self._running[trial.id] = trial
        if self.pool and len(self._running) > 1:
            self._accompanied.update(self._running)
        job = self.outcomes.swept.overrides(trial.config)
        # Daemons: an interrupted driver does not wait for its jobs.
        threading.Thread(target=self._launch, args=(trial, job), daemon=True).start()

    def _launch(self, trial: Trial, job: list[str]) -> None:
        """Runs in a thread of its own."""
        started = time.time()
        try:
            result = self.launcher.launch([job], initial_job_idx=trial.id - 1)[0]
        except BaseException as error:
            result = error
        self._ended.put(Ended(trial, result, started))

    def _record(self, ended: Ended) -> None:
        alone = ended.trial.id not in self._accompanied
        self._accompanied.discard(ended.trial.id)
        if isinstance(ended.result, JobReturn):
            self.returns.append([ended.result])
            self.outcomes.returned(ended.trial, ended.result, ended.started)
        else:
            self.outcomes.died(ended.trial, ended.result, ended.started, alone)
