"""Which of the proposed trials can be started now."""

import time

from autorank.base.result import first_line
from autorank.ledger.trial import Trial
from autorank.sweep.sweep import Sweep
from hydra_plugins.autorank_sweeper._app import App
from hydra_plugins.autorank_sweeper._attempts import Attempts
from hydra_plugins.autorank_sweeper._outcomes import Outcomes
from hydra_plugins.autorank_sweeper._space import SweptSpace


class Waiting:
    """Trials without a result that may be started; those that may not are recorded as failed.

    Args:
        sweep: proposes.
        swept: writes trials as overrides.
        app: composes their configs.
        attempts: counts their starts.
        outcomes: records those that may not be started.
        ahead: whether configs are composed before their trials start, so that none takes a worker, or breaks a launch
            of several, in vain. Otherwise the launch is the first to compose them, in this process.
    """

    def __init__(
        self,
        sweep: Sweep,
        swept: SweptSpace,
        app: App,
        attempts: Attempts,
        outcomes: Outcomes,
        *,
        ahead: bool,
    ) -> None:
        self.sweep, self.swept, self.app = sweep, swept, app
        self.attempts, self.outcomes, self.ahead = attempts, outcomes, ahead
        self._composed: set[int] = set()  # ids of trials whose config was composed

    def startable(self) -> list[Trial]:
        """Trials in the order of proposal, including those that run.

        Raises:
            SweepStopped: too many trials fail.
        """
        trials = [t for t in self.sweep.waiting() if self._may_start(t)]
        return [t for t in trials if self.composes(t)] if self.ahead else trials

    def composes(self, trial: Trial) -> bool:
        """Whether the trial's config can be composed; where it cannot, the trial has failed.

        Raises:
            SweepStopped: too many trials fail.
        """
        if trial.id in self._composed:
            return True
        try:
            self.app.compose(self.swept.overrides(trial.config))
        except Exception as error:
            reason = f"its config cannot be composed: {first_line(error)}"
            self.outcomes.fail(trial, reason, time.time())
            return False
        self._composed.add(trial.id)
        return True

    def _may_start(self, trial: Trial) -> bool:
        """Whether it has not ended its driver again and again."""
        reason = self.attempts.given_up(trial)
        if reason and not self.outcomes.adopt(trial):
            self.outcomes.fail(trial, reason)
        return not reason
