"""REINFORCE against predicted rewards, from a uniform policy, in one scan."""

from typing import NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp

from autorank.base.typing import Array, Float, Int, Key
from autorank.searchers.known_cost import Fits
from autorank.searchers.reinforce import draw, entropy, learn, uniform_policy
from autorank.space.space import Space


class Course(NamedTuple):
    """What a policy has drawn, and how it changed, at each step."""

    configs: Array  # int8 or int32 [steps, samples, k]
    rewards: Array  # float32 [steps, samples]
    entropy: Array  # float32 [steps]: 1 for the uniform policy
    scores: Array  # float32 [steps, 2]: mean of the samples


@runtime_checkable
class ScoreConfigs(Protocol):
    """Predicts the metrics of configurations, in any unit."""

    def __call__(self, configs: Int[Array, "n k"], /) -> Float[Array, "n 2"]:
        """Predicted quality and cost; lower is better."""
        ...


@runtime_checkable
class Reward(Protocol):
    """Turns predicted metrics into rewards."""

    def __call__(self, scores: Float[Array, "n 2"], /) -> Float[Array, " n"]:
        """The rewards; higher is better."""
        ...


def run_policy(
    key: Key,
    space: Space,
    score: ScoreConfigs,
    reward: Reward,
    *,
    steps: int,
    samples: int,
    rate: float,
    entropy_coef: float,
    fits: Fits | None = None,
) -> Course:
    """Runs one policy.

    Args:
        key: key of all draws.
        space: the search space.
        score: predicts the metrics of configurations.
        reward: turns predicted metrics into rewards.
        steps: number of REINFORCE steps.
        samples: configurations drawn at each step.
        rate: Adam's step size on the logits.
        entropy_coef: weight of the policy's entropy in what is maximised.
        fits: a cap on the cost; None is without one. What does not fit has a reward below the lowest of its step, by
            their standard deviation (own choice).

    Examples:
        >>> from autorank.space.space import Decision
        >>> space = Space((Decision("width", (8, 16, 32)),), (0,))
        >>> score = lambda configs: jnp.tile(configs, (1, 2)).astype(jnp.float32)
        >>> course = run_policy(
        ...     jax.random.key(0), space, score, lambda scores: -scores[:, 0],
        ...     steps=30, samples=8, rate=0.3, entropy_coef=0.0,
        ... )
        >>> course.configs.shape, bool(course.rewards[-1].mean() > course.rewards[0].mean())
        ((30, 8, 1), True)
    """
    small = jnp.int8 if space.max_choices < 128 else jnp.int32

    def step(policy, index):
        configs = draw(jax.random.fold_in(key, index), space, policy.logits, samples)
        scores = score(configs)
        rewards = reward(scores)
        if fits is not None:
            rewards = jnp.where(fits(configs), rewards, jnp.min(rewards) - jnp.std(rewards))
        course = Course(
            configs.astype(small),
            rewards,
            entropy(space, policy.logits),
            jnp.mean(scores, axis=0),
        )
        return learn(space, policy, configs, rewards, rate=rate, entropy_coef=entropy_coef), course

    return jax.lax.scan(step, uniform_policy(space), jnp.arange(steps))[1]
