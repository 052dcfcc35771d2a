"""The programs as a user runs them: help, typos, every experiment config at toy size, resume, report, scoring."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from autorank.ledger.ledger import Ledger
from tests import warm

ROOT = Path(__file__).resolve().parents[2]
EXPERIMENTS = sorted(p.stem for p in (ROOT / "configs" / "experiment").glob("*.yaml"))
# What the folders below share.
NO_PROGRAMS = ("__init__", "machine")
# Every stage of a search, of few trials: compiling their structures is most of the cost.
TOY = [
    "data.num_rows=6000",
    "training.batch_size=100",
    "training.num_windows=20",
    "searcher.batch_size=3",
    "fidelity.num_pilots=4",
    "search.trials=5",
    "search.noise_seeds=2",
    "search.final_seeds=2",
    "search.finalists=1",
    "search.qps_seconds=0.01",
    "tracking.mode=disabled",
]

PAPER = [
    "searcher=paper",
    "searcher.num_local=1",
    "searcher.num_exploratory=1",
    "searcher.steps=20",
    "searcher.samples=8",
    "predictor.members=2",
    "predictor.steps=10",
]
# Small structures, eight at most. Both shipped spaces are searched too: the small one by the toy run, the other by one
# of the experiments.
SHIPPED_SPACE = "kuairand"
FEW_STRUCTURES = [
    f"hydra.searchpath=[file://{ROOT}/tests/experiments/configs]",
    "space=few",
    "model.layer1.a=linear",
    "model.num_layers=1",
    "model.width=8",
]


def program(
    name: str,
    *overrides: str,
    check: bool = True,
    as_file: bool = False,
    cheap: bool = False,
    cold: bool = False,
) -> subprocess.CompletedProcess[str]:
    """Runs a program; a cheap one compiles as the tests themselves do, a cold one is started as a user starts it."""
    environment = os.environ | {"HYDRA_FULL_ERROR": "0", "WANDB_MODE": "offline"}
    environment |= {"JAX_DISABLE_MOST_OPTIMIZATIONS": str(int(cheap))}
    environment.pop("WANDB_SERVICE", None)  # of W&B in this process, which another test has ended
    way = [f"experiments/{name}.py"] if as_file else ["-m", f"experiments.{name}"]
    command = [sys.executable, *way, *overrides]
    start = warm.start_cold if cold else warm.start
    done = warm.ended(start(command, environment), timeout=600)
    if check:
        assert done.returncode == 0, done.stdout[-6000:]
    return done


@pytest.mark.parametrize(
    "name",
    [
        "search",
        "train",
        "prepare_data",
        "report",
        "tune_baseline",
        "record_table",
        "study",
        "roi",
        "reference",
    ],
)
def test_help_explains_itself(name):
    text = program(name, "--help", cold=name == "search").stdout
    assert "Settings (override with key=value)" in text
    assert f"python -m experiments.{name}" in text


def test_users_programs_run_as_files_too():
    as_file = program("search", "--help", as_file=True, cold=True)
    assert as_file.stdout == program("search", "--help").stdout
    for path in (ROOT / "experiments").glob("*.py"):
        if path.stem in NO_PROGRAMS:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not any(name.split(".")[0] == "experiments" for name in names), path


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("search.trails=5", "trails"),
        ("searcher.failures=never", "searcher.failures='never'"),
        ("data.train_fraction=1.5", "data.train_fraction=1.5"),
        ("fidelity=halving fidelity.rungs=[0.5,0.2]", "fidelity.rungs=[0.5, 0.2]"),
        ("fidelity.rungs=[0.5,1.0]", "fidelity.rungs has no effect with fidelity=pilots"),
    ],
)
def test_mistakes_are_named(override, words):
    done = program("search", *override.split(), check=False)
    assert done.returncode != 0
    assert words in done.stdout


@pytest.fixture(scope="module")
def toy_run(tmp_path_factory) -> Path:
    runs = tmp_path_factory.mktemp("runs")
    program(
        # The paper's searcher: with its policy and predictor there is one figure of everything.
        "search",
        "experiment=toy",
        *TOY,
        *PAPER,
        "tracking.mode=offline",
        "model.head=esmm",
        f"runs={runs}",
        "name=toy",
        f"data.folder={runs}/data",
        cheap=True,
    )
    return runs / "toy"


def test_a_search_leaves_everything(toy_run):
    summary = json.loads((toy_run / "summary.json").read_text())
    assert summary["num_trials"] == 5 and summary["status"] == "finished"
    assert set(summary["per_task"]) == {"ctr", "cvr", "ctcvr"}
    assert summary["bayes_ne"]["test"]["ctr"] < 1
    measured = summary["winner"]["measures"]["ctr"]
    # Generated rows name no users.
    assert 0 < measured["auc"] < 1 and measured["calibration"] > 0 and "gauc" not in measured
    assert summary["num_compiles"] >= 1 and summary["compile_seconds"] > 0
    for name in (
        "trials.db",
        "config.yaml",
        "report.html",
        "model/program.bin",
        "model/model.json",
    ):
        assert (toy_run / name).is_file(), name
    assert len(list((toy_run / "figures").glob("*.svg"))) >= 6


def test_the_exported_model_is_the_one_that_was_tested(toy_run):
    exported = json.loads((toy_run / "summary.json").read_text())["exported"]
    with Ledger.read(toy_run / "trials.db") as ledger:
        test = ledger.records("test")[0]
    assert exported["seed"] == test["seeds"][0] and set(exported["ne"]) == {"ctr", "cvr", "ctcvr"}
    for metric, ne in exported["ne"].items():
        assert ne == pytest.approx(test["ne"]["winner"][metric][0], abs=1e-6)


def test_resuming_a_finished_run_changes_nothing(toy_run):
    before = json.loads((toy_run / "summary.json").read_text())
    done = program(
        # The paper's searcher: with its policy and predictor there is one figure of everything.
        "search",
        "experiment=toy",
        *TOY,
        *PAPER,
        "tracking.mode=offline",
        "model.head=esmm",
        f"runs={toy_run.parent}",
        "name=toy",
        f"data.folder={toy_run.parent}/data",
        cheap=True,
    )
    after = json.loads((toy_run / "summary.json").read_text())
    assert "resuming" in done.stdout
    for key in ("winner", "baseline", "ne_gain_percent", "num_trials", "trained_examples", "front"):
        assert after[key] == before[key], key


def test_another_search_on_the_same_ledger_is_refused(toy_run):
    done = program(
        "search",
        "experiment=toy",
        *TOY,
        "model.head=ctr",
        f"runs={toy_run.parent}",
        "name=toy",
        f"data.folder={toy_run.parent}/data",
        check=False,
    )
    assert done.returncode != 0
    assert "model and training" in done.stdout and "Traceback" not in done.stdout
    assert "write name=toy-autorank to keep both, or fresh=true" in done.stdout


def test_report_is_rebuilt_from_the_ledger_alone(toy_run):
    (toy_run / "report.html").rename(toy_run / "old.html")
    program("report", f"run={toy_run}")
    assert (toy_run / "report.html").stat().st_size > 10_000


def test_scores_of_the_artefact_equal_the_models(toy_run):
    """Raw rows through encoders, weights and exported program against what the trained model gave."""
    import polars as pl

    from autorank.app import build
    from autorank.data.logs.base import SOURCES

    config = yaml.safe_load((toy_run / "config.yaml").read_text())
    source = SOURCES[config["data"]["source"]]
    data_config = source.settings(**config["data"])
    held_out = build.dataset(data_config, lambda message: None).test()
    chunks = list(source.make(data_config).chunks(toy_run, lambda message: None))
    assert len(chunks) == 1, "a synthetic stream this short is one chunk, in the order of time"
    raw = pl.DataFrame(dict(chunks[0].columns))[held_out.schema.num_train :][:300]
    raw.write_parquet(toy_run / "rows.parquet")
    command = [sys.executable, "-m", "autorank.score", str(toy_run), str(toy_run / "rows.parquet")]
    done = warm.ended(warm.start(command, os.environ), timeout=300)
    assert done.returncode == 0, done.stdout
    scored = pl.read_parquet(toy_run / "rows.scored.parquet")
    assert scored.height == 300
    found = scored.select("p_ctr", "p_cvr", "p_ctcvr").to_numpy()
    with np.load(toy_run / "model" / "example.npz") as example:
        expected = example["probabilities"]
    np.testing.assert_allclose(found[: len(expected)], expected, atol=1e-6)
    np.testing.assert_allclose(found[:, 0] * found[:, 1], found[:, 2], atol=1e-6)
    assert found.std(axis=0).min() > 1e-3


def test_scoring_names_a_missing_column(toy_run):
    import polars as pl

    pl.DataFrame({"field0": [1, 2]}).write_parquet(toy_run / "short.parquet")
    score = [sys.executable, "-m", "autorank.score", str(toy_run), str(toy_run / "short.parquet")]
    done = warm.ended(warm.start(score, os.environ), timeout=300)
    assert done.returncode == 1 and "field1" in done.stdout


NOTEBOOKS = ("fidelity", "predictor", "read_a_run", "search")
# One kernel for all, emptied between them: starting it and importing JAX is most of what they cost.
EXECUTE = """
import sys, nbformat, nbclient
from nbformat.v4 import new_code_cell, new_notebook
cells = []
for path in sys.argv[1:]:
    cells += [new_code_cell("%reset -f"), *nbformat.read(path, as_version=4).cells]
for number, cell in enumerate(cells):
    cell["id"] = str(number)
book = new_notebook(cells=cells)
nbclient.NotebookClient(book, timeout=300, kernel_name="python3").execute()
print(sum(output.output_type == "display_data" for c in cells for output in c.get("outputs", [])))
"""


def test_notebooks_run_and_hold_no_outputs(toy_run):
    import nbformat

    paths = [ROOT / "notebooks" / f"{name}.ipynb" for name in NOTEBOOKS]
    assert sorted((ROOT / "notebooks").glob("*")) == paths
    for path in paths:
        cells = nbformat.read(path, as_version=4).cells
        assert not any(c.get("outputs") for c in cells), f"{path}: strip the outputs"
    done = subprocess.run(
        [sys.executable, "-c", EXECUTE, *map(str, paths)],
        cwd=ROOT / "notebooks",
        check=True,
        timeout=400,
        text=True,
        stdout=subprocess.PIPE,
        env=os.environ
        | {
            "AUTORANK_RUN": str(toy_run),
            "AUTORANK_SMALL": "1",
            "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        },
    )
    # Of predictor and search one each, of fidelity two, of a run as many as it has.
    figures = len(list((toy_run / "figures").glob("*.svg")))
    assert int(done.stdout) == 1 + 1 + 2 + figures


def test_the_readmes_table_is_the_committed_results():
    program("compare", "--check")


@pytest.mark.parametrize("name", [e for e in EXPERIMENTS if e != "toy"])
def test_every_experiment_runs_at_toy_size(name, tmp_path):
    """On synthetic data where the config's own is not at hand; everything else as the config says."""
    text = (ROOT / "configs" / "experiment" / f"{name}.yaml").read_text()
    small = PAPER if "override /searcher: paper" in text else []
    program(
        "search",
        f"experiment={name}",
        "data=synthetic",
        *TOY,
        *small,
        *([] if name == SHIPPED_SPACE else FEW_STRUCTURES),
        f"runs={tmp_path}",
        "name=toy",
        f"data.folder={tmp_path}/data",
        cheap=True,
    )
    assert json.loads((tmp_path / "toy" / "summary.json").read_text())["num_trials"] == 5


def test_train_writes_curve_result_and_model(tmp_path):
    program(
        "train",
        "data=synthetic",
        "data.num_rows=8000",
        "training.batch_size=100",
        "seeds=2",
        "model.head=ctr",
        "training.num_windows=10",
        f"runs={tmp_path}",
        "name=one",
        f"data.folder={tmp_path}/data",
        cold=True,
    )
    result = json.loads((tmp_path / "one" / "result.json").read_text())
    assert len(result["runs"]) == len(result["test"]) == 2
    assert 0.3 < result["test"][0]["ctr"]["ne"] < 1.2
    lines = (tmp_path / "one" / "curve-0.csv").read_text().splitlines()
    assert lines[0] == "window,ctr" and len(lines) == 11
    assert (tmp_path / "one" / "model" / "model.json").is_file()
