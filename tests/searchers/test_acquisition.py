"""Expected improvement against Monte Carlo and quadrature; warps, designs, mutants, neighbours by definition."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, stats

from autorank.searchers import acquisition, candidates, climbing
from autorank.space.space import Decision, Space
from autorank.surrogates import warping
from autorank.surrogates.base import Data
from autorank.surrogates.gaussian_surrogate import GaussianSettings, gaussian_surrogate

SPACE = Space(
    (
        Decision("kind", ("a", "b", "c")),
        Decision("rate", tuple(range(64)), "number"),
        Decision("heads", (1, 2, 4), "number", False, (("kind", ("b", "c")),)),
    ),
    (0, 32, 0),
)


def test_expected_improvement_against_monte_carlo():
    draws = np.random.default_rng(0).normal(size=400_000)
    for mean, sd, best in ((0.0, 1.0, 0.0), (1.0, 0.5, 0.3), (-0.2, 2.0, -1.0)):
        gains = np.maximum(best - (mean + sd * draws), 0.0)
        found = float(
            acquisition.log_expected_improvement(jnp.float32(mean), jnp.float32(sd**2), best)
        )
        error = gains.std() / np.sqrt(len(draws))
        assert abs(np.exp(found) - gains.mean()) < 5 * error


@pytest.mark.parametrize("z", [3.0, 0.0, -2.0, -4.9, -5.1, -9.0, -30.0])
def test_its_logarithm_far_from_the_incumbent(z):
    found = float(acquisition.log_expected_improvement(jnp.float32(-z), jnp.float32(1.0), 0.0))
    value, _ = integrate.quad(
        lambda t: t * np.exp(-0.5 * (t * t - 2 * z * t)), 0, 60, epsabs=0, epsrel=1e-10
    )
    expected = np.log(value) + stats.norm.logpdf(z)
    np.testing.assert_allclose(found, expected, rtol=2e-3, atol=2e-3)


def test_a_gain_counts_by_a_power_of_the_probability_of_not_failing():
    surrogate = gaussian_surrogate(SPACE, GaussianSettings(fit_steps=1), weighs_cost=False)
    configs = SPACE.sample(jax.random.key(0), 12)
    failed = np.asarray(configs)[:, 0] == 1
    assert 1 <= failed.sum() <= 8
    quality = np.where(failed, np.nan, np.arange(12.0))
    metrics = jnp.asarray(np.stack([quality, np.zeros(12)], axis=1), jnp.float32)
    where = jnp.tile(jnp.array([True, False]), (12, 1))
    fitted = surrogate.fit(jax.random.key(0), Data(configs, metrics, where))
    features, gain = surrogate.embed(configs), jnp.arange(12.0)[None]
    marks = jnp.zeros(1, jnp.uint32), jnp.zeros(1, jnp.uint32)
    goal = SimpleNamespace(
        fitted=fitted, weights=jnp.ones(1), marks=marks, is_mark=jnp.zeros(1, bool)
    )
    log_p = np.asarray(surrogate.log_feasibility(fitted, features))
    assert (log_p < 0).all() and log_p[failed].max() < log_p[~failed].min()
    likely = np.minimum(log_p - np.log(0.5), 0)
    assert (likely < 0).any() and (likely == 0).any()
    for power, more in ((1.0, 4.0), (4.0, 0.0)):
        own = acquisition.AcquisitionSettings(feasibility_power=power, likely_failure_power=more)
        total = acquisition.Acquisition(surrogate, own).total(goal, gain, features, configs)
        expected = np.arange(12) + power * log_p + more * likely
        np.testing.assert_allclose(total, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", warping.WARPS)
def test_warps_keep_the_order_and_are_standardised(kind):
    rng = np.random.default_rng(1)
    values = np.where(np.arange(40) < 30, rng.gamma(1.0, 2.0, 40), np.nan)
    values[3], values[7] = 1e4, values[8]
    where = np.isfinite(values)
    found = np.asarray(warping.warp(kind, jnp.asarray(values, jnp.float32), jnp.asarray(where)))
    np.testing.assert_allclose(found[where].mean(), 0, atol=1e-5)
    np.testing.assert_allclose(found[where].std(), 1, rtol=1e-4)
    assert (found[~where] == 0).all() and found[7] == found[8]
    order = np.argsort(values[where], kind="stable")
    assert (np.diff(found[where][order]) >= 0).all()
    if kind != "none":
        assert found.max() < 4  # the outlier no longer rules


def test_the_better_half_keeps_its_distances():
    values = jnp.asarray([0.0, 1.0, 1.5, 3.0, 90.0, 1000.0, 5.0])
    found = np.asarray(warping.warp("half_rank", values, jnp.ones(7, bool)))
    np.testing.assert_allclose((found[2] - found[0]) / (found[1] - found[0]), 1.5, rtol=1e-4)


@pytest.mark.parametrize("kind", warping.WARPS)
def test_constant_and_absent_targets_are_zero(kind):
    same = warping.warp(kind, jnp.full(5, 3.0), jnp.arange(5) < 4)
    none = warping.warp(kind, jnp.full(5, jnp.nan), jnp.zeros(5, bool))
    np.testing.assert_array_equal(same, 0)
    np.testing.assert_array_equal(none, 0)


def test_a_latin_hypercube_spreads_every_decision():
    rows = np.asarray(candidates.latin_hypercube(jax.random.key(0), SPACE, 16))
    SPACE.validate(rows)
    assert sorted(rows[:, 1] // 4) == list(range(16))
    assert min(np.bincount(rows[:, 0], minlength=3)) >= 5


def test_mutants_differ_and_numbers_mostly_move_a_little():
    parents = jnp.tile(jnp.array([[1, 32, 1]], jnp.int32), (4000, 1))
    settings = candidates.CandidateSettings(mutation_rate=0.1)
    rows = np.asarray(candidates.vary(jax.random.key(0), SPACE, parents, settings))
    SPACE.validate(rows)
    assert (rows != np.asarray(parents)).any(axis=1).all()
    steps = np.abs(rows[:, 1] - 32)
    moved = steps[steps > 0]
    assert 0.6 < np.mean(moved <= 13) < 0.95


def test_children_take_each_decision_from_a_parent():
    left, right = SPACE.sample(jax.random.key(1), 200), SPACE.sample(jax.random.key(2), 200)
    rows = np.asarray(candidates.cross(jax.random.key(3), SPACE, left, right))
    SPACE.validate(rows)
    active = np.asarray(SPACE.active(rows))
    assert ((rows == np.asarray(left)) | (rows == np.asarray(right)) | ~active).all()


def test_neighbours_are_all_changes_of_one_decision():
    config = jnp.array([[1, 5, 2]], jnp.int32)
    found = {tuple(r) for r in np.asarray(climbing.neighbourhood(SPACE)(config))[0].tolist()}
    expected = {(1, 5, h) for h in range(3)} | {(2, 5, 2), (0, 5, 0)}
    expected |= {(1, min(max(5 + s, 0), 63), 2) for s in climbing.STEPS}
    assert found == expected
