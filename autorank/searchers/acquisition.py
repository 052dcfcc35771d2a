"""Acquisition function of Bayesian optimisation: expected improvement times the probability of not failing."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.special import log_ndtr

from autorank.base.typing import Array, Bool, Float, Int
from autorank.searchers.novelty import hashes
from autorank.surrogates.gaussian_surrogate import GaussianFit, GaussianSurrogate


@dataclass(frozen=True)
class AcquisitionSettings:
    """What counts as an improvement."""

    # Weights of the cost, in turn: what is improved is (1 - alpha) quality + alpha cost, both standardised.
    alphas: tuple[float, ...] = (0.0, 0.1, 0.3)
    # Standard deviations of the qualities below the best mean from which improvement is counted. Without a margin most
    # proposals change a number by one step, for a tiny but certain gain.
    margin: float = 0.1
    feasibility: bool = True  # learn from failed trials where not to search


class Goal(NamedTuple):
    """What the choice of one proposal depends on."""

    fitted: GaussianFit
    weights: Array  # float32 [g]: of the processes of the quality
    alpha: Array  # float32: weight of the cost
    incumbent: Array  # float32 [g]: improvement is counted below it
    marks: tuple[Array, Array]  # uint32 [h]: hashes of the configurations not to propose again
    is_mark: Array  # bool [h]: False for unused marks


@dataclass(frozen=True)
class Acquisition:
    """Log expected improvement of a Gaussian surrogate, averaged over its processes."""

    surrogate: GaussianSurrogate
    settings: AcquisitionSettings

    def goal(
        self,
        fitted: GaussianFit,
        weights: Float[Array, " g"],
        alpha: Float[Array, ""],
        told: Int[Array, "h k"],
        is_told: Bool[Array, " h"],
    ) -> Goal:
        """The goal of the next proposal.

        Args:
            fitted: processes fitted to the told trials and to the believed ones of the same batch.
            weights: weight of each process of the quality.
            alpha: weight of the cost.
            told: configurations that must not be proposed again.
            is_told: which rows of ``told`` are used.
        """
        mean, _ = self.surrogate.weighted(fitted, fitted.quality.features[0], alpha)
        best = jnp.min(jnp.where(fitted.quality.where, mean, jnp.inf), axis=1)
        first, second = (jnp.where(is_told, h, 0) for h in hashes(told))
        incumbent = best - self.settings.margin
        return Goal(fitted, weights, alpha, incumbent, (first, second), is_told)

    def value(self, goal: Goal, configs: Int[Array, "m k"]) -> Float[Array, " m"]:
        """Log of the weighted mean improvement times the probability of not failing; -inf for what was told."""
        features = self.surrogate.embed(configs)
        mean, variance = self.surrogate.weighted(goal.fitted, features, goal.alpha)
        gain = log_expected_improvement(mean, variance, goal.incumbent[:, None])
        total = jax.nn.logsumexp(gain + jnp.log(goal.weights)[:, None], axis=0)
        total = total + self.log_feasibility(goal.fitted, features)
        first, second = hashes(configs)
        same_first = first[:, None] == goal.marks[0][None, :]
        same_second = second[:, None] == goal.marks[1][None, :]
        repeat = jnp.any(same_first & same_second & goal.is_mark[None, :], axis=1)
        return jnp.where(repeat, -jnp.inf, total)

    def log_feasibility(
        self, fitted: GaussianFit, features: Float[Array, "m x"]
    ) -> Float[Array, " m"]:
        """Log probability of not failing; 0 where failures are not learned from."""
        if not self.settings.feasibility:
            return jnp.zeros(len(features))
        return self.surrogate.log_feasibility(fitted, features)


def log_expected_improvement(
    mean: Float[Array, "..."], variance: Float[Array, "..."], incumbent: Array | float
) -> Float[Array, "..."]:
    """Logarithm of ``E[max(incumbent - f, 0)]``, ``f ~ N(mean, variance)``, without underflow (arXiv 2310.20708).

    Examples:
        >>> round(float(log_expected_improvement(jnp.float32(0.0), jnp.float32(1.0), 0.0)), 4)
        -0.9189
    """
    sd = jnp.sqrt(variance)
    z = (incumbent - mean) / sd
    near = jnp.maximum(z, -5.0)
    density = jnp.exp(-0.5 * near * near) / math.sqrt(2 * math.pi)
    direct = jnp.log(jnp.maximum(density + near * jnp.exp(log_ndtr(near)), 1e-30))
    far = jnp.minimum(z, -5.0)
    square = far * far
    series = 1 - 3 / square + 15 / square**2 - 105 / square**3 + 945 / square**4
    tail = -0.5 * square - 0.5 * math.log(2 * math.pi) - jnp.log(square) + jnp.log(series)
    return jnp.log(sd) + jnp.where(z > -5.0, direct, tail)
