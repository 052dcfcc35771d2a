"""A search for the front: what a trial is worth against sampling and brute force, what is found, and how it resumes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from autorank.ledger.front import pareto_front
from autorank.searchers.base import SEARCHERS, as_told
from autorank.searchers.front_acquisition import log_growth, staircase
from autorank.searchers.known_cost import tabulated
from autorank.searchers.region import Region, within_cap
from autorank.space.space import Decision, Space
from tests.making import make_searcher

SPACE = Space(
    (
        Decision("layers", tuple(range(1, 9)), "number"),
        Decision("width", (8, 16, 32, 64), "number", True),
        Decision("module", ("dot", "cross", "linear", "mask")),
        Decision("rate", tuple(range(16)), "number"),
        Decision("decay", tuple(range(16)), "number"),
    ),
    (3, 1, 2, 8, 8),
)
BATCH, TRIALS = 10, 50
QUICK = {"pool": 64, "num_climbers": 3, "climb_steps": 6, "fit_steps": 30}
CAP = 2.0  # times the baseline's cost; it leaves out the best qualities


def log_cost(configs) -> np.ndarray:
    configs = np.asarray(configs)
    return np.log((1.0 + configs[:, 0]) * 8.0 * 2.0 ** configs[:, 1])


def log_ratio(configs) -> np.ndarray:
    return log_cost(configs) - log_cost(np.array([SPACE.baseline]))


def quality(configs) -> np.ndarray:
    """Falls with the cost as far as module, rate and decay are right; their best values move with layers and width."""
    layers, width, module, rate, decay = np.asarray(configs).T
    off = (rate - 11 + layers) ** 2 / 60 + (decay - 3 - 2 * width) ** 2 / 40
    return -log_cost(configs) + 0.7 * (module != 2) + 0.4 * (module == 3) + off


def hypervolume(points, reference: float, dearest: float) -> float:
    """By brute force: the share of a fine grid of costs at which a quality below the reference is reached, times it."""
    qualities, costs = points
    at = np.linspace(-4.0, dearest, 2001)
    reached = np.where(np.asarray(costs)[None] <= at[:, None], np.asarray(qualities)[None], np.inf)
    height = np.maximum(reference - np.minimum(reached.min(axis=1), reference), 0.0)
    return float(height.mean() * (dearest + 4.0))


def test_the_growth_is_what_sampling_and_brute_force_say():
    rng = np.random.default_rng(0)
    qualities, costs = rng.normal(size=12).astype(np.float32), rng.uniform(-2, 2, 12)
    costs = costs.astype(np.float32)
    front = staircase(jnp.asarray(qualities), jnp.asarray(costs), jnp.ones(12, bool), 2.5)
    reference = float(np.median(qualities))
    before = hypervolume((qualities, costs), reference, 2.5)
    means, sds = np.array([-1.0, 0.3, -2.0, 0.0]), np.array([0.5, 0.2, 1.0, 1.5])
    at = np.array([-3.0, 0.1, 1.0, 2.4], np.float32)
    variances = jnp.broadcast_to(jnp.asarray(sds**2)[:, None], (4, len(front.level)))
    found = np.exp(log_growth(front, jnp.asarray(means), variances, jnp.asarray(at)))
    for i in range(4):
        draws = means[i] + sds[i] * rng.normal(size=120)
        grown = [
            hypervolume(([*qualities, y], [*costs, at[i]]), reference, 2.5) - before for y in draws
        ]
        error = np.std(grown) / np.sqrt(len(grown))
        assert abs(found[i] - np.mean(grown)) < 4 * error + 2e-3
    certain = jnp.full((4, len(front.level)), 1e-12)
    exact = np.exp(log_growth(front, jnp.asarray(means), certain, jnp.asarray(at)))
    for i in range(4):
        grown = hypervolume(([*qualities, means[i]], [*costs, at[i]]), reference, 2.5) - before
        np.testing.assert_allclose(exact[i], grown, atol=2e-3)


def test_the_staircase_is_the_front_below_the_reference_and_keeps_the_highest_steps():
    rng = np.random.default_rng(1)
    qualities, costs = rng.normal(size=40), rng.uniform(-2, 2, 40)
    where = rng.random(40) < 0.8
    first, second = (jnp.asarray(v, jnp.float32) for v in (qualities, costs))
    found = staircase(first, second, jnp.asarray(where), 3.0)
    points = [(costs[i], qualities[i]) for i in np.flatnonzero(where)]
    reference = np.median(qualities[where])
    expected = sorted(points[i] for i in pareto_front(points) if points[i][1] < reference)
    used = np.asarray(found.left[1:]) < 3.0
    np.testing.assert_allclose(
        np.asarray(found.left[1:])[used], [c for c, _ in expected], rtol=1e-5
    )
    np.testing.assert_allclose(
        np.asarray(found.level[1:])[used], [q for _, q in expected], rtol=1e-5
    )
    np.testing.assert_allclose(found.right[:-1], found.left[1:])
    short = staircase(first, second, jnp.asarray(where), 3.0, steps=2)
    falls = -np.diff([reference, *(q for _, q in expected)])
    kept = sorted(np.sort(falls)[-2:])
    at = [expected[np.flatnonzero(np.isclose(falls, f))[0]][0] for f in kept]
    np.testing.assert_allclose(short.left[1:], sorted(at), rtol=1e-5)


@functools.lru_cache
def searcher(name: str, goal: str = "front"):
    cost = tabulated(SPACE, log_cost, CAP if goal == "front" else None)
    own = QUICK if name == "autorank" else {}
    made = make_searcher(
        name, SPACE, capacity=64, batch_size=BATCH, goal=goal, cost=cost, repeats=True, **own
    )
    made = within_cap(made, Region(SPACE, cost.fits), batch_size=BATCH, capacity=64)
    return made, jax.jit(made.ask)


def told(name: str, seed: int, noise: float = 0.1, trials: int = TRIALS, state=None, goal="front"):
    """The state after trials, from a state on, and the last proposals."""
    made, ask = searcher(name, goal)
    state = made.init(jax.random.key(seed)) if state is None else state
    proposal = None
    while (count := int(state.history.count)) < trials:
        proposal = ask(jax.random.fold_in(jax.random.key(seed), count), state)
        draw = np.random.default_rng([seed, count]).normal(size=BATCH)
        labels = quality(proposal.configs) + noise * draw
        costs = log_ratio(proposal.configs)
        assert (costs <= np.log(CAP) + 1e-6).all()
        state = made.tell(state, proposal.configs, np.stack([labels, costs], axis=1))
    return state, proposal


def lost(name: str, seed: int) -> float:
    """Share of the true front's hypervolume that what was tried lacks, by true qualities."""
    state, _ = told(name, seed)
    configs = np.asarray(state.history.configs)[:TRIALS]
    every = SPACE.enumerate(SPACE.cardinality())
    every = every[log_ratio(every) <= np.log(CAP) + 1e-6]
    true, dearest = quality(every), log_cost(every).max() + 0.01
    reference = float(np.median(true))
    whole = hypervolume(best_at_each_cost(true, log_cost(every)), reference, dearest)
    own = hypervolume((quality(configs), log_cost(configs)), reference, dearest)
    return 1 - own / whole


def best_at_each_cost(true, costs):
    at = np.unique(costs)
    return [true[costs == c].min() for c in at], at


def test_a_planted_front_within_a_cap_is_found_better_than_at_random():
    found = np.array([[lost(name, seed) for name in ("autorank", "random")] for seed in range(2)])
    assert (found[:, 0] < found[:, 1] - 0.05).all()
    assert found[:, 0].mean() < 0.5 * found[:, 1].mean()


def test_it_goes_on_as_if_it_had_not_been_stopped_and_knows_the_cost():
    whole, last = told("autorank", 7, trials=30)
    assert last is not None
    assert not np.asarray(last.info["replaced"]).any()  # it looks where it may propose
    made, _ = searcher("autorank")
    state = made.init(jax.random.key(7))
    history = jax.tree.map(np.asarray, whole.history)
    for first in range(0, 20, BATCH):  # told again in order
        rows = slice(first, first + BATCH)
        state = made.tell(state, history.configs[rows], history.metrics[rows])
    resumed, again = told("autorank", 7, trials=30, state=state)
    jax.tree.map(np.testing.assert_array_equal, last, again)
    jax.tree.map(np.testing.assert_array_equal, whole, resumed)
    np.testing.assert_allclose(last.predicted[:, 1], log_ratio(last.configs), rtol=1e-5, atol=1e-6)


def test_the_best_is_searched_for_by_the_same_program_whether_the_cost_is_known_or_not():
    plain = make_searcher("autorank", SPACE, capacity=64, batch_size=BATCH, repeats=True, **QUICK)
    key, state = jax.random.key(5), plain.init(jax.random.key(0))
    programs = [
        str(jax.make_jaxpr(ask)(key, state))
        for ask in (plain.ask, searcher("autorank", "best")[0].ask, searcher("autorank")[0].ask)
    ]
    assert programs[0] == programs[1] != programs[2]


def test_the_front_needs_a_known_cost():
    with pytest.raises(ValueError, match="know what configurations cost"):
        make_searcher("autorank", SPACE, capacity=64, goal="front")
    assert [n for n, e in SEARCHERS.items() if e.traits.get("finds_front")] == [
        "autorank",
        "random",
    ]
    assert searcher("random")[0].judge is as_told
