"""compact = masked with the same weights, and what is masked never moves: over random configurations."""

import collections
import random

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from autorank.models.architecture import architecture, limits_of
from autorank.models.dhen import DhenConfig, LayerConfig, compact, layers
from autorank.models.interactions import MODULES
from autorank.models.masked import MaskedModel, extract

F, N, B, STACK = 4, 2, 3, 10
# Compiling is most of the work here, and nothing is timed.
FAST = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
NAMES = ["none", *MODULES]


def random_config(rng, head):
    pick = rng.choice
    return DhenConfig(
        width=pick((4, 8)),
        num_layers=rng.randint(1, 3),
        **{f"layer{i}": LayerConfig(*rng.choices(NAMES, k=3)) for i in (1, 2, 3)},
        num_tokens=pick((2, 4)),
        rank=pick((2, 3)),
        heads=pick((1, 2, 4)),
        kernel=pick((1, 3, 5)),
        mlp_depth=pick((1, 2)),
        mlp_width=pick((4, 8)),
        norm=pick(("pre", "post", "none")),
        ensemble=pick(("concat", "sum", "weighted")),
        head=head,
        head_depth=pick((1, 2)),
        head_width=pick((4, 8)),
    )


def random_configs(head, count):
    rng = random.Random(f"{head}")
    return [random_config(rng, head) for _ in range(count)]


CTR, ESMM = random_configs("ctr", 170), random_configs("esmm", 40)


def rows(width):
    rng = np.random.default_rng(0)
    shapes = (B, F, width), (B, N)
    return tuple(rng.normal(size=s).astype(np.float32) for s in shapes)


def stacked(archs):
    return jax.tree.map(lambda *a: jnp.stack(a), *archs)


def perturbed(params, seed):
    """Biases and scales away from 0 and 1, so that they are tested too; masked entries hold anything."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda v: (v + 0.1 * rng.normal(size=v.shape)).astype(np.float32), jax.device_get(params)
    )


def assert_same_logits(config, limits, params, logits, x, dense, num_dense=N):
    own = jax.tree.map(jnp.asarray, extract(params, config, limits, F, num_dense))
    # Op by op: no program to compile for each of the configurations.
    expected = compact(config, F, num_dense).apply(own, jnp.asarray(x[..., : config.width]), dense)
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-5, err_msg=str(config))


@pytest.fixture(scope="module")
def population():
    return population_of(CTR)


def population_of(configs):
    """One vmapped program: logits, and the gradients of parameters and inputs, of a stack of architectures."""
    limits = limits_of(configs)
    model = MaskedModel(limits, F, N)

    def loss(params, x, dense, arch):
        logits = model.apply(params, x, dense, arch)
        return jnp.sum(jnp.sin(logits)), logits

    slopes = jax.vmap(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True), (0, None, None, 0))
    init = jax.jit(jax.vmap(model.init, (0, None, 0)), compiler_options=FAST)
    return limits, init, jax.jit(slopes, compiler_options=FAST)


def test_the_sample_covers_every_choice():
    held = collections.Counter(n for c in CTR for layer in layers(c) for n in layer.modules)
    assert set(held) == set(MODULES) and min(held.values()) >= 30
    for key in ("norm", "ensemble", "num_layers", "heads", "kernel", "mlp_depth"):
        assert min(collections.Counter(getattr(c, key) for c in CTR).values()) >= 30


@pytest.mark.parametrize("first", range(0, len(CTR), STACK))
def test_compact_is_masked_and_masked_weights_get_no_gradient(population, first):
    compact_is_masked(population, CTR[first : first + STACK], first)


def compact_is_masked(population, configs, first):
    """Same logits from the same weights, and no gradient to weights that are masked."""
    limits, init, slopes = population
    arch = stacked([architecture(c, limits, F, N) for c in configs])
    keys = jax.random.split(jax.random.key(first), len(configs))
    params = perturbed(init(keys, 1.0, arch), first)
    x, dense = rows(limits.width)
    (_, logits), (slope, x_slope) = jax.device_get(slopes(params, x, dense, arch))
    flat, treedef = jax.tree.flatten(params)
    ends = np.cumsum([v[0].size for v in flat])
    numbered = jax.tree.unflatten(
        treedef,
        [np.arange(e - v[0].size, e).reshape(v[0].shape) for v, e in zip(flat, ends, strict=True)],
    )
    for i, config in enumerate(configs):
        own = jax.tree.map(lambda v, i=i: v[i], params)
        assert_same_logits(config, limits, own, logits[i], x, jnp.asarray(dense))
        moved = np.concatenate([v[i].ravel() for v in jax.tree.leaves(slope)])
        used = extract(numbered, config, limits, F, N)
        active = np.concatenate([v.ravel() for v in jax.tree.leaves(used)])
        assert len(np.unique(active)) == len(active)
        assert moved[active].any()
        assert not np.delete(moved, active).any(), config
        assert not x_slope[i, :, :, config.width :].any()


def test_gradients_are_those_of_the_compact_model(population):
    limits, init, slopes = population
    configs = CTR[:STACK]
    arch = stacked([architecture(c, limits, F, N) for c in configs])
    params = jax.device_get(init(jax.random.split(jax.random.key(0), STACK), 1.0, arch))
    x, dense = rows(limits.width)
    _, (slope, _) = jax.device_get(slopes(params, x, dense, arch))
    for i in (0, 9):
        config, model = configs[i], compact(configs[i], F, N)
        own, expected = (
            extract(jax.tree.map(lambda v, i=i: v[i], tree), config, limits, F, N)
            for tree in (params, slope)
        )
        got = jax.grad(
            lambda p, c=config, m=model: jnp.sum(
                jnp.sin(m.apply(p, jnp.asarray(x[..., : c.width]), jnp.asarray(dense)))
            )
        )(jax.tree.map(jnp.asarray, own))
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), got, expected
        )


def test_two_logits_and_no_dense_features():
    limits = limits_of(ESMM)
    model = MaskedModel(limits, F, 0)
    init, apply = (jax.jit(f, compiler_options=FAST) for f in (model.init, model.apply))
    x, _ = rows(limits.width)
    dense = jnp.zeros((B, 0))
    for seed, config in enumerate(ESMM):
        arch = architecture(config, limits, F, 0)
        params = perturbed(init(jax.random.key(seed), 1.0, arch), seed)
        # What lies beyond the width has no effect, whatever it is.
        wide = np.where(np.arange(limits.width) < config.width, x, np.nan)
        assert_same_logits(
            config, limits, params, apply(params, wide, dense, arch), x, dense, num_dense=0
        )
    assert init._cache_size() == apply._cache_size() == 1


def test_both_forms_draw_from_the_same_distribution(monkeypatch):
    monkeypatch.setattr(jax.random, "normal", lambda key, shape: jnp.ones(shape))
    limits, key = limits_of(CTR), jax.random.key(0)
    model = MaskedModel(limits, F, N)
    for config in CTR[:2]:
        arch = architecture(config, limits, F, N)
        drawn = extract(jax.device_get(model.init(key, 0.5, arch)), config, limits, F, N)
        expected = compact(config, F, N).init(key, 0.5)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), drawn, expected)


@pytest.mark.parametrize(
    "big, message",
    [
        ({"width": 16}, "model.width=16 is beyond limits.width=8"),
        ({"num_layers": 3}, "model.num_layers=3 is beyond limits.num_layers=2"),
        ({"layer1": LayerConfig("mask")}, r"modules \['mask'\] are not in limits.modules"),
        ({"layer1": LayerConfig("dot", "dot", "dot")}, "3 modules in a layer are beyond"),
        ({"ensemble": "concat"}, "8 embeddings are beyond limits.outputs=4"),
        ({"head": "esmm"}, "model.head='esmm' is not limits.head='ctr'"),
    ],
)
def test_what_does_not_fit_is_named(big, message):
    layer = LayerConfig("dot", "linear")
    base = {"width": 8, "num_tokens": 4, "layer1": layer, "layer2": layer, "layer3": layer}
    limits = limits_of([DhenConfig(**base)])
    with pytest.raises(ValueError, match=message):
        architecture(DhenConfig(**(base | big)), limits, F, N)


def test_limits_need_one_head():
    with pytest.raises(ValueError, match="one masked program has one model.head"):
        limits_of([DhenConfig(head="ctr"), DhenConfig(head="esmm")])
    with pytest.raises(ValueError, match=r"got \[\]"):
        limits_of([])
