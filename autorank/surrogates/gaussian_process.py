"""Gaussian process over configurations: Matern 5/2 plus main effects, fitted by MAP in fixed-size buffers.

    k(x, x') = s^2 (1 + sqrt(5) r + 5/3 r^2) exp(-sqrt(5) r) + sum_d v_d m_d(x, x')
    r^2 = sum_d |e_d(x) - e_d(x')|^2 / l_d^2

``e_d`` embeds decision ``d``: its scaled number, or a one-hot vector over sqrt(2), so that two different choices lie 1
apart; an inactive decision is the zero vector (a conditional number carries an indicator), so that it lies
between 1/2 and 1 from any choice and 0 from another inactive one. ``m_d`` is the correlation of a main effect, an
additive kernel of first order (Duvenaud et al., arXiv 1112.4394): 1 for the same choice and 0 for another; a number's
falls smoothly with the distance; an inactive decision has no effect. One product of features gives their sum. Priors:
log-normal length scales whose median grows with the square root of the number of decisions (Hvarfner et al., arXiv
2402.02229), log-normal variances. Rows that are not used are masked: an identity block that adds nothing to the
likelihood, so a growing history never recompiles.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from autorank.base.typing import Array, Bool, Float, Int
from autorank.space.space import Space

SQRT5 = math.sqrt(5.0)
BLOCK = 16  # rows inverted by substitution
JITTER = 1e-5  # of the prior variance, what float32 needs at a few hundred rows
RANK = 5  # features of a number's main effect
REACH = 0.3  # of a number's range: length scale of its main effect


class Columns(NamedTuple):
    """What the columns of an embedding are for."""

    owner: np.ndarray  # int [x]: decision of each
    apart: np.ndarray  # int [a]: those that distances are measured by
    effect: np.ndarray  # int [b]: those of main effects; none without them
    gain: np.ndarray  # float32 [b]: squared factors of the effects' columns
    num_decisions: int


class Theta(NamedTuple):
    """Hyperparameters, all logarithms."""

    scales: Array  # float32 [k]: log length scale of each decision
    effects: Array  # float32 [k] (or [0]: none): log v_d
    amplitude: Array  # float32: log s^2
    noise: Array  # float32: log noise variance


class Priors(NamedTuple):
    """Medians and standard deviations of the logarithms."""

    scale: tuple[float, float]
    effect: tuple[float, float]
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


def default_priors(
    num_active: float,
    scale_sd: float = 1.0,
    effects: float = 0.0,
    effect_sd: float = 1.5,
    noise: tuple[float, float] = (1e-3, 1.5),
) -> Priors:
    """Length scales around 0.5 sqrt(k / 4), noise around 3 % of the targets' standard deviation.

    Args:
        num_active: ``k``, decisions that a configuration usually has (`mean_active`).
        scale_sd: of the logarithm of a length scale.
        effects: share of the variance that main effects have, in [0, 1).
        effect_sd: of the logarithm of a main effect's variance.
        noise: median of the noise variance, in units of the targets', and standard deviation of its logarithm.
    """
    return Priors(
        scale=(math.log(0.5) + 0.5 * math.log(num_active / 4), scale_sd),
        effect=(math.log(max(effects, 1e-6) / num_active), effect_sd),
        amplitude=(math.log(1 - effects), 1.0),
        noise=(math.log(noise[0]), noise[1]),
    )


def mean_active(space: Space, num_samples: int = 2048) -> float:
    """Active decisions of a uniform configuration, on average: all of them, if there are no conditions."""
    if all(space.tables.roots):
        return float(space.num_decisions)
    configs = space.sample(jax.random.key(0), num_samples)
    return float(jnp.mean(jnp.sum(space.active(configs), axis=1)))


def embedding(
    space: Space, *, effects: bool = True
) -> tuple[Callable[[Int[Array, "n k"]], Float[Array, "n x"]], Columns]:
    """``embed(configs [n, k]) -> [n, x]`` and what its columns are for; ``effects``: with those of main effects."""
    owners: list[int] = []
    tables: list[np.ndarray] = []  # a column's value by choice
    apart: list[int] = []
    effect: list[int] = []
    gain: list[float] = []

    def add(i: int, values: np.ndarray, *, distance: bool, factor: float) -> None:
        if distance:
            apart.append(len(owners))
        if effects and factor:
            effect.append(len(owners))
            gain.append(factor)
        owners.append(i)
        tables.append(np.pad(values, (0, space.max_choices - len(values))))

    for i, d in enumerate(space.decisions):
        num = len(d.choices)
        if d.kind != "number":
            for hot in np.eye(num) * math.sqrt(0.5):
                add(i, hot, distance=True, factor=2.0)
            continue
        numbers = space.tables.numbers[i][:num]
        add(i, numbers - 0.5, distance=True, factor=0.0)
        if d.parents:
            add(i, np.full(num, math.sqrt(0.5)), distance=True, factor=0.0)
        for feature in _smooth(numbers) if effects else ():
            add(i, feature, distance=False, factor=1.0)
    owner = np.array(owners, np.int32)
    flat = np.stack(tables).astype(np.float32).reshape(-1)
    start = np.arange(len(owners), dtype=np.int32) * space.max_choices

    def embed(configs: Int[Array, "n k"]) -> Float[Array, "n x"]:
        value = jnp.asarray(flat)[jnp.asarray(start)[None, :] + configs[:, owner]]
        return jnp.where(space.active(configs)[:, owner], value, 0.0)

    return embed, Columns(
        owner, np.array(apart, np.int32), np.array(effect, np.int32), np.array(gain, np.float32), space.num_decisions
    )  # fmt: skip


def _smooth(numbers: np.ndarray) -> np.ndarray:
    """Features ``[rank, choices]`` of unit length whose product is close to a Matern correlation of the choices."""
    r = np.abs(numbers[:, None] - numbers[None, :]) / REACH
    kernel = (1 + SQRT5 * r + (5 / 3) * r * r) * np.exp(-SQRT5 * r)
    values, vectors = np.linalg.eigh(kernel)
    top = vectors[:, -RANK:] * np.sqrt(np.maximum(values[-RANK:], 0.0))
    return (top / np.linalg.norm(top, axis=1, keepdims=True)).T


def squared_distances(
    left: Float[Array, "n x"], right: Float[Array, "m x"], columns: Columns
) -> Float[Array, "k n m"]:
    """Per decision, unscaled."""
    owner = jnp.asarray(columns.owner[columns.apart])
    hot = jax.nn.one_hot(owner, columns.num_decisions, axis=0)  # [k, a]
    square = (left[:, None, columns.apart] - right[None, :, columns.apart]) ** 2
    return jnp.einsum("kx,nmx->knm", hot, square)


def main_effects(
    left: Float[Array, "n x"], right: Float[Array, "m x"], columns: Columns
) -> Float[Array, "k n m"]:
    """Correlations of the main effects, per decision; ``[0, n, m]`` without them."""
    if not len(columns.effect):
        return jnp.zeros((0, len(left), len(right)))
    owner = jnp.asarray(columns.owner[columns.effect])
    hot = jax.nn.one_hot(owner, columns.num_decisions, axis=0) * columns.gain[None, :]
    both = left[:, None, columns.effect] * right[None, :, columns.effect]
    return jnp.einsum("kx,nmx->knm", hot, both)


def matern(squared: Array) -> Array:
    """Correlation at squared scaled distance, elementwise."""
    r = jnp.sqrt(jnp.maximum(squared, 1e-12))
    return (1 + SQRT5 * r + (5 / 3) * r * r) * jnp.exp(-SQRT5 * r)


def covariance(
    theta: Theta, left: Float[Array, "n x"], right: Float[Array, "m x"], columns: Columns
) -> Float[Array, "n m"]:
    """Between two sets of embedded configurations, by one product a part."""
    weight = jnp.exp(-theta.scales)[columns.owner[columns.apart]][None, :]
    a, b = left[:, columns.apart] * weight, right[:, columns.apart] * weight
    squared = jnp.sum(a * a, 1)[:, None] + jnp.sum(b * b, 1)[None, :] - 2 * a @ b.T
    found = jnp.exp(theta.amplitude) * matern(squared)
    if not len(columns.effect):
        return found
    effects = left[:, columns.effect] * _variances(theta, columns)[None, :]
    return found + effects @ right[:, columns.effect].T


def prior_variance(
    theta: Theta, features: Float[Array, "n x"], columns: Columns
) -> Float[Array, " n"]:
    """The diagonal of the covariance."""
    found = jnp.full(len(features), jnp.exp(theta.amplitude))
    if not len(columns.effect):
        return found
    return found + (features[:, columns.effect] ** 2) @ _variances(theta, columns)


def _variances(theta: Theta, columns: Columns) -> Float[Array, " b"]:
    """Of the effects' columns."""
    return jnp.exp(theta.effects)[columns.owner[columns.effect]] * columns.gain


def _jitter(theta: Theta) -> Float[Array, ""]:
    return JITTER * (jnp.exp(theta.amplitude) + jnp.sum(jnp.exp(theta.effects)))


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
    alike: Float[Array, "e nn"],
    targets: Float[Array, " n"],
    where: Bool[Array, " n"],
    priors: Priors,
) -> tuple[Float[Array, ""], Theta]:
    """log N(targets | 0, K) plus log prior, without constants, and its gradient, written out.

    With ``G = (a a' - K^-1) / 2``, ``a = K^-1 y``, the gradient by any parameter is ``sum(G * dK)``.
    ``apart``: squared distances by decision, flat; ``alike``: correlations of the main effects, flat.
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
    # By the squared distance: d matern / d r^2 = -(5/6) (1 + sqrt(5) r) exp(-sqrt(5) r).
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
) -> Posterior:
    """MAP by Adam for ``g`` problems over the same rows, one after another; posteriors ``[g, ...]``.

    Targets should be standardised over the used rows. A problem starts at the prior's medians with its length scales
    times ``e^start`` and takes its own number of steps (0 leaves it at the start).
    """
    targets = jnp.where(where, targets, 0.0)
    k, n = columns.num_decisions, len(features)
    apart = squared_distances(features, features, columns).reshape(k, n * n)
    alike = main_effects(features, features, columns).reshape(-1, n * n)

    def ascend(problem: tuple[Array, Array, Array, Array]) -> Posterior:
        targets, where, start, steps = problem
        theta = Theta(
            jnp.full(k, priors.scale[0], jnp.float32) + start,
            jnp.full(len(alike), priors.effect[0], jnp.float32),
            jnp.float32(priors.amplitude[0]),
            jnp.float32(priors.noise[0]),
        )
        zeros = jax.tree.map(jnp.zeros_like, theta)

        def step(index, carry):
            theta, mean, square, _ = carry
            density, gradient = density_and_gradient(theta, apart, alike, targets, where, priors)
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
        found = condition(theta, features=features, targets=targets, where=where, columns=columns)
        return found._replace(evidence=evidence)

    return jax.lax.map(ascend, (targets, where, starts, steps))


def condition(
    theta: Theta,
    *,
    features: Float[Array, "n x"],
    targets: Float[Array, " n"],
    where: Bool[Array, " n"],
    columns: Columns,
) -> Posterior:
    """The posterior under given hyperparameters."""
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
    """Mean and variance of the function (without noise) at embedded configurations."""
    cross = covariance(posterior.theta, features, posterior.features, columns)
    cross = jnp.where(posterior.where[None, :], cross, 0.0)
    mean = cross @ posterior.weights
    spread = cross @ posterior.whiten.T
    variance = prior_variance(posterior.theta, features, columns)
    return mean, jnp.maximum(variance - jnp.sum(spread * spread, axis=1), 1e-8)
