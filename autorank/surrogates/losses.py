"""Ranking and regression losses over lists of scores, for predictors of model quality.

Convention: a score predicts the *order of the target*, a larger score for a larger target. Lower is better for both, so
the "top" of a list is its smallest target. Every loss reads ``loss(scores, targets, *, where, weights, reduce_fn)``,
and is written as a formula of scores, targets and weights (`over_lists`).

The last axis is the list, leading axes are batches. Each list gives one number, the weighted mean over its items or
pairs, and ``reduce_fn`` reduces over lists. An item with ``where`` False is ignored, whatever its values (NaN
included); a list without items or pairs gives 0. ``weights >= 0`` count items; a pair has the product of its two
weights.

The pairwise losses have analytic gradients (`pair_sums`). They are differentiable once, in reverse mode, with respect
to the scores only.

References:
    RankNet: Burges et al., Learning to rank using gradient descent, ICML 2005.
    ListNet: Cao et al., Learning to rank: from pairwise approach to listwise approach, ICML 2007.
    ListMLE: Xia et al., Listwise approach to learning to rank, ICML 2008.
    LambdaRank: Burges, From RankNet to LambdaRank to LambdaMART, MSR-TR-2010-82.
    Margin over all pairs: arXiv 2311.07870, section on the neural predictor.
"""

from dataclasses import dataclass
from functools import wraps
from typing import Any, Protocol, TypeAlias, runtime_checkable

import jax
import jax.numpy as jnp
from jax.scipy.special import logsumexp

from autorank.base.records import require_range
from autorank.base.registry import Registry
from autorank.base.typing import Array, Bool, Float
from autorank.surrogates.pair_sums import (
    logistic_loss,
    margin_loss,
    nearness,
    positive,
    powers_around,
)

Lists: TypeAlias = Float[Array, "*b n"]


@runtime_checkable
class Reduce(Protocol):
    """Reduces the losses of lists, for example ``jnp.mean``."""

    def __call__(self, losses: Array, /) -> Array:
        """One array from one loss for each list."""
        ...


@runtime_checkable
class Loss(Protocol):
    """A loss over lists; it takes the fields of its settings record as further keywords."""

    def __call__(
        self,
        scores: Any,
        targets: Any,
        /,
        *,
        where: Any = None,
        weights: Any = None,
        reduce_fn: Reduce = jnp.mean,
    ) -> Array:
        """One number for each list ``[..., n]``, reduced over lists."""
        ...


@runtime_checkable
class Formula(Protocol):
    """The formula of a loss: it need not handle masks, and takes the loss's own settings as keywords."""

    def __call__(
        self, scores: Any, targets: Any, weights: Any, /, *args: Any, **settings: Any
    ) -> Array:
        """One number for each list ``[..., n]``; a masked item has score, target and weight 0."""
        ...


# Traits. `scaled`: the loss depends on the scale of the targets, so they are standardised first. `regression`: scores
# estimate the standardised targets.
LOSSES: Registry[Loss] = Registry("predictor.loss")


@dataclass(frozen=True)
class HuberConfig:
    """Where the loss changes from squares to absolute values."""

    delta: float = 1.0  # in standard deviations of the targets

    def __post_init__(self):
        require_range("predictor.loss_settings.delta", self.delta, 1e-12, 1e12)


@dataclass(frozen=True)
class MarginConfig:
    """How far apart the scores of a pair must be."""

    margin: float = 0.001

    def __post_init__(self):
        require_range("predictor.loss_settings.margin", self.margin, 0.0, 1e12)


def over_lists(formula: Formula) -> Loss:
    """Makes a loss of its formula: masks items before it, and reduces over lists after it."""

    @wraps(formula)
    def loss(
        scores: Lists,
        targets: Lists,
        *,
        where: Bool[Array, "*b n"] | None = None,
        weights: Lists | None = None,
        reduce_fn: Reduce = jnp.mean,
        **settings: Any,
    ) -> Array:
        return reduce_fn(formula(*_masked(scores, targets, where, weights), **settings))

    return loss


@LOSSES.register("mse", scaled=True, regression=True)
@over_lists
def mse(scores: Lists, targets: Lists, weights: Lists) -> Array:
    """Squared error: ``(f_i - y_i)^2``.

    Examples:
        >>> float(mse(jnp.array([1.0, 2.0]), jnp.array([1.0, 4.0])))
        2.0
    """
    return _weighted_mean((scores - targets) ** 2, weights)


@LOSSES.register("huber", HuberConfig, scaled=True, regression=True)
@over_lists
def huber(scores: Lists, targets: Lists, weights: Lists, delta: float = 1.0) -> Array:
    """Huber: ``r^2 / 2`` up to ``|r| = delta``, then ``delta (|r| - delta / 2)``, ``r = f_i - y_i``.

    Examples:
        >>> float(huber(jnp.array([0.0, 5.0]), jnp.array([0.0, 0.0])))
        2.25
    """
    size = jnp.abs(scores - targets)
    near = jnp.minimum(size, delta)
    return _weighted_mean(near * (size - near / 2), weights)


@LOSSES.register("margin", MarginConfig, scaled=False, regression=False)
@over_lists
def pairwise_margin(scores: Lists, targets: Lists, weights: Lists, margin: float = 0.001) -> Array:
    """Hinge over all pairs: ``max(0, margin - s_ij (f_i - f_j))``, ``s_ij = sign(y_i - y_j)``, ties dropped.

    Source: arXiv 2311.07870. At the kink the gradient is 0.

    Examples:
        >>> float(pairwise_margin(jnp.array([0.0, 1.0]), jnp.array([5.0, 3.0]), margin=0.5))
        1.5
    """
    return margin_loss(scores, targets, weights, margin)


@LOSSES.register("logistic", scaled=False, regression=False)
@over_lists
def pairwise_logistic(scores: Lists, targets: Lists, weights: Lists) -> Array:
    """RankNet: ``log(1 + exp(-(f_i - f_j)))`` for every pair with ``y_i > y_j``.

    The gradient needs ``n`` exponentials if all scores of a list lie within 80 of each other, and ``n^2`` otherwise.

    Examples:
        >>> round(float(pairwise_logistic(jnp.zeros(3), jnp.array([1.0, 2.0, 3.0]))), 4)
        0.6931
    """
    return logistic_loss(scores, targets, weights, False)


@LOSSES.register("lambda_rank", scaled=False, regression=False)
@over_lists
def lambda_rank(scores: Lists, targets: Lists, weights: Lists) -> Array:
    """LambdaRank: `pairwise_logistic`, each pair times ``|gain_i - gain_j| |discount_i - discount_j|``.

    The factors are held constant under differentiation. The gain of an item is the share of its list with a larger
    target: targets are not graded, so we take a gain that is linear in the rank. The discount is ``1 / log2(1 + rank)``
    of its current score, smallest first. The mean is taken over pairs, not over these factors.
    """
    return logistic_loss(scores, targets, weights, True)


@LOSSES.register("list_net", scaled=True, regression=False)
@over_lists
def list_net(scores: Lists, targets: Lists, weights: Lists) -> Array:
    """Top-one ListNet: cross entropy from ``softmax(-targets)`` to ``softmax(-scores)``.

    The scale of the targets determines the sharpness of their softmax: standardise them first.
    """
    empty = weights.sum(-1, keepdims=True) <= 0
    count = jnp.where(empty, 1.0, weights)  # an item of weight 2 is an item listed twice
    share = count * jnp.exp(-targets - logsumexp(-targets, b=count, axis=-1, keepdims=True))
    log_share = -scores - logsumexp(-scores, b=count, axis=-1, keepdims=True)
    return jnp.where(empty, 0.0, -share * log_share).sum(-1)


@LOSSES.register("list_mle", scaled=False, regression=False)
@over_lists
def list_mle(scores: Lists, targets: Lists, weights: Lists) -> Array:
    """ListMLE: mean over items of the negative log likelihood of the true order, best first.

    ``log sum_{j: y_j >= y_i} exp(-f_j) + f_i``; tied items share one sum (Breslow), so that no order among them is
    learnt.
    """
    present = weights > 0
    behind = targets[..., None, :] >= targets[..., :, None]
    terms = jax.lax.cond(
        nearness(scores, weights)[1], _log_shares_near, _log_shares_far, scores, weights, behind
    )
    terms = jnp.where(present, terms, 0.0)
    return _weighted_mean(terms, weights)


def _masked(
    scores: Array, targets: Array, where: Array | None, weights: Array | None
) -> tuple[Array, Array, Array]:
    """Scores, targets and weights that are 0 where masked."""
    weights = jnp.ones_like(scores) if weights is None else weights
    if where is None:
        return scores, targets, weights
    return (
        jnp.where(where, scores, 0.0),
        jnp.where(where, targets, 0.0),
        jnp.where(where, weights, 0.0),
    )


def _weighted_mean(values: Array, weights: Array) -> Array:
    return (weights * values).sum(-1) / positive(weights.sum(-1))


def _log_shares_near(scores: Array, weights: Array, behind: Array) -> Array:
    """The terms of `list_mle` from ``n`` exponentials, for scores that are near each other."""
    middle, _ = nearness(scores, weights)
    inverse = jnp.where(weights > 0, weights * powers_around(-scores, -middle), 0.0)
    rest = (behind.astype(scores.dtype) * inverse[..., None, :]).sum(-1)
    return jnp.log(positive(rest)) + (scores - middle)


def _log_shares_far(scores: Array, weights: Array, behind: Array) -> Array:
    """The same for any scores: each sum is relative to its own largest term, so that none underflows."""
    there = behind & (weights > 0)[..., None, :]
    ahead = jnp.where(there, scores[..., :, None] - scores[..., None, :], 0.0)
    # An item without weight may have no item behind it. Its term is dropped, but its gradient must be finite.
    anyone = there.any(axis=-1, keepdims=True)
    return logsumexp(ahead, b=jnp.where(anyone, there * weights[..., None, :], 1.0), axis=-1)
