"""Gaussian process over configurations: Matern 5/2 with a length scale a decision, fitted by MAP in fixed-size buffers.

    k(x, x') = s^2 (1 + sqrt(5) r + 5/3 r^2) exp(-sqrt(5) r),    r^2 = sum_d |e_d(x) - e_d(x')|^2 / l_d^2

``e_d`` embeds decision ``d``: its scaled number, or a one-hot vector over sqrt(2), so that two different choices lie 1
apart; an inactive decision is the zero vector (a conditional number carries an indicator), so that it lies
between 1/2 and 1 from any choice and 0 from another inactive one. Priors: log-normal length scales whose median
grows with the square root of the number of decisions (Hvarfner et al., arXiv 2402.02229), log-normal noise and
amplitude. Rows that are not used are masked: an identity block that adds nothing to the likelihood, so a growing
history never recompiles.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from autorank.space import Space
from autorank.typing import Array, Bool, Float, Int

SQRT5 = math.sqrt(5.0)
BLOCK = 16  # rows inverted by substitution
JITTER = 1e-5  # of the amplitude, what float32 needs at a few hundred rows


class Theta(NamedTuple):
    """Hyperparameters, all logarithms."""

    scales: Array  # float32 [k]: log length scale of each decision
    amplitude: Array  # float32: log s^2
    noise: Array  # float32: log noise variance


class Priors(NamedTuple):
    """Medians and standard deviations of the logarithms."""

    scale: tuple[float, float]
    amplitude: tuple[float, float]
    noise: tuple[float, float]


class Posterior(NamedTuple):
    """A fitted process: what prediction needs."""

    theta: Theta
    features: Array  # float32 [n, x]
    where: Array  # bool [n]
    weights: Array  # float32 [n]: K^-1 y
    whiten: Array  # float32 [n, n]: L^-1, zero in unused rows
    evidence: Array  # float32: log posterior density of theta


def default_priors(num_decisions: int, scale_sd: float = 1.0) -> Priors:
    """Length scales around 0.5 sqrt(k / 4), noise around 3 % of the targets' standard deviation."""
    return Priors(
        scale=(math.log(0.5) + 0.5 * math.log(num_decisions / 4), scale_sd),
        amplitude=(0.0, 1.0),
        noise=(math.log(1e-3), 1.5),
    )


def embedding(
    space: Space,
) -> tuple[Callable[[Int[Array, "n k"]], Float[Array, "n x"]], np.ndarray]:
    """``embed(configs [n, k]) -> [n, x]`` and the decision of each column, int ``[x]``."""
    owners, choices, numbers = (
        [],
        [],
        np.zeros((space.num_decisions, space.max_choices), np.float32),
    )
    for i, d in enumerate(space.decisions):
        if d.kind == "number":
            numbers[i] = space._features[2][i] - 0.5
            owners.append(i)
            choices.append(-1)
            if d.parents:
                owners.append(i)
                choices.append(-2)
        else:
            owners += [i] * len(d.choices)
            choices += range(len(d.choices))
    owner, choice = np.array(owners, np.int32), np.array(choices, np.int32)
    flat = numbers.reshape(-1)

    def embed(configs: Int[Array, "n k"]) -> Float[Array, "n x"]:
        own = configs[:, owner]
        value = jnp.asarray(flat)[jnp.asarray(owner * space.max_choices)[None, :] + own]
        hot = math.sqrt(0.5) * (own == jnp.asarray(choice)[None, :])
        hot = jnp.where(jnp.asarray(choice == -2)[None, :], math.sqrt(0.5), hot)
        filled = jnp.where(jnp.asarray(choice == -1)[None, :], value, hot)
        return jnp.where(space.active(configs)[:, owner], filled, 0.0)

    return embed, owner


def squared_distances(
    left: Float[Array, "n x"], right: Float[Array, "m x"], owner: np.ndarray, num_decisions: int
) -> Float[Array, "k n m"]:
    """Per decision, unscaled."""
    hot = jax.nn.one_hot(jnp.asarray(owner), num_decisions, axis=0)  # [k, x]
    square = (left[:, None, :] - right[None, :, :]) ** 2
    return jnp.einsum("kx,nmx->knm", hot, square)


def matern(squared: Array) -> Array:
    """Correlation at squared scaled distance, elementwise."""
    r = jnp.sqrt(jnp.maximum(squared, 1e-12))
    return (1 + SQRT5 * r + (5 / 3) * r * r) * jnp.exp(-SQRT5 * r)


def covariance(
    theta: Theta, left: Float[Array, "n x"], right: Float[Array, "m x"], owner: np.ndarray
) -> Float[Array, "n m"]:
    """Between two sets of embedded configurations, by one product."""
    weight = jnp.exp(-theta.scales)[owner][None, :]
    a, b = left * weight, right * weight
    squared = jnp.sum(a * a, 1)[:, None] + jnp.sum(b * b, 1)[None, :] - 2 * a @ b.T
    return jnp.exp(theta.amplitude) * matern(squared)


def inverse_lower(lower: Float[Array, "n n"]) -> Float[Array, "n n"]:
    """Inverse of a lower triangle by halves: products do the work, which a CPU runs far faster than solves."""
    n = len(lower)
    blocks = [lower[i : i + BLOCK, i : i + BLOCK] for i in range(0, n, BLOCK)]
    last = len(blocks[-1])
    pad = BLOCK - last
    blocks[-1] = jnp.pad(blocks[-1], (0, pad)) + jnp.diag(jnp.arange(BLOCK) >= last)
    small = _substitute(jnp.stack(blocks))

    def invert(first: int, count: int) -> Array:
        if count == 1:
            width = min(BLOCK, n - first * BLOCK)
            return small[first, :width, :width]
        half = count // 2
        upper, low = invert(first, half), invert(first + half, count - half)
        a, b = first * BLOCK, (first + half) * BLOCK
        corner = lower[b : min((first + count) * BLOCK, n), a:b]
        left = jnp.concatenate([upper, -(low @ corner) @ upper], axis=0)
        right = jnp.concatenate([jnp.zeros((len(upper), len(low))), low], axis=0)
        return jnp.concatenate([left, right], axis=1)

    return invert(0, len(blocks))


def _substitute(blocks: Float[Array, "g w w"]) -> Float[Array, "g w w"]:
    """Inverses of small lower triangles, row by row."""
    width = blocks.shape[1]

    def solve(i: Array, found: Array) -> Array:
        # Rows from i on are still zero, so the whole row of the block may be used.
        known = jnp.einsum("gj,gjw->gw", blocks[:, i], found)
        row = (jax.nn.one_hot(i, width)[None, :] - known) / blocks[:, i, i][:, None]
        return found.at[:, i].set(row)

    return jax.lax.fori_loop(0, width, solve, jnp.zeros_like(blocks))


def density_and_gradient(
    theta: Theta,
    apart: Float[Array, "k nn"],
    targets: Float[Array, " n"],
    where: Bool[Array, " n"],
    priors: Priors,
) -> tuple[Float[Array, ""], Theta]:
    """log N(targets | 0, K) plus log prior, without constants, and its gradient, written out.

    With ``G = (a a' - K^-1) / 2``, ``a = K^-1 y``, the gradient by any parameter is ``sum(G * dK)``.
    ``apart``: squared distances by decision, flat.
    """
    n = len(targets)
    scales = jnp.exp(-2 * theta.scales)
    r = jnp.sqrt(jnp.maximum(scales @ apart, 1e-12)).reshape(n, n)
    decay = jnp.exp(-SQRT5 * r)
    amplitude, noise = jnp.exp(theta.amplitude), jnp.exp(theta.noise)
    used = (where[:, None] & where[None, :]).astype(jnp.float32)
    signal = used * amplitude * (1 + SQRT5 * r + (5 / 3) * r * r) * decay
    diagonal = jnp.where(where, noise + JITTER * amplitude, 1.0)
    lower = jnp.linalg.cholesky(signal + jnp.diag(diagonal))
    whiten = inverse_lower(lower)
    weights = whiten.T @ (whiten @ targets)
    fit_term = -0.5 * targets @ weights - jnp.sum(jnp.log(jnp.diagonal(lower)))
    half = 0.5 * (weights[:, None] * weights[None, :] - whiten.T @ whiten)
    trace = jnp.sum(jnp.where(where, jnp.diagonal(half), 0.0))
    # By the squared distance: d matern / d r^2 = -(5/6) (1 + sqrt(5) r) exp(-sqrt(5) r).
    slope = half * used * amplitude * (-5 / 6) * (1 + SQRT5 * r) * decay
    gradient = Theta(
        -2 * scales * (apart @ slope.reshape(-1)),
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
    owner: np.ndarray,
    num_decisions: int,
    priors: Priors,
    starts: Float[Array, " g"],
    steps: Int[Array, " g"],
    rate: float = 0.1,
) -> Posterior:
    """MAP by Adam for ``g`` problems over the same rows, one after another; posteriors ``[g, ...]``.

    Targets should be standardised over the used rows. A problem starts at the prior's medians with its length scales
    times ``e^start`` and takes its own number of steps (0 leaves it at the start).
    """
    targets = jnp.where(where, targets, 0.0)
    apart = squared_distances(features, features, owner, num_decisions)
    apart = apart.reshape(num_decisions, -1)

    def ascend(problem: tuple[Array, Array, Array, Array]) -> Posterior:
        targets, where, start, steps = problem
        theta = Theta(
            jnp.full(num_decisions, priors.scale[0], jnp.float32) + start,
            jnp.float32(priors.amplitude[0]),
            jnp.float32(priors.noise[0]),
        )
        zeros = jax.tree.map(jnp.zeros_like, theta)

        def step(index, carry):
            theta, mean, square, _ = carry
            density, gradient = density_and_gradient(theta, apart, targets, where, priors)
            mean = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, mean, gradient)
            square = jax.tree.map(lambda s, g: 0.95 * s + 0.05 * g * g, square, gradient)
            # The rate falls to a tenth, so that the last steps settle.
            pace = rate * (1 - 0.9 * index / jnp.maximum(steps, 1))
            grown, spread = 1 - 0.9 ** (index + 1.0), 1 - 0.95 ** (index + 1.0)
            theta = jax.tree.map(
                lambda p, m, s: p + pace * (m / grown) / (jnp.sqrt(s / spread) + 1e-6),
                theta,
                mean,
                square,
            )
            return theta, mean, square, density

        carry = (theta, zeros, zeros, jnp.float32(0.0))
        theta, _, _, evidence = jax.lax.fori_loop(0, steps, step, carry)
        found = condition(theta, features=features, targets=targets, where=where, owner=owner)
        return found._replace(evidence=evidence)

    return jax.lax.map(ascend, (targets, where, starts, steps))


def condition(
    theta: Theta,
    *,
    features: Float[Array, "n x"],
    targets: Float[Array, " n"],
    where: Bool[Array, " n"],
    owner: np.ndarray,
) -> Posterior:
    """The posterior under given hyperparameters."""
    correlation = covariance(theta._replace(amplitude=jnp.float32(0.0)), features, features, owner)
    both = where[:, None] & where[None, :]
    amplitude = jnp.exp(theta.amplitude)
    diagonal = jnp.where(where, jnp.exp(theta.noise) + JITTER * amplitude, 1.0)
    kernel = jnp.where(both, amplitude * correlation, 0.0) + jnp.diag(diagonal)
    whiten = jnp.where(both, inverse_lower(jnp.linalg.cholesky(kernel)), 0.0)
    weights = whiten.T @ (whiten @ jnp.where(where, targets, 0.0))
    return Posterior(theta, features, where, weights, whiten, jnp.float32(0.0))


def predict(
    posterior: Posterior, features: Float[Array, "m x"], owner: np.ndarray
) -> tuple[Float[Array, " m"], Float[Array, " m"]]:
    """Mean and variance of the function (without noise) at embedded configurations."""
    cross = covariance(posterior.theta, features, posterior.features, owner)
    cross = jnp.where(posterior.where[None, :], cross, 0.0)
    mean = cross @ posterior.weights
    spread = cross @ posterior.whiten.T
    variance = jnp.exp(posterior.theta.amplitude) - jnp.sum(spread * spread, axis=1)
    return mean, jnp.maximum(variance, 1e-8)
