"""Lanes train every model as its compact program does, each at its own place in the log, and harm no other."""

import random
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from autorank.base.programs import ProgramCache, compiler_options
from autorank.models.dhen import DhenConfig, LayerConfig, compact
from autorank.population.capacity import capacity_of
from autorank.population.storage import extract, used
from autorank.training.compact import CompactPrograms, Request, Setting
from autorank.training.lane_driver import LaneDriver, LaneQueue, Task
from autorank.training.lane_programs import LanePrograms
from autorank.training.memory import Shape
from autorank.training.states import Snapshot, States
from autorank.training.step import Data, Hparams, Schedule
from autorank.training.tables import max_distinct
from autorank.training.trainer import make_program

# Bit-for-bit claims are about programs as production compiles them: those of `production`. What is compared with
# compact programs, within tolerances, compiles cheaply.
optimized = pytest.mark.optimized

F, N, V, B, WINDOWS, STEPS = 4, 2, 50, 16, 5, 20
WIDTH = 6  # of the program; the models' is 4
UNTRAINED = (0, 7)  # id 0 is the most frequent one
# Large eps: differences of rounding grow by a factor of two a step otherwise, whatever computes them.
CLOSE: dict[str, Any] = {"rtol": 2e-4, "atol": 2e-5}
SHARED: dict[str, Any] = {"width": 4, "num_tokens": 3, "rank": 2, "mlp_width": 8, "head_width": 8}
CONFIGS = [
    DhenConfig(
        num_layers=2, layer1=LayerConfig("fmb", "linear"), layer2=LayerConfig("dot"), norm="post",
        ensemble="concat", **SHARED,
    ),
    DhenConfig(num_layers=1, layer1=LayerConfig("linear"), norm="none", **SHARED),
    DhenConfig(
        num_layers=2, layer1=LayerConfig("dot", "fmb"), layer2=LayerConfig("linear", "linear"),
        norm="pre", ensemble="weighted", head_depth=2, **SHARED,
    ),
]  # fmt: skip


def hparams_of(p: int, dense_rate: float | None = None) -> Hparams:
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


def request(p: int, seed: int = 0, dense_rate: float | None = None) -> Request:
    config = np.array([p, int(dense_rate is not None)], np.int32)
    return Request(config, seed, Setting(CONFIGS[p], hparams_of(p, dense_rate)))


class Lab:
    """The rows, the compiled program of two lanes, and compact programs on the same rows."""

    def __init__(self):
        rng = np.random.default_rng(0)
        rows = B * STEPS
        # Id 0 very often: duplicates.
        ids = (rng.integers(0, V, (rows, F)) * (rng.random((rows, F)) < 0.7)).astype(np.int32)
        dense = rng.normal(size=(rows, N)).astype(np.float32)
        labels = (rng.random((rows, 1)) < 0.4).astype(np.float32)
        self.data = Data(*map(jnp.asarray, (ids, dense, labels)))
        self.schedule = Schedule(jnp.int32(STEPS), jnp.int32(4))
        self.shape = Shape(F, N, V, B, WINDOWS, STEPS, UNTRAINED)
        self.device = jax.local_devices()[0]
        most = max_distinct(ids, B)
        self.programs = LanePrograms(
            self.data, self.schedule, self.shape, ProgramCache(), jnp.float32, most
        )
        # Wider than the models: a program may hold several widths.
        capacity = capacity_of(CONFIGS, F, N)._replace(width=WIDTH)
        self.compiled, _ = self.programs.compile(capacity, 2, self.device)
        self.expected: dict[tuple[int, int], Any] = {}

    def driver(self, states: States | None = None) -> LaneDriver:
        inputs = self.programs.inputs(self.device)
        return LaneDriver(self.compiled, inputs, self.device, states or States(1 << 30), STEPS)

    def compact(self, p: int, seed: int, stop: int) -> Any:
        """The state of the compact program; its curve is a prefix of the full run's."""
        if (p, seed) not in self.expected:
            program = make_program(
                compact(CONFIGS[p], F, N),
                head="ctr",
                width=4,
                num_ids=V,
                batch_size=B,
                num_windows=WINDOWS,
                untrained=UNTRAINED,
            )
            run = jax.jit(program.run, compiler_options=compiler_options())
            self.expected[p, seed] = lambda stop: run(
                jax.random.key(seed),
                program.empty(),
                hparams_of(p),
                self.schedule,
                self.data,
                jnp.int32(0),
                jnp.int32(stop),
            )
        return self.expected[p, seed](stop)


@pytest.fixture(scope="module")
def lab():
    return Lab()


@pytest.fixture(scope="module")
def production():
    return Lab()


def trained(driver: LaneDriver, tasks: list[Task]) -> dict[int, Any]:
    return {r.task.index: r for r in driver.train(LaneQueue(tasks)) if r is not None}


def same_curve(found, expected):
    for got, want in zip(found, expected, strict=True):
        np.testing.assert_allclose(got, want, **CLOSE)


def test_more_requests_than_lanes_with_different_stops_train_as_compact_programs(lab):
    states = States(1 << 30)
    driver = lab.driver(states)
    tasks = [(0, STEPS), (1, 8), (2, STEPS), (1, STEPS), (0, 12)]
    found = trained(driver, [Task(i, request(p, i), s) for i, (p, s) in enumerate(tasks)])
    assert sorted(found) == [0, 1, 2, 3, 4]
    for i, (p, stop) in enumerate(tasks):
        assert (found[i].step, found[i].failed_step, found[i].steps) == (stop, -1, stop)
        expected = lab.compact(p, i, stop)
        same_curve(found[i].curve, expected.curve)
        held = states.peek(request(p, i).key)
        assert held is not None and int(held.step) == stop
        lane = held.snapshot()
        params = extract(jax.device_get(lane.state.params), CONFIGS[p], lane.capacity)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, **CLOSE), params, expected.params
        )
        rows = np.asarray(lane.state.table.rows)
        np.testing.assert_allclose(rows[:, :4], expected.table.rows, **CLOSE)
        assert not rows[:, 4:].any()
        np.testing.assert_array_equal(np.asarray(lane.state.table.rows)[list(UNTRAINED)], 0.0)
        # What the model does not have stays exactly zero.
        jax.tree.map(
            lambda mask, a: np.testing.assert_array_equal(np.asarray(a)[~mask], 0.0),
            used(CONFIGS[p], lane.capacity),
            lane.state.params,
        )


def test_initial_values_are_those_of_the_compact_program(lab):
    for p, config in enumerate(CONFIGS):
        hparams = hparams_of(p)
        lane = lab.compiled.start(config, 5, hparams, lab.device)
        model = compact(config, F, N)
        key = jax.random.split(jax.random.key(5))[0]
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7),
            extract(jax.device_get(lane.params), config, lab.compiled.capacity),
            model.init(key, hparams.init_scale),
        )


@optimized
def test_promotion_goes_on_in_the_lane_and_from_a_snapshot(production):
    """The same curves as without an interruption, bit for bit, whatever the other lane does meanwhile."""
    whole = trained(production.driver(), [Task(0, request(0, 1), STEPS)])[0]
    states = States(1 << 30)
    driver = production.driver(states)
    trained(driver, [Task(0, request(0, 1), 6), Task(1, request(2, 2), 9)])
    assert driver.place_of(Task(0, request(0, 1), 12)) is not None
    found = trained(driver, [Task(0, request(0, 1), 12)])[0]
    assert found.steps == 6  # from its lane, not from the beginning
    trained(driver, [Task(i, request(1, i), STEPS) for i in range(3, 6)])
    key = request(0, 1).key
    assert isinstance(states.peek(key), Snapshot)
    found = trained(driver, [Task(0, request(0, 1), STEPS)])[0]
    assert found.steps == STEPS - 12
    for got, want in zip(found.curve, whole.curve, strict=True):
        np.testing.assert_array_equal(got, want)


def test_compact_programs_and_lanes_continue_each_others_states(lab):
    states = States(1 << 30)
    programs = CompactPrograms(lab.data, lab.schedule, lab.shape, ProgramCache(), states)
    compiled, _ = programs.compile(CONFIGS[2])
    own, driver = request(2, 3), lab.driver(states)
    trained(driver, [Task(0, own, 6)])
    programs.train(compiled, own, 12)
    found = trained(driver, [Task(0, own, STEPS)])[0]
    assert found.steps == STEPS - 12
    expected = lab.compact(2, 3, STEPS)
    same_curve(found.curve, expected.curve)
    finished = programs.finished(own)
    assert finished is not None and programs.finished(request(2, 4)) is None
    np.testing.assert_allclose(finished.table.rows, expected.table.rows, **CLOSE)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, **CLOSE),
        (finished.params, finished.optimizer),
        (expected.params, expected.optimizer),
    )


@optimized
def test_a_lane_that_diverges_harms_no_other_and_makes_room(production):
    states = States(1 << 30)
    wild = request(1, 1, dense_rate=1e30)
    tasks = [Task(0, request(0, 0), STEPS), Task(1, wild, STEPS), Task(2, request(2, 2), 8)]
    found = trained(production.driver(states), tasks)
    assert 0 < found[1].failed_step < STEPS and found[1].step == found[1].failed_step + 1
    assert wild.key not in states
    alone = trained(production.driver(), [tasks[0], tasks[2]])
    for i in (0, 2):
        for got, want in zip(found[i].curve, alone[i].curve, strict=True):
            np.testing.assert_array_equal(got, want)


@optimized
def test_a_lane_that_has_ended_stays_as_it_is(production):
    states = States(1 << 30)
    driver = production.driver(states)
    trained(driver, [Task(0, request(0, 0), 5)])
    held = states.peek(request(0, 0).key)
    before = jax.device_get(held.snapshot().state)
    trained(driver, [Task(0, request(1, 1), STEPS)])  # in the other lane
    assert states.peek(request(0, 0).key) is held
    jax.tree.map(np.testing.assert_array_equal, before, jax.device_get(held.snapshot().state))


def test_a_caller_that_stops_finds_what_was_under_way(lab):
    states = States(1 << 30)
    driver = lab.driver(states)
    running = driver.train(LaneQueue([Task(0, request(0, 0), STEPS)]))
    assert next(running) is None
    running.close()  # pyright: ignore[reportAttributeAccessIssue]
    found = trained(driver, [Task(0, request(0, 0), STEPS)])[0]
    assert found.steps == STEPS - 2
    same_curve(found.curve, lab.compact(0, 0, STEPS).curve)


def test_random_traffic_gives_every_model_its_own_curve(lab):
    """Rungs of several models in random order, on few bytes of states: some start over, none is mixed up."""
    rng, states = random.Random(0), States(20_000)
    driver = lab.driver(states)
    for _ in range(4):
        tasks = [
            Task(i, request(p, seed), rng.choice((4, 8, STEPS)))
            for i, (p, seed) in enumerate(rng.sample([(p, s) for p in range(3) for s in (0, 1)], 4))
        ]
        for result in trained(driver, tasks).values():
            own = result.task.request
            expected = lab.compact(int(own.config[0]), own.seed, result.task.stop)
            assert result.step == result.task.stop
            same_curve(result.curve, expected.curve)
