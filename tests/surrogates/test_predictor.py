"""The ensemble on planted truth: order, failures, masks, one program for all sizes, arms of the ablation."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from autorank.base.metrics import kendall_tau_b
from autorank.surrogates.held_out import held_out_tau
from autorank.surrogates.losses import LOSSES
from autorank.surrogates.predictor import ensemble
from autorank.surrogates.training_rows import prepare, resample

X, CAPACITY, TRAIN = 12, 160, 100
SMALL: dict[str, Any] = {"members": 2, "hidden": (8,), "steps": 3}


def planted(seed=0, rows=CAPACITY):
    """Features in [0, 1], a smooth nonlinear NE gain and a cost that is another function of them."""
    rng = np.random.default_rng(seed)
    x = rng.random((rows, X))
    gain = 2 * x[:, 0] - x[:, 1] + (x[:, 2] - 0.5) ** 2 + 0.5 * x[:, 3] * x[:, 4]
    cost = x[:, 5] + 0.5 * x[:, 0]
    return x.astype(np.float32), np.stack([gain, cost], axis=1).astype(np.float32)


def mask(rows, capacity=CAPACITY):
    return jnp.tile((jnp.arange(capacity) < rows)[:, None], (1, 2))


@functools.cache
def jitted(**settings: Any):
    given: dict[str, Any] = {"capacity": CAPACITY} | settings
    predictor = ensemble(X, **given)
    return jax.jit(predictor.fit), jax.jit(predictor.score)


def held_out(seed, **settings):
    """Tau-b of both tasks on rows beyond the training ones."""
    x, y = planted(seed)
    fit, score = jitted(**settings)
    scores = score(fit(jax.random.key(seed), x, y, mask(TRAIN)), x)
    return [kendall_tau_b(scores.mean[TRAIN:, q], y[TRAIN:, q]) for q in range(2)]


def small(seed=0, rows=8, **settings):
    x, y = planted(seed, rows)
    return *jitted(capacity=rows, **(SMALL | settings)), jnp.array(x), jnp.array(y)


def test_an_easy_function_is_ordered():
    gain, cost = held_out(0)
    assert gain > 0.8 and cost > 0.8


def test_ten_members_are_better_than_one_on_average():
    settings = {"steps": 150}
    one = np.mean([held_out(seed, members=1, **settings) for seed in range(4)])
    ten = np.mean([held_out(seed, **settings) for seed in range(4)])
    assert ten > one


@pytest.mark.parametrize("loss", sorted(set(LOSSES) - {"margin"}))
def test_every_loss_learns(loss):
    gain, cost = held_out(1, loss=loss, members=2, steps=200, rate=3e-3)
    assert gain > 0.6 and cost > 0.6


@pytest.mark.parametrize("loss", ["margin", "mse"])
def test_failed_regions_become_less_likely(loss):
    x, y = planted(2)
    failing = x[:, 6] > 0.8  # nothing else depends on this feature
    y[failing, 0] = np.nan
    fit, score = jitted(loss=loss, members=2, steps=200, rate=3e-3)
    scores = score(fit(jax.random.key(0), x, y, mask(TRAIN)), x).mean[:, 0]
    seen, unseen = np.asarray(scores[:TRAIN]), np.asarray(scores[TRAIN:])
    assert np.isfinite(scores).all()
    assert seen[failing[:TRAIN]].min() > np.quantile(seen[~failing[:TRAIN]], 0.9)
    assert unseen[failing[TRAIN:]].mean() > unseen[~failing[TRAIN:]].mean() + 0.5


def test_failed_trials_lie_one_deviation_beyond_the_worst_and_tie():
    x = jnp.ones((5, X))
    y = jnp.float32([[1, 1], [3, np.nan], [np.nan, 2], [np.inf, 3], [9, 9]])
    where = jnp.array([[True] * 2] * 4 + [[False] * 2])
    rows = prepare(x, y, where)
    np.testing.assert_allclose(rows.targets[:4, 0], [1, 3, 4, 4])  # deviation of 1, 3 is 1
    np.testing.assert_array_equal(rows.where[:, 0], [True] * 4 + [False])
    np.testing.assert_array_equal(rows.where[:, 1], [True, False, True, True, False])
    np.testing.assert_array_equal(rows.finished[:, 0], [True, True, False, False, False])
    assert not rows.features[4].any()


@pytest.mark.parametrize("bootstrap", [False, True])
def test_unused_rows_change_no_bit(bootstrap):
    fit, score, x, y = small(bootstrap=bootstrap)
    where = mask(5, 8)
    clean = fit(jax.random.key(0), x, y, where)
    junk_x, junk_y = x.at[5:].set(jnp.nan), y.at[5:].set(jnp.inf)
    dirty = fit(jax.random.key(0), junk_x, junk_y, where)
    jax.tree.map(np.testing.assert_array_equal, clean, dirty)
    jax.tree.map(np.testing.assert_array_equal, score(clean, x), score(dirty, x))


def test_the_same_key_gives_the_same_fit_and_another_another():
    fit, _, x, y = small()
    first, again, other = (fit(jax.random.key(k), x, y, mask(8, 8)) for k in (0, 0, 1))
    jax.tree.map(np.testing.assert_array_equal, first, again)
    assert (first.loss != other.loss).any()


@pytest.mark.parametrize("loss", LOSSES)
def test_nothing_finished_or_one_row_stays_finite(loss):
    fit, score = jitted(loss=loss, members=2, steps=200, rate=3e-3)
    x, y = (jnp.array(v) for v in planted())
    for targets, where in (
        (y, mask(0)),
        (y, mask(1)),
        (jnp.full_like(y, jnp.nan), mask(TRAIN)),
        (jnp.ones_like(y), mask(TRAIN)),
    ):
        state = fit(jax.random.key(0), x, targets, where)
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((state, score(state, x))))


def test_members_are_z_scored_over_finished_rows():
    fit, score, x, y = small(members=1)
    y = y.at[3, 0].set(jnp.nan)
    scores = score(fit(jax.random.key(0), x, y, mask(6, 8)), x)
    finished = scores.mean[jnp.array([0, 1, 2, 4, 5]), 0]
    assert float(finished.mean()) == pytest.approx(0, abs=1e-5)
    assert float(finished.std()) == pytest.approx(1, abs=1e-4)
    assert not scores.sd.any()


def test_raw_outputs_are_the_nets_own_or_in_the_targets_units():
    x, y = planted(3)
    y[:, 0] = 100 + 10 * y[:, 0]
    fit, score = jitted(loss="mse", combine="raw", members=2, steps=300, rate=1e-2)
    scores = score(fit(jax.random.key(0), x, y, mask(TRAIN)), x)
    error = np.sqrt(np.mean((np.asarray(scores.mean) - y)[:TRAIN] ** 2, axis=0))
    assert (error < 0.2 * y.std(axis=0)).all()
    fit, _, x, y = small(combine="raw")
    state = fit(jax.random.key(0), x, y, mask(8, 8))
    assert not state.mean.any() and (state.sd == 1).all()


def test_spread_is_the_deviation_over_members():
    fit, score, x, y = small(members=4, member_map="vmap")
    state = fit(jax.random.key(0), x, y, mask(8, 8))
    single = [score(jax.tree.map(lambda v, i=i: v[i : i + 1], state), x).mean for i in range(4)]
    np.testing.assert_allclose(score(state, x).mean, np.mean(single, axis=0), atol=1e-5)
    np.testing.assert_allclose(score(state, x).sd, np.std(single, axis=0), atol=1e-5)


def test_mapped_and_vmapped_members_are_the_same_nets():
    one, _, x, y = small(members=4)
    all_at_once, _, _, _ = small(members=4, member_map="vmap")
    states = [fit(jax.random.key(0), x, y, mask(8, 8)) for fit in (one, all_at_once)]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5), *states)


@pytest.mark.parametrize("multi_task", [True, False])
def test_only_shared_nets_let_the_tasks_touch(multi_task):
    fit, score, x, y = small(multi_task=multi_task)
    scores = [
        score(fit(jax.random.key(0), x, y.at[:, 1].multiply(s), mask(8, 8)), x).mean[:, 0]
        for s in (1.0, -1.0)
    ]
    assert bool((scores[0] == scores[1]).all()) != multi_task


def test_more_rows_are_the_same_program():
    predictor = ensemble(X, capacity=8, **SMALL)
    traces = []

    @jax.jit
    def fit(*args):
        traces.append(1)
        return predictor.fit(*args)

    x, y = planted(rows=8)
    for rows in (0, 3, 8):
        fit(jax.random.key(rows), x, y, mask(rows, 8))
    assert len(traces) == 1


def test_a_resample_draws_as_many_rows_as_are_used():
    used = jnp.array([True, False, True, True, False, True])
    counts = jax.vmap(lambda k: resample(k, used))(jax.random.split(jax.random.key(0), 500))
    assert (counts.sum(axis=1) == 4).all() and not counts[:, ~used].any()
    np.testing.assert_allclose(counts.mean(axis=0)[used], 1, atol=0.15)


def test_held_out_tau_sees_each_row_once_from_outside():
    predictor = ensemble(X, capacity=64, members=2, steps=150, rate=5e-3)
    x, y = planted(4, 50)
    y[7, 0] = np.nan
    found = held_out_tau(predictor, jax.random.key(0), x, y)
    assert 0.5 < found["heldout_tau"] < found["train_tau"]
    assert found["predicted"][7] is None and found["true"][7] is None
    known = [i for i in range(50) if i != 7]
    tau = kendall_tau_b([found["predicted"][i] for i in known], y[known, 0])
    assert tau == pytest.approx(found["heldout_tau"])
    # Targets drawn apart from the features can be learnt, not predicted.
    y[:, 0] = np.random.default_rng(0).normal(size=50)
    noise = held_out_tau(predictor, jax.random.key(0), x, y)
    assert noise["train_tau"] > 0.6 and abs(noise["heldout_tau"]) < 0.35


def test_held_out_tau_of_too_little_or_too_much():
    predictor = ensemble(X, capacity=8, **SMALL)
    x, y = planted(rows=9)
    alone = held_out_tau(predictor, jax.random.key(0), x[:1], y[:1])
    assert alone["heldout_tau"] is None and alone["train_tau"] is None
    with pytest.raises(ValueError, match="9 rows do not fit predictor.capacity=8"):
        held_out_tau(predictor, jax.random.key(0), x, y)
    with pytest.raises(ValueError, match="folds=1"):
        held_out_tau(predictor, jax.random.key(0), x[:8], y[:8], folds=1)


def test_bad_settings_are_named():
    with pytest.raises(
        ValueError, match="predictor.loss='hinge' is not known; write one of .*margin, logistic"
    ):
        ensemble(X, capacity=8, loss="hinge")
    with pytest.raises(ValueError, match="predictor.combine='mean'"):
        ensemble(X, capacity=8, combine="mean")
    with pytest.raises(ValueError, match="predictor.members=0 must be at least 1"):
        ensemble(X, capacity=8, members=0)
    fit = ensemble(X, capacity=8, **SMALL).fit
    with pytest.raises(ValueError, match=r"this predictor fits \(8, 12\): pad"):
        fit(jax.random.key(0), jnp.zeros((7, X)), jnp.zeros((7, 2)), mask(7, 7))


def test_a_long_pairwise_fit_goes_on_falling_when_scores_lie_far_apart():
    """Random targets, so that the fit learns them by heart; 600 steps of rate .01 take scores beyond 80."""
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.random((30, X)), jnp.float32)
    y = jnp.asarray(rng.normal(size=(30, 2)), jnp.float32)
    found = []
    for steps in (150, 600):
        settings = {
            "members": 2,
            "steps": steps,
            "rate": 1e-2,
            "combine": "raw",
            "loss": "logistic",
        }
        fit, score = jitted(capacity=30, **settings)
        state = fit(jax.random.key(0), x, y, jnp.ones((30, 2), bool))
        found.append((float(state.loss.max()), float(jnp.ptp(score(state, x).mean, axis=0).min())))
    (before, _), (after, spread) = found
    assert spread > 80 and after < before < 0.1
