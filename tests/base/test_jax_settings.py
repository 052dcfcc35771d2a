"""Proposals are the same whatever JAX's settings of the process are; the user's come back and hold in their jobs."""

import contextlib
import functools
import itertools
import json
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec

from autorank.base.jax_settings import (
    OWN,
    STRICT,
    _context_of,
    own_settings,
    refuse_implicit_transfers,
    set_strict_settings,
)
from autorank.base.result import Result
from autorank.data.format.batches import Dataset
from autorank.data.format.schema import Field, Schema
from autorank.fidelity.rules import FIDELITIES, PilotsConfig
from autorank.ledger.ledger import Ledger
from autorank.models.dhen import DhenConfig, LayerConfig
from autorank.search.budget import Budget
from autorank.search.run import run
from autorank.searchers import named as named_searchers
from autorank.serving.export import load_model, save_model
from autorank.space.parse import parse_space
from autorank.surrogates.predictor import ensemble
from autorank.sweep.rules import SweepRules
from autorank.sweep.sweep import Sweep
from autorank.training.compact import Setting
from autorank.training.pipeline import Job, run_jobs
from autorank.training.step import Hparams
from tests.making import make_objective, make_searcher
from tests.planted import planted_objective, planted_space

# What a user may write, and a value that is not the default. Each of them alone, and all that go together.
SETTINGS: dict[str, Any] = {
    "jax_enable_x64": True,
    "jax_numpy_dtype_promotion": "strict",
    "jax_numpy_rank_promotion": "allow",
    "jax_default_prng_impl": "unsafe_rbg",
    "jax_threefry_partitionable": False,
    "jax_random_seed_offset": 7,
    "jax_enable_custom_prng": True,
    "jax_legacy_prng_key": "error",
    "jax_high_dynamic_range_gumbel": True,
    "jax_debug_key_reuse": True,
    "jax_default_device": "second",
    "jax_default_matmul_precision": "bfloat16",
    "jax_disable_jit": True,
    "jax_softmax_custom_jvp": True,
    "jax_optimization_level": "O0",
    "eager_constant_folding": True,
    "jax_debug_nans": True,
    "jax_debug_infs": True,
    "jax_check_tracer_leaks": True,
    "jax_enable_checks": True,
    "jax_thread_guard": True,
    "jax_no_execution": True,
    "jax_transfer_guard": "disallow",
    "jax_log_compiles": True,
}
SEVERAL = {
    "rbg": {"jax_default_prng_impl": "rbg"},
    "together": {
        name: SETTINGS[name]
        for name in (
            "jax_enable_x64",
            "jax_numpy_dtype_promotion",
            "jax_default_prng_impl",
            "jax_debug_nans",
            "jax_default_device",
            "jax_transfer_guard",
            "jax_disable_jit",
        )
    },
}
CASES = {name.removeprefix("jax_"): {name: value} for name, value in SETTINGS.items()} | SEVERAL
SPACE = parse_space(
    {"depth": "choice(1,2,3,4,5)", "kind": "choice(a,b,c)", "rate": "tag(log, interval(1e-4, 1))"},
    {},
    {"depth": 3, "kind": "a", "rate": 1e-2},
    grid_size=9,
)
PLANTED = planted_space()
ROWS, BATCH, IDS = 400, 40, 20


def put(values: dict[str, Any]) -> None:
    for name, value in values.items():
        jax.config.update(name, jax.devices()[1] if value == "second" else value)


@contextlib.contextmanager
def process_settings(values: dict[str, Any]):
    before = {name: jax.config.values[name] for name in values}
    guards = {name: v for name, v in jax.config.values.items() if "transfer_guard_" in name}
    put(values)
    try:
        yield
    finally:
        put(before)
        put(guards)


@functools.cache  # one program for all cases, as long as all of them are traced under the same settings
def searcher(batch_size: int, capacity: int):
    ranker = ensemble(
        SPACE.num_features, capacity=capacity, members=2, hidden=(8,), steps=10, rate=1e-2
    )
    return make_searcher(
        "paper",
        SPACE,
        predictor=ranker,
        batch_size=batch_size,
        capacity=capacity,
        initial=4,
        num_local=1,
        steps=5,
        samples=8,
        alphas=(0.0,),
    )


EVOLUTION = make_searcher(
    "evolution", PLANTED, batch_size=4, capacity=32, population=8, tournament=3, mutation_rate=0.3
)


def quality(depth: int, kind: str, rate: float) -> float:
    return abs(depth - 2) + (kind != "b") + abs(math.log10(rate) + 3)


def sweep(folder, job=lambda: None) -> list[Any]:
    """Eight trials in rounds of four; ``job`` runs in each, as the user's own code would."""
    with Ledger.open(folder / "sweep.db", {"a": "b"}) as ledger:
        found = Sweep(SPACE, searcher, ledger, SweepRules(8, roles=True))
        while trials := found.propose(4):
            for trial in trials:
                job()
                found.finish(trial, Result(quality(**SPACE.decode(np.array(trial.config))), None))
        return [(t.config, json.dumps(t.predicted)) for t in found.trials()]


def study(job=lambda: None) -> list[Any]:
    """Seven trials of an Optuna study, whose space has the same shape."""
    optuna = pytest.importorskip("optuna")
    from autorank.integrations.optuna import AutoRankSampler

    optuna.logging.set_verbosity(optuna.logging.ERROR)

    def objective(trial) -> float:
        job()
        return quality(
            trial.suggest_int("depth", 1, 5),
            trial.suggest_categorical("kind", ["a", "b", "c"]),
            trial.suggest_float("rate", 1e-4, 1, log=True),
        )

    found = optuna.create_study(sampler=AutoRankSampler(searcher="predictor", grid_size=9))
    found.optimize(objective, n_trials=7)
    return [t.params for t in found.trials]


def search(folder, job=lambda: None) -> list[Any]:
    """A whole search on a planted problem."""
    problem = planted_objective(PLANTED)

    def evaluate(*arguments):
        yield from problem.evaluate(*arguments)
        job()

    budget = Budget(
        trials=8,
        seed=0,
        metric="ctr",
        num_pilots=4,
        batch_size=4,
        noise_seeds=2,
        final_seeds=2,
        finalists=1,
        max_diverged=0.9,
    )
    with Ledger.open(folder / "search.db", {"a": "b"}) as ledger:
        run(
            problem._replace(evaluate=evaluate),
            PLANTED,
            EVOLUTION,
            ledger,
            budget,
            FIDELITIES["pilots"].make(PilotsConfig(num_pilots=4), 0),
            None,
            lambda event: None,
        )
        return [(t.stage, t.config, t.quality, json.dumps(t.predicted)) for t in ledger.trials()]


@pytest.fixture(scope="module", autouse=True)
def small_searchers():
    """The Optuna sampler asks the small one too."""

    def named(name, space, *, batch_size, capacity, **_):
        assert space.num_choices.tolist() == SPACE.num_choices.tolist()
        return searcher(batch_size, capacity)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(named_searchers, "named_searcher", named)
        yield


def proposals(folder, job=lambda: None) -> dict[str, Any]:
    folder.mkdir(exist_ok=True)
    return {"sweep": sweep(folder, job), "study": study(job), "search": search(folder, job)}


@pytest.fixture(scope="module")
def usual(tmp_path_factory):
    return proposals(tmp_path_factory.mktemp("usual"))


@pytest.mark.parametrize("values", CASES.values(), ids=CASES)
def test_proposals_are_equal_under_every_setting(values, usual, tmp_path):
    with process_settings(values):
        assert proposals(tmp_path) == usual


def test_proposals_are_equal_when_jobs_change_the_settings_and_the_jobs_keep_theirs(
    usual, tmp_path
):
    changes = itertools.cycle([*CASES.values(), {}])
    current: dict[str, Any] = {}
    seen = []

    def job() -> None:
        seen.append({name: jax.config.values[name] for name in current} == current)
        put(usual_values)
        current.clear()
        values = next(changes)
        if "jax_no_execution" not in values:
            put(values)
            current.update({name: jax.config.values[name] for name in values})

    touched = {name for values in CASES.values() for name in values}
    usual_values = {name: jax.config.values[name] for name in touched}
    with process_settings(usual_values):
        assert proposals(tmp_path, job) == usual
    # A search's objective is a part of our program; a job of a sweep or a study is not.
    assert all(seen[: 8 + 7])


def test_the_settings_come_back_and_hold_in_our_threads_only():
    def fails() -> None:
        with own_settings():
            assert not jax.config.jax_enable_x64
            raise RuntimeError("any")

    def of_thread(key: Any) -> tuple[list[Any], list[Any]]:
        return [(jax.config.jax_enable_x64, jax.config.jax_numpy_dtype_promotion)], []

    with process_settings(CASES["together"]):
        before = dict(jax.config.values)
        with pytest.raises(RuntimeError, match="any"):
            fails()
        jobs = [Job(str(i), lambda: None, of_thread) for i in range(3)]
        for held, promotion in run_jobs(jobs, 2, {}):
            assert not held and promotion == "standard"
            assert jax.config.jax_enable_x64  # the caller's, between two results
        assert dict(jax.config.values) == before
        with jax.enable_x64(False), own_settings():
            pass
        assert jax.config.jax_enable_x64


def test_our_code_refuses_rank_promotion_and_the_caller_keeps_its_setting():
    with process_settings({"jax_numpy_rank_promotion": "allow"}):
        with own_settings(), pytest.raises(ValueError, match="rank_promotion"):
            jnp.ones((2, 3)) + jnp.ones(3)
        assert (jnp.ones((2, 3)) + jnp.ones(3)).shape == (2, 3)


def test_our_programs_refuse_it_for_the_whole_process():
    with process_settings({name: "allow" for name in STRICT}):
        set_strict_settings()
        assert [jax.config.values[name] for name in STRICT] == ["raise", "disallow"]
        with pytest.raises(ValueError, match="rank_promotion"):
            jnp.ones((2, 3)) + jnp.ones(3)
        there = jax.device_put(jnp.ones(3), jax.devices()[1])
        on_two = jax.sharding.NamedSharding(Mesh(jax.devices()[:2], "d"), PartitionSpec())
        with pytest.raises(jax.errors.JaxRuntimeError, match="device-to-device"):
            jax.jit(lambda x: x, in_shardings=on_two)(there)
        jax.device_put(there, on_two)  # said explicitly


def test_a_compiled_program_refuses_what_is_not_on_its_device():
    double = jax.jit(lambda x: x + x)
    on_device = jax.device_put(np.ones(2, np.float32))
    with refuse_implicit_transfers():
        assert double(on_device).shape == (2,)
        for elsewhere in (np.ones(2, np.float32), 1.0):
            with pytest.raises(jax.errors.JaxRuntimeError, match="host-to-device"):
                double(elsewhere)


def test_training_follows_the_precision_that_was_set_when_its_objective_was_made():
    class Asked(Exception):
        pass

    def decode(config: np.ndarray) -> Setting:
        raise Asked(jax.config.jax_default_matmul_precision)

    precision = "jax_default_matmul_precision"
    with process_settings({precision: "highest"}):
        with own_settings():
            assert jax.config.jax_default_matmul_precision is None
            made = toy_objective(decode)
        put({precision: "bfloat16"})
        assert made.compiled_flops and made.trained
        for ask in (
            lambda: list(made.evaluate(np.zeros((1, 1), np.int32), [0], 1.0)),
            lambda: made.compiled_flops(np.zeros(1, np.int32)),
            lambda: made.trained(np.zeros(1, np.int32), 0),
        ):
            with pytest.raises(Asked, match="highest"):
                ask()
        assert jax.config.jax_default_matmul_precision == "bfloat16"


def test_every_option_is_one_of_this_jax_or_has_no_effect():
    assert all(_context_of(name) is not None for name in OWN)
    assert _context_of("jax_an_option_of_another_version") is None


RNG = np.random.default_rng(0)
DATASET = Dataset(
    Schema("toy", (Field("a", IDS, 0),), ("x",), ("click",), ROWS, 320, ("c",), "", "", {}, {}),
    RNG.integers(0, IDS, (ROWS, 1)).astype(np.int32),
    RNG.normal(size=(ROWS, 1)).astype(np.float32),
    RNG.integers(0, 2, (ROWS, 1)).astype(np.int8),
)


def toy_objective(decode):
    return make_objective(
        DATASET,
        decode,
        head="ctr",
        batch_size=BATCH,
        num_windows=4,
        warmup_share=0.1,
        qps_seconds=0.01,
    )


def toy_model(folder) -> tuple[np.ndarray, ...]:
    """A tiny model's curve, its held-out scores, and those of what it was exported to."""
    model = DhenConfig(
        width=4, num_layers=1, num_tokens=2, layer1=LayerConfig("cross"), norm="none", head_width=8
    )
    rates = (3e-3, 0.1, 1e-8, 1e-8, 0, 1, 0.01)
    decode = lambda config: Setting(model, Hparams(*map(jnp.float32, rates)))  # noqa: E731
    made = toy_objective(decode)
    config = np.zeros(1, np.int32)
    [(_, outcome)] = made.evaluate(config[None], [0], 1.0)
    assert made.trained and made.test and made.qps and made.qps(config) > 0
    trained, held_out = made.trained(config, 0), DATASET.test()
    save_model(
        folder,
        trained.predict,
        trained.params,
        trained.rows,
        num_fields=1,
        num_dense=1,
        metrics=("ctr",),
        example=(held_out.sparse[:9], held_out.dense[:9]),
        description={},
    )
    exported = load_model(folder).predict(held_out.sparse, held_out.dense)
    return outcome.curve, made.test(config, 0), exported


def test_training_export_and_scoring_are_equal_too(tmp_path):
    expected = toy_model(tmp_path / "usual")
    assert np.isfinite(expected[0]).all()
    np.testing.assert_allclose(expected[1], expected[2], atol=1e-6)
    with process_settings(CASES["together"]):
        for found, usual in zip(toy_model(tmp_path / "other"), expected, strict=True):
            np.testing.assert_array_equal(found, usual)
