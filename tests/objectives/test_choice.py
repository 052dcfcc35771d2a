"""The form in which a trial trains is a matter of time alone: the same outcomes, and the choice follows its costs."""

import threading
import time
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from autorank.app.identity import settings
from autorank.app.settings import PlanConfig, SearchConfig, TrainingConfig
from autorank.base import programs
from autorank.base.records import plain
from autorank.data.format.batches import Dataset
from autorank.data.format.schema import Field, Schema
from autorank.ledger.run_folder import read_run
from autorank.ledger.trial import Trial
from autorank.models.dhen import DhenConfig, LayerConfig
from autorank.objectives.choice import choose, lanes_expected
from autorank.objectives.costs import CostModel, Costs, Work, prior, total_work
from autorank.population.capacity import capacity_of
from autorank.population.network import Network
from autorank.population.spaces import capacities_of
from autorank.report.tables.search import cost_table
from autorank.search.accounts import trials_by_executor
from autorank.training.compact import Setting
from autorank.training.lane_driver import LaneDriver
from autorank.training.lane_pool import LanePool
from autorank.training.lane_programs import LanePrograms
from autorank.training.memory import Shape, lane_bytes
from autorank.training.pipeline import Job, Lane, run_jobs
from autorank.training.states import States
from autorank.training.step import Hparams
from tests.making import make_objective
from tests.report.fake_run import write_run

ROWS, BATCH, WINDOWS, IDS = 640, 16, 4, 16
RATES = Hparams(*map(jnp.float32, (3e-3, 0.1, 1e-8, 1e-8, 0.01, 1.0, 0.05)))


def model(first: str, **changed) -> DhenConfig:
    own: dict[str, Any] = {"width": 4, "num_layers": 1, "num_tokens": 2, "norm": "none"}
    own |= {"layer1": LayerConfig(first), "head_width": 4, "mlp_width": 4}
    return DhenConfig(**(own | changed))


MODELS = [model("linear"), model("cross"), model("linear", num_tokens=3)]
# Weights that grow 5-fold each step: beyond float32 after the first window, by far more than rounding can move.
HUGE = RATES._replace(dense_rate=jnp.float32(1), weight_decay=jnp.float32(-4))
SETTINGS = [Setting(m, RATES) for m in MODELS] + [
    Setting(model("linear"), HUGE),  # diverges
    Setting(model("linear"), RATES._replace(dense_rate=jnp.float32(1e-2))),
]


def dataset() -> Dataset:
    rng = np.random.default_rng(0)
    sparse = (rng.integers(0, IDS // 2, (ROWS + 64, 2)) + [0, IDS // 2]).astype(np.int32)
    hidden = rng.choice([-1.0, 1.0], IDS)
    p = 1 / (1 + np.exp(-2 * hidden[sparse[:, 0]] * hidden[sparse[:, 1]]))
    fields = (Field("user", IDS // 2, 0), Field("item", IDS // 2, IDS // 2))
    schema = Schema(
        "planted", fields, ("age",), ("click",), ROWS + 64, ROWS, ("c", "v"), "", "", {}, {}
    )
    labels = (rng.random(len(p)) < p)[:, None].astype(np.int8)
    return Dataset(schema, sparse, rng.normal(size=(len(p), 1)).astype(np.float32), labels)


def objective(executor: str, **changed):
    return make_objective(
        dataset(),
        lambda c: SETTINGS[int(c[0])],
        head="ctr",
        batch_size=BATCH,
        num_windows=WINDOWS,
        warmup_share=0.1,
        executor=executor,
        **changed,
    )


def evaluated(made, which, fidelity=0.5, seeds=None):
    configs = np.array(which, np.int32)[:, None]
    return dict(made.evaluate(configs, seeds or list(range(len(which))), fidelity))


@pytest.fixture(scope="module")
def compact():
    return objective("compact")


@pytest.fixture(scope="module")
def mixed():
    """Two lanes for four trials, the last with a huge rate."""
    made = objective("population", max_lanes=2)
    return made, evaluated(made, [0, 1, 2, 3])


@pytest.mark.parametrize(
    ("backend", "setting", "trials", "expected"),
    [
        ("gpu", "auto", 100, True),
        ("gpu", "auto", 5, False),
        ("gpu", "population", 5, True),
        ("gpu", "compact", 100, False),
        ("cpu", "population", 100, False),
    ],
)
def test_lanes_are_compiled_ahead_where_they_will_train(backend, setting, trials, expected):
    assert lanes_expected(setting, trials, 8, 1, prior(backend, True)) is expected


def test_a_program_that_was_begun_is_not_traced_again(monkeypatch, compact):
    made, expected = objective("compact"), evaluated(compact, [0])[0]
    made.evaluate.trainers.compact.begin(MODELS[0])
    monkeypatch.setattr("autorank.training.compact.lower", None)
    np.testing.assert_array_equal(evaluated(made, [0])[0].curve, expected.curve)


def close(found, expected):
    np.testing.assert_allclose(found.curve, expected.curve, rtol=1e-4)
    if not expected.failed:
        np.testing.assert_allclose(found.ne, expected.ne, rtol=1e-4)
    for name in ("failed", "flops", "num_rows"):
        assert getattr(found, name) == getattr(expected, name), name
    for name in ("structure", "num_parameters"):
        assert found.details[name] == expected.details[name], name


# --- a population trains what the compact programs train ----------------------------------------------------------


def test_a_population_gives_the_outcomes_of_the_compact_programs(mixed, compact):
    made, found = mixed
    expected = evaluated(compact, [0, 1, 2, 3])
    for i in range(4):
        close(found[i], expected[i])
        assert found[i].details["executor"] == "population", found[i].details
        assert found[i].details["models"] in (1, 2) and found[i].seconds > 0
        assert expected[i].details["executor"] == "compact"
        assert "search.executor=population" in found[i].details["why"]
    assert "non-finite loss at step" in found[3].failed
    assert np.isfinite(found[0].curve[:2]).all() and np.isnan(found[0].curve[2:]).all()
    assert made.stats().num_compiles == 1  # of the population; none of the four by itself


def test_members_go_on_in_their_lanes_and_are_scored_without_a_program_to_train(mixed, compact):
    made, _ = mixed
    found, expected = (evaluated(m, [1, 4, 2], 1.0, [1, 7, 2]) for m in (made, compact))
    for i in range(3):
        close(found[i], expected[i])
        assert found[i].details["executor"] == "population"
    config = np.array([1], np.int32)
    np.testing.assert_allclose(made.test(config, 1), compact.test(config, 1), rtol=1e-3)
    assert made.stats().num_compiles == 1


def test_what_does_not_fit_the_space_is_compact_and_says_why(compact):
    capacities = capacities_of({"layer1.a": ("linear",)}, MODELS[0], 2, 1)
    made = objective("population", capacities=capacities)
    found = evaluated(made, [0, 1, 2])
    assert [found[i].details["executor"] for i in range(3)] == ["population", "compact", "compact"]
    assert found[1].details["why"].startswith("it does not fit the lanes: kinds [Kind(module=")
    assert found[2].details["why"].startswith("it does not fit the lanes: tokens [3]")
    expected = evaluated(compact, [1], seeds=[1])[0]
    np.testing.assert_array_equal(found[1].curve, expected.curve)


def test_several_devices_share_the_trials(compact):
    devices = jax.local_devices()[1:3]
    made = objective("population", lane_devices=tuple(devices), workers=2, max_lanes=1)
    which, seeds = [0, 0, 4, 4], [0, 1, 2, 3]
    found = evaluated(made, which, seeds=seeds)
    expected = evaluated(compact, which, seeds=seeds)
    for i in range(4):
        close(found[i], expected[i])
        assert found[i].details["models"] == 1  # one lane on each of the two
    again = evaluated(made, which[::-1], 1.0, seeds=seeds[::-1])  # on whichever device is free
    expected = evaluated(compact, which, 1.0, seeds=seeds)
    for i in range(4):
        close(again[3 - i], expected[i])


@pytest.mark.parametrize("survives", [0, 1])
def test_a_population_out_of_memory_is_halved_down_to_compact_programs(
    monkeypatch, compact, survives
):
    sizes, build = [], LanePrograms.compile

    def out_of_memory(self, capacity, size, device):
        sizes.append(size)
        if size > survives:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")
        return build(self, capacity, size, device)

    monkeypatch.setattr(LanePrograms, "compile", out_of_memory)
    made = objective("population")
    found = evaluated(made, [0, 1, 4, 0], seeds=[0, 0, 0, 1])
    assert sizes == [4, 2, 1]
    expected = evaluated(compact, [0, 1, 4, 0], seeds=[0, 0, 0, 1])
    for i in range(4):
        close(found[i], expected[i])
        failed = 2 if survives else 1
        form = "population" if survives else "compact"
        assert found[i].details["executor"] == form
        why = f"a population of {failed} failed: JaxRuntimeError: RES"
        assert found[i].details["why"].startswith(why)
    # Later calls know it.
    again = evaluated(made, [1], seeds=[5])[0].details["executor"]
    assert again == ("population" if survives else "compact") and sizes[3:] == [1] * survives


def test_a_kernel_too_big_for_the_device_is_left_to_the_compiler(monkeypatch, compact):
    made, build = [], LanePrograms._build

    def too_big(self, program, device):
        made.append((program.size, program.network.kernels))
        if program.network.kernels:
            raise jax.errors.JaxRuntimeError(
                "RESOURCE_EXHAUSTED: Shared memory size limit exceeded"
            )
        return build(self, program, device)

    monkeypatch.setattr(LanePrograms, "_build", too_big)
    monkeypatch.setattr(Network, "tuned", lambda self, backend: replace(self, kernels="gpu"))
    found = evaluated(objective("population"), [0, 4])
    assert made == [(2, "gpu"), (2, "")]
    expected = evaluated(compact, [0, 4])
    for i in range(2):
        close(found[i], expected[i])
        assert found[i].details["executor"] == "population"


def test_a_failure_while_training_starts_its_trials_over(monkeypatch, compact):
    made = objective("population", max_lanes=2)
    pool, advance = [], LaneDriver._advance

    def fails_once(self):
        pool.append(self)
        if len(pool) == 4:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")
        return advance(self)

    monkeypatch.setattr(LaneDriver, "_advance", fails_once)
    found, expected = (evaluated(m, [0, 1, 4, 0]) for m in (made, compact))
    assert {driver.size for driver in pool} == {1, 2}
    for i in range(4):
        close(found[i], expected[i])


def test_outcomes_come_while_the_lanes_go_on():
    made = objective("population", max_lanes=2, workers=1)
    configs = np.array([[0], [4], [0]], np.int32)
    results = made.evaluate(configs, [0, 1, 2], 1.0)
    first = next(results)
    results.close()  # pyright: ignore[reportAttributeAccessIssue]
    assert first[0] in (0, 1)
    # What was under way goes on from where it was.
    assert set(dict(made.evaluate(configs, [0, 1, 2], 1.0))) == {0, 1, 2}


def test_the_number_of_lanes_is_fixed_by_the_first_call_and_by_the_memory():
    programs = LanePrograms.__new__(LanePrograms)
    object.__setattr__(programs, "shape", SHAPE)
    device = jax.local_devices()[0]
    pool = LanePool(programs, States(0), [device], max_lanes=6)
    capacity = pool.capacity(MODELS[:2])
    assert capacity is not None and pool.size(capacity, device, 3) == 3
    assert pool.size(capacity, device, 9) == 3  # queues instead of another program
    assert pool.halve(capacity, device) == 1 and pool.size(capacity, device, 9) == 1
    assert pool.capacity(MODELS[:1]) == capacity
    larger = pool.capacity([MODELS[2]])  # other tokens: both fit from now on
    assert larger is not None and pool.capacity(MODELS) == larger != capacity
    assert pool.size(larger, device, 9) == 6
    huge = larger._replace(width=1 << 40)
    assert pool.size(huge, device, 9) == 0
    for at_once, devices, expected in ((12, 1, 12), (2, 1, 9), (40, 1, 32), (12, 2, 6)):
        pool = LanePool(programs, States(0), [device] * devices, at_once=at_once)
        assert pool.size(capacity, device, 9) == expected


def test_a_table_of_many_ids_counts_its_rows_and_accumulators():
    capacity = capacity_of(MODELS, 2, 1)
    few, many = (lane_bytes(capacity, SHAPE._replace(num_ids=n)) for n in (0, 1_000_000))
    assert many - few == 1_000_000 * (4 * 4 + 4)


# --- the choice -----------------------------------------------------------------------------------------------

SHAPE = Shape(2, 1, IDS, BATCH, WINDOWS, 40)
COSTS = Costs(
    compact_compile=10.0,
    compact_rate=1000.0,
    population_compile=20.0,
    population_rate=500.0,
    compact_row_flops=1.0,
    population_row_flops=1.0,
    cores_train=False,
)


def trials(count: int, rows: int = 100, structures: int | None = None) -> list[Work]:
    return [Work(str(i % (structures or count)), 9.0, rows) for i in range(count)]


def test_the_estimates_are_written_out():
    found = choose(trials(4), (), False, 2, COSTS)
    # Compact: 40 s of compiling on 2 threads, then the last trial's 1 s. Population: 20, and 4000 / 500.
    assert found.compact_seconds == pytest.approx(21.0)
    assert found.population_seconds == pytest.approx(28.0)
    assert found.form == "compact" and "4 trials, 4 structures to compile" in found.reason
    on_cores = choose(trials(4), (), False, 2, COSTS._replace(cores_train=True))
    assert on_cores.compact_seconds == pytest.approx((40 + 4) / 2)
    ahead = choose(trials(4), (), False, 2, COSTS, expected=40)
    assert ahead.compact_seconds == pytest.approx(201.0)
    assert ahead.population_seconds == pytest.approx(100.0)
    assert ahead.form == "population" and "4 trials of 40 to come" in ahead.reason


def test_many_structures_are_for_a_population_and_known_programs_tip_the_scales():
    assert choose(trials(40), (), False, 2, COSTS).form == "population"
    # One structure with many rates or seeds has nothing to compile but once.
    assert choose(trials(40, structures=1), (), False, 2, COSTS).form == "compact"
    known = {str(i) for i in range(40)}
    assert choose(trials(40), known, False, 2, COSTS).form == "compact"
    assert choose(trials(4), (), True, 2, COSTS).form == "population"
    # Long runs: training outweighs compiling, and single programs train faster here.
    assert choose(trials(40, rows=10_000), (), False, 2, COSTS).form == "compact"
    slow = COSTS._replace(population_rate=1.0)
    assert choose(trials(40), (), False, 2, slow).form == "compact"


@pytest.mark.parametrize("setting", ["compact", "population"])
def test_a_setting_decides(setting):
    for count in (1, 40):
        found = choose(trials(count), (), False, 2, COSTS, setting)
        assert found.form == setting and found.reason.startswith(f"search.executor={setting}")


def test_priors_take_a_search_to_a_population_on_an_accelerator_only():
    batch = [Work(str(i), 7e5, 2_000_000) for i in range(10)]
    for workers in (1, 2, 8, 16):
        for expected in (0, 35, 117):
            chosen = choose(batch, (), False, workers, prior("cpu"), expected=expected)
            assert chosen.form == "compact"
        gpu = prior("gpu")
        found = choose(batch, (), False, workers, gpu, expected=117, lanes=10)
        # 117 programs compile for two minutes even in sixteen threads.
        assert found.form == "population"
        assert choose(batch, (), True, workers, gpu, lanes=10).form == "population"
    # Small batches: programs compile quickly, and lanes are slow.
    small = prior("gpu", small_batches=True)
    assert choose(batch, (), False, 8, small, expected=117, lanes=16).form == "compact"
    # Compiled already, single programs are the faster ones there, too.
    known = {w.structure for w in batch}
    assert choose(batch, known, False, 1, prior("gpu")).form == "compact"


def test_small_models_in_a_few_lanes_do_not_make_lanes_look_slow():
    # Five seeds of a small baseline come first; a step with 16 large models takes about as long on an accelerator.
    costs = CostModel(prior("gpu"))
    costs.compiled("population", 40.0)
    costs.trained("population", [Work("baseline", 8.5e4, 1_600_000)] * 5, 5 * 16.0)
    batch = [Work(str(i), 2e6, 1_600_000) for i in range(20)]
    found = choose(batch, (), True, 8, costs.costs, expected=100, lanes=16)
    # A lane takes 16 s for a trial, by more for the larger dense part, and 16 of 20 trials train at a time.
    seconds = 100 / 16 * 16.0 * (1e7 + 2e6) / (1e7 + 8.5e4)
    assert found.population_seconds == pytest.approx(seconds) and found.form == "population"


def test_measured_costs_replace_the_priors_and_are_averaged():
    costs = CostModel(COSTS)
    costs.compiled("compact", 40.0)
    assert costs.costs.compact_compile == pytest.approx(40.0)
    # Not measured itself, it moves with what was: the machine is slower than the prior's by this much.
    assert costs.costs.population_compile == pytest.approx(80.0)
    costs.compiled("compact", 10.0)
    assert costs.costs.compact_compile == pytest.approx(40 * (10 / 40) ** 0.4)
    costs.compiled("population", 60.0)
    assert costs.costs.population_compile == pytest.approx(60.0)
    works = trials(3)
    costs.trained("population", works, 10.0)
    assert costs.costs.population_rate == pytest.approx(total_work("population", works, COSTS) / 10)
    costs.trained("compact", works, 0.0)  # nothing measured
    costs.trained("population", [], 5.0)
    # Programs share an accelerator: how fast one form runs there says nothing of the other one.
    assert costs.costs.compact_rate == COSTS.compact_rate
    on_cores = CostModel(COSTS._replace(cores_train=True))
    on_cores.trained("population", works, 10.0)
    slower = total_work("population", works, COSTS) / 10 / COSTS.population_rate
    assert on_cores.costs.compact_rate == pytest.approx(COSTS.compact_rate * slower)
    costs.trained("compact", works, 1.0)
    assert costs.costs.compact_rate == pytest.approx(total_work("compact", works, COSTS))
    assert costs.costs.population_rate == pytest.approx(total_work("population", works, COSTS) / 10)


# --- compiling ahead ------------------------------------------------------------------------------------------


class Recorder:
    def __init__(self):
        self.events, self.lock = [], threading.Lock()

    def note(self, *event):
        with self.lock:
            self.events.append(event)

    def job(self, number, program, lane="", seconds=0.0, more=(), until=lambda: True):
        def compile_():
            self.note("compile", program)
            return f"{program}!"

        def train(prepared):
            assert prepared == f"{program}!"
            self.note("start", number)
            time.sleep(seconds)
            deadline = time.monotonic() + 60
            while not until() and time.monotonic() < deadline:
                time.sleep(0.001)
            self.note("end", number)
            return [number], more

        return Job(program, compile_, train, lane)


def test_one_thread_trains_what_is_ready_before_it_compiles_what_is_next():
    seen = Recorder()
    jobs = [seen.job(0, "a"), seen.job(1, "b"), seen.job(2, "a")]
    assert list(run_jobs(jobs, 1, {})) == [0, 2, 1]
    # The later job of a program asks again, which its cache counts as a hit.
    assert [e for e in seen.events if e[0] != "end"] == [
        ("compile", "a"),
        ("start", 0),
        ("compile", "a"),
        ("start", 2),
        ("compile", "b"),
        ("start", 1),
    ]


def test_an_iterators_results_go_out_as_they_come_and_its_jobs_are_read_at_its_end():
    seen, more, got = Recorder(), [], threading.Event()

    def train(prepared):
        def results():
            yield 0
            yield None  # nothing yet
            assert got.wait(60)
            more.append(seen.job(2, "b"))
            yield 1

        return results(), more

    found = run_jobs([Job("a", lambda: None, train)], 1, {})
    assert next(found) == 0
    got.set()
    assert list(found) == [1, 2]


def test_jobs_that_a_job_adds_are_run_too():
    seen = Recorder()
    more = [seen.job(1, "a"), seen.job(2, "b")]
    assert sorted(run_jobs([seen.job(0, "a", more=more)], 2, {})) == [0, 1, 2]
    assert list(run_jobs([], 2, {})) == []


def test_the_next_program_is_compiled_while_a_full_lane_trains():
    seen = Recorder()

    def all_compiled():
        return sum(event[0] == "compile" for event in list(seen.events)) == 3

    jobs = [seen.job(i, str(i), "card", until=all_compiled) for i in range(3)]
    assert sorted(run_jobs(jobs, 3, {"card": Lane(1)})) == [0, 1, 2]
    running = 0
    for kind, _ in (e for e in seen.events if e[0] != "compile"):
        running += 1 if kind == "start" else -1
        assert running <= 1
    first_end = next(i for i, e in enumerate(seen.events) if e[0] == "end")
    assert sum(e[0] == "compile" for e in seen.events[:first_end]) == 3


def test_an_error_ends_it_and_stopping_early_starts_nothing_more():
    seen = Recorder()

    def broken(prepared):
        raise RuntimeError("planted")

    with pytest.raises(RuntimeError, match="planted"):
        list(run_jobs([Job("a", lambda: 0, broken)], 2, {}))
    started = run_jobs([seen.job(i, str(i), seconds=0.01) for i in range(20)], 1, {"": Lane(1)})
    next(started)
    started.close()  # pyright: ignore[reportAttributeAccessIssue]
    assert sum(e[0] == "start" for e in seen.events) < 20


def test_hits_and_misses_on_the_disk_are_counted():
    cache = programs.ProgramCache()
    for event, times in (
        (programs.DiskCounts.HIT, 2),
        (programs.DiskCounts.MISS, 3),
        ("/other", 1),
    ):
        for _ in range(times):
            jax.monitoring.record_event(event)
    assert (cache.stats.disk_hits, cache.stats.disk_misses) == (2, 3)
    assert programs.ProgramCache().stats.disk_hits == 0


# --- what a run says about it ---------------------------------------------------------------------------------


def test_which_form_trains_is_not_part_of_a_ledgers_identity_but_its_precision_is():
    def item(name, **groups):
        return settings(name, plain(SearchConfig(**groups)))

    auto, compact = (item("plan", search=PlanConfig(executor=e)) for e in ("auto", "compact"))
    assert auto == compact != item("plan", search=PlanConfig(trials=7))
    low = TrainingConfig(precision="bfloat16")
    assert item("model and training") != item("model and training", training=low)
    with pytest.raises(ValueError, match=r"search.executor='masked'.*auto, compact, population"):
        PlanConfig(executor="masked")


def test_the_summary_and_the_report_count_what_each_form_trained(tmp_path):
    trial = Trial(0, "round", 0, 0, (0,), 0, 1.0, None, "finished", "", None, None, None, 0.0, None)
    details = [{"executor": "compact", "why": "a"}, {"executor": "population", "why": "b"}, {}]
    details.append({"executor": "population", "why": "c"})
    found = trials_by_executor([*(trial._replace(outcome={"details": d}) for d in details), trial])
    assert found == {
        "compact": {"trials": 1, "why": "a"},
        "population": {"trials": 2, "why": "c"},
    }
    run = read_run(write_run(tmp_path, num_trials=40))
    summary = run.summary | {"executors": found, "num_hits": 5, "disk_hits": 7, "disk_misses": 11}
    page = cost_table(run._replace(summary=summary))
    for text in ("trials trained by the population build", "2 (c)", "found on disk", ">7<", ">11<"):
        assert text in page, text
