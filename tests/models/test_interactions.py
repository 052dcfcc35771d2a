"""Each module against a row-by-row NumPy reference in float64, and its parameter count against hand arithmetic."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from autorank.models.blocks import EPS
from autorank.models.interactions import MODULES, SHARED_SIZES, Sizes
from autorank.models.parameters import call, is_leaf, leaves


def run(module, params, *inputs):
    return call(module, *jax.tree.map(jnp.asarray, (params, *inputs)))


M, L, D, R, H, K, DEPTH, W = 5, 3, 4, 2, 2, 3, 2, 6
SIZES = Sizes(M, L, D, R, H, K, DEPTH, W)
# Biases included; layer norms have a scale and a bias.
MLP = lambda i, o: i * W + W + (W * W + W) * (DEPTH - 1) + W * o + o  # noqa: E731
COUNTS = {
    "linear": M * L,
    "dot": MLP(M * (M - 1) // 2, L * D),
    "attention": 3 * D * D + D * D + (D * 2 * D + 2 * D) + (2 * D * D + D) + 2 * (2 * D) + M * L,
    "cross": M * M + D * D + M * D + M * L,
    "cross_low": 2 * M * D * R + M * D + M * L,
    "convolution": K * D * D + D + M * L,
    "fmb": M * R + 2 * M * R + MLP(M * R, L * D),
    "wukong": M * R + 2 * M * R + MLP(M * R, L * D) + M * L,
    "mask": 2 * D + MLP(M * D, M * D) + M * L + 2 * D,
}


def layer_norm(x, p):
    axes = tuple(range(np.ndim(p["scale"])))
    normed = (x - x.mean(axis=tuple(-1 - a for a in axes), keepdims=True)) / np.sqrt(
        x.var(axis=tuple(-1 - a for a in axes), keepdims=True) + EPS
    )
    return normed * p["scale"] + p["bias"]


def mlp(x, p):
    x = x.ravel()
    for i in range(1, DEPTH + 1):
        w = p["hidden"][f"kernel{i}"].reshape(len(x), W)
        x = np.maximum(x @ w + p["hidden"][f"bias{i}"], 0)
    return np.tensordot(x, p["out"], 1) + p["bias"]


def dot(x, p):
    return mlp(np.array([x[i] @ x[j] for i in range(M) for j in range(i)]), p["mlp"])


def attention(x, p):
    q, k, v = (x @ p["qkv"][:, i] for i in range(3))
    mixed = np.zeros((M, D))
    for h in range(H):
        part = slice(h * D // H, (h + 1) * D // H)
        for i in range(M):
            e = np.exp([q[i, part] @ k[j, part] / np.sqrt(D / H) for j in range(M)])
            mixed[i, part] = e / e.sum() @ v[:, part]
    x = layer_norm(x + mixed @ p["project"], p["norm1"])
    hidden = np.maximum(x @ p["up"] + p["up_bias"], 0)
    return p["out"].T @ layer_norm(x + hidden @ p["down"] + p["down_bias"], p["norm2"])


def cross(x, p):
    # The full DCN-V2 form with the Kronecker matrix written out.
    flat = np.kron(p["across"].T, p["along"].T) @ x.ravel()
    return p["out"].T @ (x * (flat.reshape(M, D) + p["bias"]))


def cross_low(x, p):
    u, v = p["up"].reshape(R, -1).T, p["down"].reshape(-1, R)
    return p["out"].T @ (x * ((u @ (v.T @ x.ravel())).reshape(M, D) + p["bias"]))


def convolution(x, p):
    y = np.tile(p["bias"], (M, 1))
    for tap, offset in enumerate([0, -1, 1]):
        for i in range(M):
            if 0 <= i + offset < M:
                y[i] += x[i + offset] @ p["kernel"][tap]
    return p["out"].T @ np.maximum(y, 0)


def fmb(x, p):
    return mlp(layer_norm(x @ (x.T @ p["project"]), p["norm"]), p["mlp"])


def mask(x, p):
    gated = layer_norm(x, p["norm1"]) * mlp(x, p["mlp"])
    return np.maximum(layer_norm(p["out"].T @ gated, p["norm2"]), 0)


REFERENCES = {
    "linear": lambda x, p: p["out"].T @ x,
    "dot": dot,
    "attention": attention,
    "cross": cross,
    "cross_low": cross_low,
    "convolution": convolution,
    "fmb": fmb,
    "wukong": lambda x, p: fmb(x, p["fmb"]) + p["lcb"]["out"].T @ x,
    "mask": mask,
}


@pytest.mark.parametrize("name", MODULES)
def test_module_is_its_formula(name):
    rng = np.random.default_rng(list(MODULES).index(name))
    module = MODULES[name].make(SIZES)
    tree = leaves(module, jax.ShapeDtypeStruct((1, M, D), jnp.float32))
    params = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape), tree, is_leaf=is_leaf)
    x = rng.normal(size=(2, M, D))
    got = run(module, jax.tree.map(np.float32, params), x.astype(np.float32))
    expected = np.stack([REFERENCES[name](row, params) for row in x])
    assert got.shape == (2, L, D)
    np.testing.assert_allclose(got, expected, rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("name", MODULES)
def test_parameter_counts_by_hand(name):
    tree = leaves(MODULES[name].make(SIZES), jax.ShapeDtypeStruct((1, M, D), jnp.float32))
    assert sum(np.prod(v.shape) for v in jax.tree.leaves(tree, is_leaf=is_leaf)) == COUNTS[name]


@pytest.mark.parametrize("size", SHARED_SIZES)
def test_uses_lists_exactly_the_modules_whose_parameters_or_function_change(size):
    def text(name, sizes):
        module, x = MODULES[name].make(sizes), jnp.zeros((1, M, D))
        tree = leaves(module, x)
        params = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), tree, is_leaf=is_leaf)
        return str(jax.make_jaxpr(lambda p, x: call(module, p, x))(params, x))

    other = SIZES._replace(**{size: {"heads": 4, "kernel": 5}.get(size, getattr(SIZES, size) + 1)})
    changed = {name for name in MODULES if text(name, SIZES) != text(name, other)}
    assert changed == {name for name, entry in MODULES.items() if size in entry.traits["uses"]}
