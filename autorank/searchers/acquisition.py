"""Acquisition function of Bayesian optimisation: expected improvement times the probability of not failing."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.special import log_ndtr
from jaxtyping import UInt32

from autorank.base.records import later
from autorank.base.typing import Array, Bool, Float, Int, Key
from autorank.searchers.base import History
from autorank.searchers.novelty import equal_rows, hashes
from autorank.surrogates.beside import Beside, beside, weighted_beside
from autorank.surrogates.gaussian_surrogate import GaussianFit, GaussianSurrogate


@dataclass(frozen=True)
class AcquisitionSettings:
    """What counts as an improvement."""

    # Weights of the cost, in turn: what is improved is (1 - alpha) quality + alpha cost, both standardised.
    alphas: tuple[float, ...] = (0.0, 0.1, 0.3)
    # Standard deviations of the qualities below the best mean from which improvement is counted. Without a margin most
    # proposals change a number by one step, for a tiny but certain gain.
    margin: float = 0.1
    # Improvement is that of what is believed after one more noisy trial; without it, of the function itself.
    look_ahead: bool = later(True, before=False)
    contenders: int = later(8)  # best told trials about which a trial may change the mind
    # A told configuration may be proposed again, where that is worth more than a new one and tells something new.
    repeats: bool = later(True, before=False)
    feasibility: bool = True  # learn from failed trials where not to search
    # Power of the probability of not failing, by which a gain counts: above 1, fewer trials fail.
    feasibility_power: float = later(1.0)
    # Power more of that probability, over one half, for what is more likely to fail than not.
    likely_failure_power: float = later(4.0, before=0.0)


class Goal(NamedTuple):
    """What the choice of one proposal depends on."""

    fitted: GaussianFit
    weights: Array  # float32 [g]: of the processes of the quality
    alpha: Array  # float32: weight of the cost
    best: Array  # float32 [g, c]: lowest means of told trials, lowest first
    others: Beside  # the trials that have them
    marks: tuple[Array, Array]  # uint32 [h]: hashes of the configurations not to propose again
    is_mark: Array  # bool [h]: False for unused marks


@dataclass(frozen=True)
class GaussianAcquisition(ABC):
    """An acquisition function: a mean over Gaussian processes, times the probability of not failing."""

    surrogate: GaussianSurrogate
    settings: AcquisitionSettings

    @abstractmethod
    def parents(self, key: Key, history: History) -> History:
        """The history with numbers for its qualities, of which the lowest make parents of candidates."""

    @abstractmethod
    def goal(
        self,
        fitted: GaussianFit,
        weights: Float[Array, " g"],
        alpha: Float[Array, ""],
        told: Int[Array, "h k"],
        is_told: Bool[Array, " h"],
        rows: Int[Array, "n k"],
    ) -> Any:
        """The goal of the next proposal, with the weight of the cost as ``alpha``.

        Args:
            fitted: processes fitted to the told trials and to the believed ones of the same batch.
            weights: weight of each process of the quality.
            alpha: weight of the cost.
            told: configurations that must not be proposed again.
            is_told: which rows of ``told`` are used.
            rows: the configurations in the buffers of ``fitted``.
        """

    @abstractmethod
    def value(self, goal: Any, configs: Int[Array, "m k"]) -> Float[Array, " m"]:
        """The value of configurations; minus infinity for what must not be proposed again."""

    def total(
        self,
        goal: Any,
        gain: Float[Array, "g m"],
        features: Float[Array, "m x"],
        configs: Int[Array, "m k"],
    ) -> Float[Array, " m"]:
        """Log of the weighted mean gain times a power of the probability of not failing; -inf for what was told.

        Args:
            goal: of one proposal; with ``fitted``, ``weights``, ``marks`` and ``is_mark``.
            gain: log of the gain by each process.
            features: of the configurations.
            configs: to be judged.
        """
        total = jax.nn.logsumexp(gain + jnp.log(goal.weights)[:, None], axis=0)
        total = total + weighed(self.log_feasibility(goal.fitted, features), self.settings)
        return jnp.where(is_marked(configs, goal.marks, goal.is_mark), -jnp.inf, total)

    def log_feasibility(
        self, fitted: GaussianFit, features: Float[Array, "m x"]
    ) -> Float[Array, " m"]:
        """See the function of this name."""
        return log_feasibility(self.surrogate, self.settings, fitted, features)


def log_feasibility(
    surrogate: GaussianSurrogate,
    settings: AcquisitionSettings,
    fitted: GaussianFit,
    features: Float[Array, "m x"],
) -> Float[Array, " m"]:
    """Log probability of not failing; 0 where failures are not learned from."""
    if not settings.feasibility:
        return jnp.zeros(len(features))
    return surrogate.log_feasibility(fitted, features)


def weighed(log_p: Float[Array, " m"], settings: AcquisitionSettings) -> Float[Array, " m"]:
    """What log probabilities of not failing add to the log of a gain.

    The probability itself would be right if a failed trial cost nothing but the trial. Half of the failures come from
    proposals that were expected to fail, for gains that the model overrates where all else has failed.

    Examples:
        >>> log_p = jnp.log(jnp.array([1.0, 0.5, 0.25]))
        >>> [round(float(value), 2) for value in weighed(log_p, AcquisitionSettings())]
        [0.0, -0.69, -4.16]
    """
    doubt = jnp.minimum(0.0, log_p - jnp.log(0.5))
    return settings.feasibility_power * log_p + settings.likely_failure_power * doubt


@dataclass(frozen=True)
class Acquisition(GaussianAcquisition):
    """Log of the expected improvement that one more trial brings, averaged over the surrogate's processes.

    A trial is noisy: what improves is what is believed after it, not the function. With ``m``, ``s^2``, ``c`` mean,
    variance and covariance now, a trial at ``x`` will move the mean at ``y`` by ``c(x, y) / sqrt(s^2(x) + noise)``
    times a standard normal. The improvement over the lowest mean is then normal too, and its expectation that of
    `log_expected_improvement`. It is counted at ``x`` itself and at each of the best told trials, and the larger
    counts: a lower bound of the knowledge gradient (Frazier et al. 2009, "The knowledge-gradient policy for
    correlated normal beliefs"). Without noise it is expected improvement.
    """

    def parents(self, key: Key, history: History) -> History:
        """The history itself: candidates descend from the best trials."""
        return history

    def goal(
        self,
        fitted: GaussianFit,
        weights: Float[Array, " g"],
        alpha: Float[Array, ""],
        told: Int[Array, "h k"],
        is_told: Bool[Array, " h"],
        rows: Int[Array, "n k"] | None = None,
    ) -> Goal:
        """See `GaussianAcquisition`; ``rows`` are not needed."""
        features = fitted.quality.features[0]
        mean, _ = self.surrogate.weighted(fitted, features, alpha)
        same = jnp.all(features[:, None] == features[None], axis=2)
        again = jnp.any(jnp.tril(same, -1) & fitted.quality.where[0][None], axis=1)
        mean = jnp.where(fitted.quality.where & ~again[None], mean, jnp.inf)
        lowest, at = jax.lax.top_k(-mean, min(self.settings.contenders, len(features)))
        others = beside(self.surrogate, fitted, features[at])
        own_marks = marks(told, is_told)
        return Goal(fitted, weights, alpha, -lowest, others, own_marks, is_told)

    def value(self, goal: Goal, configs: Int[Array, "m k"]) -> Float[Array, " m"]:
        """Log of the weighted mean improvement times the probability of not failing; -inf for what was told."""
        features = self.surrogate.embed(configs)
        return self.total(goal, self.gain(goal, features), features, configs)

    def gain(self, goal: Goal, features: Float[Array, "m x"]) -> Float[Array, "g m"]:
        """Log of the expected improvement by each process."""
        incumbent = (goal.best[:, 0] - self.settings.margin)[:, None]
        if not self.settings.look_ahead:
            mean, variance = self.surrogate.weighted(goal.fitted, features, goal.alpha)
            return log_expected_improvement(mean, variance, incumbent)
        mean, variance, shared = weighted_beside(
            self.surrogate, goal.fitted, features, goal.others, goal.alpha
        )
        noise = self.surrogate.noise(goal.fitted, goal.alpha)[:, None]
        scale = jax.lax.rsqrt(variance + noise)
        moves = shared * scale[:, :, None]  # of the means of the best trials
        apart = variance * scale - moves[:, :, 0]
        here = log_expected_improvement(mean, jnp.maximum(apart**2, 1e-12), incumbent)
        apart = moves[:, :, 1:] - moves[:, :, :1]
        there = log_expected_improvement(
            goal.best[:, None, 1:], jnp.maximum(apart**2, 1e-12), incumbent[:, :, None]
        )
        there = jnp.where(jnp.isfinite(goal.best[:, None, 1:]), there, -jnp.inf)
        return jnp.maximum(here, jnp.max(there, axis=2))


def marks(
    told: Int[Array, "h k"], is_told: Bool[Array, " h"]
) -> tuple[UInt32[Array, " h"], UInt32[Array, " h"]]:
    """Hashes of the configurations that must not be proposed again."""
    first, second = (jnp.where(is_told, h, 0) for h in hashes(told))
    return first, second


def is_marked(
    configs: Int[Array, "m k"],
    marks: tuple[UInt32[Array, " h"], UInt32[Array, " h"]],
    is_mark: Bool[Array, " h"],
) -> Bool[Array, " m"]:
    """Which configurations must not be proposed again."""
    return jnp.any(equal_rows(hashes(configs), marks) & is_mark[None, :], axis=1)


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
