"""What a model costs: FLOPs by formula and by the compiler, parameters, measured throughput.

FLOPs are those of one forward pass of the dense part for one example, as XLA counts them: a multiply-add is 2, an
elementwise operation 1, exponentials and roots are not counted. Table look-ups are not part of it.
"""

import statistics
import time
from collections.abc import Callable
from math import prod
from typing import Any

import jax
import jax.numpy as jnp

from autorank.base.typing import PyTree
from autorank.models.blocks import is_leaf
from autorank.models.dhen import (
    DhenConfig,
    canonical,
    compact,
    layer_outputs,
    layers,
    module_sizes,
    parameters,
)
from autorank.models.embedding import DENSE_FACTOR, num_embeddings
from autorank.models.heads import NUM_LOGITS
from autorank.models.interactions import FFN_FACTOR, Sizes


def flops_per_example(config: DhenConfig, num_fields: int, num_dense: int) -> float:
    """Analytic forward FLOPs of one example; microseconds, nothing is traced."""
    c = canonical(config)
    d, m = c.width, num_embeddings(num_fields, num_dense)
    total = mlp(num_dense, d, 1, DENSE_FACTOR * d) if num_dense else 0
    for layer in layers(c):
        n, outputs = len(layer.modules), layer_outputs(c, layer, m)
        sizes = module_sizes(c, m)
        total += sum(MODULE_FLOPS[name](sizes) for name in layer.modules)
        total += norm(m * d) if c.norm == "pre" and n else 0
        total += norm(outputs * d) if c.norm == "post" else 0
        total += mix(m, outputs, d) if outputs != m else 0
        # Adding the parts to each other and to the shortcut; scaling them first.
        size = c.num_tokens * d
        total += (1 if c.ensemble == "concat" and n else n) * outputs * d
        total += n * size if c.ensemble == "weighted" else 0
        m = outputs
    return float(total + _head(m * d, c.head_depth, c.head_width, NUM_LOGITS[c.head]))


def linear(inputs: int, outputs: int) -> int:
    """A matrix-vector product."""
    return 2 * inputs * outputs


def mix(inputs: int, outputs: int, width: int) -> int:
    """A linear map over the embedding axis."""
    return 2 * inputs * outputs * width


def hidden(inputs: int, depth: int, width: int) -> int:
    """Fully connected layers: product, bias, ReLU."""
    return linear(inputs, width) + (depth - 1) * linear(width, width) + 2 * depth * width


def mlp(inputs: int, outputs: int, depth: int, width: int) -> int:
    """Hidden layers and a linear one with bias."""
    return hidden(inputs, depth, width) + linear(width, outputs) + outputs


def norm(size: int) -> int:
    """Mean, centre, square, mean, normalise, scale, shift."""
    return 7 * size


def _head(inputs: int, depth: int, width: int, num_logits: int) -> int:
    trunk = hidden(inputs, depth, width)
    if num_logits == 1:
        return trunk + linear(width, 1) + 1
    towers = num_logits * (linear(width, width) + 2 * width)
    return trunk + towers + num_logits * (linear(width, 1) + 1)


def _dot(s: Sizes) -> int:
    pairs = s.positions * (s.positions - 1) // 2
    # The compiler forms the whole Gram matrix.
    gram = 2 * s.positions**2 * s.width
    return gram + mlp(pairs, s.tokens * s.width, s.mlp_depth, s.mlp_width)


def _attention(s: Sizes) -> int:
    m, d, ffn = s.positions, s.width, FFN_FACTOR * s.width
    project = m * (linear(d, 3 * d) + linear(d, d))
    # Scores, scale, softmax (maximum, subtract, sum, divide), weighted values.
    attend = 2 * (2 * m * m * d) + 5 * s.heads * m * m
    feed_forward = m * (linear(d, ffn) + linear(ffn, d) + 2 * ffn + d)
    return project + attend + feed_forward + 2 * (m * d + norm(m * d)) + mix(m, s.tokens, d)


def _cross(s: Sizes) -> int:
    m, d = s.positions, s.width
    return mix(m, m, d) + m * linear(d, d) + 2 * m * d + mix(m, s.tokens, d)


def _cross_low(s: Sizes) -> int:
    m, d = s.positions, s.width
    return 2 * linear(m * d, s.rank) + 2 * m * d + mix(m, s.tokens, d)


def _convolution(s: Sizes) -> int:
    m, d = s.positions, s.width
    return m * (linear(s.kernel * d, d) + 2 * d) + mix(m, s.tokens, d)


def _linear(s: Sizes) -> int:
    return mix(s.positions, s.tokens, s.width)


def _fmb(s: Sizes) -> int:
    products = 2 * mix(s.positions, s.rank, s.width)
    size = s.positions * s.rank
    return products + norm(size) + mlp(size, s.tokens * s.width, s.mlp_depth, s.mlp_width)


def _wukong(s: Sizes) -> int:
    return _fmb(s) + _linear(s) + s.tokens * s.width


def _mask(s: Sizes) -> int:
    inputs, outputs = s.positions * s.width, s.tokens * s.width
    gate = norm(inputs) + mlp(inputs, inputs, s.mlp_depth, s.mlp_width) + inputs
    return gate + mix(s.positions, s.tokens, s.width) + norm(outputs) + outputs


MODULE_FLOPS: dict[str, Callable[[Sizes], int]] = {
    "dot": _dot,
    "attention": _attention,
    "linear": _linear,
    "cross": _cross,
    "cross_low": _cross_low,
    "convolution": _convolution,
    "fmb": _fmb,
    "wukong": _wukong,
    "mask": _mask,
}


def compiled_flops(
    config: DhenConfig,
    num_fields: int,
    num_dense: int,
    *,
    batch_size: int = 64,
    optimized: bool = False,
) -> float:
    """Forward FLOPs of one example by XLA's cost analysis, of the program as written or as ``optimized``.

    The optimised count depends on the backend: fusion repeats cheap operations, library calls may go uncounted.
    """
    lowered = jax.jit(compact(config, num_fields, num_dense).apply).lower(
        parameter_shapes(config, num_fields, num_dense),
        jax.ShapeDtypeStruct((batch_size, num_fields, config.width), jnp.float32),
        jax.ShapeDtypeStruct((batch_size, num_dense), jnp.float32),
    )
    analysis: Any = None if optimized else lowered.cost_analysis()
    if analysis is None:  # some backends count only what is compiled
        analysis = lowered.compile().cost_analysis()
    return float(analysis["flops"]) / batch_size


def parameter_shapes(config: DhenConfig, num_fields: int, num_dense: int) -> PyTree:
    """The compact build's parameters as shapes."""
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, jnp.float32),
        parameters(canonical(config), num_fields, num_dense),
        is_leaf=is_leaf,
    )


def num_parameters(params: PyTree) -> int:
    """Numbers in a tree of arrays or shapes."""
    return sum(prod(leaf.shape) for leaf in jax.tree.leaves(params))


def measure_qps(
    apply: Callable[[Any, Any, Any], Any],
    params: Any,
    x: Any,
    dense: Any,
    seconds: float,
    *,
    repeats: int = 5,
) -> float:
    """Rows per second of ``apply(params, x, dense)`` (compiled by the caller), the median of ``repeats``.

    Two calls warm up; each repeat fills its share of ``seconds`` with calls that run one after the other.
    """
    for _ in range(2):
        jax.block_until_ready(apply(params, x, dense))
    rates = []
    for _ in range(repeats):
        calls, started = 0, time.perf_counter()
        while calls == 0 or time.perf_counter() - started < seconds / repeats:
            jax.block_until_ready(apply(params, x, dense))
            calls += 1
        rates.append(calls * x.shape[0] / (time.perf_counter() - started))
    return statistics.median(rates)
