"""What the processes know of configurations beside others: how a trial at one moves the belief about another."""

from typing import Any, NamedTuple

import jax

from autorank.base.typing import Array, Float
from autorank.surrogates import gaussian_process as gp
from autorank.surrogates.gaussian_surrogate import GaussianFit, GaussianSurrogate


class Beside(NamedTuple):
    """Other configurations, as the processes of quality and cost see them."""

    quality: gp.Beside  # [g, ...]
    cost: Any  # gp.Beside [g, ...]; None where the cost does not count


def beside(
    surrogate: GaussianSurrogate, fitted: GaussianFit, features: Float[Array, "g c x"]
) -> Beside:
    """What `weighted_beside` needs to know of other configurations, different ones for each process."""
    columns = surrogate.columns
    quality = jax.vmap(lambda p, f: gp.beside(p, f, columns))(fitted.quality, features)
    if not surrogate.weighs_cost:
        return Beside(quality, None)
    cost = jax.tree.map(lambda leaf: leaf[0], fitted.cost)
    return Beside(quality, jax.vmap(lambda f: gp.beside(cost, f, columns))(features))


def weighted_beside(
    surrogate: GaussianSurrogate,
    fitted: GaussianFit,
    features: Float[Array, "n x"],
    others: Beside,
    alpha: Float[Array, ""],
) -> tuple[Float[Array, "g n"], Float[Array, "g n"], Float[Array, "g n c"]]:
    """Mean and variance of ``(1 - alpha) quality + alpha cost``, and its covariance with that at the others."""

    def predict(posterior: gp.Posterior, those: gp.Beside) -> tuple[Array, Array, Array]:
        return gp.predict_beside(posterior, features, those, surrogate.columns)

    mean, variance, shared = jax.vmap(predict)(fitted.quality, others.quality)
    if surrogate.weighs_cost:
        cost = jax.tree.map(lambda leaf: leaf[0], fitted.cost)
        theirs = jax.vmap(lambda those: predict(cost, those))(others.cost)
        mean = (1 - alpha) * mean + alpha * theirs[0]
        variance = (1 - alpha) ** 2 * variance + alpha**2 * theirs[1]
        shared = (1 - alpha) ** 2 * shared + alpha**2 * theirs[2]
    return mean, variance, shared
