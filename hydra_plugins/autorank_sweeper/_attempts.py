"""How often each trial was started and how each start ended, from the ledger: which trials are tried again.

Every start is recorded. So is every end without a result that a driver lives to see: its own stop ("interrupt"), or a
job that could not be run or whose worker died ("death"). A start with neither ended with its driver.
"""

from collections import Counter
from collections.abc import Sequence

from autorank.ledger.ledger import Ledger
from autorank.ledger.trial import Trial

# A signal stops the driver and is not the trial's fault. The limit is for jobs that have another process send one to
# their driver: they must not stop their sweep forever.
STOPS_IN_PROCESS = 5


class Attempts:
    """Counts the starts of one ledger's trials.

    Args:
        ledger: open for writing.
        limit: deaths after which a trial has failed.
        in_process: jobs run in the driver's process one by one, so that only the running one can have ended it.
    """

    def __init__(self, ledger: Ledger, limit: int, in_process: bool) -> None:
        self.ledger, self.limit, self.in_process = ledger, limit, in_process
        deaths = ledger.records("death")
        self._deaths = Counter(r["trial"] for r in deaths)
        self._alone = Counter(r["trial"] for r in deaths if r.get("alone", True))
        self._stopped = Counter(r["trial"] for r in ledger.records("interrupt"))
        starts = Counter(r["trial"] for r in ledger.records("start"))
        self._with_driver = starts - self._stopped - self._deaths
        self._notes = {k: len(ledger.records(k)) for k in ("start", "interrupt")}

    def deaths(self, trial: Trial) -> int:
        """How often the trial ended without a result while its driver went on."""
        return self._deaths[trial.id]

    def started(self, trials: Sequence[Trial]) -> None:
        """Records that the trials start now."""
        self._note("start", trials)

    def interrupted(self, trials: Sequence[Trial]) -> None:
        """Records that their driver was stopped, which does not count as an attempt."""
        self._note("interrupt", trials)

    def died(self, trial: Trial, error: str, alone: bool) -> int:
        """Records an end without a result; returns the attempts used up, which are the deaths ``alone``."""
        self._deaths[trial.id] += 1
        self._alone[trial.id] += alone
        record = {"trial": trial.id, "error": error, "alone": alone}
        self.ledger.record("death", f"{trial.id}-{self._deaths[trial.id]}", record)
        return self._alone[trial.id]

    def is_suspect(self, trial: Trial) -> bool:
        """Whether several drivers died while it ran beside others; it then runs alone, to find the cause."""
        return not self.in_process and self._with_driver[trial.id] >= self.limit

    def given_up(self, trial: Trial) -> str:
        """Why the trial is not started again; empty if it may be."""
        # A driver may also die for another reason, hence one attempt more; twice as many if others ran beside it.
        most = self.limit + 1 if self.in_process else 2 * self.limit
        if self._with_driver[trial.id] >= most:
            return f"the process that ran it ended {most} times without a result"
        if self.in_process and self._stopped[trial.id] >= STOPS_IN_PROCESS:
            return f"the process that ran it was stopped {STOPS_IN_PROCESS} times without a result"
        return ""

    def _note(self, kind: str, trials: Sequence[Trial]) -> None:
        for trial in trials:
            self.ledger.record(kind, str(self._notes[kind]), {"trial": trial.id})
            self._notes[kind] += 1
