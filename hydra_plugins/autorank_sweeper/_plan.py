"""How a sweep proceeds, from its settings: which searcher, what is told to it, in rounds or in flight."""

from collections.abc import Mapping
from typing import Any

from hydra.errors import CompactHydraException
from hydra.plugins.launcher import Launcher

from autorank.space.space import Space
from autorank.sweep.named import ASK_WITH_ROLES, NamedSearcher, grid_size_of
from autorank.sweep.rules import SweepRules
from hydra_plugins.autorank_sweeper._launchers import can_overlap, in_process


def searcher_of(settings: Mapping[str, Any], space: Space) -> NamedSearcher:
    """The searcher that the settings name."""
    return NamedSearcher(settings["searcher"], space, settings["initial"], settings["alpha"])


def grid_size(settings: Mapping[str, Any]) -> int:
    """Points of an interval: the user's number, or the searcher's.

    Raises:
        CompactHydraException: an unknown searcher.
    """
    try:
        own = grid_size_of(settings["searcher"])
    except ValueError as error:
        raise CompactHydraException(f"hydra.sweeper.{error}") from error
    return settings["grid_size"] or own


def in_flight(settings: Mapping[str, Any], launcher: Launcher) -> bool:
    """Whether trials are started one by one as workers become free, rather than in rounds.

    Raises:
        CompactHydraException: that is asked for, but the launcher runs jobs in the driver's process.
    """
    asked = settings["asynchronous"]
    overlap = can_overlap(launcher) if asked is None else asked
    if overlap and in_process(launcher):
        raise CompactHydraException(
            "hydra.sweeper.asynchronous=true needs a launcher that runs jobs in other processes "
            "(hydra/launcher=joblib, submitit_local, submitit_slurm, autorank_ray)"
        )
    return overlap


def sweep_plan(settings: Mapping[str, Any], searcher: NamedSearcher, overlap: bool) -> SweepRules:
    """What may be proposed and how results are read."""
    roles = searcher.has_roles
    # In flight one proposal is asked for at a time; those of a round are made together.
    ask = 1 if overlap else settings["batch_size"]
    return SweepRules(
        trials=settings["trials"],
        seed=settings["seed"],
        maximize=settings["direction"] == "maximize",
        max_failure_rate=settings["max_failure_rate"],
        alpha=0.0 if searcher.weighs_cost else settings["alpha"],
        cost_cap=settings["cost_cap"],
        batch_size=max(ASK_WITH_ROLES, settings["batch_size"]) if roles else ask,
        roles=roles,
        in_order=searcher.space.cardinality() <= settings["trials"],
    )


def round_size(settings: Mapping[str, Any], plan: SweepRules) -> int:
    """Proposals of a round; an exhaustive sweep is a single round."""
    if plan.in_order:
        return plan.trials
    cap = settings["max_batch_size"]
    return min(settings["batch_size"], cap or settings["batch_size"])
