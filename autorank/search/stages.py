"""Stages of a search up to its finalists, each through the ledger: seed noise, pilots, rounds.

Every stage asks the ledger first. What is there is not done again, what was in flight is done again with the same
configuration and seed, so an interrupted search continues as if nothing had happened. Source: arXiv 2311.07870; own
choice: labels are taken on *gain* curves (percent against the baseline's mean curve on the same rows), which removes
what all models share.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from autorank.base.measurable import of_metric
from autorank.base.metrics import ne_gain_percent
from autorank.fidelity.curve_label import curve_label, curve_labels
from autorank.fidelity.fidelity import Fidelity
from autorank.fidelity.rungs import Climb, climb
from autorank.ledger.ledger import Ledger, LedgerMismatch, Trial
from autorank.objectives.base import Objective, Outcome
from autorank.space.space import Space

# Streams of randomness that must not coincide: fold_in of the seed's key with one of these.
POLICY_KEY, PILOT_KEY, DIAGNOSE_KEY = range(3)


class Plan(NamedTuple):
    """How long each stage is."""

    trials: int  # pilots and rounds together
    seed: int
    metric: str  # one of the objective's metrics, or "mean"
    num_pilots: int
    batch_size: int
    noise_seeds: int
    final_seeds: int | str  # "auto": until the interval is narrow
    finalists: int
    max_diverged: float
    # The defaults are those of the settings of the same names.
    choice_seeds: int = 3
    final_half_width: float = 0.1
    max_final_seeds: int = 20
    equal_cost: float = 1.05
    equal_ne_margin: float = 0.1
    pilot_mutation: float = 0.15
    test_finalists: bool = True


class SearchStopped(RuntimeError):
    """The search cannot go on sensibly; the message says what to change."""


class Context(NamedTuple):
    """What every stage needs."""

    objective: Objective
    space: Space
    ledger: Ledger
    plan: Plan
    notify: Callable[[str, Trial | None, str], None]  # stage, trial that just ended, message


class Baseline(NamedTuple):
    """The reference of every gain."""

    curves: np.ndarray  # [seeds, t], window NE of the searched metric
    mean_curve: np.ndarray  # [t]
    flops: float
    noise_percent: float  # standard deviation over seeds of the label, percent of the mean NE
    where: np.ndarray  # bool [t], windows in which the searched metric can be measured
    seeds: tuple[int, ...] = ()  # of the curves; never one that a trial of the search trains with


def metric_curve(curve: Any, metrics: Sequence[str], metric: str) -> np.ndarray:
    """The searched metric's windows ``[t]`` of a curve ``[t, q]``; "mean" averages the metrics."""
    curve = np.array([[np.nan if v is None else v for v in row] for row in curve], np.float64)
    return curve.mean(axis=1) if metric == "mean" else curve[:, list(metrics).index(metric)]


# --- evaluating through the ledger -----------------------------------------------------------------------------


def evaluate(
    context: Context,
    stage: str,
    round_index: int,
    propose: Callable[[], tuple[np.ndarray, Sequence[int], np.ndarray | None]],
    fidelity: float,
    labeller: Callable[[np.ndarray], float],
    baseline_flops: float | None,
) -> list[Trial]:
    """Runs one batch, or what the ledger still lacks of it, and gives its rows in order.

    ``labeller`` turns the searched metric's NE curve ``[t]`` into the quality (lower is better, NaN = failed).
    """
    ledger, objective = context.ledger, context.objective
    trials = ledger.trials(stage, round_index)
    if not trials:
        configs, seeds, predicted = propose()
        trials = ledger.propose(stage, round_index, configs, seeds, fidelity, predicted)
    waiting = [t for t in trials if t.status == "proposed"]
    if waiting:
        configs = np.array([t.config for t in waiting], np.int32)
        for i, outcome in objective.evaluate(configs, [t.seed for t in waiting], fidelity):
            quality = cost = None
            if not outcome.failed:
                value = labeller(
                    metric_curve(outcome.curve, objective.metrics, context.plan.metric)
                )
                quality = float(value) if math.isfinite(value) else None
            if baseline_flops and math.isfinite(outcome.flops):
                cost = math.log(outcome.flops / baseline_flops)
            done = ledger.finish(waiting[i].id, as_record(outcome), quality, cost)
            context.notify(stage, done, outcome.failed)
    return ledger.trials(stage, round_index)


def as_record(outcome: Outcome) -> dict[str, Any]:
    """An outcome as JSON values; NaN becomes null in the ledger."""
    return outcome._asdict() | {"curve": outcome.curve.tolist(), "ne": list(outcome.ne)}


def curve_of(context: Context, trial: Trial) -> np.ndarray:
    """The searched metric's NE curve of a finished trial; all NaN for a failed one."""
    if trial.status != "finished" or trial.outcome is None:
        return np.full(context.objective.num_windows, np.nan)
    return metric_curve(trial.outcome["curve"], context.objective.metrics, context.plan.metric)


# --- the stages ------------------------------------------------------------------------------------------------


def measure_baseline(context: Context, tail: float) -> Baseline:
    """Trains the baseline on all data with several seeds: the reference curve and the seed noise.

    Trials train with ``plan.seed``, so the baseline has the seeds after it. (In ledgers of earlier versions it has
    others; they stay as they are.)
    """
    plan, space = context.plan, context.space
    first = plan.seed + 1
    configs = np.tile(np.array(space.baseline, np.int32), (plan.noise_seeds, 1))
    objective = context.objective
    known = None
    if objective.measurable is not None:
        known = of_metric(objective.measurable, objective.metrics, plan.metric)

    def own(curve: np.ndarray) -> float:
        # Without a failure, what a curve has not got could not be measured.
        return curve_label(
            curve, 1.0, tail=tail, where=np.isfinite(curve) if known is None else known
        )

    trials = evaluate(
        context,
        "seed_noise",
        0,
        lambda: (configs, range(first, first + plan.noise_seeds), None),
        1.0,
        own,
        None,
    )
    failed = [t for t in trials if t.status != "finished"]
    if failed:
        raise SearchStopped(
            f"the baseline itself failed with seed {failed[0].seed}: {failed[0].reason}. Choose another "
            f"baseline settings (a smaller training.dense_rate or training.table_rate first)"
        )
    curves = np.array([curve_of(context, t) for t in trials])
    where = np.asarray(np.isfinite(curves).any(axis=0) if known is None else known)
    levels = curve_labels(curves, 1.0, tail=tail, where=where)
    noise = float(100 * levels.std(ddof=1) / levels.mean()) if len(levels) > 1 else 0.0
    assert trials[0].outcome is not None
    context.ledger.record("seed_noise", "baseline", {"ne": levels.tolist(), "noise_percent": noise})
    flops, seeds = float(trials[0].outcome["flops"]), tuple(t.seed for t in trials)
    return Baseline(curves, curves.mean(axis=0), flops, noise, where, seeds)


def run_pilots(context: Context, baseline: Baseline, tail: float) -> list[Trial]:
    """Trains pilots to the end: half random, half near the baseline (own choice, METHOD 4)."""
    plan, space = context.plan, context.space
    if plan.num_pilots == 0:
        return []

    def design() -> tuple[np.ndarray, Sequence[int], None]:
        key = jax.random.fold_in(jax.random.key(plan.seed), PILOT_KEY)
        pilots = pilot_design(key, space, plan.num_pilots, plan.pilot_mutation)
        return pilots, [plan.seed] * plan.num_pilots, None

    trials = evaluate(
        context,
        "pilot",
        0,
        design,
        1.0,
        lambda curve: curve_label(
            ne_gain_percent(curve, baseline.mean_curve), 1.0, tail=tail, where=baseline.where
        ),
        baseline.flops,
    )
    check_diverged(trials, plan.max_diverged)
    return trials


def pilot_design(
    key: jax.Array, space: Space, num_pilots: int, mutation_rate: float = 0.15
) -> np.ndarray:
    """Distinct configurations ``[num_pilots, k]``, none of them the baseline (fewer in a tiny space)."""
    random_key, near_key = jax.random.split(key)
    pool = 16 * num_pilots
    near = jnp.tile(jnp.array(space.baseline, jnp.int32), (pool, 1))
    near = np.asarray(space.mutate(near_key, near, mutation_rate))
    random = np.asarray(space.sample(random_key, pool))
    chosen: dict[bytes, np.ndarray] = {np.array(space.baseline, np.int32).tobytes(): near[0]}
    for source, until in (
        (random, num_pilots - num_pilots // 2),
        (near, num_pilots),
        (random, num_pilots),
    ):
        for config in source:
            if len(chosen) - 1 >= until:
                break
            chosen.setdefault(config.tobytes(), config)
    return np.array(list(chosen.values())[1:], np.int32)


def check_diverged(trials: list[Trial], limit: float) -> None:
    """Stops a search whose trials mostly fail: more of the same would only burn time."""
    failed = [t for t in trials if t.status == "failed"]
    if trials and len(failed) / len(trials) > limit:
        raise SearchStopped(
            f"{len(failed)} of {len(trials)} {trials[0].stage} trials failed, more than "
            f"search.max_diverged={limit}; the last reason: {failed[-1].reason}. Narrow the space (learning rates, "
            f"init scale, sizes) or raise search.max_diverged"
        )


def run_round(
    context: Context,
    ask: Callable,
    state: Any,
    round_index: int,
    size: int,
    baseline: Baseline,
    fidelity: Fidelity,
) -> list[Climb]:
    """Proposes ``size`` configurations and trains them up the fidelity's rungs; each with its labels.

    Only what was promoted to a rung competes for the next one.

    Raises:
        LedgerMismatch: the ledger's promotions are not those of its labels.
    """
    plan, ledger = context.plan, context.ledger
    count = int(state.history.count)

    def propose() -> tuple[np.ndarray, Sequence[int], np.ndarray]:
        key = jax.random.fold_in(jax.random.key(plan.seed), POLICY_KEY)
        proposal = jax.tree.map(np.asarray, ask(jax.random.fold_in(key, count), state))
        info = {name: np.asarray(value).tolist() for name, value in proposal.info.items()}
        ledger.record("policy", str(round_index), {"round": round_index} | info)
        return proposal.configs[:size], [plan.seed] * size, proposal.predicted[:size]

    def label_at(rung: float) -> Callable[[np.ndarray], float]:
        return lambda curve: float(
            fidelity.label(ne_gain_percent(curve, baseline.mean_curve), rung, where=baseline.where)
        )

    first, *higher = fidelity.rungs
    rows = evaluate(context, "round", round_index, propose, first, label_at(first), baseline.flops)
    reached = [[trial] for trial in rows]
    alive = reached
    for level, rung in enumerate(higher, start=1):
        labels = np.array([quality_of(own[-1]) for own in alive])
        alive = [alive[i] for i in fidelity.keep(labels)]
        if not alive:
            break
        batch = 100 * round_index + level
        for own, trial in zip(
            alive, promote(context, batch, alive, rung, label_at(rung), baseline), strict=True
        ):
            own.append(trial)
    return [climb(own) for own in reached]


def promote(
    context: Context,
    batch: int,
    alive: Sequence[Sequence[Trial]],
    rung: float,
    labeller: Callable[[np.ndarray], float],
    baseline: Baseline,
) -> list[Trial]:
    """Trains the survivors, each given by its rows so far, on to a rung; their new rows in order."""
    before = [own[-1] for own in alive]
    rows = evaluate(
        context,
        "promotion",
        batch,
        lambda: (configs_of(before), [t.seed for t in before], None),
        rung,
        labeller,
        baseline.flops,
    )
    if [(t.config, t.seed) for t in rows] != [(t.config, t.seed) for t in before]:
        raise LedgerMismatch(
            f"{context.ledger.path}: its promotions to {rung:g} of the log are not the best of the rung below. "
            f"Give this run another name, or move the folder {context.ledger.path.parent} away"
        )
    return rows


def quality_of(trial: Trial) -> float:
    """NaN for a failed trial."""
    return math.nan if trial.quality is None else trial.quality


def metrics_of(trials: Sequence[Trial], labels: Sequence[float]) -> np.ndarray:
    """What a searcher is told, float32 ``[n, 2]``: NE gain in percent, log FLOPs ratio."""
    costs = [0.0 if t.cost is None else t.cost for t in trials]
    return np.stack([np.asarray(labels, np.float32), np.asarray(costs, np.float32)], axis=1)


def configs_of(trials: Sequence[Trial]) -> np.ndarray:
    """int32 ``[n, k]``."""
    return np.array([t.config for t in trials], np.int32)
