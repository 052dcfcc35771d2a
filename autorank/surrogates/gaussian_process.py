"""Gaussian process over configurations, fitted by MAP in buffers of a fixed size.

The covariance is that of `kernel`. Priors are log-normal; the median of the length scales grows with the square root
of the number of decisions (Hvarfner et al., arXiv 2402.02229). Unused rows are masked: they form an identity block
that adds nothing to the likelihood, so a growing history does not recompile.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from autorank.base.typing import Array, Bool, Float, Int
from autorank.surrogates.kernel import (
    SQRT5,
    Columns,
    Theta,
    covariance,
    main_effects,
    prior_variance,
    squared_distances,
)
from autorank.surrogates.triangular import inverse_lower

JITTER = 1e-5  # added to the diagonal, as a share of the prior variance: float32 needs it at a few hundred rows


class Priors(NamedTuple):
    """Medians and standard deviations of the hyperparameters' logarithms."""

    scale: tuple[Any, float]  # a number, or an array [k] with one for each decision
    effect: tuple[Any, Any]  # numbers, or arrays [k] with one for each decision
    amplitude: tuple[float, float]
    noise: tuple[Any, Any]


class NoiseFit(NamedTuple):
    """How a fit finds the noise variance: numbers, or arrays ``[g]`` with one for each process."""

    median: Any  # of its prior, as a logarithm
    sd: Any  # of the prior's logarithm
    start: Any  # logarithm of the noise variance to begin with
    # How many times larger than the other hyperparameters' its steps are: its logarithm has the longest way to go.
    pace: Any


class Posterior(NamedTuple):
    """A fitted process: what prediction needs."""

    theta: Theta
    features: Array  # float32 [n, x]
    where: Array  # bool [n]
    weights: Array  # float32 [n]: K^-1 y
    whiten: Array  # float32 [n, n]: L^-1, zero in unused rows
    evidence: Array  # float32: log posterior density of theta


def default_priors(
    num_active: float,
    scale_sd: float = 1.0,
    effects: float = 0.0,
    effect_sd: float = 1.5,
    noise: tuple[float, float] = (1e-3, 1.5),
    less: Any = 0.0,
) -> Priors:
    """Priors with length scales around 0.5 sqrt(k / 4) and noise around 3 % of the targets' standard deviation.

    Args:
        num_active: ``k``, how many decisions of a configuration are active on average (`kernel.mean_active`).
        scale_sd: standard deviation of a length scale's logarithm.
        effects: share of the prior variance that is due to main effects, in [0, 1).
        effect_sd: standard deviation of the logarithm of a main effect's variance.
        noise: median of the noise variance, relative to the targets' variance, and standard deviation of its logarithm.
        less: logarithms of factors ``[k]`` by which decisions matter less: on length scales, and squared under the
            variances of main effects; 0 where all matter alike.

    Examples:
        >>> default_priors(num_active=4.0).scale == (math.log(0.5), 1.0)
        True
    """
    return Priors(
        scale=(math.log(0.5) + 0.5 * math.log(num_active / 4) + less, scale_sd),
        # Without main effects there is no array of them to be longer than.
        effect=(
            math.log(max(effects, 1e-6) / num_active) - (2 * less if effects else 0),
            effect_sd,
        ),
        amplitude=(math.log(1 - effects), 1.0),
        noise=(math.log(noise[0]), noise[1]),
    )


def _jitter(theta: Theta) -> Float[Array, ""]:
    """What is added to the diagonal of a used row."""
    return JITTER * (jnp.exp(theta.amplitude) + jnp.sum(jnp.exp(theta.effects)))


def density_and_gradient(
    theta: Theta,
    apart: Float[Array, "k nn"],
    alike: Float[Array, "e nn"],
    targets: Float[Array, " n"],
    where: Bool[Array, " n"],
    priors: Priors,
) -> tuple[Float[Array, ""], Theta]:
    """``log N(targets | 0, K)`` plus the log prior, without constants, and its analytic gradient.

    With ``G = (a a' - K^-1) / 2``, ``a = K^-1 y``, the derivative by a parameter is ``sum(G * dK)``.

    Args:
        theta: hyperparameters.
        apart: squared distances of each decision, flattened.
        alike: correlations of each main effect, flattened.
        targets: targets, 0 in unused rows.
        where: used rows.
        priors: priors of the hyperparameters.
    """
    n = len(targets)
    scales = jnp.exp(-2 * theta.scales)
    r = jnp.sqrt(jnp.maximum(scales @ apart, 1e-12)).reshape(n, n)
    decay = jnp.exp(-SQRT5 * r)
    amplitude, noise = jnp.exp(theta.amplitude), jnp.exp(theta.noise)
    used = (where[:, None] & where[None, :]).astype(jnp.float32)
    signal = used * amplitude * (1 + SQRT5 * r + (5 / 3) * r * r) * decay
    variances = jnp.exp(theta.effects)
    additive = used * (variances @ alike).reshape(n, n)
    diagonal = jnp.where(where, noise + _jitter(theta), 1.0)
    lower = jnp.linalg.cholesky(signal + additive + jnp.diag(diagonal))
    whiten = inverse_lower(lower)
    weights = whiten.T @ (whiten @ targets)
    fit_term = -0.5 * targets @ weights - jnp.sum(jnp.log(jnp.diagonal(lower)))
    half = 0.5 * (weights[:, None] * weights[None, :] - whiten.T @ whiten)
    trace = jnp.sum(jnp.where(where, jnp.diagonal(half), 0.0))
    # The derivative by the squared distance: d matern / d r^2 = -(5/6) (1 + sqrt(5) r) exp(-sqrt(5) r).
    slope = half * used * amplitude * (-5 / 6) * (1 + SQRT5 * r) * decay
    gradient = Theta(
        -2 * scales * (apart @ slope.reshape(-1)),
        variances * (alike @ (half * used).reshape(-1) + trace * JITTER),
        jnp.sum(half * signal) + trace * JITTER * amplitude,
        trace * noise,
    )
    prior = [(p - m) / sd for p, (m, sd) in zip(theta, priors, strict=True)]
    gradient = Theta(*(g - z / sd for g, z, (_, sd) in zip(gradient, prior, priors, strict=True)))
    return fit_term - 0.5 * sum(jnp.sum(z * z) for z in prior), gradient


def fit(
    features: Float[Array, "n x"],
    targets: Float[Array, "g n"],
    where: Bool[Array, "g n"],
    *,
    columns: Columns,
    priors: Priors,
    starts: Float[Array, " g"],
    steps: Int[Array, " g"],
    rate: float = 0.1,
    noise: NoiseFit | None = None,
) -> Posterior:
    """Fits ``g`` processes to the same rows by MAP with Adam, one after another.

    A process starts at the medians of the priors, with its length scales multiplied by ``exp(start)``, and at a noise
    of its own: a fit that begins with little noise explains all of it by short length scales, and stays there.

    Args:
        features: embedded configurations.
        targets: targets of each process, standardised over its used rows.
        where: used rows of each process.
        columns: roles of the features' columns.
        priors: priors of the hyperparameters.
        starts: logarithms of the factors on the initial length scales.
        steps: Adam steps of each process; 0 leaves it at its start.
        rate: Adam's step size on the logarithms of the hyperparameters; it falls linearly to a tenth.
        noise: how each process finds its noise, ``[g]``; None begins at the median of the prior of ``priors``.

    Returns:
        Posteriors with a leading axis ``g``.
    """
    targets = jnp.where(where, targets, 0.0)
    if noise is None:
        noise = NoiseFit(priors.noise[0], priors.noise[1], priors.noise[0], 1.0)
    noise = NoiseFit(*(jnp.broadcast_to(jnp.float32(v), len(starts)) for v in noise))
    k, n = columns.num_decisions, len(features)
    apart = squared_distances(features, features, columns).reshape(k, n * n)
    alike = main_effects(features, features, columns).reshape(-1, n * n)

    def ascend(problem: tuple[Array, Array, Array, Array, NoiseFit]) -> Posterior:
        targets, where, start, steps, noise = problem
        own = priors._replace(noise=(noise.median, noise.sd))
        theta = _first_theta(own, k, len(alike), start, noise)
        zeros = jax.tree.map(jnp.zeros_like, theta)

        def step(index: Array, carry: tuple[_Climb, Array]) -> tuple[_Climb, Array]:
            climb, _ = carry
            density, gradient = density_and_gradient(climb.theta, apart, alike, targets, where, own)
            pace = rate * (1 - 0.9 * index / jnp.maximum(steps, 1))
            paces = jax.tree.map(lambda _: pace, climb.theta)._replace(noise=noise.pace * pace)
            return _adam(climb, gradient, index, paces), density

        carry = (_Climb(theta, zeros, zeros), jnp.float32(0.0))
        climb, evidence = jax.lax.fori_loop(0, steps, step, carry)
        found = condition(
            climb.theta, features=features, targets=targets, where=where, columns=columns
        )
        return found._replace(evidence=evidence)

    return jax.lax.map(ascend, (targets, where, starts, steps, noise))


def _first_theta(priors: Priors, k: int, effects: int, start: Array, noise: NoiseFit) -> Theta:
    """Where a fit begins."""
    return Theta(
        jnp.full(k, priors.scale[0], jnp.float32) + start,
        jnp.full(effects, priors.effect[0], jnp.float32),
        jnp.float32(priors.amplitude[0]),
        noise.start,
    )


class _Climb(NamedTuple):
    """Hyperparameters on the way up, and Adam's moments of their gradient."""

    theta: Theta
    mean: Theta
    square: Theta


def _adam(climb: _Climb, gradient: Theta, index: Array, paces: Theta) -> _Climb:
    """One ascent step of Adam.

    Not ``optax.adam``: it multiplies in another order, and the last bit of a hyperparameter decides some proposals.
    Recorded searches would no longer be resumed or reproduced bit for bit.
    """
    mean = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, climb.mean, gradient)
    square = jax.tree.map(lambda s, g: 0.95 * s + 0.05 * g * g, climb.square, gradient)
    grown, spread = 1 - 0.9 ** (index + 1.0), 1 - 0.95 ** (index + 1.0)
    theta = jax.tree.map(
        lambda p, pace, m, s: p + pace * (m / grown) / (jnp.sqrt(s / spread) + 1e-6),
        climb.theta,
        paces,
        mean,
        square,
    )
    return _Climb(theta, mean, square)


def condition(
    theta: Theta,
    *,
    features: Float[Array, "n x"],
    targets: Float[Array, " n"],
    where: Bool[Array, " n"],
    columns: Columns,
) -> Posterior:
    """The posterior of one process under given hyperparameters; its ``evidence`` is 0."""
    both = where[:, None] & where[None, :]
    diagonal = jnp.where(where, jnp.exp(theta.noise) + _jitter(theta), 1.0)
    kernel = jnp.where(both, covariance(theta, features, features, columns), 0.0)
    kernel = kernel + jnp.diag(diagonal)
    whiten = jnp.where(both, inverse_lower(jnp.linalg.cholesky(kernel)), 0.0)
    weights = whiten.T @ (whiten @ jnp.where(where, targets, 0.0))
    return Posterior(theta, features, where, weights, whiten, jnp.float32(0.0))


def predict(
    posterior: Posterior, features: Float[Array, "m x"], columns: Columns
) -> tuple[Float[Array, " m"], Float[Array, " m"]]:
    """Mean and variance of the function, without noise, at embedded configurations."""
    cross = covariance(posterior.theta, features, posterior.features, columns)
    cross = jnp.where(posterior.where[None, :], cross, 0.0)
    mean = cross @ posterior.weights
    spread = cross @ posterior.whiten.T
    variance = prior_variance(posterior.theta, features, columns)
    return mean, jnp.maximum(variance - jnp.sum(spread * spread, axis=1), 1e-8)


class Beside(NamedTuple):
    """Rows whose covariance with others is asked for, as the posterior sees them."""

    features: Array  # float32 [c, x]
    spread: Array  # float32 [c, n]: L^-1 k(told, rows)


def beside(posterior: Posterior, features: Float[Array, "c x"], columns: Columns) -> Beside:
    """Prepares `predict_beside`."""
    cross = covariance(posterior.theta, features, posterior.features, columns)
    cross = jnp.where(posterior.where[None, :], cross, 0.0)
    return Beside(features, cross @ posterior.whiten.T)


def predict_beside(
    posterior: Posterior, features: Float[Array, "m x"], others: Beside, columns: Columns
) -> tuple[Float[Array, " m"], Float[Array, " m"], Float[Array, "m c"]]:
    """`predict`, and the posterior covariance of the function with its values at the other rows."""
    cross = covariance(posterior.theta, features, posterior.features, columns)
    cross = jnp.where(posterior.where[None, :], cross, 0.0)
    spread = cross @ posterior.whiten.T
    variance = prior_variance(posterior.theta, features, columns)
    variance = jnp.maximum(variance - jnp.sum(spread * spread, axis=1), 1e-8)
    prior = covariance(posterior.theta, features, others.features, columns)
    return cross @ posterior.weights, variance, prior - spread @ others.spread.T
