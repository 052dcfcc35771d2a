"""FLOPs by formula against the compiler's count and hand arithmetic; throughput on a fake clock."""

import random

import jax
import jax.numpy as jnp
import pytest

from autorank.models import cost
from autorank.models.cost import (
    compiled_flops,
    flops_per_example,
    measure_qps,
    num_parameters,
    parameter_shapes,
)
from autorank.models.dhen import DhenConfig, LayerConfig, compact
from autorank.models.interactions import MODULES


def random_config(rng):
    names = ["none", *MODULES]
    return DhenConfig(
        width=rng.choice((8, 16, 64)),
        num_layers=rng.randint(1, 3),
        **{f"layer{i}": LayerConfig(*rng.choices(names, k=3)) for i in (1, 2, 3)},
        num_tokens=rng.choice((8, 16, 32)),
        rank=rng.choice((8, 64)),
        heads=rng.choice((1, 2, 4)),
        kernel=rng.choice((1, 3, 5)),
        mlp_depth=rng.choice((1, 2, 3)),
        mlp_width=rng.choice((16, 512)),
        norm=rng.choice(("pre", "post", "none")),
        ensemble=rng.choice(("concat", "sum", "weighted")),
        head=rng.choice(("ctr", "esmm")),
        head_depth=rng.choice((1, 2)),
        head_width=rng.choice((16, 256)),
    )


@pytest.mark.parametrize("seed", range(4))
def test_formula_agrees_with_the_compiler(seed):
    rng = random.Random(seed)
    for _ in range(6):
        config, num_dense = random_config(rng), rng.choice((0, 3))
        expected = compiled_flops(config, 9, num_dense)
        # Observed: within 0.7% at all sizes.
        assert flops_per_example(config, 9, num_dense) == pytest.approx(expected, rel=0.02), config


@pytest.mark.parametrize("name", MODULES)
def test_each_module_agrees_with_the_compiler(name):
    config = DhenConfig(num_layers=1, layer1=LayerConfig(name))
    expected = compiled_flops(config, 20, 0)
    assert flops_per_example(config, 20, 0) == pytest.approx(expected, rel=0.005)


def test_the_optimised_program_costs_about_the_same():
    config = DhenConfig(num_layers=1, layer1=LayerConfig("cross", "linear"))
    written, optimized = (compiled_flops(config, 20, 3, optimized=o) for o in (False, True))
    assert optimized == pytest.approx(written, rel=0.1)


def test_a_linear_model_by_hand():
    config = DhenConfig(
        width=8,
        num_layers=1,
        layer1=LayerConfig("linear"),
        num_tokens=4,
        norm="none",
        head_width=16,
    )
    mix = 2 * 5 * 4 * 8
    head = (2 * 4 * 8 * 16 + 2 * 16) + (2 * 16 + 1)
    assert flops_per_example(config, 5, 0) == 2 * mix + 4 * 8 + head


def test_what_is_not_used_costs_nothing():
    small = DhenConfig(num_layers=1, layer1=LayerConfig("linear"), rank=8, mlp_width=64)
    large = DhenConfig(
        num_layers=1,
        layer1=LayerConfig("linear"),
        layer2=LayerConfig("mask"),
        rank=64,
        mlp_width=2048,
    )
    assert flops_per_example(small, 9, 3) == flops_per_example(large, 9, 3)


def test_parameters_are_counted_from_arrays_and_shapes():
    config = DhenConfig(width=4, num_layers=1, num_tokens=2, layer1=LayerConfig("linear"))
    params = compact(config, 3, 0).init(jax.random.key(0), 1.0)
    by_hand = 3 * 2 + 3 * 2 + 2 * 4 + (2 * 4 * 64 + 64) + (64 + 1)
    assert num_parameters(params) == num_parameters(parameter_shapes(config, 3, 0)) == by_hand


def test_throughput_is_the_median_over_repeats_after_a_warm_up(monkeypatch):
    clock, calls = [0.0], [0]

    def apply(params, x, dense):
        calls[0] += 1
        # Slow while warming up, then 0.25 s a call, one hiccup in the first repeat.
        clock[0] += {1: 100.0, 2: 50.0, 3: 7.0}.get(calls[0], 0.25)
        return x

    monkeypatch.setattr(cost.time, "perf_counter", lambda: clock[0])
    rate = measure_qps(apply, None, jnp.zeros((32, 2)), None, 5.0)
    assert rate == pytest.approx(32 / 0.25)
    assert calls[0] == 2 + 1 + 4 * 4
