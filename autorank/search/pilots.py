"""Pilots: configurations trained to the end before the search, which say how much of the log a trial needs."""

from functools import partial
from typing import NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

from autorank.fidelity.fidelity import Fidelity
from autorank.ledger import rungs
from autorank.ledger.rungs import Climb, climb
from autorank.ledger.trial import Trial
from autorank.search.baseline import Baseline
from autorank.search.cap import within
from autorank.search.checks import check_failures
from autorank.search.context import PILOT_KEY, Context, SearchStopped
from autorank.search.evaluation import Batch, Proposals, curve_of, evaluate
from autorank.space.space import Space


class Pilots(NamedTuple):
    """Trials and their gain curves ``[p, t]``, percent against the baseline's mean curve."""

    trials: list[Trial]
    gains: np.ndarray


@runtime_checkable
class May(Protocol):
    """Says what may be trained."""

    def __call__(self, configs: np.ndarray, /) -> np.ndarray:
        """Bool ``[n]`` for configurations ``[n, k]``."""
        ...


def run_pilots(context: Context, baseline: Baseline) -> Pilots:
    """Trains pilots on the whole log: half random, half near the baseline (own choice).

    The best trials of earlier searches, where there are some, take the places of some near the baseline.

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
        may = None
        if budget.max_flops_ratio is not None:
            may = partial(within, context.objective, context.space, budget)
        configs = pilot_design(
            key, context.space, budget.num_pilots, budget.pilot_mutation, may, context.first
        )
        if not len(configs):
            raise SearchStopped(
                f"search.max_flops_ratio={budget.max_flops_ratio} leaves nothing but the baseline; write a larger one"
            )
        return Proposals(configs, [budget.seed] * len(configs))

    batch = Batch("pilot", 0, design, baseline.label, reference_flops=baseline.flops)
    trials = evaluate(context, batch)
    check_failures(trials, budget.max_diverged)
    return trials


def pilot_design(
    key: jax.Array,
    space: Space,
    num_pilots: int,
    mutation_rate: float = 0.15,
    may: May | None = None,
    first: np.ndarray | None = None,
) -> np.ndarray:
    """Distinct configurations ``[num_pilots, k]`` without the baseline; fewer in a tiny space.

    Args:
        key: of the draws.
        space: the search space.
        num_pilots: how many.
        mutation_rate: share of decisions that one near the baseline changes.
        may: which configurations may be trained; None is all. Where random ones may not, ones near the baseline
            stand in for them, and then changes of one decision after another.
        first: configurations ``[n, k]`` that come before those near the baseline; half of the pilots at most.
    """
    random_key, near_key = jax.random.split(key)
    pool = 16 * num_pilots
    baseline = jnp.tile(jnp.array(space.baseline, jnp.int32), (pool, 1))
    # As programs: on an accelerator each operation outside of one is compiled by itself.
    near = np.asarray(jax.jit(space.mutate)(near_key, baseline, mutation_rate))
    random = np.asarray(jax.jit(space.sample, static_argnums=1)(random_key, pool))
    if first is not None:
        near = np.concatenate([first, near]).astype(np.int32)
    sources = [random, near]
    if may is not None:
        sources = [source[may(source)] for source in (random, near)]
        sources[1] = np.concatenate([sources[1], walked(near_key, space, pool, may)])
    random, near = sources
    chosen: dict[bytes, np.ndarray] = {np.array(space.baseline, np.int32).tobytes(): near[:1]}
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


def walked(key: jax.Array, space: Space, n: int, may: May, steps: int = 16) -> np.ndarray:
    """Ends of ``n`` random walks from the baseline that change one decision at a time and stay where they may."""
    configs = np.tile(np.array(space.baseline, np.int32), (n, 1))
    for step in range(steps):
        moved = np.asarray(space.mutate(jax.random.fold_in(key, step), configs, 1e-6))
        configs = np.where(may(moved)[:, None], moved, configs)
    return configs


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
