"""The layer equation against NumPy, canonical configurations, initialisation, errors."""

import dataclasses
import itertools
import random

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from autorank.models.blocks import EPS
from autorank.models.dhen import (
    Dhen,
    DhenConfig,
    Layer,
    LayerConfig,
    canonical,
    compact,
    parameters,
    structure_key,
)
from autorank.models.interactions import MODULES, SHARED_SIZES
from autorank.models.parameters import call, is_leaf, leaves

TINY = DhenConfig(width=4, num_layers=1, num_tokens=3, rank=2, mlp_width=4, head_width=4)
LINEAR = LayerConfig("linear", "none", "linear")


def random_params(tree, seed=0):
    rng = np.random.default_rng(seed)
    draw = lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), jnp.float32)  # noqa: E731
    return jax.tree.map(draw, tree, is_leaf=is_leaf)


def inputs(num_fields=4, width=4, num_dense=2, rows=3):
    rng = np.random.default_rng(1)
    shapes = (rows, num_fields, width), (rows, num_dense)
    return tuple(jnp.asarray(rng.normal(size=s), jnp.float32) for s in shapes)


@pytest.mark.parametrize(
    "norm, ensemble",
    list(itertools.product(("pre", "post", "none"), ("concat", "sum", "weighted"))),
)
def test_a_layer_is_norm_of_ensemble_plus_shortcut(norm, ensemble):
    config = dataclasses.replace(TINY, norm=norm, ensemble=ensemble, layer1=LINEAR)
    tree = parameters(config, 4, 0)["layer1"]
    p = random_params(tree)
    x = inputs(num_dense=0)[0]
    got = call(Layer(canonical(config), ("linear", "linear")), p, x)

    def normed(v):
        v = v - v.mean(-1, keepdims=True)
        return v / np.sqrt(v.var(-1, keepdims=True) + EPS) * p["norm"]["scale"] + p["norm"]["bias"]

    x, p = jax.device_get((x, p))
    inside = normed(x) if norm == "pre" else x
    parts = [np.einsum("bmd,ml->bld", inside, p[f"slot{i}"]["out"]) for i in (0, 1)]
    if ensemble == "weighted":
        parts = [part * float(p["scale"][i]) for i, part in enumerate(parts)]
    y = np.concatenate(parts, axis=1) if ensemble == "concat" else parts[0] + parts[1]
    y = y + np.einsum("bmd,ml->bld", x, p["shortcut"])
    np.testing.assert_allclose(got, normed(y) if norm == "post" else y, rtol=1e-4, atol=1e-5)


def test_the_shortcut_is_the_identity_if_the_number_is_kept():
    config = dataclasses.replace(TINY, norm="none", num_tokens=4, layer1=LayerConfig("linear"))
    tree = parameters(config, 4, 0)["layer1"]
    assert set(tree) == {"slot0"}
    x = inputs(num_dense=0)[0]
    zero = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), tree, is_leaf=is_leaf)
    np.testing.assert_array_equal(call(Layer(canonical(config), ("linear",)), zero, x), x)


def test_parameter_count_of_a_whole_model_by_hand():
    layer = LayerConfig("linear", "cross_low")
    config = dataclasses.replace(TINY, num_layers=2, layer1=layer, layer2=layer, ensemble="concat")
    f, n, d, w, rank, out = 4, 2, 4, 4, 2, 6
    dense = n * 4 * d + 4 * d + 4 * d * d + d
    total = dense
    for m in (f + 1, out):
        total += m * 3 + (2 * m * d * rank + m * d + m * 3)  # linear, cross_low
        total += m * out if m != out else 0
        total += 2 * d  # norm
    total += out * d * w + w + w + 1
    found = jax.tree.leaves(parameters(config, f, n), is_leaf=is_leaf)
    assert sum(np.prod(leaf.shape) for leaf in found) == total


@pytest.mark.parametrize("num_fields, num_dense", [(4, 0), (4, 2), (1, 0)])
@pytest.mark.parametrize("head, logits", [("ctr", 1), ("esmm", 2), ("shared_bottom", 2)])
def test_shapes_with_and_without_dense_features(num_fields, num_dense, head, logits):
    every = LayerConfig("dot", "attention", "convolution")
    config = dataclasses.replace(TINY, head=head, layer1=every)
    model = compact(config, num_fields, num_dense)
    x, dense = (jax.ShapeDtypeStruct(a.shape, a.dtype) for a in inputs(num_fields, 4, num_dense))
    params = jax.eval_shape(model.init, jax.random.key(0), 1.0)
    assert jax.eval_shape(model.apply, params, x, dense).shape == (3, logits)


def test_initialisation_is_one_draw_scaled_by_an_argument():
    every = LayerConfig("mask", "fmb")
    config = dataclasses.replace(TINY, num_layers=2, layer1=every, layer2=every)
    model = compact(config, 4, 2)
    draws = str(jax.make_jaxpr(model.init)(jax.random.key(0), 1.0)).count("random_bits")
    assert draws == 1
    full, half = (jax.jit(model.init)(jax.random.key(0), s) for s in (1.0, 0.5))
    for leaf, a, b in zip(
        jax.tree.leaves(parameters(config, 4, 2), is_leaf=is_leaf),
        jax.tree.leaves(full),
        jax.tree.leaves(half),
        strict=True,
    ):
        if leaf.is_kernel:
            np.testing.assert_allclose(a, 2 * b, rtol=1e-6)
            assert a.any()
        else:
            assert (a == (leaf.path[-1] == "scale")).all() and (a == b).all()


def test_initial_spread_is_the_root_of_the_fan_in_and_of_the_additions(monkeypatch):
    monkeypatch.setattr(jax.random, "normal", lambda key, shape: jnp.ones(shape))
    every = LayerConfig("linear", "mask")
    config = dataclasses.replace(TINY, num_layers=2, layer1=every, layer2=every)
    params = compact(config, 4, 0).init(jax.random.key(0), 1.0)
    gain = (2 * 2) ** -0.5
    assert params["layer1"]["slot0"]["out"][0, 0] == pytest.approx(gain * 4**-0.5)
    assert params["layer2"]["slot0"]["out"][0, 0] == pytest.approx(gain * 3**-0.5)
    assert params["layer1"]["shortcut"][0, 0] == pytest.approx(4**-0.5)
    assert params["head"]["trunk"]["kernel1"][0, 0, 0] == pytest.approx((3 * 4) ** -0.5)
    assert params["head"]["logit"][0, 0] == pytest.approx(4**-0.5)


@pytest.mark.parametrize("norm", ["post", "none"])
def test_eight_layers_learn_a_planted_interaction_at_scale_one(norm):
    layer = LayerConfig("fmb", "linear")
    stack = {f"layer{i}": layer for i in range(1, 9)}
    config = dataclasses.replace(
        TINY, num_layers=8, norm=norm, **stack, mlp_width=16, head_width=16
    )
    model = compact(config, 3, 0)
    x = jax.random.normal(jax.random.key(1), (512, 3, 4))
    y = jnp.sum(x[:, 0] * x[:, 1], axis=-1) > 0
    dense = jnp.zeros((512, 0))
    optimizer = optax.adam(1e-2)

    def loss_fn(params):
        z = model.apply(params, x, dense)[:, 0]
        return jnp.mean(jax.nn.softplus(jnp.where(y, -z, z)))

    def step(carry, _):
        params, state = carry
        loss, slope = jax.value_and_grad(loss_fn)(params)
        updates, state = optimizer.update(slope, state)
        return (optax.apply_updates(params, updates), state), loss

    @jax.jit
    def train(key):
        params = model.init(key, 1.0)
        return jax.lax.scan(step, (params, optimizer.init(params)), length=100)[1]

    losses = train(jax.random.key(0))
    assert losses[0] < 2.0
    assert losses[-1] < 0.35  # log 2 = 0.69 without the interaction


def random_config(rng):
    names = ["none", *MODULES]
    layers = {f"layer{i}": LayerConfig(*rng.choices(names, k=3)) for i in range(1, 9)}
    return DhenConfig(
        num_layers=rng.randint(1, 8),
        **layers,
        **{key: rng.choice((2, 4, 8)) for key in ("num_tokens", "rank", "mlp_depth", "mlp_width")},
        kernel=rng.choice((1, 3, 5)),
        norm=rng.choice(("pre", "post", "none")),
        ensemble=rng.choice(("concat", "sum", "weighted")),
    )


def test_canonical_is_idempotent_and_the_key_tells_canonical_forms_apart():
    rng = random.Random(0)
    configs = [random_config(rng) for _ in range(300)]
    for config in configs:
        assert canonical(canonical(config)) == canonical(config)
        assert structure_key(canonical(config)) == structure_key(config)
    assert len({structure_key(c) for c in configs}) == len({canonical(c) for c in configs})


def test_parameters_of_the_parts_are_those_of_the_whole_module():
    rng = random.Random(2)
    for num_dense in (0, 2) * 6:
        config = canonical(dataclasses.replace(random_config(rng), width=8))
        shapes = [
            jax.ShapeDtypeStruct((1, *shape), jnp.float32) for shape in ((4, 8), (num_dense,))
        ]
        assert parameters(config, 4, num_dense) == leaves(Dhen(config), *shapes)


def test_what_nothing_uses_does_not_change_the_key():
    rng = random.Random(1)
    for _ in range(100):
        config = random_config(rng)
        active = [getattr(config, f"layer{i}") for i in range(1, config.num_layers + 1)]
        used = {name for layer in active for name in layer.modules}
        for size in SHARED_SIZES:
            by = [name for name in MODULES if size in MODULES[name].traits["uses"]]
            other = dataclasses.replace(config, **{size: 1 if size != "kernel" else 5})
            if used.isdisjoint(by):
                assert structure_key(other) == structure_key(config)
            elif getattr(other, size) != getattr(config, size):
                assert structure_key(other) != structure_key(config)
        if config.num_layers < 8:
            beyond = {f"layer{config.num_layers + 1}": LayerConfig("dot")}
            other = dataclasses.replace(config, **beyond)
            assert structure_key(other) == structure_key(config)


def test_the_order_matters_where_it_is_concatenated_and_only_there():
    one = {"layer1": LayerConfig("dot", "linear")}
    two = {"layer1": LayerConfig("none", "linear", "dot")}
    for ensemble, same in (("sum", True), ("weighted", True), ("concat", False)):
        config = dataclasses.replace(TINY, ensemble=ensemble)
        keys = {structure_key(dataclasses.replace(config, **layer)) for layer in (one, two)}
        assert (len(keys) == 1) == same


@pytest.mark.parametrize(
    "change, layers",
    [
        ({"ensemble": "concat"}, {"layer1": LayerConfig("none", "cross")}),
        ({"norm": "pre", "num_layers": 2}, {"layer2": LayerConfig("cross")}),
        ({"norm": "pre", "num_layers": 3}, {}),
        ({"norm": "post", "num_layers": 2}, {"layer2": LayerConfig("cross", "none")}),
    ],
)
def test_the_canonical_form_computes_the_same_function(change, layers):
    config = dataclasses.replace(TINY, **change, **layers)
    form = canonical(config)
    x, dense = inputs()
    old = jax.eval_shape(Dhen(config).init, jax.random.key(0), x, dense)["params"]
    params = random_params(parameters(form, 4, 2))
    # The same values under the names of the form as written: layers that vanish have no parameters.
    stacks = (sorted(k for k in tree if k.startswith("layer")) for tree in (params, old))
    renamed = {new: params[name] for name, new in zip(*stacks, strict=True)}
    rest = {k: v for k, v in params.items() if not k.startswith("layer")}
    np.testing.assert_array_equal(
        call(Dhen(config), {**rest, **renamed}, x, dense), call(Dhen(form), params, x, dense)
    )


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"norm": "batch"}, "model.norm='batch' is not known; write one of pre, post, none"),
        ({"ensemble": "mean"}, "model.ensemble='mean'"),
        ({"head": "mmoe"}, "model.head='mmoe'"),
        ({"kernel": 4}, "model.kernel=4 is not known; write one of 1, 3, 5"),
        ({"num_layers": 9}, "model.num_layers=9 is too many; write 1 to 8"),
        ({"mlp_depth": 9}, "model.mlp_depth=9 is too many"),
        ({"rank": 0}, "model.rank=0 is too small; write 1 or more"),
        (
            {"width": 16, "heads": 3, "layer1": LayerConfig("attention")},
            "model.heads=3 does not divide model.width=16",
        ),
    ],
)
def test_errors_name_key_and_value(wrong, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(TINY, **wrong)


def test_an_unknown_module_is_named():
    with pytest.raises(ValueError, match=r"model.layer\*.b='dott' is not known; write one of none"):
        LayerConfig(b="dott")
