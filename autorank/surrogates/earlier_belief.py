"""What earlier searches say, as columns of the Gaussian processes of a new one.

A process is fitted once to each earlier search. Its posterior mean ``m_i(x)`` is then a column that all processes of
the new search see, with a main effect of its own:

    y(x) = f(x) + sum_i a_i m_i(x),    f ~ GP(0, k),    a_i ~ N(0, v_i)

so that ``v_i m_i(x) m_i(x')`` is added to the covariance. ``a_i`` is integrated out and ``v_i`` fitted with the other
hyperparameters: history that says nothing about the new task gets a scale near 0 from the first trials on, and history
that says the opposite a negative one. The earlier trials are in no matrix that is factored, so an ask takes hardly
longer. (Feurer et al., arXiv 1802.02219, weigh earlier processes by how they rank the new trials; joint processes of
several tasks, Swersky et al. 2013, "Multi-task Bayesian optimization", factor all trials together.)
"""

import dataclasses
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from autorank.base.typing import Array, Float, Int
from autorank.surrogates.base import Data
from autorank.surrogates.gaussian_surrogate import GaussianSurrogate
from autorank.surrogates.kernel import Theta, covariance


class EarlierBelief(NamedTuple):
    """The posterior means of ``l`` earlier searches, as functions of a configuration."""

    theta: Theta  # [l, ...]
    features: Array  # float32 [l, m, x]: of the trials
    weights: Array  # float32 [l, m]: K^-1 y, 0 in unused rows


def believe_earlier(
    surrogate: GaussianSurrogate, configs: Int[Array, "l m k"], quality: Float[Array, "l m"]
) -> EarlierBelief:
    """Fits the first process of the quality to each earlier search.

    Args:
        surrogate: of the new search's space.
        configs: trials of the earlier searches, in that space.
        quality: their labels, each search in its own units, lower is better; NaN in unused rows.
    """

    def fit(one: tuple[Array, Array]) -> EarlierBelief:
        own_configs, own_quality = one
        where = jnp.isfinite(own_quality)
        metrics = jnp.stack([own_quality, jnp.zeros_like(own_quality)], axis=1)
        data = Data(own_configs, metrics, jnp.stack([where, jnp.zeros_like(where)], axis=1))
        fitted = surrogate.fit(jax.random.key(0), data).quality
        first = jax.tree.map(lambda leaf: leaf[0], fitted)
        return EarlierBelief(first.theta, first.features, first.weights)

    return jax.lax.map(fit, (configs, quality))


def believed_means(
    belief: EarlierBelief, features: Float[Array, "n x"], surrogate: GaussianSurrogate
) -> Float[Array, "n l"]:
    """The posterior mean of each earlier search, in standard deviations of its labels."""

    def mean(one: EarlierBelief) -> Array:
        return covariance(one.theta, features, one.features, surrogate.columns) @ one.weights

    return jax.vmap(mean)(belief).T


def with_earlier(
    surrogate: GaussianSurrogate, belief: EarlierBelief, prior: tuple[float, float]
) -> GaussianSurrogate:
    """The surrogate whose processes see the earlier posterior means beside the configuration.

    Args:
        surrogate: without them.
        belief: of ``l`` earlier searches; its arrays may be traced.
        prior: median of the variance of a scale, and standard deviation of its logarithm.
    """
    columns, num = surrogate.columns, len(belief.weights)
    k, x = columns.num_decisions, len(columns.owner)

    def embed(configs: Int[Array, "n k"]) -> Float[Array, "n y"]:
        features = surrogate.embed(configs)
        return jnp.concatenate([features, believed_means(belief, features, surrogate)], axis=1)

    own = np.arange(num, dtype=np.int32)
    wider = columns._replace(
        owner=np.concatenate([columns.owner, k + own]),
        effect=np.concatenate([columns.effect, x + own]),
        gain=np.concatenate([columns.gain, np.ones(num, np.float32)]),
        num_decisions=k + num,
    )

    def longer(old: Any, new: float) -> np.ndarray:
        parts = np.broadcast_to(old, k), np.broadcast_to(new, num)
        return np.concatenate(parts).astype(np.float32)

    (effect, effect_sd), (scale, scale_sd) = surrogate.priors.effect, surrogate.priors.scale
    priors = surrogate.priors._replace(
        effect=(longer(effect, math.log(prior[0])), longer(effect_sd, prior[1])),
        # Distances are not measured by what was believed: its length scales play no part.
        scale=(longer(scale, 0.0) if np.ndim(scale) else scale, scale_sd),
    )
    return dataclasses.replace(surrogate, embed=embed, columns=wider, priors=priors)
