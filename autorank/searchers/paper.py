"""The paper's searcher (arXiv 2311.07870): REINFORCE against a predictor that is fitted to all told trials.

Each ``ask`` refits the predictor, runs one policy for each alpha and seed with rewards from the predictor alone, and
takes the best configurations that the policies have drawn. All sizes are fixed by the settings, so that a growing
history does not recompile.
"""

from dataclasses import dataclass
from functools import cached_property, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from autorank.base.records import later, require, require_range
from autorank.base.typing import Array, Float, Int, Key
from autorank.searchers.base import (
    SEARCHERS,
    Context,
    History,
    Proposal,
    Searcher,
    SearcherConfig,
    ToldState,
    best,
    empty,
    mutants_of_best,
    require_alphas,
    tell_history,
    told_data,
    tried_first,
)
from autorank.searchers.known_cost import Fits
from autorank.searchers.maximisers import CLIMBING, MAXIMISERS, Found, by_chance, by_climbing
from autorank.searchers.novelty import Propose, fresh, proposer
from autorank.searchers.policy_search import Course, ScoreConfigs, run_policy
from autorank.searchers.rewards import REWARDS, Line, calibrate, reward_of
from autorank.space.space import Space
from autorank.surrogates.base import Surrogate
from autorank.surrogates.settings import PredictorConfig

CURVE_POINTS = 100  # points of a policy's course that ``info`` keeps


@dataclass(frozen=True)
class PaperConfig(SearcherConfig):
    """Predictor and REINFORCE; local and exploratory proposals, and other maximisers, go beyond the paper."""

    name: str = "paper"
    num_exploratory: int = 2  # proposals that are random or mutants of the best trial, in turn
    # Proposals that the predictor chooses among mutants of the best trials (0 in the paper). So close to what was
    # trained, the predictor need not extrapolate.
    num_local: int = 0
    # Weights of the cost in the reward; a policy for each.
    alphas: tuple[float, ...] = (0.0, 0.1, 0.3)
    reward: str = "alpha"  # alpha, hinge, absolute
    steps: int = 2000  # REINFORCE steps of an ask, from a uniform policy
    samples: int = 64  # configurations sampled a step
    rate: float = 0.05  # Adam on the policy's logits
    entropy_coef: float = 0.0  # weight of the policy's entropy (1 = uniform) in its objective
    num_policies: int = 1  # seeds of the policy for each alpha
    mutation_rate: float = 0.1  # probability that a decision of a mutant changes
    local_pool: int = later(128)  # mutants scored for each local proposal
    local_parents: int = later(5)  # best trials that the local mutants descend from
    # What finds the highest predicted reward: policy (REINFORCE, the paper), random (the best of random candidates) or
    # climb (from the best candidates and trials, one decision at a time).
    maximiser: str = later("policy")
    candidates: int = later(100_000)  # random configurations that are scored; for random and climb

    def __post_init__(self):
        super().__post_init__()
        object.__setattr__(self, "alphas", tuple(float(a) for a in self.alphas))
        require("searcher.reward", self.reward, REWARDS)
        require("searcher.maximiser", self.maximiser, MAXIMISERS)
        require_alphas(self.alphas)
        extra = self.num_exploratory + self.num_local
        if self.num_exploratory < 0 or self.num_local < 0 or extra > self.batch_size:
            raise ValueError(
                f"searcher.num_exploratory={self.num_exploratory} and searcher.num_local={self.num_local} must not be "
                f"negative nor exceed searcher.batch_size={self.batch_size} together; write for example "
                f"searcher.num_exploratory=0 searcher.num_local=0, or searcher.batch_size={max(extra, 1)}"
            )
        for key in ("steps", "samples", "num_policies", "local_pool", "local_parents"):
            require_range(f"searcher.{key}", getattr(self, key), 1, 100_000_000)
        # Climbers start at different candidates.
        require_range("searcher.candidates", self.candidates, CLIMBING.num_climbers, 100_000_000)


class Candidates(NamedTuple):
    """Configurations in order of preference, and where they come from."""

    configs: Array  # int32 [m, k]
    alpha: Array  # float32 [m]: of the policy; NaN for exploratory ones


@SEARCHERS.register(
    "paper",
    PaperConfig,
    grid_size=16,
    has_roles=True,
    reads_predictor=True,
    weighs_cost=True,
    finds_front=False,
    warms=True,
    thaws=False,
)
def make_paper(space: Space, settings: PaperConfig, context: Context) -> Searcher:
    """REINFORCE against the predictor ensemble (arXiv 2311.07870).

    Proposals are random until ``context.initial`` trials are told, after the best ones of earlier searches, if there
    are any.

    Proposals carry predicted metrics. ``info`` holds, for each proposal, ``repeat``, ``alpha`` (NaN for exploratory
    ones) and ``spread``. Of the policies, if there are any, it holds ``entropy`` and ``reward``
    ``[alphas, num_policies, points]`` and ``metrics`` ``[..., 2]`` at ``step``, and ``distinct`` ``[alphas]``, the
    share of samples that were new. Before ``initial`` trials all of these are NaN.

    Raises:
        ValueError: a predictor made for another capacity.

    Examples:
        >>> from autorank.space.space import Decision
        >>> space = Space((Decision("width", (8, 16, 32)),), (0,))
        >>> settings = PaperConfig(batch_size=2, num_exploratory=1, steps=4, samples=2)
        >>> context = Context(capacity=4, predictor=PredictorConfig(members=1, hidden=(2,), steps=1))
        >>> searcher = make_paper(space, settings, context)
        >>> searcher.ask(jax.random.key(1), searcher.init(jax.random.key(0))).predicted.tolist()
        [[nan, nan], [nan, nan]]
    """
    # These load flax, which the other searchers do not need.
    from autorank.surrogates.ensemble_surrogate import EnsembleSurrogate
    from autorank.surrogates.predictor import make_predictor

    capacity, predictor = context.capacity, context.predictor
    if isinstance(predictor, PredictorConfig):
        predictor = make_predictor(predictor, space.num_features, capacity)
    if predictor.capacity != capacity:
        raise ValueError(
            f"the predictor was made for capacity={predictor.capacity} rows and the searcher for "
            f"{capacity}; make both alike"
        )
    propose = proposer(space, batch_size=settings.batch_size, capacity=capacity)
    fits = context.cost and context.cost.fits
    guide = _Guide(space, settings, EnsembleSurrogate(space, predictor), propose, fits)

    def init(key: Key) -> ToldState:
        return ToldState(empty(space, capacity), tried_first(context, space))

    def ask(key: Key, state: ToldState) -> Proposal:
        ready = state.history.count >= context.initial
        at_random = partial(guide.at_random, state.first)
        return jax.lax.cond(ready, guide.guided, at_random, key, state.history)

    return Searcher(init, ask, tell_history)


@dataclass(frozen=True)
class _Guide:
    """Proposes by the predictor, or at random before it is trusted."""

    space: Space
    settings: PaperConfig
    surrogate: Surrogate
    propose: Propose
    fits: Fits | None  # a cap on the cost

    @cached_property
    def alphas(self) -> np.ndarray:
        """Weights of the cost."""
        return np.asarray(self.settings.alphas, np.float32)

    @cached_property
    def points(self) -> np.ndarray:
        """Steps of the policies that ``info`` keeps."""
        steps = self.settings.steps
        return np.linspace(0, steps - 1, min(steps, CURVE_POINTS)).round().astype(np.int32)

    def guided(self, key: Key, history: History) -> Proposal:
        """A batch by the predictor."""
        s = self.settings
        fit_key, policy_key, explore_key, propose_key = jax.random.split(key, 4)
        data = told_data(history)
        fitted = self.surrogate.fit(fit_key, data)
        predict = partial(self.surrogate.predict, fitted)
        line = calibrate(predict(history.configs).mean, data.metrics, data.where)

        def score(configs: Int[Array, "n k"]) -> Float[Array, "n 2"]:
            return predict(configs).mean

        found = self._maximised(policy_key, history, score, line)
        configs = found.configs.astype(jnp.int32)
        leaders, num_new = self._leaders(history, configs, found.rewards, s.batch_size)
        chosen = fresh(history, leaders.configs, s.batch_size - s.num_exploratory - s.num_local)
        parts = [Candidates(leaders.configs[chosen.position], leaders.alpha[chosen.position])]
        if s.num_local:
            local_key = jax.random.fold_in(explore_key, 1)
            parts.append(self._local(local_key, history, score, line))
        parts += [explorers(explore_key, self.space, history, s), leaders]
        pool = jnp.concatenate([part.configs for part in parts])
        alpha = jnp.concatenate([*(part.alpha for part in parts), jnp.full(1, jnp.nan)])
        configs, repeat, position = self.propose(propose_key, history, pool)
        prediction = predict(configs)
        info = {"repeat": repeat, "alpha": alpha[position], "spread": prediction.sd} | found.info
        if s.maximiser == "policy":
            info["distinct"] = num_new / (s.num_policies * s.steps * s.samples)
        return Proposal(configs, line.to_metrics(prediction.mean), info)

    def at_random(self, first: Int[Array, "n k"], key: Key, history: History) -> Proposal:
        """The earlier trials ``first``, then a random batch.

        ``info`` has the shapes of `guided`, as both are branches of one condition.
        """
        configs, repeat, _ = self.propose(key, history, first)
        shapes = jax.eval_shape(self.guided, key, history).info
        info = {name: jnp.full(s.shape, jnp.nan) for name, s in shapes.items()}
        info |= {"repeat": repeat}
        info |= {"step": jnp.asarray(self.points)} if "step" in info else {}
        return Proposal(configs, jnp.full((self.settings.batch_size, 2), jnp.nan), info)

    def _run_policies(self, key: Key, score: ScoreConfigs, line: Line) -> Course:
        """One policy for each alpha and seed; the leading axes ``[alphas, num_policies]``."""
        s = self.settings

        def policy(seed: Array, alpha: Array) -> Course:
            return run_policy(
                jax.random.fold_in(key, seed),
                self.space,
                score,
                lambda scores: reward_of(s.reward, alpha, line, scores),
                steps=s.steps,
                samples=s.samples,
                rate=s.rate,
                entropy_coef=s.entropy_coef,
                fits=self.fits,
            )

        # Common random numbers: a seed draws alike under every alpha.
        seeds = jnp.arange(s.num_policies)
        return jax.vmap(jax.vmap(policy, (0, None)), (None, 0))(seeds, jnp.asarray(self.alphas))

    def _maximised(self, key: Key, history: History, score: ScoreConfigs, line: Line) -> Found:
        """What the chosen maximiser finds."""
        s, alphas = self.settings, jnp.asarray(self.alphas)
        if s.maximiser == "policy":
            return self._by_policies(key, score, line)
        rewards = partial(self._rewards, line)
        if s.maximiser == "random":
            return by_chance(key, self.space, score, rewards, s.candidates)

        def value(alpha: Array, configs: Array) -> Array:
            return reward_of(s.reward, alpha, line, score(configs))

        return by_climbing(key, self.space, history, value, alphas, s.candidates)

    def _by_policies(self, key: Key, score: ScoreConfigs, line: Line) -> Found:
        """What the policies draw, and their course."""
        course = self._run_policies(key, score, line)
        num_alphas = len(self.settings.alphas)
        scores = course.scores[:, :, self.points]
        info = {
            "step": jnp.asarray(self.points),
            "entropy": course.entropy[:, :, self.points],
            "reward": jnp.mean(course.rewards, axis=3)[:, :, self.points],
            "metrics": jax.vmap(jax.vmap(line.to_metrics))(scores),
        }
        return Found(
            course.configs.reshape(num_alphas, -1, self.space.num_decisions),
            course.rewards.reshape(num_alphas, -1),
            info,
        )

    def _rewards(self, line: Line, scores: Float[Array, "n 2"]) -> Float[Array, "a n"]:
        """The rewards of scored configurations under each alpha."""
        kind = self.settings.reward
        return jax.vmap(lambda alpha: reward_of(kind, alpha, line, scores))(
            jnp.asarray(self.alphas)
        )

    def _leaders(
        self, history: History, configs: Int[Array, "a m k"], rewards: Float[Array, "a m"], n: int
    ) -> tuple[Candidates, Int[Array, " a"]]:
        """The ``n`` best new configurations of each alpha, taking turns, and how many new ones each alpha had."""
        lead = partial(leading, history, self.fits, n)
        leaders, num_new = jax.vmap(lead)(configs, rewards)
        in_turn = leaders.swapaxes(0, 1).reshape(-1, configs.shape[-1])
        alphas = jnp.tile(jnp.asarray(self.alphas), len(in_turn) // len(self.alphas))
        return Candidates(in_turn, alphas), num_new

    def _local(self, key: Key, history: History, score: ScoreConfigs, line: Line) -> Candidates:
        """The ``num_local`` mutants of the best trials that the predictor ranks highest."""
        s = self.settings
        mutants = mutants_of_best(
            key, self.space, history, s.local_pool * s.num_local, s.mutation_rate, s.local_parents
        )
        scores = score(mutants)
        rewards = self._rewards(line, scores)
        same = jnp.broadcast_to(mutants, (len(s.alphas), *mutants.shape))
        leaders, _ = self._leaders(history, same, rewards, s.num_local)
        chosen = fresh(history, leaders.configs, s.num_local).position
        return Candidates(leaders.configs[chosen], leaders.alpha[chosen])


def leading(
    history: History,
    fits: Fits | None,
    n: int,
    configs: Int[Array, "m k"],
    rewards: Float[Array, " m"],
) -> tuple[Int[Array, "n k"], Int[Array, ""]]:
    """The ``n`` new configurations of highest reward, those that do not fit last, and the number of new ones."""
    if fits is not None:
        rewards = jnp.where(fits(configs), rewards, jnp.nan)
    order = jnp.argsort(jnp.where(jnp.isnan(rewards), jnp.inf, -rewards))
    ranked = configs[order]
    chosen = fresh(history, ranked, n)
    return ranked[chosen.position], chosen.num_fresh


def explorers(key: Key, space: Space, history: History, settings: PaperConfig) -> Candidates:
    """Random configurations and mutants of the best trial, in turn; some may have been told."""
    n = 4 * settings.num_exploratory
    sample_key, mutate_key = jax.random.split(key)
    parents = jnp.broadcast_to(best(history)[0][None, :], (n, space.num_decisions))
    mutants = space.mutate(mutate_key, parents, settings.mutation_rate)
    mutate = jnp.arange(n)[:, None] % 2 == 1
    configs = jnp.where(mutate, mutants, space.sample(sample_key, n))
    return Candidates(configs, jnp.full(n, jnp.nan))
