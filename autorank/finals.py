"""The last stages: finalists on all data with several seeds, their parts, and the held-out test, touched once."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from autorank.labels import label
from autorank.ledger import Trial
from autorank.measurable import targets_of
from autorank.metrics import (
    log_losses,
    ne_gain_percent,
    normalized_entropy,
    paired_rows_interval,
    paired_test,
)
from autorank.stages import Baseline, Context, curve_of, evaluate

EQUAL_COST = 1.05  # "at equal cost": FLOPs at most 5% above the baseline's


def pick_finalists(trials: Sequence[Trial], count: int, noise_percent: float) -> list[list[int]]:
    """The best by label, the best at equal cost, the cheapest at equal NE; distinct, best first."""
    finished = [
        (t.quality, t.cost, t.id, t) for t in trials if t.quality is not None and t.cost is not None
    ]
    by_quality = sorted(finished, key=lambda row: (row[0], row[2]))
    equal_cost = [row for row in by_quality if row[1] <= math.log(EQUAL_COST)]
    by_cost = sorted(finished, key=lambda row: (row[1], row[2]))
    equal_ne = [row for row in by_cost if row[0] <= noise_percent and row[1] < 0]
    picked: dict[tuple[int, ...], list[int]] = {}
    for *_, trial in (*by_quality[:count], *equal_cost[:2], *equal_ne[:2]):
        picked.setdefault(tuple(trial.config), list(trial.config))
    return list(picked.values())


class Finals(NamedTuple):
    """Finalists on all data, seed by seed."""

    configs: list[list[int]]
    gains: (
        np.ndarray
    )  # [finalists, seeds], percent against the baseline's run of that seed; NaN = failed
    costs: np.ndarray  # [finalists], log FLOPs ratio


def run_finals(
    context: Context, finalists: list[list[int]], baseline: Baseline, tail: float
) -> Finals:
    """Each finalist on all data with several seeds; judged on validation windows, paired with the baseline by seed."""
    plan = context.plan
    seeds = list(range(plan.final_seeds))

    def propose() -> tuple[np.ndarray, Sequence[int], None]:
        configs = np.repeat(np.array(finalists, np.int32), len(seeds), axis=0)
        return configs, seeds * len(finalists), None

    if not finalists:
        return Finals([], np.zeros((0, len(seeds))), np.zeros(0))
    trials = evaluate(
        context,
        "final",
        0,
        propose,
        1.0,
        lambda curve: label(
            ne_gain_percent(curve, baseline.mean_curve), 1.0, tail=tail, where=baseline.where
        ),
        baseline.flops,
    )
    gains = np.full((len(finalists), len(seeds)), np.nan)
    for trial in trials:
        row, seed = divmod(trial.position, len(seeds))
        curves = curve_of(context, trial), baseline.curves[seed]
        gains[row, seed] = ne_gain_percent(
            *(label(c, 1.0, tail=tail, where=baseline.where) for c in curves)
        )
    costs = np.array([trials[i * len(seeds)].cost or 0.0 for i in range(len(finalists))])
    context.ledger.record(
        "finals",
        "validation",
        {"configs": finalists, "seeds": seeds, "gain": gains.tolist(), "costs": costs.tolist()},
    )
    return Finals(finalists, gains, costs)


class Roles(NamedTuple):
    """Which finalist plays which part; None where none qualifies."""

    winner: int | None  # lowest mean validation NE
    equal_cost: int | None  # the same, among those at the baseline's cost or below
    equal_ne: int | None  # cheapest among those not worse than the baseline on validation


def choose_roles(finals: Finals, noise_percent: float) -> Roles:
    """By the mean over seeds of the validation gain; a finalist that failed with any seed is out.

    "At equal NE" means not worse than the baseline by more than one standard deviation of its own seeds.
    """
    means = finals.gains.mean(axis=1) if len(finals.gains) else np.zeros(0)
    alive = [i for i in range(len(means)) if math.isfinite(means[i])]
    cheap = [i for i in alive if finals.costs[i] <= math.log(EQUAL_COST)]
    as_good = [i for i in alive if means[i] <= noise_percent and finals.costs[i] < 0]
    return Roles(
        winner=min(alive, key=lambda i: means[i], default=None),
        equal_cost=min(cheap, key=lambda i: means[i], default=None),
        equal_ne=min(as_good, key=lambda i: finals.costs[i], default=None),
    )


def run_test(context: Context, configs: dict[str, list[int]]) -> dict[str, Any]:
    """The held-out test, touched once: the chosen models and the baseline, all final seeds.

    ``configs`` maps "baseline" and role names to configurations. Gives per name and metric the test NE by seed, and
    against the baseline the gain by seed, its interval over seeds and over rows.
    """
    known = context.ledger.records("test")
    if known:
        return known[0]
    test, labels = context.objective.test, context.objective.test_labels
    if test is None or labels is None:
        return {}
    metrics, seeds = context.objective.metrics, range(context.plan.final_seeds)
    ne: dict[str, dict[str, list[float]]] = {}
    losses: dict[str, dict[str, np.ndarray]] = {}  # mean over seeds of each row's log loss
    done: dict[tuple[int, ...], str] = {}
    for name, config in configs.items():
        twin = done.setdefault(tuple(config), name)
        if twin != name:
            ne[name], losses[name] = ne[twin], losses[twin]
            continue
        context.notify("test", None, name)
        predictions = [test(np.array(config, np.int32), seed) for seed in seeds]
        ne[name], losses[name] = {}, {}
        for q, metric in enumerate(metrics):
            targets, rows = targets_of(labels, metric)
            ne[name][metric] = [float(normalized_entropy(p[rows, q], targets)) for p in predictions]
            losses[name][metric] = np.mean(
                [log_losses(p[rows, q], targets) for p in predictions], axis=0
            )
    result: dict[str, Any] = {"ne": ne, "seeds": list(seeds), "gain": {}}
    for name in configs:
        if name == "baseline":
            continue
        result["gain"][name] = {
            metric: compare(
                ne[name][metric],
                ne["baseline"][metric],
                losses[name][metric],
                losses["baseline"][metric],
            )
            for metric in metrics
        }
    context.ledger.record("test", "test", result)
    return context.ledger.records("test")[0]


def compare(
    ne: Sequence[float],
    reference: Sequence[float],
    losses: np.ndarray,
    reference_losses: np.ndarray,
) -> dict[str, Any]:
    """Paired by seed: gains in percent, mean with 95% t-interval and p; and the interval over test rows.

    All NaN where the held-out rows have one class only.
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
