"""The last stages: finalists on all data, which of them are chosen, and the held-out test, touched once.

Three kinds of seeds, none of which has two uses: trials train with the search's own, finalists are chosen by a few
fresh ones, and the verdict on the chosen models comes from fresh ones again (`confirm`). So neither the luck of the
run that made a label nor that of the best of several finalists is counted as a gain.
"""

import math
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import numpy as np

from autorank.base.measurable import targets_of
from autorank.base.metrics import (
    log_losses,
    ne_gain_percent,
    normalized_entropy,
    paired_rows_interval,
    paired_test,
)
from autorank.fidelity.curve_label import curve_label
from autorank.ledger.ledger import Trial
from autorank.search.stages import Baseline, Context, curve_of, evaluate

SEARCHED = ("pilot", "round", "promotion")


def pick_finalists(
    trials: Sequence[Trial],
    count: int,
    noise_percent: float,
    *,
    equal_cost: float = 1.05,
    margin: float = 0.1,
) -> list[list[int]]:
    """The best by label, the best at equal cost, candidates for equal NE; distinct, best first.

    Candidates for equal NE are cheaper than the baseline. A label is off by the seed noise, so there are two safe ones
    (the cheapest that are better than the margin by the noise) and two bold ones (the cheapest within the margin).
    """
    finished = [
        (t.quality, t.cost, t.id, t) for t in trials if t.quality is not None and t.cost is not None
    ]
    by_quality = sorted(finished, key=lambda row: (row[0], row[2]))
    cheap = [row for row in by_quality if row[1] <= math.log(equal_cost)]
    by_cost = sorted(finished, key=lambda row: (row[1], row[2]))
    safe, bold = (
        [row for row in by_cost if row[0] <= limit and row[1] < 0]
        for limit in (margin - noise_percent, margin)
    )
    picked: dict[tuple[int, ...], list[int]] = {}
    for *_, trial in (*by_quality[:count], *cheap[:2], *safe[:2], *bold[:2]):
        picked.setdefault(tuple(trial.config), list(trial.config))
    return list(picked.values())


class Finals(NamedTuple):
    """Finalists on all data, seed by seed."""

    configs: list[list[int]]
    gains: (
        np.ndarray
    )  # [finalists, seeds], percent against the baseline's run of that seed; NaN = failed
    costs: np.ndarray  # [finalists], log FLOPs ratio
    seeds: tuple[int, ...] = ()


def choice_seeds(context: Context, baseline: Baseline) -> tuple[int, ...]:
    """The baseline's seeds that no trial of the search trained with, ``plan.choice_seeds`` at most.

    In a ledger of an earlier version the baseline may have a trial's seed; without any other it must do.
    """
    taken = {t.seed for t in context.ledger.trials() if t.stage in SEARCHED} | {context.plan.seed}
    fresh = [s for s in baseline.seeds if s not in taken]
    return tuple((fresh or baseline.seeds)[: context.plan.choice_seeds])


def run_finals(
    context: Context, finalists: list[list[int]], baseline: Baseline, tail: float
) -> Finals:
    """Each finalist on all data with several fresh seeds; judged on validation windows, paired by seed."""
    seeds = choice_seeds(context, baseline)

    def propose() -> tuple[np.ndarray, Sequence[int], None]:
        configs = np.repeat(np.array(finalists, np.int32), len(seeds), axis=0)
        return configs, [*seeds] * len(finalists), None

    if not finalists:
        return Finals([], np.zeros((0, len(seeds))), np.zeros(0), seeds)
    trials = evaluate(
        context,
        "final",
        0,
        propose,
        1.0,
        lambda curve: curve_label(
            ne_gain_percent(curve, baseline.mean_curve), 1.0, tail=tail, where=baseline.where
        ),
        baseline.flops,
    )
    # As the ledger has them: those of an earlier version may be other configurations, with other seeds too.
    rows = {tuple(t.config): i for i, t in reversed(list(enumerate(trials)))}
    configs = sorted(rows, key=lambda config: rows[config])
    gains = np.full((len(configs), len(seeds)), np.nan)
    for trial in trials:
        if trial.seed in seeds:
            curves = curve_of(context, trial), baseline.curves[baseline.seeds.index(trial.seed)]
            gain = ne_gain_percent(
                *(curve_label(c, 1.0, tail=tail, where=baseline.where) for c in curves)
            )
            gains[configs.index(tuple(trial.config)), seeds.index(trial.seed)] = gain
    found = Finals(
        [list(c) for c in configs],
        gains,
        np.array([trials[rows[config]].cost or 0.0 for config in configs]),
        seeds,
    )
    context.ledger.record(
        "finals",
        "validation",
        {
            "configs": found.configs,
            "seeds": seeds,
            "gain": gains.tolist(),
            "costs": found.costs.tolist(),
        },
    )
    return found


class Roles(NamedTuple):
    """Which finalist plays which part; None where none qualifies."""

    winner: int | None  # lowest mean validation NE
    equal_cost: int | None  # the same, among those at the baseline's cost or below
    equal_ne: int | None  # cheapest among those not worse than the baseline on validation


def choose_roles(finals: Finals, equal_cost: float = 1.05, without: Collection[int] = ()) -> Roles:
    """By the mean over seeds of the validation gain; a finalist that failed with any seed is out, or is ``without``.

    The choice for equal NE is only a candidate (`confirm.confirm` tests it): the cheapest whose mean is no worse than
    the baseline's, or else the best of those that are cheaper.
    """
    means = finals.gains.mean(axis=1) if len(finals.gains) else np.zeros(0)
    alive = [i for i in range(len(means)) if math.isfinite(means[i]) and i not in without]
    cheap = [i for i in alive if finals.costs[i] <= math.log(equal_cost)]
    cheaper = [i for i in alive if finals.costs[i] < 0]
    as_good = [i for i in cheaper if means[i] <= 0]
    best = min(cheaper, key=lambda i: means[i], default=None)
    return Roles(
        winner=min(alive, key=lambda i: means[i], default=None),
        equal_cost=min(cheap, key=lambda i: means[i], default=None),
        equal_ne=min(as_good, key=lambda i: finals.costs[i], default=best),
    )


def run_test(
    context: Context,
    configs: dict[str, list[int]],
    seeds: Sequence[int],
    finals: Finals | None = None,
) -> dict[str, Any]:
    """The held-out test, touched once: the chosen models and the baseline, and every finalist of ``finals``.

    All were chosen by validation alone before, so that scoring more models than the chosen ones changes no choice.

    Args:
        context: the search.
        configs: "baseline" and role names to configurations, tested with ``seeds``.
        seeds: those of the verdict.
        finals: tested with the seeds that they were chosen by; those that failed are left out. None: not tested.

    Gives per name and metric the test NE by seed, and against the baseline the gain by seed, its interval over seeds
    and over rows; the same for finalists, by position, under "finalists".
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
        found = score(context, {"baseline": configs["baseline"]} | alive, finals.seeds)
        result["finalists"] = {"seeds": list(finals.seeds), "gain": found["gain"]}
    context.ledger.record("test", "test", result)
    return context.ledger.records("test")[0]


def score(context: Context, configs: dict[str, list[int]], seeds: Sequence[int]) -> dict[str, Any]:
    """NE by name, metric and seed, and the gains against "baseline"; nothing without seeds or other names."""
    objective = context.objective
    test, labels = objective.test, objective.test_labels
    assert test is not None and labels is not None
    ne: dict[str, dict[str, list[float]]] = {}
    losses: dict[str, dict[str, np.ndarray]] = {}  # mean over seeds of each row's log loss
    done: dict[tuple[int, ...], str] = {}
    # What was trained last first: its state is the most likely one to be kept, and then nothing is trained again.
    for name, config in reversed(configs.items()):
        twin = done.setdefault(tuple(config), name)
        if twin != name:
            ne[name], losses[name] = ne[twin], losses[twin]
            continue
        context.notify("test", None, name)
        predictions = {s: test(np.array(config, np.int32), s) for s in reversed(seeds)}
        ne[name], losses[name] = {}, {}
        for q, metric in enumerate(objective.metrics):
            targets, rows = targets_of(labels, metric)
            columns = [predictions[s][rows, q] for s in seeds]
            ne[name][metric] = [float(normalized_entropy(p, targets)) for p in columns]
            losses[name][metric] = np.mean([log_losses(p, targets) for p in columns], axis=0)
    gain = {
        name: {
            metric: compare(
                ne[name][metric],
                ne["baseline"][metric],
                losses[name][metric],
                losses["baseline"][metric],
            )
            for metric in objective.metrics
        }
        for name in configs
        if name != "baseline"
    }
    return {"ne": {name: ne[name] for name in configs}, "gain": gain}


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
