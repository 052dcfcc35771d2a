"""Pilots: configurations trained to the end before the search, which say how much of the log a trial needs."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from autorank.fidelity.fidelity import Fidelity
from autorank.ledger import rungs
from autorank.ledger.rungs import Climb, climb
from autorank.ledger.trial import Trial
from autorank.search.baseline import Baseline
from autorank.search.checks import check_failures
from autorank.search.context import PILOT_KEY, Context
from autorank.search.evaluation import Batch, Proposals, curve_of, evaluate
from autorank.space.space import Space


class Pilots(NamedTuple):
    """Trials and their gain curves ``[p, t]``, percent against the baseline's mean curve."""

    trials: list[Trial]
    gains: np.ndarray


def run_pilots(context: Context, baseline: Baseline) -> Pilots:
    """Trains pilots on the whole log: half random, half near the baseline (own choice).

    Raises:
        SearchStopped: most of them fail.
    """
    trials = train_pilots(context, baseline) if context.budget.num_pilots else []
    gains = [baseline.gain_curve(curve_of(context, t)) for t in trials]
    return Pilots(trials, np.array(gains).reshape(len(trials), context.objective.num_windows))


def train_pilots(context: Context, baseline: Baseline) -> list[Trial]:
    """The pilots' rows."""
    budget = context.budget

    def design() -> Proposals:
        key = jax.random.fold_in(jax.random.key(budget.seed), PILOT_KEY)
        configs = pilot_design(key, context.space, budget.num_pilots, budget.pilot_mutation)
        return Proposals(configs, [budget.seed] * budget.num_pilots)

    batch = Batch("pilot", 0, design, baseline.label, reference_flops=baseline.flops)
    trials = evaluate(context, batch)
    check_failures(trials, budget.max_diverged)
    return trials


def pilot_design(
    key: jax.Array, space: Space, num_pilots: int, mutation_rate: float = 0.15
) -> np.ndarray:
    """Distinct configurations ``[num_pilots, k]`` without the baseline; fewer in a tiny space."""
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


def label_pilots(
    context: Context, baseline: Baseline, pilots: Pilots, fidelity: Fidelity
) -> list[Climb]:
    """Pilots with a label at every rung, from their gain curves; recorded for the ledger's readers."""

    def labels_of(curve: np.ndarray) -> dict[float, float]:
        return {r: float(fidelity.label(curve, r, where=baseline.where)) for r in fidelity.rungs}

    pairs = zip(pilots.trials, pilots.gains, strict=True)
    found = [climb([trial], labels_of(curve)) for trial, curve in pairs]
    by_trial = {c.trial.id: [c.labels.get(rung) for rung in fidelity.rungs] for c in found}
    context.ledger.record(rungs.KIND, "pilots", {"rungs": list(fidelity.rungs), "pilots": by_trial})
    return found
