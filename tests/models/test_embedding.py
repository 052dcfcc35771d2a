"""The feature layer: dense features are one more embedding, and may be absent."""

import jax
import jax.numpy as jnp
import numpy as np

from autorank.models.embedding import Embedding, num_embeddings
from autorank.models.parameters import call


def run(module, params, *inputs):
    return call(module, *jax.tree.map(jnp.asarray, (params, *inputs)))


def test_dense_features_become_the_last_embedding():
    rng = np.random.default_rng(0)
    x, dense = (rng.normal(size=s).astype(np.float32) for s in ((4, 3, 2), (4, 5)))
    shapes = {"kernel1": (5, 8), "bias1": (8,), "out": (8, 2), "bias": (2,)}
    w = {name: rng.normal(size=s).astype(np.float32) for name, s in shapes.items()}
    hidden = {name: w[name] for name in ("kernel1", "bias1")}
    params = {"dense": {"hidden": hidden, "out": w["out"], "bias": w["bias"]}}
    got = np.asarray(run(Embedding(2), params, x, dense))
    expected = np.maximum(dense @ w["kernel1"] + w["bias1"], 0) @ w["out"] + w["bias"]
    assert got.shape == (4, num_embeddings(3, 5), 2)
    np.testing.assert_array_equal(got[:, :3], x)
    np.testing.assert_allclose(got[:, 3], expected, rtol=1e-5, atol=1e-6)


def test_without_dense_features_the_rows_pass_unchanged():
    x = np.ones((4, 3, 2), np.float32)
    got = run(Embedding(2), {}, x, np.zeros((4, 0), np.float32))
    np.testing.assert_array_equal(got, x)
    assert num_embeddings(3, 0) == 3
