"""The kernels of a layer compute what compact models do, run on a GPU, and touch only what a model has."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

from autorank.models.dhen import DhenConfig, LayerConfig
from autorank.population.capacity import capacity_of, empty_lane, lane_of, stacked
from autorank.population.kernels import relaxed, work_lists
from autorank.population.kernels.arena import Moments, Rates, cleared, learned
from autorank.population.kernels.layout import Layout
from autorank.population.kernels.row_formulas import FORMULAS
from autorank.population.kernels.slot_table import slot_table
from autorank.population.network import Network
from autorank.population.pairs import pairs_of
from autorank.population.storage import arena_size, is_shape, shapes, used
from autorank.training.lanes import AXES, lane_zeros
from tests.population import test_network
from tests.population.test_network import Shared

F, N, B = 4, 2, 3
SIZES: dict[str, Any] = {
    "num_tokens": 2,
    "rank": 3,
    "kernel": 3,
    "mlp_depth": 2,
    "mlp_width": 8,
    "head_width": 4,
}
CONFIGS = [
    DhenConfig(
        width=8, num_layers=2, layer1=LayerConfig("attention", "mask"), layer2=LayerConfig("dot"),
        heads=2, norm="pre", ensemble="concat", **SIZES,
    ),
    DhenConfig(
        width=4, num_layers=2, layer1=LayerConfig("cross", "fmb"), layer2=LayerConfig("linear"),
        norm="post", ensemble="weighted", **SIZES,
    ),
    DhenConfig(
        width=4, num_layers=1, layer1=LayerConfig("convolution", "cross_low"), norm="none",
        ensemble="sum", **{**SIZES, "num_tokens": 4, "mlp_depth": 1},
    ),
]  # fmt: skip


def test_every_formula_is_tried():
    layers = [c.layer1 for c in CONFIGS] + [c.layer2 for c in CONFIGS]
    assert {module for layer in layers for module in layer.modules} >= set(FORMULAS)


def test_logits_and_gradients_are_those_of_compact_models(monkeypatch):
    monkeypatch.setattr(work_lists, "SMALLEST", 4)
    shared = Shared(CONFIGS, split=True, lanes=4, kernels="interpret")
    # Blocks of 4 or 5 embeddings of width 4 or 8, and models for each.
    assert len(work_lists.views_of(shared.capacity)) == 4
    shared.check(CONFIGS, gradients=len(CONFIGS))


def test_rows_of_38_embeddings_of_width_32_are_those_of_a_compact_model(monkeypatch):
    """Of KuaiRand's size: blocks are padded to 64."""
    monkeypatch.setattr(test_network, "F", 37)
    # Smaller blocks, which this model does not use, would only take longer to compile.
    monkeypatch.setattr(work_lists, "SMALLEST", 64)
    layer = {"layer1": LayerConfig("attention", "fmb")}
    config = DhenConfig(width=32, num_layers=1, heads=2, norm="pre", **layer, **SIZES)
    shared = Shared([config], split=True, lanes=1, kernels="interpret")
    assert shared.capacity.positions == 38
    shared.check([config], gradients=1)


def test_the_backward_pass_computes_again_what_is_too_large_to_keep(monkeypatch):
    monkeypatch.setattr(Layout, "keeps", False)
    layers = {"layer1": LayerConfig("dot"), "layer2": LayerConfig("linear")}
    config = DhenConfig(width=4, num_layers=2, norm="none", **layers, **(SIZES | {"mlp_depth": 1}))
    shared = Shared([config], split=True, lanes=1, kernels="interpret")
    shared.check([config], gradients=1)


def test_what_is_kept_has_places_in_an_array():
    capacity = capacity_of(CONFIGS, F, N)._replace(split=True)
    layout = Layout(capacity, 4, B, jnp.float32, "gpu")
    assert layout.keeps and layout.kept_layers == 2
    # Between the two bounds, each layer fits but not both of them.
    most = 2**31 // (layout.pairs * max(layout.inputs, 2 * layout.result, 2 * layout.hidden))
    large = Layout(capacity, 4, int(0.75 * most), jnp.float32, "gpu")
    assert large.is_addressable and not large.keeps and large.kept_layers == 1


def arguments(capacity, lanes: int):
    params = {name: lane_zeros(tree, lanes, AXES[name]) for name, tree in shapes(capacity).items()}
    models = stacked([empty_lane(capacity)] * lanes)
    pairs = pairs_of(capacity, models, np.zeros(lanes, bool))
    x = jnp.zeros((lanes, B, F, capacity.width))
    return params, x, jnp.zeros((lanes, B, N)), *jax.tree.map(jnp.asarray, (models, pairs))


def test_forward_and_backward_lower_to_kernels_of_a_gpu():
    """No GPU is needed to find an operation that Triton's form of Pallas does not have, or has for one precision."""
    capacity = capacity_of(CONFIGS, F, N)._replace(split=True)
    network = Network(capacity, dtype=jnp.bfloat16, kernels="gpu")

    def loss(params, x, *rest):
        return jnp.sum(network.apply(params, x, *rest))

    traced = jax.jit(jax.grad(loss, argnums=(0, 1))).trace(*arguments(capacity, 2))
    text = traced.lower(lowering_platforms=("cuda",)).as_text()
    assert text.count("__gpu$xla.gpu.triton") > 20


def test_what_the_kernels_do_not_hold_is_left_to_the_compiler():
    capacity = capacity_of(CONFIGS, F, N)._replace(split=True)
    network = Network(capacity, kernels="gpu")
    assert network.layout(4, B) is not None
    assert network.layout(2_000_000, 4096) is None  # places beyond an int32
    wukong = DhenConfig(width=8, num_layers=1, layer1=LayerConfig("wukong"), **SIZES)
    wide = DhenConfig(width=128, num_layers=1, layer1=LayerConfig("linear"), **SIZES)
    for config in (wukong, wide):
        own = capacity_of([config], F, N)._replace(split=True)
        assert Network(own, kernels="gpu").layout(4, B) is None


def test_an_arena_is_learned_as_optax_does_where_models_have_numbers():
    capacity = capacity_of(CONFIGS, F, N)._replace(split=True)
    lanes = len(CONFIGS)
    layout = Layout(capacity, lanes, B, jnp.float32, "interpret")
    models = stacked([lane_of(config, capacity) for config in CONFIGS])
    table = slot_table(capacity, jax.tree.map(jnp.asarray, models))
    shape = capacity.num_layers, lanes, capacity.slots, arena_size(capacity)
    inside = np.stack([used(config, capacity)["arena"] for config in CONFIGS], axis=1)
    clear = np.asarray(cleared(layout, table)).reshape(shape)
    assert inside.any() and not clear[inside].any()

    rng = np.random.default_rng(0)
    p, m, g = (np.where(inside, rng.normal(size=shape), 0).astype(np.float32) for _ in range(3))
    v = np.square(np.where(inside, rng.normal(size=shape), 0)).astype(np.float32)
    steps, rate = np.array([1, 5, 9]), np.array([1e-3, 1e-2, 1e-1])
    runs = np.array([True, True, False])
    eps, decay = np.array([1e-8, 1e-3, 1e-2]), np.array([0, 0.1, 0.2])
    numbers = [jnp.asarray(a, jnp.float32) for a in (rate, eps, decay, steps)]
    rates = Rates(numbers[0], numbers[1], numbers[2], numbers[3], jnp.asarray(runs))
    flat = [jnp.asarray(a.reshape(-1)) for a in (p, m, v)]
    found = learned(layout, table, Moments(*flat), jnp.asarray(g.reshape(-1)), rates)
    found = [np.asarray(a).reshape(shape) for a in found]
    for lane in range(lanes):
        optimizer = optax.adamw(
            float(rates.rate[lane]),
            eps=float(rates.eps[lane]),
            weight_decay=float(rates.decay[lane]),
        )
        state = optax.tree_utils.tree_set(
            optimizer.init(jnp.asarray(p[:, lane])),
            count=jnp.int32(steps[lane] - 1),
            mu=jnp.asarray(m[:, lane]),
            nu=jnp.asarray(v[:, lane]),
        )
        updates, state = optimizer.update(jnp.asarray(g[:, lane]), state, jnp.asarray(p[:, lane]))
        get = optax.tree_utils.tree_get
        expected = [p[:, lane] + np.asarray(updates), get(state, "mu"), get(state, "nu")]
        if not runs[lane]:
            expected = [p[:, lane], m[:, lane], v[:, lane]]
        for got, want in zip(found, expected, strict=True):
            np.testing.assert_allclose(got[:, lane], want, rtol=1e-4, atol=1e-6)


def test_shapes_are_known():
    """The trees that the kernels flatten have the arrays that they read."""
    tree = shapes(capacity_of(CONFIGS, F, N))
    assert all(is_shape(tree[name]) for name in ("scale", "shortcut", "arena"))
    assert set(tree["norm"]) == {"scale", "bias"}


def lower_addition():
    """Prints Triton's code of a kernel that adds."""

    def kernel(x, y):
        number = jnp.arange(16)
        relaxed.add_relaxed(y, number, x[...], number < 5)

    x = jax.ShapeDtypeStruct((16,), jnp.float32)
    call = pl.pallas_call(kernel, out_shape=x, compiler_params=triton.CompilerParams(), debug=True)
    jax.jit(call).trace(x).lower(lowering_platforms=("cuda",))


def test_gradients_are_added_in_no_order_with_other_memory(capsys):
    """Pallas' own additions acquire and release memory, which makes them slow on a GPU."""
    assert relaxed.IS_RELAXED, (
        "JAX's names have changed: see autorank/population/kernels/relaxed.py"
    )
    lower_addition()
    assert "tt.atomic_rmw fadd, relaxed, gpu" in capsys.readouterr().out


def test_where_jax_has_other_private_names_its_own_addition_is_taken(capsys, caplog, monkeypatch):
    monkeypatch.setattr(relaxed, "IS_RELAXED", False)
    relaxed._warn.cache_clear()
    lower_addition()
    assert "tt.atomic_rmw fadd, acq_rel, gpu" in capsys.readouterr().out
    assert "lanes train more slowly" in caplog.text
