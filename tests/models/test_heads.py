"""Losses and probabilities against float64 arithmetic, far into the tails."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autorank.models.heads import METRICS, Head, objective_weights, probabilities, task_losses
from autorank.models.parameters import call


def run(module, params, *inputs):
    return call(module, *jax.tree.map(jnp.asarray, (params, *inputs)))


# Longdouble keeps log(1 - p) exact where float64 would round p to 1.
TAIL = np.array([-80.0, -30.0, -3.0, 0.0, 2.0, 30.0, 80.0])
GRID = np.stack([v.ravel() for v in np.meshgrid(TAIL, TAIL)], axis=1)


def log_sigmoid(z):
    return -np.logaddexp(0, -np.asarray(z, np.longdouble))


def log_no_ctcvr(a, b):
    return np.logaddexp(log_sigmoid(-a), log_sigmoid(a) + log_sigmoid(-b))


def losses_of(logits, click, conversion, head):
    labels = jnp.tile(jnp.array([[click, conversion]], jnp.float32), (len(logits), 1))
    return task_losses(jnp.asarray(logits, jnp.float32), labels, head)


@pytest.mark.parametrize("click, conversion", [(0, 0), (1, 0), (1, 1)])
def test_two_task_losses_in_the_tails(click, conversion):
    a, b = GRID.T
    losses, where, targets = losses_of(GRID, click, conversion, "esmm")
    yes = log_sigmoid(a) + log_sigmoid(b)
    expected = np.stack(
        [
            -log_sigmoid(a if click else -a),
            -log_sigmoid(b if conversion else -b),
            -(yes if click * conversion else log_no_ctcvr(a, b)),
        ],
        axis=1,
    ).astype(np.float64)
    np.testing.assert_allclose(losses, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(where, np.tile([True, click == 1, True], (len(GRID), 1)))
    np.testing.assert_array_equal(
        targets, np.tile([click, conversion, click * conversion], (len(GRID), 1))
    )


@pytest.mark.parametrize("head", ["esmm", "shared_bottom"])
@pytest.mark.parametrize("click, conversion", [(0, 0), (1, 0), (1, 1)])
def test_gradients_are_finite_and_right_in_the_tails(head, click, conversion):
    slope = jax.grad(lambda z: losses_of(z, click, conversion, head)[0].sum())(
        jnp.asarray(GRID, jnp.float32)
    )
    a, b = np.asarray(GRID, np.longdouble).T
    s = lambda z: np.exp(log_sigmoid(z))  # noqa: E731
    # d log p_ctcvr = (1 - s(a), 1 - s(b)); d log(1 - p) = -p / (1 - p) of the same.
    odds = -np.exp(log_sigmoid(a) + log_sigmoid(b) - log_no_ctcvr(a, b))
    factor = 1 if click * conversion else odds
    expected = np.stack(
        [s(a) - click - factor * s(-a), s(b) - conversion - factor * s(-b)], axis=1
    ).astype(np.float64)
    assert np.isfinite(slope).all()
    np.testing.assert_allclose(slope, expected, rtol=1e-5, atol=1e-6)


@given(st.floats(-20, 20), st.floats(-20, 20))
@settings(max_examples=50, deadline=None)
def test_losses_are_those_of_the_probabilities(a, b):
    logits = np.array([[a, b]], np.float32)
    p = np.asarray(probabilities(jnp.asarray(logits), "esmm"), np.float64)[0]
    for click, conversion in ((0, 0), (1, 0), (1, 1)):
        losses, _, targets = losses_of(logits, click, conversion, "esmm")
        for q in range(3):
            right = p[q] if targets[0, q] else 1 - p[q]
            # float32 probabilities carry 1e-7; compare where they still say something.
            assert np.exp(-float(losses[0, q])) == pytest.approx(right, abs=1e-6)


@pytest.mark.parametrize("columns", [1, 2])
def test_ctr_reads_the_first_label_column(columns):
    labels = jnp.array([[1, 0], [0, 1]], jnp.int8)[:, :columns]
    logits = jnp.array([[0.5], [-2.0]])
    losses, where, targets = task_losses(logits, labels, "ctr")
    np.testing.assert_allclose(losses[:, 0], [np.log1p(np.exp(-0.5)), np.log1p(np.exp(-2))], 1e-6)
    assert where.all() and targets.tolist() == [[1.0], [0.0]]
    np.testing.assert_allclose(
        probabilities(logits, "ctr"), 1 / (1 + np.exp(-np.array(logits))), 1e-6
    )


def test_cvr_counts_on_clicks_only_and_ctcvr_is_the_product():
    labels = jnp.array([[1, 1], [0, 0], [1, 0]], jnp.float32)
    _, where, _ = task_losses(jnp.zeros((3, 2)), labels, "shared_bottom")
    assert where[:, 1].tolist() == [True, False, True]
    p = probabilities(jnp.array([[0.3, -1.0]]), "esmm")[0]
    assert float(p[2]) == pytest.approx(float(p[0] * p[1]))


def test_weights_say_what_each_head_trains():
    trained = {
        head: [m for m, w in zip(METRICS[head], objective_weights(head), strict=True) if w]
        for head in METRICS
    }
    assert trained == {
        "ctr": ["ctr"],
        "esmm": ["ctr", "ctcvr"],
        "shared_bottom": ["ctr", "cvr"],
    }


def test_errors_name_the_head():
    with pytest.raises(ValueError, match="model.head='esmm' needs two label columns"):
        task_losses(jnp.zeros((3, 2)), jnp.zeros((3, 1)), "esmm")
    with pytest.raises(ValueError, match="model.head='mmoe' is not known; write one of ctr"):
        probabilities(jnp.zeros((3, 2)), "mmoe")


def test_two_towers_share_the_trunk():
    rng = np.random.default_rng(0)
    m, d, w = 2, 3, 4
    shapes = {"tower": (w, 2, w), "tower_bias": (2, w), "logit": (w, 2), "logit_bias": (2,)}
    p = {name: rng.normal(size=s).astype(np.float32) for name, s in shapes.items()}
    trunk = {
        "kernel1": rng.normal(size=(m, d, w)).astype(np.float32),
        "bias1": rng.normal(size=w).astype(np.float32),
    }
    x = rng.normal(size=(5, m, d)).astype(np.float32)
    got = run(Head({"positions": m, "width": d}, 1, w, 2), {"trunk": trunk, **p}, x)
    h = np.maximum(x.reshape(5, -1) @ trunk["kernel1"].reshape(-1, w) + trunk["bias1"], 0)
    for t in range(2):
        tower = np.maximum(h @ p["tower"][:, t] + p["tower_bias"][t], 0)
        np.testing.assert_allclose(
            got[:, t], tower @ p["logit"][:, t] + p["logit_bias"][t], rtol=1e-4, atol=1e-5
        )
