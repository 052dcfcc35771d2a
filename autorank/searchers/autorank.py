"""Bayesian optimisation with Gaussian processes: the best choice for about 100 trials.

Each ``ask`` fits Gaussian processes to all told trials: to their quality, to their cost if it counts, and to which of
them failed (`autorank.surrogates.gaussian_surrogate`). It then chooses, one after another (`greedy_batch`), the
configurations of highest expected improvement times probability of not failing (`acquisition`). These are searched for
among random configurations, mutants and crossings of the best trials (`candidates`), then by changing one decision at a
time (`climbing`). Trials are noisy: what counts is the posterior mean at a trial, not what was told of it, and a trial
may be proposed again. All buffers have fixed sizes, so that only a few programs are compiled.
"""

from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from autorank.base.typing import Array, Key
from autorank.searchers.acquisition import Acquisition, GaussianAcquisition
from autorank.searchers.autorank_settings import AutorankConfig
from autorank.searchers.base import (
    SEARCHERS,
    Context,
    History,
    Proposal,
    Searcher,
    Warm,
    append,
    as_told,
    empty,
    known,
    told_data,
    tried_first,
)
from autorank.searchers.buffers import buffer_sizes
from autorank.searchers.candidates import latin_hypercube
from autorank.searchers.climbing import neighbourhood
from autorank.searchers.freeze_thaw import make_freeze_thaw
from autorank.searchers.front_acquisition import FrontAcquisition
from autorank.searchers.greedy_batch import Chosen, GreedyBatch
from autorank.searchers.novelty import Propose, proposer, unpredicted
from autorank.searchers.region import region_of
from autorank.searchers.repeated import are_exact
from autorank.space.space import Space
from autorank.surrogates.earlier_belief import EarlierBelief, believe_earlier, with_earlier
from autorank.surrogates.gaussian_surrogate import (
    GaussianFit,
    GaussianSurrogate,
    gaussian_surrogate,
    grow,
)
from autorank.surrogates.warping import unstandardise, unwarp


class State(NamedTuple):
    """What was told, and the first configurations to try."""

    history: History
    first: Array  # int32 [n, k]: earlier trials that come before the design
    design: Array  # int32 [initial, k]
    earlier: Any  # an EarlierBelief; None without earlier searches


@SEARCHERS.register(
    "autorank",
    AutorankConfig,
    grid_size=64,
    has_roles=False,
    reads_predictor=False,
    weighs_cost=True,
    finds_front=True,
    warms=True,
    thaws=True,
)
def make_autorank(space: Space, settings: AutorankConfig, context: Context) -> Searcher:
    """Gaussian processes and expected improvement: the best choice for about 100 trials.

    Proposals carry predicted metrics in the told units; a predicted cost is NaN if no alpha weighs the cost. ``info``
    holds, for each proposal, ``repeat``, ``alpha``, ``spread`` (standard deviation of the warped quality),
    ``acquisition`` (log expected improvement) and ``feasible`` (probability of not failing).

    With ``context.goal="front"``, which needs ``context.cost``, what improves is the hypervolume of quality and cost
    (`front_acquisition`): no alphas. With ``context.rungs`` a proposal says how much of the log to see (`freeze_thaw`).

    Examples:
        >>> from autorank.space.space import Decision
        >>> space = Space((Decision("width", (8, 16, 32), "number"),), (0,))
        >>> searcher = make_autorank(space, AutorankConfig(batch_size=2), Context(capacity=16))
        >>> state = searcher.init(jax.random.key(0))
        >>> proposal = jax.eval_shape(searcher.ask, jax.random.key(1), state)  # traced, not run
        >>> proposal.configs.shape, sorted(proposal.info)
        ((2, 1), ['acquisition', 'alpha', 'feasible', 'repeat', 'spread'])
    """
    make = make_freeze_thaw if context.rungs else _make_of_equal_runs
    return make(space, settings, context)


def _make_of_equal_runs(space: Space, settings: AutorankConfig, context: Context) -> Searcher:
    """`make_autorank` where all trials see the same share of the log."""
    batch_size, capacity = settings.batch_size, context.capacity
    repeats, near = settings.repeats and context.repeats, neighbourhood(space)
    cold, region = make_acquisition(space, settings, context), region_of(space, context)
    propose = proposer(space, batch_size=batch_size, capacity=capacity)
    sizes = buffer_sizes(capacity, batch_size)

    def init(key: Key) -> State:
        design = latin_hypercube(key, space, max(settings.initial, 1))
        earlier = context.warm and believe(cold.surrogate, context.warm)
        return State(empty(space, capacity), tried_first(context, space), design, earlier)

    def from_design(key: Key, first: Array, design: Array, history: History) -> Proposal:
        ahead = history.count + jnp.arange(batch_size)
        candidates = design[jnp.minimum(ahead, len(design) - 1)]
        return unpredicted(*propose(key, history, jnp.concatenate([first, candidates]))[:2])

    def from_model(size: int, key: Key, acquisition: Any, history: History) -> Proposal:
        surrogate = acquisition.surrogate
        batch = GreedyBatch(region, acquisition, near, settings, settings, batch_size, repeats)
        fitted = surrogate.fit(key, told_data(history, min(size, capacity)))
        chosen = batch.choose(key, grow(fitted, size), history)
        final_key, weighs_cost = jax.random.fold_in(key, batch_size), surrogate.weighs_cost
        made = _proposal(final_key, propose, history, chosen, fitted, weighs_cost, repeats)
        return with_cost(made, context)

    def ask(key: Key, state: State) -> Proposal:
        history, acquisition = state.history, warmed(cold, settings, state.earlier)
        needed = jnp.searchsorted(jnp.asarray(sizes), history.count + batch_size)
        branches = [partial(from_design, key, state.first, state.design)]
        branches += [partial(from_model, size, key, acquisition) for size in sizes]
        branch = jnp.where(is_ready(settings, history), 1 + needed, 0)
        return jax.lax.switch(branch, branches, history)

    def tell(state: State, configs, metrics) -> State:
        return state._replace(history=append(state.history, configs, metrics))

    def believed(state: State) -> Array:
        return judge(settings, warmed(cold, settings, state.earlier).surrogate, state)

    return Searcher(init, ask, tell, believed, repeats)


def believe(surrogate: GaussianSurrogate, warm: Warm) -> EarlierBelief:
    """What earlier searches say, fitted once."""
    return jax.jit(partial(believe_earlier, surrogate))(warm.configs, warm.quality)


def with_cost(proposal: Proposal, context: Context) -> Proposal:
    """The proposal with the known cost for a predicted one, in a search for the front."""
    if context.goal != "front" or context.cost is None:
        return proposal
    costs = context.cost.log_ratio(proposal.configs)
    return proposal._replace(predicted=proposal.predicted.at[:, 1].set(costs))


def make_acquisition(
    space: Space, settings: AutorankConfig, context: Context
) -> GaussianAcquisition:
    """What proposals are chosen by, for the goal of a search.

    Raises:
        ValueError: the front is the goal, and the cost is not known.
    """
    if context.goal != "front":
        weighs_cost = any(alpha > 0 for alpha in settings.alphas)
        return Acquisition(gaussian_surrogate(space, settings, weighs_cost=weighs_cost), settings)
    if context.cost is None:
        raise ValueError("a search for the front needs to know what configurations cost")
    surrogate = gaussian_surrogate(space, settings, weighs_cost=False)
    return FrontAcquisition(surrogate, settings, context.cost)


def warmed(
    acquisition: GaussianAcquisition, settings: AutorankConfig, earlier: EarlierBelief | None
) -> GaussianAcquisition:
    """The acquisition function whose processes see what earlier searches say, if there are any."""
    if earlier is None:
        return acquisition
    prior = settings.warm_median, settings.warm_sd
    return replace(acquisition, surrogate=with_earlier(acquisition.surrogate, earlier, prior))


def is_ready(settings: AutorankConfig, history: History) -> Array:
    """Whether enough is told to trust a model."""
    finished = jnp.sum(known(history) & jnp.isfinite(history.metrics[:, 0]))
    return (history.count >= settings.initial) & (finished >= 2)


def judge(settings: AutorankConfig, surrogate: GaussianSurrogate, state: State) -> Array:
    """The posterior mean at each trial in the told units (a `Judge`).

    What was told where there is no model yet, and where repeats have shown that results are exact: on a rough function
    the mean takes roughness for noise.
    """
    told = as_told(state)
    fitted = surrogate.fit(jax.random.key(0), told_data(state.history))
    mean, _ = surrogate.qualities(fitted, fitted.quality.features[0])
    found = unwarp(mean[0], fitted.targets[0], told, jnp.isfinite(told))
    noisy = is_ready(settings, state.history) & ~are_exact(state.history)
    return jnp.where(noisy & jnp.isfinite(told), found, told)


def _proposal(
    key: Key,
    propose: Propose,
    history: History,
    chosen: Chosen,
    fitted: GaussianFit,
    weighs_cost: bool,
    repeats: bool,
) -> Proposal:
    """The chosen configurations, without repeats unless these may be, and the predictions in the told units.

    A configuration that replaces a repeat was not predicted: its numbers are NaN.
    """
    n = len(chosen.configs)
    if repeats:
        configs, position = chosen.configs, jnp.arange(n, dtype=jnp.int32)
        same = jnp.all(configs[:, None, :] == history.configs[None], axis=2)
        repeat = jnp.any(same & known(history)[None, :], axis=1)
    else:
        configs, repeat, position = propose(key, history, chosen.configs)
    at, is_chosen = jnp.minimum(position, n - 1), position < n

    def shown(values: Array) -> Array:
        return jnp.where(is_chosen, values[at], jnp.nan)

    targets = fitted.targets[0]
    qualities = history.metrics[: len(targets), 0]
    finished = known(history)[: len(targets)] & jnp.isfinite(qualities)
    quality = shown(unwarp(chosen.mean[:, 0], targets, qualities, finished))
    cost = jnp.full(n, jnp.nan)
    if weighs_cost:
        costs = history.metrics[:, 1]
        has_cost = known(history) & jnp.isfinite(costs)
        cost = shown(unstandardise(chosen.mean[:, 1], costs, has_cost))
    info = {
        "repeat": repeat,
        "alpha": shown(chosen.alpha),
        "spread": shown(chosen.sd[:, 0]),
        "acquisition": shown(chosen.gain),
        "feasible": shown(chosen.feasible),
    }
    return Proposal(configs, jnp.stack([quality, cost], axis=1), info)
