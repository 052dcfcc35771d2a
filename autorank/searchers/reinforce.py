"""REINFORCE (Williams 1992) over one categorical distribution for each decision (arXiv 2311.07870).

    grad J = E[(R - b) sum_d grad log pi_d(a_d)],   b <- .95 b + .05 mean(R),   Adam on the logits

The sum runs over the active decisions of a configuration. The searcher ``reinforce`` learns from the results of the
trials; `paper` runs the same policy against a predictor.
"""

from dataclasses import dataclass
from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax

from autorank.base.typing import Array, Float, Int, Key
from autorank.searchers.base import (
    SEARCHERS,
    Context,
    History,
    Proposal,
    Searcher,
    SearcherConfig,
    append,
    empty,
)
from autorank.searchers.novelty import proposer
from autorank.space.space import Space

BASELINE_DECAY = 0.95
ADAM = optax.scale_by_adam()


@dataclass(frozen=True)
class ReinforceConfig(SearcherConfig):
    """REINFORCE on the results of the trials."""

    name: str = "reinforce"
    rate: float = 0.1  # Adam on the policy's logits
    entropy_coef: float = 0.0  # weight of the policy's entropy (1 = uniform) in its objective


class Policy(NamedTuple):
    """A categorical distribution for each decision, and the state of its learning."""

    logits: Array  # float32 [k, c]
    adam: optax.ScaleByAdamState  # moments of the logits' gradient, and the number of updates
    baseline: Array  # float32: decaying mean of the rewards


def uniform_policy(space: Space) -> Policy:
    """The policy with zero logits, before any update."""
    logits = jnp.zeros((space.num_decisions, space.max_choices), jnp.float32)
    return Policy(logits, cast(optax.ScaleByAdamState, ADAM.init(logits)), jnp.zeros(()))


def log_probabilities(space: Space, logits: Float[Array, "k c"]) -> Float[Array, "k c"]:
    """Log probability of each choice of each decision; minus infinity where a decision has fewer choices."""
    exists = np.arange(space.max_choices)[None, :] < space.num_choices[:, None]
    return jax.nn.log_softmax(jnp.where(jnp.asarray(exists), logits, -jnp.inf), axis=1)


def draw(key: Key, space: Space, logits: Float[Array, "k c"], n: int) -> Int[Array, "n k"]:
    """Draws ``n`` canonical configurations by inverting the cumulative distribution of each decision.

    This takes one uniform number for each decision; the argmax of Gumbel noise would take one for each choice.

    Examples:
        >>> from autorank.space.space import Decision
        >>> space = Space((Decision("width", (8, 16)),), (0,))
        >>> draw(jax.random.key(0), space, jnp.array([[0.0, 50.0]]), 2).tolist()
        [[1], [1]]
    """
    below = jnp.cumsum(jnp.exp(log_probabilities(space, logits)), axis=1)[:, :-1]
    uniform = jax.random.uniform(key, (n, space.num_decisions))
    choice = jnp.sum(uniform[:, :, None] >= below[None], axis=2)
    # The last cumulative probability may be rounded to less than the number drawn.
    return space.canonical(jnp.minimum(choice, jnp.asarray(space.num_choices - 1)[None]))


def entropy(space: Space, logits: Float[Array, "k c"]) -> Float[Array, ""]:
    """Sum over decisions, relative to that of the uniform policy: 1 is uniform, 0 a single configuration."""
    log_p = log_probabilities(space, logits)
    per_decision = -jnp.sum(jnp.exp(log_p) * jnp.where(jnp.isfinite(log_p), log_p, 0.0), axis=1)
    return jnp.sum(per_decision) / max(float(np.sum(np.log(space.num_choices))), 1e-9)


def learn(
    space: Space,
    policy: Policy,
    configs: Int[Array, "n k"],
    rewards: Float[Array, " n"],
    *,
    rate: float | Float[Array, ""],
    entropy_coef: float | Float[Array, ""] = 0.0,
) -> Policy:
    """One step of REINFORCE on configurations sampled from the policy.

    Args:
        space: the search space.
        policy: the policy before the step.
        configs: configurations sampled from it.
        rewards: reward of each, higher is better; the baseline starts at their first mean.
        rate: Adam's step size on the logits.
        entropy_coef: weight of `entropy` in what is maximised.
    """
    mean_reward = jnp.mean(rewards)
    baseline = jnp.where(policy.adam.count == 0, mean_reward, policy.baseline)
    advantage = rewards - baseline
    active = space.active(configs)

    def loss(logits):
        log_p = log_probabilities(space, logits)
        taken = log_p[jnp.arange(space.num_decisions)[None, :], configs]
        log_likelihood = jnp.sum(jnp.where(active, taken, 0.0), axis=1)
        return -jnp.mean(advantage * log_likelihood) - entropy_coef * entropy(space, logits)

    updates, adam = ADAM.update(jax.grad(loss)(policy.logits), policy.adam)
    return Policy(
        policy.logits - rate * cast(Array, updates),
        cast(optax.ScaleByAdamState, adam),
        BASELINE_DECAY * baseline + (1 - BASELINE_DECAY) * mean_reward,
    )


class State(NamedTuple):
    """What was told, and the policy that learned from it."""

    history: History
    policy: Policy


@SEARCHERS.register(
    "reinforce",
    ReinforceConfig,
    grid_size=16,
    has_roles=False,
    reads_predictor=False,
    weighs_cost=False,
    finds_front=False,
    warms=False,
    thaws=False,
)
def make_reinforce(space: Space, settings: ReinforceConfig, context: Context) -> Searcher:
    """REINFORCE on the results of the trials, without a predictor; the reward is minus the quality.

    A failed trial counts as the worst finished one so far. ``info`` holds ``repeat`` and the ``entropy`` of the policy.

    Examples:
        >>> from autorank.space.space import Decision
        >>> space = Space((Decision("width", (8, 16, 32)),), (0,))
        >>> searcher = make_reinforce(space, ReinforceConfig(batch_size=2), Context(capacity=8))
        >>> state = searcher.init(jax.random.key(0))
        >>> state = searcher.tell(state, jnp.array([[0], [2]]), jnp.array([[1.0, 0.0], [0.0, 0.0]]))
        >>> int(state.policy.logits[0].argmax())
        2
    """
    batch_size, capacity = settings.batch_size, context.capacity
    propose = proposer(space, batch_size=batch_size, capacity=capacity)

    def init(key: Key) -> State:
        return State(empty(space, capacity), uniform_policy(space))

    def ask(key: Key, state: State) -> Proposal:
        draw_key, propose_key = jax.random.split(key)
        candidates = draw(draw_key, space, state.policy.logits, 4 * batch_size)
        configs, repeat, _ = propose(propose_key, state.history, candidates)
        info = {"repeat": repeat, "entropy": entropy(space, state.policy.logits)}
        return Proposal(configs, jnp.full((batch_size, 2), jnp.nan), info)

    def tell(state: State, configs, metrics) -> State:
        if len(configs) == 0:
            return state
        history = append(state.history, configs, metrics)
        quality = history.metrics[:, 0]
        worst = jnp.max(jnp.where(jnp.isnan(quality), -jnp.inf, quality))
        told = jnp.asarray(metrics, jnp.float32)[:, 0]
        told = jnp.where(jnp.isnan(told), jnp.where(jnp.isfinite(worst), worst, 0.0), told)
        policy = learn(
            space,
            state.policy,
            jnp.asarray(configs, jnp.int32),
            -told,
            rate=settings.rate,
            entropy_coef=settings.entropy_coef,
        )
        return State(history, policy)

    return Searcher(init, ask, tell)
