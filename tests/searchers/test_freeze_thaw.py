"""Freeze-thaw proposals: which rung comes next, labels on one level, and what a trial elsewhere moves."""

import jax
import jax.numpy as jnp
import numpy as np

from autorank.searchers.autorank import AutorankConfig
from autorank.searchers.base import History
from autorank.searchers.freeze_thaw import aligned, at_rung, going_on, with_rung
from autorank.space.space import Decision, Space
from autorank.surrogates import gaussian_process as gp
from autorank.surrogates.base import Data
from autorank.surrogates.gaussian_surrogate import gaussian_surrogate
from autorank.surrogates.moves import moves
from tests.making import make_searcher

SPACE = Space(
    (
        Decision("width", tuple(range(1, 17)), "number"),
        Decision("norm", ("none", "layer", "batch")),
    ),
    (0, 0),
)
RUNGS = (0.1, 0.3, 1.0)


def quality(configs, rung):
    """Best at width 12 with layer norm; a level of its own at each rung."""
    width, norm = np.asarray(configs).T
    return 0.05 * np.abs(width - 11) + 0.3 * (norm != 1) + np.array([0.5, 0.2, 0.0])[rung]


def searcher(capacity=96, batch=4):
    return make_searcher(
        "autorank",
        SPACE,
        batch_size=batch,
        capacity=capacity,
        alphas=(0.0,),
        initial=6,
        fit_steps=20,
        rungs=RUNGS,
    )


def test_proposals_begin_at_the_lowest_rung_and_go_on_one_by_one():
    made = searcher()
    state, reached = made.init(jax.random.key(0)), {}
    ask, tell = jax.jit(made.ask), jax.jit(made.tell)
    for round_index in range(12):
        asked = np.asarray(ask(jax.random.key(round_index), state).configs)
        assert len({tuple(row[:-1]) for row in asked}) == len(asked)  # none twice in a batch
        for *config, rung in asked.tolist():
            assert rung == reached.get(tuple(config), -1) + 1 < len(RUNGS)
            reached[tuple(config)] = rung
        labels = quality(asked[:, :-1], asked[:, -1])
        told = np.stack([labels, np.zeros(len(labels))], axis=1).astype(np.float32)
        state = tell(state, asked, told)
    ends = [c for c, rung in reached.items() if rung == len(RUNGS) - 1]
    assert ends and len(ends) < len(reached) / 2
    believed = np.asarray(jax.jit(made.judge)(state))
    count = int(state.history.count)
    assert np.isfinite(believed[:count]).all() and np.isnan(believed[count:]).all()
    # All rows of a configuration are believed to end alike, and the best is found.
    rows = np.asarray(state.history.configs)[:count]
    for config in set(map(tuple, rows[:, :-1].tolist())):
        own = believed[:count][(rows[:, :-1] == config).all(axis=1)]
        assert np.ptp(own) < 1e-3
    best = rows[np.argmin(believed[:count]), :-1]
    assert quality(best[None], 2)[0] < 0.11


def test_what_goes_on_by_counting():
    rng, went = np.random.default_rng(0), 0
    for _ in range(20):
        # By configuration; -1 has not begun.
        reached = rng.choice([-1, 0, 1, 2], 12, p=[0.1, 0.7, 0.15, 0.05])
        rows = [(config, 7, rung) for config in range(12) for rung in range(reached[config] + 1)]
        rng.shuffle(rows)
        quality = {
            row: float(q) for row, q in zip(map(tuple, rows), rng.random(len(rows)), strict=True)
        }
        goes = set()
        for rung in (0, 1):
            there = [row for row in quality if row[2] == rung]
            waiting = [row for row in there if reached[row[0]] == rung]
            places = len(there) // 3 - (len(there) - len(waiting))
            goes |= set(sorted(waiting, key=quality.__getitem__)[: max(places, 0)])
        expected = [tuple(row) in goes for row in rows]
        room = 40 - len(rows)
        found = going_on(
            jnp.pad(jnp.array([quality[tuple(row)] for row in rows], jnp.float32), (0, room)),
            jnp.pad(jnp.array(rows, jnp.int32).reshape(-1, 3), ((0, room), (0, 0))),
            jnp.arange(40) < len(rows),
            2,
        )
        assert found.tolist() == expected + [False] * room
        went += sum(expected)
    assert went > 5


def test_the_best_third_goes_on_before_anything_begins():
    made = searcher()
    state = made.init(jax.random.key(3))
    ask, tell = jax.jit(made.ask), jax.jit(made.tell)
    for round_index, going in enumerate([0, 0, 2]):
        asked = np.asarray(ask(jax.random.key(round_index), state).configs)
        assert (asked[: going + 1, -1] == 1).tolist() == [True] * going + [False]
        labels = quality(asked[:, :-1], asked[:, -1])
        told = np.stack([labels, np.zeros(len(labels))], axis=1).astype(np.float32)
        state = tell(state, asked, told)


def test_a_failed_configuration_is_not_proposed_again():
    made = searcher()
    state = made.init(jax.random.key(1))
    ask, tell = jax.jit(made.ask), jax.jit(made.tell)
    failed = set()
    for round_index in range(8):
        asked = np.asarray(ask(jax.random.key(round_index), state).configs)
        assert not failed & {tuple(row[:-1]) for row in asked.tolist()}
        labels = np.where(asked[:, 0] % 4 == 3, np.nan, quality(asked[:, :-1], asked[:, -1]))
        failed |= {tuple(row[:-1].tolist()) for row in asked[np.isnan(labels)]}
        told = np.stack([labels, np.zeros(len(labels))], axis=1).astype(np.float32)
        state = tell(state, asked, told)
    assert failed


def test_labels_are_moved_to_the_level_of_the_last_rung():
    configs = np.array([[i, 0, r] for i in range(4) for r in (0, 2)] + [[9, 0, 0], [9, 0, 1]])
    labels = quality(configs[:, :2], configs[:, 2])
    history = History(
        jnp.asarray(np.pad(configs, ((0, 2), (0, 0)))),
        jnp.asarray(np.pad(np.stack([labels, 0 * labels], axis=1), ((0, 2), (0, 0)))),
        jnp.int32(len(configs)),
    )
    moved = np.asarray(aligned(history, 3).metrics[: len(configs), 0])
    ends = quality(configs[:, :2], np.full(len(configs), 2))
    assert np.allclose(moved[:-1], ends[:-1], atol=1e-6)
    assert np.isclose(moved[-1], labels[-1])  # no run has labels at both .3 and 1
    few = aligned(history._replace(count=jnp.int32(4)), 3)
    assert np.allclose(np.asarray(few.metrics[:4, 0]), labels[:4])  # two pairs are too few


def test_a_trial_moves_the_mean_by_the_variance_that_it_takes_away():
    """Var[mean after] = variance before - variance after: against a process conditioned on one more row."""
    whole = with_rung(SPACE, RUNGS)
    surrogate = gaussian_surrogate(whole, AutorankConfig(alphas=(0.0,)), weighs_cost=False)
    rows = np.asarray(at_rung(SPACE.sample(jax.random.key(0), 12), 0))
    metrics = np.stack([quality(rows[:, :2], 0), np.zeros(12)], axis=1).astype(np.float32)
    where = np.stack([np.arange(12) < 11, np.zeros(12, bool)], axis=1)
    fitted = jax.jit(surrogate.fit)(
        jax.random.key(0), Data(jnp.asarray(rows), jnp.asarray(metrics), jnp.asarray(where))
    )
    own = SPACE.sample(jax.random.key(5), 6)
    ends, tried = (surrogate.embed(at_rung(own, rung)) for rung in (2, 1))
    mean, moved = moves(surrogate, fitted, ends, tried)
    first = jax.tree.map(lambda leaf: leaf[0], fitted.quality)
    for i in range(6):
        features = first.features.at[11].set(tried[i])
        after = gp.condition(
            first.theta,
            features=features,
            targets=jnp.where(jnp.arange(12) < 11, fitted.targets[0], 0.0),
            where=jnp.ones(12, bool),
            columns=surrogate.columns,
        )
        expected, before = gp.predict(first, ends[i : i + 1], surrogate.columns)
        _, left = gp.predict(after, ends[i : i + 1], surrogate.columns)
        assert np.isclose(mean[0, i], expected[0], atol=1e-4)
        assert np.isclose(moved[0, i], before[0] - left[0], rtol=0.02, atol=1e-3)
