"""Finalists on all data, and which of them are chosen.

Three kinds of seeds, none of which has two uses: trials train with the search's own, finalists are chosen by a few
fresh ones, and the verdict on the chosen models comes from fresh ones again (`confirm`). So neither the luck of the
run that made a label nor that of the best of several finalists counts as a gain.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from autorank.ledger.rungs import SEARCHED
from autorank.ledger.trial import Trial
from autorank.search.baseline import Baseline
from autorank.search.context import Context
from autorank.search.evaluation import Batch, Proposals, curve_of, evaluate


def pick_finalists(
    trials: Sequence[Trial],
    count: int,
    noise_percent: float,
    *,
    equal_cost: float = 1.05,
    margin: float = 0.1,
    believed: Mapping[int, float] | None = None,
) -> list[list[int]]:
    """Distinct configurations: the best, the best at equal cost, then candidates for equal NE.

    The best are those that are believed to be: the lowest label among many is low by luck. Candidates for equal NE are
    cheaper than the baseline. A label is off by the seed noise, so there are two safe ones (the cheapest that are
    better than the margin by the noise) and two bold ones (the cheapest within the margin).

    Args:
        trials: with labels at one rung.
        count: how many of the best by label.
        noise_percent: the seed noise.
        equal_cost: FLOPs ratio to the baseline up to which a model counts as "at equal cost".
        margin: percent by which a model "at equal NE" may be worse.
        believed: what stands in for the label, by the trial's id; None takes the labels.
    """
    finished = [
        (t.quality if believed is None else believed[t.id], t.cost, t.id, t)
        for t in trials
        if t.quality is not None and t.cost is not None
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


def choose_finalists(
    context: Context,
    trials: Sequence[Trial],
    noise_percent: float,
    believed: Mapping[int, float] | None,
) -> list[list[int]]:
    """`pick_finalists` by the plan of a search."""
    budget = context.budget
    return pick_finalists(
        trials,
        budget.finalists,
        noise_percent,
        equal_cost=budget.equal_cost,
        margin=budget.equal_ne_margin,
        believed=believed,
    )


class Finals(NamedTuple):
    """Finalists on all data, seed by seed."""

    configs: list[list[int]]
    # Percent against the baseline's run of that seed, [finalists, seeds]; NaN = failed.
    gains: np.ndarray
    costs: np.ndarray  # [finalists], log FLOPs ratio
    seeds: tuple[int, ...] = ()


def choice_seeds(context: Context, baseline: Baseline) -> tuple[int, ...]:
    """The baseline's seeds that no trial of the search trained with, ``budget.choice_seeds`` at most.

    In a ledger of an earlier version the baseline may have a trial's seed; it is taken only if there is no other.
    """
    budget = context.budget
    taken = {t.seed for t in context.ledger.trials() if t.stage in SEARCHED} | {budget.seed}
    fresh = [s for s in baseline.seeds if s not in taken]
    return tuple((fresh or baseline.seeds)[: budget.choice_seeds])


def run_finals(context: Context, finalists: list[list[int]], baseline: Baseline) -> Finals:
    """Trains each finalist on all data with several fresh seeds; gains are on validation windows, paired by seed."""
    seeds = choice_seeds(context, baseline)
    if not finalists:
        return Finals([], np.zeros((0, len(seeds))), np.zeros(0), seeds)

    def propose() -> Proposals:
        configs = np.repeat(np.array(finalists, np.int32), len(seeds), axis=0)
        return Proposals(configs, [*seeds] * len(finalists))

    batch = Batch("final", 0, propose, baseline.label, reference_flops=baseline.flops)
    found = paired_by_seed(context, evaluate(context, batch), baseline, seeds)
    context.ledger.record(
        "finals",
        "validation",
        {
            "configs": found.configs,
            "seeds": seeds,
            "gain": found.gains.tolist(),
            "costs": found.costs.tolist(),
        },
    )
    return found


def paired_by_seed(
    context: Context, trials: Sequence[Trial], baseline: Baseline, seeds: tuple[int, ...]
) -> Finals:
    """Gains of the finalists' rows against the baseline's curves with the same ``seeds``.

    The rows decide which finalists there are: in a ledger of an earlier version they may be other configurations, and
    have other seeds too.
    """
    first: dict[tuple[int, ...], Trial] = {}
    for trial in trials:
        first.setdefault(trial.config, trial)
    configs = list(first)
    gains = np.full((len(configs), len(seeds)), np.nan)
    for trial in trials:
        if trial.seed in seeds:
            reference = baseline.curves[baseline.seeds.index(trial.seed)]
            gain = baseline.paired_gain(curve_of(context, trial), reference)
            gains[configs.index(trial.config), seeds.index(trial.seed)] = gain
    costs = np.array([first[config].cost or 0.0 for config in configs])
    return Finals([list(c) for c in configs], gains, costs, seeds)


class Roles(NamedTuple):
    """Which finalist has which role; None where none qualifies."""

    # Lowest mean validation NE.
    winner: int | None
    # The same among those at the baseline's cost or below.
    equal_cost: int | None
    # The cheapest among those not worse than the baseline on validation.
    equal_ne: int | None


def choose_roles(finals: Finals, equal_cost: float = 1.05, without: Collection[int] = ()) -> Roles:
    """Chooses by the mean validation gain over seeds; ``without`` names finalists that do not count.

    A finalist that failed with any seed does not count either. The choice for equal NE is only a candidate, which
    `confirm.confirm` tests: the cheapest whose mean is no worse than the baseline's, or else the best of those that
    are cheaper.

    Examples:
        >>> finals = Finals([[0], [1]], gains=np.array([[-0.3, -0.1], [0.1, -0.2]]), costs=np.array([0.4, -0.7]))
        >>> choose_roles(finals)
        Roles(winner=0, equal_cost=1, equal_ne=1)
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


def chosen_models(baseline: Sequence[int], finals: Finals, roles: Roles) -> dict[str, list[int]]:
    """Configurations of the baseline and of each role that a finalist has, by name."""
    names = {name: i for name, i in roles._asdict().items() if i is not None}
    return {"baseline": list(baseline)} | {name: finals.configs[i] for name, i in names.items()}
