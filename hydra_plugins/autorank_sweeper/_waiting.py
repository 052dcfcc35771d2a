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
    """Trials without a result that may be started; those that may not are recorded as failed."""

    def __init__(
        self, sweep: Sweep, swept: SweptSpace, app: App, attempts: Attempts, outcomes: Outcomes
    ) -> None:
        self.sweep, self.swept, self.app = sweep, swept, app
        self.attempts, self.outcomes = attempts, outcomes
        self._composed: set[int] = set()  # ids of trials whose config was composed

    def startable(self) -> list[Trial]:
        """Trials in the order of proposal, including those that run.

        Raises:
            SweepStopped: too many trials fail.
        """
        trials = [t for t in self.sweep.waiting() if self._may_start(t)]
        return [t for t in trials if self._composes(t)]

    def _may_start(self, trial: Trial) -> bool:
        """Whether it has not ended its driver again and again."""
        reason = self.attempts.given_up(trial)
        if reason and not self.outcomes.adopt(trial):
            self.outcomes.fail(trial, reason)
        return not reason

    def _composes(self, trial: Trial) -> bool:
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
