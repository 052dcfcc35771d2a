"""A population trains every model as its compact program does, and a model that diverges harms no other."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from autorank.base.programs import compiler_options
from autorank.models.dhen import DhenConfig, LayerConfig, compact
from autorank.population.layouts import layout_of
from autorank.population.weights import extract
from autorank.training.population import make_population
from autorank.training.step import Data, Hparams, Schedule
from autorank.training.trainer import make_program, window_ne

# Bit-for-bit claims are about programs as production compiles them.
pytestmark = pytest.mark.optimized

F, N, V, B, WINDOWS, STEPS = 4, 2, 50, 16, 5, 20
UNTRAINED = (0, 7)  # id 0 is the most frequent one
# Large eps: differences of rounding grow by a factor of two a step otherwise, whatever computes them.
CLOSE = {"rtol": 2e-4, "atol": 2e-5}
CONFIGS = [
    DhenConfig(
        width=4,
        num_layers=2,
        layer1=LayerConfig("fmb", "linear"),
        layer2=LayerConfig("dot"),
        num_tokens=3,
        rank=2,
        mlp_width=8,
        norm="post",
        ensemble="concat",
        head_width=8,
    ),
    DhenConfig(
        width=4, num_layers=1, layer1=LayerConfig("linear"), num_tokens=2, norm="none", head_width=4
    ),
    DhenConfig(
        width=4,
        num_layers=2,
        layer1=LayerConfig("dot", "fmb"),
        layer2=LayerConfig("linear", "linear"),
        num_tokens=2,
        rank=3,
        mlp_width=4,
        mlp_depth=2,
        norm="pre",
        ensemble="weighted",
        head_depth=2,
    ),
]
SEEDS = (3, 1, 4)


def hparams_of(p, dense_rate=None):
    rates = dict(
        dense_rate=dense_rate or 2e-3 * (p + 1),
        table_rate=0.005 * (p + 1),
        dense_eps=1e-3,
        table_eps=1e-2,
        weight_decay=0.01 * p,
        init_scale=1.0 - 0.2 * p,
        table_scale=0.02 * (p + 1),
    )
    return Hparams(**{name: jnp.float32(value) for name, value in rates.items()})


def stacked(rows):
    return Hparams(*(jnp.stack(column) for column in zip(*rows, strict=True)))


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    rows = B * STEPS
    # Id 0 very often: duplicates.
    ids = rng.integers(0, V, (rows, F)) * (rng.random((rows, F)) < 0.7)
    labels = rng.random((rows, 1)) < 0.4
    parts = (
        ids.astype(np.int32),
        rng.normal(size=(rows, N)).astype(np.float32),
        labels.astype(np.float32),
    )
    return Data(*map(jnp.asarray, parts)), Schedule(jnp.int32(STEPS), jnp.int32(4))


@pytest.fixture(scope="module")
def population(data):
    rows, schedule = data
    layout = layout_of(CONFIGS, F, N)._replace(flat=True)
    program = make_population(
        layout, F, N, num_ids=V, batch_size=B, num_windows=WINDOWS, untrained=UNTRAINED
    )
    run = jax.jit(program.run, compiler_options=compiler_options())

    def train(hparams, stop=STEPS):
        state, route = program.start(CONFIGS, SEEDS, stacked(hparams))
        return run(state, route, stacked(hparams), schedule, rows, jnp.int32(stop)), route

    return layout, train


def test_every_model_trains_as_its_compact_program(population, data):
    layout, train = population
    rows, schedule = data
    state, route = jax.device_get(train([hparams_of(p) for p in range(3)]))
    for p, config in enumerate(CONFIGS):
        program = make_program(
            compact(config, F, N),
            head="ctr",
            width=4,
            num_ids=V,
            batch_size=B,
            num_windows=WINDOWS,
            untrained=UNTRAINED,
        )
        run = jax.jit(program.run, compiler_options=compiler_options())
        own = run(
            jax.random.key(SEEDS[p]),
            program.empty(),
            hparams_of(p),
            schedule,
            rows,
            jnp.int32(0),
            jnp.int32(STEPS),
        )
        for got, expected in zip(state.curve, own.curve, strict=True):
            np.testing.assert_allclose(got[:, p], expected, **CLOSE)
        np.testing.assert_allclose(state.rows[:, p], own.table.rows, **CLOSE)
        np.testing.assert_allclose(state.accumulator[:, p], own.table.accumulator, **CLOSE)
        got = extract(state.params, config, p, layout, route, F, N)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **CLOSE), got, own.params)
        assert state.failed_step[p] == int(own.failed_step) == -1
    np.testing.assert_array_equal(state.rows[np.array(UNTRAINED)], 0.0)


def test_a_model_that_diverges_harms_no_other(population):
    _, train = population
    sane = [hparams_of(p) for p in range(3)]
    before, _ = jax.device_get(train(sane))
    after, _ = jax.device_get(train([sane[0], hparams_of(1, dense_rate=1e30), sane[2]]))
    assert after.failed_step[1] > 0 and not np.isfinite(after.curve.losses[-1, 1]).all()
    for p in (0, 2):
        assert after.failed_step[p] == -1
        np.testing.assert_array_equal(after.curve.losses[:, p], before.curve.losses[:, p])
        np.testing.assert_array_equal(after.rows[:, p], before.rows[:, p])


def test_a_partial_run_is_a_prefix_of_the_full_one(population):
    _, train = population
    hparams = [hparams_of(p) for p in range(3)]
    part, full = (jax.device_get(train(hparams, stop)[0]) for stop in (STEPS // 2, STEPS))
    reached = WINDOWS // 2
    for a, b in zip(part.curve, full.curve, strict=True):
        np.testing.assert_array_equal(a[:reached], b[:reached])
    assert int(part.step) == STEPS // 2 and np.isfinite(window_ne(full.curve)).all()
