"""Gaussian processes of the results of trials: quality, cost, and failure.

Each combination of a warp and a start (an initial length scale) gives one process of the quality; ``g`` counts them.
"""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import log_ndtr

from autorank.base.records import later
from autorank.base.typing import Array, Bool, Float, Int, Key
from autorank.space.space import Space
from autorank.surrogates import gaussian_process as gp
from autorank.surrogates.base import Data, Prediction
from autorank.surrogates.kernel import Columns, Embed, embedding, mean_active
from autorank.surrogates.warping import warp

# Costs and failures have hardly any noise: about 3 % of their standard deviation.
EXACT = gp.NoiseFit(math.log(1e-3), 1.5, math.log(1e-3), 1.0)


class GaussianFit(NamedTuple):
    """Fitted processes, and the targets that they were fitted to; rows may be added with `believe`."""

    quality: gp.Posterior  # [g, ...]
    cost: gp.Posterior  # [1, ...]; without meaning if the cost does not count
    failure: gp.Posterior  # [1, ...]: of 1 for a failed trial and 0 for a finished one
    any_failed: Array  # bool
    targets: Array  # float32 [g, n]: warped qualities
    costs: Array  # float32 [n]: standardised


@dataclass(frozen=True)
class GaussianSettings:
    """How the processes are fitted."""

    # A process for each of the qualities so transformed: half_rank, rank, none.
    warps: tuple[str, ...] = ("half_rank",)
    # Logarithms of factors on the initial length scales; the fits are averaged by their evidence.
    starts: tuple[float, ...] = (0.0,)
    fit_steps: int = 60  # Adam steps of a fit
    scale_sd: float = 1.0  # standard deviation of the prior on the logarithm of a length scale
    effects: float = 0.5  # share of the prior variance that is due to main effects
    failures: str = "nothing"  # what a failed trial says about quality: worst (the worst finished one) or nothing
    # Median of the prior on the noise variance, relative to the variance of the warped qualities.
    noise_median: float = later(0.05, before=1e-3)
    noise_sd: float = later(
        2.0, before=1.5
    )  # standard deviation of the logarithm of the noise variance
    # Noise variance that a fit begins with; null is the median. Fits that begin with little noise do not find it.
    noise_start: float | None = later(0.2, before=None)
    noise_pace: float = later(3.0, before=1.0)  # how many times larger the steps of the noise are
    effect_sd: float = later(1.5)  # standard deviation of the logarithm of a main effect's variance
    # A priori, how much less a decision matters that another one switches on: a factor on the median of its length
    # scale, whose square divides that of its main effect's variance.
    conditional_scale: float = later(8.0, before=1.0)
    fit_rate: float = later(0.1)  # Adam's step size on the logarithms of the hyperparameters


def gaussian_surrogate(
    space: Space, settings: GaussianSettings, *, weighs_cost: bool
) -> "GaussianSurrogate":
    """The processes of a space.

    Args:
        space: the search space.
        settings: settings of the fit.
        weighs_cost: whether the cost is modelled too; otherwise predictions of it have no meaning.

    Examples:
        >>> from autorank.space.space import Decision
        >>> space = Space((Decision("width", (8, 16, 32), "number"),), (0,))
        >>> surrogate = gaussian_surrogate(space, GaussianSettings(), weighs_cost=True)
        >>> configs = jnp.array([[0], [1], [2]])
        >>> data = Data(configs, jnp.array([[3.0, 1.0], [2.0, 2.0], [1.0, 4.0]]), jnp.ones((3, 2), bool))
        >>> fitted = jax.jit(surrogate.fit)(jax.random.key(0), data)
        >>> prediction = surrogate.predict(fitted, configs)
        >>> prediction.mean.shape, prediction.mean.argmin(axis=0).tolist()
        ((3, 2), [2, 0])
    """
    embed, columns = embedding(space, effects=settings.effects > 0)
    priors = gp.default_priors(
        mean_active(space),
        settings.scale_sd,
        settings.effects,
        settings.effect_sd,
        (settings.noise_median, settings.noise_sd),
        less_of(space, settings.conditional_scale),
    )
    return GaussianSurrogate(settings, weighs_cost, embed, columns, priors)


def less_of(space: Space, factor: float) -> Any:
    """Logarithms ``[k]`` of how much less each decision matters a priori; the number 0 where none has conditions.

    Examples:
        >>> from autorank.space.space import Decision
        >>> rate = Decision("rate", (1, 2), "number", False, (("on", (True,)),))
        >>> space = Space((Decision("on", (False, True)), rate), (0, 0))
        >>> [round(float(value), 2) for value in less_of(space, 8.0)]
        [0.0, 2.08]
    """
    conditional = np.array([bool(d.parents) for d in space.decisions])
    return math.log(factor) * conditional.astype(np.float32) if conditional.any() else 0.0


@dataclass(frozen=True)
class GaussianSurrogate:
    """A `Surrogate` in the units of warped qualities and standardised costs, made by `gaussian_surrogate`."""

    settings: GaussianSettings
    weighs_cost: bool
    embed: Embed  # the features that the processes see
    columns: Columns
    priors: gp.Priors  # of all processes

    def fit(self, key: Key, data: Data) -> GaussianFit:
        """Fits all processes; the key is not used, as every fit has a fixed start."""
        return self.fit_features(self.embed(data.configs), data.metrics, data.where)

    def fit_features(
        self,
        features: Float[Array, "n x"],
        metrics: Float[Array, "n 2"],
        where: Bool[Array, "n 2"],
    ) -> GaussianFit:
        """`fit` at embedded configurations."""
        s = self.settings
        used, (quality, cost) = where[:, 0], metrics.T
        finished, failed = used & jnp.isfinite(quality), used & ~jnp.isfinite(quality)
        any_failed = jnp.any(failed)
        warped = [warp(kind, quality, finished) for kind in s.warps]
        if s.failures == "worst":
            warped = [jnp.where(failed, jnp.max(t), t) for t in warped]
        has_cost = where[:, 1] & jnp.isfinite(cost)
        costs = warp("none", cost, has_cost)
        has_quality = used if s.failures == "worst" else finished
        # Targets, rows, start and steps of each process.
        problems: list[tuple[Any, ...]] = [
            (t, has_quality, start, s.fit_steps) for t in warped for start in s.starts
        ]
        steps = jnp.where(any_failed, s.fit_steps, 0)
        problems.append((failed.astype(jnp.float32), used, 0.0, steps))
        if self.weighs_cost:
            problems.append((costs, has_cost, 0.0, s.fit_steps))
        g = len(warped) * len(s.starts)
        targets, rows, starts, steps = (
            jnp.stack([jnp.asarray(problem[i]) for problem in problems]) for i in range(4)
        )
        fitted = gp.fit(
            features,
            targets,
            rows,
            columns=self.columns,
            priors=self.priors,
            starts=starts,
            steps=steps,
            rate=s.fit_rate,
            noise=_noise_fits(s, g, len(problems) - g),
        )

        def some(first: int, end: int | None) -> gp.Posterior:
            return jax.tree.map(lambda leaf: leaf[first:end], fitted)

        every = jnp.stack([t for t in warped for _ in s.starts])
        return GaussianFit(some(0, g), some(-1, None), some(g, g + 1), any_failed, every, costs)

    def predict(self, fitted: GaussianFit, configs: Int[Array, "n k"]) -> Prediction:
        """Predictions of the first process of the quality and of the process of the cost."""
        return self.predict_features(fitted, self.embed(configs))

    def predict_features(self, fitted: GaussianFit, features: Float[Array, "n x"]) -> Prediction:
        """`predict` at embedded configurations."""
        mean, variance = self.qualities(fitted, features)
        cost, cost_variance = gp.predict(_first(fitted.cost), features, self.columns)
        return Prediction(
            jnp.stack([mean[0], cost], axis=1),
            jnp.sqrt(jnp.stack([variance[0], cost_variance], axis=1)),
        )

    def qualities(
        self, fitted: GaussianFit, features: Float[Array, "n x"]
    ) -> tuple[Float[Array, "g n"], Float[Array, "g n"]]:
        """Mean and variance of the quality by each process."""
        return jax.vmap(lambda p: gp.predict(p, features, self.columns))(fitted.quality)

    def weighted(
        self, fitted: GaussianFit, features: Float[Array, "n x"], alpha: Float[Array, ""]
    ) -> tuple[Float[Array, "g n"], Float[Array, "g n"]]:
        """Mean and variance of ``(1 - alpha) quality + alpha cost`` by each process."""
        mean, variance = self.qualities(fitted, features)
        if self.weighs_cost:
            cost, cost_variance = gp.predict(_first(fitted.cost), features, self.columns)
            mean = (1 - alpha) * mean + alpha * cost[None, :]
            variance = (1 - alpha) ** 2 * variance + alpha**2 * cost_variance[None, :]
        return mean, variance

    def noise(self, fitted: GaussianFit, alpha: Float[Array, ""]) -> Float[Array, " g"]:
        """Variance of the noise in a trial's ``(1 - alpha) quality + alpha cost``; a cost has none."""
        return (1 - alpha) ** 2 * jnp.exp(fitted.quality.theta.noise)

    def log_feasibility(
        self, fitted: GaussianFit, features: Float[Array, "n x"]
    ) -> Float[Array, " n"]:
        """Logarithm of the probability that a trial does not fail; 0 before any has failed."""
        mean, variance = gp.predict(_first(fitted.failure), features, self.columns)
        log_p = log_ndtr((0.5 - mean) / jnp.sqrt(0.02 + variance))
        return jnp.where(fitted.any_failed, log_p, 0.0)

    def evidence_weights(self, fitted: GaussianFit) -> Float[Array, " g"]:
        """Weights of the processes of the quality; they sum to 1.

        The starts of one warp are weighted by their evidence. Warps have different units, so they are weighted equally.
        """
        num_warps, num_starts = len(self.settings.warps), len(self.settings.starts)
        evidence = fitted.quality.evidence.reshape(num_warps, num_starts)
        return jax.nn.softmax(evidence, axis=1).reshape(-1) / num_warps

    def believe(
        self, fitted: GaussianFit, row: Int[Array, ""], config: Int[Array, " k"]
    ) -> GaussianFit:
        """The fit with one more row, as if a trial had given the predicted means; the hyperparameters stay.

        Args:
            fitted: with room for the row (`grow`).
            row: an unused row of the buffers.
            config: the configuration to add.
        """
        features = self.embed(config[None])
        mean, _ = self.qualities(fitted, features)
        cost, _ = gp.predict(_first(fitted.cost), features, self.columns)
        targets = fitted.targets.at[:, row].set(mean[:, 0], mode="drop")
        costs = fitted.costs.at[row].set(cost[0], mode="drop")

        def add(posterior: gp.Posterior, values: Float[Array, " n"]) -> gp.Posterior:
            where = posterior.where.at[row].set(True, mode="drop")
            rows = posterior.features.at[row].set(features[0], mode="drop")
            made = gp.condition(
                posterior.theta, features=rows, targets=values, where=where, columns=self.columns
            )
            return made._replace(evidence=posterior.evidence)

        quality = jax.vmap(add)(fitted.quality, targets)
        fitted = fitted._replace(quality=quality, targets=targets, costs=costs)
        if not self.weighs_cost:
            return fitted
        return fitted._replace(cost=jax.vmap(add)(fitted.cost, costs[None]))


def _noise_fits(settings: GaussianSettings, num_qualities: int, num_others: int) -> gp.NoiseFit:
    """How the noise of each process is found: of the qualities first, then of failure and cost."""
    median = settings.noise_median
    start = median if settings.noise_start is None else settings.noise_start
    own = gp.NoiseFit(math.log(median), settings.noise_sd, math.log(start), settings.noise_pace)
    every = zip(*[own] * num_qualities, *[EXACT] * num_others, strict=True)
    return gp.NoiseFit(*(jnp.asarray(values, jnp.float32) for values in every))


def grow(fitted: GaussianFit, size: int) -> GaussianFit:
    """The same fit in buffers of ``size`` rows."""
    room = size - len(fitted.costs)

    def pad(posterior: gp.Posterior) -> gp.Posterior:
        return posterior._replace(
            features=jnp.pad(posterior.features, ((0, 0), (0, room), (0, 0))),
            where=jnp.pad(posterior.where, ((0, 0), (0, room))),
            weights=jnp.pad(posterior.weights, ((0, 0), (0, room))),
            whiten=jnp.pad(posterior.whiten, ((0, 0), (0, room), (0, room))),
        )

    return GaussianFit(
        pad(fitted.quality),
        pad(fitted.cost),
        pad(fitted.failure),
        fitted.any_failed,
        jnp.pad(fitted.targets, ((0, 0), (0, room))),
        jnp.pad(fitted.costs, (0, room)),
    )


def _first(posterior: gp.Posterior) -> gp.Posterior:
    return jax.tree.map(lambda leaf: leaf[0], posterior)
