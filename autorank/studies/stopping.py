"""Rules that decide how much of the log each configuration sees, replayed on recorded curves at the same total cost.

A rule is given configurations in random order and a budget in whole runs. It looks at as many as it can pay for, and
recommends one. A run that was stopped continues where it stopped. Rules that stop early train their best `FINALISTS`
to the end, out of the same budget, and recommend the best of these.

Sources: successive halving (Jamieson and Talwalkar, AISTATS 2016), ASHA (Li et al., MLSys 2020), performance-based
stopping with constant, trajectory and stratified prediction (arXiv 2512.01258), pilots (arXiv 2311.07870). Stratified
prediction needs a table that was recorded with slices; ours are the values of one field, those of the paper clusters.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

from autorank.base.registry import Registry
from autorank.base.typing import Float, Int
from autorank.fidelity.fidelity import successive_halving
from autorank.fidelity.pilots import from_pilots
from autorank.studies.curves import CurveTable

FINALISTS = 3
TAIL_MIDDLE = 0.125  # half of the last quarter, whose middle a label stands for
PREDICTIONS = ("constant", "line", "power", "stratified")


class Run(NamedTuple):
    """What a rule has done."""

    chosen: int  # the recommended configuration: a row of the table
    spent: float  # whole runs
    tried: int  # configurations looked at


class Replay(NamedTuple):
    """Curves in the order in which a rule meets them."""

    table: CurveTable
    order: Int[np.ndarray, " n"]  # rows of the table
    seed: int

    def first(self, n: int) -> "Replay":
        """With the first ``n`` of them."""
        return self._replace(order=self.order[:n])


@runtime_checkable
class Rule(Protocol):
    """Runs on all that it is given, whatever that costs."""

    def __call__(self, arm: Any, replay: Replay, budget: float, /) -> Run:
        """The recommendation among the configurations of the replay; ``arm`` is a `FidelityArm`."""
        ...


# Trait `reads`: the fields of `FidelityArm` that a rule reads.
RULES: Registry[Rule] = Registry("rule", field="rule")


def within(rule: Rule, arm: Any, replay: Replay, budget: float) -> Run:
    """The rule on as many of the configurations as the budget pays for."""
    low, high = 1, len(replay.order)
    every = rule(arm, replay, budget)
    if every.spent <= budget + 1e-9:
        return every
    while low < high:
        middle = (low + high + 1) // 2
        if rule(arm, replay.first(middle), budget).spent <= budget + 1e-9:
            low = middle
        else:
            high = middle - 1
    return rule(arm, replay.first(low), budget)


def predicted(
    table: CurveTable, fraction: float, prediction: str, dx: float = math.nan
) -> Float[np.ndarray, " m"]:
    """What the labels at the end are expected to be, for all rows of a table stopped at a fraction.

    Args:
        table: of curves.
        fraction: share of the log that was seen.
        prediction: ``constant``, ``line`` (continued by ``dx`` windows), ``power`` or ``stratified``
            (`CurveTable.stratified`: in nats, and of use for an order alone).
        dx: windows; NaN goes from the middle of the windows used to the middle of the last quarter of the log.
    """
    if prediction == "power":
        return table.power_law(fraction)
    if prediction == "stratified":
        return table.stratified(fraction)
    level = table.constant(fraction)
    if prediction == "constant":
        return level
    if math.isnan(dx):
        dx = (1 - fraction) * (1 - TAIL_MIDDLE) * table.curves.shape[1]
    return level + dx * table.slope(fraction)


def finished(replay: Replay, labels: np.ndarray, reached: np.ndarray, spent: float) -> Run:
    """Trains the best of the candidates to the end and recommends the best of these.

    Args:
        replay: the candidates ``[n]``.
        labels: what each is expected to reach ``[n]``; infinite for those that were dropped.
        reached: share of the log that each has seen ``[n]``.
        spent: so far.
    """
    best = np.argsort(labels, kind="stable")[:FINALISTS]
    best = best[np.isfinite(labels[best])]
    final = replay.table.final[replay.order[best]]
    spent += float((1 - reached[best]).sum())
    return Run(int(replay.order[best[np.argmin(final)]]), spent, len(labels))


@RULES.register("full", reads=())
def full(arm: Any, replay: Replay, budget: float) -> Run:
    """Every configuration sees the whole log."""
    n = len(replay.order)
    return finished(replay, replay.table.final[replay.order], np.ones(n), float(n))


@RULES.register("fixed", reads=("fraction", "prediction"))
def fixed(arm: Any, replay: Replay, budget: float) -> Run:
    """Every configuration sees the same fraction of the log."""
    n = len(replay.order)
    labels = predicted(replay.table, arm.fraction, arm.prediction)[replay.order]
    return finished(replay, labels, np.full(n, arm.fraction), n * arm.fraction)


@RULES.register("pilots", reads=("num_pilots",))
def pilots(arm: Any, replay: Replay, budget: float) -> Run:
    """The first ones are pilots that see the whole log and choose fraction and trend for the others."""
    table, p, n = replay.table, arm.num_pilots, len(replay.order)
    if n <= p:
        return full(arm, replay, budget)
    first = replay.order[:p]

    def choose() -> tuple[float, float]:
        fractions = [f / 10 for f in range(1, 11)]
        record = from_pilots(table.curves[first], fractions, seed=replay.seed)[1]
        return record["chosen_fraction"], record["chosen_dx"]

    fraction, dx = table.kept(("pilots", first.tobytes(), replay.seed), choose)
    reached = np.where(np.arange(n) < p, 1.0, fraction)
    labels = predicted(table, fraction, "line", dx)[replay.order]
    return finished(replay, labels, reached, p + (n - p) * fraction)


@RULES.register("halving", reads=("rungs", "eta"))
def halving(arm: Any, replay: Replay, budget: float) -> Run:
    """Successive halving: one in ``eta`` goes on at each rung."""
    keep = successive_halving(arm.rungs, eta=arm.eta).keep
    return _in_steps(replay, arm.rungs, "constant", keep)


@RULES.register("stopping", reads=("stops", "drop", "prediction"))
def stopping(arm: Any, replay: Replay, budget: float) -> Run:
    """Performance-based stopping: at each stop the worst by predicted end are dropped."""

    def keep(labels: np.ndarray) -> np.ndarray:
        return np.argsort(labels, kind="stable")[: max(1, round((1 - arm.drop) * len(labels)))]

    return _in_steps(replay, arm.stops, arm.prediction, keep)


def _in_steps(replay: Replay, steps: Sequence[float], prediction: str, keep: Any) -> Run:
    """All go to the first step; those that are kept go on to the next one."""
    n = len(replay.order)
    alive, reached, spent = np.arange(n), np.zeros(n), 0.0
    labels = np.full(n, np.inf)
    for i, step in enumerate(steps):
        spent += float((step - reached[alive]).sum())
        reached[alive] = step
        labels[:] = np.inf
        labels[alive] = predicted(replay.table, step, prediction)[replay.order[alive]]
        if i + 1 < len(steps):
            alive = alive[keep(labels[alive])]
    return finished(replay, labels, reached, spent)


@RULES.register("asha", reads=("rungs", "eta"))
def asha(arm: Any, replay: Replay, budget: float) -> Run:
    """ASHA with one worker: whatever is in the best ``1/eta`` of its rung goes on, else a new one starts."""
    table, rungs = replay.table, arm.rungs
    labels = [predicted(table, rung, "constant")[replay.order] for rung in rungs]
    at: list[list[int]] = [[] for _ in rungs]  # who reached each rung
    promoted: list[set[int]] = [set() for _ in rungs]
    spent, tried = 0.0, 0

    def next_promotion() -> tuple[int, int] | None:
        for rung in reversed(range(len(rungs) - 1)):
            best = sorted(at[rung], key=lambda i: labels[rung][i])[: int(len(at[rung]) / arm.eta)]
            for i in best:
                if i not in promoted[rung]:
                    return rung, i
        return None

    while True:
        found = next_promotion()
        rung, i = (found[0] + 1, found[1]) if found else (0, tried)
        cost = rungs[rung] - (rungs[rung - 1] if rung else 0.0)
        if spent + cost > budget + 1e-9 or (not found and tried == len(replay.order)):
            break
        spent += cost
        at[rung].append(i)
        if found:
            promoted[rung - 1].add(i)
        else:
            tried += 1
    top = max((r for r in range(len(rungs)) if at[r]), default=None)
    if top is None:
        return Run(int(replay.order[0]), spent, tried)
    chosen = min(at[top], key=lambda i: labels[top][i])
    return Run(int(replay.order[chosen]), spent, tried)
