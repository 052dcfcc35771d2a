"""A search among listed configurations, as on recorded tables: what is proposed stands on the list."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from autorank.searchers.autorank_settings import AutorankConfig
from autorank.searchers.base import SEARCHERS, Context, empty
from autorank.searchers.candidates import CandidateSettings, candidates
from autorank.searchers.region import Region, region_of
from autorank.space.space import Decision, Space

SPACE = Space(
    (
        Decision("width", (8, 16, 32, 64), "number"),
        Decision("module", ("dot", "cross", "attention")),
        Decision("norm", ("pre", "post", "none")),
        Decision("depth", (1, 2, 3, 4), "number"),
    ),
    (0, 0, 0, 0),
)
EVERY = np.array(list(itertools.product(range(4), range(3), range(3), range(4))), np.int32)
LISTED = np.random.default_rng(0).permutation(EVERY)[:40]


def loss(configs: np.ndarray) -> np.ndarray:
    """A planted function of all decisions."""
    width, module, norm, depth = np.asarray(configs).T
    return (width - 2) ** 2 + 0.7 * (module != 1) + 0.31 * norm + 0.13 * (depth - 1) ** 2


def names(configs: np.ndarray) -> set:
    return {tuple(row) for row in np.asarray(configs).tolist()}


def is_cheap(configs) -> jax.Array:
    return configs[:, 0] < 3


def test_what_fits_is_what_stands_on_the_list():
    region = region_of(SPACE, Context(capacity=8, listed=LISTED))
    found = np.asarray(region.fits(jnp.asarray(EVERY)))
    expected = [tuple(row) in names(LISTED) for row in EVERY.tolist()]
    np.testing.assert_array_equal(found, expected)
    drawn = region.sample(jax.random.key(0), 500)
    assert names(drawn) == names(LISTED)
    value = region.bounded(lambda configs: jnp.zeros(len(configs)))
    np.testing.assert_array_equal(np.isfinite(value(jnp.asarray(EVERY))), expected)


def test_candidates_are_the_whole_list():
    region = region_of(SPACE, Context(capacity=8, listed=LISTED))
    found = candidates(jax.random.key(0), region, empty(SPACE, 8), CandidateSettings())
    np.testing.assert_array_equal(found, LISTED)


def test_a_cap_holds_on_a_list():
    class Cost:
        fits = staticmethod(is_cheap)

    region = region_of(SPACE, Context(capacity=8, cost=Cost(), listed=LISTED))
    found = np.asarray(region.fits(jnp.asarray(EVERY)))
    expected = [tuple(row) in names(LISTED) and row[0] < 3 for row in EVERY.tolist()]
    np.testing.assert_array_equal(found, expected)
    assert names(region.sample(jax.random.key(0), 500)) == {c for c in names(LISTED) if c[0] < 3}


def test_a_cap_that_leaves_nothing_of_a_list_is_refused():
    class Cost:
        fits = staticmethod(is_cheap)

    dear = LISTED[LISTED[:, 0] == 3]
    with pytest.raises(ValueError, match="no listed configuration is within the cap"):
        region_of(SPACE, Context(capacity=8, cost=Cost(), listed=dear))


def test_without_a_list_the_region_is_the_space():
    assert region_of(SPACE, Context(capacity=8)) == Region(SPACE)


@pytest.mark.parametrize("listed", [np.zeros((0, 4)), np.zeros((3, 2)), np.zeros(4)])
def test_a_list_of_another_shape_is_refused(listed):
    with pytest.raises(ValueError, match=r"listed has shape .* write configurations \[m, 4\]"):
        region_of(SPACE, Context(capacity=8, listed=listed))


@pytest.mark.parametrize("batch_size", [1, 3])
def test_a_model_chooses_among_the_list_and_finds_its_best(batch_size):
    settings = AutorankConfig(batch_size=batch_size, initial=6, alphas=(0.0,))
    context = Context(capacity=32, listed=LISTED)
    searcher = SEARCHERS["autorank"].make(SPACE, settings, context)
    ask, tell = jax.jit(searcher.ask), jax.jit(searcher.tell)
    state = searcher.init(jax.random.key(3))
    tried = LISTED[:6]
    state = tell(state, tried, np.stack([loss(tried), 0 * loss(tried)], axis=1))
    for number in range(18 // batch_size):
        found = np.asarray(ask(jax.random.key(number), state).configs)
        assert names(found) <= names(LISTED) and not names(found) & names(tried)
        state = tell(state, found, np.stack([loss(found), 0 * loss(found)], axis=1))
        tried = np.concatenate([tried, found])
    assert len(names(tried)) == 24
    assert loss(tried).min() == loss(LISTED).min() < np.sort(loss(LISTED[:6]))[0]


def test_freeze_thaw_begins_what_stands_on_the_list():
    settings = AutorankConfig(batch_size=2, initial=4, alphas=(0.0,))
    context = Context(capacity=32, rungs=(0.3, 1.0), listed=LISTED)
    searcher = SEARCHERS["autorank"].make(SPACE, settings, context)
    ask, tell = jax.jit(searcher.ask), jax.jit(searcher.tell)
    state = searcher.init(jax.random.key(0))
    seen = set()
    for number in range(10):
        found = np.asarray(ask(jax.random.key(number), state).configs)
        assert names(found[:, :-1]) <= names(LISTED)
        seen |= names(found[:, :-1])
        quality = loss(found[:, :-1]) + 0.1 * (1 - found[:, -1])
        state = tell(state, found, np.stack([quality, 0 * quality], axis=1))
    assert len(seen) > 8
