"""The held-out test, touched once: the models that validation has chosen, and the baseline."""

import math
from collections.abc import Sequence
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
from autorank.search.ab_test import days_of
from autorank.search.context import Context
from autorank.search.finals import Finals


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
            name: {m: days_of(*scored[name].rows[m], reference.losses[m]) for m in metrics}
            for name in configs
        }
        found["measure_gains"] = {
            name: {m: measure_gains(scored[name], reference, m) for m in metrics}
            for name in configs
            if name != "baseline"
        }
    return found


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
    # Each row's prediction, target and log loss, the means over seeds; empty as well.
    rows: dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]


def score_model(
    context: Context, name: str, config: Sequence[int], seeds: Sequence[int], measured: bool
) -> Scored:
    """Scores one configuration with each seed."""
    objective = context.objective
    assert objective.test is not None and objective.test_labels is not None
    context.notify("test", None, name)
    predictions = {s: objective.test(np.array(config, np.int32), s) for s in reversed(seeds)}
    scored = Scored({}, {}, {}, {}, {})
    users = objective.test_users
    for q, metric in enumerate(objective.metrics):
        targets, rows = targets_of(objective.test_labels, metric)
        columns = [predictions[s][rows, q] for s in seeds]
        by_seed = [log_losses(p, targets) for p in columns]
        scored.ne[metric] = [
            float(normalized_entropy_from_sums(one.sum(), targets.sum(), targets.size))
            for one in by_seed
        ]
        scored.losses[metric] = np.mean(by_seed, axis=0)
        if measured:
            own = None if users is None else users[rows]
            found = [scores_beside_ne(p, targets, own) for p in columns]
            scored.measures[metric] = {
                "log_loss": [float(one.mean()) if one.size else math.nan for one in by_seed],
                **{measure: [one[measure] for one in found] for measure in found[0]},
            }
            scored.reliability[metric] = reliability(columns[0], targets)
            scored.rows[metric] = np.mean(columns, axis=0), targets, scored.losses[metric]
    return scored


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
