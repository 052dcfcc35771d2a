"""Evaluating through the ledger: what is there is not done again, what was in flight is done again.

An interrupted batch continues with the same configurations and seeds, as if nothing had happened.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

from autorank.base.metrics import finite_or_none
from autorank.base.searched import NE, losses
from autorank.ledger.trial import Trial
from autorank.objectives.base import Outcome
from autorank.search.context import Context


class Proposals(NamedTuple):
    """What a batch is to evaluate."""

    configs: np.ndarray  # int [n, k]
    seeds: Sequence[int]
    # What the searcher predicts of them, [n, 2].
    predicted: np.ndarray | None = None


@runtime_checkable
class Propose(Protocol):
    """Makes the proposals of a batch; only called if the ledger has none yet."""

    def __call__(self) -> Proposals:
        """The proposals."""
        ...


@runtime_checkable
class Labeller(Protocol):
    """Makes a trial's label from the searched metric's curve ``[t]``."""

    def __call__(self, curve: np.ndarray, /) -> float:
        """Lower is better; NaN is a failed trial."""
        ...


class Batch(NamedTuple):
    """Trials that are evaluated together."""

    stage: str
    round: int
    propose: Propose
    label: Labeller
    # Share of the log that the trials see.
    fidelity: float = 1.0
    rung: int = 0
    # The baseline's FLOPs, which costs are relative to; None leaves the costs empty.
    reference_flops: float | None = None


def evaluate(context: Context, batch: Batch) -> list[Trial]:
    """Runs a batch, or what the ledger still lacks of it, and returns its rows in order."""
    ledger, objective = context.ledger, context.objective
    place = {"stage": batch.stage, "round": batch.round, "rung": batch.rung}
    trials = ledger.trials(**place)
    if not trials:
        configs, seeds, predicted = batch.propose()
        trials = ledger.propose(
            configs=configs, seeds=seeds, fidelity=batch.fidelity, predicted=predicted, **place
        )
    waiting = [t for t in trials if t.status == "proposed"]
    if waiting:
        seeds = [t.seed for t in waiting]
        for i, outcome in objective.evaluate(configs_of(waiting), seeds, batch.fidelity):
            quality, cost = label_and_cost(context, batch, outcome)
            done = ledger.finish(waiting[i].id, as_record(outcome), quality, cost)
            context.notify(batch.stage, done, outcome.failed)
    return ledger.trials(**place)


def label_and_cost(
    context: Context, batch: Batch, outcome: Outcome
) -> tuple[float | None, float | None]:
    """Label and log FLOPs ratio of an outcome; None where they are not known."""
    quality = cost = None
    if not outcome.failed:
        value = batch.label(searched_curve(context, outcome.curve, outcome.details))
        quality = finite_or_none(value)
    if batch.reference_flops and math.isfinite(outcome.flops):
        cost = math.log(outcome.flops / batch.reference_flops)
    return quality, cost


def as_record(outcome: Outcome) -> dict[str, Any]:
    """An outcome as JSON values; NaN becomes null in the ledger."""
    return outcome._asdict() | {"curve": outcome.curve.tolist(), "ne": list(outcome.ne)}


def metric_curve(curve: Any, metrics: Sequence[str], metric: str) -> np.ndarray:
    """The searched metric's windows ``[t]`` of a curve ``[t, q]``; "mean" averages the metrics.

    Examples:
        >>> metric_curve([[0.9, 0.7], [0.8, None]], ("ctr", "cvr"), "cvr").tolist()
        [0.7, nan]
    """
    curve = np.array([[np.nan if v is None else v for v in row] for row in curve], np.float64)
    return curve.mean(axis=1) if metric == "mean" else curve[:, list(metrics).index(metric)]


def searched_curve(context: Context, curve: Any, details: Mapping[str, Any]) -> np.ndarray:
    """The windows ``[t]`` of what is searched for, lower is better: NE, or losses of the measured values.

    Args:
        context: the search.
        curve: window NE ``[t, q]``.
        details: of the outcome, with the values ``measured [t, q]`` of another measure.
    """
    metrics, budget = context.objective.metrics, context.budget
    if budget.measure == NE:
        return metric_curve(curve, metrics, budget.metric)
    values = [[np.nan if v is None else v for v in row] for row in details["measured"]]
    return metric_curve(losses(budget.measure, values), metrics, budget.metric)


def curve_of(context: Context, trial: Trial) -> np.ndarray:
    """The `searched_curve` of a finished trial; all NaN for a failed one."""
    if trial.status != "finished" or trial.outcome is None:
        return np.full(context.objective.num_windows, np.nan)
    return searched_curve(context, trial.outcome["curve"], trial.outcome["details"])


def configs_of(trials: Sequence[Trial]) -> np.ndarray:
    """int32 ``[n, k]``."""
    return np.array([t.config for t in trials], np.int32)


def label_of(trial: Trial) -> float:
    """The trial's label; NaN for a failed trial."""
    return math.nan if trial.quality is None else trial.quality


def told_outcomes(trials: Sequence[Trial], labels: Sequence[float]) -> np.ndarray:
    """What a searcher is told, float32 ``[n, 2]``: NE gain in percent, log FLOPs ratio."""
    costs = [0.0 if t.cost is None else t.cost for t in trials]
    return np.stack([np.asarray(labels, np.float32), np.asarray(costs, np.float32)], axis=1)
