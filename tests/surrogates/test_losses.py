"""Losses against double loops, scipy and finite differences; masks, ties, weights, extremes."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special

from autorank.surrogates import losses, pair_sums

N = 6
PAIRWISE = ["margin", "logistic", "lambda_rank"]
LOSSES = {name: entry.make for name, entry in losses.LOSSES.items()}


class Jitted(dict):
    """Value and gradient by name of a loss, compiled once."""

    def __missing__(self, name):
        loss = losses.LOSSES[name].make

        def value(f, y, where, weights):
            return jax.value_and_grad(lambda s: loss(s, y, where=where, weights=weights))(f)

        self[name] = jax.jit(value)
        return self[name]


JITTED = Jitted()


def lambda_factors(f, y, w):
    total = sum(w)
    gain = [sum(w[j] for j in range(len(y)) if y[j] > y[i]) / total for i in range(len(y))]
    rank = [sum(w[j] for j in range(len(f)) if f[j] < f[i]) for i in range(len(f))]
    discount = [1 / math.log2(2 + r) for r in rank]
    return lambda i, j: abs(gain[i] - gain[j]) * abs(discount[i] - discount[j])


def by_loops(name, f, y, w, *, frozen=None):
    """The definitions, item by item; ``frozen`` scores for the factors held constant."""
    n = range(len(f))
    if name in PAIRWISE:
        total = value = 0.0
        factor = lambda_factors(f if frozen is None else frozen, y, w)
        for i, j in itertools.permutations(n, 2):
            if y[i] > y[j]:
                d = f[i] - f[j]
                pair = max(0.0, 0.001 - d) if name == "margin" else np.logaddexp(0, -d)
                value += w[i] * w[j] * pair * (factor(i, j) if name == "lambda_rank" else 1.0)
                total += w[i] * w[j]
        return value / total if total else 0.0
    if not sum(w):
        return 0.0
    if name == "list_net":
        copies = [i for i in n for _ in range(int(w[i]))]
        p, log_q = special.softmax(-y[copies]), special.log_softmax(-f[copies])
        return -float(p @ log_q)
    if name == "list_mle":
        terms = [math.log(sum(w[j] * math.exp(-f[j]) for j in n if y[j] >= y[i])) + f[i] for i in n]
    elif name == "mse":
        terms = [(f[i] - y[i]) ** 2 for i in n]
    else:
        terms = [special.huber(1.0, f[i] - y[i]) for i in n]
    return sum(w[i] * terms[i] for i in n) / sum(w)


def lists():
    level = st.integers(-3, 3).map(lambda v: v / 2)
    score = st.floats(-3, 3, width=32, allow_subnormal=False)  # XLA flushes those to 0
    return st.tuples(
        st.lists(score, min_size=N, max_size=N),
        st.lists(level, min_size=N, max_size=N),
        st.lists(st.booleans(), min_size=N, max_size=N),
        st.lists(st.integers(0, 2), min_size=N, max_size=N),
    )


@pytest.mark.parametrize("name", LOSSES)
@settings(max_examples=40, deadline=None)
@given(case=lists())
def test_value_is_the_definition_with_masks_weights_and_ties(name, case):
    f, y, where, weights = (np.array(v) for v in case)
    value, grad = JITTED[name](
        jnp.float32(f), jnp.float32(y), jnp.array(where), jnp.float32(weights)
    )
    w = np.where(where, weights, 0).astype(float)
    present = w > 0
    expected = by_loops(name, f[present], y[present], w[present])
    assert float(value) == pytest.approx(expected, rel=2e-5, abs=2e-6)
    assert not np.asarray(grad)[~present].any()


@pytest.mark.parametrize("name", LOSSES)
def test_gradient_is_that_of_finite_differences(name):
    rng = np.random.default_rng(3)
    f, y = rng.normal(size=N), rng.integers(0, 4, N) / 2.0
    w = np.array([1.0, 2, 1, 0, 1, 3])
    where = np.array([True, True, True, True, False, True])
    _, grad = JITTED[name](jnp.float32(f), jnp.float32(y), jnp.array(where), jnp.float32(w))
    f = np.asarray(np.float32(f), np.float64)
    present = where & (w > 0)
    for i in np.flatnonzero(present):
        ends = []
        for step in (1e-5, -1e-5):
            moved = f.copy()
            moved[i] += step
            ends.append(by_loops(name, moved[present], y[present], w[present], frozen=f[present]))
        assert float(grad[i]) == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=1e-3, abs=1e-5)


@pytest.mark.parametrize("name", ["margin", "logistic", "lambda_rank", "list_mle"])
def test_only_the_order_of_the_targets_matters(name):
    rng = np.random.default_rng(0)
    f, y = jnp.float32(rng.normal(size=N)), jnp.float32(rng.normal(size=N))
    everything, ones = jnp.ones(N, bool), jnp.ones(N)
    assert JITTED[name](f, y, everything, ones)[0] == JITTED[name](f, y**3, everything, ones)[0]


@pytest.mark.parametrize("name", LOSSES)
def test_descent_orders_scores_like_targets(name):
    y = jnp.float32([0.3, -1.2, 0.9, 2.0, -0.4, 1.1])
    f = -y / 10
    for _ in range(400):
        grad = JITTED[name](f, y, jnp.ones(N, bool), jnp.ones(N))[1]
        f = f - 0.05 * grad / (jnp.abs(grad).max() + 1e-3)
    assert (np.argsort(f) == np.argsort(y)).all()


@pytest.mark.parametrize("name", LOSSES)
def test_hidden_nan_changes_no_bit_and_nothing_to_see_is_zero(name):
    f, y = jnp.float32([1, 2, 3, 4, 5, 6]), jnp.float32([2, 1, 4, 3, 6, 5])
    where = jnp.array([True, True, True, True, False, False])
    clean = JITTED[name](f, y, where, jnp.ones(N))
    hidden = ~where
    dirty = JITTED[name](
        jnp.where(hidden, jnp.nan, f),
        jnp.where(hidden, jnp.inf, y),
        where,
        jnp.where(hidden, jnp.nan, 1.0),
    )
    for a, b in zip(clean, dirty, strict=True):
        np.testing.assert_array_equal(a, b)
    value, grad = JITTED[name](f, y, jnp.zeros(N, bool), jnp.ones(N))
    assert value == 0 and not grad.any()


@pytest.mark.parametrize("name", PAIRWISE)
def test_all_tied_targets_have_no_pairs(name):
    value, grad = JITTED[name](jnp.arange(6.0), jnp.ones(N), jnp.ones(N, bool), jnp.ones(N))
    assert value == 0 and not grad.any()


@pytest.mark.parametrize("name", LOSSES)
def test_extreme_scores_stay_finite(name):
    f = jnp.float32([-1e4, 1e4, 0, 1e3, -1e3, 5])
    y = jnp.float32([1, 0, 2, 3, 4, 5])
    value, grad = JITTED[name](f, y, jnp.ones(N, bool), jnp.ones(N))
    assert np.isfinite(value) and np.isfinite(grad).all()
    assert grad[0] <= 0 <= grad[1]  # the worst-ordered two are pushed the right way


# What every loss must hold to; tests/app/test_registries.py calls these for one from outside.
CONTRACT = (
    test_descent_orders_scores_like_targets,
    test_hidden_nan_changes_no_bit_and_nothing_to_see_is_zero,
)


def test_margin_by_hand():
    # Pairs (larger target first): (1, 0): hinge 0; (2, 0): .5 + .001 short by 1 - .5; (2, 1).
    f, y = jnp.float32([0.0, 1.0, 0.5]), jnp.float32([0, 1, 2])
    value, grad = jax.value_and_grad(losses.pairwise_margin)(f, y)
    assert float(value) == pytest.approx((0 + 0 + 0.501) / 3, rel=1e-6)
    np.testing.assert_allclose(grad, [0, 1 / 3, -1 / 3], rtol=1e-6)


def test_leading_axes_are_lists_and_reduce_fn_sees_them():
    rng = np.random.default_rng(1)
    f, y = jnp.float32(rng.normal(size=(2, N))), jnp.float32(rng.normal(size=(2, N)))
    for loss in LOSSES.values():
        each = loss(f, y, reduce_fn=lambda v: v)
        assert each.shape == (2,)
        np.testing.assert_allclose(each[1], loss(f[1], y[1]), rtol=1e-6)
        np.testing.assert_allclose(loss(f, y), each.mean(), rtol=1e-6)


@pytest.mark.parametrize("name", PAIRWISE)
def test_blocks_of_rows_change_nothing(name, monkeypatch):
    rng = np.random.default_rng(2)
    f, y = jnp.float32(rng.normal(size=(2, 2, 7))), jnp.float32(rng.integers(0, 4, (2, 2, 7)))
    whole = jax.value_and_grad(LOSSES[name])(f, y)
    monkeypatch.setattr(pair_sums, "PAIRS", 21)
    for a, b in zip(whole, jax.value_and_grad(LOSSES[name])(f, y), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", ["margin", "logistic"])
def test_the_gradient_keeps_no_pairs(name):
    n = 4096
    shape = jax.ShapeDtypeStruct((n,), jnp.float32)
    program = jax.jit(jax.grad(LOSSES[name])).lower(shape, shape).compile()
    memory = program.memory_analysis()
    assert memory is not None and memory.temp_size_in_bytes < n * n  # pairs of float32 are 4 n^2


@pytest.mark.parametrize("name", ["pairwise_logistic", "pairwise_margin"])
@pytest.mark.parametrize("n", [7, 300])  # below and above one block of rows
def test_analytic_gradient_is_that_of_autodiff_over_all_pairs(name, n, monkeypatch):
    monkeypatch.setattr(pair_sums, "PAIRS", 20 * n if n > 100 else pair_sums.PAIRS)
    rng = np.random.default_rng(n)
    f = jnp.asarray(rng.normal(size=(2, n)) * [[0.003], [2.0]], jnp.float32)
    y = jnp.asarray(rng.integers(0, n // 2, (2, n)), jnp.float32)  # ties
    w = jnp.asarray(rng.integers(0, 3, (2, n)), jnp.float32)  # rows left out, rows drawn twice

    def by_definition(f):
        ahead = f[:, :, None] - f[:, None, :]
        pairs = (y[:, :, None] > y[:, None, :]) * w[:, :, None] * w[:, None, :]
        hinge = jnp.maximum(0.0, 0.001 - ahead)
        each = jax.nn.softplus(-ahead) if name == "pairwise_logistic" else hinge
        return jnp.mean((pairs * each).sum((1, 2)) / pairs.sum((1, 2)))

    loss = jax.jit(jax.value_and_grad(lambda f: getattr(losses, name)(f, y, weights=w)))
    value, gradient = loss(f)
    true_value, true_gradient = jax.jit(jax.value_and_grad(by_definition))(f)
    np.testing.assert_allclose(value, true_value, rtol=2e-6)
    scale = np.abs(np.asarray(true_gradient)).max()
    np.testing.assert_allclose(gradient, true_gradient, atol=3e-6 * scale, rtol=1e-5)


def gradient_in_double(name, f, y, w):
    """The gradients' formulas over all pairs in float64, written with the pairs' own exponentials."""
    f, y, w = (np.asarray(v, np.float64) for v in (f, y, w))
    if name == "list_mle":
        behind = (y[None] >= y[:, None]) & (w > 0)[None]
        power = np.where(behind, -f[None], -np.inf)
        share = w[None] * np.exp(power - special.logsumexp(power, b=w[None], axis=1, keepdims=True))
        return (w - w @ share) / w.sum()
    larger = y[:, None] > y[None]
    pull = -special.expit(f[None] - f[:, None])
    if name == "margin":
        pull = -(f[:, None] - f[None] < np.float32(0.001)).astype(float)
    if name == "lambda_rank":
        factor = lambda_factors(f, y, w)
        pull = pull * [[factor(i, j) for j in range(len(f))] for i in range(len(f))]
    pairs = np.where(larger, w[:, None] * w[None], 0.0)
    pull = pull * pairs
    return (pull.sum(1) - pull.sum(0)) / max(pairs.sum(), 1e-300)


def scaled_lists():
    unit = st.floats(-1, 1, width=32, allow_subnormal=False)
    return st.tuples(
        st.lists(unit, min_size=N, max_size=N),
        st.integers(-6, 6),
        st.sampled_from([0.0, 1.0, -3e4]),
        st.lists(st.integers(-2, 2), min_size=N, max_size=N),
        st.lists(st.booleans(), min_size=N, max_size=N),
        st.lists(st.integers(0, 2), min_size=N, max_size=N),
        st.booleans(),
    )


@pytest.mark.parametrize("name", ["margin", "logistic", "lambda_rank", "list_mle"])
@settings(max_examples=100, deadline=None)
@given(case=scaled_lists())
def test_the_gradient_is_exact_at_any_scale(name, case):
    f, power, offset, y, where, weights, in_order = case
    y, where = np.array(y), np.array(where)
    f = np.array(f) * 10.0**power
    f[np.abs(f) < 1e-30] = 0  # XLA flushes subnormal differences to 0
    # Scores in the targets' order are where a gradient vanishes, and where a false one does the damage.
    f = np.float32(
        np.sort(f)[np.argsort(np.argsort(y, kind="stable"))] if in_order else f
    ) + np.float32(offset)
    _, grad = JITTED[name](jnp.asarray(f), jnp.float32(y), jnp.array(where), jnp.float32(weights))
    present = where & (np.array(weights) > 0)
    if not present.any():
        assert not np.asarray(grad).any()
        return
    exact = gradient_in_double(name, f[present], y[present], np.array(weights)[present])
    # A list's gradient is a difference from 1 / n; a pair's is as small as it is.
    scale = max(np.abs(exact).max(), 0.1 if name == "list_mle" else 1e-30)
    np.testing.assert_allclose(np.asarray(grad)[present], exact, atol=1e-5 * scale, rtol=1e-5)


@pytest.mark.parametrize("name", ["logistic", "lambda_rank", "list_mle"])
def test_lists_side_by_side_have_the_gradients_of_each(name):
    rng = np.random.default_rng(5)
    y = jnp.float32(rng.normal(size=N))
    f = jnp.float32(rng.normal(size=(3, N))) * jnp.float32([[1.0], [1e3], [1e-3]])
    gradient = jax.grad(lambda f: LOSSES[name](f, y))
    together = jax.jit(jax.vmap(gradient))(f)
    for row, own in zip(together, f, strict=True):
        exact = gradient_in_double(name, own, y, np.ones(N))
        np.testing.assert_allclose(row, exact, atol=1e-5 * np.abs(exact).max(), rtol=1e-5)


def test_lists_side_by_side_make_one_choice():
    """A choice for each list would compute both ways for all of them."""
    y = jnp.arange(3.0)
    mapped = jax.make_jaxpr(jax.vmap(jax.grad(lambda f: losses.pairwise_logistic(f, y))))
    assert " cond[" in str(mapped(jnp.zeros((4, 3))))
