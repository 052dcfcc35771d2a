"""Searching over anyone's jobs: what to run next as a function of the ledger, synchronous or not.

A sweep is a sequence of *asks*. Before each, the searcher is told the trials that have ended since the last one, in
the order of their numbers; those still running are pending (`autorank.searchers.pending`). The ledger keeps for every
ask which trials were told and which were pending, so that each proposal is a function of seed and ledger: an
interrupted sweep continues as it would have, and `replay.replay` checks every proposal of a finished one. Where asks
happen only between rounds, the order in which results arrive within a round does not matter at all.
"""

import numpy as np

from autorank.base.result import Result
from autorank.ledger.ledger import Ledger
from autorank.ledger.trial import Trial
from autorank.space.space import Space
from autorank.sweep.ask_batch import MakeSized
from autorank.sweep.proposing import Ask, Proposer, next_ask
from autorank.sweep.readings import Readings
from autorank.sweep.rules import SweepRules, check_failures

STAGE = "sweep"


class Sweep:
    """Proposals and results of one ledger, which is all of its state.

    Args:
        space: its baseline is proposed first.
        make: makes the searcher; None only where none is ever asked.
        ledger: open for writing.
        rules: lengths and readings.

    Examples:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from autorank.space.space import Decision
        >>> space = Space((Decision("depth", (1, 2, 3), kind="number"),), baseline=(0,))
        >>> path = Path(tempfile.mkdtemp()) / "trials.db"
        >>> with Ledger.open(path, {"space": space.fingerprint()}) as ledger:
        ...     sweep = Sweep(space, None, ledger, SweepRules(trials=3, in_order=True))
        ...     for trial in sweep.propose(2):  # the sweep may be interrupted anywhere
        ...         depth = space.decode(np.array(trial.config))["depth"]
        ...         _ = sweep.finish(trial, Result(quality=(depth - 2.0) ** 2, cost=None))
        ...     sweep.best().config, sweep.num_left()
        ((1,), 1)
    """

    def __init__(
        self, space: Space, make: MakeSized | None, ledger: Ledger, rules: SweepRules
    ) -> None:
        self.space, self.ledger, self.rules = space, ledger, rules
        self.readings = Readings(tuple(space.baseline), rules)
        self._proposer = Proposer(space, make, rules)
        self._trials = {t.id: t for t in ledger.trials(STAGE)}
        self._asks = [Ask(**record) for record in ledger.records("ask")]

    # --- reading ---------------------------------------------------------------------------------

    @property
    def num_asks(self) -> int:
        """Asks recorded so far."""
        return len(self._asks)

    def trials(self) -> list[Trial]:
        """All rows, in the order of proposal."""
        return [self._trials[i] for i in sorted(self._trials)]

    def waiting(self) -> list[Trial]:
        """Trials without a result: running, or left by an interrupted driver."""
        return [t for t in self.trials() if t.status == "proposed"]

    def has_ended(self, trial: Trial) -> bool:
        """Whether the trial has its result by now."""
        return self._trials[trial.id].status != "proposed"

    def num_total(self) -> int:
        """Proposals of the whole sweep."""
        if self.rules.in_order:
            return min(self.rules.trials, self.space.cardinality())
        return self.rules.trials

    def num_left(self) -> int:
        """Proposals still to be made."""
        return max(0, self.num_total() - len(self._trials))

    def best(self) -> Trial | None:
        """The finished trial of best quality within the cost cap, the first among equals."""
        return self.readings.best(self.trials())

    def front(self) -> list[Trial]:
        """Finished trials that no other beats on quality and cost together, cheapest first."""
        return self.readings.front(self.trials())

    def proposals(self, number: int) -> tuple[np.ndarray, np.ndarray | None]:
        """Configurations ``[n, k]`` and predictions ``[n, 2]`` of a recorded ask, made again."""
        return self._proposer.proposals(self._asks, number, self._trials)

    # --- writing ---------------------------------------------------------------------------------

    def propose(self, size: int) -> list[Trial]:
        """Writes up to ``size`` new proposals and returns their rows.

        An ask that an interruption cut off before its proposals is completed first.

        Raises:
            LedgerFull: no room; nothing was proposed.
        """
        number = len({t.round for t in self._trials.values()})
        if number == len(self._asks):
            size = min(size, self.num_left())
            if size < 1:
                return []
            ask = next_ask(self._asks, self.trials(), self.rules, size)
            self.ledger.record("ask", str(number), ask._asdict())
            self._asks.append(ask)
        configs, predicted = self.proposals(number)
        rows = self.ledger.propose(
            STAGE, number, configs, [self.rules.seed] * len(configs), 1.0, predicted
        )
        self._trials |= {t.id: t for t in rows}
        return rows

    def finish(self, trial: Trial, result: Result) -> Trial:
        """Writes a result and returns the row.

        Raises:
            SweepStopped: too many trials have failed by now.
            LedgerFull: no room; the ledger is as before.
        """
        outcome = (result.details or {}) | {"failed": result.failed}
        row = self.ledger.finish(trial.id, outcome, result.quality, result.cost)
        self._trials[trial.id] = row
        self.check_failures()
        return row

    def check_failures(self) -> None:
        """Stops the sweep when too many trials have failed.

        Raises:
            SweepStopped: with what to do.
        """
        check_failures(self.trials(), self.rules.max_failure_rate, self.num_total())
