"""Recorded tables as benchmarks: a pool whose answers are true, and curves by fidelity and seed."""

import csv
import itertools
import json
import os
import sys
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest

from autorank.app.recorded_output import write_summary
from autorank.benchmarks import catalogue
from autorank.benchmarks.base import Benchmark
from autorank.benchmarks.recorded import pool_levels, recorded_benchmark
from autorank.recorded.pool import Pool
from autorank.recorded.table_file import read_table, write_table
from experiments.comparison import report, runs
from tests import warm
from tests.recorded.making import FAILED, SPACE, WINDOWS, recorded_table


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("tables")
    write_table(place / "toy.parquet", recorded_table())
    return place


@pytest.fixture(scope="module")
def benchmark(folder):
    return recorded_benchmark("toy", folder / "toy.parquet")


def test_the_pool_is_the_random_configurations_with_the_loss_of_their_first_seed(benchmark):
    table, pool = recorded_table(), benchmark.pool
    assert benchmark.name == "tables/toy" and len(pool) == 20
    assert tuple(SPACE.baseline) not in {tuple(c) for c in pool.configs.tolist()}
    found = benchmark.query([pool.values(i) for i in range(20)])
    for i in range(20):
        row = np.flatnonzero((table.columns["number"] == i + 1) & (table.columns["repeat"] == 0))[0]
        loss = np.nan if i + 1 == FAILED else table.curves[row, 6:, 0].astype(np.float64).mean()
        np.testing.assert_allclose(found[i], [loss, np.log(table.columns["flops"][row])])
    best, typical = pool_levels(benchmark)
    assert best == benchmark.optimum == np.nanmin(found[:, 0]) < typical
    assert typical == np.nanmedian(found[:, 0])
    with pytest.raises(ValueError, match="is not recorded"):
        benchmark.query([SPACE.decode(SPACE.baseline)])


def test_a_proposal_goes_to_the_nearest_configuration_that_is_left(benchmark):
    pool = benchmark.pool
    asked = [SPACE.decode(c) for c in np.asarray(SPACE.sample(jax.random.key(1), 20))]

    def apart(a, b) -> float:
        """Counted anew, decision by decision."""
        total = 0.0
        for d in SPACE.decisions:
            if d.name in a and d.name in b:
                x, y = d.choices.index(a[d.name]), d.choices.index(b[d.name])
                # Numbers of this space are evenly spaced on their own scales.
                total += x != y if d.kind == "categorical" else abs(x - y) / (len(d.choices) - 1)
            else:
                total += (d.name in a) != (d.name in b)
        return total

    tried: set[int] = set()
    for values in asked:
        far = [apart(values, pool.values(i)) for i in range(20)]
        np.testing.assert_allclose(pool.distances(values), far, atol=1e-6)
        (place,) = pool.nearest([values], tried)
        assert place not in tried
        assert far[place] <= min(far[i] for i in range(20) if i not in tried) + 1e-6
        tried.add(place)
    # A batch is the same as one after another.
    assert pool.nearest(asked, ()) == list(dict.fromkeys(pool.nearest(asked, ())))
    assert set(pool.nearest(asked, ())) == tried
    for i in range(20):
        assert pool.nearest([pool.values(i)], ()) == [i] == [pool.place(pool.values(i))]
    with pytest.raises(ValueError, match="write trials=20 or fewer"):
        pool.nearest(asked[:3], range(18))


def test_curves_by_fidelity_and_seed(benchmark):
    table, curves = recorded_table(), benchmark.curves
    assert curves.metrics == ("ctr", "cvr") and curves.num_windows == WINDOWS
    config = table.configs[table.columns["number"] == 1]
    assert len(config) == 3
    seeds = [0, 1, 2, 4]
    for fraction, reached in ((0.25, 2), (1.0, 8)):
        done = dict(curves.evaluate(config[[0, 1, 2, 0]], seeds, fraction))
        for i, seed in enumerate(seeds):
            row = np.flatnonzero(table.columns["number"] == 1)[seed % 3]
            np.testing.assert_array_equal(done[i].curve[:reached], table.curves[row, :reached])
            assert np.isnan(done[i].curve[reached:]).all() and not done[i].failed
            assert done[i].ne[1] == pytest.approx(np.nanmean(table.curves[row, :reached, 1]))
            assert done[i].num_rows == round(fraction * 800)
    # It failed in its fourth window: half of the pass has it, a quarter has not.
    lost = table.configs[table.columns["number"] == FAILED][:1]
    assert not next(curves.evaluate(lost, [0], 0.25))[1].failed
    assert next(curves.evaluate(lost, [0], 0.5))[1].failed.startswith("non-finite loss at step 31")
    # The baseline is there with all of its seeds, though not in the pool.
    base = np.array([SPACE.baseline] * 3)
    found = {outcome.ne for _, outcome in curves.evaluate(base, [0, 1, 2], 1.0)}
    assert len(found) == 3
    np.testing.assert_array_equal(curves.cost(base), [1e5] * 3)


def test_a_table_of_failures_is_no_task(tmp_path):
    table = recorded_table()
    write_table(tmp_path / "t.parquet", replace(table, failed=("lost",) * len(table.failed)))
    with pytest.raises(ValueError, match="all 20 configurations failed"):
        recorded_benchmark("t", tmp_path / "t.parquet")


def test_the_levels_of_one_configuration_are_apart():
    pool = Pool(SPACE, np.array([SPACE.baseline]))
    same = Benchmark(
        "tables", "t", SPACE, {}, lambda rows: np.array([[0.5, 0.0]] * len(rows)), 0.5, pool
    )
    best, typical = pool_levels(same)
    assert best == 0.5 < typical < 0.5 + 1e-12


def bench(folder: Path, runs: Path, *options: str) -> str:
    command = [
        *(sys.executable, "-m", "experiments.comparison.bench_search", "tasks=tables/*"),
        *(f"runs={runs}", f"table={runs}/t.csv", *options),
    ]
    environment = os.environ | {"AUTORANK_TABLES": str(folder), "HYDRA_FULL_ERROR": "0"}
    return warm.ended(warm.start(command, environment), timeout=300).stdout


def test_a_model_chooses_among_what_is_recorded(folder, tmp_path):
    """After its design `autorank` asks for recorded configurations alone, so that nothing is moved."""
    bench(folder, tmp_path, "searchers=['autorank+initial=5']", "trials=14")
    table = recorded_benchmark("toy", folder / "toy.parquet")
    (path,) = (tmp_path / "bench_search").glob("autorank*/*.jsonl")
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(lines) == 14
    assert all(line["asked"] == line["values"] for line in lines[5:])
    places = [table.pool.place(value) for line in lines for value in line["values"]]
    assert len(set(places)) == 14


def test_searchers_run_on_a_table_go_on_and_end_with_its_best(folder, tmp_path):
    bench(folder, tmp_path, "searchers=[random,evolution]", "trials=12", "batch=3")
    said = bench(folder, tmp_path, "searchers=[random,evolution,optuna-tpe]", "trials=20", "batch=3")  # fmt: skip
    assert "left out: runs of peers on recorded tables (1)" in said and "0 runs failed" in said
    with pytest.raises(RuntimeError, match="optuna-tpe on tables/toy: a recorded table answers"):
        runs.run(runs.Job("optuna-tpe", "tables/toy", 1, 0.0, 0, 5), tmp_path)
    table = recorded_benchmark("toy", folder / "toy.parquet")
    for searcher in ("random", "evolution"):
        (file,) = (tmp_path / "bench_search" / searcher).glob("*.jsonl")
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        values = list(itertools.chain(*(line["values"] for line in lines)))
        places = [table.pool.place(v) for v in values]
        assert sorted(places) == list(range(20)), "every configuration once"
        loss = list(itertools.chain(*(line["loss"] for line in lines)))
        assert loss.count(None) == 1 and loss[places.index(FAILED - 1)] is None
        assert min(v for v in loss if v is not None) == table.optimum
        # What was told is what the proposals were moved to.
        tried: set[int] = set()
        for line in lines:
            moved = table.pool.nearest(line["asked"], tried)
            assert [table.pool.values(i) for i in moved] == line["values"]
            tried |= set(moved)
    with (tmp_path / "t.csv").open() as stream:
        rows = [r for r in csv.DictReader(stream) if r["trials"] == "20"]
    assert [(r["suite"], r["task"], float(r["regret"])) for r in rows] == [("tables", "toy", 0)] * 2


def test_without_tables_the_message_says_where_they_would_be(tmp_path):
    with pytest.raises(ValueError, match=r"has no absent\.parquet; record it"):
        catalogue.get("tables/absent", tmp_path)
    said = bench(tmp_path / "none", tmp_path, "searchers=[random]")
    assert f"{tmp_path}/none holds no recorded table" in said


def test_the_page_has_a_line_for_each_table(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(report, "CSV", tmp_path / "bench_search.csv")
    assert report.recorded_tables(report.Table([])) == ["No table is recorded yet."]
    (tmp_path / "tables").mkdir()
    file = tmp_path / "tables" / "toy.parquet"
    write_table(file, recorded_table())
    write_summary(file, read_table(file))
    (line,) = report.recorded_tables(report.Table([]))[2:]
    assert line.startswith("| tables/toy | 20 | 0.0500 | 35 | 800 | 8 |")
    assert line.endswith("| a device |") and "| 0.50000 |" in line
