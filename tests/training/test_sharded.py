"""One model over several devices equals one device: values, failures, prefixes, memory."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autorank.base.programs import compiler_options
from autorank.data.format.batches import Dataset
from autorank.data.format.schema import Field, Schema
from autorank.models.dhen import DhenConfig, LayerConfig, compact
from autorank.objectives.base import predict_rows
from autorank.training.compact import Setting
from autorank.training.row_exchange import exchange_bytes, unique_ids
from autorank.training.sharded import device_mesh, make_sharded_program, on_one_device, place
from autorank.training.step import Data, Hparams, Schedule
from autorank.training.trainer import make_program
from tests.making import make_objective

# Claims of memory and of `four`'s bits are about programs as production compiles them, and so is one comparison with
# one device; the other comparisons have the same tolerances and compile cheaply.
optimized = pytest.mark.optimized

IDS, BATCH, STEPS, WINDOWS, FIELDS = 37, 48, 30, 5, 3  # 37 rows divide by no number of devices
UNTRAINED = (3, 20)  # on different devices
MODEL = DhenConfig(
    width=4,
    num_layers=1,
    num_tokens=3,
    layer1=LayerConfig("cross", "linear"),
    norm="none",
    head_width=8,
)
HPARAMS = Hparams(*map(jnp.float32, (3e-3, 0.1, 1e-8, 1e-8, 0.01, 1.0, 0.01)))
SCHEDULE = Schedule(jnp.int32(STEPS), jnp.int32(8))


def log() -> Data:
    """Skewed ids: most rows of a batch, on all devices, share a few of them; the last ids never appear."""
    rng = np.random.default_rng(0)
    sparse = np.minimum(rng.geometric(0.15, (BATCH * STEPS + 7, FIELDS)), IDS - 3).astype(np.int32)
    dense = rng.normal(size=(len(sparse), 1)).astype(np.float32)
    labels = rng.integers(0, 2, (len(sparse), 2)).astype(np.float32)
    return Data(sparse, dense, labels)  # pyright: ignore[reportArgumentType]


LOG = log()


def program_of(head: str, devices: int | None, num_ids: int = IDS, width: int = 4):
    """A program and the function that runs it on numpy rows; ``devices=None`` is the plain one."""
    model = compact(DhenConfig(**(vars(MODEL) | {"head": head, "width": width})), FIELDS, 1)
    sizes = {"head": head, "width": width, "num_ids": num_ids, "batch_size": BATCH}
    sizes |= {"num_windows": WINDOWS, "untrained": UNTRAINED}
    if devices is None:
        program = make_program(model, **sizes)
        put = lambda rows: Data(*map(jnp.asarray, rows))  # noqa: E731
    else:
        mesh = device_mesh(devices)
        program = make_sharded_program(model, mesh=mesh, **sizes)
        put = lambda rows: place(*rows, mesh, BATCH)  # noqa: E731
    jitted = jax.jit(program.run, donate_argnums=1, compiler_options=compiler_options())

    def run(start: int, stop: int, state=None, hparams: Hparams = HPARAMS, rows: Data = LOG):
        state = program.empty() if state is None else state
        key, steps = jax.random.key(3), (jnp.int32(start), jnp.int32(stop))
        return jitted(key, state, hparams, SCHEDULE, put(rows), *steps)

    return program, run, put, jitted


def assert_close(one, many, tolerance: float = 1e-5):
    """Parameters, rows, accumulators, curve and counters of a plain and a sharded state."""
    params, rows = on_one_device(many, IDS)
    near = {"rtol": tolerance, "atol": tolerance}
    jax.tree.map(lambda a, b: np.testing.assert_allclose(b, a, **near), one.params, params)
    np.testing.assert_allclose(rows, one.table.rows, **near)
    accumulator = np.asarray(many.table.accumulator)[:IDS]
    np.testing.assert_allclose(accumulator, one.table.accumulator, **near)
    for a, b in zip(one.curve, many.curve, strict=True):
        np.testing.assert_allclose(b, a, **near)
    assert (int(one.step), int(one.failed_step)) == (int(many.step), int(many.failed_step))


def check_equal_to_one_device(head: str, counts: tuple[int, ...]):
    _, run, _, _ = program_of(head, None)
    one = run(0, STEPS)
    start = run(0, 0)
    for devices in counts:
        _, spread, _, _ = program_of(head, devices)
        np.testing.assert_array_equal(
            on_one_device(spread(0, 0), IDS)[1], start.table.rows, "not the same initial rows"
        )
        assert_close(one, spread(0, STEPS))


@pytest.mark.parametrize(
    ("head", "counts"),
    [("ctr", (1, 2, 4)), pytest.param("ctr", (3,), marks=optimized), ("esmm", (3, 4))],
)
def test_thirty_steps_with_duplicates_equal_one_device(head, counts):
    check_equal_to_one_device(head, counts)


def test_eight_devices_equal_one():
    root = Path(__file__).resolve().parents[2]
    flags = "--xla_force_host_platform_device_count=8 --xla_cpu_multi_thread_eigen=false"
    code = (
        "from tests.training.test_sharded import check_equal_to_one_device as check\n"
        "import jax\nassert jax.device_count() == 8\n"
        "check('ctr', (8,)); check('shared_bottom', (8,))\n"
    )
    environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=root,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def four():
    return program_of("ctr", 4)


@optimized
def test_a_partial_run_is_an_exact_prefix(four):
    _, run, _, _ = four
    whole, half = run(0, STEPS), run(0, 12)
    np.testing.assert_array_equal(half.curve.losses[:2], whole.curve.losses[:2])
    continued = run(12, STEPS, half)
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(continued), strict=True):
        np.testing.assert_array_equal(a, b)


@optimized
def test_a_loss_that_is_not_finite_on_one_device_stops_all_in_that_step(four):
    _, run, _, _ = four
    dense = LOG.dense.copy()
    dense[5 * BATCH + BATCH - 1] = np.nan  # a row of the last device
    state = run(0, STEPS, rows=LOG._replace(dense=dense))
    assert int(state.failed_step) == 5 and int(state.step) == 6
    for counter in (state.step, state.failed_step):
        assert len({int(shard.data) for shard in counter.addressable_shards}) == 1


@optimized
def test_copies_of_the_dense_parameters_stay_equal(four):
    _, run, _, _ = four
    for leaf in jax.tree.leaves(run(0, STEPS).params):
        first, *others = (np.asarray(shard.data) for shard in leaf.addressable_shards)
        assert len(others) == 3
        for other in others:
            np.testing.assert_array_equal(first, other)


@optimized
def test_follow_scores_every_row_before_it_is_learned_from(four):
    program, run, put, _ = four
    plain, run_plain, put_plain, _ = program_of("ctr", None)
    rows = Data(*(column[: 5 * BATCH] for column in LOG))
    found = jax.jit(program.follow)(run(0, 20), HPARAMS, SCHEDULE, put(rows))
    expected = jax.jit(plain.follow)(run_plain(0, 20), HPARAMS, SCHEDULE, put_plain(rows))
    assert found.shape == (5 * BATCH, 1)
    np.testing.assert_allclose(found, expected, atol=1e-5)


@optimized
def test_a_device_needs_its_share_of_the_table_and_updates_it_in_place():
    """Memory of the compiled run on each device, a table of 14.4 MB with its optimiser state."""
    num_ids, width = 200_000, 16
    for devices in (2, 4):
        program, _, put, _ = program_of("ctr", devices, num_ids, width)
        share = num_ids * (width + 2) * 4 // devices

        # A constant start: the compiler drops the drawing of the first rows.
        def go_on(state, hparams, schedule, data, stop, program=program):
            return program.run(
                jax.random.key(0), state, hparams, schedule, data, jnp.int32(1), stop
            )

        arguments = (program.empty(), HPARAMS, SCHEDULE, put(LOG), jnp.int32(STEPS))
        compiled = jax.jit(go_on, donate_argnums=0, compiler_options=compiler_options()).lower(
            *arguments
        )
        memory = compiled.compile().memory_analysis()
        assert memory is not None
        assert memory.argument_size_in_bytes < 1.1 * share
        assert memory.alias_size_in_bytes > 0.9 * share
        assert memory.temp_size_in_bytes < 0.1 * share


@settings(max_examples=50)
@given(st.lists(st.integers(0, 8), min_size=6, max_size=6))
def test_unique_ids_finds_each_id_once(values):
    ids = jnp.array(values, jnp.int32).reshape(3, 2)
    unique, inverse = unique_ids(ids, 9, 6)
    distinct = sorted(set(values))
    assert unique.tolist() == distinct + [9] * (6 - len(distinct))
    np.testing.assert_array_equal(unique[inverse], ids)


def test_what_does_not_fit_is_refused_with_what_to_write():
    with pytest.raises(ValueError, match=r"batch_size=48 .* 5 devices .*batch_size=45 or 50"):
        exchange_bytes(batch_size=48, num_fields=3, width=4, num_ids=IDS, devices=5)
    with pytest.raises(ValueError, match=rf"write training.devices={jax.local_device_count()}, or"):
        device_mesh(99)
    assert device_mesh(0).size == jax.local_device_count()


def test_exchange_bytes_are_written_out():
    # 3 other devices, 2 rows x 3 ids of each: an int32 id, a row and a gradient of 4 floats.
    assert exchange_bytes(batch_size=8, num_fields=3, width=4, num_ids=100, devices=4) == 3 * 6 * 36
    assert exchange_bytes(batch_size=8, num_fields=3, width=4, num_ids=5, devices=4) == 3 * 5 * 36
    assert exchange_bytes(batch_size=8, num_fields=3, width=4, num_ids=100, devices=1) == 0


@pytest.mark.parametrize("progressive", [False, True])
def test_the_objective_gives_the_same_with_any_number_of_devices(progressive):
    fields = (Field("f", IDS, 0), Field("g", 0, IDS), Field("h", 0, IDS))
    rows = len(LOG.sparse)
    schema = Schema(
        "skewed", fields, ("x",), ("click",), rows, 25 * BATCH, ("c", "v"), "", "", {}, {}
    )
    data = Dataset(
        schema, *(np.asarray(c) for c in LOG[:2]), np.asarray(LOG.labels[:, :1], np.int8)
    )
    how = "progressive" if progressive else "frozen"
    made = [
        make_objective(
            data,
            lambda c: Setting(MODEL, HPARAMS),
            head="ctr",
            batch_size=BATCH,
            num_windows=WINDOWS,
            warmup_share=0.1,
            held_out=how,
            workers=1,
            devices=devices,
            qps_seconds=0.02,
        )
        for devices in (1, 3)
    ]
    config = np.zeros((1, 1), np.int32)
    one, three = (dict(o.evaluate(config, [0], 0.4))[0] for o in made)
    np.testing.assert_allclose(three.curve, one.curve, atol=1e-5)
    first, second = (o.test(config[0], 0) for o in made if o.test)
    np.testing.assert_allclose(second, first, atol=1e-5)
    exported = made[1].trained(config[0], 0) if made[1].trained else None
    assert exported is not None and exported.rows.shape == (IDS, 4)
    assert len(exported.rows.devices()) == 1
    if not progressive:
        held_out = data.test()
        np.testing.assert_array_equal(
            predict_rows(exported, held_out.sparse, held_out.dense), second
        )
        assert made[1].qps is not None and made[1].qps(config[0]) > 0


def test_programs_that_exchange_rows_never_overlap():
    with pytest.raises(ValueError, match=r"training.devices=2 .*write search.workers=1"):
        make_objective(
            Dataset(
                Schema("s", (), (), ("click",), 480, 480, ("c", "v"), "", "", {}, {}),
                np.zeros((480, 1), np.int32),
                np.zeros((480, 0)),
                np.zeros((480, 1)),
            ),
            lambda c: Setting(MODEL, HPARAMS),
            head="ctr",
            batch_size=BATCH,
            num_windows=2,
            warmup_share=0.1,
            workers=2,
            devices=2,
        )
