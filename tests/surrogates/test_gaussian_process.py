"""The Gaussian process against numpy and scipy, its gradient against finite differences, masks against fewer rows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from scipy.special import gamma, kv

from autorank.space.space import Decision, Space
from autorank.surrogates import gaussian_process as gp
from autorank.surrogates import kernel
from autorank.surrogates.triangular import inverse_lower

SPACE = Space(
    (
        Decision("kind", ("a", "b", "c")),
        Decision("rate", tuple(np.geomspace(1e-4, 1e-1, 9).tolist()), "number", True),
        Decision("heads", (1, 2, 4), "number", False, (("kind", ("b", "c")),)),
        Decision("mode", ("x", "y"), "categorical", False, (("kind", ("a",)),)),
    ),
    (0, 4, 0, 0),
)
K = SPACE.num_decisions
EMBED, COLUMNS = kernel.embedding(SPACE)
PRIORS = gp.default_priors(float(K), effects=0.5)


def distance(left: dict, right: dict) -> np.ndarray:
    """Squared, by decision, from the definition."""
    rate = {r: i / 8 for i, r in enumerate(SPACE.decisions[1].choices)}
    heads = {1: 0.0, 2: 1 / 3, 4: 1.0}
    found = np.zeros(K)
    found[0] = left["kind"] != right["kind"]
    found[1] = (rate[left["rate"]] - rate[right["rate"]]) ** 2
    if "heads" in left and "heads" in right:
        found[2] = (heads[left["heads"]] - heads[right["heads"]]) ** 2
    elif "heads" in left or "heads" in right:
        only = left if "heads" in left else right
        found[2] = 0.5 + (heads[only["heads"]] - 0.5) ** 2
    if "mode" in left and "mode" in right:
        found[3] = left["mode"] != right["mode"]
    elif "mode" in left or "mode" in right:
        found[3] = 0.5
    return found


def matern_by_bessel(r: np.ndarray) -> np.ndarray:
    """The textbook form with the modified Bessel function, nu = 5/2."""
    z = np.sqrt(5.0) * np.maximum(r, 1e-9)
    return 2 ** (1 - 2.5) / gamma(2.5) * z**2.5 * kv(2.5, z)


def effects(left: dict, right: dict) -> np.ndarray:
    """Correlations of the main effects; a number's to the accuracy of its few features."""
    found = np.zeros(K)
    for i, d in enumerate(SPACE.decisions):
        if d.name not in left or d.name not in right:
            continue
        if d.kind == "categorical":
            found[i] = left[d.name] == right[d.name]
            continue
        numbers = SPACE.tables.numbers[i][: len(d.choices)]
        correlation = matern_by_bessel(np.abs(numbers[:, None] - numbers[None, :]) / kernel.REACH)
        values, vectors = np.linalg.eigh(correlation)
        rows = (vectors * np.sqrt(np.maximum(values, 0)))[:, -kernel.RANK :]
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        close = rows @ rows.T
        np.testing.assert_allclose(close, correlation, atol=0.05)
        found[i] = close[d.choices.index(left[d.name]), d.choices.index(right[d.name])]
    return found


def reference_kernel(theta: kernel.Theta, left, right) -> np.ndarray:
    scales = np.exp(np.asarray(theta.scales, np.float64))
    a = [SPACE.decode(c) for c in np.asarray(left)]
    b = [SPACE.decode(c) for c in np.asarray(right)]
    squared = np.array([[(distance(x, y) / scales**2).sum() for y in b] for x in a])
    variances = np.exp(np.asarray(theta.effects, np.float64))
    additive = np.array([[effects(x, y) @ variances for y in b] for x in a])
    return float(np.exp(theta.amplitude)) * matern_by_bessel(np.sqrt(squared)) + additive


def jitter(theta: kernel.Theta) -> float:
    return gp.JITTER * float(np.exp(theta.amplitude) + np.exp(theta.effects).sum())


@pytest.fixture(scope="module")
def problem():
    rng = np.random.default_rng(0)
    configs = SPACE.sample(jax.random.key(1), 24)
    theta = kernel.Theta(
        jnp.asarray(rng.normal(-0.3, 0.4, K), jnp.float32),
        jnp.asarray(rng.normal(-1.5, 0.5, K), jnp.float32),
        jnp.float32(0.2),
        jnp.float32(-3.0),
    )
    targets = rng.normal(size=24)
    return configs, theta, targets


def test_kernel_is_the_textbook_matern_and_main_effects(problem):
    configs, theta, _ = problem
    found = kernel.covariance(theta, EMBED(configs), EMBED(configs[:7]), COLUMNS)
    np.testing.assert_allclose(found, reference_kernel(theta, configs, configs[:7]), atol=2e-4)


@pytest.mark.parametrize("n", [1, 5, 16, 17, 40])
def test_triangles_are_inverted(n):
    rng = np.random.default_rng(n)
    kernel = np.exp(-0.5 * (rng.uniform(0, 3, (n, 1)) - rng.uniform(0, 3, (1, n))) ** 2)
    lower = np.linalg.cholesky(kernel @ kernel.T + 0.01 * np.eye(n))
    found = inverse_lower(jnp.asarray(lower, jnp.float32))
    np.testing.assert_allclose(found @ lower, np.eye(n), atol=2e-3)
    assert (np.triu(np.asarray(found), 1) == 0).all()


def density_of(configs, theta, targets, where):
    apart = kernel.squared_distances(EMBED(configs), EMBED(configs), COLUMNS).reshape(K, -1)
    alike = kernel.main_effects(EMBED(configs), EMBED(configs), COLUMNS).reshape(K, -1)
    return gp.density_and_gradient(
        theta, apart, alike, jnp.asarray(targets, jnp.float32), jnp.asarray(where), PRIORS
    )


def reference_density(configs, theta, targets) -> float:
    kernel = reference_kernel(theta, configs, configs)
    noise = float(np.exp(theta.noise)) + jitter(theta)
    n = len(targets)
    value = stats.multivariate_normal.logpdf(
        targets, np.zeros(n), kernel + noise * np.eye(n), allow_singular=False
    )
    value += 0.5 * n * np.log(2 * np.pi)
    for part, (mean, sd) in zip(theta, PRIORS, strict=True):
        value -= 0.5 * np.sum(((np.asarray(part, np.float64) - mean) / sd) ** 2)
    return float(value)


def test_density_is_scipys(problem):
    configs, theta, targets = problem
    value, _ = density_of(configs, theta, targets, np.ones(24, bool))
    np.testing.assert_allclose(value, reference_density(configs, theta, targets), rtol=2e-3)


def test_gradient_is_that_of_the_reference(problem):
    configs, theta, targets = problem
    _, gradient = density_of(configs, theta, targets, np.ones(24, bool))
    for name in kernel.Theta._fields:
        value = np.asarray(getattr(theta, name), np.float64)
        for i in np.ndindex(value.shape):
            ends = []
            for step in (1e-3, -1e-3):
                moved = value.copy()
                moved[i] += step
                ends.append(reference_density(configs, theta._replace(**{name: moved}), targets))
            expected = (ends[0] - ends[1]) / 2e-3
            np.testing.assert_allclose(
                np.asarray(getattr(gradient, name))[i], expected, rtol=5e-3, atol=5e-2
            )


def test_unused_rows_change_nothing(problem):
    configs, theta, targets = problem
    where = np.arange(24) % 3 != 0
    masked = np.where(where, targets, 0.0)
    value, gradient = density_of(configs, theta, masked, where)
    rows = np.flatnonzero(where)
    fewer, expected = density_of(configs[rows], theta, targets[rows], np.ones(len(rows), bool))
    np.testing.assert_allclose(value, fewer, rtol=1e-4)
    for left, right in zip(gradient, expected, strict=True):
        np.testing.assert_allclose(left, right, rtol=2e-3, atol=2e-3)


def test_prediction_is_the_reference_posterior(problem):
    configs, theta, targets = problem
    where = np.arange(24) < 17
    made = gp.condition(
        theta,
        features=EMBED(configs),
        targets=jnp.asarray(targets, jnp.float32),
        where=jnp.asarray(where),
        columns=COLUMNS,
    )
    others = SPACE.sample(jax.random.key(5), 30)
    mean, variance = gp.predict(made, EMBED(others), COLUMNS)
    noise = float(np.exp(theta.noise)) + jitter(theta)
    gram = reference_kernel(theta, configs[:17], configs[:17]) + noise * np.eye(17)
    cross = reference_kernel(theta, others, configs[:17])
    np.testing.assert_allclose(mean, cross @ np.linalg.solve(gram, targets[:17]), atol=5e-3)
    prior = np.diagonal(reference_kernel(theta, others, others))
    np.testing.assert_allclose(
        kernel.prior_variance(theta, EMBED(others), COLUMNS), prior, rtol=2e-4
    )
    expected = prior - np.einsum("ij,ji->i", cross, np.linalg.solve(gram, cross.T))
    np.testing.assert_allclose(variance, expected, atol=5e-3)


def test_fit_finds_the_decision_that_matters_and_climbs():
    """A function of the rate alone: its length scale ends far below those that do not matter."""
    configs = SPACE.sample(jax.random.key(3), 64)
    targets = jnp.sin(configs[:, 1].astype(jnp.float32))
    targets = (targets - targets.mean()) / targets.std()
    fitted = jax.jit(
        lambda steps: gp.fit(
            EMBED(configs),
            jnp.stack([targets, targets]),
            jnp.ones((2, 64), bool),
            columns=COLUMNS,
            priors=PRIORS,
            starts=jnp.zeros(2),
            steps=steps,
        )
    )(jnp.array([60, 2]))
    scales = np.asarray(fitted.theta.scales)[0]
    assert scales[1] < min(scales[0], scales[2], scales[3]) - 1.0
    assert fitted.evidence[0] > fitted.evidence[1] + 5


def test_decisions_that_are_active_on_average():
    """Kind and rate always, heads for two kinds of three, mode for the third."""
    assert abs(kernel.mean_active(SPACE) - 3.0) < 0.05
    assert kernel.mean_active(Space(SPACE.decisions[:2], (0, 4))) == 2.0


def test_without_main_effects_only_the_matern_is_left(problem):
    configs, theta, targets = problem
    embed, columns = kernel.embedding(SPACE, effects=False)
    none = theta._replace(effects=jnp.zeros(0))
    found = kernel.covariance(none, embed(configs), embed(configs), columns)
    both = kernel.covariance(theta, EMBED(configs), EMBED(configs), COLUMNS)
    alike = kernel.main_effects(EMBED(configs), EMBED(configs), COLUMNS)
    expected = both - jnp.einsum("knm,k->nm", alike, jnp.exp(theta.effects))
    np.testing.assert_allclose(found, expected, atol=1e-4)
    fitted = gp.fit(
        embed(configs),
        jnp.asarray(targets, jnp.float32)[None],
        jnp.ones((1, 24), bool),
        columns=columns,
        priors=gp.default_priors(float(K)),
        starts=jnp.zeros(1),
        steps=jnp.array([5]),
    )
    assert fitted.theta.effects.shape == (1, 0) and np.isfinite(fitted.evidence).all()


def test_an_additive_function_is_told_from_few_rows():
    """Twelve three-way choices that add up, 40 rows: main effects predict unseen ones, a product does not."""
    space = Space(tuple(Decision(f"d{i}", ("a", "b", "c")) for i in range(12)), (0,) * 12)
    table = np.random.default_rng(3).normal(size=(12, 3))
    configs = space.sample(jax.random.key(0), 240)
    values = table[np.arange(12)[None, :], np.asarray(configs)].sum(axis=1)
    values = (values - values[:40].mean()) / values[:40].std()
    errors = {}
    for effects in (0.0, 0.5):
        embed, columns = kernel.embedding(space, effects=effects > 0)
        fitted = gp.fit(
            embed(configs[:40]),
            jnp.asarray(values[:40], jnp.float32)[None],
            jnp.ones((1, 40), bool),
            columns=columns,
            priors=gp.default_priors(12.0, effects=effects),
            starts=jnp.zeros(1),
            steps=jnp.array([60]),
        )
        mean, _ = gp.predict(jax.tree.map(lambda a: a[0], fitted), embed(configs[40:]), columns)
        errors[effects] = float(np.mean((np.asarray(mean) - values[40:]) ** 2))
    assert errors[0.5] < 0.5 * errors[0.0]
