"""Rewards of a policy from the predicted metrics of configurations."""

from typing import NamedTuple

import jax.numpy as jnp

from autorank.base.typing import Array, Bool, Float

REWARDS = ("alpha", "hinge", "absolute")


class Line(NamedTuple):
    """For each metric the straight line from scores to metrics."""

    slope: Array  # float32 [2], not negative
    intercept: Array  # float32 [2]

    def to_metrics(self, scores: Float[Array, "n 2"]) -> Float[Array, "n 2"]:
        """Scores in the units of the metrics."""
        return self.intercept[None, :] + self.slope[None, :] * scores


def calibrate(
    scores: Float[Array, "n 2"], metrics: Float[Array, "n 2"], where: Bool[Array, "n 2"]
) -> Line:
    """The least-squares line from scores to each metric.

    A ranking loss leaves scores without a unit; the line gives them the units of the metrics. A falling line (the
    predictor is worse than chance) is replaced by a flat one, so that the order is never reversed.

    Examples:
        >>> scores = jnp.array([[0.0, 0.0], [1.0, 1.0]])
        >>> line = calibrate(scores, jnp.array([[1.0, 5.0], [3.0, 4.0]]), jnp.ones((2, 2), bool))
        >>> line.slope.tolist(), line.intercept.tolist()
        ([2.0, 0.0], [1.0, 4.5])
    """
    where = where & jnp.isfinite(scores) & jnp.isfinite(metrics)
    weight = where / jnp.maximum(jnp.sum(where, axis=0, keepdims=True), 1)
    scores = jnp.where(where, scores, 0.0)
    metrics = jnp.where(where, metrics, 0.0)
    x = jnp.sum(weight * scores, axis=0, keepdims=True)
    y = jnp.sum(weight * metrics, axis=0, keepdims=True)
    variance = jnp.sum(weight * (scores - x) ** 2, axis=0)
    covariance = jnp.sum(weight * (scores - x) * (metrics - y), axis=0)
    slope = jnp.maximum(
        jnp.where(variance > 1e-12, covariance / jnp.maximum(variance, 1e-12), 0), 0
    )
    return Line(slope, y[0] - slope * x[0])


def reward_of(
    kind: str, alpha: Float[Array, ""], line: Line, scores: Float[Array, "n 2"]
) -> Float[Array, " n"]:
    """The reward of each configuration, higher is better.

    Args:
        kind: one of `REWARDS`.

            - ``alpha``: ``-(1 - alpha) NE - alpha FLOPs``, both in units of the scores (arXiv 2311.07870)
            - ``hinge``: ``-(1 - alpha) NE - alpha max(0, FLOPs / F0 - 1)``; only FLOPs beyond the baseline's ``F0``
              count
            - ``absolute``: ``-(1 - alpha) NE - alpha |FLOPs / F0 - 1|`` (TuNAS, arXiv 2008.06120)
        alpha: weight of the cost.
        line: from scores to metrics.
        scores: predicted quality and cost.
    """
    quality, cost = scores[:, 0], scores[:, 1]
    # Policies stray far from the told trials, where predictions are unreliable: ratios are capped at e^10.
    excess = jnp.expm1(jnp.minimum(line.to_metrics(scores)[:, 1], 10.0))
    penalty = {"alpha": cost, "hinge": jnp.maximum(excess, 0.0), "absolute": jnp.abs(excess)}[kind]
    return -(1 - alpha) * quality - alpha * penalty
