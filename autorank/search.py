"""The search, in the order in which it happens; each arrow is one function of `stages` or `finals`.

    seed noise -> pilots -> fidelity -> rounds -> finalists -> held-out test -> summary

Source: arXiv 2311.07870. The ledger is the only state: running the same search again on the same ledger replays what
is there and continues where it ended.
"""

import math
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from autorank.fidelity import Fidelity
from autorank.finals import Finals, Roles, choose_roles, pick_finalists, run_finals, run_test
from autorank.jax_settings import own_settings
from autorank.ledger import Ledger, Trial
from autorank.metrics import kendall_tau_b, ne_gain_percent
from autorank.objectives import Objective
from autorank.predictor import Predictor, held_out_tau
from autorank.searchers.base import Searcher
from autorank.signatures import Warning_, find_warnings
from autorank.space import Space
from autorank.stages import (
    DIAGNOSE_KEY,
    Baseline,
    Context,
    Plan,
    check_diverged,
    configs_of,
    curve_of,
    measure_baseline,
    metrics_of,
    quality_of,
    run_pilots,
    run_round,
)
from autorank.training.programs import compiler_options


class FidelityPlan(NamedTuple):
    """How labels are made; ``choose`` sees the pilots' gain curves ``[p, t]`` (maybe none) and decides once."""

    tail: float
    choose: Callable[[np.ndarray], tuple[Fidelity, dict[str, Any]]]  # and the record for the report


class Event(NamedTuple):
    """Progress, for whoever shows it."""

    stage: str
    message: str
    done_share: float  # of the whole search, by expected work
    trials_done: int
    trials_total: int
    num_failed: int
    trained_rows: int
    best: float | None  # lowest label so far, NE gain in percent


@own_settings()
def run(
    objective: Objective,
    space: Space,
    searcher: Searcher,
    ledger: Ledger,
    plan: Plan,
    fidelity_plan: FidelityPlan,
    predictor: Predictor | None,
    notify: Callable[[Event], None],
) -> dict[str, Any]:
    """Runs or resumes a search to its end and gives the summary (DESIGN: `summary.json`).

    Args:
        objective: what is minimised.
        space: where; its baseline is the reference of every gain.
        searcher: who proposes; asked for ``plan.batch_size`` at a time.
        ledger: opened for this search; all state.
        plan: lengths, seed, metric.
        fidelity_plan: how much of the log a trial sees and what its label is.
        predictor: for the diagnosis of the predictor at the end; None skips it.
        notify: called after every trial.

    Raises:
        SearchStopped: the baseline fails, or most trials do.
    """
    started = time.perf_counter()
    context = Context(objective, space, ledger, plan, Meter(ledger, plan, objective, notify).tick)
    baseline = measure_baseline(context, fidelity_plan.tail)
    pilots = run_pilots(context, baseline, fidelity_plan.tail)
    curves = [ne_gain_percent(curve_of(context, t), baseline.mean_curve) for t in pilots]
    stacked = np.array(curves).reshape(len(curves), objective.num_windows)
    fidelity, record = fidelity_plan.choose(stacked)
    ledger.record("fidelity", "choice", record)
    trials, labels = run_rounds(context, searcher, baseline, pilots, curves, fidelity)
    diagnosis = diagnose(context, predictor, trials, labels, len(pilots))
    labelled = [
        t._replace(quality=None if math.isnan(v) else v)
        for t, v in zip(trials, labels, strict=True)
    ]
    finals = run_finals(
        context,
        pick_finalists(labelled, plan.finalists, baseline.noise_percent),
        baseline,
        fidelity_plan.tail,
    )
    roles = choose_roles(finals, baseline.noise_percent)
    chosen = {"baseline": list(space.baseline)} | {
        name: finals.configs[i] for name, i in roles._asdict().items() if i is not None
    }
    test = run_test(context, chosen)
    warnings = find_warnings(labelled, ledger.records("policy"), diagnosis)
    summary = summarise(
        context, baseline, fidelity, record, labelled, finals, roles, chosen, test, warnings
    )
    # Earlier sessions of a resumed run count too.
    spent = [*ledger.records("session"), {"seconds": time.perf_counter() - started}]
    ledger.record("session", str(len(spent) - 1), spent[-1] | objective.stats()._asdict())
    return summary | totals(context)


def run_rounds(
    context: Context,
    searcher: Searcher,
    baseline: Baseline,
    pilots: list[Trial],
    pilot_curves: Sequence[np.ndarray],
    fidelity: Fidelity,
) -> tuple[list[Trial], list[float]]:
    """Ask, train, tell until the trials are used up; gives all trials with their labels, pilots first.

    Pilots are labelled at the chosen fraction like every other trial (own choice: one kind of label in one model).
    """
    plan, space = context.plan, context.space
    options = compiler_options()
    ask = jax.jit(searcher.ask, compiler_options=options)
    tell = jax.jit(searcher.tell, compiler_options=options)
    state = searcher.init(jax.random.key(plan.seed))
    reference = np.array([space.baseline], np.int32)
    state = tell(state, reference, np.zeros((1, 2), np.float32))
    trials, labels = (
        list(pilots),
        [
            math.nan if t.status != "finished" else float(fidelity.label(curve, fidelity.rungs[0]))
            for t, curve in zip(pilots, pilot_curves, strict=True)
        ],
    )
    if trials:
        state = tell(state, configs_of(trials), metrics_of(trials, labels))
    round_index = 0
    while len(trials) < plan.trials:
        size = min(plan.batch_size, plan.trials - len(trials))
        done = run_round(context, ask, state, round_index, size, baseline, fidelity)
        check_diverged(done, plan.max_diverged)
        state = tell(state, configs_of(done), metrics_of(done, [quality_of(t) for t in done]))
        trials += done
        labels += [quality_of(t) for t in done]
        round_index += 1
    return trials, labels


def diagnose(
    context: Context,
    predictor: Predictor | None,
    trials: list[Trial],
    labels: list[float],
    num_pilots: int,
) -> dict[str, Any]:
    """How good the predictor was: held-out and training tau-b, and predicted against true of its own proposals."""
    known = context.ledger.records("diagnosis")
    if known:
        return known[0]
    result: dict[str, Any] = {"heldout_tau": None, "train_tau": None, "rounds": []}
    truth = np.array(labels)
    if predictor is not None and np.isfinite(truth).sum() >= 8:
        key = jax.random.fold_in(jax.random.key(context.plan.seed), DIAGNOSE_KEY)
        features = np.asarray(context.space.features(jnp.asarray(configs_of(trials))))
        result |= held_out_tau(predictor, key, features, metrics_of(trials, labels))
    for round_index in sorted({t.round for t in trials[num_pilots:]}):
        rows = [
            (t.predicted[0], label)
            for t, label in zip(trials[num_pilots:], labels[num_pilots:], strict=True)
            if t.round == round_index and t.predicted and t.predicted[0] is not None
        ]
        pairs = [(p, q) for p, q in rows if math.isfinite(q)]
        if pairs:
            predicted, true = zip(*pairs, strict=True)
            tau = kendall_tau_b(np.array(predicted), np.array(true)) if len(pairs) > 2 else math.nan
            result["rounds"].append(
                {"round": round_index, "predicted": predicted, "true": true, "tau": tau}
            )
    context.ledger.record("diagnosis", "predictor", result)
    return context.ledger.records("diagnosis")[0]


def summarise(
    context: Context,
    baseline: Baseline,
    fidelity: Fidelity,
    fidelity_record: dict[str, Any],
    trials: list[Trial],
    finals: Finals,
    roles: Roles,
    chosen: dict[str, list[int]],
    test: dict[str, Any],
    warnings: list[Warning_],
) -> dict[str, Any]:
    """The interface that reports, tables and other programs read."""
    objective, space, plan = context.objective, context.space, context.plan
    main = plan.metric if plan.metric in objective.metrics else objective.metrics[0]

    def model(name: str, index: int | None) -> dict[str, Any] | None:
        if name not in chosen:
            return None
        config = np.array(chosen[name], np.int32)
        ratio = 1.0 if index is None else math.exp(finals.costs[index])
        entry: dict[str, Any] = {
            "config": space.decode(config),
            "choices": chosen[name],
            "flops": baseline.flops * ratio,
            "flops_ratio": ratio,
            "qps": measured(context, config)["qps"],
            "flops_compiled": measured(context, config)["flops_compiled"],
            "ne": float(np.mean(test["ne"][name][main])) if test else None,
            "test": test["gain"].get(name) if test and name != "baseline" else None,
        }
        if index is not None:
            gains = finals.gains[index]
            entry["validation_gain_percent"] = {
                "mean": float(gains.mean()),
                "seeds": gains.tolist(),
            }
        return entry

    models = {name: model(name, getattr(roles, name)) for name in Roles._fields}
    reference = model("baseline", None)
    winner, equal_ne = models["winner"], models["equal_ne"]
    gains = (winner or {}).get("test") or {}
    validation = (winner or {}).get("validation_gain_percent")
    return {
        "status": "finished",
        "name": objective.name,
        "metric": plan.metric,
        "tasks": list(objective.metrics),
        "seed": plan.seed,
        "seeds": list(range(plan.final_seeds)),
        "num_trials": len(trials),
        "num_failed": sum(t.status == "failed" for t in trials),
        "fidelity_fraction": fidelity.rungs[0],
        "kendall_tau": fidelity_record.get("chosen_tau"),
        "seed_noise_percent": baseline.noise_percent,
        "baseline": reference,
        "winner": winner,
        "winner_equal_cost": models["equal_cost"],
        "winner_equal_ne": equal_ne,
        "ne_gain_percent": gains.get(main) or (validation and {"mean": validation["mean"]}),
        "ne_gain_on": "held-out test" if gains else "validation",
        "flops_gain_percent": None if equal_ne is None else 100 * (equal_ne["flops_ratio"] - 1),
        "qps_gain_percent": qps_gain(equal_ne, reference),
        "per_task": {
            metric: {
                "baseline_ne": float(np.mean(test["ne"]["baseline"][metric])),
                "winner_ne": float(np.mean(test["ne"]["winner"][metric])),
                "ne_gain_percent": test["gain"]["winner"][metric],
            }
            for metric in objective.metrics
        }
        if test and winner
        else {},
        "front": front(trials, space),
        "warnings": [w._asdict() for w in warnings],
        "bayes_ne": None,
    }


def measured(context: Context, config: np.ndarray) -> dict[str, Any]:
    """Rows per second on the device at hand and the compiler's FLOPs, measured once for each model of the table."""
    key = str(config.tolist())
    known = {r["config"]: r for r in context.ledger.records("measured")}
    if key not in known:
        objective = context.objective
        found = {
            "config": key,
            "qps": objective.qps(config) if objective.qps else None,
            "flops_compiled": objective.compiled_flops(config)
            if objective.compiled_flops
            else None,
        }
        context.ledger.record("measured", key, found)
        known[key] = found
    return known[key]


def qps_gain(model: dict[str, Any] | None, reference: dict[str, Any] | None) -> float | None:
    """Percent against the baseline; positive is faster."""
    if not model or not reference or not model["qps"] or not reference["qps"]:
        return None
    return 100 * (model["qps"] / reference["qps"] - 1)


def front(trials: Sequence[Trial], space: Space) -> list[dict[str, Any]]:
    """Trials that no other beats on label and FLOPs together, cheapest first."""
    points = sorted(
        (t for t in trials if t.quality is not None and t.cost is not None),
        key=lambda t: (t.cost, t.quality),
    )
    kept: list[Trial] = []
    for trial in points:
        if not kept or (trial.quality or 0.0) < (kept[-1].quality or 0.0):
            kept.append(trial)
    return [
        {
            "trial": t.id,
            "quality": t.quality,
            "flops_ratio": math.exp(t.cost or 0.0),
            "config": space.decode(np.array(t.config, np.int32)),
        }
        for t in kept
    ]


def totals(context: Context) -> dict[str, Any]:
    """Time, compiles and trained examples over all sessions of the run."""
    sessions = context.ledger.records("session")
    return {
        "wall_seconds": sum(s["seconds"] for s in sessions),
        "num_sessions": len(sessions),
        "num_compiles": sum(s["num_compiles"] for s in sessions),
        "compile_seconds": sum(s["compile_seconds"] for s in sessions),
        # Sessions of older versions did not count these.
        **{
            name: sum(s.get(name, 0) for s in sessions)
            for name in ("num_hits", "disk_hits", "disk_misses")
        },
        "executors": executors(context.ledger.trials()),
        "trained_examples": trained_examples(context.ledger.trials(), context.objective.num_rows),
    }


def executors(trials: Sequence[Trial]) -> dict[str, Any]:
    """How many trials each build trained, and the reason that it gave last."""
    found: dict[str, Any] = {}
    for trial in trials:
        details = (trial.outcome or {}).get("details") or {}
        if kind := details.get("executor"):
            entry = found.setdefault(kind, {"trials": 0, "why": ""})
            entry["trials"] += 1
            entry["why"] = details.get("why", "")
    return found


def trained_examples(trials: Sequence[Trial], num_rows: int) -> int:
    """Rows learned from, everything included: baseline repeats, pilots, rounds, promotions, finalists.

    A promoted trial continues from its last rung, so only the difference counts; likewise a resumed search counts a
    trial once.
    """
    reached: dict[tuple, float] = {}
    total = 0.0
    for trial in trials:
        if trial.status == "proposed":
            continue
        key = (tuple(trial.config), trial.seed)
        before = reached.get(key, 0.0) if trial.stage == "promotion" else 0.0
        total += max(0.0, trial.fidelity - before)
        reached[key] = trial.fidelity
    return round(total * num_rows)


class Meter:
    """Counts the work done, so that whoever watches sees how far the search is."""

    COMPILE_SHARE = 0.4  # expected compile time of a trial, in units of a full training run

    def __init__(
        self, ledger: Ledger, plan: Plan, objective: Objective, notify: Callable[[Event], None]
    ) -> None:
        self._ledger, self._plan, self._notify = ledger, plan, notify
        self._num_rows = objective.num_rows
        self._ended = {t.id: t for t in ledger.trials() if t.status != "proposed"}

    def tick(self, stage: str, trial: Trial | None, message: str) -> None:
        """One trial ended (or a stage says something)."""
        plan = self._plan
        if trial is not None:
            self._ended[trial.id] = trial
        ended = list(self._ended.values())
        searched = [t for t in ended if t.stage in ("pilot", "round")]
        rounds = [t for t in ended if t.stage == "round"]
        fraction = rounds[-1].fidelity if rounds else 0.5
        work = plan.noise_seeds + plan.num_pilots * (1 + self.COMPILE_SHARE)
        work += (plan.trials - plan.num_pilots) * (fraction + self.COMPILE_SHARE)
        work += (plan.finalists + 2) * plan.final_seeds
        done = sum(
            t.fidelity + (self.COMPILE_SHARE if t.stage in ("pilot", "round") else 0.0)
            for t in ended
        )
        labels = [t.quality for t in searched if t.quality is not None]
        self._notify(
            Event(
                stage=stage,
                message=message,
                done_share=min(1.0, done / work),
                trials_done=len(searched),
                trials_total=plan.trials,
                num_failed=sum(t.status == "failed" for t in searched),
                trained_rows=trained_examples(ended, self._num_rows),
                best=min(labels, default=None),
            )
        )
