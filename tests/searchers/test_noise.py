"""Noisy trials: the gain of one more against sampling, the noise that is learned, what is recommended and repeated."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from autorank.searchers.acquisition import Acquisition, AcquisitionSettings
from autorank.searchers.autorank import AutorankConfig
from autorank.searchers.base import SEARCHERS, Context, as_told, told_data
from autorank.space.space import Decision, Space
from autorank.surrogates import gaussian_process as gp
from autorank.surrogates import kernel
from autorank.surrogates.gaussian_surrogate import GaussianFit, gaussian_surrogate
from tests.making import make_searcher

GRID = Space(tuple(Decision(n, tuple(range(32)), "number") for n in "abc"), (16, 16, 16))


def bowl(configs) -> np.ndarray:
    """A smooth function; its standard deviation over uniform configurations is .25."""
    off = np.asarray(configs) / 31.0 - np.array([0.3, 0.6, 0.5])
    return 2.0 * off[:, 0] ** 2 + 1.5 * off[:, 1] ** 2 + 0.8 * off[:, 0] * off[:, 2]


@functools.lru_cache
def surrogate():
    return gaussian_surrogate(GRID, AutorankConfig(warps=("none",)), weighs_cost=False)


def conditioned(noise: float) -> tuple[GaussianFit, jax.Array]:
    """Processes at the medians of their priors, apart from the noise, after twelve trials; the told configurations."""
    made = surrogate()
    configs = GRID.sample(jax.random.key(0), 12)
    values = bowl(configs)
    targets = jnp.asarray((values - values.mean()) / values.std(), jnp.float32)
    priors = made.priors
    theta = kernel.Theta(
        jnp.full(3, priors.scale[0]),
        jnp.full(3, priors.effect[0]),
        jnp.float32(priors.amplitude[0]),
        jnp.log(jnp.float32(noise)),
    )
    posterior = gp.condition(
        theta,
        features=made.embed(configs),
        targets=targets,
        where=jnp.ones(12, bool),
        columns=made.columns,
    )
    one = jax.tree.map(lambda leaf: leaf[None], posterior)
    fitted = GaussianFit(one, one, one, jnp.bool_(False), targets[None], jnp.zeros(12))
    return fitted, configs


def gains(fitted: GaussianFit, told: jax.Array, configs: jax.Array, **settings) -> np.ndarray:
    """The value of the acquisition function; any configuration may be proposed."""

    @jax.jit
    def value(fitted: GaussianFit, configs: jax.Array) -> jax.Array:
        acquisition = Acquisition(surrogate(), AcquisitionSettings(**settings))
        none = jnp.zeros(len(told), bool)
        goal = acquisition.goal(fitted, jnp.ones(1), jnp.float32(0.0), told, none)
        return acquisition.value(goal, configs)

    return np.asarray(value(fitted, configs))


@jax.jit
def lowest_after(fitted: GaussianFit, config: jax.Array, draws: jax.Array) -> jax.Array:
    """The lowest mean of the told configurations and of this one after each of its trials' results ``[n]``."""
    made, posterior = surrogate(), jax.tree.map(lambda leaf: leaf[0], fitted.quality)
    features = jnp.concatenate([posterior.features, made.embed(config[None])])
    where = jnp.ones(len(features), bool)

    def lowest(draw: jax.Array) -> jax.Array:
        targets = jnp.append(fitted.targets[0], draw)
        after = gp.condition(
            posterior.theta, features=features, targets=targets, where=where, columns=made.columns
        )
        return jnp.min(gp.predict(after, features, made.columns)[0])

    return jax.vmap(lowest)(draws)


def test_the_gain_of_a_noisy_trial_is_a_lower_bound_near_the_sampled_one():
    noise, made = 0.2, surrogate()
    fitted, told = conditioned(noise)
    near = jnp.concatenate([GRID.sample(jax.random.key(5), 4), told[:4]])
    found = np.exp(gains(fitted, told, near, margin=0.0))
    mean, variance = (np.asarray(v)[0] for v in jax.jit(made.qualities)(fitted, made.embed(near)))
    before = float(jnp.min(jax.jit(made.qualities)(fitted, made.embed(told))[0]))
    normal = np.random.default_rng(0).normal(size=2000)
    for i, gain in enumerate(found):
        draws = mean[i] + np.sqrt(variance[i] + noise) * normal
        falls = before - np.asarray(lowest_after(fitted, near[i], jnp.asarray(draws, jnp.float32)))
        error = falls.std() / np.sqrt(len(falls))
        assert gain < falls.mean() + 4 * error
        assert gain > 0.6 * falls.mean() - 4 * error


def test_without_noise_it_is_expected_improvement_and_nothing_is_worth_a_second_trial():
    fitted, told = conditioned(1e-6)
    both = jnp.concatenate([GRID.sample(jax.random.key(5), 16), told])
    found = gains(fitted, told, both)
    expected = gains(fitted, told, both, look_ahead=False)
    np.testing.assert_allclose(found[:16], expected[:16], rtol=0.02, atol=0.02)
    assert found[16:].max() < expected[:16].max() - 10


@functools.lru_cache
def searcher():
    """A searcher that has seen 60 trials, and its compiled functions."""
    made = make_searcher("autorank", GRID, capacity=64, batch_size=4, alphas=(0.0,))
    return made, jax.jit(made.judge)


def told(noise: float, seed: int):
    """A state after 60 uniform trials with noise, and their true values."""
    made, _ = searcher()
    configs = GRID.sample(jax.random.key(seed), 60)
    values = bowl(configs)
    seen = values + noise * np.random.default_rng(seed).normal(size=60)
    state = made.tell(made.init(jax.random.key(0)), configs, np.stack([seen, 0 * seen], axis=1))
    return state, values


@pytest.mark.parametrize("noise", [0.04, 0.1, 0.2])
def test_the_noise_is_learned(noise):
    """Within a factor of two in variance, on average over five logs; a warp would change its unit."""
    fit = jax.jit(surrogate().fit)
    found = []
    for seed in range(5):
        state, _ = told(noise, seed)
        fitted = fit(jax.random.key(0), told_data(state.history))
        variance = float(jnp.nanvar(as_told(state)))
        found.append(float(jnp.exp(fitted.quality.theta.noise[0])) * variance / noise**2)
    assert 0.5 < np.exp(np.mean(np.log(found))) < 2.0


def test_what_it_recommends_is_better_than_what_looked_best():
    _, judge = searcher()
    recommended, looked = [], []
    for seed in range(12):
        state, values = told(0.15, seed)
        believed, seen = np.asarray(judge(state))[:60], np.asarray(as_told(state))[:60]
        recommended.append(values[believed.argmin()])
        looked.append(values[seen.argmin()])
        # In the told units, and nearer to the truth than what was told.
        assert np.abs(believed - values).mean() < 0.8 * np.abs(seen - values).mean()
    assert np.mean(recommended) < 0.6 * np.mean(looked)


def test_what_is_worth_a_second_trial_is_proposed_again_where_that_may_be():
    """Seven of eight configurations are told, with much noise: the doubtful best is worth more than the last one."""
    space = Space((Decision("kind", tuple(range(8))),), (0,))
    seen = np.array([0.0, 0.1, 2.0, 2.1, 1.9, 2.2, 2.0])
    settings = AutorankConfig(
        batch_size=1, initial=4, alphas=(0.0,), noise_median=1.0, noise_sd=0.1, noise_start=1.0
    )
    made = SEARCHERS["autorank"].make(space, settings, Context(capacity=16, repeats=True))
    assert made.repeats
    metrics = np.stack([seen, 0 * seen], axis=1)
    state = made.tell(made.init(jax.random.key(0)), np.arange(7)[:, None], metrics)
    proposal = jax.jit(made.ask)(jax.random.key(1), state)
    assert bool(proposal.info["repeat"][0]) and int(proposal.configs[0, 0]) in (0, 1)
