"""The paper's searcher (arXiv 2311.07870): REINFORCE against a predictor fitted on everything told.

Each ``ask`` refits the predictor, runs one policy per alpha and seed for ``steps`` steps with
rewards from the predictor alone, and takes the best configurations met on the way. All sizes are
fixed by the factory, so that a growing history never recompiles.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from autorank.base.records import later, require, require_range
from autorank.base.typing import Array, Bool, Float, Int, Key
from autorank.searchers.base import (
    SEARCHERS,
    Context,
    History,
    Proposal,
    Searcher,
    SearcherConfig,
    append,
    best,
    empty,
    fresh,
    known,
    proposer,
    require_alphas,
)
from autorank.searchers.reinforce import draw, entropy, learn, uniform_policy
from autorank.space.space import Space
from autorank.surrogates.predictor import Predictor, make_predictor
from autorank.surrogates.settings import PredictorConfig

REWARDS = ("alpha", "hinge", "absolute")
CURVE_POINTS = 100  # of the policy's course that ``info`` keeps


@dataclass(frozen=True)
class PaperConfig(SearcherConfig):
    """Predictor and REINFORCE, and what goes beyond the paper: local and exploratory proposals."""

    name: str = "paper"
    num_exploratory: int = 2  # of the proposals: random or mutants of the best trial, in turn
    # Of the proposals: the predictor's choice among mutants of the best trials (0 in the paper). Near what was trained
    # the predictor is not asked to extrapolate.
    num_local: int = 0
    alphas: tuple[float, ...] = (0.0, 0.1, 0.3)  # weight of the cost in the reward, one policy each
    reward: str = "alpha"  # alpha, hinge, absolute
    steps: int = 2000  # REINFORCE steps of an ask, from a uniform policy
    samples: int = 64  # configurations sampled a step
    rate: float = 0.05  # Adam on the policy's logits
    entropy_coef: float = 0.0  # weight of the policy's entropy (1 = uniform) in its objective
    num_policies: int = 1  # policy seeds for each alpha
    mutation_rate: float = 0.1  # of the exploratory mutants
    local_pool: int = later(128)  # mutants scored for each local proposal
    local_parents: int = later(5)  # best trials that they descend from

    def __post_init__(self):
        super().__post_init__()
        object.__setattr__(self, "alphas", tuple(float(a) for a in self.alphas))
        require("searcher.reward", self.reward, REWARDS)
        require_alphas(self.alphas)
        extra = self.num_exploratory + self.num_local
        if self.num_exploratory < 0 or self.num_local < 0 or extra > self.batch_size:
            raise ValueError(
                f"searcher.num_exploratory={self.num_exploratory} and searcher.num_local={self.num_local} must not be "
                f"negative nor exceed searcher.batch_size={self.batch_size} together"
            )
        for key in ("steps", "samples", "num_policies", "local_pool", "local_parents"):
            require_range(f"searcher.{key}", getattr(self, key), 1, 100_000_000)


class State(NamedTuple):
    """Nothing but what was told: the predictor is refitted and the policy restarted at each ask."""

    history: History


class Line(NamedTuple):
    """Per task the straight line from scores to metrics."""

    slope: Array  # float32 [2], not negative
    intercept: Array  # float32 [2]


class Course(NamedTuple):
    """What a policy met and how it went, per step."""

    configs: Array  # int8 or int32 [steps, samples, k]
    rewards: Array  # float32 [steps, samples]
    entropy: Array  # float32 [steps], 1 = uniform
    metrics: Array  # float32 [steps, 2]: mean predicted metrics of the samples


def calibrate(
    scores: Float[Array, "n 2"], metrics: Float[Array, "n 2"], where: Bool[Array, "n 2"]
) -> Line:
    """Least squares from scores to metrics, task by task.

    A ranking loss leaves scores without a unit; the line gives them the metrics'. A falling line (a
    predictor worse than chance) becomes a flat one, so that the order is never reversed.
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


def metrics_of(line: Line, scores: Float[Array, "n 2"]) -> Float[Array, "n 2"]:
    """Scores in the metrics' units."""
    return line.intercept[None, :] + line.slope[None, :] * scores


def reward_of(
    kind: str, alpha: Float[Array, ""], line: Line, scores: Float[Array, "n 2"]
) -> Float[Array, " n"]:
    """Higher is better, from predicted quality and cost.

    - ``alpha``: ``-(1 - alpha) NE - alpha FLOPs``, both as scored (arXiv 2311.07870)
    - ``hinge``: ``-(1 - alpha) NE - alpha max(0, FLOPs / F0 - 1)``, only what exceeds the baseline
        counts
    - ``absolute``: ``-(1 - alpha) NE - alpha |FLOPs / F0 - 1|`` (TuNAS, arXiv 2008.06120)
    """
    quality, cost = scores[:, 0], scores[:, 1]
    # Policies stray far from the told trials: a ratio above e^10 is no better known than that.
    excess = jnp.expm1(jnp.minimum(metrics_of(line, scores)[:, 1], 10.0))
    penalty = {"alpha": cost, "hinge": jnp.maximum(excess, 0.0), "absolute": jnp.abs(excess)}[kind]
    return -(1 - alpha) * quality - alpha * penalty


@SEARCHERS.register(
    "paper", PaperConfig, grid_size=16, has_roles=True, reads_predictor=True, weighs_cost=True
)
def make_paper(space: Space, settings: PaperConfig, context: Context) -> Searcher:
    """REINFORCE against the predictor ensemble (arXiv 2311.07870).

    Proposals are random until ``context.initial`` trials are told.

    Proposals carry predicted metrics and, in ``info``: ``repeat``, ``alpha`` (NaN = exploratory)
    and ``spread`` per proposal; ``entropy``, ``reward`` ``[alphas, num_policies, points]`` and
    ``metrics`` ``[..., 2]`` at ``step``; ``distinct`` ``[alphas]``, the share of samples that were
    new. NaN before ``initial``.

    Raises:
        ValueError: a predictor made for another capacity.
    """
    capacity, initial = context.capacity, context.initial
    predictor = context.predictor
    if isinstance(predictor, PredictorConfig):
        predictor = make_predictor(predictor, space.num_features, capacity)
    batch_size, alphas, reward = settings.batch_size, settings.alphas, settings.reward
    num_exploratory, num_local = settings.num_exploratory, settings.num_local
    steps, samples, num_policies = settings.steps, settings.samples, settings.num_policies
    rate, entropy_coef = settings.rate, settings.entropy_coef
    mutation_rate = settings.mutation_rate
    local_pool, local_parents = settings.local_pool, settings.local_parents
    if predictor.capacity != capacity:
        raise ValueError(
            f"the predictor was made for capacity={predictor.capacity} rows and the searcher for "
            f"{capacity}; make both alike"
        )
    propose = proposer(space, batch_size=batch_size, capacity=capacity)
    weights = jnp.asarray(alphas, jnp.float32)
    points = np.linspace(0, steps - 1, min(steps, CURVE_POINTS)).round().astype(np.int32)

    def init(key: Key) -> State:
        return State(empty(space, capacity))

    def guided(key: Key, history: History) -> Proposal:
        fit_key, policy_key, explore_key, propose_key = jax.random.split(key, 4)
        local_key = jax.random.fold_in(explore_key, 1)
        score, line = _fit(fit_key, space, predictor, history)

        def policy(seed, alpha):
            return run_policy(
                jax.random.fold_in(policy_key, seed),
                space,
                lambda configs: score(configs)[0],
                lambda scores: reward_of(reward, alpha, line, scores),
                steps=steps,
                samples=samples,
                rate=rate,
                entropy_coef=entropy_coef,
            )

        # Common random numbers: a seed's draws are the same under every alpha.
        seeds = jnp.arange(num_policies)
        course = jax.vmap(jax.vmap(policy, (0, None)), (None, 0))(seeds, weights)
        k = space.num_decisions
        met = course.configs.reshape(len(alphas), -1, k).astype(jnp.int32)
        candidates, origin, num_new = _leaders(
            history, met, course.rewards.reshape(len(alphas), -1), weights, batch_size
        )
        leaders, _, _ = fresh(history, candidates, batch_size - num_exploratory - num_local)
        explorers = _explorers(explore_key, space, history, 4 * num_exploratory, mutation_rate)
        parts = [(candidates[leaders], origin[leaders])]
        if num_local:
            mutants = _mutants(
                local_key, space, history, local_pool * num_local, mutation_rate, local_parents
            )
            means = score(mutants)[0]
            rewards = jax.vmap(lambda alpha: reward_of(reward, alpha, line, means))(weights)
            same = jnp.broadcast_to(mutants, (len(alphas), *mutants.shape))
            near, whose, _ = _leaders(history, same, rewards, weights, num_local)
            chosen, _, _ = fresh(history, near, num_local)
            parts.append((near[chosen], whose[chosen]))
        parts += [(explorers, jnp.full(len(explorers), jnp.nan)), (candidates, origin)]
        pool = jnp.concatenate([configs for configs, _ in parts])
        origin = jnp.concatenate([*(whose for _, whose in parts), jnp.full(1, jnp.nan)])
        configs, repeat, position = propose(propose_key, history, pool)
        scores, spread = score(configs)
        total = num_policies * steps * samples
        info = {
            "repeat": repeat,
            "alpha": origin[position],
            "spread": spread,
            "step": jnp.asarray(points),
            "entropy": course.entropy[:, :, points],
            "reward": jnp.mean(course.rewards, axis=3)[:, :, points],
            "metrics": jax.vmap(jax.vmap(lambda m: metrics_of(line, m)))(
                course.metrics[:, :, points]
            ),
            "distinct": num_new / total,
        }
        return Proposal(configs, metrics_of(line, scores), info)

    def at_random(key: Key, history: History) -> Proposal:
        nothing = jnp.zeros((0, space.num_decisions), jnp.int32)
        configs, repeat, _ = propose(key, history, nothing)
        shapes = jax.eval_shape(guided, key, history)
        known_now = {"repeat": repeat, "step": jnp.asarray(points)}
        info = {
            name: known_now.get(name, jnp.full(s.shape, jnp.nan)) for name, s in shapes.info.items()
        }
        return Proposal(configs, jnp.full((batch_size, 2), jnp.nan), info)

    def ask(key: Key, state: State) -> Proposal:
        return jax.lax.cond(state.history.count >= initial, guided, at_random, key, state.history)

    def tell(state: State, configs, metrics) -> State:
        return State(append(state.history, configs, metrics))

    return Searcher(init, ask, tell)


def run_policy(
    key: Key,
    space: Space,
    score: Callable[[Any], Any],
    reward: Callable[[Any], Any],
    *,
    steps: int,
    samples: int,
    rate: float,
    entropy_coef: float,
) -> Course:
    """One scan from a uniform policy; ``score(configs) -> [n, 2]``, ``reward(scores) -> [n]``."""
    small = jnp.int8 if space.max_choices < 128 else jnp.int32

    def step(policy, index):
        configs = draw(jax.random.fold_in(key, index), space, policy.logits, samples)
        scores = score(configs)
        rewards = reward(scores)
        met = Course(
            configs.astype(small),
            rewards,
            entropy(space, policy.logits),
            jnp.mean(scores, axis=0),
        )
        return learn(space, policy, configs, rewards, rate=rate, entropy_coef=entropy_coef), met

    return jax.lax.scan(step, uniform_policy(space), jnp.arange(steps))[1]


def _fit(key: Key, space: Space, predictor: Predictor, history: History) -> tuple[Callable, Line]:
    """``score(configs) -> (mean [n, 2], spread [n, 2])`` and the line from means to metrics."""
    features = space.features(history.configs)
    cost = history.metrics[:, 1]
    where = jnp.stack([known(history), known(history) & ~jnp.isnan(cost)], axis=1)
    targets = history.metrics.at[:, 1].set(jnp.nan_to_num(cost))
    score = scorer(space, predictor, predictor.fit(key, features, targets, where))
    return score, calibrate(score(history.configs)[0], targets, where)


def scorer(space: Space, predictor: Predictor, fitted: Any) -> Callable[[Any], tuple[Any, Any]]:
    """``score(configs [n, k]) -> (mean [n, 2], spread [n, 2])`` of a fitted predictor."""
    if predictor.score_sums is None:

        def from_features(configs: Int[Array, "n k"]) -> tuple[Array, Array]:
            scores = predictor.score(fitted, space.features(configs))
            return scores.mean, scores.spread

        return from_features
    # Every decision adds its own columns, so a configuration's features are the sum of one row a decision.
    table = jnp.asarray(space.feature_rows)
    of_rows = predictor.score_sums(fitted, table)
    starts = jnp.arange(space.num_decisions, dtype=jnp.int32) * space.max_choices

    def from_rows(configs: Int[Array, "n k"]) -> tuple[Array, Array]:
        own = starts[None, :] + jnp.asarray(configs, jnp.int32)
        scores = of_rows(jnp.where(space.active(configs), own, len(table) - 1))
        return scores.mean, scores.spread

    return from_rows


def _leaders(
    history: History,
    configs: Int[Array, "a m k"],
    rewards: Float[Array, "a m"],
    alphas: Float[Array, " a"],
    n: int,
) -> tuple[Int[Array, "l k"], Float[Array, " l"], Int[Array, " a"]]:
    """The ``n`` best new configurations of each alpha, taking turns; their alphas; how many were new."""
    k = configs.shape[-1]

    def lead(configs, rewards):
        order = jnp.argsort(jnp.where(jnp.isnan(rewards), jnp.inf, -rewards))
        ranked = configs[order]
        chosen, _, num_new = fresh(history, ranked, n)
        return ranked[chosen], num_new

    leaders, num_new = jax.vmap(lead)(configs, rewards)
    candidates = leaders.swapaxes(0, 1).reshape(-1, k)
    return candidates, jnp.tile(alphas, len(candidates) // len(alphas)), num_new


def _explorers(key: Key, space: Space, history: History, n: int, rate: float) -> Int[Array, "n k"]:
    """Random configurations and mutants of the best trial, in turn."""
    sample_key, mutate_key = jax.random.split(key)
    parents = jnp.broadcast_to(best(history)[0][None, :], (n, space.num_decisions))
    mutants = space.mutate(mutate_key, parents, rate)
    mutate = jnp.arange(n)[:, None] % 2 == 1
    return jnp.where(mutate, mutants, space.sample(sample_key, n))


def _mutants(
    key: Key, space: Space, history: History, n: int, rate: float, num_parents: int
) -> Int[Array, "n k"]:
    """Mutants of the best trials, as many of each."""
    quality = jnp.where(known(history), history.metrics[:, 0], jnp.nan)
    finished = jnp.isfinite(quality)
    order = jnp.argsort(jnp.where(finished, quality, jnp.inf))
    among = jnp.clip(jnp.sum(finished), 1, num_parents)
    return space.mutate(key, history.configs[order[jnp.arange(n) % among]], rate)
