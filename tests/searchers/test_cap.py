"""A cap on the cost: nothing beyond it is ever proposed, whatever the searcher; and what it leaves is searched."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autorank.searchers.base import SEARCHERS, Proposal, Searcher, ToldState, empty, tell_history
from autorank.searchers.known_cost import KnownCost, tabulated
from autorank.searchers.region import Region, within_cap
from autorank.space.space import Decision, Space
from autorank.surrogates.settings import PredictorConfig
from tests.making import make_searcher

SPACE = Space(
    (
        Decision("layers", (1, 2, 3, 4), "number"),
        Decision("module", ("dot", "cross", "linear")),
        Decision("width", (8, 16, 32, 64), "number", True),
        Decision("heads", (1, 2, 4), parents=(("module", ("dot", "cross")),)),
        Decision("rate", tuple(range(6)), "number"),
    ),
    (1, 2, 1, 0, 3),
)
ALL = SPACE.enumerate(SPACE.cardinality())
BATCH, CAPACITY = 6, 64
SMALL = {  # few and short steps: a cap holds whatever is believed
    "paper": {
        "steps": 8,
        "samples": 16,
        "predictor": PredictorConfig(members=1, hidden=(4,), steps=2),
    },
}


def log_cost(configs) -> np.ndarray:
    configs = np.asarray(configs)
    module = np.log([3.0, 2.0, 1.0])[configs[:, 1]]
    return np.log(1.0 + configs[:, 0]) + module + np.log(2.0) * configs[:, 2]


def ratio(configs) -> np.ndarray:
    return np.exp(log_cost(configs) - log_cost(np.array([SPACE.baseline])))


@functools.lru_cache
def known(cap: float | None) -> KnownCost:
    return tabulated(SPACE, log_cost, cap)


@functools.lru_cache
def echo(cap: float):
    """A searcher that proposes what its state holds beside the history."""

    def ask(key, state) -> Proposal:
        history, wanted = state
        return Proposal(wanted, jnp.zeros((BATCH, 2)), {"repeat": jnp.zeros(BATCH, bool)})

    bare = Searcher(lambda key: None, ask, lambda state, configs, metrics: state)
    region = Region(SPACE, known(cap).fits)
    # The wrapper reads the history only, so that one program serves all that is wanted.
    made = within_cap(bare, region, batch_size=BATCH, capacity=CAPACITY)
    return jax.jit(lambda key, history, wanted: made.ask(key, _Wanted(history, wanted)))


class _Wanted(tuple):
    def __new__(cls, history, wanted):
        return super().__new__(cls, (history, wanted))

    @property
    def history(self):
        return self[0]


@settings(max_examples=60, deadline=None)
@given(
    cap=st.just(1.5),
    seed=st.integers(0, 2**31 - 1),
    wanted=st.lists(st.integers(0, len(ALL) - 1), min_size=BATCH, max_size=BATCH),
    told=st.lists(st.integers(0, len(ALL) - 1), max_size=40),
)
def test_whatever_is_proposed_fits_and_what_stands_in_is_new(cap, seed, wanted, told):
    state = ToldState(empty(SPACE, CAPACITY))
    if told:
        state = tell_history(state, ALL[told], np.zeros((len(told), 2)))
    proposal = echo(cap)(jax.random.key(seed), state.history, jnp.asarray(ALL[wanted]))
    configs, replaced = np.asarray(proposal.configs), np.asarray(proposal.info["replaced"])
    assert (ratio(configs) <= cap * (1 + 1e-6)).all()
    SPACE.validate(configs)
    np.testing.assert_array_equal(replaced, ratio(ALL[wanted]) > cap * (1 + 1e-6))
    np.testing.assert_array_equal(configs[~replaced], ALL[wanted][~replaced])
    assert np.isnan(np.asarray(proposal.predicted)[replaced]).all()
    new = {c.tobytes() for c in configs[replaced]}
    left = {c.tobytes() for c in ALL[ratio(ALL) <= cap * (1 + 1e-6)]}
    left -= {c.tobytes() for c in ALL[[*told, *wanted]]}
    assert len(new) == replaced.sum() or not left
    assert new <= left or not left


@pytest.mark.parametrize("name", [n for n in SEARCHERS if n != "autorank"])  # it: test_front.py
def test_no_searcher_proposes_more_than_the_cap(name):
    cost, own = known(1.0), SMALL.get(name, {})
    bare = make_searcher(
        name, SPACE, capacity=CAPACITY, batch_size=BATCH, cost=cost, initial=6, **own
    )
    region = Region(SPACE, cost.fits)
    made = within_cap(bare, region, batch_size=BATCH, capacity=CAPACITY)
    ask, rng = jax.jit(made.ask), np.random.default_rng(0)
    state = made.init(jax.random.key(0))
    for i in range(4):
        proposal = ask(jax.random.key(i), state)
        assert (ratio(proposal.configs) <= 1 + 1e-6).all()
        # What costs more is better, and some fail: a searcher has every reason to leave the cap.
        labels = -log_cost(proposal.configs) + 0.1 * rng.normal(size=BATCH)
        labels[rng.random(BATCH) < 0.2] = np.nan
        metrics = np.stack([labels, np.log(ratio(proposal.configs))], axis=1)
        state = made.tell(state, proposal.configs, metrics)


def test_random_configurations_within_a_cap_are_all_that_there_are():
    region = Region(SPACE, known(1.0).fits)
    drawn = np.asarray(jax.jit(region.sample, static_argnums=1)(jax.random.key(0), 4000))
    fitting = {c.tobytes() for c in ALL[ratio(ALL) <= 1 + 1e-6]}
    assert {c.tobytes() for c in drawn} == fitting
    assert {c.tobytes() for c in region.some(10_000)} == fitting
    assert len(region.some(7)) == 7


def test_a_walk_takes_over_where_draws_do_not_fit():
    first = np.array(SPACE.baseline)[None, :4]

    def like_the_baseline(configs):
        return jnp.all(configs[:, :4] == first, axis=1)

    region = Region(SPACE, like_the_baseline)  # one in 48, of which 16 draws mostly find none
    drawn = np.asarray(region.sample(jax.random.key(0), 64))
    assert (drawn[:, :4] == first).all()
    assert len(np.unique(drawn, axis=0)) == 6


def test_a_cap_that_leaves_nothing_is_refused_with_what_to_write():
    def none_but(configs):
        return jnp.all(configs == np.array(SPACE.baseline)[None], axis=1)

    with pytest.raises(ValueError, match="leaves nothing to search.*larger ratio"):
        Region(SPACE, none_but).some(4)
    with pytest.raises(ValueError, match="leaves out the baseline itself"):
        Region(SPACE, lambda configs: ~none_but(configs)).some(4)
