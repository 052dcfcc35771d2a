"""How the results of a sweep's jobs are read: what a searcher is told of them, and which are the best."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from autorank.ledger.front import pareto_front
from autorank.ledger.trial import Trial
from autorank.sweep.rules import SweepRules
from autorank.sweep.units import Units


class Readings(NamedTuple):
    """Reads trials by the rules of a sweep."""

    baseline: tuple[int, ...]
    rules: SweepRules

    def units(self, trials: Sequence[Trial]) -> Units:
        """The units in which results are told once these trials have ended."""
        ended = finished(trials)
        quality = [t.quality for t in ended if t.quality is not None]
        return Units.of(quality, self.reference_cost(ended), self.rules.maximize)

    def told(self, trials: Sequence[Trial]) -> np.ndarray:
        """What the searcher is told, float32 ``[n, 2]`` in `Units`; NaN quality = failed.

        A failed trial has the median cost. A trial beyond the cost cap ranks below all that are within it, by its
        excess.
        """
        units, ended = self.units(trials), finished(trials)
        told = units.told([t.quality for t in ended], [t.cost or units.reference for t in ended])
        quality, costs = told[:, 0], told[:, 1]
        if self.rules.cost_cap is not None and len(ended):
            excess = costs - math.log(self.rules.cost_cap)
            inside = quality[excess <= 1e-12]
            worst = inside.max() if len(inside) else 0.0
            quality = np.where(excess > 1e-12, worst + 1.0 + excess, quality)
        if self.rules.alpha:
            quality = (1 - self.rules.alpha) * quality + self.rules.alpha * costs
        rows = dict(zip([t.id for t in ended], zip(quality, costs, strict=True), strict=True))
        usual = (math.nan, float(np.median(costs)) if len(costs) else 0.0)
        return np.array([rows.get(t.id, usual) for t in trials], np.float32).reshape(-1, 2)

    def forecasts(self, trials: Sequence[Trial], units: Units) -> np.ndarray:
        """What was predicted of the trials, in the searcher's units ``[n, 2]``; NaN without a prediction."""
        own = np.array([predicted_of(t) for t in trials], np.float64).reshape(-1, 2)
        return units.told(own[:, 0], own[:, 1])

    def best(self, trials: Sequence[Trial]) -> Trial | None:
        """The finished trial of best quality within the cost cap, the first among equals."""
        ended = finished(trials)
        if self.rules.cost_cap is not None:
            most = self.rules.cost_cap * self.reference_cost(ended)
            ended = [t for t in ended if (t.cost or 0) <= most]
        return min(ended, key=lambda t: (self.signed(t), t.id), default=None)

    def front(self, trials: Sequence[Trial]) -> list[Trial]:
        """Finished trials that no other beats on quality and cost together, cheapest first."""
        ended = finished(trials)
        return [ended[i] for i in pareto_front([(t.cost or 0.0, self.signed(t)) for t in ended])]

    def signed(self, trial: Trial) -> float:
        """The quality, lower is better."""
        assert trial.quality is not None
        return -trial.quality if self.rules.maximize else trial.quality

    def reference_cost(self, ended: Sequence[Trial]) -> float:
        """The baseline's cost, else that of the first trial that has one, else 1."""
        priced = [t for t in ended if t.cost]
        own = [t for t in priced if t.config == self.baseline]
        return float((own or priced)[0].cost or 1.0) if priced else 1.0


def finished(trials: Sequence[Trial]) -> list[Trial]:
    """The trials that have a quality."""
    return [t for t in trials if t.status == "finished"]


def predicted_of(trial: Trial) -> list[float]:
    """Predicted quality and cost in the job's units; NaN without a prediction."""
    predicted = trial.predicted or [None, None]
    return [math.nan if p is None else float(p) for p in predicted]
