"""Ranking and regression losses over lists of scores, for predictors of model quality.

Convention: a score predicts the *order of the target*: larger score, larger target. Lower is better
for both, so the "top" of a list is its smallest target. Every loss reads
``loss(scores, targets, *, where, weights, reduce_fn)``; the last axis is the list, leading axes are
batches. Each list gives one number, the weighted mean over its items or pairs, and ``reduce_fn``
reduces over lists. An item with ``where`` False does not exist, whatever its values (NaN included);
a list without items or pairs gives 0. ``weights >= 0`` count items; a pair weighs the product of
its two.

The pairwise losses carry their analytic gradient: one row reduction over the ``n x n`` pairs, block
by block, with ``n`` numbers kept for the backward pass. They are differentiable once, in reverse
mode, with respect to the scores only.

References:
    RankNet: Burges et al., Learning to rank using gradient descent, ICML 2005.
    ListNet: Cao et al., Learning to rank: from pairwise approach to listwise approach, ICML 2007.
    ListMLE: Xia et al., Listwise approach to learning to rank, ICML 2008.
    LambdaRank: Burges, From RankNet to LambdaRank to LambdaMART, MSR-TR-2010-82.
    Margin over all pairs: arXiv 2311.07870, section on the neural predictor.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap
from jax.scipy.special import logsumexp

from autorank.base.records import require_range
from autorank.base.registry import Registry
from autorank.base.typing import Array, Bool, Float

Reduce = Callable[[Array], Array]


class Loss(Protocol):
    """A loss over lists; the fields of its settings record are further keywords."""

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


# Traits: `scaled`, compares scores with the targets' values, so that targets are standardised first; `regression`,
# scores are estimates of the standardised targets.
LOSSES: Registry[Loss] = Registry("predictor.loss")
# Between e^-40 and e^40 all powers, their sums and their ratios are normal numbers of float32. A list whose scores
# spread wider than this on either side of its middle needs its pairs' own exponentials.
REACH = 40.0
# Pairs of a list are walked through in blocks of rows of about this many pairs: XLA on a CPU stores
# a block in full, so it should stay in the cache.
PAIRS = 16384


@dataclass(frozen=True)
class HuberConfig:
    """Where the loss turns from squares to absolute values."""

    delta: float = 1.0  # in standard deviations of the targets

    def __post_init__(self):
        require_range("predictor.loss_settings.delta", self.delta, 1e-12, 1e12)


@dataclass(frozen=True)
class MarginConfig:
    """How far apart the scores of a pair must lie."""

    margin: float = 0.001

    def __post_init__(self):
        require_range("predictor.loss_settings.margin", self.margin, 0.0, 1e12)


@LOSSES.register("mse", scaled=True, regression=True)
def mse(
    scores: Float[Array, "*b n"],
    targets: Float[Array, "*b n"],
    *,
    where: Bool[Array, "*b n"] | None = None,
    weights: Float[Array, "*b n"] | None = None,
    reduce_fn: Reduce = jnp.mean,
) -> Array:
    """Squared error: ``(f_i - y_i)^2``."""
    scores, targets, weights = _clean(scores, targets, where, weights)
    return reduce_fn(_mean((scores - targets) ** 2, weights))


@LOSSES.register("huber", HuberConfig, scaled=True, regression=True)
def huber(
    scores: Float[Array, "*b n"],
    targets: Float[Array, "*b n"],
    *,
    where: Bool[Array, "*b n"] | None = None,
    weights: Float[Array, "*b n"] | None = None,
    delta: float = 1.0,
    reduce_fn: Reduce = jnp.mean,
) -> Array:
    """Huber: ``r^2 / 2`` up to ``|r| = delta``, then ``delta (|r| - delta / 2)``, ``r = f_i - y_i``."""
    scores, targets, weights = _clean(scores, targets, where, weights)
    size = jnp.abs(scores - targets)
    near = jnp.minimum(size, delta)
    return reduce_fn(_mean(near * (size - near / 2), weights))


@LOSSES.register("margin", MarginConfig, scaled=False, regression=False)
def pairwise_margin(
    scores: Float[Array, "*b n"],
    targets: Float[Array, "*b n"],
    *,
    where: Bool[Array, "*b n"] | None = None,
    weights: Float[Array, "*b n"] | None = None,
    margin: float = 0.001,
    reduce_fn: Reduce = jnp.mean,
) -> Array:
    """Hinge over all pairs: ``max(0, margin - s_ij (f_i - f_j))``, ``s_ij = sign(y_i - y_j)``, ties dropped.

    Source: arXiv 2311.07870. At the kink the gradient is 0.
    """
    return reduce_fn(_margin(*_clean(scores, targets, where, weights), margin))


@LOSSES.register("logistic", scaled=False, regression=False)
def pairwise_logistic(
    scores: Float[Array, "*b n"],
    targets: Float[Array, "*b n"],
    *,
    where: Bool[Array, "*b n"] | None = None,
    weights: Float[Array, "*b n"] | None = None,
    reduce_fn: Reduce = jnp.mean,
) -> Array:
    """RankNet: ``log(1 + exp(-(f_i - f_j)))`` for every pair with ``y_i > y_j``.

    The gradient needs ``n`` exponentials where all scores of a list lie within 80 of each other,
    and ``n^2`` where they do not.
    """
    return reduce_fn(_logistic(*_clean(scores, targets, where, weights), False))


@LOSSES.register("lambda_rank", scaled=False, regression=False)
def lambda_rank(
    scores: Float[Array, "*b n"],
    targets: Float[Array, "*b n"],
    *,
    where: Bool[Array, "*b n"] | None = None,
    weights: Float[Array, "*b n"] | None = None,
    reduce_fn: Reduce = jnp.mean,
) -> Array:
    """LambdaRank: `pairwise_logistic`, each pair times ``|gain_i - gain_j| |discount_i - discount_j|``.

    The factors are held constant under differentiation.

    The gain of an item is the share of its list with a larger target (own choice: targets are not
    graded, so the gain is linear in the rank); the discount is ``1 / log2(1 + rank)`` of its
    present score, smallest first. The mean is taken over pairs, not over these factors.
    """
    return reduce_fn(_logistic(*_clean(scores, targets, where, weights), True))


@LOSSES.register("list_net", scaled=True, regression=False)
def list_net(
    scores: Float[Array, "*b n"],
    targets: Float[Array, "*b n"],
    *,
    where: Bool[Array, "*b n"] | None = None,
    weights: Float[Array, "*b n"] | None = None,
    reduce_fn: Reduce = jnp.mean,
) -> Array:
    """Top-one ListNet: cross entropy from ``softmax(-targets)`` to ``softmax(-scores)``.

    Its sharpness is the targets' scale: standardise them first.
    """
    scores, targets, weights = _clean(scores, targets, where, weights)
    empty = weights.sum(-1, keepdims=True) <= 0
    count = jnp.where(empty, 1.0, weights)  # an item of weight 2 is an item listed twice
    share = count * jnp.exp(-targets - logsumexp(-targets, b=count, axis=-1, keepdims=True))
    log_share = -scores - logsumexp(-scores, b=count, axis=-1, keepdims=True)
    return reduce_fn(jnp.where(empty, 0.0, -share * log_share).sum(-1))


@LOSSES.register("list_mle", scaled=False, regression=False)
def list_mle(
    scores: Float[Array, "*b n"],
    targets: Float[Array, "*b n"],
    *,
    where: Bool[Array, "*b n"] | None = None,
    weights: Float[Array, "*b n"] | None = None,
    reduce_fn: Reduce = jnp.mean,
) -> Array:
    """ListMLE: negative log likelihood of the true order, best first, a mean over items.

    ``log sum_{j: y_j >= y_i} exp(-f_j) + f_i``; tied items share one sum (Breslow), so no order
    among them is learnt.
    """
    scores, targets, weights = _clean(scores, targets, where, weights)
    present = weights > 0
    behind = targets[..., None, :] >= targets[..., :, None]
    terms = jax.lax.cond(
        _near(scores, weights)[1], _log_shares_near, _log_shares_far, scores, weights, behind
    )
    terms = jnp.where(present, terms, 0.0)
    return reduce_fn(_mean(terms, weights))


# --- inside ---------------------------------------------------------------------------------------


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
    return (weights * values).sum(-1) / _positive(weights.sum(-1))


def _by_rows(row_sums: Callable[..., Array], *own: Array) -> Array:
    """``row_sums(*own [..., r, 1]) -> [..., r]`` over blocks of rows.

    One sum at a time: XLA on a CPU makes a loop over vectors of it, of several stacked sums it does not.
    """
    n = own[0].shape[-1]
    size = max(1, PAIRS // n)
    if n <= size:
        return row_sums(*(x[..., :, None] for x in own))
    blocks = -(-n // size)
    pad = [(0, 0)] * (own[0].ndim - 1) + [(0, blocks * size - n)]
    shape = (*own[0].shape[:-1], blocks, size)
    split = [jnp.moveaxis(jnp.pad(x, pad).reshape(shape), -2, 0) for x in own]
    sums = jax.lax.map(lambda rows: row_sums(*(x[..., :, None] for x in rows)), split)
    return jnp.moveaxis(sums, 0, -2).reshape(*shape[:-2], blocks * size)[..., :n]


def _below(targets: Array, weights: Array) -> Array:
    """Weight of the items with a smaller target, for each item; the scores play no part, so loops compute it once."""
    y, w = targets[..., None, :], weights[..., None, :]
    return _by_rows(lambda own_y: jnp.where(own_y > y, w, 0.0).sum(-1), targets)


def _total(weights: Array, below: Array) -> Array:
    """The weight of all pairs, 1 if there are none."""
    return _positive((weights * below).sum(-1))


def _positive(total: Array) -> Array:
    return jnp.where(total > 0, total, 1.0)


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def _margin(scores: Array, targets: Array, weights: Array, margin: float) -> Array:
    f, y, w = (x[..., None, :] for x in (scores, targets, weights))

    def row_sums(own_f: Array, own_y: Array) -> Array:
        return jnp.where(own_y > y, w * jnp.maximum(0.0, margin - (own_f - f)), 0.0).sum(-1)

    sums = _by_rows(row_sums, scores, targets)
    return (weights * sums).sum(-1) / _total(weights, _below(targets, weights))


def _margin_forward(scores: Array, targets: Array, weights: Array, margin: float):
    """The gradient of a sum of hinges is a count of those that are not flat."""
    f, y, w = (x[..., None, :] for x in (scores, targets, weights))

    def row_sums(own_f: Array, own_y: Array) -> Array:
        ahead = own_f - f
        down = jnp.where(ahead < margin, -w, 0.0)
        up = jnp.where((own_y < y) & (ahead > -margin), w, 0.0)
        return jnp.where(own_y > y, down, up).sum(-1)

    total = _total(weights, _below(targets, weights))
    slope = weights * _by_rows(row_sums, scores, targets) / total[..., None]
    return _margin(scores, targets, weights, margin), slope


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def _logistic(scores: Array, targets: Array, weights: Array, lambdas: bool) -> Array:
    gain, discount = _lambdas(scores, targets, weights) if lambdas else (scores, scores)
    f, y, w, g, d = (x[..., None, :] for x in (scores, targets, weights, gain, discount))

    def row_sums(own_f: Array, own_y: Array, own_g: Array, own_d: Array) -> Array:
        loss = w * jax.nn.softplus(f - own_f)
        loss = loss * jnp.abs((own_g - g) * (own_d - d)) if lambdas else loss
        return jnp.where(own_y > y, loss, 0.0).sum(-1)

    sums = _by_rows(row_sums, scores, targets, gain, discount)
    return (weights * sums).sum(-1) / _total(weights, _below(targets, weights))


def _logistic_forward(scores: Array, targets: Array, weights: Array, lambdas: bool):
    """``dL/df_i = w_i / Z sum_j w_j ([y_i < y_j] p_ij - [y_i > y_j] p_ji)``, ``p_ij = 1 / (1 + exp(f_j - f_i))``.

    ``Z`` is the weight of all pairs.
    """
    own = (scores, targets, weights)
    sums = _lambda_pulls(*own, *_lambdas(*own)) if lambdas else _pulls(*own)
    slope = weights * sums / _total(weights, _below(targets, weights))[..., None]
    return _logistic(scores, targets, weights, lambdas), slope


def _near(scores: Array, weights: Array) -> tuple[Array, Array]:
    """The middle of each list's scores ``[..., 1]``, and whether the scores of every list lie within `REACH` of it."""
    present = weights > 0
    low = jnp.min(scores, axis=-1, where=present, initial=jnp.inf, keepdims=True)
    high = jnp.max(scores, axis=-1, where=present, initial=-jnp.inf, keepdims=True)
    empty = ~present.any(axis=-1, keepdims=True)
    middle = jax.lax.stop_gradient(jnp.where(empty, 0.0, low + (high - low) / 2))
    # False for scores that are not finite: the sum over pairs says what becomes of them.
    near = (high - middle < REACH) & (middle - low < REACH)
    return middle, (empty | near).all()


def _powers(scores: Array, middle: Array) -> Array:
    """``exp(scores - middle)``; the bounds are for items of no weight, which may lie anywhere."""
    return jnp.exp(jnp.clip(scores - middle, -REACH, REACH))


def _sum_pulls(
    near: Callable[[Array, tuple[Array, ...]], Array],
    far: Callable[[tuple[Array, ...]], Array],
) -> Callable[..., Array]:
    """Chooses between two ways to sum over pairs, once for all lists that are there.

    Mapped over lists, a choice for each would compute both ways for all; so the lists are put side by side instead.
    """

    @custom_vmap
    def pulls(*own: Array) -> Array:
        middle, is_near = _near(own[0], own[2])
        return jax.lax.cond(is_near, lambda: near(_powers(own[0], middle), own), lambda: far(own))

    @pulls.def_vmap
    def side_by_side(size: int, is_mapped: list[bool], *own: Array) -> tuple[Array, bool]:
        each = (
            x if mapped else jnp.broadcast_to(x, (size, *x.shape))
            for x, mapped in zip(own, is_mapped, strict=True)
        )
        return pulls(*each), True

    return pulls


def _pulls_near(powers: Array, own: tuple[Array, ...]) -> Array:
    """``sum_j w_j ([y_i < y_j] e_i - [y_i > y_j] e_j) / (e_i + e_j)``: no difference of close numbers in it."""
    _, targets, weights = own
    e, y, w, down = (x[..., None, :] for x in (powers, targets, weights, -weights * powers))

    def row_sums(own_e: Array, own_y: Array) -> Array:
        # Ties outermost: so XLA on a CPU takes half of the time.
        pull = jnp.where(own_y < y, w * own_e, down) / (own_e + e)
        return jnp.where(own_y != y, pull, 0.0).sum(-1)

    return _by_rows(row_sums, powers, targets)


def _pulls_far(own: tuple[Array, ...]) -> Array:
    """The same from the differences of scores, whatever they are."""
    scores, targets, _ = own
    f, y, w = (x[..., None, :] for x in own)

    def row_sums(own_f: Array, own_y: Array) -> Array:
        pull = _pull(own_f, f, own_y < y)
        return jnp.where(own_y != y, w * pull, 0.0).sum(-1)

    return _by_rows(row_sums, scores, targets)


def _lambda_pulls_near(powers: Array, own: tuple[Array, ...]) -> Array:
    _, targets, weights, gain, discount = own
    e, y, w, g, d = (x[..., None, :] for x in (powers, targets, weights, gain, discount))

    def row_sums(own_e: Array, own_y: Array, own_g: Array, own_d: Array) -> Array:
        # Ties have the same gain, so their factor is 0.
        pull = w * jnp.where(own_y < y, own_e, -e) / (own_e + e)
        return (pull * jnp.abs((own_g - g) * (own_d - d))).sum(-1)

    return _by_rows(row_sums, powers, targets, gain, discount)


def _lambda_pulls_far(own: tuple[Array, ...]) -> Array:
    scores, targets, _, gain, discount = own
    f, y, w, g, d = (x[..., None, :] for x in own)

    def row_sums(own_f: Array, own_y: Array, own_g: Array, own_d: Array) -> Array:
        pull = w * _pull(own_f, f, own_y < y)
        return (pull * jnp.abs((own_g - g) * (own_d - d))).sum(-1)

    return _by_rows(row_sums, scores, targets, gain, discount)


def _pull(own_f: Array, f: Array, below: Array) -> Array:
    """An item's share of a pair's gradient: up in the loss if its target is below the other's, else down."""
    ahead = own_f - f
    return jnp.where(below, 1.0, -1.0) / (1.0 + jnp.exp(jnp.where(below, -ahead, ahead)))


_pulls = _sum_pulls(_pulls_near, _pulls_far)
_lambda_pulls = _sum_pulls(_lambda_pulls_near, _lambda_pulls_far)


def _lambdas(scores: Array, targets: Array, weights: Array) -> tuple[Array, Array]:
    """Gain and discount of each item ``[..., n]``: the share of items with a larger target, and of its rank."""
    behind = _below(-targets, weights)
    before = _below(scores, weights)
    return behind / _positive(weights.sum(-1))[..., None], 1.0 / jnp.log2(2.0 + before)


def _log_shares_near(scores: Array, weights: Array, behind: Array) -> Array:
    """`list_mle`'s terms, ``n`` exponentials for scores that are near each other."""
    middle, _ = _near(scores, weights)
    inverse = jnp.where(weights > 0, weights * _powers(-scores, -middle), 0.0)
    rest = (behind.astype(scores.dtype) * inverse[..., None, :]).sum(-1)
    return jnp.log(_positive(rest)) + (scores - middle)


def _log_shares_far(scores: Array, weights: Array, behind: Array) -> Array:
    """The same for any scores: each sum relative to its own largest term, so that none vanishes."""
    there = behind & (weights > 0)[..., None, :]
    ahead = jnp.where(there, scores[..., :, None] - scores[..., None, :], 0.0)
    # An item of no weight may have nobody behind it; its term is dropped, but must have a gradient.
    anyone = there.any(axis=-1, keepdims=True)
    return logsumexp(ahead, b=jnp.where(anyone, there * weights[..., None, :], 1.0), axis=-1)


def _backward(static: float | bool, slope: Array, cotangent: Array):
    return cotangent[..., None] * slope, None, None


_margin.defvjp(_margin_forward, _backward)
_logistic.defvjp(_logistic_forward, _backward)
