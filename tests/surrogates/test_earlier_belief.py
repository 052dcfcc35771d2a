"""Earlier searches as columns of the processes: against the formula, and on planted histories."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from autorank.space.space import Decision, Space
from autorank.surrogates import gaussian_process as gp
from autorank.surrogates import kernel
from autorank.surrogates.base import Data
from autorank.surrogates.earlier_belief import believe_earlier, with_earlier
from autorank.surrogates.gaussian_surrogate import GaussianSettings, gaussian_surrogate

SPACE = Space(
    (
        *(Decision(n, tuple(range(16)), "number") for n in "ab"),
        Decision("c", ("x", "y", "z")),
    ),
    (8, 8, 0),
)
MADE = gaussian_surrogate(SPACE, GaussianSettings(warps=("none",)), weighs_cost=False)


def truth(configs) -> np.ndarray:
    a, b, c = np.asarray(configs, float).T
    return (a / 15 - 0.3) ** 2 + 0.5 * np.sin(6 * b / 15) + 0.3 * c


@pytest.fixture(scope="module")
def belief():
    """Of a search for the truth, and of one whose labels say nothing; with the trials of the first."""
    configs = np.asarray(SPACE.sample(jax.random.key(0), 48))
    random = np.random.default_rng(0).normal(size=48)
    quality = np.stack([truth(configs), random]).astype(np.float32)
    quality[:, 40:] = np.nan  # unused rows
    both = jnp.asarray(np.stack([configs, configs]))
    return jax.jit(lambda: believe_earlier(MADE, both, jnp.asarray(quality)))(), configs, quality


def test_the_mean_is_that_of_the_earlier_process_and_unused_rows_say_nothing(belief):
    earlier, configs, quality = belief
    new = SPACE.sample(jax.random.key(1), 20)
    warm = with_earlier(MADE, earlier, (0.5, 2.0))
    columns = np.asarray(warm.embed(new))
    assert columns.shape[1] == MADE.embed(new).shape[1] + 2
    metrics = jnp.stack([jnp.asarray(quality[0]), jnp.zeros(48)], axis=1)[:40]
    data = Data(jnp.asarray(configs[:40]), metrics, jnp.tile(jnp.array([True, False]), (40, 1)))
    alone = jax.tree.map(lambda leaf: leaf[0], jax.jit(MADE.fit)(jax.random.key(0), data).quality)
    mean, _ = gp.predict(alone, MADE.embed(new), MADE.columns)
    np.testing.assert_allclose(columns[:, -2], mean, atol=2e-3)
    assert np.corrcoef(columns[:, -2], truth(new))[0, 1] > 0.9


def test_the_covariance_gains_the_product_of_the_means(belief):
    warm = with_earlier(MADE, belief[0], (0.5, 2.0))
    new = SPACE.sample(jax.random.key(2), 6)
    k = MADE.columns.num_decisions
    priors = warm.priors
    assert priors.effect[0].tolist()[k:] == pytest.approx([np.log(0.5)] * 2)
    assert priors.effect[1].tolist() == pytest.approx([*[MADE.priors.effect[1]] * k, 2.0, 2.0])
    theta = kernel.Theta(
        jnp.full(k + 2, -0.3),
        jnp.append(jnp.full(k, -1.0), jnp.log(jnp.array([0.7, 0.2]))),
        jnp.float32(0.1),
        jnp.float32(-3.0),
    )
    cold = kernel.Theta(theta.scales[:k], theta.effects[:k], theta.amplitude, theta.noise)
    features, wide = MADE.embed(new), warm.embed(new)
    first, second = np.asarray(wide[:, -2]), np.asarray(wide[:, -1])
    wanted = kernel.covariance(cold, features, features, MADE.columns)
    wanted = wanted + 0.7 * np.outer(first, first) + 0.2 * np.outer(second, second)
    found = kernel.covariance(theta, wide, wide, warm.columns)
    np.testing.assert_allclose(found, wanted, atol=1e-4)
    variance = kernel.prior_variance(theta, wide, warm.columns)
    np.testing.assert_allclose(variance, np.diag(wanted), atol=1e-4)


def test_few_trials_are_enough_after_a_true_history_and_after_its_opposite(belief):
    warm = with_earlier(MADE, belief[0], (0.5, 2.0))
    few = SPACE.sample(jax.random.key(3), 8)
    new = SPACE.sample(jax.random.key(4), 200)

    @jax.jit
    def predicted(quality):
        metrics = jnp.stack([quality, jnp.zeros(8)], axis=1)
        data = Data(few, metrics, jnp.tile(jnp.array([True, False]), (8, 1)))
        return warm.predict(warm.fit(jax.random.key(0), data), new).mean[:, 0]

    for sign in (1, -1):
        found = predicted(jnp.asarray(sign * truth(few), jnp.float32))
        assert np.corrcoef(found, sign * truth(new))[0, 1] > 0.9
