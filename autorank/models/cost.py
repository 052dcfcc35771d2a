"""What a model costs: FLOPs by formula and by the compiler, parameters, measured throughput.

FLOPs are those of one forward pass of the dense part for one example, as `flops` counts them; each interaction module
has its count beside it. Table look-ups are not part of it.
"""

import statistics
import time
from collections.abc import Callable
from math import prod
from typing import Any

import jax
import jax.numpy as jnp

from autorank.base.programs import compiler_options
from autorank.base.typing import PyTree
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
from autorank.models.flops import hidden, linear, mix, mlp, norm
from autorank.models.heads import NUM_LOGITS
from autorank.models.interactions import MODULES, Sizes
from autorank.models.parameters import is_leaf


def flops_per_example(config: DhenConfig, num_fields: int, num_dense: int) -> float:
    """Analytic forward FLOPs of one example, dense part; takes microseconds and traces nothing.

    Examples:
        >>> flops_per_example(DhenConfig(width=8, num_layers=1), num_fields=4, num_dense=2)
        6369.0
    """
    c = canonical(config)
    d, m = c.width, num_embeddings(num_fields, num_dense)
    total = input_flops(d, num_dense)
    for layer in layers(c):
        n, outputs = len(layer.modules), layer_outputs(c, layer, m)
        sizes = module_sizes(c, m)
        total += sum(MODULES[name].traits["flops"](sizes) for name in layer.modules)
        total += frame_flops(sizes, n, outputs, c.norm, c.ensemble)
        m = outputs
    return float(total + head_flops(m * d, c.head_depth, c.head_width, NUM_LOGITS[c.head]))


def input_flops(width: int, num_dense: int) -> int:
    """What makes an embedding of the dense features."""
    return mlp(num_dense, width, 1, DENSE_FACTOR * width) if num_dense else 0


def frame_flops(sizes: Sizes, num_modules: int, outputs: int, normed: str, ensemble: str) -> int:
    """What a layer computes around its modules: norm, shortcut, and the sum of all.

    Args:
        sizes: of its modules.
        num_modules: in it.
        outputs: embeddings that it puts out.
        normed: ``model.norm``.
        ensemble: ``model.ensemble``.
    """
    m, d, n = sizes.positions, sizes.width, num_modules
    total = norm(m * d) if normed == "pre" and n else 0
    total += norm(outputs * d) if normed == "post" else 0
    total += mix(m, outputs, d) if outputs != m else 0
    # Adding the parts to each other and to the shortcut; scaling them first.
    total += (1 if ensemble == "concat" and n else n) * outputs * d
    return total + (n * sizes.tokens * d if ensemble == "weighted" else 0)


def head_flops(inputs: int, depth: int, width: int, num_logits: int) -> int:
    """The layers that turn the last embeddings into logits."""
    trunk = hidden(inputs, depth, width)
    if num_logits == 1:
        return trunk + linear(width, 1) + 1
    towers = num_logits * (linear(width, width) + 2 * width)
    return trunk + towers + num_logits * (linear(width, 1) + 1)


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
        analysis = lowered.compile(compiler_options=compiler_options()).cost_analysis()
    return float(analysis["flops"]) / batch_size


def parameter_shapes(config: DhenConfig, num_fields: int, num_dense: int) -> PyTree:
    """The parameters of a compact model as shapes."""
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
