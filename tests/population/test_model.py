"""A population computes what each of its compact models computes, and no model touches another."""

import random

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from autorank.models.dhen import DhenConfig, LayerConfig, compact
from autorank.models.interactions import MODULES
from autorank.population.layouts import layout_of
from autorank.population.model import Population
from autorank.population.routing import routing
from autorank.population.weights import extract, insert

F, N, B = 4, 2, 3
FAST = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
NAMES = ["none", *MODULES]


def random_config(rng, **fixed):
    pick = rng.choice
    values = {
        "num_layers": rng.randint(1, 3),
        **{f"layer{i}": LayerConfig(*rng.choices(NAMES, k=2)) for i in (1, 2, 3)},
        "width": 8,
        "num_tokens": pick((2, 4)),
        "rank": pick((2, 3)),
        "heads": pick((1, 2, 4)),
        "kernel": pick((1, 3, 5)),
        "mlp_depth": pick((1, 2)),
        "mlp_width": pick((4, 8)),
        "norm": pick(("pre", "post", "none")),
        "ensemble": pick(("concat", "sum", "weighted")),
        "head_depth": pick((1, 2)),
        "head_width": pick((4, 8)),
    }
    return DhenConfig(**(values | fixed))


def random_configs(seed, count, **fixed):
    rng = random.Random(seed)
    return [random_config(rng, **fixed) for _ in range(count)]


def own_params(configs, num_dense=N, seed=0):
    """Compact parameters of every model, biases and norm scales moved off 0 and 1."""
    rng = np.random.default_rng(seed)
    found = []
    for i, config in enumerate(configs):
        init = jax.jit(compact(config, F, num_dense).init, compiler_options=FAST)
        params = init(jax.random.key(seed + i), 1.0)
        found.append(
            jax.tree.map(
                lambda v: np.asarray(v) + 0.1 * rng.normal(size=v.shape).astype(np.float32), params
            )
        )
    return found


def rows(configs, num_dense=N):
    rng = np.random.default_rng(1)
    x = rng.normal(size=(len(configs), B, F, configs[0].width)).astype(np.float32)
    return jnp.asarray(x), jnp.asarray(rng.normal(size=(B, num_dense)).astype(np.float32))


def run(layout, configs, params, x, dense, num_dense=N):
    """Logits, and gradients of parameters and inputs, of one population."""
    route = routing(layout, configs, F, num_dense)
    model = Population(layout, F, num_dense)

    def loss(params, x):
        logits = model.apply(params, x, dense, route)
        return jnp.sum(jnp.sin(logits)), logits

    placed = jax.tree.map(jnp.asarray, insert(params, configs, layout, route, F, num_dense))
    short = layout.size - len(configs)
    x = jnp.pad(x, ((0, short), (0, 0), (0, 0), (0, 0)))
    step = jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True), compiler_options=FAST)
    (_, logits), (slope, x_slope) = jax.device_get(step(placed, x))
    return logits, slope, x_slope, route


def alone(config, params, x, dense, num_dense=N, gradients=True):
    """Logits and, if asked for, gradients of parameters and inputs of one compact model."""
    model = compact(config, F, num_dense)

    def loss(params, x):
        logits = model.apply(params, x, dense)
        return jnp.sum(jnp.sin(logits)), logits

    params = jax.tree.map(jnp.asarray, params)
    if not gradients:
        return jax.jit(loss, compiler_options=FAST)(params, x)[1], None, None
    step = jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True), compiler_options=FAST)
    (_, logits), slopes = step(params, x)
    return logits, *slopes


@pytest.mark.parametrize("seed", range(3))
def test_population_is_compact_in_value_and_gradient(seed):
    head = "esmm" if seed == 1 else "ctr"
    num_dense = 0 if seed == 2 else N
    configs = random_configs(seed, 7, head=head)
    params = own_params(configs, num_dense, seed)
    x, dense = rows(configs, num_dense)
    layout = layout_of(configs, F, num_dense)._replace(
        flat=seed % 2 == 1, remat=seed in (1, 2), kernels="interpret" if seed else ""
    )
    logits, slope, x_slope, route = run(layout, configs, params, x, dense, num_dense)
    for i, config in enumerate(configs):
        # Gradients of every fourth model: their programs take a second each to compile.
        gradients = i % 4 == seed % 4
        expected, expected_slope, expected_x = alone(
            config, params[i], x[i], dense, num_dense, gradients
        )
        np.testing.assert_allclose(logits[i], expected, rtol=1e-5, atol=1e-5, err_msg=str(config))
        if not gradients:
            continue
        got = extract(slope, config, i, layout, route, F, num_dense)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-5), got, expected_slope
        )
        np.testing.assert_allclose(x_slope[i], expected_x, rtol=1e-4, atol=2e-5)
