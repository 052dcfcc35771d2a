"""How far a noisy trial of one configuration moves what is believed of another one."""

import jax
import jax.numpy as jnp

from autorank.base.typing import Array, Float
from autorank.surrogates import gaussian_process as gp
from autorank.surrogates.gaussian_surrogate import GaussianFit, GaussianSurrogate
from autorank.surrogates.kernel import covariance


def moves(
    surrogate: GaussianSurrogate,
    fitted: GaussianFit,
    features: Float[Array, "n x"],
    tried: Float[Array, "n x"],
) -> tuple[Float[Array, "g n"], Float[Array, "g n"]]:
    """Mean of the quality at each row, and the variance by which a trial at the row of ``tried`` beside it moves it.

    With ``c`` the covariance of both now, and ``s^2`` the variance at ``tried``, that is ``c^2 / (s^2 + noise)``.
    """
    columns = surrogate.columns

    def by_process(posterior: gp.Posterior) -> tuple[Array, Array]:
        def seen(rows: Array) -> Array:
            cross = covariance(posterior.theta, rows, posterior.features, columns)
            return jnp.where(posterior.where[None, :], cross, 0.0)

        def prior(left: Array, right: Array) -> Array:
            return covariance(posterior.theta, left[None], right[None], columns)[0, 0]

        cross = seen(features)
        spread, own = cross @ posterior.whiten.T, seen(tried) @ posterior.whiten.T
        shared = jax.vmap(prior)(features, tried) - jnp.sum(spread * own, axis=1)
        variance = gp.prior_variance(posterior.theta, tried, columns) - jnp.sum(own * own, axis=1)
        noise = jnp.exp(posterior.theta.noise)
        return cross @ posterior.weights, shared**2 / (jnp.maximum(variance, 1e-8) + noise)

    return jax.vmap(by_process)(fitted.quality)
