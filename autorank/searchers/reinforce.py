"""REINFORCE (Williams 1992) over one categorical distribution a decision (arXiv 2311.07870).

    grad J = E[(R - b) sum_d grad log pi_d(a_d)],   b <- .95 b + .05 mean(R),   Adam on the logits

The sum runs over the active decisions of a configuration. ``reinforce`` learns from the trials' own
results; `paper` runs the same policy against a predictor.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

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
    proposer,
)
from autorank.space.space import Space

BASELINE_DECAY = 0.95


@dataclass(frozen=True)
class ReinforceConfig(SearcherConfig):
    """REINFORCE on the trials' own results."""

    name: str = "reinforce"
    rate: float = 0.1  # Adam on the policy's logits
    entropy_coef: float = 0.0  # weight of the policy's entropy (1 = uniform) in its objective


class Policy(NamedTuple):
    """Logits, Adam's moments, the reward baseline, and the updates done so far."""

    logits: Array  # float32 [k, c]
    mean: Array  # float32 [k, c]
    square: Array  # float32 [k, c]
    baseline: Array  # float32
    step: Array  # int32


def uniform_policy(space: Space) -> Policy:
    """Zero logits."""
    zeros = jnp.zeros((space.num_decisions, space.max_choices), jnp.float32)
    return Policy(zeros, zeros, zeros, jnp.zeros(()), jnp.zeros((), jnp.int32))


def log_probabilities(space: Space, logits: Float[Array, "k c"]) -> Float[Array, "k c"]:
    """Per decision and choice; minus infinity where there is no such choice."""
    exists = np.arange(space.max_choices)[None, :] < space.num_choices[:, None]
    return jax.nn.log_softmax(jnp.where(jnp.asarray(exists), logits, -jnp.inf), axis=1)


def draw(key: Key, space: Space, logits: Float[Array, "k c"], n: int) -> Int[Array, "n k"]:
    """Canonical configurations from the policy, by the inverse of each decision's cumulative distribution.

    One uniform number a decision; the argmax of Gumbel noise needs one for every choice.
    """
    below = jnp.cumsum(jnp.exp(log_probabilities(space, logits)), axis=1)[:, :-1]
    uniform = jax.random.uniform(key, (n, space.num_decisions))
    choice = jnp.sum(uniform[:, :, None] >= below[None], axis=2)
    # Rounding may leave the last cumulative probability below the number drawn.
    return space.canonical(jnp.minimum(choice, jnp.asarray(space.num_choices - 1)[None]))


def entropy(space: Space, logits: Float[Array, "k c"]) -> Float[Array, ""]:
    """Mean over decisions in units of the uniform policy's: 1 = uniform, 0 = one configuration."""
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
    """One step of REINFORCE on sampled configurations.

    The baseline starts at the first mean reward; ``entropy_coef`` weighs the mean normalised
    entropy.
    """
    mean_reward = jnp.mean(rewards)
    baseline = jnp.where(policy.step == 0, mean_reward, policy.baseline)
    advantage = rewards - baseline
    active = space.active(configs)

    def loss(logits):
        log_p = log_probabilities(space, logits)
        taken = log_p[jnp.arange(space.num_decisions)[None, :], configs]
        log_likelihood = jnp.sum(jnp.where(active, taken, 0.0), axis=1)
        return -jnp.mean(advantage * log_likelihood) - entropy_coef * entropy(space, logits)

    gradient = jax.grad(loss)(policy.logits)
    step = policy.step + 1
    mean = 0.9 * policy.mean + 0.1 * gradient
    square = 0.999 * policy.square + 0.001 * gradient**2
    corrected = mean / (1 - 0.9**step) / (jnp.sqrt(square / (1 - 0.999**step)) + 1e-8)
    return Policy(
        policy.logits - rate * corrected,
        mean,
        square,
        BASELINE_DECAY * baseline + (1 - BASELINE_DECAY) * mean_reward,
        step,
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
)
def make_reinforce(space: Space, settings: ReinforceConfig, context: Context) -> Searcher:
    """REINFORCE on true results, without a predictor: reward = minus the quality told.

    A failed trial counts as the worst finished one so far.
    """
    batch_size, capacity = settings.batch_size, context.capacity
    propose: Callable = proposer(space, batch_size=batch_size, capacity=capacity)

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
