"""Two networks of fixed shape, an MLP and DCN-V2, and the matrix rate of the device that they are held against."""

import time
from typing import Any

import jax
import jax.numpy as jnp

from autorank.models.dhen import Model
from experiments.speed.criteo_shaped import F, N

NAMES = {"mlp": "MLP 400x3, d=16", "dcn": "DCN-V2 rank 512, d=128"}


def matrix_rate(seconds: float = 1.0) -> float:
    """Measured bfloat16 matrix rate of the card, FLOP/s, on random numbers."""
    n = 8192 if jax.default_backend() == "gpu" else 512
    a, b = (jax.random.normal(jax.random.key(i), (n, n), jnp.bfloat16) for i in (0, 1))
    multiply = jax.jit(lambda a, b: a @ b)
    jax.block_until_ready(multiply(a, b))
    count, begun = 0, time.perf_counter()
    while time.perf_counter() - begun < seconds:
        jax.block_until_ready([multiply(a, b) for _ in range(10)])
        count += 10
    return 2 * n**3 * count / (time.perf_counter() - begun)


def network(kind: str) -> tuple[Model, float]:
    """MLP 400x3, or DCN-V2 (three crosses of rank 512 and an MLP 1024-1024-512-256-1), and its FLOPs an example."""
    inputs = 16 * F + N if kind == "mlp" else 128 * F + 128
    widths = (400, 400, 400, 1) if kind == "mlp" else (1024, 1024, 512, 256, 1)
    crosses = 0 if kind == "mlp" else 3

    def init(key: Any, scale: Any) -> Any:
        keys = iter(jax.random.split(key, 3 * crosses + len(widths) + 1))

        def draw(i: int, o: int) -> jax.Array:
            return scale * jax.random.normal(next(keys), (i, o)) * i**-0.5

        params: dict[str, Any] = {"mlp": [], "cross": []}
        if kind != "mlp":
            params["bottom"] = draw(N, 128)
        for _ in range(crosses):
            params["cross"].append((draw(inputs, 512), draw(512, inputs), jnp.zeros(inputs)))
        for i, o in zip((inputs, *widths), widths, strict=False):
            params["mlp"].append((draw(i, o), jnp.zeros(o)))
        return params

    layers = zip((inputs, *widths), widths, strict=False)
    flops = sum(2 * i * o for i, o in layers) + crosses * 2 * 2 * inputs * 512
    return Model(init, _apply), flops + (0 if kind == "mlp" else 2 * N * 128)


def _apply(params: Any, x: Any, dense: Any) -> Any:
    """Logits ``[b, 1]`` in float32; all else is bfloat16."""
    params = jax.tree.map(lambda p: p.astype(jnp.bfloat16), params)
    x, dense = x.astype(jnp.bfloat16), dense.astype(jnp.bfloat16)
    if "bottom" in params:
        dense = jax.nn.relu(dense @ params["bottom"])
    x0 = x = jnp.concatenate([x.reshape(x.shape[0], -1), dense], axis=1)
    for down, up, offset in params["cross"]:
        x = x0 * ((x @ down) @ up + offset[None]) + x
    last = len(params["mlp"]) - 1
    for i, (weight, offset) in enumerate(params["mlp"]):
        x = x @ weight + offset[None]
        x = jax.nn.relu(x) if i < last else x
    return x.astype(jnp.float32)
