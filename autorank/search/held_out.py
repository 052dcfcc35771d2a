"""The held-out test, touched once: the models that validation has chosen, and the baseline."""

import math
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np

from autorank.base.measurable import targets_of
from autorank.base.metrics import (
    log_losses,
    ne_gain_percent,
    normalized_entropy_from_sums,
    paired_rows_interval,
    paired_test,
)
from autorank.base.scored_rows import Bin, reliability, scores_beside_ne
from autorank.base.searched import gains, losses
from autorank.search.ab_test import Day, days_of
from autorank.search.context import Context
from autorank.search.finals import Finals


def prepare_test(context: Context, finalists: Sequence[Sequence[int]]) -> None:
    """Compiles meanwhile what will score the baseline and the finalists, if they are all going to be scored."""
    objective, budget = context.objective, context.budget
    known = context.ledger.records("test")
    if objective.prepare is not None and budget.test_finalists and not known:
        objective.prepare([context.space.baseline, *finalists])


def run_test(
    context: Context,
    configs: dict[str, list[int]],
    seeds: Sequence[int],
    finals: Finals | None = None,
) -> dict[str, Any]:
    """Tests the chosen models and the baseline on the held-out rows, and every finalist of ``finals``; once.

    All were chosen by validation alone before, so scoring more models than the chosen ones changes no choice.

    Args:
        context: the search.
        configs: "baseline" and role names to configurations, tested with ``seeds``.
        seeds: those of the verdict.
        finals: tested with the seeds that they were chosen by, without those that failed. None: not tested.

    Returns:
        Per name and metric the test NE by seed, the gain against the baseline by seed with its intervals over seeds and
        over rows, log loss and `scores_beside_ne` by seed with gains, the first seed's reliability, and the days of an
        A/B stand-in (`ab_test.Day`); the gains of finalists, by position, under "finalists".
    """
    known = context.ledger.records("test")
    if known:
        return known[0]
    if context.objective.test is None or context.objective.test_labels is None:
        return {}
    result = score(context, configs, seeds) | {"seeds": list(seeds), "finalists": {}}
    if finals is not None:
        alive = {
            str(i): c for i, c in enumerate(finals.configs) if np.isfinite(finals.gains[i]).all()
        }
        tested = {"baseline": configs["baseline"]} | alive
        found = score(context, tested, finals.seeds, measured=False)
        result["finalists"] = {"seeds": list(finals.seeds), "gain": found["gain"]}
    context.ledger.record("test", "test", result)
    return context.ledger.records("test")[0]


def score(
    context: Context, configs: dict[str, list[int]], seeds: Sequence[int], *, measured: bool = True
) -> dict[str, Any]:
    """NE by name, metric and seed, and the gains of all other names against "baseline"; other measures if asked for."""
    metrics = context.objective.metrics
    scored: dict[str, Scored] = {}
    done: dict[tuple[int, ...], str] = {}
    # What was trained last first: its state is the most likely one to be kept, and then nothing is trained again.
    for name, config in reversed(configs.items()):
        twin = done.setdefault(tuple(config), name)
        scored[name] = (
            scored[twin] if twin != name else score_model(context, name, config, seeds, measured)
        )
    reference = scored["baseline"]
    gain = {
        name: {
            m: compare(model.ne[m], reference.ne[m], model.losses[m], reference.losses[m])
            for m in metrics
        }
        for name, model in ((name, scored[name]) for name in configs)
        if name != "baseline"
    }
    found = {"ne": {name: scored[name].ne for name in configs}, "gain": gain}
    if measured:
        for what in ("measures", "reliability"):
            found[what] = {name: getattr(scored[name], what) for name in configs}
        found["days"] = {
            name: {m: days(context, scored[name], reference, m) for m in metrics}
            for name in configs
        }
        found["measure_gains"] = {
            name: {m: measure_gains(scored[name], reference, m) for m in metrics}
            for name in configs
            if name != "baseline"
        }
    return found


def days(context: Context, model: "Scored", reference: "Scored", metric: str) -> list[Day]:
    """The held-out rows as days of an A/B stand-in."""
    assert context.objective.test_labels is not None
    targets, _ = targets_of(context.objective.test_labels, metric)
    return days_of(model.predicted[metric], targets, model.losses[metric], reference.losses[metric])


def measure_gains(model: "Scored", reference: "Scored", metric: str) -> dict[str, Any]:
    """Gains of the measures beside NE (`searched.gains`), paired by seed: mean, 95% t-interval and p by measure."""
    found = {}
    for measure, values in model.measures[metric].items():
        ours, theirs = (losses(measure, v) for v in (values, reference.measures[metric][measure]))
        found[measure] = paired_test(gains(measure, ours, theirs))._asdict()
    return found


class Scored(NamedTuple):
    """One model on the held-out rows, by metric."""

    # NE of each seed.
    ne: dict[str, list[float]]
    # Each row's log loss, the mean over seeds.
    losses: dict[str, np.ndarray]
    # By measure, of each seed; empty where it was not measured.
    measures: dict[str, dict[str, list[float]]]
    # Of the first seed; empty as well.
    reliability: dict[str, tuple[Bin, ...]]
    # Each row's prediction, the mean over seeds; empty as well.
    predicted: dict[str, np.ndarray]


def score_model(
    context: Context, name: str, config: Sequence[int], seeds: Sequence[int], measured: bool
) -> Scored:
    """Scores one configuration with each seed, one after the other: memory is that of two seeds' scores."""
    objective = context.objective
    assert objective.test is not None
    context.notify("test", None, name)
    metrics = objective.metrics
    scored = Scored({m: [] for m in metrics}, {}, {m: {} for m in metrics if measured}, {}, {})
    # One seed's scores are measured while the next seed's are computed: on a log of millions both take seconds.
    with ThreadPoolExecutor(len(metrics)) as pool:
        measuring: list[Future[None]] = []
        # The last seed was trained last: its state is the most likely one to be kept.
        for i in reversed(range(len(seeds))):
            predictions = objective.test(np.array(config, np.int32), seeds[i])
            for one in measuring:
                one.result()
            measuring = [
                pool.submit(add_seed, context, scored, predictions[:, q], metric, i, len(seeds))
                for q, metric in enumerate(metrics)
            ]
        for one in measuring:
            one.result()
    return scored


def add_seed(
    context: Context, scored: Scored, predictions: np.ndarray, metric: str, number: int, count: int
) -> None:
    """Adds what a seed predicts of one metric to ``scored``, before what is there.

    Args:
        context: with the held-out labels.
        scored: changed; where it has no measures, only NE and losses are added.
        predictions: ``[rows]``.
        metric: predicted.
        number: of the seed.
        count: of seeds.
    """
    objective = context.objective
    assert objective.test_labels is not None
    users = objective.test_users
    targets, rows = targets_of(objective.test_labels, metric)
    own = predictions[rows]
    losses_now = log_losses(own, targets)
    add_mean(scored.losses, metric, losses_now, count)
    loss, size = losses_now.sum(), targets.size
    ne = normalized_entropy_from_sums(loss, targets.sum(), size)
    scored.ne[metric].insert(0, float(ne))
    if metric not in scored.measures:
        return
    add_mean(scored.predicted, metric, own, count)
    found = scores_beside_ne(own, targets, None if users is None else users[rows])
    found = {"log_loss": float(loss / size) if size else math.nan} | found
    for measure, value in found.items():
        scored.measures[metric].setdefault(measure, []).insert(0, value)
    if number == 0:
        scored.reliability[metric] = reliability(own, targets)


def add_mean(means: dict[str, np.ndarray], name: str, values: np.ndarray, count: int) -> None:
    """Adds one of ``count`` summands to a mean."""
    means[name] = means.get(name, 0.0) + values / count


def compare(
    ne: Sequence[float],
    reference: Sequence[float],
    losses: np.ndarray,
    reference_losses: np.ndarray,
) -> dict[str, Any]:
    """Gains in percent, paired by seed: their mean with its 95% t-interval and p, and the interval over test rows.

    All NaN where the held-out rows have one class only.

    Args:
        ne: a model's NE by seed.
        reference: the baseline's NE by seed.
        losses: each row's log loss, the model's mean over seeds.
        reference_losses: the baseline's.
    """
    gains = ne_gain_percent(ne, reference)
    test = paired_test(gains)
    # Rows of one class have losses but no NE.
    known = bool(np.isfinite(gains).all())
    low, high = paired_rows_interval(losses, reference_losses) if known else (math.nan, math.nan)
    return {
        "gains": gains.tolist(),
        "mean": test.mean,
        "low": test.low,
        "high": test.high,
        "p": test.p,
        "rows_low": low,
        "rows_high": high,
    }
