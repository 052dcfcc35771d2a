"""The form in which a trial trains is a matter of time alone: the same outcomes, and the choice follows its costs."""

import threading
import time
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
from autorank.objectives.choice import choose
from autorank.objectives.costs import PRIORS, CostModel, Costs, Work, total_work
from autorank.report.tables.search import cost_table
from autorank.search.accounts import trials_by_executor
from autorank.training.compact import Setting
from autorank.training.groups import MEMORY_SHARE, Shape, bytes_per_model, form_groups
from autorank.training.pipeline import Job, Lane, run_jobs
from autorank.training.population_programs import PopulationPrograms
from autorank.training.step import Hparams
from tests.making import make_objective
from tests.report.fake_run import write_run

# Bit-for-bit claims are about programs as production compiles them.
pytestmark = pytest.mark.optimized

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
    """A population of four, the last with a huge rate."""
    made = objective("population", group_devices=tuple(jax.local_devices()[:1]))
    return made, evaluated(made, [0, 1, 2, 3])


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
        assert expected[i].details["executor"] == "compact"
        assert "search.executor=population" in found[i].details["why"]
    assert "non-finite loss at step" in found[3].failed
    assert np.isfinite(found[0].curve[:2]).all() and np.isnan(found[0].curve[2:]).all()
    assert made.stats().num_compiles == 1  # of the population; none of the four by itself


def test_a_diverging_trial_leaves_no_trace_in_the_others(mixed):
    """The same layout with a sane rate in the last place: bit for bit the same curves in the others."""
    made, found = mixed
    sane = objective_states_forgotten(made, [0, 1, 2, 4])
    assert sane[3].failed == "" and np.isfinite(sane[3].curve[:2]).all()
    for i in range(3):
        np.testing.assert_array_equal(sane[i].curve, found[i].curve)
        assert sane[i].compile_seconds == 0.0  # the same program


def objective_states_forgotten(made, which):
    """Trials that were trained before go on from there, so these have other bytes for the same settings."""
    configs = np.array([[i, 1] for i in which], np.int32)
    return dict(made.evaluate(configs, list(range(len(which))), 0.5))


def test_members_go_on_as_compact_programs(mixed, compact):
    made, _ = mixed
    found = evaluated(made, [1], 1.0, [1])[0]
    assert found.details["why"] == "continues an earlier run"
    close(found, evaluated(compact, [1], 1.0, [1])[0])
    config = np.array([1], np.int32)
    np.testing.assert_allclose(made.test(config, 1), compact.test(config, 1), rtol=1e-3)


def test_groups_on_several_devices_give_the_same(compact):
    devices = jax.local_devices()[1:3]
    made = objective("population", group_devices=tuple(devices), workers=2)
    which, seeds = [0, 0, 4, 4], [0, 1, 2, 3]
    found = evaluated(made, which, seeds=seeds)
    expected = evaluated(compact, which, seeds=seeds)
    for i in range(4):
        close(found[i], expected[i])
        assert found[i].details["models"] == 2
    assert made.stats().num_compiles == 2  # one for each device


def test_a_group_out_of_memory_is_halved_down_to_compact_programs(monkeypatch, compact):
    sizes = []

    def out_of_memory(self, layout, configs, device):
        sizes.append(layout.size)
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")

    monkeypatch.setattr(PopulationPrograms, "compile", out_of_memory)
    found = evaluated(objective("population"), [0, 1, 4, 0], seeds=[0, 0, 0, 1])
    assert sorted(sizes) == [1, 1, 1, 1, 2, 2, 4]
    expected = evaluated(compact, [0, 1, 4, 0], seeds=[0, 0, 0, 1])
    for i in range(4):
        np.testing.assert_array_equal(found[i].curve, expected[i].curve)
        assert found[i].details["why"].startswith("a population of 1 failed: JaxRuntimeError: RES")


# --- the choice -----------------------------------------------------------------------------------------------

COSTS = Costs(
    compact_compile=10.0,
    compact_rate=1000.0,
    population_compile=20.0,
    population_compile_model=1.0,
    population_rate=500.0,
    row_flops=1.0,
    cores_train=False,
)


def trials(count: int, rows: int = 100, structures: int | None = None) -> list[Work]:
    return [Work(str(i % (structures or count)), 9.0, rows) for i in range(count)]


def test_the_estimates_are_written_out():
    found = choose(trials(4), "layout", (), (), 2, COSTS)
    # Compact: 40 s of compiling on 2 threads, then the last trial's 1 s. Population: 20 + 4, and 4000 / 500.
    assert found.compact_seconds == pytest.approx(21.0)
    assert found.population_seconds == pytest.approx(32.0)
    assert found.form == "compact" and "4 trials, 4 structures to compile" in found.reason
    on_cores = choose(trials(4), "layout", (), (), 2, COSTS._replace(cores_train=True))
    assert on_cores.compact_seconds == pytest.approx((40 + 4) / 2)


def test_many_structures_are_for_a_population_and_known_programs_tip_the_scales():
    assert choose(trials(40), "layout", (), (), 2, COSTS).form == "population"
    # One structure with many rates or seeds has nothing to compile but once.
    assert choose(trials(40, structures=1), "layout", (), (), 2, COSTS).form == "compact"
    known = {str(i) for i in range(40)}
    assert choose(trials(40), "layout", known, (), 2, COSTS).form == "compact"
    assert choose(trials(4), "layout", (), {"layout"}, 2, COSTS).form == "population"
    # Long runs: training outweighs compiling, and single programs train faster here.
    assert choose(trials(40, rows=10_000), "layout", (), (), 2, COSTS).form == "compact"
    assert (
        choose(trials(40), "layout", (), (), 2, COSTS._replace(population_rate=1.0)).form
        == "compact"
    )


@pytest.mark.parametrize("setting", ["compact", "population"])
def test_a_setting_decides(setting):
    for count in (1, 40):
        found = choose(trials(count), "layout", (), (), 2, COSTS, setting)
        assert found.form == setting and found.reason.startswith(f"search.executor={setting}")


def test_priors_take_many_structures_to_a_population_on_an_accelerator_only():
    # What one of two threads gets of a hundred.
    half = [Work(str(i), 7e5, 10_000_000) for i in range(50)]
    assert choose(half, "layout", (), (), 1, PRIORS["gpu"]).form == "population"
    # Compiled already, single programs are the faster ones there, too.
    assert (
        choose(half, "layout", {w.structure for w in half}, (), 1, PRIORS["gpu"]).form == "compact"
    )
    for workers in (1, 2, 8):
        assert choose(half, "layout", (), (), workers, PRIORS["cpu"]).form == "compact"


def test_measured_costs_replace_the_priors_and_are_averaged():
    costs = CostModel(COSTS)
    costs.compiled("compact", 40.0)
    assert costs.costs.compact_compile == pytest.approx(40.0)
    costs.compiled("compact", 10.0)
    assert costs.costs.compact_compile == pytest.approx(40 * (10 / 40) ** 0.4)
    costs.compiled("population", 60.0, size=10)
    assert costs.costs.population_compile == pytest.approx(40.0)
    assert costs.costs.population_compile_model == pytest.approx(2.0)
    works = trials(3)
    costs.trained("population", works, 10.0)
    assert costs.costs.population_rate == pytest.approx(total_work(works, COSTS) / 10)
    costs.trained("compact", works, 0.0)  # nothing measured
    # Not measured itself, it moves with what was: the machine is slower than the prior's by this much.
    slower = total_work(works, COSTS) / 10 / COSTS.population_rate
    assert costs.costs.compact_rate == pytest.approx(COSTS.compact_rate * slower)
    costs.trained("compact", works, 1.0)
    assert costs.costs.compact_rate == pytest.approx(total_work(works, COSTS))
    assert costs.costs.population_rate == pytest.approx(total_work(works, COSTS) / 10)


SHAPE = Shape(2, 1, IDS, BATCH, WINDOWS, 40)


def test_groups_hold_one_width_and_fit_the_memory():
    deep = model("linear", num_layers=2, layer2=LayerConfig("dot"))
    configs = [model("linear"), model("cross", width=8), deep, model("dot")]
    groups = form_groups(configs, SHAPE, free=1 << 40)
    assert sorted(map(sorted, groups)) == [[0, 2, 3], [1]]
    assert groups[0][0] == 2  # deepest first
    largest = max(bytes_per_model(configs[i], SHAPE) for i in (0, 2, 3))
    tight = form_groups(configs, SHAPE, free=int(2 * largest / MEMORY_SHARE) + 1)
    assert sorted(map(len, tight)) == [1, 1, 2]
    assert sorted(map(len, form_groups(configs, SHAPE, free=0))) == [1, 1, 1, 1]
    assert sorted(map(len, form_groups(configs, SHAPE, free=1 << 40, parts=3))) == [1, 1, 1, 1]
    assert sorted(map(len, form_groups(configs, SHAPE, free=1 << 40, limit=2))) == [1, 1, 2]
    assert form_groups([], SHAPE, free=0) == []


def test_a_table_of_many_ids_counts_its_rows_and_accumulators():
    few, many = (bytes_per_model(MODELS[0], SHAPE._replace(num_ids=n)) for n in (0, 1_000_000))
    assert many - few == 1_000_000 * (4 * 4 + 4)


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
