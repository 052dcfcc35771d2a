"""Acquisition function for the front: the hypervolume of quality and cost that one more trial is expected to add.

The cost is known before training, so only the quality is uncertain, and the expected hypervolume improvement of two
objectives (Emmerich, Deutz, Klinkenberg 2011, "Hypervolume-based expected improvement: monotonicity properties and
exact computation"; Yang et al. 2019, "Efficient computation of expected hypervolume improvement using box decomposition
algorithms") is a sum of expected improvements of one. With costs ``c_1 < c_2 < ...`` of the front, best qualities
``q_j`` up to ``c_j``, and ``q_0`` the reference,

    EHVI(x) = sum_j  width of [max(c_j, c(x)), c_(j+1)]  *  E[max(q_j - f(x), 0)],    c_0 = -inf, c_last = dearest
"""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp

from autorank.base.typing import Array, Bool, Float, Int, Key
from autorank.searchers.acquisition import (
    GaussianAcquisition,
    log_expected_improvement,
    marks,
)
from autorank.searchers.base import History, known
from autorank.searchers.known_cost import KnownCost
from autorank.surrogates.beside import Beside, beside, weighted_beside
from autorank.surrogates.gaussian_surrogate import GaussianFit

STEPS = 24  # of the front; of a longer one the highest
# Told trials whose median quality is the reference, pilots among them. Not that of all: it falls as good ones are
# proposed, and the cheap end of the front would be out of sight.
FIRST = 20


class Staircase(NamedTuple):
    """The best quality at every cost: ``s + 1`` intervals of the cost, cheapest first."""

    left: Array  # float32 [s + 1]: log costs; -inf for the first
    right: Array  # float32 [s + 1]: not above the dearest; an unused interval is empty
    level: Array  # float32 [s + 1]: lowest quality up to there; the reference for the first
    rows: Array  # int32 [s]: which points begin an interval, from the second on


class FrontGoal(NamedTuple):
    """What the choice of one proposal depends on."""

    fitted: GaussianFit
    weights: Array  # float32 [g]: of the processes of the quality
    alpha: Array  # float32: NaN, as no alpha weighs the cost
    front: Staircase  # [g, ...]: of posterior means
    others: Beside  # the trials on it
    marks: tuple[Array, Array]  # uint32 [h]: hashes of the configurations not to propose again
    is_mark: Array  # bool [h]: False for unused marks


@dataclass(frozen=True)
class FrontAcquisition(GaussianAcquisition):
    """Log of the expected growth of the hypervolume, averaged over the surrogate's processes.

    The front is that of the posterior means at the told trials, not of what was told, which has luck in it. As in
    `acquisition.Acquisition` what improves is what is believed after one more noisy trial. The means at ``x`` and at a
    trial of the front move together, so a second trial of a point of the front gains nothing over itself.

    Qualities are warped and costs are log FLOPs ratios. The reference is the median quality of the first told trials
    at the dearest cost: what is worse or dearer adds nothing.
    """

    cost: KnownCost

    def parents(self, key: Key, history: History) -> History:
        """Candidates descend from trials that few others dominate, in random order among equals."""
        quality, cost = history.metrics[:, 0], self.cost.log_ratio(history.configs)
        usable = known(history) & jnp.isfinite(quality)
        first = usable & (jnp.arange(len(quality)) < FIRST)
        worse = quality > jnp.nanmedian(jnp.where(first, quality, jnp.nan))
        dominated = (quality[None] <= quality[:, None]) & (cost[None] <= cost[:, None])
        strictly = (quality[None] < quality[:, None]) | (cost[None] < cost[:, None])
        count = jnp.sum(dominated & strictly & usable[None], axis=1) + worse * len(quality)
        order = count + jax.random.uniform(key, quality.shape)
        order = jnp.where(jnp.isfinite(quality), order, quality)
        return history._replace(metrics=history.metrics.at[:, 0].set(order))

    def goal(
        self,
        fitted: GaussianFit,
        weights: Float[Array, " g"],
        alpha: Float[Array, ""],
        told: Int[Array, "h k"],
        is_told: Bool[Array, " h"],
        rows: Int[Array, "n k"],
    ) -> FrontGoal:
        """The goal of the next proposal; see `GaussianAcquisition`. ``alpha`` is not used."""
        features, where = fitted.quality.features[0], fitted.quality.where
        mean, _ = self.surrogate.qualities(fitted, features)
        costs = self.cost.log_ratio(rows)
        front = jax.vmap(lambda m, w: staircase(m, costs, w, self.cost.dearest))(mean, where)
        others = beside(self.surrogate, fitted, features[front.rows])
        nothing = jnp.full_like(alpha, jnp.nan)
        return FrontGoal(fitted, weights, nothing, front, others, marks(told, is_told), is_told)

    def value(self, goal: FrontGoal, configs: Int[Array, "m k"]) -> Float[Array, " m"]:
        """Log of the expected growth times the probability of not failing; -inf for what was told."""
        features = self.surrogate.embed(configs)
        gain = self.gain(goal, features, self.cost.log_ratio(configs))
        return self.total(goal, gain, features, configs)

    def gain(
        self, goal: FrontGoal, features: Float[Array, "m x"], costs: Float[Array, " m"]
    ) -> Float[Array, "g m"]:
        """Log of the expected growth by each process."""
        nothing = jnp.float32(0.0)
        mean, variance, shared = weighted_beside(
            self.surrogate, goal.fitted, features, goal.others, nothing
        )
        if self.settings.look_ahead:
            noise = self.surrogate.noise(goal.fitted, nothing)[:, None]
            scale = jax.lax.rsqrt(variance + noise)
            own = variance * scale
            apart = own[:, :, None] - shared * scale[:, :, None]
            spread = jnp.concatenate([own[:, :, None], apart], axis=2)
        else:
            own = jnp.sqrt(variance)[:, :, None]
            spread = jnp.broadcast_to(own, (*variance.shape, 1 + shared.shape[2]))
        variances = jnp.maximum(spread**2, 1e-12)

        def grown(front: Staircase, mean: Array, variances: Array) -> Array:
            lower = front._replace(level=front.level - self.settings.margin)
            return log_growth(lower, mean, variances, costs)

        return jax.vmap(grown)(goal.front, mean, variances)


def staircase(
    quality: Float[Array, " n"],
    cost: Float[Array, " n"],
    where: Bool[Array, " n"],
    dearest: float,
    steps: int = STEPS,
) -> Staircase:
    """The front of points, below a reference at the median quality of the first of them and the dearest cost.

    Examples:
        >>> found = staircase(jnp.array([3.0, 1.0, 2.0]), jnp.array([0.0, 1.0, 2.0]), jnp.ones(3, bool), 4.0, steps=2)
        >>> found.level.tolist(), found.left.tolist(), found.right.tolist()
        ([2.0, 1.0, 1.0], [-inf, 1.0, 4.0], [1.0, 4.0, 4.0])
    """
    first = where & (jnp.arange(len(quality)) < FIRST)
    reference = jnp.nanmedian(jnp.where(first, quality, jnp.nan))
    quality = jnp.where(where, quality, jnp.inf)
    order = jnp.lexsort((quality, jnp.where(where, cost, jnp.inf)))
    low = jnp.minimum(jax.lax.cummin(quality[order]), reference)
    before = jnp.concatenate([reference[None], low[:-1]])
    drops, at = jax.lax.top_k(before - low, min(steps, len(quality)))
    at = jnp.sort(jnp.where(drops > 0, at, len(quality)))
    used, at = at < len(quality), jnp.minimum(at, len(quality) - 1)
    rows = order[at]
    left = jnp.where(used, jnp.minimum(cost[rows], dearest), dearest)
    level = jnp.where(used, low[at], low[-1])
    return Staircase(
        jnp.concatenate([jnp.full(1, -jnp.inf), left]),
        jnp.concatenate([left, jnp.full(1, dearest)]),
        jnp.concatenate([reference[None], level]),
        rows,
    )


def log_growth(
    front: Staircase,
    mean: Float[Array, " m"],
    variances: Float[Array, "m s"],
    costs: Float[Array, " m"],
) -> Float[Array, " m"]:
    """Log of the hypervolume that points are expected to add.

    Args:
        front: so far, of ``s`` intervals.
        mean: of each point's quality.
        variances: of the difference of its quality from the level of each interval.
        costs: of the points.
    """
    width = front.right[None] - jnp.maximum(front.left[None], costs[:, None])
    gains = log_expected_improvement(mean[:, None], variances, front.level[None])
    log_width = jnp.where(width > 0, jnp.log(jnp.maximum(width, 1e-30)), -jnp.inf)
    return jax.nn.logsumexp(gains + log_width, axis=1)
