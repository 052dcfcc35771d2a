"""Conditional decisions matter less a priori: what that changes, what it costs, and where it changes nothing."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from autorank.space.space import Decision, Space
from autorank.surrogates.base import Data
from autorank.surrogates.gaussian_surrogate import GaussianSettings, gaussian_surrogate, less_of

LETTERS = tuple("abcdefgh")
# Up to four layers of one module each, as in a space of DHENs, and two rates.
SPACE = Space(
    (
        Decision("layers", (1, 2, 3, 4), "number"),
        *(
            Decision(f"layer{i}", LETTERS, "categorical", False, (("layers", tuple(range(i, 5))),))
            for i in (2, 3, 4)
        ),
        Decision("rate", tuple(range(7)), "number"),
        Decision("scale", tuple(range(7)), "number"),
    ),
    (0, 0, 0, 0, 3, 3),
)
ROWS, NOISE = 60, 0.3


def of_rates(configs: np.ndarray) -> np.ndarray:
    """Unconditional decisions alone matter."""
    return ((configs[:, 4] - 4.2) / 3) ** 2 + np.abs(configs[:, 5] - 2) / 3 + configs[:, 0] / 4


def of_modules(configs: np.ndarray) -> np.ndarray:
    """Conditional decisions alone matter."""
    on = np.asarray(SPACE.active(jnp.asarray(configs)))
    return sum(np.where(on[:, i], (configs[:, i] % 4) - 1.5, 0.0) for i in (1, 2, 3))


def order(truth, factor: float, seed: int) -> float:
    """Tau-b of what a process says of unseen configurations, after noisy results."""
    settings = replace(GaussianSettings(), conditional_scale=factor)
    surrogate = gaussian_surrogate(SPACE, settings, weighs_cost=False)
    configs = np.asarray(SPACE.sample(jax.random.key(seed), ROWS + 300))
    values = truth(configs)
    noisy = values + NOISE * values.std() * np.random.default_rng(seed).normal(size=len(values))
    metrics = np.stack([noisy, np.zeros_like(noisy)], axis=1)[:ROWS].astype(np.float32)
    data = Data(jnp.asarray(configs[:ROWS]), jnp.asarray(metrics), jnp.ones((ROWS, 2), bool))
    fitted = jax.jit(surrogate.fit)(jax.random.key(0), data)
    found = surrogate.predict(fitted, jnp.asarray(configs[ROWS:])).mean[:, 0]
    return float(scipy.stats.kendalltau(found, values[ROWS:]).statistic)


def test_what_conditions_switch_on_distracts_less_and_is_still_learnt():
    usual = GaussianSettings().conditional_scale
    assert usual > 1
    rates = np.array([[order(of_rates, c, seed) for c in (usual, 1.0)] for seed in range(4)])
    assert (rates[:, 0] > rates[:, 1] - 0.01).all() and rates[:, 0].mean() > 0.7
    modules = np.array([[order(of_modules, c, seed) for c in (usual, 1.0)] for seed in range(4)])
    # A prior, not a ban.
    assert modules[:, 0].mean() > 0.6 * modules[:, 1].mean() > 0.2


def test_the_prior_by_hand_and_without_conditions_nothing_changes():
    less = less_of(SPACE, 8.0)
    assert np.asarray(less) == pytest.approx([0, *[np.log(8.0)] * 3, 0, 0])
    own = gaussian_surrogate(SPACE, GaussianSettings(), weighs_cost=False).priors
    flat = replace(GaussianSettings(), conditional_scale=1.0)
    before = gaussian_surrogate(SPACE, flat, weighs_cost=False).priors
    np.testing.assert_allclose(own.scale[0] - before.scale[0], less, atol=1e-6)
    np.testing.assert_allclose(own.effect[0] - before.effect[0], -2 * less, atol=1e-6)
    plain = Space(SPACE.decisions[4:], (3, 3))
    assert less_of(plain, 8.0) == 0.0
    made = [
        gaussian_surrogate(plain, s, weighs_cost=False).priors for s in (GaussianSettings(), flat)
    ]
    assert made[0] == made[1]  # the same numbers, and so the same programs


def test_without_main_effects_there_is_no_prior_of_them():
    settings = replace(GaussianSettings(), effects=0.0, fit_steps=5)
    surrogate = gaussian_surrogate(SPACE, settings, weighs_cost=False)
    configs = SPACE.sample(jax.random.key(0), 12)
    metrics = jnp.stack([jnp.arange(12.0), jnp.zeros(12)], axis=1)
    fitted = surrogate.fit(jax.random.key(0), Data(configs, metrics, jnp.ones((12, 2), bool)))
    assert np.isfinite(np.asarray(surrogate.predict(fitted, configs).mean[:, 0])).all()
