"""Proposals are the same whatever JAX's settings of the process are; the user's come back and hold in the user's jobs."""

import contextlib
import functools
import json
import math
import threading
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from autorank import build, build_searchers, jax_settings
from autorank.config import FidelityConfig
from autorank.jax_settings import OWN, own_settings
from autorank.ledger import Ledger
from autorank.predictor import ensemble
from autorank.results import Result
from autorank.search import run
from autorank.searchers.predictor_search import predictor_search
from autorank.space import parse_space
from autorank.stages import Plan
from autorank.sweep import Sweep, SweepPlan
from tests.planted import planted_objective, planted_space

# What a user may write, and a value that is not the default. Each of them alone, and all that go together.
SETTINGS: dict[str, Any] = {
    "jax_enable_x64": True,
    "jax_numpy_dtype_promotion": "strict",
    "jax_numpy_rank_promotion": "raise",
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


@functools.cache
def ranker(num_features: int, capacity: int):
    return ensemble(num_features, capacity=capacity, members=2, hidden=(8,), steps=10, rate=1e-2)


@functools.cache  # one program for all cases, as long as all of them are traced under the same settings
def searcher(space, batch_size: int, capacity: int):
    return predictor_search(
        space, predictor=ranker(space.num_features, capacity), batch_size=batch_size, capacity=capacity, initial=4,
        num_local=1, steps=5, samples=8, alphas=(0.0,),
    )  # fmt: skip


def quality(depth: int, kind: str, rate: float) -> float:
    return abs(depth - 2) + (kind != "b") + abs(math.log10(rate) + 3)


def sweep(folder, job=lambda: None) -> list[Any]:
    """Twelve trials in rounds of four; ``job`` runs in each, as the user's own code would."""
    folder.mkdir()
    with Ledger.open(folder / "trials.db", {"a": "b"}) as ledger:
        plan = SweepPlan(12, batch_size=4)
        found = Sweep(SPACE, functools.partial(searcher, SPACE), ledger, plan)
        while trials := found.propose(4):
            for trial in trials:
                job()
                found.finish(trial, Result(quality(**SPACE.decode(np.array(trial.config))), None))
        return [(t.config, json.dumps(t.predicted)) for t in found.trials()]


def study(job=lambda: None) -> list[Any]:
    """Ten trials of an Optuna study."""
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
    found.optimize(objective, n_trials=8)
    return [t.params for t in found.trials]


def search(folder, job=lambda: None) -> list[Any]:
    """A whole search on a planted problem."""
    folder.mkdir()
    problem = planted_objective(PLANTED)

    def evaluate(*arguments):
        job()
        yield from problem.evaluate(*arguments)

    plan = Plan(
        trials=14, seed=0, metric="ctr", num_pilots=6, batch_size=4, noise_seeds=2, final_seeds=2, finalists=1,
        max_diverged=0.9,
    )  # fmt: skip
    with Ledger.open(folder / "trials.db", {"a": "b"}) as ledger:
        run(
            problem._replace(evaluate=evaluate), PLANTED, searcher(PLANTED, 4, 32), ledger, plan,
            build.fidelity_plan(FidelityConfig(num_pilots=6), 0), ranker(PLANTED.num_features, 32), lambda event: None,
        )  # fmt: skip
        return [(t.stage, t.config, t.quality, json.dumps(t.predicted)) for t in ledger.trials()]


@pytest.fixture(scope="module", autouse=True)
def small_searchers():
    """The Optuna sampler asks the small one too."""

    def named(name, space, *, batch_size, capacity, **_):
        return searcher(space, batch_size, capacity)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build_searchers, "named_searcher", named)
        yield


@pytest.fixture(scope="module")
def usual(tmp_path_factory):
    folder = tmp_path_factory.mktemp("usual")
    return {"sweep": sweep(folder / "a"), "study": study(), "search": search(folder / "b")}


@pytest.mark.parametrize("values", CASES.values(), ids=CASES)
def test_proposals_are_equal_under_every_setting(values, usual, tmp_path):
    with process_settings(values):
        found = {"sweep": sweep(tmp_path / "a"), "study": study(), "search": search(tmp_path / "b")}
    assert found == usual
