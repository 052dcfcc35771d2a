"""The tiny batched products of a population: our kernels against the compiler's form, time and difference."""

import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from autorank.models import interactions, small_products
from autorank.models.parameters import Active
from experiments.speed.figures import Findings

WIDTH = 16
OURS, COMPILER = "one warp a row", "compiler"
BANDWIDTH = 2.4e12  # bytes a second


class Product(NamedTuple):
    """A product over ``[b, m, columns]`` in two forms."""

    name: str
    m: int
    columns: int
    compiler: Callable[[Any], Any]
    ours: Callable[[Any], Any]


class Measured(NamedTuple):
    """What a form gives, forward and backward, and its times."""

    values: Any
    microseconds: list[float]


def measure_products(batch: int, options: dict[str, Any] | None, found: Findings) -> None:
    """Measures all products on this device; elsewhere than on a GPU at toy size, in Pallas' interpreter."""
    on_gpu = jax.default_backend() == "gpu"
    models, batch = (10, batch) if on_gpu else (2, 8)
    for product in products("gpu" if on_gpu else "interpret"):
        say = partial(found.say, f"{product.name}, {models} models x {batch}")
        key, other = jax.random.split(jax.random.key(0), 4)[:2]
        x = jax.random.normal(key, (models, batch, product.m, product.columns), jnp.bfloat16)
        size = jax.eval_shape(jax.vmap(product.ours), x).shape
        slope = jax.random.normal(other, size, jnp.bfloat16)
        values = []
        for variant, form in ((COMPILER, product.compiler), (OURS, product.ours)):
            measured = forward_and_backward(form, x, slope, options)
            say(variant, "forward and backward", "us", *measured.microseconds)
            values.append(measured.values)
        moved = 2 * (3 * x.size + 2 * slope.size)  # x twice, its slope, the value, its slope
        say("bytes at 2.4 TB/s", "forward and backward", "us", moved / BANDWIDTH * 1e6)
        away = [largest_difference(a, b) for a, b in zip(*values, strict=True)]
        say(OURS, "largest difference, relative", "1", *away)


def products(kernels: str) -> list[Product]:
    """Gram matrices and attention over 27 and 43 embeddings; ``kernels`` is the form of ours."""
    found = []
    for m in (27, 43):
        ours = partial(_gram_of_ours, kernels=kernels)
        found.append(Product(f"Gram {m} x {m} x {WIDTH}", m, WIDTH, _gram, ours))
        for heads in (1, 4):
            name = f"attention of {m}, width {WIDTH}, {heads} heads"
            ours = partial(_attention_of_ours, heads=heads, kernels=kernels)
            found.append(Product(name, m, 3 * WIDTH, partial(_attention, heads=heads), ours))
    return found


def forward_and_backward(
    form: Callable[[Any], Any], x: Any, slope: Any, options: dict[str, Any] | None
) -> Measured:
    """Value and gradient of one form, and microseconds of a call, the mean of ten, five times."""

    def both(x: Any, slope: Any) -> Any:
        value, back = jax.vjp(jax.vmap(form), x)
        return value, back(slope)[0]

    run = jax.jit(both).lower(x, slope).compile(compiler_options=options)
    values = jax.block_until_ready(run(x, slope))
    times = []
    for _ in range(5):
        begun = time.perf_counter()
        jax.block_until_ready([run(x, slope) for _ in range(10)])
        times.append((time.perf_counter() - begun) / 10 * 1e6)
    return Measured(values, times)


def largest_difference(a: Any, b: Any) -> float:
    """Of two arrays, relative to the largest value of the second."""
    a, b = a.astype(jnp.float32), b.astype(jnp.float32)
    return float(jnp.max(jnp.abs(a - b)) / jnp.max(jnp.abs(b)))


def _gram(x: Any) -> Any:
    return jnp.einsum("bmd,bnd->bmn", x, x)


def _gram_of_ours(x: Any, kernels: str) -> Any:
    return small_products.products(x, x, kernels)


def _attention(qkv: Any, heads: int) -> Any:
    positions = jnp.int32(20)
    parts = qkv.reshape(*qkv.shape[:2], 3, WIDTH)
    active = Active(positions, None, positions, None, None)
    return interactions.attention_of(parts, heads, active)


def _attention_of_ours(qkv: Any, heads: int, kernels: str) -> Any:
    return small_products.attend(
        qkv, jnp.int32(20), jnp.int32(heads), most_heads=heads, kernels=kernels
    )
