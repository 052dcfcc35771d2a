"""Adapters of other packages, each skipped without its package; and the files of benchmark runs."""

import fcntl
import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from autorank.benchmarks.catalogue import get
from autorank.surrogates.settings import PredictorConfig
from experiments.comparison import run_table, runs
from experiments.comparison.peers import catalogue
from experiments.comparison.peers.base import WorstSoFar, active_only, described, filled
from tests import warm


@pytest.mark.parametrize("name", ["optuna-tpe", "catcma", "smac-rf"])
def test_a_peer_proposes_inside_the_space_and_is_resumed(name, tmp_path):
    if catalogue.interpreter(catalogue.PEERS[name].environment) is None:
        pytest.skip(
            f"no environment of {name}: sh experiments/comparison/peers/make_env.sh default"
        )
    job = runs.Job(name, "mixed_crash/0", 2, 0.1, 0, 12)
    assert runs.run(job._replace(trials=6), tmp_path) == 6
    assert runs.run(job, tmp_path) == 6
    lines = runs.read(job.path(tmp_path))
    benchmark = get("mixed_crash/0", runs.DATA)
    for line in lines:
        for values, loss in zip(line["values"], line["loss"], strict=True):
            assert set(values) == set(benchmark.space.names)
            for name, interval in benchmark.intervals.items():
                assert interval.low <= values[name] <= interval.high
            again = benchmark.query([values])[0, 0]
            assert loss == again or (loss is None and np.isnan(again))


def test_a_run_of_ours_is_the_same_whether_or_not_it_was_stopped(tmp_path):
    job = runs.Job("random", "mixed/0", 2, 0.2, 3, 8)
    assert runs.run(job, tmp_path / "whole") == 8
    assert runs.run(job._replace(trials=4), tmp_path / "parts") == 4
    path = job.path(tmp_path / "parts")
    path.write_text(path.read_text() + '{"values": [{"optim')  # a kill in the middle of a line
    assert runs.run(job, tmp_path / "parts") == 4
    whole, parts = (runs.read(job.path(tmp_path / d)) for d in ("whole", "parts"))
    timeless = [
        [{k: v for k, v in line.items() if k in ("values", "loss", "seen")} for line in r]
        for r in (whole, parts)
    ]
    assert timeless[0] == timeless[1]
    assert runs.run(job, tmp_path / "whole") == 0


def test_two_processes_do_not_write_the_same_run(tmp_path):
    job = runs.Job("random", "mixed/0", 2, 0.0, 0, 6)
    assert runs.run(job._replace(trials=2), tmp_path) == 2
    path = job.path(tmp_path)
    before = path.read_text()
    with path.open("a") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(RuntimeError, match="is written by another process"):
            runs.run(job, tmp_path)
    assert path.read_text() == before and runs.run(job, tmp_path) == 4


def test_a_worker_ends_with_its_driver(tmp_path):
    code = (
        "import sys, os, time, subprocess\n"
        "from experiments.comparison import worker_pool\n"
        "worker_pool.set_up_jax = lambda: None\n"
        "worker_pool.start_worker(int(sys.argv[1]))\n"
        "time.sleep(60)\n"
    )
    root = str(runs.ROOT)
    worker = f"import subprocess, sys, os; subprocess.Popen([sys.executable, '-c', {code!r}, str(os.getpid())])"
    started = time.monotonic()
    # The pipe stays open as long as anyone holds it: the driver ends at once, the worker after it.
    subprocess.run([sys.executable, "-c", worker], cwd=root, stdout=subprocess.PIPE, check=True)
    assert time.monotonic() - started < 50


def test_the_table_follows_the_incumbent_that_was_seen(tmp_path):
    folder = tmp_path / "random"
    folder.mkdir()
    losses = [[0.9, None], [0.5, 0.7], *[[0.8, 0.8]] * 3]
    seen = [[0.9, None], [0.6, 0.4], *[[0.8, 0.8]] * 3]
    lines = [
        {
            "values": [{}, {}],
            "loss": a,
            "seen": b,
            "cost": [0, 0],
            "cpu": 2.0,
            "wall": 2.0,
            "tell_cpu": 0.0,
        }
        for a, b in zip(losses, seen, strict=True)
    ]
    file = folder / "mixed_crash_0-b2-n0.1-s4.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    (row,) = run_table.summary(file)
    typical = runs.levels(runs.LEVELS)["mixed_crash/0"][1]
    assert (row["suite"], row["task"], row["batch"], row["seed"]) == ("mixed_crash", "0", 2, 4)
    assert row["trials"] == 10 and row["failed"] == 1
    np.testing.assert_allclose(float(row["regret"]), 0.7 / typical, rtol=1e-5)
    assert float(row["seconds_per_suggestion"]) == 1.0


def lines_of(path, losses):
    path.parent.mkdir(exist_ok=True)

    def one(v):
        fixed = {"values": [{}], "seen": [v], "cost": [0], "cpu": 0.5, "wall": 1, "tell_cpu": 0.0}
        return fixed | {"loss": [v]}

    path.write_text("".join(json.dumps(one(v)) + "\n" for v in losses))


def test_a_table_grows_where_its_files_are_gone(tmp_path):
    table, first, second = tmp_path / "t.csv", tmp_path / "first", tmp_path / "second"
    paths = {s: runs.Job("random", "mixed/0", 1, 0.0, s, 0).path(Path()) for s in (0, 1, 2, 10)}
    first.mkdir()
    second.mkdir()
    for seed, trials in ((0, 25), (1, 10), (10, 20)):
        lines_of(first / paths[seed], [0.5] * trials)
    assert run_table.write_table(first, table) == 3 + 1 + 2
    whole = table.read_text()
    assert run_table.write_table(second, table) == 6 and table.read_text() == whole
    lines_of(second / paths[0], [0.7] * 20)  # shorter than what is recorded
    lines_of(second / paths[1], [0.6] * 20)  # longer
    lines_of(second / paths[10], [0.8] * 20)  # as long: the newer
    lines_of(second / paths[2], [0.9] * 10)
    lines_of(second / runs.Job("evolution", "mixed/0", 1, 0.0, 0, 0).path(Path()), [0.4] * 9)
    assert run_table.write_table(second, table) == 3 + 2 + 1 + 2
    found = run_table.recorded(table)
    assert [run.seed for run in found] == [0, 1, 10, 2]  # as names of files are sorted
    assert run_table.has(found[run_table.Run("random", "mixed/0", 1, 0.0, 1)], 24)
    assert not run_table.has(found[run_table.Run("random", "mixed/0", 1, 0.0, 1)], 25)
    assert not run_table.has((), 5)
    ends = {run.seed: (run_table.length(v), float(v[-1]["incumbent"])) for run, v in found.items()}
    assert ends == {0: (25, 0.5), 1: (20, 0.6), 10: (20, 0.8), 2: (10, 0.9)}
    told = json.loads(table.with_suffix(".json").read_text())["searchers"]["random"]
    assert (told["runs"], told["trials"], told["cpu_seconds"]) == (4, 75, 37.5)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["first", "second", "t.csv", "t.json"]


def test_a_file_that_is_no_table_is_left_alone(tmp_path):
    other = tmp_path / "other.csv"
    other.write_text("suite,task\n")
    with pytest.raises(ValueError, match="has the columns"):
        run_table.write_table(tmp_path, other)
    assert other.read_text() == "suite,task\n"


def test_runs_that_the_table_has_are_not_run_again(tmp_path):
    table = tmp_path / "t.csv"
    path = runs.Job("random", "mixed/0", 1, 0.0, 0, 0).path(tmp_path / "a")
    path.parent.parent.mkdir()
    lines_of(path, [0.5] * 10)
    run_table.write_table(tmp_path / "a", table)
    settings = [
        "searchers=[random]",
        "tasks=mixed/0",
        "trials=10",
        "seeds=2",
        f"table={table}",
        f"runs={tmp_path}/b",
    ]

    def said(*more):
        command = [sys.executable, "-m", "experiments.comparison.bench_search", *settings, *more]
        done = warm.ended(warm.start(command, os.environ), timeout=300)
        assert done.returncode == 0, done.stdout
        return done.stdout

    first = said()
    assert "1 of 2 runs stand in" in first and "1/1 random mixed/0 seed 1: 10 new trials" in first
    found = run_table.recorded(table)
    assert [(run.seed, rows[-1]["incumbent"] == "0.5") for run, rows in found.items()] == [
        (0, True),
        (1, False),
    ]
    again = said("again=true")
    assert "random mixed/0 seed 0: 10 new trials" in again and "stand in" not in again
    assert run_table.recorded(table)[next(iter(found))][-1]["incumbent"] != "0.5"


def test_settings_reach_the_searcher_that_is_run(monkeypatch):
    made = []
    entry = runs.SEARCHERS["paper"]
    spy = replace(entry, make=lambda space, settings, context: made.append((settings, context)))
    monkeypatch.setitem(runs.SEARCHERS._entries, "paper", spy)
    monkeypatch.setattr(runs, "SEARCHERS", {"paper": spy})
    name = "paper+alphas=[0.5]+predictor.loss=huber+predictor.loss_settings.delta=2.0+steps=7"
    with pytest.raises(AttributeError, match="ask"):  # the spy makes nothing
        runs._compiled(name, get("mixed/0", runs.DATA).space, 3, 32)
    ((settings, context),) = made
    assert (settings.steps, settings.alphas, settings.batch_size) == (7, (0.5,), 3)
    assert context.predictor == PredictorConfig(loss="huber", loss_settings={"delta": 2.0})


def test_only_a_searcher_that_weighs_the_cost_is_told_of_it(tmp_path):
    benchmark = get("mixed/0", runs.DATA)
    rows = [benchmark.space.decode(c) for c in benchmark.space.enumerate(3)]
    found = benchmark.query(rows)
    for name, weight in (("autorank", 0.0), ("autorank+alphas=[0.5]", 1.0)):
        driver = runs.our_driver(runs.Job(name, "mixed/0", 3, 0.0, 0, 3), benchmark)
        driver.tell(rows, found[:, 0].tolist(), found[:, 1].tolist())
        state = dict(zip(driver.tell.__code__.co_freevars, driver.tell.__closure__, strict=True))
        told = np.asarray(state["state"].cell_contents.history.metrics)[:3, 1]
        own = benchmark.query([benchmark.space.decode(benchmark.space.baseline)])[0, 1]
        np.testing.assert_allclose(told, weight * (found[:, 1] - own), atol=1e-5)


def test_a_name_that_is_no_folders_name_comes_back_from_the_files(tmp_path):
    name = "random+note=" + "a/b" * 100
    path = runs.Job(name, "mixed/0", 1, 0.0, 0, 10).path(tmp_path)
    assert len(path.parent.name) <= 200 and path.parent.parent == tmp_path
    path.parent.mkdir()
    (path.parent / runs.NAME_FILE).write_text(name)
    lines_of(path, [0.5] * 10)
    lines_of(tmp_path / "paper+hidden=[5,5]" / path.name, [0.4] * 10)
    run_table.write_table(tmp_path, tmp_path / "t.csv")
    found = {run.searcher for run in run_table.recorded(tmp_path / "t.csv")}
    assert found == {name, "paper+hidden=[5,5]"}
    told = json.loads((tmp_path / "t.json").read_text())["searchers"]
    assert set(told) == found


def test_failures_are_the_worst_so_far():
    worst = WorstSoFar()
    assert worst([float("nan")]) == [1.0]
    assert worst([5.0, float("nan"), 7.0]) == [5.0, 7.0, 7.0]
    assert worst([float("nan"), -3.0]) == [7.0, -3.0]


def test_inactive_values_come_and_go(shared_data):
    pytest.importorskip("onnxruntime")
    benchmark = get("nb301/v2", shared_data)
    task = described(benchmark)
    config = np.asarray(benchmark.space.baseline, np.int32)
    values = benchmark.space.decode(config)
    whole = filled(task, values)
    assert len(whole) == 34 and active_only(task, whole) == values


def test_the_document_is_made_from_the_committed_results():
    from experiments.comparison import report

    text = report.DOCUMENT.read_text()
    assert report.render(text, report.read_table(report.CSV)) == text


def test_a_paired_difference_and_its_interval():
    from experiments.comparison.report import paired

    rng = np.random.default_rng(0)
    left = {f"t{i}": 0.1 * i + rng.normal(0, 0.01, 20) for i in range(40)}
    right = {t: v + 0.05 for t, v in left.items()}
    point, low, high, tasks = paired(left, right | {"other": np.zeros(3)})
    assert tasks == 40 and abs(point + 0.05) < 1e-9 and low < -0.05 < high
    assert high - low < 0.01
    assert paired(left, {"other": np.zeros(3)})[3] == 0


def rows_of(
    searcher: str, regrets: dict[str, float], seed: int = 0, trials: int = 100, batch: int = 1
) -> list:
    return [
        {
            "suite": t.split("/")[0],
            "task": t.split("/")[1],
            "searcher": searcher,
            "batch": str(batch),
            "noise": "0.0",
            "seed": str(seed),
            "trials": str(trials),
            "regret": str(v),
            "seconds_per_suggestion": "0.1",
            "failed": "0",
        }
        for t, v in regrets.items()
    ]


def test_seeds_that_settings_were_chosen_on_are_only_in_the_ablation():
    from experiments.comparison import report

    rows = rows_of("autorank", {"a/1": 0.5}) + rows_of("autorank", {"a/1": 0.1}, seed=100)
    rows += rows_of("autorank+effects=0.0", {"a/1": 0.3}, seed=100)
    table = report.Table(rows)
    assert report.at(table.curves(), 0)["autorank"]["a/1"].tolist() == [0.5]
    (line,) = report.ablation(table)[2:]
    assert "| tuning | 1 | 1 | 0.3000 | 0.1000 | +0.2000" in line


def test_equal_regrets_share_a_rank_and_failing_tasks_are_left_out_where_it_says_so():
    from experiments.comparison import report

    ours = {"a/1": 0.5, "a/2": 0.1, "mixed_crash/0": 0.0}
    peer = {"a/1": 0.50004, "a/2": 0.3, "mixed_crash/0": 1.0}
    table = report.Table(rows_of("autorank", ours) + rows_of("optuna-gp", peer))
    assert report.ranks(table)[2:] == ["| 100 | 1.17 | 1.83 | 3 |"]
    (line,) = report.without_failures(table)[2:]
    assert line.startswith("| optuna-gp | 2 | 0.4000 | 0.3000 | -0.1000")


def test_a_page_of_ones_own_runs_has_what_they_suffice_for(tmp_path):
    from experiments.comparison import report

    rows = [
        row
        for n, scale in ((25, 1.0), (50, 0.6), (100, 0.3), (150, 0.2))
        for searcher, level in (("autorank", 0.2), ("mine<b>", 0.4))
        for seed in (0, 1)
        for row in rows_of(
            searcher, {"a/1": level * scale, "a/2": level * scale + seed / 50}, seed, n
        )
        if n < 150 or seed == 0  # one run went on
    ]
    made = report.page(report.Table(rows), report.SECTIONS, report.FIGURES)
    assert made.count("<img ") == len(report.FIGURES) and "mine&lt;b&gt;" in made
    assert "<h2>150 trials</h2>" in made and "<b>" not in made
    assert "<li>Batches of 10 (no such runs)</li>" in made


def test_a_page_of_batches_of_10_only_has_their_figures_and_their_variants():
    from experiments.comparison import report

    names = {"paper": 0.4, "paper+predictor.members=1": 0.6}
    rows = [
        row
        for n in (50, 100)
        for searcher, level in names.items()
        for row in rows_of(searcher, {"a/1": level, "a/2": level / n}, trials=n, batch=10)
    ]
    made = report.page(report.Table(rows, variants=True), report.SECTIONS, report.FIGURES)
    assert made.count("<img ") == len(report.FIGURES) and "Batches of 10, without noise" in made
    table = report.Table(rows)
    assert set(table.curves(variants=True)) == set(names) and set(table.curves()) == {"paper"}
    (line,) = report.ablation(table)[2:]
    assert "| 2 | 2 | 0.3030 | 0.2020 | +0.1010 |" in line
    assert table.curves(1) == {}


def test_a_page_says_what_is_missing_of_runs_that_are_too_few():
    from experiments.comparison import report

    for rows in (
        rows_of("random", {"a/1": 0.5}, seed=100),  # a tuning seed
        rows_of("random", {"a/1": 0.5}, trials=10),
        rows_of("random", {"a/1": 0.5}) + rows_of("evolution", {"a/2": 0.5}),  # no common task
        [],
    ):
        made = report.page(report.Table(rows), report.SECTIONS, report.FIGURES)
        assert "<img " not in made and "Left out, as runs are missing" in made


def test_runs_that_stopped_early_count_nowhere():
    from experiments.comparison import report

    rows = [
        *rows_of("autorank", {"a/1": 0.5}, trials=25),
        *rows_of("autorank", {"a/1": 0.1}),
        *rows_of("autorank", {"a/1": 9.0}, seed=1, trials=25),
        *rows_of("optuna-gp", {"a/1": 0.3}),
    ]
    table = report.Table(rows)
    (first, _) = report.overall(table)[2:]
    assert first.startswith("| autorank | 1 | 1 | 0.500 | 0.1000 | 0.1000 | - |")
    assert report.reach(table)[2:] == ["| optuna-gp | 0.3000 | 100 trials | 1 |"]
