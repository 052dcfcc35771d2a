"""The search, in the order in which it happens; each arrow is one function of `stages` or `finals`.

    seed noise -> pilots -> fidelity -> rounds -> finalists -> confirmation -> held-out test -> summary

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

from autorank.base.jax_settings import own_settings
from autorank.base.measurable import of_metric
from autorank.base.metrics import kendall_tau_b, ne_gain_percent
from autorank.base.programs import compiler_options
from autorank.fidelity import rungs
from autorank.fidelity.curve_label import tail_windows
from autorank.fidelity.fidelity import Fidelity, total_cost
from autorank.fidelity.rules import FidelityRule
from autorank.fidelity.rungs import Climb, climb
from autorank.ledger.ledger import Ledger, LedgerMismatch, Trial
from autorank.objectives.base import Objective
from autorank.search import speed, survival
from autorank.search.confirm import Confirmed, confirm, refuse_finished_by_earlier_version
from autorank.search.finals import Finals, Roles, pick_finalists, run_finals, run_test
from autorank.search.stages import (
    DIAGNOSE_KEY,
    Baseline,
    Context,
    Plan,
    SearchStopped,
    check_diverged,
    configs_of,
    curve_of,
    measure_baseline,
    metrics_of,
    quality_of,
    run_pilots,
    run_round,
)
from autorank.search.warnings import Warning_, find_warnings, unmeasured
from autorank.searchers.base import Searcher
from autorank.space.space import Space
from autorank.surrogates.held_out import held_out_tau
from autorank.surrogates.predictor import Predictor


class Event(NamedTuple):
    """Progress, for whoever shows it."""

    stage: str
    message: str
    done_share: float  # of the whole search, by expected work
    trials_done: int
    trials_total: int
    num_failed: int
    trained_rows: int
    best: float | None  # lowest label so far at the highest rung reached, NE gain in percent


@own_settings()
def run(
    objective: Objective,
    space: Space,
    searcher: Searcher,
    ledger: Ledger,
    plan: Plan,
    rule: FidelityRule,
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
        rule: how much of the log a trial sees and what its label is.
        predictor: for the diagnosis of the predictor at the end; None skips it.
        notify: called after every trial.

    Raises:
        SearchStopped: the metric cannot be computed (before anything is trained), the baseline fails, or most
            trials do.
    """
    require_metric(objective, plan, rule)
    started = time.perf_counter()
    meter = Meter(ledger, plan, objective, notify)
    context = Context(objective, space, ledger, plan, meter.tick)
    refuse_finished_by_earlier_version(ledger, plan.seed)
    baseline = measure_baseline(context, rule.tail)
    pilots = run_pilots(context, baseline, rule.tail)
    curves = [ne_gain_percent(curve_of(context, t), baseline.mean_curve) for t in pilots]
    stacked = np.array(curves).reshape(len(curves), objective.num_windows)
    fidelity, record = decide_fidelity(ledger, rule, stacked, baseline.where)
    meter.expect(fidelity)
    labelled_pilots = label_pilots(context, baseline, pilots, curves, fidelity)
    climbs = run_rounds(context, searcher, baseline, labelled_pilots, fidelity)
    told = rungs.first_rung(climbs)
    diagnosis = diagnose(context, predictor, told, [quality_of(t) for t in told], len(pilots))
    labelled = rungs.top_rung(climbs)
    finals = run_finals(
        context,
        pick_finalists(
            labelled,
            plan.finalists,
            baseline.noise_percent,
            equal_cost=plan.equal_cost,
            margin=plan.equal_ne_margin,
        ),
        baseline,
        rule.tail,
    )
    confirmed = confirm(context, finals, baseline, rule.tail)
    chosen = {"baseline": list(space.baseline)} | {
        name: finals.configs[i] for name, i in confirmed.roles._asdict().items() if i is not None
    }
    test = run_test(context, chosen, confirmed.seeds, finals if plan.test_finalists else None)
    warnings = unmeasured(objective.counts)
    warnings += find_warnings(labelled, ledger.records("policy"), diagnosis)
    summary = summarise(
        context, baseline, fidelity, record, labelled, finals, confirmed, chosen, test, warnings
    )
    # Earlier sessions of a resumed run count too.
    spent = [*ledger.records("session"), {"seconds": time.perf_counter() - started}]
    ledger.record("session", str(len(spent) - 1), spent[-1] | objective.stats()._asdict())
    return summary | totals(context)


def require_metric(objective: Objective, plan: Plan, rule: FidelityRule) -> None:
    """Refuses a search for something that no window of the training rows can tell.

    Raises:
        SearchStopped: naming the metric and what to write instead.
    """
    if objective.measurable is None:
        return
    metrics, num_windows = objective.metrics, objective.num_windows
    known = np.flatnonzero(of_metric(objective.measurable, metrics, plan.metric))
    if not known.size:
        others = [m for q, m in enumerate(metrics) if objective.measurable[:, q].any()]
        instead = (
            f"Write search.metric={others[0]}" if others else "No metric can be; use another log"
        )
        raise SearchStopped(
            f"search.metric={plan.metric} cannot be computed: none of the {num_windows} windows of the training rows "
            f"has both a positive and a negative of {'every metric' if plan.metric == 'mean' else plan.metric}. "
            f"{instead}, or fewer and so longer windows (training.num_windows below {num_windows})"
        )
    for rung in rule.rungs[:1]:
        if tail_windows(num_windows, rung, rule.tail)[1] <= known[0]:
            least = math.ceil(100 * (known[0] + 1) / num_windows) / 100
            raise SearchStopped(
                f"at {rung:g} of the log search.metric={plan.metric} cannot be computed: its first window with both "
                f"a positive and a negative is number {known[0] + 1} of {num_windows}. Write a fidelity.fraction "
                f"(halving: first of fidelity.rungs) of at least {least:g}, or another search.metric"
            )


def decide_fidelity(
    ledger: Ledger, rule: FidelityRule, curves: np.ndarray, where: np.ndarray
) -> tuple[Fidelity, dict[str, Any]]:
    """What the ledger says was chosen, or what the pilots' gain curves ``[p, t]`` say in the windows ``where [t]``.

    Raises:
        LedgerMismatch: a halving search of a version that compared labels of different rungs.
    """
    known = ledger.records("fidelity")
    if known and rule.restore:
        return rule.restore(known[0]), known[0]
    fidelity, record = rule.choose(curves, where)
    if len(fidelity.rungs) > 1 and ledger.trials("round") and not ledger.records(rungs.KIND):
        raise LedgerMismatch(
            f"{ledger.path}: its trials were promoted by an older version, which ranked labels of different rungs "
            f"together; it cannot be continued. Give this run another name, or write fresh=true to start again"
        )
    ledger.record("fidelity", "choice", record)
    return fidelity, record


def label_pilots(
    context: Context,
    baseline: Baseline,
    pilots: Sequence[Trial],
    curves: Sequence[np.ndarray],
    fidelity: Fidelity,
) -> list[Climb]:
    """Pilots with a label at every rung, from their gain curves ``[t]``; the ledger keeps them for its readers."""

    def labels_of(curve: np.ndarray) -> dict[float, float]:
        return {r: float(fidelity.label(curve, r, where=baseline.where)) for r in fidelity.rungs}

    found = [climb([t], labels_of(c)) for t, c in zip(pilots, curves, strict=True)]
    of_pilots = {c.trial.id: [c.labels.get(rung) for rung in fidelity.rungs] for c in found}
    context.ledger.record(
        rungs.KIND, "pilots", {"rungs": list(fidelity.rungs), "pilots": of_pilots}
    )
    return found


def run_rounds(
    context: Context,
    searcher: Searcher,
    baseline: Baseline,
    pilots: list[Climb],
    fidelity: Fidelity,
) -> list[Climb]:
    """Ask, train, tell until the trials are used up; gives all trials with their labels, pilots first.

    The searcher is told the label at the first rung, which every trial has, pilots included (own choice: one kind of
    label in one model), and NaN for a trial that failed at any rung.
    """
    plan, space = context.plan, context.space
    options = compiler_options()
    ask = jax.jit(searcher.ask, compiler_options=options)
    tell = jax.jit(searcher.tell, compiler_options=options)
    state = searcher.init(jax.random.key(plan.seed))
    reference = np.array([space.baseline], np.int32)
    state = tell(state, reference, np.zeros((1, 2), np.float32))

    def learn(state: Any, found: list[Climb]) -> Any:
        trials = [c.trial for c in found]
        labels = [c.labels.get(fidelity.rungs[0], math.nan) for c in found]
        return tell(state, configs_of(trials), metrics_of(trials, labels))

    climbs = list(pilots)
    if climbs:
        state = learn(state, climbs)
    round_index = 0
    while len(climbs) < plan.trials:
        size = min(plan.batch_size, plan.trials - len(climbs))
        done = run_round(context, ask, state, round_index, size, baseline, fidelity)
        check_diverged([c.trial for c in done], plan.max_diverged)
        state = learn(state, done)
        climbs += done
        round_index += 1
    return climbs


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
    confirmed: Confirmed,
    chosen: dict[str, list[int]],
    test: dict[str, Any],
    warnings: list[Warning_],
) -> dict[str, Any]:
    """The interface that reports, tables and other programs read."""
    objective, space, plan = context.objective, context.space, context.plan
    main = plan.metric if plan.metric in objective.metrics else objective.metrics[0]
    speeds = speed.measure(context, chosen)
    luck = survival.label_luck(trials, baseline)
    warnings = [
        *warnings,
        *survival.confirmation_warnings(confirmed),
        *filter(None, [survival.luck_warning(luck)]),
    ]

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
            "qps": speeds[name]["qps"],
            "qps_ratio": {k: speeds[name][k] for k in ("ratio", "low", "high")},
            "flops_compiled": measured(context, config)["flops_compiled"],
            "ne": mean_of(test["ne"][name][main]) if test else None,
            "test": test["gain"].get(name) if test and name != "baseline" else None,
        }
        if index is not None:
            entry["validation_gain_percent"] = survival.validation_gain(confirmed.gains[index])
        return entry

    roles = confirmed.roles
    models = {name: model(name, getattr(roles, name)) for name in Roles._fields}
    reference = model("baseline", None)
    winner, equal_ne = models["winner"], models["equal_ne"]
    gains = (winner or {}).get("test") or {}
    # Held-out rows of one class have no NE of this metric: the verdict is that on validation.
    gain = gains.get(main) if (gains.get(main) or {}).get("mean") is not None else None
    validation = (winner or {}).get("validation_gain_percent")
    return {
        "status": "finished",
        "name": objective.name,
        "metric": plan.metric,
        "tasks": list(objective.metrics),
        "seed": plan.seed,
        "seeds": list(confirmed.seeds),
        "choice_seeds": list(finals.seeds),
        "num_trials": len(trials),
        "num_failed": sum(t.status == "failed" for t in trials),
        "fidelity_fraction": fidelity.rungs[0],
        "fidelity_rungs": list(fidelity.rungs),
        "kendall_tau": fidelity_record.get("chosen_tau"),
        "kendall_tau_interval": [fidelity_record.get(f"chosen_{end}") for end in ("low", "high")],
        "seed_noise_percent": baseline.noise_percent,
        "baseline": reference,
        "winner": winner,
        "winner_equal_cost": models["equal_cost"],
        "winner_equal_ne": equal_ne,
        "ne_gain_percent": gain or validation,
        "ne_gain_on": "held-out test" if gain else "validation",
        "flops_gain_percent": None if equal_ne is None else 100 * (equal_ne["flops_ratio"] - 1),
        **qps_gain(equal_ne),
        "equal_ne": survival.equal_ne(context, finals, confirmed),
        "verdict": survival.power(
            baseline,
            (gains.get(main) or {}).get("gains") or (validation or {}).get("seeds") or [],
            len(confirmed.seeds),
        ),
        "label_luck": luck,
        "finalists": survival.finalists(context, baseline, trials, finals, confirmed, test),
        "per_task": {
            metric: {
                "baseline_ne": mean_of(test["ne"]["baseline"][metric]),
                "winner_ne": mean_of(test["ne"]["winner"][metric]),
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


def mean_of(values: Sequence[float | None]) -> float | None:
    """Over seeds; None where one is unknown."""
    known = [v for v in values if v is not None]
    return float(np.mean(known)) if known and len(known) == len(values) else None


def measured(context: Context, config: np.ndarray) -> dict[str, Any]:
    """The compiler's FLOPs, once for each model of the table."""
    key = str(config.tolist())
    known = {r["config"]: r for r in context.ledger.records("measured")}
    if key not in known:
        compiled = context.objective.compiled_flops
        known[key] = {"config": key, "flops_compiled": compiled(config) if compiled else None}
        context.ledger.record("measured", key, known[key])
    return known[key]


def qps_gain(model: dict[str, Any] | None) -> dict[str, Any]:
    """Percent against the baseline with its 95% interval over repeats; positive is faster."""
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
        self._rounds = 0.5 * (plan.trials - plan.num_pilots)  # full runs, until it is known

    def expect(self, fidelity: Fidelity) -> None:
        """The fidelity is decided: from now on the rounds' work is known."""
        plan = self._plan
        self._rounds = total_cost(
            fidelity, plan.trials - plan.num_pilots, 1, batch_size=plan.batch_size
        )

    def tick(self, stage: str, trial: Trial | None, message: str) -> None:
        """One trial ended (or a stage says something)."""
        plan = self._plan
        if trial is not None:
            self._ended[trial.id] = trial
        ended = list(self._ended.values())
        searched = [t for t in ended if t.stage in ("pilot", "round")]
        final_seeds = plan.noise_seeds if plan.final_seeds == "auto" else int(plan.final_seeds)
        work = plan.noise_seeds + plan.num_pilots + self._rounds
        work += plan.trials * self.COMPILE_SHARE
        work += (plan.finalists + 3) * plan.choice_seeds + 3 * final_seeds
        trained = trained_examples(ended, self._num_rows)
        done = trained / self._num_rows + self.COMPILE_SHARE * len(searched)
        self._notify(
            Event(
                stage=stage,
                message=message,
                done_share=min(1.0, done / work),
                trials_done=len(searched),
                trials_total=plan.trials,
                num_failed=sum(t.status == "failed" for t in searched),
                trained_rows=trained,
                best=rungs.best(ended, self._ledger.records(rungs.KIND)),
            )
        )
