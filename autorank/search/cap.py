"""The cap on a search's cost (`Budget.max_flops_ratio`): what may be trained, by the objective's own count."""

import numpy as np

from autorank.objectives.base import Objective
from autorank.search.budget import Budget
from autorank.search.context import Context, SearchStopped
from autorank.searchers.known_cost import cap_of
from autorank.space.space import Space


def require_cost(objective: Objective, budget: Budget) -> None:
    """Refuses a cap on what cannot be known before training.

    Raises:
        SearchStopped: naming the setting.
    """
    if budget.max_flops_ratio is not None and objective.cost is None:
        raise SearchStopped(
            f"search.max_flops_ratio={budget.max_flops_ratio:g}: {objective.name} does not know what a configuration "
            f"costs before it is trained; write search.max_flops_ratio=null"
        )


def within(objective: Objective, space: Space, budget: Budget, configs: np.ndarray) -> np.ndarray:
    """Which configurations ``[n, k]`` may be trained, bool ``[n]``."""
    if budget.max_flops_ratio is None or not len(configs):
        return np.ones(len(configs), bool)
    assert objective.cost is not None
    baseline = float(objective.cost(np.array([space.baseline], np.int32))[0])
    return objective.cost(configs) <= cap_of(baseline, budget.max_flops_ratio)


def refuse_dear(context: Context, configs: np.ndarray) -> None:
    """Refuses to train what costs more than the cap, should a searcher propose it.

    Raises:
        SearchStopped: naming the configuration.
    """
    good = within(context.objective, context.space, context.budget, configs)
    if not good.all():
        dear = context.space.decode(configs[int(np.argmin(good))])
        raise SearchStopped(
            f"search.max_flops_ratio={context.budget.max_flops_ratio:g}: the searcher proposed {dear}, which costs "
            f"more; make it with autorank.searchers.region.within_cap"
        )
