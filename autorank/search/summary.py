"""``summary.json``: what a search found, for the report, for tables and for other programs."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from autorank.base.searched import NE
from autorank.fidelity.fidelity import Fidelity
from autorank.ledger.front import front_of
from autorank.ledger.trial import Trial
from autorank.search import speed, survival
from autorank.search.baseline import Baseline
from autorank.search.confirm import Confirmed
from autorank.search.context import Context
from autorank.search.diagnosis import predictor_quality
from autorank.search.failure_signs import FailureSign
from autorank.search.finals import Finals, Roles
from autorank.space.space import Space


class Findings(NamedTuple):
    """What the stages of a search found."""

    baseline: Baseline
    fidelity: Fidelity
    # Of the fidelity's choice.
    fidelity_record: Mapping[str, Any]
    # Searched trials with their labels at the highest rung.
    trials: list[Trial]
    # `diagnosis.diagnose`'s.
    diagnosis: Mapping[str, Any]
    finals: Finals
    confirmed: Confirmed
    # "baseline" and role names to configurations.
    chosen: dict[str, list[int]]
    # `held_out.run_test`'s; empty without a test.
    test: Mapping[str, Any]
    signs: list[FailureSign]


def summarise(context: Context, found: Findings) -> dict[str, Any]:
    """The summary without the run's totals (`accounts.totals`)."""
    budget, objective, confirmed = context.budget, context.objective, found.confirmed
    speeds = speed.measure(context, found.chosen)
    luck = survival.label_luck(found.trials, found.baseline)
    signs = [
        *found.signs,
        *survival.confirmation_signs(confirmed),
        *filter(None, [survival.luck_sign(luck)]),
    ]
    models = {
        name: model(context, found, speeds, name)
        for name in (*Roles._fields, "baseline")
        if name in found.chosen
    }
    equal_ne = models.get("equal_ne")
    return {
        "status": "finished",
        "name": objective.name,
        "metric": budget.metric,
        "measure": budget.measure,
        "tasks": list(objective.metrics),
        "seed": budget.seed,
        "seeds": list(confirmed.seeds),
        "choice_seeds": list(found.finals.seeds),
        "num_trials": len(found.trials),
        "num_failed": sum(t.status == "failed" for t in found.trials),
        **fidelity_summary(found),
        "predictor": predictor_quality(found.diagnosis),
        "seed_noise_percent": found.baseline.noise_percent,
        "baseline": models["baseline"],
        "winner": models.get("winner"),
        "winner_equal_cost": models.get("equal_cost"),
        "winner_equal_ne": equal_ne,
        **gain_summary(context, models.get("winner")),
        "flops_gain_percent": None if equal_ne is None else 100 * (equal_ne["flops_ratio"] - 1),
        **qps_gain(equal_ne),
        "equal_ne": survival.equal_ne(context, found.finals, confirmed),
        "verdict": survival.power(
            found.baseline,
            paired_gains(context, models.get("winner")),
            len(confirmed.seeds),
        ),
        "label_luck": luck,
        "finalists": survival.finalists(
            context, found.baseline, found.trials, found.finals, confirmed, found.test
        ),
        "per_task": per_task(context, found),
        "front": front(found.trials, context.space),
        "warnings": [s._asdict() for s in signs],
        "bayes_ne": None,
    }


def model(
    context: Context, found: Findings, speeds: Mapping[str, Mapping[str, Any]], name: str
) -> dict[str, Any]:
    """A chosen model, or the baseline: configuration, FLOPs, rows per second, NE and gains."""
    config = np.array(found.chosen[name], np.int32)
    index = None if name == "baseline" else getattr(found.confirmed.roles, name)
    ratio = 1.0 if index is None else math.exp(found.finals.costs[index])
    entry: dict[str, Any] = {
        "config": context.space.decode(config),
        "choices": found.chosen[name],
        "flops": found.baseline.flops * ratio,
        "flops_ratio": ratio,
        "qps": speeds[name]["qps"],
        "qps_ratio": {k: speeds[name][k] for k in ("ratio", "low", "high")},
        "flops_compiled": compiled_flops(context, config),
        "ne": mean_of(found.test["ne"][name][main_metric(context)]) if found.test else None,
        "test": found.test["gain"].get(name) if found.test and index is not None else None,
    }
    if found.test and "measures" in found.test:  # ledgers of earlier versions lack them
        entry["measures"] = {
            metric: {measure: mean_of(by_seed) for measure, by_seed in measures.items()}
            for metric, measures in found.test["measures"][name].items()
        }
        if index is not None:
            entry["measure_gains"] = found.test["measure_gains"][name]
    if index is not None:
        gains = found.confirmed.gains[index]
        entry["validation_gain_percent"] = survival.validation_gain(gains)
    return entry


def main_metric(context: Context) -> str:
    """The searched metric, or the first one if the mean was searched for."""
    metrics = context.objective.metrics
    return context.budget.metric if context.budget.metric in metrics else metrics[0]


def held_out_gain(context: Context, winner: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """The winner's gain of the main metric on the held-out test; empty where it was not tested."""
    return ((winner or {}).get("test") or {}).get(main_metric(context)) or {}


def gain_summary(context: Context, winner: Mapping[str, Any] | None) -> dict[str, Any]:
    """The winner's gain, and on which rows.

    Held-out rows of one class have no NE of the metric: the gain is then that on validation, if the search went by NE.
    """
    tested = held_out_gain(context, winner)
    gain = tested if tested.get("mean") is not None else None
    if gain is None and context.budget.measure != NE:
        return {"ne_gain_percent": None, "ne_gain_on": None}
    return {
        "ne_gain_percent": gain or (winner or {}).get("validation_gain_percent"),
        "ne_gain_on": "held-out test" if gain else "validation",
    }


def paired_gains(context: Context, winner: Mapping[str, Any] | None) -> Sequence[float | None]:
    """The winner's gains by seed, on the held-out test or else on validation."""
    validation = (winner or {}).get("validation_gain_percent") or {}
    return held_out_gain(context, winner).get("gains") or validation.get("seeds") or []


def fidelity_summary(found: Findings) -> dict[str, Any]:
    """How much of the log trials saw, and how well labels kept the final order."""
    record = found.fidelity_record
    return {
        "fidelity_fraction": found.fidelity.rungs[0],
        "fidelity_rungs": list(found.fidelity.rungs),
        "kendall_tau": record.get("chosen_tau"),
        "kendall_tau_interval": [record.get(f"chosen_{end}") for end in ("low", "high")],
    }


def per_task(context: Context, found: Findings) -> dict[str, Any]:
    """NE of the baseline and the winner on the held-out test, and the gain, by metric."""
    if not found.test or "winner" not in found.chosen:
        return {}
    ne, gain = found.test["ne"], found.test["gain"]
    return {
        metric: {
            "baseline_ne": mean_of(ne["baseline"][metric]),
            "winner_ne": mean_of(ne["winner"][metric]),
            "ne_gain_percent": gain["winner"][metric],
        }
        for metric in context.objective.metrics
    }


def mean_of(values: Sequence[float | None]) -> float | None:
    """The mean over seeds; None if any value is unknown.

    Examples:
        >>> mean_of([0.5, 1.0]), mean_of([0.5, None]), mean_of([])
        (0.75, None, None)
    """
    known = [v for v in values if v is not None]
    return float(np.mean(known)) if known and len(known) == len(values) else None


def compiled_flops(context: Context, config: np.ndarray) -> float | None:
    """FLOPs by the compiler's count, computed once for each model of a run."""
    key = str(config.tolist())
    known = {r["config"]: r for r in context.ledger.records("measured")}
    if key not in known:
        count = context.objective.compiled_flops
        known[key] = {"config": key, "flops_compiled": count(config) if count else None}
        context.ledger.record("measured", key, known[key])
    return known[key]["flops_compiled"]


def qps_gain(model: Mapping[str, Any] | None) -> dict[str, Any]:
    """Rows per second in percent against the baseline, with the 95% interval over repeats; positive is faster."""
    ratio = (model or {}).get("qps_ratio") or {}

    def percent(name: str) -> float | None:
        value = ratio.get(name)
        return None if value is None else 100 * (value - 1)

    return {
        "qps_gain_percent": percent("ratio"),
        "qps_gain_interval": {"low": percent("low"), "high": percent("high")},
    }


def front(trials: Sequence[Trial], space: Space) -> list[dict[str, Any]]:
    """Trials that no other beats on label and FLOPs together, cheapest first."""
    return [
        {
            "trial": t.id,
            "quality": t.quality,
            "flops_ratio": math.exp(t.cost or 0.0),
            "config": space.decode(np.array(t.config, np.int32)),
        }
        for t in front_of(trials)
    ]
