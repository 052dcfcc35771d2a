"""Batches of Bayesian optimisation: each proposal is believed to give its predicted mean before the next is chosen.

This is the kriging believer (Ginsbourger et al. 2010, "Kriging is well-suited to parallelize optimization").
"""

from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from autorank.base.typing import Array, Bool, Int, Key
from autorank.searchers.acquisition import GaussianAcquisition
from autorank.searchers.base import History, known
from autorank.searchers.candidates import CandidateSettings, candidates
from autorank.searchers.climbing import ClimbSettings, Neighbours, climb
from autorank.searchers.region import Region
from autorank.searchers.repeated import are_exact
from autorank.surrogates.gaussian_surrogate import GaussianFit, GaussianSurrogate


class Chosen(NamedTuple):
    """A batch of ``n`` proposals and what was predicted when each was chosen, in the units of the surrogate."""

    configs: Array  # int32 [n, k]
    mean: Array  # float32 [n, 2]
    sd: Array  # float32 [n, 2]
    gain: Array  # float32 [n]: value of the acquisition function
    feasible: Array  # float32 [n]: probability of not failing
    alpha: Array  # float32 [n]: weight of the cost


@dataclass(frozen=True)
class GreedyBatch:
    """Chooses a batch, one proposal after another; the alphas take turns."""

    region: Region
    acquisition: GaussianAcquisition
    neighbours: Neighbours
    candidates: CandidateSettings
    climb: ClimbSettings
    size: int
    repeats: bool  # whether told configurations may be proposed again, unless results turn out to be exact

    def choose(self, key: Key, fitted: GaussianFit, history: History) -> Chosen:
        """The batch; ``fitted`` must have room for it behind the history's rows.

        The candidates descend from the trials that are believed to be best.
        """
        weights = self.acquisition.surrogate.evidence_weights(fitted)
        again = known(history) & jnp.isfinite(history.metrics[:, 0]) & ~are_exact(history)
        history = believed(self.acquisition.surrogate, fitted, weights, history)

        def step(carry: tuple[GaussianFit, Array], index: Array) -> tuple[tuple, Chosen]:
            fitted, pending = carry
            chosen = self._next(key, fitted, weights, history, again, pending, index)
            if self.size > 1:
                row = history.count + index
                fitted = self.acquisition.surrogate.believe(fitted, row, chosen.configs)
            return (fitted, pending.at[index].set(chosen.configs)), chosen

        pending = jnp.zeros((self.size, self.region.space.num_decisions), jnp.int32)
        return jax.lax.scan(step, (fitted, pending), jnp.arange(self.size))[1]

    def _next(
        self,
        key: Key,
        fitted: GaussianFit,
        weights: Array,
        history: History,
        again: Bool[Array, " h"],
        pending: Int[Array, "n k"],
        index: Int[Array, ""],
    ) -> Chosen:
        """One proposal, without the leading axis; ``pending`` holds the ``index`` proposals before it.

        ``again`` are the told trials whose configurations may be proposed again, if any may.
        """
        acquisition, surrogate = self.acquisition, self.acquisition.surrogate
        alphas = jnp.asarray(acquisition.settings.alphas, jnp.float32)
        told = jnp.concatenate([history.configs, pending])
        is_told = jnp.concatenate([known(history), jnp.arange(self.size) < index])
        own_key = jax.random.fold_in(key, index)
        parents = acquisition.parents(own_key, history)
        pool = candidates(own_key, self.region, parents, self.candidates)
        if self.repeats:
            # Where a told configuration may be proposed again, so may a pending one.
            may = jnp.append(again, jnp.broadcast_to(jnp.any(again), len(pending)))
            is_told = is_told & ~may
            pool = jnp.concatenate([pool, jnp.where(again[:, None], history.configs, pool[:1])])
        alpha, rows = alphas[index % len(alphas)], rows_of(fitted, history, pending)
        goal = acquisition.goal(fitted, weights, alpha, told, is_told, rows)
        value = self.region.bounded(partial(acquisition.value, goal))
        config, gain = climb(value, pool, self.neighbours, self.climb)
        prediction = surrogate.predict(fitted, config[None])
        log_p = acquisition.log_feasibility(fitted, surrogate.embed(config[None]))
        return Chosen(
            config, prediction.mean[0], prediction.sd[0], gain, jnp.exp(log_p[0]), goal.alpha
        )


def rows_of(fitted: GaussianFit, history: History, pending: Int[Array, "b k"]) -> Int[Array, "n k"]:
    """The configurations in the buffers of a fit: those of the history, then the pending ones."""
    size = len(fitted.costs)
    rows = jnp.pad(history.configs, ((0, max(size - len(history.configs), 0)), (0, 0)))[:size]
    return rows.at[history.count + jnp.arange(len(pending))].set(pending, mode="drop")


def believed(
    surrogate: GaussianSurrogate, fitted: GaussianFit, weights: Array, history: History
) -> History:
    """The history with the believed quality of each finished trial in place of what was told of it."""
    mean, _ = surrogate.qualities(fitted, fitted.quality.features[0])
    mean = jnp.tensordot(weights, mean, 1)[: len(history.configs)]
    mean = jnp.pad(mean, (0, len(history.configs) - len(mean)))
    told = history.metrics[:, 0]
    return history._replace(
        metrics=history.metrics.at[:, 0].set(jnp.where(jnp.isfinite(told), mean, told))
    )
