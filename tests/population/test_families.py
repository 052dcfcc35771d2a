"""Groups of modules: flat maps against plain ones, and a family against its modules apart."""

import random

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from autorank.models.dhen import DhenConfig, LayerConfig
from autorank.models.interactions import MODULES
from autorank.population.capacity import capacity_of, kind_of
from autorank.population.families import Forms, Slot, groups

B, F, N = 6, 3, 2
FAST = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
SLOTS = 3


def config(module: str, heads: int = 1, **sizes) -> DhenConfig:
    big = {"width": 8, "num_tokens": 3, "rank": 3, "kernel": 3, "mlp_depth": 2, "mlp_width": 6}
    return DhenConfig(num_layers=1, layer1=LayerConfig(module), heads=heads, **(big | sizes))


ALL = [config(name) for name in MODULES] + [config("attention", heads=2)]
TOGETHER = capacity_of(ALL, F, N)
APART = TOGETHER._replace(split=True)


def slots_of(group, rng):
    """Slots with one of the group's kinds each, of models of different sizes, and their inputs."""
    kinds = rng.choice(group.kinds, SLOTS)
    positions, width = np.array([4, 3, 4]), np.array([8, 4, 8])
    slot = Slot(kinds, positions, width, np.array([3, 2, 1]), np.array([1, 2, 2]))
    x = rng.normal(size=(SLOTS, B, group.capacity.positions, group.capacity.width))
    inside = (np.arange(x.shape[2])[None, :, None] < positions[:, None, None]) & (
        np.arange(x.shape[3])[None, None] < width[:, None, None]
    )
    x = (x * inside[:, None]).astype(np.float32)
    return jax.tree.map(lambda a: jnp.asarray(a, jnp.int32), slot), jnp.asarray(x)


def value_and_slopes(group, params, x, slot, forms):
    def loss(params, x):
        y = jax.vmap(lambda p, x, s: group.apply(p, x, s, forms))(params, x, slot)
        weights = jnp.sin(jnp.arange(y.size, dtype=jnp.float32)).reshape(y.shape)
        return jnp.sum(weights * y), y

    found = jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True), compiler_options=FAST)(
        params, x
    )
    return jax.device_get((found[0][1], found[1]))


def named(group):
    return "+".join(sorted({group.capacity.kinds[k].module for k in group.kinds}))


@pytest.mark.parametrize("group", groups(APART), ids=named)
def test_flat_maps_compute_the_same(group):
    rng = np.random.default_rng(0)
    slot, x = slots_of(group, rng)
    params = {
        name: jnp.asarray(rng.normal(size=(SLOTS, *shape)), jnp.float32)
        for name, shape in group.shapes().items()
    }
    plain = value_and_slopes(group, params, x, slot, Forms())
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-4),
        value_and_slopes(group, params, x, slot, Forms(flat=True)),
        plain,
    )


@pytest.mark.parametrize("module", ["linear", "cross_low", "convolution", "dot", "fmb", "mask"])
def test_a_family_computes_each_of_its_modules(module):
    """The same parameters at the places that the family and the module alone give them."""
    kind = kind_of(module, config(module))
    k = TOGETHER.kinds.index(kind)
    (family,) = (g for g in groups(TOGETHER) if k in g.kinds)
    (alone,) = (g for g in groups(APART) if k in g.kinds)
    assert len(family.kinds) > len(alone.kinds)
    rng = np.random.default_rng(random.Random(module).randrange(100))
    slot, x = slots_of(alone, rng)
    tree = parameter_shapes(module)
    values = {path: rng.normal(size=shape).astype(np.float32) for path, shape in tree.items()}

    def placed(group):
        found = {n: np.zeros((SLOTS, *s), np.float32) for n, s in group.shapes().items()}
        for path, value in values.items():
            name, index = group.place(kind, path, value.shape)
            found[name][(slice(None), *index)] = value
        return jax.tree.map(jnp.asarray, found)

    whole = slot._replace(
        positions=jnp.full(SLOTS, TOGETHER.positions), width=jnp.full(SLOTS, TOGETHER.width)
    )
    outputs = [value_and_slopes(g, placed(g), x, whole, Forms())[0] for g in (family, alone)]
    np.testing.assert_allclose(*outputs, rtol=1e-5, atol=1e-5)


def parameter_shapes(module: str) -> dict:
    """The compact module's parameters by path."""
    from autorank.models.dhen import parameters, place_of
    from autorank.models.parameters import is_leaf

    found = {}
    for leaf in jax.tree.leaves(parameters(config(module), F, N), is_leaf=is_leaf):
        place = place_of(leaf)
        if place.slot is not None:
            found[place.names] = leaf.shape
    return found


def test_every_kind_is_in_one_group():
    for capacity in (TOGETHER, APART):
        found = sorted(k for group in groups(capacity) for k in group.kinds)
        assert found == list(range(len(capacity.kinds)))
    assert len(groups(TOGETHER)) < len(groups(APART))
