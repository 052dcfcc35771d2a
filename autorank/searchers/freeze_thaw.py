"""Freeze-thaw search: a proposal is a configuration, and how much of the log it is to have seen.

Configurations have one column more here: their rung, an index of rising shares of the log. The Gaussian processes see
it as one more number, so what a short run says about the end of the log is what the trials told so far bear out. The
best third of each rung goes on to the next one, by what is believed of the end of the log; where nothing goes on, a new
configuration begins at the lowest rung, the one whose short run promises most at the end. Once a third of what reached
a rung has gone on, the others wait until more has reached it.

Swersky et al. (arXiv 1406.3896) freeze and thaw runs by a model of their curves. Going on first is the rule of ASHA (Li
et al., MLSys 2020), with a model of all rungs as in MOBSTER (Klein et al., arXiv 2003.10865). Improvement elsewhere
than at the trial is that of knowledge gradients (Wu et al., arXiv 1903.04703).
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from autorank.base.typing import Array, Bool, Float, Int, Key
from autorank.searchers.acquisition import (
    is_marked,
    log_expected_improvement,
    log_feasibility,
    marks,
    weighed,
)
from autorank.searchers.autorank_settings import AutorankConfig
from autorank.searchers.base import (
    Context,
    History,
    Proposal,
    Searcher,
    append,
    empty,
    known,
    told_data,
)
from autorank.searchers.buffers import buffer_sizes
from autorank.searchers.candidates import candidates, latin_hypercube
from autorank.searchers.climbing import climb, neighbourhood
from autorank.searchers.novelty import equal_rows, hashes, proposer, unpredicted
from autorank.searchers.region import Region, region_of
from autorank.space.space import Decision, Space
from autorank.surrogates.gaussian_surrogate import (
    GaussianFit,
    GaussianSurrogate,
    gaussian_surrogate,
    grow,
)
from autorank.surrogates.moves import moves
from autorank.surrogates.warping import unwarp

RUNG = "share of the log"  # name of the last column
# One in so many goes on from a rung. ASHA itself has no such bound: as a model proposes better and better ones, nearly
# all of them are among the best third when they come.
ETA = 3.0
PAIRS = 3  # runs with labels at two rungs, from which on the difference of both is known


class State(NamedTuple):
    """What was told, and the first configurations to try."""

    history: History  # of configurations with their rungs, int32 [capacity, k + 1]
    design: Array  # int32 [initial + n, k]


class Goal(NamedTuple):
    """What the choice of one proposal depends on."""

    fitted: GaussianFit
    weights: Array  # float32 [g]: of the processes of the quality
    best: Array  # float32 [g]: lowest mean at the end of the log, of told configurations
    alpha: Array  # float32: weight of the cost
    marks: tuple[Array, Array]  # uint32 [h]: hashes of the told and pending configurations
    is_mark: Array  # bool [h]: False for unused marks


class Chosen(NamedTuple):
    """Proposals ``[n]`` and what was predicted when each was chosen, in the units of the surrogate."""

    configs: Array  # int32 [n, k + 1]
    mean: Array  # float32 [n]: of the quality at the end of the log
    sd: Array  # float32 [n]
    gain: Array  # float32 [n]; NaN for what goes on
    feasible: Array  # float32 [n]
    alpha: Array  # float32 [n]


def with_rung(space: Space, rungs: tuple[float, ...]) -> Space:
    """The space with the rung as its last decision; the baseline has the last rung.

    Examples:
        >>> space = Space((Decision("width", (8, 16, 32)),), (0,))
        >>> with_rung(space, (0.1, 1.0)).baseline
        (0, 1)
    """
    rung = Decision(RUNG, rungs, "number", True)
    return Space((*space.decisions, rung), (*space.baseline, len(rungs) - 1))


def at_rung(configs: Int[Array, "n k"], rung: Int[Array, " n"] | int) -> Int[Array, "n k+1"]:
    """Configurations with their rungs as the last column."""
    column = jnp.broadcast_to(jnp.asarray(rung, jnp.int32), len(configs))
    return jnp.concatenate([configs.astype(jnp.int32), column[:, None]], axis=1)


def make_freeze_thaw(space: Space, settings: AutorankConfig, context: Context) -> Searcher:
    """`make_autorank` with ``context.rungs``: told and proposed configurations are ``[n, k + 1]``.

    A run that reaches a rung is told at it, with NaN if it failed. Proposals carry the predicted quality at the last
    rung; ``info`` holds ``repeat``, ``alpha``, ``spread``, ``acquisition`` and ``feasible`` as in `make_autorank`. The
    `Judge` gives each told row the mean at the last rung.
    """
    rungs, capacity, n = context.rungs, context.capacity, settings.batch_size
    whole, region = with_rung(space, rungs), region_of(space, context)
    weighs_cost = any(alpha > 0 for alpha in settings.alphas)
    surrogate = gaussian_surrogate(whole, settings, weighs_cost=weighs_cost)
    thaw = FreezeThaw(region, rungs, surrogate, settings)
    propose = proposer(space, batch_size=n, capacity=capacity)
    sizes = buffer_sizes(capacity, n)

    def init(key: Key) -> State:
        design = latin_hypercube(key, space, settings.initial + n)
        if region.fits is not None:
            other = region.sample(key, len(design))
            design = jnp.where(region.fits(design)[:, None], design, other)
        return State(empty(whole, capacity), design)

    def from_design(key: Key, design: Array, history: History) -> Proposal:
        candidates = design[begun(history) + jnp.arange(n)]
        told = history._replace(configs=history.configs[:, :-1])
        made = unpredicted(*propose(key, told, candidates)[:2])
        return made._replace(configs=at_rung(made.configs, 0))

    def from_model(size: int, key: Key, history: History) -> Proposal:
        fitted = surrogate.fit(key, told_data(history, min(size, capacity)))
        return thaw.proposal(thaw.choose(key, grow(fitted, size), history), fitted, history)

    def ask(key: Key, state: State) -> Proposal:
        history = aligned(state.history, len(rungs))
        needed = jnp.searchsorted(jnp.asarray(sizes), history.count + n)
        branches = [partial(from_design, key, state.design)]
        branches += [partial(from_model, size, key) for size in sizes]
        finished = jnp.sum(known(history) & jnp.isfinite(history.metrics[:, 0]))
        ready = (begun(history) >= settings.initial) & (finished >= 2)
        return jax.lax.switch(jnp.where(ready, 1 + needed, 0), branches, history)

    def tell(state: State, configs, metrics) -> State:
        return state._replace(history=append(state.history, configs, metrics))

    def judge(state: State) -> Float[Array, " capacity"]:
        history = aligned(state.history, len(rungs))
        fitted = surrogate.fit(jax.random.key(0), told_data(history))
        told = jnp.where(known(history), history.metrics[:, 0], jnp.nan)
        mean = thaw.at_the_end(fitted, history.configs[:, :-1])[0][0]
        found = unwarp(mean, fitted.targets[0], told, jnp.isfinite(told))
        return jnp.where(jnp.isfinite(told), found, jnp.nan)

    return Searcher(init, ask, tell, judge)


def aligned(history: History, num_rungs: int) -> History:
    """The history with labels of lower rungs moved to the last one's level, by the median of runs that have both.

    Where fewer than `PAIRS` have, labels stay as they are.
    """
    used, rung = known(history), history.configs[:, -1]
    quality = jnp.where(used, history.metrics[:, 0], jnp.nan)
    own = hashes(history.configs[:, :-1])
    ended = equal_rows(own, own) & (rung[None] == num_rungs - 1) & jnp.isfinite(quality)[None]
    at = jnp.argmax(ended, axis=1)
    apart = jnp.where(jnp.any(ended, axis=1), quality[at] - quality, jnp.nan)
    moved = quality
    for low in range(num_rungs - 1):
        pairs = jnp.where(rung == low, apart, jnp.nan)
        enough = jnp.sum(jnp.isfinite(pairs)) >= PAIRS
        shift = jnp.where(enough, jnp.nanmedian(pairs), 0.0)
        moved = jnp.where(rung == low, moved + shift, moved)
    return history._replace(metrics=history.metrics.at[:, 0].set(moved))


def going_on(
    quality: Float[Array, " h"], rows: Int[Array, "h kr"], used: Bool[Array, " h"], last: int
) -> Bool[Array, " h"]:
    """Which rows stand for runs that go on: the best of a rung, until ``1 / ETA`` of what reached it has gone on.

    Examples:
        >>> rows = jnp.array([[0, 0], [1, 0], [2, 0], [3, 0], [4, 0], [5, 0], [5, 1]])
        >>> quality = jnp.array([6.0, 2.0, 3.0, 5.0, 4.0, 1.0, 1.0])
        >>> going_on(quality, rows, jnp.ones(7, bool), 2).tolist()
        [False, True, False, False, False, False, False]
    """
    rung, own = rows[:, -1], hashes(rows[:, :-1])
    same = equal_rows(own, own) & used[None]
    waits = used & (rung == jnp.max(jnp.where(same, rung[None], -1), axis=1))
    beside = (rung[:, None] == rung[None]) & used[None]
    reached, gone = jnp.sum(beside, axis=1), jnp.sum(beside & ~waits[None], axis=1)
    better = jnp.sum(beside & waits[None] & (quality[None] < quality[:, None]), axis=1)
    return waits & (rung < last) & (better < jnp.floor(reached / ETA) - gone)


def begun(history: History) -> Int[Array, ""]:
    """How many runs were told at the lowest rung."""
    return jnp.sum(known(history) & (history.configs[:, -1] == 0))


@dataclass(frozen=True)
class FreezeThaw:
    """Chooses a batch, one proposal after another; each is believed to give its mean before the next is chosen."""

    region: Region
    rungs: tuple[float, ...]
    surrogate: GaussianSurrogate  # of the space with rungs
    settings: AutorankConfig

    def choose(self, key: Key, fitted: GaussianFit, history: History) -> Chosen:
        """The batch; ``fitted`` must have room for it behind the history's rows."""
        size, batch = len(fitted.costs), self.settings.batch_size
        weights = self.surrogate.evidence_weights(fitted)
        room = max(size - len(history.configs), 0)
        rows = jnp.pad(history.configs, ((0, room), (0, 0)))[:size]
        failed = known(history) & ~jnp.isfinite(history.metrics[:, 0])
        failed = jnp.pad(failed, (0, room))[:size]

        def step(carry: tuple[GaussianFit, Array], index: Array) -> tuple[tuple, Chosen]:
            fitted, rows = carry
            own_key = jax.random.fold_in(key, index)
            used = jnp.arange(size) < history.count + index
            # What failed and what is pending does not go on.
            done = failed | (jnp.arange(size) >= history.count)
            chosen = self._next(own_key, fitted, weights, rows, used, done, index)
            row = history.count + index
            fitted = self.surrogate.believe(fitted, row, chosen.configs)
            return (fitted, rows.at[row].set(chosen.configs, mode="drop")), chosen

        return jax.lax.scan(step, (fitted, rows), jnp.arange(batch))[1]

    def _next(
        self,
        key: Key,
        fitted: GaussianFit,
        weights: Float[Array, " g"],
        rows: Int[Array, "h kr"],
        used: Bool[Array, " h"],
        done: Bool[Array, " h"],
        index: Int[Array, ""],
    ) -> Chosen:
        """One proposal, without the leading axis; ``rows`` are told and pending configurations."""
        configs = rows[:, :-1]
        alphas = jnp.asarray(self.settings.alphas, jnp.float32)
        alpha = alphas[index % len(alphas)]
        mean, _ = self.at_the_end(fitted, configs, alpha)
        finished = used & fitted.quality.where[0]
        best = jnp.min(jnp.where(finished, mean, jnp.inf), axis=1)
        quality = jnp.where(finished, jnp.tensordot(weights, mean, 1), jnp.nan)
        goal = Goal(fitted, weights, best, alpha, marks(configs, used), used)
        goes = going_on(quality, rows, used, len(self.rungs) - 1) & finished & ~done
        # Those that have seen most first, and of them the best.
        first = jnp.lexsort((quality, -rows[:, -1], ~goes))[0]
        placed, gain = jax.lax.cond(
            goes[first],
            lambda: (rows[first].at[-1].add(1), jnp.float32(jnp.nan)),
            lambda: self._begun(key, goal, configs, quality),
        )
        end, variance = self.at_the_end(fitted, placed[None, :-1])
        log_p = self._log_feasibility(fitted, self.surrogate.embed(placed[None]))
        sd = jnp.sqrt(variance[0, 0])
        return Chosen(placed, end[0, 0], sd, gain, jnp.exp(log_p[0]), alpha)

    def _begun(
        self, key: Key, goal: Goal, configs: Int[Array, "h k"], quality: Float[Array, " h"]
    ) -> tuple[Int[Array, " kr"], Float[Array, ""]]:
        """A new configuration at the lowest rung, and its gain; ``configs`` are told and pending."""
        metrics = jnp.stack([quality, jnp.zeros(len(quality))], axis=1)
        parents = History(configs, metrics, jnp.sum(goal.is_mark))
        pool = candidates(key, self.region, parents, self.settings)
        value = self.region.bounded(partial(self.value, goal))
        config, gain = climb(value, pool, neighbourhood(self.region.space), self.settings)
        return at_rung(config[None], 0)[0], gain

    def value(self, goal: Goal, configs: Int[Array, "m k"]) -> Float[Array, " m"]:
        """Log of the expected improvement at the end of the log by a trial at the lowest rung.

        Minus infinity for what has begun.
        """
        here = self.surrogate.embed(at_rung(configs, 0))
        end = self.surrogate.embed(at_rung(configs, len(self.rungs) - 1))
        mean, moved = moves(self.surrogate, goal.fitted, end, here)
        if self.surrogate.weighs_cost:
            costs = self.surrogate.predict_features(goal.fitted, end).mean[:, 1]
            mean = (1 - goal.alpha) * mean + goal.alpha * costs[None, :]
            moved = (1 - goal.alpha) ** 2 * moved
        incumbent = goal.best[:, None] - self.settings.margin
        gain = log_expected_improvement(mean, jnp.maximum(moved, 1e-12), incumbent)
        total = jax.nn.logsumexp(gain + jnp.log(goal.weights)[:, None], axis=0)
        total = total + weighed(self._log_feasibility(goal.fitted, here), self.settings)
        return jnp.where(is_marked(configs, goal.marks, goal.is_mark), -jnp.inf, total)

    def at_the_end(
        self, fitted: GaussianFit, configs: Int[Array, "n k"], alpha: Float[Array, ""] | float = 0.0
    ) -> tuple[Float[Array, "g n"], Float[Array, "g n"]]:
        """Mean and variance of ``(1 - alpha) quality + alpha cost`` at the last rung, by each process."""
        features = self.surrogate.embed(at_rung(configs, len(self.rungs) - 1))
        return self.surrogate.weighted(fitted, features, jnp.float32(alpha))

    @property
    def _log_feasibility(self) -> Callable[..., Array]:
        return partial(log_feasibility, self.surrogate, self.settings)

    def proposal(self, chosen: Chosen, fitted: GaussianFit, history: History) -> Proposal:
        """The chosen ones with their predictions in the told units."""
        rows = len(fitted.targets[0])
        told = history.metrics[:rows, 0]
        finished = known(history)[:rows] & jnp.isfinite(told)
        quality = unwarp(chosen.mean, fitted.targets[0], told, finished)
        predicted = jnp.stack([quality, jnp.full(len(quality), jnp.nan)], axis=1)
        info = {
            "repeat": jnp.isneginf(chosen.gain),
            "alpha": chosen.alpha,
            "spread": chosen.sd,
            "acquisition": chosen.gain,
            "feasible": chosen.feasible,
        }
        return Proposal(chosen.configs, predicted, info)
