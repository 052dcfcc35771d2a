"""What the ensemble is fitted to: masked rows, in which failed trials count as worse than every finished one."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from autorank.base.typing import Array, Bool, Float, Key


class TrainingRows(NamedTuple):
    """Rows to train on, in which every number is finite."""

    features: Array  # [n, x], 0 where unused
    targets: Array  # [n, 2], finite
    where: Array  # bool [n, 2]: seen by the loss
    finished: Array  # bool [n, 2]: measured; z-scores are taken over these


def prepare(
    features: Float[Array, "n x"], targets: Float[Array, "n 2"], where: Bool[Array, "n 2"]
) -> TrainingRows:
    """Masks missing numbers, and sets the quality of failed trials to one standard deviation beyond the worst.

    A cost that is not finite is ignored. The cost of a failed trial counts if it is known.

    Examples:
        >>> quality = jnp.array([[1.0, 0.0], [3.0, 0.0], [jnp.nan, 0.0]])
        >>> prepare(jnp.zeros((3, 1)), quality, jnp.ones((3, 2), bool)).targets[:, 0].tolist()
        [1.0, 3.0, 4.0]
    """
    finished = where & jnp.isfinite(targets)
    failed = where[:, 0] & ~finished[:, 0]
    targets = jnp.where(finished, targets, 0.0)
    _, sd = moments(targets, finished)
    worst = jnp.max(targets[:, 0], where=finished[:, 0], initial=-jnp.inf)
    worst = jnp.where(jnp.isfinite(worst), worst, 0.0) + sd[0, 0]
    quality = jnp.where(failed, worst, targets[:, 0])
    known = jnp.stack([where[:, 0], finished[:, 1]], axis=1)
    return TrainingRows(
        jnp.where(where.any(axis=1, keepdims=True), features, 0.0),
        jnp.stack([quality, targets[:, 1]], axis=1),
        known,
        finished,
    )


def resample(key: Key, used: Bool[Array, " n"]) -> Float[Array, " n"]:
    """How often each used row occurs in a bootstrap resample of the used rows."""
    n = used.shape[0]
    total = used.sum()
    draws = jnp.floor(jax.random.uniform(key, (n,)) * total).astype(jnp.int32)
    place = jnp.where(used, jnp.cumsum(used) - 1, -1)
    hits = (draws[None, :] == place[:, None]) & (jnp.arange(n) < total)[None, :]
    return hits.sum(axis=1).astype(jnp.float32)


def moments(
    values: Float[Array, "n 2"], where: Bool[Array, "n 2"]
) -> tuple[Float[Array, "1 2"], Float[Array, "1 2"]]:
    """Mean and standard deviation of each column over its used rows; 0 and 1 where undefined."""
    count = jnp.maximum(where.sum(axis=0, keepdims=True), 1)
    mean = jnp.where(where, values, 0.0).sum(axis=0, keepdims=True) / count
    variance = jnp.where(where, (values - mean) ** 2, 0.0).sum(axis=0, keepdims=True) / count
    return mean, jnp.where(variance > 1e-12, jnp.sqrt(variance), 1.0)
