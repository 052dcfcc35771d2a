"""compact = lane with the same weights, in logits and gradients, over random configurations that share one program."""

import collections
import random

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from autorank.models.dhen import (
    DhenConfig,
    LayerConfig,
    canonical,
    compact,
    initial_spread,
    layers,
    parameters,
)
from autorank.models.interactions import MODULES
from autorank.models.parameters import is_leaf
from autorank.population.capacity import (
    capacity_of,
    empty_lane,
    lane_of,
    misfit,
    stacked,
    widest,
)
from autorank.population.network import Network
from autorank.population.pairs import pairs_of
from autorank.population.storage import extract, insert, used
from autorank.training.lanes import AXES

F, N, B, LANES = 4, 2, 3, 21
NAMES = ["none", *MODULES]


def random_config(rng: random.Random, head: str) -> DhenConfig:
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


def random_configs(head: str, count: int) -> list[DhenConfig]:
    rng = random.Random(head)
    return [random_config(rng, head) for _ in range(count)]


CTR, ESMM = random_configs("ctr", 60), random_configs("esmm", 8)


class Shared:
    """One program for the lanes of a capacity: logits, and gradients of parameters and inputs."""

    def __init__(self, configs, num_dense=N, split=False, lanes=LANES, **forms):
        self.lanes = lanes
        self.capacity = capacity_of(configs, F, num_dense)._replace(split=split)
        network = Network(self.capacity, **forms)

        def loss(params, x, dense, lanes, pairs):
            logits = network.apply(params, x, dense, lanes, pairs)
            running = lanes.num_layers > 0
            return jnp.sum(jnp.where(running[:, None, None], jnp.sin(logits), 0)), logits

        self.slopes = jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))

    def check(self, configs, gradients, close=2e-5):
        """Logits of each model, and the gradients of the first ``gradients`` ones; ``close`` is absolute."""
        c, spare = self.capacity, self.lanes - len(configs)
        rng = np.random.default_rng(len(configs))
        x = rng.normal(size=(self.lanes, B, F, c.width)).astype(np.float32)
        for i, config in enumerate(configs):
            x[i, ..., config.width :] = 0
        dense = rng.normal(size=(self.lanes, B, c.num_dense)).astype(np.float32)
        # Biases and scales are random too, so that they are tested.
        own = [
            jax.tree.map(
                lambda leaf, config=config: (
                    initial_spread(config, leaf) * rng.normal(size=leaf.shape)
                ).astype(np.float32),
                parameters(config, F, c.num_dense),
                is_leaf=is_leaf,
            )
            for config in map(canonical, configs)
        ]
        held = [insert(params, config, c) for params, config in zip(own, configs, strict=True)]
        held += [jax.tree.map(np.zeros_like, held[0])] * spare
        params = {
            name: jax.tree.map(lambda *a, n=name: np.stack(a, AXES[n]), *(h[name] for h in held))
            for name in held[0]
        }
        lanes = stacked([lane_of(config, c) for config in configs] + [empty_lane(c)] * spare)
        pairs = pairs_of(c, lanes, np.arange(self.lanes) < len(configs))
        found = self.slopes(*jax.tree.map(jnp.asarray, (params, x, dense, lanes, pairs)))
        (_, logits), (slope, x_slope) = jax.device_get(found)
        for i, config in enumerate(configs):
            jax.tree.map(np.testing.assert_array_equal, extract(held[i], config, c), own[i])
            lane = {
                name: jax.tree.map(lambda a, n=name: np.take(a, i, AXES[n]), tree)  # noqa: B023
                for name, tree in slope.items()
            }
            assert_used(config, c, own[i])
            model = compact(config, F, c.num_dense)

            def loss(params, x, model=model, i=i):
                logits = model.apply(params, x, jnp.asarray(dense[i]))
                return jnp.sum(jnp.sin(logits)), logits

            arguments = jax.tree.map(jnp.asarray, (own[i], x[i, ..., : config.width]))
            assert not x_slope[i, ..., config.width :].any()
            # As whole programs: op by op it costs twice as much to compile.
            if i >= gradients:
                expected = jax.jit(loss)(*arguments)[1]
            else:
                slopes_of = jax.jit(jax.grad(loss, argnums=(0, 1), has_aux=True))
                expected, slopes = slopes_of(*arguments)[::-1]
                here = x_slope[i, ..., : config.width]
                np.testing.assert_allclose(here, slopes[1], rtol=1e-4, atol=close)
                jax.tree.map(
                    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=close),
                    extract(lane, config, c),
                    slopes[0],
                )
            np.testing.assert_allclose(logits[i], expected, rtol=1e-5, atol=1e-5, err_msg=str(i))
        assert np.isfinite(logits[len(configs) :]).all()  # a lane without a model is no trouble


def assert_used(config, capacity, own):
    """The mask of a model marks as many numbers as it has parameters, and only those."""
    mask = used(config, capacity)
    count = sum(int(a.sum()) for a in jax.tree.leaves(mask))
    assert count == sum(np.size(a) for a in jax.tree.leaves(own))
    assert all(a.all() for a in jax.tree.leaves(extract(mask, config, capacity)))


def compact_is_lane(configs):
    """The contract of every module, in logits and gradients; also of one from outside."""
    Shared(configs).check(configs, gradients=len(configs))


@pytest.fixture(scope="module")
def shared():
    return Shared(CTR, chunk=2)


def test_the_sample_covers_every_choice():
    held = collections.Counter(n for c in CTR for layer in layers(c) for n in layer.modules)
    assert set(held) == set(MODULES) and min(held.values()) >= 12
    for key in ("width", "norm", "ensemble", "num_layers", "heads", "kernel", "mlp_depth"):
        assert min(collections.Counter(getattr(c, key) for c in CTR).values()) >= 12


@pytest.mark.parametrize("first", range(0, len(CTR), LANES - 1))
def test_a_lane_computes_its_compact_model_and_its_gradients(shared, first):
    shared.check(CTR[first : first + LANES - 1], gradients=1)
    assert shared.slopes._cache_size() == 1


def test_two_logits_no_dense_features_and_flat_maps():
    Shared(ESMM, num_dense=0, chunk=3, flat=True).check(ESMM, gradients=1)


def test_a_capacity_joins_what_its_models_need():
    assert widest(capacity_of([c], F, N) for c in CTR) == capacity_of(CTR, F, N)
    assert not any(misfit(capacity_of(CTR, F, N), c) for c in CTR)
    with pytest.raises(ValueError, match=r"one population has one model.head, got"):
        capacity_of([CTR[0], ESMM[0]], F, N)
    with pytest.raises(ValueError, match="capacities of one num_fields are joined"):
        widest([capacity_of([DhenConfig()], fields, N) for fields in (4, 8)])


@pytest.mark.parametrize(
    "big, message",
    [
        ({"width": 16}, "width=16 is beyond the program's 8"),
        ({"num_layers": 3}, "num_layers=3 is beyond the program's 2"),
        ({"layer1": LayerConfig("mask")}, r"kinds .*mask.* are not in the program"),
        ({"layer1": LayerConfig("dot", "dot", "dot")}, "slots=3 is beyond the program's 2"),
        ({"ensemble": "concat"}, "positions=8 is beyond the program's 5"),
        ({"num_tokens": 3}, r"tokens \[3\] are not in the program"),
        ({"head": "esmm"}, "model.head=esmm, the program has ctr"),
    ],
)
def test_what_does_not_fit_is_named(big, message):
    layer = LayerConfig("dot", "linear")
    base = {"width": 8, "num_tokens": 4, "layer1": layer, "layer2": layer, "layer3": layer}
    capacity = capacity_of([DhenConfig(**base)], F, N)
    with pytest.raises(ValueError, match=message):
        lane_of(DhenConfig(**(base | big)), capacity)
