"""Runs trials in rounds: a round ends with its slowest trial, and only then is the searcher asked again."""

import logging
import time
from collections.abc import Sequence

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher

from autorank.base.result import described, first_line
from autorank.ledger.trial import Trial
from autorank.sweep.sweep import Sweep
from hydra_plugins.autorank_sweeper import _signals
from hydra_plugins.autorank_sweeper._attempts import Attempts
from hydra_plugins.autorank_sweeper._launchers import in_process
from hydra_plugins.autorank_sweeper._outcomes import Outcomes
from hydra_plugins.autorank_sweeper._waiting import Waiting

LOG = logging.getLogger(__name__)


class Rounds:
    """Hands the launcher a batch of jobs at a time.

    Args:
        sweep: proposes.
        launcher: any; its ``launch`` returns when all its jobs have ended.
        waiting: which trials can be started.
        attempts: counts their starts.
        outcomes: records how they end.
        size: proposals of a round.
        most: jobs of a launch; None sets no limit.
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
        most: int | None,
    ) -> None:
        self.sweep, self.launcher, self.waiting = sweep, launcher, waiting
        self.attempts, self.outcomes = attempts, outcomes
        self.size, self.most = size, most
        # In the driver's own process jobs run one by one, so that each result is written at once.
        self.one_by_one = in_process(launcher)
        self.returns: list[list[JobReturn]] = []

    def run(self) -> None:
        """Runs what waits, and proposes when nothing waits any more, until all trials have ended."""
        while True:
            trials = self.waiting.startable()
            if trials:
                self._run_round(trials)
            elif not self.sweep.waiting() and not self.sweep.propose(self.size):
                return

    def _run_round(self, trials: Sequence[Trial]) -> None:
        for batch in consecutive(trials, self.most or len(trials)):
            single = self.one_by_one or any(map(self.attempts.is_suspect, batch))
            parts = [[t] for t in batch] if single else [batch]
            self.returns.append([r for part in parts for r in self._launch(part)])

    def _launch(self, batch: Sequence[Trial]) -> list[JobReturn]:
        batch = [t for t in batch if not self.outcomes.adopt(t)]
        if not batch:
            return []
        if any(b.id != batch[0].id + i for i, b in enumerate(batch)):
            return [r for part in consecutive(batch, len(batch)) for r in self._launch(part)]
        jobs = [self.outcomes.swept.overrides(t.config) for t in batch]
        self.attempts.started(batch)
        started = time.time()
        try:
            returns = list(self.launcher.launch(jobs, initial_job_idx=batch[0].id - 1))
            if len(returns) != len(batch):
                raise RuntimeError(
                    f"the launcher returned {len(returns)} results of {len(batch)} jobs"
                )
        except BaseException as error:
            return self._broken(batch, error, started)
        try:
            for trial, job in zip(batch, returns, strict=True):
                self.outcomes.returned(trial, job, started)
            _signals.check()
        except BaseException:
            self.attempts.interrupted([t for t in batch if not self.sweep.has_ended(t)])
            raise
        return returns

    def _broken(
        self, batch: Sequence[Trial], error: BaseException, started: float
    ) -> list[JobReturn]:
        """A launch that raised: the driver stops, or the jobs are started again one by one."""
        if _signals.requested() is not None:
            self.attempts.interrupted(batch)
            _signals.check()
        if len(batch) == 1:
            if self.waiting.composes(batch[0]):
                self.outcomes.died(batch[0], error, started, alone=True)
            return []
        LOG.warning(
            "a launch of %d jobs broke (%s); they are started again one by one",
            len(batch),
            first_line(error),
        )
        for trial in batch:
            self.attempts.died(trial, described(error), alone=False)
        return [r for trial in batch for r in self._launch([trial])]


def consecutive(trials: Sequence[Trial], most: int) -> list[list[Trial]]:
    """Batches of at most ``most`` trials of one round with consecutive ids, since a launch numbers its jobs in a row.

    Examples:
        >>> from types import SimpleNamespace
        >>> trials = [SimpleNamespace(id=i, round=0) for i in (1, 2, 3, 5)]
        >>> [[t.id for t in batch] for batch in consecutive(trials, 2)]
        [[1, 2], [3], [5]]
    """
    batches: list[list[Trial]] = []
    for trial in trials:
        last = batches[-1] if batches else []
        follows = last and trial.id == last[-1].id + 1 and trial.round == last[-1].round
        if follows and len(last) < most:
            last.append(trial)
        else:
            batches.append([trial])
    return batches
