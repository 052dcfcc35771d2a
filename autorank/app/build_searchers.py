"""Searchers by their names, for any space. Apart from `build`, which loads everything that trains."""

import functools
from typing import TYPE_CHECKING, Any

from autorank.app.settings import PredictorConfig, SearcherConfig
from autorank.searchers.base import Searcher
from autorank.searchers.bayes import bayes
from autorank.searchers.evolution import evolution
from autorank.searchers.random_search import random_search
from autorank.searchers.reinforce import reinforce
from autorank.space.space import Space

if TYPE_CHECKING:
    from autorank.surrogates.predictor import Predictor

SEARCHERS = ("bayes", "predictor", "random", "evolution", "reinforce")


def make_predictor(p: PredictorConfig, search_space: Space, capacity: int) -> "Predictor":
    """The ensemble that settings name, over any space."""
    from autorank.surrogates.predictor import (
        ensemble,  # here: it loads flax, and most searchers need none
    )

    return ensemble(
        search_space.num_features,
        capacity=capacity,
        members=p.members,
        hidden=p.hidden,
        loss=p.loss,
        steps=p.steps,
        rate=p.rate,
        weight_decay=p.weight_decay,
        multi_task=p.multi_task,
        bootstrap=p.bootstrap,
        combine=p.combine,
    )


def make_searcher(
    s: SearcherConfig,
    ranker: "Predictor | PredictorConfig",
    search_space: Space,
    *,
    capacity: int,
    initial: int,
) -> Searcher:
    """The searcher that settings name, over any space; ``initial`` trials come before the predictor."""
    common: dict[str, Any] = {"batch_size": s.batch_size, "capacity": capacity}
    if s.name == "random":
        return random_search(search_space, **common)
    if s.name == "evolution":
        return evolution(
            search_space,
            **common,
            population=s.population,
            tournament=s.tournament,
            mutation_rate=s.mutation_rate,
        )
    if s.name == "reinforce":
        return reinforce(search_space, **common, rate=s.rate, entropy_coef=s.entropy_coef)
    if s.name == "bayes":
        return bayes(
            search_space,
            **common,
            initial=s.initial,
            alphas=s.alphas,
            warps=s.warps,
            starts=s.starts,
            fit_steps=s.fit_steps,
            scale_sd=s.scale_sd,
            effects=s.effects,
            margin=s.margin,
            num_climbers=s.num_climbers,
            climb_steps=s.climb_steps,
            feasibility=s.feasibility,
            failures=s.failures,
            mutation_rate=s.mutation_rate,
            noise_median=s.noise_median,
            noise_sd=s.noise_sd,
            effect_sd=s.effect_sd,
            fit_rate=s.fit_rate,
            pool=s.pool,
            num_parents=s.num_parents,
            near_share=s.near_share,
            near_step=s.near_step,
        )
    from autorank.searchers.predictor_search import predictor_search

    if isinstance(ranker, PredictorConfig):
        ranker = make_predictor(ranker, search_space, capacity)
    return predictor_search(
        search_space,
        **common,
        predictor=ranker,
        initial=initial,
        num_exploratory=s.num_exploratory,
        num_local=s.num_local,
        alphas=s.alphas,
        reward=s.reward,
        steps=s.steps,
        samples=s.samples,
        rate=s.rate,
        entropy_coef=s.entropy_coef,
        num_policies=s.num_policies,
        mutation_rate=s.mutation_rate,
        local_pool=s.local_pool,
        local_parents=s.local_parents,
    )


def searcher_names() -> tuple[str, ...]:
    """What `named_searcher` knows."""
    return tuple(dict.fromkeys(("autorank", "paper", *SEARCHERS)))


def has_roles(name: str) -> bool:
    """Whether a searcher's proposals have roles by position (near the best, exploratory, ...)."""
    return name in ("paper", "predictor")


def grid_size(name: str) -> int:
    """Points of an interval: many for searchers that know that neighbours are alike or draw at random, few for those
    that learn each point by itself.
    """
    return 16 if name in ("paper", "predictor", "reinforce") else 64


@functools.lru_cache(maxsize=16)
def named_searcher(
    name: str,
    search_space: Space,
    *,
    capacity: int,
    batch_size: int,
    initial: int | None,
    alpha: float,
) -> Searcher:
    """A searcher by its config's name with the settings of ``configs/searcher``, for spaces that are not ours.

    The same arguments give the same object, so that it is compiled once for several sweeps or studies of a process.

    Args:
        name: one of `searcher_names`.
        search_space: any.
        capacity: most trials that will be told or pending at once.
        batch_size: proposals of an ask.
        initial: trials told before a model is trusted; None is the searcher's own number (20, Gaussian processes 10).
        alpha: weight of the cost in the reward of searchers that predict it.

    Raises:
        ValueError: an unknown name.
    """
    if name not in searcher_names():
        raise ValueError(
            f"searcher={name!r} is not known; write one of {', '.join(searcher_names())}"
        )
    values: dict[str, Any] = {"name": name, "batch_size": batch_size, "alphas": (alpha,)}
    # What configs/searcher/{autorank,paper}.yaml name.
    values["name"] = {"autorank": "bayes", "paper": "predictor"}.get(name, name)
    values["num_exploratory"] = min(2, batch_size - 1)
    if initial is not None:
        values["initial"] = initial
    return make_searcher(
        SearcherConfig(**values),
        PredictorConfig(),
        search_space,
        capacity=capacity,
        initial=20 if initial is None else initial,
    )
