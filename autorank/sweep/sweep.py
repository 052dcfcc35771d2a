"""Searching over anyone's jobs: what to run next as a function of the ledger, synchronous or not.

A sweep is a sequence of *asks*. Before each, the trials that have ended since the last one are
told, in the order of their numbers; those still running are pending (`autorank.searchers.pending`). The
ledger keeps for every ask which trials were told and which were pending, so that each proposal is a
function of seed and ledger: an interrupted sweep continues as it would have, and `replay` checks
every proposal of a finished one. Where asks happen only between rounds, the order in which results
arrive within a round does not matter at all.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from autorank.base.result import Result
from autorank.ledger.front import pareto_front
from autorank.ledger.ledger import Ledger, Trial
from autorank.searchers.base import Searcher
from autorank.space.space import Space
from autorank.sweep.ask_batch import Asker, Units

STAGE = "sweep"
LEAST_EVIDENCE = 10  # trials that a failure rate is taken over, at least


class SweepPlan(NamedTuple):
    """What may be proposed and how results are read."""

    trials: int
    seed: int = 0
    maximize: bool = False
    max_failure_rate: float = 0.5
    # Weight of log(cost) in what is told, for searchers that do not weigh it themselves.
    alpha: float = 0.0
    cost_cap: float | None = None  # times the baseline's cost; dearer trials rank below all others
    baseline_first: bool = True
    batch_size: int = 8  # proposals that the searcher makes at a time
    roles: bool = False  # its proposals have roles by position (`asker.rotated`)
    in_order: bool = (
        False  # no searcher: every configuration of the space, those that are there left out
    )


class SweepStopped(RuntimeError):
    """Too many trials fail; the message says what to do."""


class Sweep:
    """Proposals and results of one ledger; all state is there.

    Args:
        space: its baseline is proposed first.
        make: ``make(batch_size, capacity)`` gives the searcher; None only where none is ever asked.
        ledger: open for writing.
        plan: lengths and readings.
    """

    def __init__(
        self,
        space: Space,
        make: Callable[[int, int], Searcher] | None,
        ledger: Ledger,
        plan: SweepPlan,
    ) -> None:
        self.space, self.ledger, self.plan = space, ledger, plan
        self._asker = None if make is None else Asker(make, plan.seed)
        self._trials = {t.id: t for t in ledger.trials(STAGE)}
        self._asks: list[dict[str, Any]] = ledger.records("ask")

    # --- reading ---------------------------------------------------------------------------------

    def trials(self) -> list[Trial]:
        """All rows, in the order of proposal."""
        return [self._trials[i] for i in sorted(self._trials)]

    def waiting(self) -> list[Trial]:
        """Proposed and without a result: running, or left by an interrupted driver."""
        return [t for t in self.trials() if t.status == "proposed"]

    def has_ended(self, trial: Trial) -> bool:
        """Whether the trial has its result by now."""
        return self._trials[trial.id].status != "proposed"

    def num_left(self) -> int:
        """Proposals still to be made."""
        return max(0, self._total() - len(self._trials))

    def _total(self) -> int:
        if self.plan.in_order:
            return min(self.plan.trials, self.space.cardinality())
        return self.plan.trials

    def best(self) -> Trial | None:
        """The finished trial of best quality, the first among equals, within the cap if there is one."""
        finished = [t for t in self.trials() if t.status == "finished"]
        if self.plan.cost_cap is not None:
            reference = self._reference_cost(finished)
            finished = [t for t in finished if (t.cost or 0) <= self.plan.cost_cap * reference]
        return min(finished, key=lambda t: (self._signed(t), t.id), default=None)

    def front(self) -> list[Trial]:
        """Finished trials that no other beats on quality and cost together, cheapest first."""
        finished = [t for t in self.trials() if t.status == "finished"]
        found = pareto_front([(t.cost or 0.0, self._signed(t)) for t in finished])
        return [finished[i] for i in found]

    # --- writing ---------------------------------------------------------------------------------

    def propose(self, size: int) -> list[Trial]:
        """Writes up to ``size`` new proposals and gives their rows.

        Raises:
            LedgerFull: no room; nothing was proposed.
        """
        rounds = {t.round for t in self._trials.values()}
        number = len(rounds)
        if number < len(self._asks):  # stopped between the ask's record and its proposals
            record = self._asks[number]
        else:
            size = min(size, self.num_left())
            if size < 1:
                return []
            told = {i for ask in self._asks for i in ask["told"]}
            record = {
                "told": [
                    t.id for t in self.trials() if t.status != "proposed" and t.id not in told
                ],
                "pending": [t.id for t in self.waiting()],
                "size": size,
                # 0: the space in order.
                "batch_size": 0 if self.plan.in_order else self.plan.batch_size,
            }
            self.ledger.record("ask", str(number), record)
            self._asks.append(record)
        configs, predicted = self._proposals(number)
        rows = self.ledger.propose(
            STAGE, number, configs, [self.plan.seed] * len(configs), 1.0, predicted
        )
        self._trials |= {t.id: t for t in rows}
        return rows

    def finish(self, trial: Trial, result: Result) -> Trial:
        """Writes a result.

        Raises:
            SweepStopped: the failure rate is beyond the plan's.
            LedgerFull: no room; the ledger is as before.
        """
        outcome = (result.details or {}) | {"failed": result.failed}
        row = self.ledger.finish(trial.id, outcome, result.quality, result.cost)
        self._trials[trial.id] = row
        self.check_failures()
        return row

    def check_failures(self) -> None:
        """Stops when the share of failed trials, taken over at least `LEAST_EVIDENCE`, is too large."""
        ended = [t for t in self.trials() if t.status != "proposed"]
        failed = [t for t in ended if t.status == "failed"]
        limit = self.plan.max_failure_rate
        if len(failed) > limit * max(len(ended), min(LEAST_EVIDENCE, self._total())):
            raise SweepStopped(
                f"{len(failed)} of {len(ended)} trials failed, more than max_failure_rate={limit}; the last "
                f"one because: {failed[-1].reason}. Mend the job or narrow the space and start again in a new "
                f"folder, or raise max_failure_rate and start the same command again"
            )

    # --- asking ----------------------------------------------------------------------------------

    def _proposals(self, number: int) -> tuple[np.ndarray, np.ndarray | None]:
        """Configurations ``[n, k]`` and predictions ``[n, 2]`` of an ask, from its record and what is before it.

        Predictions are in the job's units: the searcher's change with every result.
        """
        record = self._asks[number]
        size, batch_size = record["size"], record["batch_size"]
        if batch_size == 0:
            return self._next_in_order(number, size), None
        assert self._asker is not None, "a searcher made these proposals; hand it in"
        baseline = np.array([self.space.baseline], np.int32)
        nothing = np.full((1, 2), np.nan)
        first = number == 0 and self.plan.baseline_first
        if first and size == 1:
            return baseline, nothing
        told = [self._trials[i] for ask in self._asks[: number + 1] for i in ask["told"]]
        pending = [self._trials[i] for i in record["pending"]]
        units = self._units(told)
        forecasts = np.array([_forecast(t) for t in pending], np.float64).reshape(-1, 2)
        forecasts = units.told(forecasts[:, 0], forecasts[:, 1])
        running = self._configs(pending)
        if first:
            running, forecasts = np.concatenate([running, baseline]), nothing
        before = sum(ask["size"] for ask in self._asks[:number])
        found, predicted = self._asker(
            number,
            self._configs(told),
            self._metrics(told),
            running,
            forecasts,
            wanted=size - 1 if first else size,
            batch_size=batch_size,
            turn=before if self.plan.roles else None,
        )
        predicted = units.own(predicted)
        if first:
            found, predicted = (
                np.concatenate([baseline, found]),
                np.concatenate([nothing, predicted]),
            )
        return found, predicted

    def _next_in_order(self, number: int, size: int) -> np.ndarray:
        """The space's first configurations that no earlier ask proposed."""
        before = {t.config for t in self._trials.values() if t.round < number}
        rows = self.space.enumerate(len(before) + size)
        return rows[[tuple(row) not in before for row in rows.tolist()]][:size]

    def _configs(self, trials: Sequence[Trial]) -> np.ndarray:
        return np.array([t.config for t in trials], np.int32).reshape(-1, self.space.num_decisions)

    def _units(self, trials: Sequence[Trial]) -> Units:
        finished = [t for t in trials if t.status == "finished"]
        quality = [t.quality for t in finished if t.quality is not None]
        return Units.of(quality, self._reference_cost(finished), self.plan.maximize)

    def _metrics(self, trials: Sequence[Trial]) -> np.ndarray:
        """What the searcher is told, float32 ``[n, 2]``: see `asker.Units`; NaN quality = failed."""
        units, finished = self._units(trials), [t for t in trials if t.status == "finished"]
        told = units.told(
            [t.quality for t in finished], [t.cost or units.reference for t in finished]
        )
        quality, costs = told[:, 0], told[:, 1]
        if self.plan.cost_cap is not None and len(finished):
            excess = costs - math.log(self.plan.cost_cap)
            inside = quality[excess <= 1e-12]
            worst = inside.max() if len(inside) else 0.0
            quality = np.where(excess > 1e-12, worst + 1.0 + excess, quality)
        if self.plan.alpha:
            quality = (1 - self.plan.alpha) * quality + self.plan.alpha * costs
        rows = dict(zip([t.id for t in finished], zip(quality, costs, strict=True), strict=True))
        usual = (math.nan, float(np.median(costs)) if len(costs) else 0.0)
        return np.array([rows.get(t.id, usual) for t in trials], np.float32).reshape(-1, 2)

    def _signed(self, trial: Trial) -> float:
        assert trial.quality is not None
        return -trial.quality if self.plan.maximize else trial.quality

    def _reference_cost(self, finished: Sequence[Trial]) -> float:
        """The baseline's cost, else that of the first trial that has one."""
        priced = [t for t in finished if t.cost]
        own = [t for t in priced if t.config == tuple(self.space.baseline)]
        return float((own or priced)[0].cost or 1.0) if priced else 1.0


def replay(
    space: Space, make: Callable[[int, int], Searcher] | None, ledger: Ledger, plan: SweepPlan
) -> list[str]:
    """Recomputes every proposal of a ledger from what was known when it was made; gives what differs (nothing).

    Only proposals whose rows are there: an ask may have been cut off before them.
    """
    sweep = Sweep(space, make, ledger, plan)
    different = []
    for number in range(len(sweep._asks)):
        rows = [t for t in sweep.trials() if t.round == number]
        if not rows and number == len(sweep._asks) - 1:
            continue
        configs, _ = sweep._proposals(number)
        for trial, config in zip(rows, configs.tolist(), strict=True):
            if list(trial.config) != config:
                different.append(f"trial {trial.id}: {list(trial.config)} is now {config}")
    return different


def _forecast(trial: Trial) -> list[float]:
    predicted = trial.predicted or [None, None]
    return [math.nan if p is None else float(p) for p in predicted]
