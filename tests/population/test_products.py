"""Matrix products with bfloat16 inputs under float32 activations: values, gradients, training."""

import jax
import jax.numpy as jnp
import numpy as np

from autorank.base.programs import compiler_options
from autorank.models.maps import product
from autorank.training.trainer import rounded


def exact(x, weight):
    """The rounded inputs multiplied in float64."""
    as_half = [np.asarray(jnp.asarray(a, jnp.bfloat16), np.float64) for a in (x, weight)]
    return as_half[0] @ as_half[1]


def test_sums_are_float32_of_rounded_inputs():
    keys = jax.random.split(jax.random.key(0), 2)
    x, weight = jax.random.normal(keys[0], (96, 200)), jax.random.normal(keys[1], (200, 40))
    found = jax.jit(product)(x, weight.astype(jnp.bfloat16))
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, exact(x, weight), rtol=1e-4, atol=1e-4)
    lead = product(x.reshape(4, 24, 200), weight.astype(jnp.bfloat16))
    np.testing.assert_allclose(lead.reshape(96, 40), found, rtol=1e-5, atol=1e-5)


def test_gradients_are_those_of_the_rounded_product():
    keys = jax.random.split(jax.random.key(1), 3)
    x, weight = jax.random.normal(keys[0], (64, 30)), jax.random.normal(keys[1], (30, 50))
    slope = jax.random.normal(keys[2], (64, 50))
    to_x, to_weight = jax.jit(
        lambda x, w: jax.vjp(lambda x, w: product(x, w.astype(jnp.bfloat16)), x, w)[1](slope)
    )(x, weight)
    np.testing.assert_allclose(to_x, exact(slope, weight.T), rtol=1e-3, atol=1e-3)
    # Rounded once more: it is the gradient of a bfloat16 weight.
    np.testing.assert_allclose(to_weight, exact(x.T, slope), rtol=1e-2, atol=1e-2)
    assert to_x.dtype == to_weight.dtype == jnp.float32


def test_nan_is_not_hidden_by_the_transposed_copy():
    x = jnp.full((4, 3), jnp.nan)
    weight = jnp.ones((3, 2), jnp.bfloat16)
    slopes = jax.grad(lambda w: product(x, w).sum().astype(jnp.float32))(weight)
    assert np.isnan(np.asarray(slopes, np.float32)).all()


def test_equal_kinds_are_left_alone():
    x = jax.random.normal(jax.random.key(0), (5, 3))
    np.testing.assert_array_equal(product(x, x.T), x @ x.T)
    half = x.astype(jnp.bfloat16)
    assert product(half, half.T).dtype == jnp.bfloat16


def test_only_matrices_are_rounded():
    params = {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)}
    found = rounded(params, jnp.bfloat16)
    assert found["kernel"].dtype == jnp.bfloat16 and found["bias"].dtype == jnp.float32


def test_a_loop_of_products_compiles_with_the_options_of_a_search():
    """XLA:CPU has had kinds of bfloat16 products that compile and then do not run."""
    weight = jax.random.normal(jax.random.key(0), (24, 24)) / 5
    x = jax.random.normal(jax.random.key(1), (256, 24))

    def step(_, weight):
        loss = lambda w: jnp.mean((jax.nn.relu(product(x, w.astype(jnp.bfloat16))) - x) ** 2)  # noqa: E731
        return weight - 0.1 * jax.grad(loss)(weight)

    run = jax.jit(lambda w: jax.lax.fori_loop(0, 50, step, w), compiler_options=compiler_options())
    before, after = (float(jnp.mean((jax.nn.relu(x @ w) - x) ** 2)) for w in (weight, run(weight)))
    assert after < 0.9 * before
