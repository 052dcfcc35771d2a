"""Losses over all pairs of a list, with their analytic gradients, one block of pairs at a time.

All arrays are ``[..., n]``: a list on the last axis, batches in front. Items are weighted; hidden ones have weight 0.
A gradient takes one reduction over the ``n x n`` pairs, and ``n`` numbers are kept for the backward pass.
"""

from functools import partial
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap

from autorank.base.typing import Array

# Between e^-40 and e^40 all powers, their sums and their ratios are normal numbers of float32. A list whose scores are
# further than this from its middle needs the exponentials of its pairs.
REACH = 40.0
# Pairs of a list are processed in blocks of rows with about this many pairs: XLA on a CPU stores a whole block, which
# should stay in the cache.
PAIRS = 16384


@runtime_checkable
class RowSums(Protocol):
    """Sums over the pairs of some rows."""

    def __call__(self, *args: Any, **kwargs: Any) -> Array:
        """The sum over all items of the list for each row, ``[..., r]``, from the rows' own numbers ``[..., r, 1]``."""
        ...


@runtime_checkable
class NearPulls(Protocol):
    """Sums over pairs for scores that are near each other."""

    def __call__(self, powers: Array, own: tuple[Array, ...], /) -> Array:
        """The sum for each item, from the powers of the scores; ``own`` starts with scores, targets and weights."""
        ...


@runtime_checkable
class FarPulls(Protocol):
    """Sums over pairs for any scores."""

    def __call__(self, own: tuple[Array, ...], /) -> Array:
        """The sum for each item; ``own`` starts with scores, targets and weights."""
        ...


@runtime_checkable
class Pulls(Protocol):
    """Sums over pairs, computed in the way that the scores allow."""

    def __call__(self, *own: Array) -> Array:
        """The sum for each item; ``own`` starts with scores, targets and weights."""
        ...


def _by_rows(row_sums: RowSums, *own: Array) -> Array:
    """The row sums of all items, one block of rows at a time.

    ``row_sums`` must compute a single sum, because XLA on a CPU does not vectorise several stacked ones.
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
    """For each item the weight of the items with a smaller target; it does not depend on the scores."""
    y, w = targets[..., None, :], weights[..., None, :]
    return _by_rows(lambda own_y: jnp.where(own_y > y, w, 0.0).sum(-1), targets)


def _total(weights: Array, below: Array) -> Array:
    """The weight of all pairs, or 1 if there are none."""
    return positive((weights * below).sum(-1))


def positive(total: Array) -> Array:
    """The number itself, or 1 where it is 0, for division."""
    return jnp.where(total > 0, total, 1.0)


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def margin_loss(scores: Array, targets: Array, weights: Array, margin: float) -> Array:
    """Mean over pairs of ``max(0, margin - (f_i - f_j))``, ``y_i > y_j``."""
    f, y, w = (x[..., None, :] for x in (scores, targets, weights))

    def row_sums(own_f: Array, own_y: Array) -> Array:
        return jnp.where(own_y > y, w * jnp.maximum(0.0, margin - (own_f - f)), 0.0).sum(-1)

    sums = _by_rows(row_sums, scores, targets)
    return (weights * sums).sum(-1) / _total(weights, _below(targets, weights))


def _margin_forward(scores: Array, targets: Array, weights: Array, margin: float):
    """The loss, and its gradient: the gradient of a sum of hinges counts the hinges that are not flat."""
    f, y, w = (x[..., None, :] for x in (scores, targets, weights))

    def row_sums(own_f: Array, own_y: Array) -> Array:
        ahead = own_f - f
        down = jnp.where(ahead < margin, -w, 0.0)
        up = jnp.where((own_y < y) & (ahead > -margin), w, 0.0)
        return jnp.where(own_y > y, down, up).sum(-1)

    total = _total(weights, _below(targets, weights))
    slope = weights * _by_rows(row_sums, scores, targets) / total[..., None]
    return margin_loss(scores, targets, weights, margin), slope


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def logistic_loss(scores: Array, targets: Array, weights: Array, lambdas: bool) -> Array:
    """Mean over pairs of ``log(1 + exp(f_j - f_i))``, ``y_i > y_j``; ``lambdas`` multiplies in `_lambdas`."""
    gain, discount = _lambdas(scores, targets, weights) if lambdas else (scores, scores)
    f, y, w, g, d = (x[..., None, :] for x in (scores, targets, weights, gain, discount))

    def row_sums(own_f: Array, own_y: Array, own_g: Array, own_d: Array) -> Array:
        loss = w * jax.nn.softplus(f - own_f)
        loss = loss * jnp.abs((own_g - g) * (own_d - d)) if lambdas else loss
        return jnp.where(own_y > y, loss, 0.0).sum(-1)

    sums = _by_rows(row_sums, scores, targets, gain, discount)
    return (weights * sums).sum(-1) / _total(weights, _below(targets, weights))


def _logistic_forward(scores: Array, targets: Array, weights: Array, lambdas: bool):
    """The loss, and its gradient.

    ``dL/df_i = w_i / Z sum_j w_j ([y_i < y_j] p_ij - [y_i > y_j] p_ji)``, ``p_ij = 1 / (1 + exp(f_j - f_i))``.

    ``Z`` is the weight of all pairs.
    """
    own = (scores, targets, weights)
    sums = _lambda_pulls(*own, *_lambdas(*own)) if lambdas else _pulls(*own)
    slope = weights * sums / _total(weights, _below(targets, weights))[..., None]
    return logistic_loss(scores, targets, weights, lambdas), slope


def nearness(scores: Array, weights: Array) -> tuple[Array, Array]:
    """The middle of the scores of each list ``[..., 1]``, and whether all scores lie within `REACH` of their middle."""
    present = weights > 0
    low = jnp.min(scores, axis=-1, where=present, initial=jnp.inf, keepdims=True)
    high = jnp.max(scores, axis=-1, where=present, initial=-jnp.inf, keepdims=True)
    empty = ~present.any(axis=-1, keepdims=True)
    middle = jax.lax.stop_gradient(jnp.where(empty, 0.0, low + (high - low) / 2))
    # False for scores that are not finite, so that the exact sum over pairs handles them.
    near = (high - middle < REACH) & (middle - low < REACH)
    return middle, (empty | near).all()


def powers_around(scores: Array, middle: Array) -> Array:
    """``exp(scores - middle)``, clipped because items without weight may have any score."""
    return jnp.exp(jnp.clip(scores - middle, -REACH, REACH))


def _sum_pulls(
    near: NearPulls,
    far: FarPulls,
) -> Pulls:
    """Chooses between two ways to sum over pairs, once for all lists.

    Under ``vmap`` a choice for each list would compute both ways for all lists. The lists are batched instead, and one
    choice is made for the batch.
    """

    @custom_vmap
    def pulls(*own: Array) -> Array:
        middle, is_near = nearness(own[0], own[2])
        return jax.lax.cond(
            is_near, lambda: near(powers_around(own[0], middle), own), lambda: far(own)
        )

    @pulls.def_vmap
    def side_by_side(size: int, is_mapped: list[bool], *own: Array) -> tuple[Array, bool]:
        each = (
            x if mapped else jnp.broadcast_to(x, (size, *x.shape))
            for x, mapped in zip(own, is_mapped, strict=True)
        )
        return pulls(*each), True

    return pulls


def _pulls_near(powers: Array, own: tuple[Array, ...]) -> Array:
    """``sum_j w_j ([y_i < y_j] e_i - [y_i > y_j] e_j) / (e_i + e_j)``, which subtracts no close numbers."""
    _, targets, weights = own
    e, y, w, down = (x[..., None, :] for x in (powers, targets, weights, -weights * powers))

    def row_sums(own_e: Array, own_y: Array) -> Array:
        # With the test for ties outermost, XLA on a CPU takes half the time.
        pull = jnp.where(own_y < y, w * own_e, down) / (own_e + e)
        return jnp.where(own_y != y, pull, 0.0).sum(-1)

    return _by_rows(row_sums, powers, targets)


def _pulls_far(own: tuple[Array, ...]) -> Array:
    """The same from the differences of the scores, for any scores."""
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
        # Ties have equal gains, so their factor is 0.
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
    """The derivative of a pair's loss by an item's score: positive if the item's target is below the other's."""
    ahead = own_f - f
    return jnp.where(below, 1.0, -1.0) / (1.0 + jnp.exp(jnp.where(below, -ahead, ahead)))


_pulls = _sum_pulls(_pulls_near, _pulls_far)
_lambda_pulls = _sum_pulls(_lambda_pulls_near, _lambda_pulls_far)


def _lambdas(scores: Array, targets: Array, weights: Array) -> tuple[Array, Array]:
    """Gain of each item, the share of items with a larger target, and discount of the rank of its score."""
    behind = _below(-targets, weights)
    before = _below(scores, weights)
    return behind / positive(weights.sum(-1))[..., None], 1.0 / jnp.log2(2.0 + before)


def _backward(static: float | bool, slope: Array, cotangent: Array):
    return cotangent[..., None] * slope, None, None


margin_loss.defvjp(_margin_forward, _backward)
logistic_loss.defvjp(_logistic_forward, _backward)
