"""The program of studies as a user runs it: what it prints is what its journal says."""

import csv
import json
import shlex
import subprocess

import numpy as np
import pytest
import scipy.stats
from matplotlib.image import imread

from autorank.comparison.wandb_file import read_file
from tests import offline_runs
from tests.experiments.test_experiments import program

ARMS = [
    "~study.arms.ensemble",
    "~study.arms.gaussian",
    "~study.arms.trees",
    "~study.arms.ensemble_mse",
    "study.reference=ridge",
]


def read(path):
    return list(csv.DictReader(path.read_text().splitlines()))


def test_prints_and_writes_what_its_journal_says(tmp_path):
    place = [f"runs={tmp_path}/runs", f"results={tmp_path}/results"]
    done = program("study", "study=predictor-kind", "splits=3", "write=true", *ARMS, *place)
    folder = tmp_path / "runs" / "predictor-kind"
    rows = read(folder / "journal.csv")
    assert len(rows) == 3 * 2 * 3  # arms, tables, splits

    def taus(arm):
        own = sorted((r["table"], r["split"], float(r["tau_b"])) for r in rows if r["arm"] == arm)
        return np.array([tau for *_, tau in own]).reshape(2, 3)

    d = (taus("neighbours") - taus("ridge")).mean(axis=0)
    half = scipy.stats.t.ppf(0.975, 2) * np.sqrt(d.var(ddof=1) * (1 / 3 + 296 / 1000))
    want = f"{d.mean():+.3f} [{d.mean() - half:+.3f}, {d.mean() + half:+.3f}]"
    assert done.stdout.count(want) == 2, done.stdout  # in the table and in the sentence
    assert "18 rows" in done.stdout and "s left" in done.stdout

    written = read(tmp_path / "results" / "predictor-kind.csv")
    keys = ("all", "neighbours", "tau_b")
    (row,) = [r for r in written if (r["table"], r["arm"], r["measure"]) == keys]
    assert np.allclose(
        [float(row[k]) for k in ("difference", "low", "high")],
        [d.mean(), d.mean() - half, d.mean() + half],
        atol=1e-5,
    )
    made_by = json.loads((tmp_path / "results" / "predictor-kind.json").read_text())
    assert made_by["sentence"] in done.stdout and made_by["splits"] == 3
    wanted = ["study=predictor-kind", "splits=3", "write=true", *ARMS]
    assert shlex.split(made_by["command"]) == ["python", "-m", "experiments.study", *wanted]

    # W&B has a run for each arm, with a row for each split, and one with the findings.
    runs = {}
    for path in offline_runs.written(folder):
        run, kept = read_file(path), next(offline_runs.messages(path, "run"))
        runs[kept.job_type] = (run, kept)
    arms = {r["arm"] for r in rows}
    assert set(runs) == arms | {"summary"}, done.stdout
    for arm in arms:
        run, kept = runs[arm]
        assert (kept.display_name, kept.run_group) == (arm, "predictor-kind")
        assert run.config["arm"] == arm and run.config["num_train"] == 160
        assert [r["split"] for r in run.history] == [0, 1, 2]
        for r in (r for r in rows if r["arm"] == arm and r["tau_b"] != "nan"):
            logged = run.history[int(r["split"])]
            assert logged[f"{r['table']}/tau_b"] == float(r["tau_b"])
            assert f"{r['table']}-" in " ".join(kept.tags) and r["table"] in kept.tags
    own, kept = runs["summary"]
    assert kept.display_name == "predictor-kind" and own.summary["sentence"] in done.stdout
    assert own.summary["findings._type"] == "table-file"
    assert own.summary["figure._type"] == "image-file"
    (kept_figure,) = folder.rglob("media/images/*.png")
    assert kept_figure.read_bytes() == (folder / "figure.png").read_bytes()
    assert imread(kept_figure)[..., :3].min() < 0.5  # something is drawn

    again = program(
        "study",
        "study=predictor-kind",
        "splits=3",
        "study.num_test=100",
        *ARMS,
        *place,
        check=False,
    )
    assert again.returncode != 0 and "study.num_test differ" in again.stdout
    assert "Traceback" not in again.stdout


def test_all_studies_run_one_after_the_other_and_a_failed_one_stops_none(monkeypatch, capfd):
    from experiments import study

    calls = []

    def run(command, check):
        calls.append(command[2:])
        codes = {"study=predictor-kind": 1, "study=epochs-cost": study.NO_RECORDS}
        return subprocess.CompletedProcess(command, codes.get(command[2], 0))

    monkeypatch.setattr(study.subprocess, "run", run)
    assert study.run_all(["splits=3"]) == 1
    assert calls == [[f"study={name}", "splits=3"] for name in study.all_studies()]
    printed = capfd.readouterr().out
    table = printed[printed.rindex("study  ") :].splitlines()
    assert len(table) == len(calls) + 2 and table[-1].startswith("all ")
    assert [line.split()[0] for line in table if "failed" in line] == ["predictor-kind"]
    assert [line.split()[0] for line in table if "left out" in line] == ["epochs-cost"]
    with pytest.raises(SystemExit, match="leave name= out"):
        study.run_all(["name=mine"])
