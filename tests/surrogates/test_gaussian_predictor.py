"""The Gaussian process as a predictor: the same as in the searcher, against numpy, and in the ensemble's place."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from autorank.searchers.base import Context
from autorank.searchers.paper import PaperConfig, make_paper
from autorank.space.space import Decision, Space
from autorank.surrogates.base import Data
from autorank.surrogates.gaussian_predictor import make_gaussian_predictor
from autorank.surrogates.gaussian_surrogate import GaussianSettings, gaussian_surrogate, less_of
from autorank.surrogates.kernel import embedding, feature_columns, mean_active

SPACE = Space(
    (
        Decision("kind", ("a", "b", "c")),
        Decision("rate", tuple(range(9)), "number"),
        Decision("heads", (1, 2, 4), "number", False, (("kind", ("b", "c")),)),
    ),
    (0, 4, 0),
)
KEY = jax.random.key(0)


def rows(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Configurations, and a quality and a cost that depend on them smoothly."""
    configs = np.asarray(SPACE.sample(jax.random.key(seed), n))
    quality = np.sin(configs[:, 1] / 3) + 0.3 * configs[:, 0]
    return configs, np.stack([quality, configs[:, 1] / 4], axis=1).astype(np.float32)


def test_it_is_the_searchers_process_on_its_embedding_bit_for_bit():
    settings = GaussianSettings()
    embed, columns = embedding(SPACE)
    configs, metrics = rows(24)
    metrics[3, 0] = np.nan  # failed
    where = np.ones((24, 2), bool)
    where[20:] = False
    surrogate = gaussian_surrogate(SPACE, settings, weighs_cost=True)
    fitted = jax.jit(surrogate.fit)(KEY, Data(*map(jnp.asarray, (configs, metrics, where))))
    less = less_of(SPACE, settings.conditional_scale)
    predictor = make_gaussian_predictor(settings, columns, 24, mean_active(SPACE), less)
    data = (embed(jnp.asarray(configs)), jnp.asarray(metrics), jnp.asarray(where))
    own = jax.jit(predictor.fit)(KEY, *data)
    jax.tree.map(np.testing.assert_array_equal, own, fitted)
    asked = jnp.asarray(rows(9, seed=1)[0])
    found = jax.jit(predictor.score)(own, embed(asked))
    expected = jax.jit(surrogate.predict)(fitted, asked)
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_mean_and_spread_are_those_of_numpy_under_the_fitted_hyperparameters():
    rng = np.random.default_rng(0)
    features, asked = rng.random((30, 3), np.float32), rng.random((7, 3), np.float32)
    targets = np.stack([features @ [1.0, -2.0, 0.0], np.sin(5 * features[:, 2])], axis=1)
    settings = GaussianSettings(warps=("none",), fit_steps=20)
    predictor = make_gaussian_predictor(settings, feature_columns([0, 1, 1]), 30)
    data = map(jnp.asarray, (features, targets.astype(np.float32), np.ones((30, 2), bool)))
    fitted = jax.jit(predictor.fit)(KEY, *data)
    found = predictor.score(fitted, jnp.asarray(asked))
    for task, posterior in enumerate((fitted.quality, fitted.cost)):
        theta = jax.tree.map(lambda leaf: np.exp(np.asarray(leaf[0], np.float64)), posterior.theta)
        scales, effects = theta.scales[[0, 1, 1]], theta.effects[[0, 1, 1]]

        def covariance(left, right, scales=scales, effects=effects, theta=theta):
            r = np.sqrt((((left[:, None] - right[None]) / scales) ** 2).sum(axis=2) * 5)
            return theta.amplitude * (1 + r + r**2 / 3) * np.exp(-r) + (left * effects) @ right.T

        y = (targets[:, task] - targets[:, task].mean()) / targets[:, task].std()
        noise = theta.noise + 1e-5 * (theta.amplitude + theta.effects.sum())
        known = covariance(features, features) + noise * np.eye(30)
        cross = covariance(asked, features)
        mean = cross @ np.linalg.solve(known, y)
        prior = np.diag(covariance(asked, asked))
        variance = prior - np.sum(cross * np.linalg.solve(known, cross.T).T, axis=1)
        np.testing.assert_allclose(found.mean[:, task], mean, atol=3e-3)
        np.testing.assert_allclose(found.sd[:, task], np.sqrt(variance), atol=5e-3)


def test_masked_rows_do_not_count_and_failed_ones_as_the_settings_say():
    configs, metrics = rows(20)
    features = np.array(SPACE.features(configs))
    columns = feature_columns(SPACE.tables.feature_decision)
    where = np.ones((20, 2), bool)
    where[15:] = False

    @functools.cache
    def program(failures):
        predictor = make_gaussian_predictor(GaussianSettings(failures=failures), columns, 20)
        return jax.jit(lambda *data: predictor.score(predictor.fit(KEY, *data), data[0]).mean)

    def scores(failures, features, metrics):
        return np.asarray(program(failures)(*map(jnp.asarray, (features, metrics, where))))

    plain = scores("nothing", features, metrics)
    other, noise = features.copy(), metrics.copy()
    other[15:], noise[15:] = 7.0, np.nan
    np.testing.assert_array_equal(scores("nothing", other, noise)[:15], plain[:15])
    failed = metrics.copy()
    failed[int(np.argmin(metrics[:15, 0])), 0] = np.nan
    best = int(np.argmin(metrics[:15, 0]))
    assert scores("worst", features, failed)[best, 0] > scores("nothing", features, failed)[best, 0]


def test_it_takes_the_ensembles_place_in_the_papers_searcher():
    columns = feature_columns(SPACE.tables.feature_decision)
    predictor = make_gaussian_predictor(GaussianSettings(fit_steps=10), columns, 16)
    settings = PaperConfig(batch_size=3, num_exploratory=1, steps=5, samples=8, alphas=(0.0,))
    searcher = make_paper(SPACE, settings, Context(16, initial=4, predictor=predictor))
    configs, metrics = rows(6)
    state = searcher.tell(searcher.init(KEY), configs, metrics)
    proposal = jax.jit(searcher.ask)(jax.random.key(1), state)
    assert proposal.configs.shape == (3, 3) and np.isfinite(proposal.predicted).all()


def test_what_does_not_fit_is_refused():
    predictor = make_gaussian_predictor(GaussianSettings(), 2, 4)
    with pytest.raises(ValueError, match=r"\(3, 2\).*\(4, 2\): pad"):
        predictor.fit(KEY, jnp.zeros((3, 2)), jnp.zeros((3, 2)), jnp.ones((3, 2), bool))
    with pytest.raises(ValueError, match="capacity=0"):
        make_gaussian_predictor(GaussianSettings(), 2, 0)
    for owner in ([0, 2], []):
        with pytest.raises(ValueError, match="without gaps"):
            feature_columns(owner)
