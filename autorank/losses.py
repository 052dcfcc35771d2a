"""Ranking and regression losses over lists of scores, for predictors of model quality.

Convention: a score predicts the *order of the target*: larger score, larger target. Lower is better for both, so the
"top" of a list is its smallest target. Every loss reads ``loss(scores, targets, *, where, weights, reduce_fn)``; the
last axis is the list, leading axes are batches. Each list gives one number, the weighted mean over its items or pairs,
and ``reduce_fn`` reduces over lists. An item with ``where`` False does not exist, whatever its values (NaN included);
a list without items or pairs gives 0. ``weights >= 0`` count items; a pair weighs the product of its two.

The pairwise losses carry their analytic gradient: one row reduction over the ``n x n`` pairs, fused by XLA, with ``n``
numbers kept for the backward pass. They are differentiable once, in reverse mode, with respect to the scores only.

References:
    RankNet: Burges et al., Learning to rank using gradient descent, ICML 2005.
    ListNet: Cao et al., Learning to rank: from pairwise approach to listwise approach, ICML 2007.
    ListMLE: Xia et al., Listwise approach to learning to rank, ICML 2008.
    LambdaRank: Burges, From RankNet to LambdaRank to LambdaMART, MSR-TR-2010-82.
    Margin over all pairs: arXiv 2311.07870, section on the neural predictor.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax.scipy.special import logsumexp

from autorank.typing import Array, Bool, Float

Reduce = Callable[[Array], Array]
# exp(+-30) squared still fits float32; scores further from their mean have a saturated gradient anyway.
CLIP = 30.0
# exp(-80) is the last power of ten or so before float32 underflows; listwise sums stay positive.
FLOOR = -80.0


def mse(
    scores: Float[Array, "*b n"],
    targets: Float[Array, "*b n"],
    *,
    where: Bool[Array, "*b n"] | None = None,
    weights: Float[Array, "*b n"] | None = None,
    reduce_fn: Reduce = jnp.mean,
) -> Array:
    """Squared error ``(f_i - y_i)^2``."""
    scores, targets, weights = _clean(scores, targets, where, weights)
    return reduce_fn(_mean((scores - targets) ** 2, weights))


def huber(
    scores: Float[Array, "*b n"],
    targets: Float[Array, "*b n"],
    *,
    where: Bool[Array, "*b n"] | None = None,
    weights: Float[Array, "*b n"] | None = None,
    delta: float = 1.0,
    reduce_fn: Reduce = jnp.mean,
) -> Array:
    """``r^2 / 2`` up to ``|r| = delta``, then ``delta (|r| - delta / 2)``, with ``r = f_i - y_i``."""
    scores, targets, weights = _clean(scores, targets, where, weights)
    size = jnp.abs(scores - targets)
    near = jnp.minimum(size, delta)
    return reduce_fn(_mean(near * (size - near / 2), weights))


def pairwise_margin(
    scores: Float[Array, "*b n"],
    targets: Float[Array, "*b n"],
    *,
    where: Bool[Array, "*b n"] | None = None,
    weights: Float[Array, "*b n"] | None = None,
    margin: float = 0.001,
    reduce_fn: Reduce = jnp.mean,
) -> Array:
    """``max(0, -s_ij (f_i - f_j) + margin)``, ``s_ij = sign(y_i - y_j)``, ties dropped (arXiv 2311.07870).

    At the kink the gradient is 0.
    """
    return reduce_fn(_margin(*_clean(scores, targets, where, weights), margin))


def pairwise_logistic(
    scores: Float[Array, "*b n"],
    targets: Float[Array, "*b n"],
    *,
    where: Bool[Array, "*b n"] | None = None,
    weights: Float[Array, "*b n"] | None = None,
    reduce_fn: Reduce = jnp.mean,
) -> Array:
    """``log(1 + exp(-(f_i - f_j)))`` for every pair with ``y_i > y_j`` (RankNet).

    The gradient needs ``n`` exponentials, not ``n^2``; it treats scores further than 30 from their list's mean as if
    they lay there.
    """
    return reduce_fn(_logistic(*_clean(scores, targets, where, weights), False))


def lambda_rank(
    scores: Float[Array, "*b n"],
    targets: Float[Array, "*b n"],
    *,
    where: Bool[Array, "*b n"] | None = None,
    weights: Float[Array, "*b n"] | None = None,
    reduce_fn: Reduce = jnp.mean,
) -> Array:
    """`pairwise_logistic` with each pair times ``|gain_i - gain_j| |discount_i - discount_j|``, held constant.

    The gain of an item is the share of its list with a larger target (own choice: targets are not graded, so the gain
    is linear in the rank); the discount is ``1 / log2(1 + rank)`` of its present score, smallest first. The mean is
    taken over pairs, not over these factors.
    """
    return reduce_fn(_logistic(*_clean(scores, targets, where, weights), True))


def list_net(
    scores: Float[Array, "*b n"],
    targets: Float[Array, "*b n"],
    *,
    where: Bool[Array, "*b n"] | None = None,
    weights: Float[Array, "*b n"] | None = None,
    reduce_fn: Reduce = jnp.mean,
) -> Array:
    """Cross entropy from ``softmax(-targets)`` to ``softmax(-scores)`` (top-one ListNet); scale the targets first."""
    scores, targets, weights = _clean(scores, targets, where, weights)
    empty = weights.sum(-1, keepdims=True) <= 0
    count = jnp.where(empty, 1.0, weights)  # an item of weight 2 is an item listed twice
    share = count * jnp.exp(-targets - logsumexp(-targets, b=count, axis=-1, keepdims=True))
    log_share = -scores - logsumexp(-scores, b=count, axis=-1, keepdims=True)
    return reduce_fn(jnp.where(empty, 0.0, -share * log_share).sum(-1))


def list_mle(
    scores: Float[Array, "*b n"],
    targets: Float[Array, "*b n"],
    *,
    where: Bool[Array, "*b n"] | None = None,
    weights: Float[Array, "*b n"] | None = None,
    reduce_fn: Reduce = jnp.mean,
) -> Array:
    """Negative log likelihood of the true order, best first, a mean over items (Plackett-Luce, ListMLE).

    ``log sum_{j: y_j >= y_i} exp(-f_j) + f_i``; tied items share one sum (Breslow), so no order among them is learnt.
    """
    scores, targets, weights = _clean(scores, targets, where, weights)
    present = weights > 0
    best = jnp.min(scores, axis=-1, where=present, initial=jnp.inf, keepdims=True)
    best = jax.lax.stop_gradient(jnp.where(jnp.isfinite(best), best, 0.0))
    strength = jnp.where(present, weights * jnp.exp(jnp.maximum(best - scores, FLOOR)), 0.0)
    behind = (targets[..., None, :] >= targets[..., :, None]).astype(scores.dtype)
    rest = (behind * strength[..., None, :]).sum(-1)
    terms = jnp.log(jnp.where(present, rest, 1.0)) + jnp.where(present, scores - best, 0.0)
    return reduce_fn(_mean(terms, weights))


# --- inside ----------------------------------------------------------------------------------------------------


def _clean(
    scores: Array, targets: Array, where: Array | None, weights: Array | None
) -> tuple[Array, Array, Array]:
    """Weights with the mask inside, and finite values where the mask hides what was there."""
    weights = jnp.ones_like(scores) if weights is None else weights
    if where is None:
        return scores, targets, weights
    return (
        jnp.where(where, scores, 0.0),
        jnp.where(where, targets, 0.0),
        jnp.where(where, weights, 0.0),
    )


def _mean(values: Array, weights: Array) -> Array:
    total = weights.sum(-1)
    return (weights * values).sum(-1) / jnp.where(total > 0, total, 1.0)


def _pair_total(targets: Array, weights: Array) -> Array:
    """Weight of the ordered pairs ``y_i > y_j`` of each list; 1 where there is none."""
    larger = targets[..., :, None] > targets[..., None, :]
    total = (weights * jnp.where(larger, weights[..., None, :], 0.0).sum(-1)).sum(-1)
    return jnp.where(total > 0, total, 1.0)


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def _margin(scores: Array, targets: Array, weights: Array, margin: float) -> Array:
    larger = targets[..., :, None] > targets[..., None, :]
    hinge = jnp.maximum(0.0, margin - (scores[..., :, None] - scores[..., None, :]))
    pairs = jnp.where(larger, weights[..., None, :] * hinge, 0.0).sum(-1)
    return (weights * pairs).sum(-1) / _pair_total(targets, weights)


def _margin_forward(scores: Array, targets: Array, weights: Array, margin: float):
    """The gradient of a sum of hinges is a count of those that are not flat."""
    larger = targets[..., :, None] > targets[..., None, :]
    smaller = targets[..., :, None] < targets[..., None, :]
    ahead = scores[..., :, None] - scores[..., None, :]
    count = (smaller & (-ahead < margin)).astype(scores.dtype) - (larger & (ahead < margin))
    slope = weights * (weights[..., None, :] * count).sum(-1)
    slope = slope / _pair_total(targets, weights)[..., None]
    return _margin(scores, targets, weights, margin), slope


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def _logistic(scores: Array, targets: Array, weights: Array, lambdas: bool) -> Array:
    larger = targets[..., :, None] > targets[..., None, :]
    ahead = scores[..., :, None] - scores[..., None, :]
    loss = jax.nn.softplus(-ahead) * (_lambdas(scores, targets, weights) if lambdas else 1.0)
    pairs = jnp.where(larger, weights[..., None, :] * loss, 0.0).sum(-1)
    return (weights * pairs).sum(-1) / _pair_total(targets, weights)


def _logistic_forward(scores: Array, targets: Array, weights: Array, lambdas: bool):
    """With ``e = exp(f)``: ``dL/df_i = w_i / Z sum_j w_j ([y_i < y_j] e_i - [y_i > y_j] e_j) / (e_i + e_j)``."""
    larger = targets[..., :, None] > targets[..., None, :]
    smaller = targets[..., :, None] < targets[..., None, :]
    middle = _mean(scores, weights)[..., None]
    e = jnp.exp(jnp.clip(scores - middle, -CLIP, CLIP))
    own, other = e[..., :, None], e[..., None, :]
    pull = (jnp.where(smaller, own, 0.0) - jnp.where(larger, other, 0.0)) / (own + other)
    if lambdas:
        pull = pull * _lambdas(scores, targets, weights)
    slope = weights * (weights[..., None, :] * pull).sum(-1)
    slope = slope / _pair_total(targets, weights)[..., None]
    return _logistic(scores, targets, weights, lambdas), slope


def _lambdas(scores: Array, targets: Array, weights: Array) -> Array:
    """LambdaRank's factor of each pair ``[..., n, n]``."""
    total = weights.sum(-1)[..., None]
    share = jnp.where(total > 0, 1.0 / jnp.where(total > 0, total, 1.0), 0.0)
    behind = (targets[..., None, :] > targets[..., :, None]) * weights[..., None, :]
    before = (scores[..., None, :] < scores[..., :, None]) * weights[..., None, :]
    gain = behind.sum(-1) * share
    discount = 1.0 / jnp.log2(2.0 + before.sum(-1))
    return jnp.abs(gain[..., :, None] - gain[..., None, :]) * jnp.abs(
        discount[..., :, None] - discount[..., None, :]
    )


def _backward(static: float | bool, slope: Array, cotangent: Array):
    return cotangent[..., None] * slope, None, None


_margin.defvjp(_margin_forward, _backward)
_logistic.defvjp(_logistic_forward, _backward)
