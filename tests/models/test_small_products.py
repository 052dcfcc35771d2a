"""Tiny batched products against einsum and softmax, value and gradient; the kernels run in Pallas' interpreter."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from autorank.models import small_products


def attend(qkv, positions, heads, most=4):
    return small_products.attend(qkv, positions, jnp.int32(heads), most, "interpret")


products = partial(small_products.products, kernels="interpret")


def attention(qkv, positions, heads):
    b, m, columns = qkv.shape
    size = columns // 3 // heads
    query, key, value = qkv.reshape(b, m, 3, heads, size).transpose(2, 0, 3, 1, 4)
    scores = jnp.einsum("bhme,bhne->bhmn", query, key) / np.sqrt(size)
    scores = jnp.where((jnp.arange(m) < positions)[None, None, None], scores, -jnp.inf)
    mixed = jnp.einsum("bhmn,bhne->bhme", jax.nn.softmax(scores), value)
    return mixed.transpose(0, 2, 1, 3).reshape(b, m, -1)


def slopes(f, *arguments):
    """Gradients of a sum that weighs every element differently, as one program: op by op compiles far longer."""

    def loss(*arguments):
        value = f(*arguments)
        return jnp.sum(jnp.sin(jnp.arange(value.size).reshape(value.shape)) * value)

    return jax.jit(jax.grad(loss, argnums=tuple(range(len(arguments)))))(*arguments)


@pytest.mark.parametrize(("m", "n", "d"), [(1, 1, 1), (27, 27, 16), (17, 4, 33), (64, 16, 8)])
def test_products_are_einsum(m, n, d):
    keys = jax.random.split(jax.random.key(m), 2)
    x, y = (jax.random.normal(k, (2, 3, size, d)) for k, size in zip(keys, (m, n), strict=True))
    ours, theirs = jax.vmap(products), partial(jnp.einsum, "pbmd,pbnd->pbmn")
    np.testing.assert_allclose(ours(x, y), theirs(x, y), rtol=1e-5, atol=1e-5)
    for a, b in zip(slopes(ours, x, y), slopes(theirs, x, y), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def test_a_gram_matrix_gets_both_slopes():
    x = jax.random.normal(jax.random.key(0), (2, 5, 4))
    (ours,) = slopes(lambda x: products(x, x), x)
    (theirs,) = slopes(lambda x: jnp.einsum("bmd,bnd->bmn", x, x), x)
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("m", "d", "heads"), [(5, 8, 4), (27, 16, 1), (33, 6, 3)])
def test_attention_is_softmax_of_scaled_products(m, d, heads):
    qkv = 2 * jax.random.normal(jax.random.key(m), (3, 2, m, 3 * d))
    positions = jnp.array([m, 1, (m + 1) // 2])
    ours = lambda qkv: jax.vmap(lambda a, p: attend(a, p, heads=heads))(qkv, positions)  # noqa: E731
    theirs = lambda qkv: jax.vmap(lambda a, p: attention(a, p, heads))(qkv, positions)  # noqa: E731
    np.testing.assert_allclose(jax.jit(ours)(qkv), theirs(qkv), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(*slopes(ours, qkv), *slopes(theirs, qkv), rtol=1e-4, atol=1e-5)


def test_large_logits_stay_finite():
    qkv = jnp.full((1, 3, 6), 1e4)
    assert np.isfinite(attend(qkv, jnp.int32(2), heads=1)).all()
    assert np.isfinite(*slopes(lambda x: attend(x, jnp.int32(2), heads=1), qkv)).all()


def test_bfloat16_sums_are_float32():
    x = jnp.full((1, 2, 64), 1 + 2**-7, jnp.bfloat16)
    exact = 64 * (1 + 2**-7) ** 2
    assert float(products(x, x)[0, 0, 1]) == float(jnp.bfloat16(exact))


def test_sizes_beyond_a_warp_are_left_to_the_compiler():
    assert small_products.fits("gpu", 64, 16)
    assert not small_products.fits("gpu", 65, 16)
    assert not small_products.fits("", 8)
