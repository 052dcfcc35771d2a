"""How far a search is, for whoever shows it."""

from typing import NamedTuple, Protocol, runtime_checkable

from autorank.fidelity.fidelity import Fidelity, total_cost
from autorank.ledger import rungs
from autorank.ledger.ledger import Ledger
from autorank.ledger.trial import Trial
from autorank.objectives.base import Objective
from autorank.search.accounts import trained_examples
from autorank.search.budget import Budget

# Expected compile time of a trial, in units of a full training run.
COMPILE_SHARE = 0.4


class Event(NamedTuple):
    """Progress after a trial."""

    stage: str
    message: str
    # Of the whole search, by expected work.
    done_share: float
    trials_done: int
    trials_total: int
    num_failed: int
    trained_rows: int
    # Lowest label so far at the highest rung reached, in the unit of gains (`searched.unit`).
    best: float | None


@runtime_checkable
class OnEvent(Protocol):
    """Shows or forwards progress."""

    def __call__(self, event: Event, /) -> None:
        """Called after every trial, and when a stage says something."""
        ...


class Meter:
    """Counts the work done by a search and reports it.

    Args:
        ledger: the search's, whose ended trials count from the start.
        budget: lengths of the stages.
        objective: gives the rows of a full run.
        on_event: is told.
    """

    def __init__(
        self, ledger: Ledger, budget: Budget, objective: Objective, on_event: OnEvent
    ) -> None:
        self._ledger, self._budget, self._on_event = ledger, budget, on_event
        self._num_rows = objective.num_rows
        self._ended = {t.id: t for t in ledger.trials() if t.status != "proposed"}
        # Full runs in the rounds: a guess until the fidelity is decided.
        self._rounds = 0.5 * (budget.trials - budget.num_pilots)

    def expect(self, fidelity: Fidelity) -> None:
        """From now on the work of the rounds is known."""
        budget = self._budget
        self._rounds = total_cost(
            fidelity, budget.trials - budget.num_pilots, 1, batch_size=budget.batch_size
        )

    def tick(self, stage: str, trial: Trial | None, message: str) -> None:
        """Counts a trial that ended, if any, and reports."""
        if trial is not None:
            self._ended[trial.id] = trial
        ended = list(self._ended.values())
        searched = [t for t in ended if t.stage in ("pilot", "round")]
        trained = trained_examples(ended, self._num_rows)
        done = trained / self._num_rows + COMPILE_SHARE * len(searched)
        self._on_event(
            Event(
                stage=stage,
                message=message,
                done_share=min(1.0, done / self._expected_work()),
                trials_done=len(searched),
                trials_total=self._budget.trials,
                num_failed=sum(t.status == "failed" for t in searched),
                trained_rows=trained,
                best=rungs.best(ended, self._ledger.records(rungs.KIND)),
            )
        )

    def _expected_work(self) -> float:
        """Of the whole search, in full training runs."""
        budget = self._budget
        auto = budget.final_seeds == "auto"
        final_seeds = budget.noise_seeds if auto else int(budget.final_seeds)
        work = budget.noise_seeds + budget.num_pilots + self._rounds
        work += budget.trials * COMPILE_SHARE
        return work + (budget.finalists + 3) * budget.choice_seeds + 3 * final_seeds
