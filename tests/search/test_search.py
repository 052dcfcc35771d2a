"""The whole course on a planted problem: what it finds, how it resumes, what it refuses."""

import functools
import json
import math
import multiprocessing
import random
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import scipy.stats

from autorank.fidelity.rules import FIDELITIES, HalvingConfig, PilotsConfig
from autorank.ledger.ledger import Ledger
from autorank.ledger.run_folder import read_run
from autorank.objectives.base import Objective
from autorank.report.tables.search import cost_table
from autorank.search.accounts import trained_examples
from autorank.search.budget import Budget
from autorank.search.context import Context, SearchStopped
from autorank.search.pilots import pilot_design
from autorank.search.rounds import made_up_round, programs_of
from autorank.search.run import run
from autorank.surrogates.predictor import ensemble
from tests.making import make_searcher
from tests.planted import NUM_ROWS, planted_objective, planted_space, true_ne
from tests.search.stopping import Stop, stopping_after

SPACE = planted_space()
IDENTITY = {"data": "planted-1", "space": SPACE.fingerprint(), "seed": "0"}


def budget(trials: int = 24, **changes) -> Budget:
    values: dict = {
        "trials": trials,
        "seed": 0,
        "metric": "ctr",
        "num_pilots": 8,
        "batch_size": 6,
        "noise_seeds": 3,
        "final_seeds": 3,
        "finalists": 2,
        "max_diverged": 0.9,
    }
    return Budget(**(values | changes))


@functools.lru_cache  # the same functions, so that JAX's own cache knows their programs
def searchers(name: str):
    common = {"batch_size": 6, "capacity": 64}
    if name == "random":
        return make_searcher("random", SPACE, **common), None
    if name == "evolution":
        return make_searcher(
            "evolution", SPACE, **common, population=8, tournament=3, mutation_rate=0.3
        ), None
    predictor = ensemble(
        SPACE.num_features, capacity=64, members=3, hidden=(16,), steps=100, rate=1e-2
    )
    options = {"steps": 100, "samples": 16, "initial": 4, "num_exploratory": 1, "alphas": (0.0,)}
    return make_searcher("paper", SPACE, **common, predictor=predictor, **options), predictor


def search(
    folder: Path, name: str = "random", objective: Objective | None = None, fidelity=None, **changes
):
    searcher, predictor = searchers(name)
    folder.mkdir(exist_ok=True)
    fidelity = fidelity or PilotsConfig(num_pilots=8)
    with Ledger.open(folder / "trials.db", IDENTITY) as ledger:
        return run(
            objective or planted_objective(SPACE),
            SPACE,
            searcher,
            ledger,
            budget(**changes),
            FIDELITIES[fidelity.kind].make(fidelity, 0),
            predictor,
            lambda event: None,
        )


def test_a_made_up_round_compiles_what_the_first_round_asks(tmp_path, monkeypatch):
    # Not the one that other tests have compiled; they share `tell`, a function of the module.
    own = searchers.__wrapped__("evolution")
    monkeypatch.setattr(f"{__name__}.searchers", lambda name: own)
    programs = programs_of(own[0])
    nothing: Any = None
    context = Context(nothing, SPACE, nothing, budget(), nothing)
    made_up_round(context, own[0], runs=1)
    told = programs.tell._cache_size()
    assert programs.ask._cache_size() == 1
    search(tmp_path, "evolution", trials=20)
    # Beside the baseline and the pilots, rounds of six are told.
    assert programs.ask._cache_size() == 1 and programs.tell._cache_size() <= told + 1


def rows(folder: Path) -> list[tuple]:
    """All of the ledger that must not depend on when it was written."""
    with Ledger.read(folder / "trials.db") as ledger:
        found = [
            (t.stage, t.round, t.position, tuple(t.config), t.seed, t.fidelity, t.status, t.reason)
            + (t.quality, t.cost, json.dumps(t.predicted), json.dumps(t.outcome))
            for t in ledger.trials()
        ]
        return sorted(found, key=lambda row: row[:3])


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    return folder, search(folder, "predictor", trials=32)


def test_summary_is_strict_json_with_the_promised_keys(uninterrupted):
    summary = json.loads(json.dumps(uninterrupted[1], allow_nan=False))
    wanted = {
        "num_trials",
        "num_failed",
        "wall_seconds",
        "num_compiles",
        "compile_seconds",
        "trained_examples",
        "fidelity_fraction",
        "kendall_tau",
        "seed_noise_percent",
        "baseline",
        "winner",
        "ne_gain_percent",
        "bayes_ne",
        "warnings",
        "front",
        "per_task",
    }
    assert wanted <= set(summary)
    assert summary["num_trials"] == 32
    assert {"config", "ne", "flops", "qps"} <= set(summary["baseline"]) & set(summary["winner"])
    assert {"mean", "low", "high", "p"} <= set(summary["ne_gain_percent"])


def test_the_summary_has_the_predictors_measures_on_trials_that_it_had_not_seen(uninterrupted):
    folder, summary = uninterrupted
    with Ledger.read(folder / "trials.db") as ledger:
        (record,) = ledger.records("diagnosis")
        rounds = [t for t in ledger.trials() if t.stage == "round"]
    quality = summary["predictor"]
    assert set(quality) == {"heldout", "proposals", "training"}
    pairs = {
        "heldout": list(zip(record["predicted"], record["true"], strict=True)),
        "proposals": [(t.predicted[0], t.quality) for t in rounds if t.predicted],
    }
    for name, both in pairs.items():
        predicted, true = np.array([p for p in both if None not in p], float).T
        found = quality[name]
        assert found["trials"] == len(true) > 10
        assert found["tau_b"] == pytest.approx(scipy.stats.kendalltau(predicted, true).statistic)
        assert found["regret_at_1"] == pytest.approx(true[predicted.argmin()] - true.min())
        top = set(np.argsort(true)[:10]) & set(np.argsort(predicted)[:10])
        assert found["top_10_recall"] == pytest.approx(len(top) / 10)
    assert quality["heldout"]["tau_b"] == pytest.approx(record["heldout_tau"])
    page = cost_table(read_run(folder)._replace(summary=summary))
    for name in ("heldout", "proposals"):
        assert f"tau-b {quality[name]['tau_b']:.3g}" in page.replace("&#x27;", "'"), name


def test_no_seed_of_the_verdict_is_one_that_a_trial_trained_with(uninterrupted):
    folder, summary = uninterrupted
    used: dict[str, set[int]] = {}
    for stage, *_, seed in (row[:5] for row in rows(folder)):
        used.setdefault(stage, set()).add(seed)
    assert used["pilot"] | used["round"] == {0}
    assert used["final"] == set(summary["choice_seeds"]) == used["seed_noise"] == {1, 2, 3}
    assert used["confirmation"] == set(summary["seeds"]) == {4, 5, 6}
    assert len(summary["winner"]["validation_gain_percent"]["seeds"]) == 3


def test_every_finalist_has_its_way_from_label_to_test(uninterrupted):
    summary = uninterrupted[1]
    labels = {tuple(r[3]): r[8] for r in rows(uninterrupted[0]) if r[0] in ("pilot", "round")}
    assert len(summary["finalists"]) >= 2
    for entry in summary["finalists"]:
        assert entry["test"]["ctr"]["mean"] is not None and entry["label_without_luck"] is not None
        assert len(entry["validation_gain_percent"]["seeds"]) == 3
        assert tuple(entry["choices"]) in labels
    chosen = [e for e in summary["finalists"] if "winner" in e["roles"]]
    assert [e["choices"] for e in chosen] == [summary["winner"]["choices"]]
    assert chosen[0]["confirmed_gain_percent"] == summary["winner"]["validation_gain_percent"]
    assert summary["verdict"]["least_gain_percent"] > 0 and summary["equal_ne"]["margin"] == 0.1


def test_winner_is_truly_better(uninterrupted):
    folder, summary = uninterrupted
    base = true_ne(SPACE.decode(np.array(SPACE.baseline)))
    found = true_ne(summary["winner"]["config"])
    best = 0.90 - 0.004 - 0.006 - 0.002
    assert found < base
    # Regret below a quarter of what there is to gain.
    assert (found - best) / (base - best) < 0.25
    assert summary["ne_gain_percent"]["high"] < 0


def test_no_configuration_is_trained_twice(uninterrupted):
    configs = [r[3] for r in rows(uninterrupted[0]) if r[0] in ("pilot", "round")]
    assert len(set(configs)) == len(configs) == 32
    assert tuple(SPACE.baseline) not in configs


def test_front_is_a_front(uninterrupted):
    front = uninterrupted[1]["front"]
    costs = [p["flops_ratio"] for p in front]
    qualities = [p["quality"] for p in front]
    assert costs == sorted(costs) and qualities == sorted(qualities, reverse=True)


def test_running_again_changes_nothing(uninterrupted):
    folder, summary = uninterrupted
    before = rows(folder)
    again = search(folder, "predictor", trials=32)
    assert rows(folder) == before
    ignored = ("wall_seconds", "num_sessions")
    assert {k: v for k, v in again.items() if k not in ignored} == {
        k: v for k, v in json.loads(json.dumps(summary)).items() if k not in ignored
    }


@pytest.mark.parametrize("name", ["predictor", "random", "evolution"])
def test_stopped_anywhere_and_resumed_is_the_same(name, tmp_path):
    search(tmp_path / "whole", name)
    objective = planted_objective(SPACE)
    rng = random.Random(name)
    for _ in range(60):
        try:
            search(tmp_path / "cut", name, stopping_after(objective, rng.randint(1, 9)))
            break
        except Stop:
            continue
    assert rows(tmp_path / "cut") == rows(tmp_path / "whole")


def slow_search(folder: Path, seconds: float) -> None:
    search(folder, "predictor", planted_objective(SPACE, seconds=seconds))


def test_kill_9_at_twenty_random_moments(tmp_path):
    """Nothing is lost but the trials in flight, and the end is the uninterrupted run's, bit for bit."""
    # Each is a process of its own with a JAX of its own, forked from a server that has only done the imports.
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload([__name__])
    search(tmp_path / "whole", "predictor", planted_objective(SPACE))
    rng, kills, finished_before = random.Random(0), 0, 0
    while True:
        # Slow trials while there are kills to come, so that the search cannot end before the twentieth.
        seconds = 0.6 if kills < 20 else 0.0
        process = processes.Process(target=slow_search, args=(tmp_path / "cut", seconds))
        process.start()
        if kills < 20:
            # From the first row on: the interpreter's start is not what is tested.
            database = tmp_path / "cut" / "trials.db"
            while not database.exists() and process.is_alive():
                time.sleep(0.01)
            time.sleep(rng.uniform(0.0, 0.8) if kills % 2 else rng.uniform(0.5, 2.5))
            process.kill()
            process.join()
            ended = process.exitcode == 0
            kills += not ended
        else:
            process.join(timeout=120)
            assert process.exitcode == 0
            ended = True
        process.close()
        with Ledger.read(tmp_path / "cut" / "trials.db") as ledger:
            finished = sum(t.status != "proposed" for t in ledger.trials())
        assert finished >= finished_before, "a finished trial was lost"
        finished_before = finished
        if ended:
            break
    assert kills == 20, "the search ended before it could be killed"
    assert rows(tmp_path / "cut") == rows(tmp_path / "whole")


def test_a_failing_baseline_stops_with_advice(tmp_path):
    objective = planted_objective(SPACE)

    def evaluate(configs, seeds, fidelity):
        for i, outcome in objective.evaluate(configs, seeds, fidelity):
            yield i, outcome._replace(failed="non-finite loss at step 3")

    with pytest.raises(SearchStopped, match=r"baseline itself failed.*dense_rate"):
        search(tmp_path, "random", objective._replace(evaluate=evaluate))


def test_mostly_failing_trials_stop_with_advice(tmp_path):
    objective = planted_objective(SPACE)

    def evaluate(configs, seeds, fidelity):
        for i, outcome in objective.evaluate(configs, seeds, fidelity):
            bad = tuple(configs[i]) != SPACE.baseline
            yield i, outcome._replace(failed="out of memory" if bad else "")

    with pytest.raises(SearchStopped, match=r"8 of 8 pilot trials failed.*max_diverged"):
        search(tmp_path, "random", objective._replace(evaluate=evaluate))


@pytest.mark.parametrize("kind", ["fixed", "full", "halving"])
def test_other_fidelities_run_to_the_end(kind, tmp_path):
    fidelity = FIDELITIES[kind].settings()
    summary = search(tmp_path, "random", fidelity=fidelity, num_pilots=0, trials=12)
    assert summary["num_trials"] == 12 and summary["winner"] is not None
    with Ledger.read(tmp_path / "trials.db") as ledger:
        fidelities = {t.fidelity for t in ledger.trials() if t.stage in ("round", "promotion")}
    assert fidelities == {"fixed": {0.5}, "full": {1.0}, "halving": {0.2, 0.5, 1.0}}[kind]


def test_trained_examples_counts_promotions_once(tmp_path):
    fidelity = HalvingConfig(rungs=(0.2, 1.0), eta=3.0)
    summary = search(tmp_path, "random", fidelity=fidelity, num_pilots=0, trials=6)
    with Ledger.read(tmp_path / "trials.db") as ledger:
        trials = ledger.trials()
    promoted = sum(t.stage == "promotion" for t in trials)
    finals = sum(t.stage in ("final", "confirmation") for t in trials)
    expected = NUM_ROWS * (3 + 6 * 0.2 + promoted * 0.8 + finals)
    assert promoted == 2
    assert trained_examples(trials, NUM_ROWS) == summary["trained_examples"] == round(expected)


def test_pilots_are_distinct_and_half_of_them_near_the_baseline():
    pilots = pilot_design(jax.random.key(0), SPACE, 10)
    assert len({tuple(p) for p in pilots}) == 10
    assert tuple(SPACE.baseline) not in {tuple(p) for p in pilots}
    SPACE.validate(pilots)
    distance = (pilots != np.array(SPACE.baseline)).sum(axis=1)
    assert (
        np.median(distance[5:]) < np.median(distance[:5])
        or distance[5:].mean() < distance[:5].mean()
    )


def test_gain_is_on_the_held_out_test(uninterrupted):
    summary = uninterrupted[1]
    test = summary["winner"]["test"]["ctr"]
    assert summary["ne_gain_percent"] == test
    assert math.isclose(np.mean(test["gains"]), test["mean"])
    assert test["low"] < test["mean"] < test["high"]
