"""Noise in a comparison: normal, or of recorded seeds; what a searcher recommends; runs side by side."""

import csv
import json
import time

import numpy as np
import pytest

from autorank.benchmarks.catalogue import get
from experiments.comparison import noise, run_table, runs, side_by_side


def test_recorded_noise_tells_one_of_the_recorded_seeds_and_the_loss_is_their_mean():
    benchmark = get("dhen/kuairand", runs.DATA)
    configs = np.asarray(benchmark.space.enumerate(50))
    rows = [benchmark.space.decode(config) for config in configs]
    assert benchmark.seeds is not None
    seeds, losses = benchmark.seeds(rows), benchmark.query(rows)[:, 0]
    assert seeds.shape[1] >= 2
    np.testing.assert_allclose(seeds.mean(axis=1), losses, atol=2e-6)
    told = noise.noisy(np.random.default_rng(0), "recorded", benchmark, rows, losses, 1.0)
    assert (told[:, None] == seeds).any(axis=1).all() and 5 < (told == seeds[:, 0]).sum() < 45
    with pytest.raises(ValueError, match="mixed/0 has no recorded seeds; write tasks='dhen/"):
        runs.run(runs.Job("random", "mixed/0", 1, "recorded", 0, 2), runs.ROOT)


def test_regret_is_that_of_the_recommended_trial_and_of_the_one_that_looked_best(tmp_path):
    best, typical = runs.levels(runs.LEVELS)["mixed/0"]
    path = runs.Job("autorank", "mixed/0", 1, 0.1, 0, 0).path(tmp_path)
    path.parent.mkdir(parents=True)
    loss = [0.5, 0.3, 0.9, 0.7, 0.8, 0.6, 0.65, 0.75, 0.85, 0.95]
    seen = [0.2, 0.4, 0.9, 0.7, 0.8, 0.6, 0.65, 0.75, 0.85, 0.95]
    lines = [
        {
            "values": [{}],
            "loss": [a],
            "seen": [b],
            "cost": [0.0],
            "cpu": 0.1,
            "wall": 0.1,
            "tell_cpu": 0.0,
        }
        for a, b in zip(loss, seen, strict=True)
    ]
    lines[-1]["recommended"] = 1
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    (row,) = run_table.summary(path)
    assert float(row["regret"]) == pytest.approx((0.3 - best) / (typical - best), rel=1e-4)
    assert float(row["observed"]) == pytest.approx((0.5 - best) / (typical - best), rel=1e-4)
    run_table.write_table(tmp_path, tmp_path / "t.csv")
    with (tmp_path / "t.csv").open(newline="") as stream:
        assert [r["noise"] for r in csv.DictReader(stream)] == ["0.1"]


def test_runs_side_by_side_are_those_that_run_alone(tmp_path):
    jobs = [
        runs.Job("evolution", task, 2, level, seed, 12)
        for task in ("mixed/0", "mixed/1")
        for level in (0.0, 0.1)
        for seed in (0, 3)
    ]
    groups, alone = side_by_side.grouped(jobs, tmp_path / "together", 5)
    assert [len(group) for group in groups] == [5, 3] and not alone
    for group in groups:
        assert side_by_side.run_together(
            group, tmp_path / "together", time.time() + 600
        ) == 12 * len(group)
    for job in jobs:
        runs.run(job, tmp_path / "alone")
        together, single = (runs.read(job.path(tmp_path / d)) for d in ("together", "alone"))
        for key in ("values", "seen", "loss"):
            assert [line[key] for line in together] == [line[key] for line in single]
        assert together[-1].get("recommended") == single[-1].get("recommended")
