"""Bayesian optimisation with a Gaussian process: what wins with about 100 trials.

Each ``ask`` fits Gaussian processes to everything told (quality; cost, if it weighs; which trials failed) and
takes, one after another, the configuration of highest expected improvement times probability of not failing. It is
searched for among random configurations, mutants and crossings of the best trials, then by changing one decision at
a time. A proposal of a batch is believed to give its predicted mean (kriging believer) before the next is chosen.
All buffers have fixed sizes: the first of a few sizes that holds the history.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from autorank.base.records import as_tuples, later, require, require_range
from autorank.base.typing import Array, Float, Int, Key
from autorank.searchers import acquisition
from autorank.searchers.base import (
    SEARCHERS,
    Context,
    History,
    Proposal,
    Searcher,
    SearcherConfig,
    append,
    empty,
    hashes,
    known,
    proposer,
    require_alphas,
)
from autorank.space.space import Space
from autorank.surrogates import gaussian_process as gp


@dataclass(frozen=True)
class AutorankConfig(SearcherConfig):
    """Bayesian optimisation; the values that are not the literature's were chosen on the tables of docs/results.md."""

    name: str = "autorank"
    initial: int = 10  # first trials, a Latin hypercube; trials told from elsewhere (pilots) count
    # Weights of the cost, in turn: what is improved is (1 - alpha) quality + alpha cost, both standardised.
    alphas: tuple[float, ...] = (0.0, 0.1, 0.3)
    warps: tuple[str, ...] = (
        "half_rank",
    )  # a model each of the qualities so transformed: half_rank, rank, none
    starts: tuple[float, ...] = (
        0.0,
    )  # log factors on the initial length scales; fits are averaged by their evidence
    fit_steps: int = 60  # Adam steps of a fit
    scale_sd: float = 1.0  # of the prior on the logarithm of a length scale
    effects: float = (
        0.5  # share of the prior variance that main effects have (an additive part of the kernel)
    )
    margin: float = 0.1  # standard deviations below the best mean from which improvement is counted
    num_climbers: int = 6  # candidates from which the acquisition is climbed
    climb_steps: int = 12  # most changes of one decision each makes
    feasibility: bool = True  # learn from failed trials where not to go
    failures: str = "nothing"  # what a failed trial says about quality: as bad as the worst finished (worst), nothing
    mutation_rate: float = 0.1  # of candidates
    noise_median: float = later(
        1e-3
    )  # of the prior on the noise variance, in units of the warped qualities'
    noise_sd: float = later(1.5)  # of the prior on its logarithm
    effect_sd: float = later(1.5)  # of the prior on the logarithm of a main effect's variance
    fit_rate: float = later(0.1)  # Adam's, on the logarithms of the hyperparameters
    pool: int = later(384)  # candidates of each kind: random, mutants, crossings
    num_parents: int = later(8)  # best trials that candidates descend from
    near_share: float = later(0.75)  # of a mutant's changes of numbers, those that are small
    near_step: float = later(
        0.1
    )  # standard deviation of a small change, as a share of the number's range

    def __post_init__(self):
        super().__post_init__()
        as_tuples(self, "warps")
        for key in ("alphas", "starts"):
            object.__setattr__(self, key, tuple(float(a) for a in getattr(self, key)))
        require_alphas(self.alphas)
        if not self.warps or not set(self.warps) <= set(acquisition.WARPS):
            raise ValueError(
                f"searcher.warps={list(self.warps)}: write one or more of {', '.join(acquisition.WARPS)}"
            )
        if not self.starts:
            raise ValueError(
                "searcher.starts=[] leaves nothing to fit; write at least [0.0], the usual length scales"
            )
        require("searcher.failures", self.failures, ("worst", "nothing"))
        for key, least in {
            "initial": 0,
            "climb_steps": 0,
            "fit_steps": 1,
            "num_parents": 1,
            "pool": 1,
        }.items():
            require_range(f"searcher.{key}", getattr(self, key), least, 1_000_000)
        for key in ("noise_median", "noise_sd", "effect_sd", "fit_rate", "near_step"):
            require_range(f"searcher.{key}", getattr(self, key), 1e-12, 1e3)
        require_range("searcher.margin", self.margin, 0.0, 1e3)
        require_range("searcher.near_share", self.near_share, 0.0, 1.0)
        if not 0 <= self.effects < 1:
            raise ValueError(f"searcher.effects={self.effects} must lie in [0, 1)")
        require_range("searcher.num_climbers", self.num_climbers, 1, self.pool)


class Candidates(NamedTuple):
    """Among what the acquisition is first compared."""

    pool: int = 384  # random ones, mutants, and crossings: as many of each
    num_parents: int = 8  # best trials that they descend from
    mutation_rate: float = 0.1
    near_share: float = 0.75  # of the changes of a number, those that are small
    near_step: float = 0.1  # of its range: standard deviation of a small change


class State(NamedTuple):
    """What was told, and the first configurations to try."""

    history: History
    design: Array  # int32 [initial, k]


class Model(NamedTuple):
    """What an acquisition is computed from; leading axes are hyperparameter starts."""

    quality: gp.Posterior
    cost: gp.Posterior
    failure: gp.Posterior
    any_failed: Array  # bool


@SEARCHERS.register(
    "autorank",
    AutorankConfig,
    grid_size=64,
    has_roles=False,
    reads_predictor=False,
    weighs_cost=True,
)
def make_autorank(space: Space, settings: AutorankConfig, context: Context) -> Searcher:
    """Gaussian processes and expected improvement: what wins with about 100 trials.

    Proposals carry predicted metrics (in the told units; cost NaN where no alpha weighs it) and, in ``info``:
    ``repeat``, ``alpha``, ``spread`` (of the warped quality), ``acquisition`` (log expected improvement) and
    ``feasible`` (probability).
    """
    batch_size, capacity = settings.batch_size, context.capacity
    initial, alphas, warps, starts = (
        settings.initial,
        settings.alphas,
        settings.warps,
        settings.starts,
    )
    fit_steps, fit_rate, effects = settings.fit_steps, settings.fit_rate, settings.effects
    margin, failures, feasibility = settings.margin, settings.failures, settings.feasibility
    num_climbers, climb_steps = settings.num_climbers, settings.climb_steps
    among = Candidates(
        settings.pool,
        settings.num_parents,
        settings.mutation_rate,
        settings.near_share,
        settings.near_step,
    )
    propose = proposer(space, batch_size=batch_size, capacity=capacity)
    embed, columns = gp.embedding(space, effects=effects > 0)
    k = space.num_decisions
    priors = gp.default_priors(
        gp.mean_active(space),
        settings.scale_sd,
        effects,
        settings.effect_sd,
        (settings.noise_median, settings.noise_sd),
    )
    neighbours = acquisition.neighbourhood(space)
    weighs_cost = any(a > 0 for a in alphas)
    num = len(warps) * len(starts)
    # Sizes of the model's buffers: history and the batch's earlier proposals.
    sizes = _sizes(capacity, batch_size)

    def init(key: Key) -> State:
        return State(
            empty(space, capacity), acquisition.latin_hypercube(key, space, max(initial, 1))
        )

    def model_of(size: int, history: History) -> tuple[Model, Array, Array]:
        """Fits on the first ``size`` rows; also the targets of quality and of cost."""
        used = known(history)[:size]
        quality, cost = history.metrics[:size, 0], history.metrics[:size, 1]
        finished = used & jnp.isfinite(quality)
        failed = used & ~jnp.isfinite(quality)
        any_failed = jnp.any(failed)
        warped = [acquisition.warp(kind, quality, finished) for kind in warps]
        if failures == "worst":
            warped = [jnp.where(failed, jnp.max(t), t) for t in warped]
        costed = used & jnp.isfinite(cost)
        costs = acquisition.warp("none", cost, costed)
        of_quality = used if failures == "worst" else finished
        problems: list[tuple[Any, ...]] = [
            (t, of_quality, s, fit_steps) for t in warped for s in starts
        ]
        problems.append(
            (failed.astype(jnp.float32), used, 0.0, jnp.where(any_failed, fit_steps, 0))
        )
        if weighs_cost:
            problems.append((costs, costed, 0.0, fit_steps))
        stacked = [jnp.stack([jnp.asarray(p[i]) for p in problems]) for i in range(4)]
        fitted = gp.fit(
            embed(history.configs[:size]), stacked[0], stacked[1], columns=columns, priors=priors,
            starts=stacked[2], steps=stacked[3], rate=fit_rate,
        )  # fmt: skip
        part = lambda a, b: jax.tree.map(lambda leaf: leaf[a:b], fitted)  # noqa: E731
        model = Model(part(0, num), part(-1, None), part(num, num + 1), any_failed)
        return model, jnp.stack([t for t in warped for _ in starts]), costs

    def moments(model: Model, features: Array, alpha: Array) -> tuple[Array, Array]:
        """Mean and variance ``[starts, m]`` of what is improved."""
        mean, variance = jax.vmap(lambda p: gp.predict(p, features, columns))(model.quality)
        if weighs_cost:
            cost = jax.tree.map(lambda a: a[0], model.cost)
            cost_mean, cost_variance = gp.predict(cost, features, columns)
            mean = (1 - alpha) * mean + alpha * cost_mean[None, :]
            variance = (1 - alpha) ** 2 * variance + alpha**2 * cost_variance[None, :]
        return mean, variance

    def feasible(model: Model, features: Array) -> Array:
        """Log probability of not failing."""
        if not feasibility:
            return jnp.zeros(len(features))
        first = jax.tree.map(lambda a: a[0], model.failure)
        mean, variance = gp.predict(first, features, columns)
        log_p = jax.scipy.special.log_ndtr((0.5 - mean) / jnp.sqrt(0.02 + variance))
        return jnp.where(model.any_failed, log_p, 0.0)

    def guided_at(size: int) -> Callable[[Key, History], Proposal]:
        def guided(key: Key, history: History) -> Proposal:
            model, targets, costs = model_of(min(size, capacity), history)
            extended = _extend(model, size)
            room = size - len(costs)
            targets, costs = jnp.pad(targets, ((0, 0), (0, room))), jnp.pad(costs, (0, room))
            # Starts of one warp are weighed by their evidence; warps, whose units differ, equally.
            evidence = model.quality.evidence.reshape(len(warps), len(starts))
            weights = jax.nn.softmax(evidence, axis=1).reshape(-1) / len(warps)

            def choose(carry, index):
                model, targets, costs, pending = carry
                alpha = jnp.asarray(alphas, jnp.float32)[index % len(alphas)]
                # The features of the model: told trials, and the believed ones of this batch.
                mean, _ = moments(model, model.quality.features[0], alpha)
                best_mean = jnp.min(jnp.where(model.quality.where, mean, jnp.inf), axis=1)
                # Without a margin most trials change a number by a step for a tiny but certain gain.
                best_mean = best_mean - margin
                told = jnp.concatenate([history.configs, pending])
                valid = jnp.concatenate([known(history), jnp.arange(batch_size) < index])
                marks = [jnp.where(valid, h, 0) for h in hashes(told)]

                def value(configs: Int[Array, "m k"]) -> Array:
                    features = embed(configs)
                    mean, variance = moments(model, features, alpha)
                    gain = acquisition.log_expected_improvement(mean, variance, best_mean[:, None])
                    total = jax.nn.logsumexp(gain + jnp.log(weights)[:, None], axis=0)
                    total = total + feasible(model, features)
                    first, second = hashes(configs)
                    repeat = jnp.any(
                        (first[:, None] == marks[0][None, :]) & (second[:, None] == marks[1][None, :]) & valid[None, :],
                        axis=1,
                    )  # fmt: skip
                    return jnp.where(repeat, -jnp.inf, total)

                candidates = _pool(jax.random.fold_in(key, index), space, history, among)
                config, gain = _climb(value, candidates, neighbours, num_climbers, climb_steps)
                feature = embed(config[None])
                row = history.count + index
                # Believe the mean: the next proposal of the batch goes elsewhere.
                quality_mean = jax.vmap(lambda p: gp.predict(p, feature, columns))(model.quality)
                cost_mean = gp.predict(jax.tree.map(lambda a: a[0], model.cost), feature, columns)
                targets = targets.at[:, row].set(quality_mean[0][:, 0], mode="drop")
                costs = costs.at[row].set(cost_mean[0][0], mode="drop")
                log_p = feasible(model, feature)[0]
                if batch_size > 1:
                    model = _believe(model, row, feature[0], targets, costs, columns, weighs_cost)
                report = (
                    quality_mean[0][0, 0],
                    cost_mean[0][0],
                    quality_mean[1][0, 0],
                    gain,
                    jnp.exp(log_p),
                    alpha,
                )
                return (model, targets, costs, pending.at[index].set(config)), report

            start = (extended, targets, costs, jnp.zeros((batch_size, k), jnp.int32))
            (_, _, _, chosen), found = jax.lax.scan(choose, start, jnp.arange(batch_size))
            quality, cost, variance, gain, safe, alpha = found
            configs, repeat, position = propose(
                jax.random.fold_in(key, batch_size), history, chosen
            )
            at = jnp.minimum(position, batch_size - 1)
            kept = position < batch_size

            def shown(values: Array) -> Array:
                return jnp.where(kept, values[at], jnp.nan)

            nothing = jnp.full(batch_size, jnp.nan)
            of_cost = shown(_uncost(cost, history)) if weighs_cost else nothing
            predicted = jnp.stack([shown(_unwarp(quality, targets[0], history)), of_cost], axis=1)
            info = {
                "repeat": repeat, "alpha": shown(alpha), "spread": shown(jnp.sqrt(variance)),
                "acquisition": shown(gain), "feasible": shown(safe),
            }  # fmt: skip
            return Proposal(configs, predicted, info)

        return guided

    def at_first(key: Key, history: History, design: Array) -> Proposal:
        ahead = history.count + jnp.arange(batch_size)
        candidates = design[jnp.minimum(ahead, len(design) - 1)]
        configs, repeat, _ = propose(key, history, candidates)
        nan = jnp.full(batch_size, jnp.nan)
        info = {"repeat": repeat, "alpha": nan, "spread": nan, "acquisition": nan, "feasible": nan}
        return Proposal(configs, jnp.full((batch_size, 2), jnp.nan), info)

    def ask(key: Key, state: State) -> Proposal:
        history = state.history
        needed = jnp.searchsorted(jnp.asarray(sizes), history.count + batch_size)
        finished = jnp.sum(known(history) & jnp.isfinite(history.metrics[:, 0]))
        ready = (history.count >= initial) & (finished >= 2)
        branches = [lambda h: at_first(key, h, state.design)]
        branches += [partial(guided_at(size), key) for size in sizes]
        return jax.lax.switch(jnp.where(ready, 1 + needed, 0), branches, history)

    def tell(state: State, configs, metrics) -> State:
        return State(append(state.history, configs, metrics), state.design)

    return Searcher(init, ask, tell)


def _sizes(capacity: int, batch_size: int) -> list[int]:
    """128, 256, ... and last what holds a full history and a batch, in blocks of 16; each is compiled."""
    most = 16 * -(-(capacity + batch_size) // 16)
    sizes = [s for s in (128 * 2**i for i in range(12)) if 4 * s <= 3 * most]
    return [*sizes, most]


def _extend(model: Model, size: int) -> Model:
    """Room for believed proposals behind the history."""

    def grow(p: gp.Posterior) -> gp.Posterior:
        room = size - p.features.shape[1]
        return p._replace(
            features=jnp.pad(p.features, ((0, 0), (0, room), (0, 0))),
            where=jnp.pad(p.where, ((0, 0), (0, room))),
            weights=jnp.pad(p.weights, ((0, 0), (0, room))),
            whiten=jnp.pad(p.whiten, ((0, 0), (0, room), (0, room))),
        )

    return Model(grow(model.quality), grow(model.cost), grow(model.failure), model.any_failed)


def _believe(
    model: Model, row: Array, feature: Array, targets: Array, costs: Array, columns: gp.Columns, weighs_cost: bool
) -> Model:  # fmt: skip
    """The posteriors with one more row, hyperparameters as they are."""

    def add(posteriors: gp.Posterior, values: Array) -> gp.Posterior:
        def one(p: gp.Posterior, values: Array) -> gp.Posterior:
            where = p.where.at[row].set(True, mode="drop")
            features = p.features.at[row].set(feature, mode="drop")
            made = gp.condition(
                p.theta, features=features, targets=values, where=where, columns=columns
            )
            return made._replace(evidence=p.evidence)

        return jax.vmap(one)(posteriors, values)

    quality = add(model.quality, targets)
    if not weighs_cost:
        return model._replace(quality=quality)
    return model._replace(quality=quality, cost=add(model.cost, costs[None]))


def _pool(key: Key, space: Space, history: History, of: Candidates) -> Int[Array, "m k"]:
    """Random configurations, mutants of the best trials, crossings of them, and the best themselves' neighbours."""
    sample_key, vary_key, cross_key, pick_key = jax.random.split(key, 4)
    quality = jnp.where(known(history), history.metrics[:, 0], jnp.nan)
    finished = jnp.isfinite(quality)
    order = jnp.argsort(jnp.where(finished, quality, jnp.inf))
    among = jnp.clip(jnp.sum(finished), 1, of.num_parents)
    parents = history.configs[order[jnp.arange(of.pool) % among]]
    picks = jax.random.randint(pick_key, (2, of.pool), 0, 2 * among)
    pairs = history.configs[order[jnp.minimum(picks, jnp.maximum(jnp.sum(finished) - 1, 0))]]
    return jnp.concatenate(
        [
            space.sample(sample_key, of.pool),
            acquisition.vary(
                vary_key,
                space,
                parents,
                of.mutation_rate,
                near_share=of.near_share,
                near_step=of.near_step,
            ),
            cross(cross_key, space, pairs),
        ]
    )


def cross(key: Key, space: Space, pairs: Int[Array, "2 n k"]) -> Int[Array, "n k"]:
    """Children of both parents."""
    return acquisition.cross(key, space, pairs[0], pairs[1])


def _climb(
    value: Callable[[Array], Array],
    pool: Int[Array, "m k"],
    neighbours: Callable[[Array], Array],
    num_climbers: int,
    steps: int,
) -> tuple[Int[Array, " k"], Float[Array, ""]]:
    """The best configuration reached from the best of the pool by changing one decision at a time."""
    values = value(pool)
    top, at = jax.lax.top_k(values, num_climbers)
    start = pool[at]

    def go_on(carry):
        _, _, step, moved = carry
        return moved & (step < steps)

    def step(carry):
        configs, values, step, _ = carry
        around = neighbours(configs)
        found = value(around.reshape(-1, around.shape[-1])).reshape(around.shape[:2])
        best = jnp.argmax(found, axis=1)
        rows = jnp.arange(num_climbers)
        better = found[rows, best] > values + 1e-5
        configs = jnp.where(better[:, None], around[rows, best], configs)
        return configs, jnp.where(better, found[rows, best], values), step + 1, jnp.any(better)

    carry = (start, top, jnp.int32(0), jnp.bool_(True))
    configs, values, _, _ = jax.lax.while_loop(go_on, step, carry)
    best = jnp.argmax(values)
    return configs[best], values[best]


def _unwarp(values: Array, targets: Array, history: History) -> Array:
    """Warped qualities in the told units, by interpolation between the trials."""
    size = min(len(targets), len(history.configs))
    quality = history.metrics[:size, 0]
    finished = known(history)[:size] & jnp.isfinite(quality)
    order = jnp.argsort(jnp.where(finished, quality, jnp.inf))
    count = jnp.maximum(jnp.sum(finished), 1)
    place = jnp.minimum(jnp.arange(size), count - 1)
    xs, ys = targets[:size][order][place], quality[order][place]
    inside = jnp.interp(values, xs, ys)
    # Below the best trial: on along the line through the best quarter.
    far = jnp.maximum(count // 4, 1)
    slope = (ys[far] - ys[0]) / jnp.maximum(xs[far] - xs[0], 1e-6)
    return jnp.where(values < xs[0], ys[0] + slope * (values - xs[0]), inside)


def _uncost(values: Array, history: History) -> Array:
    """Standardised costs in the told units."""
    cost = history.metrics[:, 1]
    costed = known(history) & jnp.isfinite(cost)
    count = jnp.maximum(jnp.sum(costed), 1)
    mean = jnp.sum(jnp.where(costed, cost, 0.0)) / count
    spread = jnp.sqrt(jnp.sum(jnp.where(costed, (cost - mean) ** 2, 0.0)) / count)
    return mean + spread * values
