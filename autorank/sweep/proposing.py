"""The proposals of a sweep as a function of its asks and trials: the same later as when they were made."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from autorank.ledger.trial import Trial
from autorank.space.space import Space
from autorank.sweep.ask_batch import Asker, MakeSized
from autorank.sweep.readings import Readings
from autorank.sweep.rules import SweepRules


class Ask(NamedTuple):
    """What was known when a batch of proposals was made; a record of the ledger."""

    # Ids of the trials that ended since the ask before, in order.
    told: list[int]
    # Ids of those that were running.
    pending: list[int]
    # Proposals asked for.
    size: int
    # Proposals that the searcher makes at a time; 0 if the space is run through in order.
    batch_size: int


def next_ask(asks: Sequence[Ask], trials: Sequence[Trial], rules: SweepRules, size: int) -> Ask:
    """The ask that follows ``asks``."""
    told = {i for ask in asks for i in ask.told}
    return Ask(
        told=[t.id for t in trials if t.status != "proposed" and t.id not in told],
        pending=[t.id for t in trials if t.status == "proposed"],
        size=size,
        batch_size=0 if rules.in_order else rules.batch_size,
    )


class Proposer:
    """Makes the proposals of any ask of a sweep.

    Args:
        space: its baseline is proposed first.
        make: makes the searcher; None only where none is ever asked.
        rules: of the sweep.
    """

    def __init__(self, space: Space, make: MakeSized | None, rules: SweepRules) -> None:
        self._space, self._rules = space, rules
        self._readings = Readings(tuple(space.baseline), rules)
        self._asker = None if make is None else Asker(make, rules.seed)

    def proposals(
        self, asks: Sequence[Ask], number: int, trials: Mapping[int, Trial]
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Configurations ``[n, k]`` and predictions ``[n, 2]`` of one ask; ``trials`` are the ledger's by id.

        Predictions are in the job's units, because the searcher's change with every result.
        """
        ask = asks[number]
        if ask.batch_size == 0:
            return self._in_order(number, ask.size, trials), None
        baseline = np.array([self._space.baseline], np.int32)
        nothing = np.full((1, 2), np.nan)
        first = number == 0 and self._rules.baseline_first
        if first and ask.size == 1:
            return baseline, nothing
        told = [trials[i] for earlier in asks[: number + 1] for i in earlier.told]
        pending = [trials[i] for i in ask.pending]
        units = self._readings.units(told)
        running, forecasts = self._configs(pending), self._readings.forecasts(pending, units)
        if first:
            running, forecasts = np.concatenate([running, baseline]), nothing
        assert self._asker is not None, "a searcher made these proposals; pass it"
        before = sum(earlier.size for earlier in asks[:number])
        found, predicted = self._asker(
            number,
            self._configs(told),
            self._readings.told(told),
            running,
            forecasts,
            wanted=ask.size - 1 if first else ask.size,
            batch_size=ask.batch_size,
            turn=before if self._rules.roles else None,
        )
        predicted = units.own(predicted)
        if first:
            return np.concatenate([baseline, found]), np.concatenate([nothing, predicted])
        return found, predicted

    def _in_order(self, number: int, size: int, trials: Mapping[int, Trial]) -> np.ndarray:
        """The space's first configurations that no earlier ask proposed."""
        before = {t.config for t in trials.values() if t.round < number}
        rows = self._space.enumerate(len(before) + size)
        return rows[[tuple(row) not in before for row in rows.tolist()]][:size]

    def _configs(self, trials: Sequence[Trial]) -> np.ndarray:
        k = self._space.num_decisions
        return np.array([t.config for t in trials], np.int32).reshape(-1, k)
