"""How a sweep proceeds, from its settings: which searcher, what is told to it, in rounds or in flight."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from hydra.errors import CompactHydraException
from hydra.plugins.launcher import Launcher

from autorank.app import build_searchers
from autorank.searchers.base import Searcher
from autorank.space.space import Space
from autorank.sweep.sweep import SweepPlan
from hydra_plugins.autorank_sweeper._launchers import can_overlap, in_process

# Proposals per ask of a searcher whose proposals have roles; fewer are taken in turn.
LEAST_ASK = 8
# Searchers that predict no cost: alpha weighs it in what they are told.
WITHOUT_FORECAST = ("random", "evolution", "reinforce")


class NamedSearcher(NamedTuple):
    """Makes the searcher of a name in the sizes that a sweep asks for."""

    name: str
    space: Space
    initial: int | None
    alpha: float

    def __call__(self, batch_size: int, capacity: int) -> Searcher:
        """A searcher of ``batch_size`` proposals an ask and a history of ``capacity`` trials."""
        return build_searchers.named_searcher(
            self.name,
            self.space,
            capacity=capacity,
            batch_size=batch_size,
            initial=self.initial,
            alpha=self.alpha,
        )


def searcher_of(settings: Mapping[str, Any], space: Space) -> NamedSearcher:
    """The searcher that the settings name.

    Raises:
        CompactHydraException: an unknown name.
    """
    name, known = settings["searcher"], build_searchers.searcher_names()
    if name not in known:
        raise CompactHydraException(
            f"hydra.sweeper.searcher={name} is not known; write one of {', '.join(known)}"
        )
    return NamedSearcher(name, space, settings["initial"], settings["alpha"])


def grid_size(settings: Mapping[str, Any]) -> int:
    """Points of an interval: the user's number, or the searcher's."""
    return settings["grid_size"] or build_searchers.grid_size(settings["searcher"])


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


def sweep_plan(settings: Mapping[str, Any], space: Space, overlap: bool) -> SweepPlan:
    """What may be proposed and how results are read."""
    name = settings["searcher"]
    roles = build_searchers.has_roles(name)
    # In flight one proposal is asked for at a time; those of a round are made together.
    ask = 1 if overlap else settings["batch_size"]
    return SweepPlan(
        trials=settings["trials"],
        seed=settings["seed"],
        maximize=settings["direction"] == "maximize",
        max_failure_rate=settings["max_failure_rate"],
        alpha=settings["alpha"] if name in WITHOUT_FORECAST else 0.0,
        cost_cap=settings["cost_cap"],
        batch_size=max(LEAST_ASK, settings["batch_size"]) if roles else ask,
        roles=roles,
        in_order=space.cardinality() <= settings["trials"],
    )


def round_size(settings: Mapping[str, Any], plan: SweepPlan) -> int:
    """Proposals of a round; an exhaustive sweep is a single round."""
    if plan.in_order:
        return plan.trials
    cap = settings["max_batch_size"]
    return min(settings["batch_size"], cap or settings["batch_size"])
