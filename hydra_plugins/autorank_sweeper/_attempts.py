"""How often each trial was started and what ended it, from the ledger's records: who is tried again, who is given up.

Every start is recorded, and so is every end without a result that a driver lives to see: its own stop ("interrupt"),
a job that could not be run or whose worker died ("death"). A start with neither is one whose driver died with it.
"""

from collections import Counter
from collections.abc import Sequence

from autorank.ledger.ledger import Ledger
from autorank.ledger.trial import Trial

# A signal stops the driver, not the trial. But a job that has its own driver stopped, by way of another process, must
# not end its sweep for good.
STOPS_IN_PROCESS = 5


class Attempts:
    """Counts for the trials of one ledger.

    Args:
        ledger: open for writing.
        attempts: deaths after which a trial has failed.
        in_process: jobs run in the driver's process, so that only one of them can have ended it.
    """

    def __init__(self, ledger: Ledger, attempts: int, in_process: bool) -> None:
        self.ledger, self.attempts, self.in_process = ledger, attempts, in_process
        deaths = ledger.records("death")
        self.lost = Counter(r["trial"] for r in deaths)
        self._alone = Counter(r["trial"] for r in deaths if r.get("alone", True))
        self._stopped = Counter(r["trial"] for r in ledger.records("interrupt"))
        starts = Counter(r["trial"] for r in ledger.records("start"))
        self._drivers = starts - self._stopped - self.lost  # starts that ended with their driver
        self._notes = {k: len(ledger.records(k)) for k in ("start", "interrupt")}

    def started(self, trials: Sequence[Trial]) -> None:
        """Writes that they run now."""
        self._note("start", trials)

    def interrupted(self, trials: Sequence[Trial]) -> None:
        """Writes that their driver was stopped, which is not their fault."""
        self._note("interrupt", trials)

    def died(self, trial: Trial, error: str, alone: bool) -> int:
        """Writes that it ended without a result; gives the attempts used up, those of others' making left out."""
        self.lost[trial.id] += 1
        self._alone[trial.id] += alone
        record = {"trial": trial.id, "error": error, "alone": alone}
        self.ledger.record("death", f"{trial.id}-{self.lost[trial.id]}", record)
        return self._alone[trial.id]

    def is_suspect(self, trial: Trial) -> bool:
        """Whether several drivers died while it ran: then it runs alone, so that the next death is its own."""
        return not self.in_process and self._drivers[trial.id] >= self.attempts

    def given_up(self, trial: Trial) -> str:
        """Why it is not started again; empty where it is."""
        # A driver may die of something else, too: one attempt more, and as many where others ran beside it.
        most = self.attempts + 1 if self.in_process else 2 * self.attempts
        if self._drivers[trial.id] >= most:
            return f"the process that ran it ended {most} times without a result"
        if self.in_process and self._stopped[trial.id] >= STOPS_IN_PROCESS:
            return f"the process that ran it was stopped {STOPS_IN_PROCESS} times without a result"
        return ""

    def _note(self, kind: str, trials: Sequence[Trial]) -> None:
        for trial in trials:
            self.ledger.record(kind, str(self._notes[kind]), {"trial": trial.id})
            self._notes[kind] += 1
