"""Norms and hidden layers against NumPy; the flat draw against its stated moments."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from autorank.models.blocks import EPS, Hidden, Norm
from autorank.models.maps import mix
from autorank.models.parameters import Leaf, call, draw, leaves, prefix


def run(module, params, *inputs):
    return call(module, *jax.tree.map(jnp.asarray, (params, *inputs)))


def layer_norm(x, axes):
    mean = x.mean(axis=axes, keepdims=True)
    return (x - mean) / np.sqrt(x.var(axis=axes, keepdims=True) + EPS)


@pytest.mark.parametrize("axes", [{"width": 6}, {"positions": 4, "width": 6}])
def test_norm_is_layer_norm_over_its_axes(axes):
    x = np.random.default_rng(0).normal(3.0, 2.0, (5, 4, 6)).astype(np.float32)
    shape = tuple(axes.values())
    scale, offset = np.full(shape, 1.5, np.float32), np.full(shape, -0.5, np.float32)
    got = run(Norm(axes), {"scale": scale, "bias": offset}, x)
    over = tuple(range(-len(axes), 0))
    np.testing.assert_allclose(got, 1.5 * layer_norm(x, over) - 0.5, rtol=2e-5, atol=2e-5)


def test_norm_of_a_prefix_is_the_norm_of_the_short_vector():
    x = np.random.default_rng(1).normal(size=(3, 2, 4)).astype(np.float32)
    params = {"scale": np.ones(7, np.float32), "bias": np.zeros(7, np.float32)}
    padded = np.pad(x, ((0, 0), (0, 0), (0, 3)))
    got = np.asarray(run(Norm({"width": 7}), params, padded, prefix(7, jnp.int32(4))))
    np.testing.assert_allclose(got[..., :4], layer_norm(x, -1), rtol=2e-5, atol=2e-5)
    assert not got[..., 4:].any()


def test_norm_of_a_constant_is_finite_with_finite_gradient():
    params = {"scale": jnp.ones(3), "bias": jnp.zeros(3)}
    value, slope = jax.value_and_grad(lambda x: call(Norm({"width": 3}), params, x).sum())(
        jnp.full((2, 3), 5.0)
    )
    assert value == 0 and np.isfinite(slope).all()


def test_hidden_layers_skip_those_beyond_the_depth():
    rng = np.random.default_rng(2)
    module = Hidden({"in": 3}, 3, 4, "mlp")
    tree = leaves(module, jnp.zeros((2, 3)))
    params = {n: rng.normal(size=leaf.shape).astype(np.float32) for n, leaf in tree.items()}
    x = rng.normal(size=(2, 3)).astype(np.float32)
    expected = x
    for i in (1, 2):
        expected = np.maximum(expected @ params[f"kernel{i}"] + params[f"bias{i}"], 0)
        got = run(module, params, x, jnp.int32(i))
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)


def test_mix_is_a_map_over_the_embedding_axis():
    rng = np.random.default_rng(3)
    x, w = rng.normal(size=(2, 5, 3)), rng.normal(size=(5, 4))
    expected = np.stack([w.T @ row for row in x])
    np.testing.assert_allclose(
        mix(jnp.asarray(x, jnp.float32), jnp.asarray(w, jnp.float32)),
        expected,
        rtol=1e-5,
        atol=1e-6,
    )


def test_draw_gives_independent_kernels_zero_biases_and_unit_scales():
    tree = {
        "a": Leaf(("a",), (40, 50), ("in x", "y")),
        "b": Leaf(("b",), (10, 200), ("in x", "y")),
        "bias": Leaf(("bias",), (50,), ("y",)),
        "scale": Leaf(("scale",), (50,), ("y",)),
    }
    assert tree["a"].fan_in == 40 and not tree["bias"].is_kernel
    params = draw(jax.random.key(0), tree, lambda leaf: 2.0 * leaf.fan_in**-0.5)
    for name, fan_in in (("a", 40), ("b", 10)):
        assert params[name].shape == tree[name].shape
        # 2000 draws: the standard deviation is known to 1.6%, the mean to 2.2% of it.
        assert abs(params[name].std() / (2 * fan_in**-0.5) - 1) < 0.08
        assert abs(params[name].mean() / (2 * fan_in**-0.5)) < 0.1
    correlation = np.corrcoef(np.ravel(params["a"]), np.ravel(params["b"]))[0, 1]
    assert abs(correlation) < 0.1
    assert not params["bias"].any() and (params["scale"] == 1).all()


def test_a_norm_gives_no_gradient_to_what_lies_outside():
    norm, where = Norm({"width": 4}), jnp.array([True, True, True, False])
    params = {"scale": jnp.ones(4), "bias": jnp.zeros(4)}
    x = jnp.array([[1.0, 2.0, 4.0, 0.0]])
    slope = jax.grad(
        lambda x: jnp.sum(jnp.sin(jnp.arange(4.0))[None] * call(norm, params, x, where))
    )(x)
    assert slope[0, :3].all() and slope[0, 3] == 0
