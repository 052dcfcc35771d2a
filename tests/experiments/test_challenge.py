"""Bayesmark's problems: spaces there and back, the challenge's score, the server's protocol; none needs Bayesmark."""

import io
import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.special import expit, logit
from scipy.stats import beta

from experiments.comparison import bench_bayesmark
from experiments.comparison.challenge import document, evaluator, reference, server, table
from experiments.comparison.challenge.translation import biexp, bilog, translated
from experiments.comparison.peers import catalogue
from experiments.comparison.peers.base import described, step_seed
from experiments.comparison.runs import Job, read

# Every type and scale that Bayesmark has.
API = {
    "beta_1": {"type": "real", "space": "logit", "range": [0.5, 0.99]},
    "alpha": {"type": "real", "space": "log", "range": [1e-5, 10.0]},
    "shift": {"type": "real", "space": "bilog", "range": [-100.0, 1000.0]},
    "decrease": {"type": "real", "space": "linear", "range": [0.0, 0.5]},
    "neighbours": {"type": "int", "space": "linear", "range": [1, 25]},
    "steps": {"type": "int", "space": "log", "range": [10, 5000]},
    "offset": {"type": "int", "space": "bilog", "range": [-50, 50]},
    "power": {"type": "int", "space": "log", "values": [16, 1, 4]},
    "intercept": {"type": "bool"},
    "kernel": {"type": "cat", "values": ["rbf", "linear"]},
}
COMMAND = [sys.executable, str(Path(__file__).with_name("bayesmark_child.py"))]


@pytest.fixture
def space():
    return translated(API, grid_size=9)


def test_every_scale_reaches_the_problem_as_it_is(space):
    choices = {d.name: d.choices for d in space.space.decisions}
    # Even steps on the problem's own scale, from one end of its range to the other.
    np.testing.assert_allclose(
        [space._native("beta_1", v) for v in choices["beta_1"]],
        expit(np.linspace(logit(0.5), logit(0.99), 9)),
        rtol=1e-7,
    )
    ends = -math.log(101.0), math.log(1001.0)
    warped = np.linspace(*ends, 9)
    np.testing.assert_allclose(
        [space._native("shift", v) for v in choices["shift"]],
        np.sign(warped) * np.expm1(np.abs(warped)),
        rtol=1e-6,
    )
    np.testing.assert_allclose(choices["alpha"], np.geomspace(1e-5, 10.0, 9), rtol=1e-8)
    np.testing.assert_allclose(choices["decrease"], np.linspace(0.0, 0.5, 9), rtol=1e-8)
    assert choices["neighbours"] == (1, 4, 7, 10, 13, 16, 19, 22, 25)
    assert choices["intercept"] == (False, True) and choices["kernel"] == ("linear", "rbf")
    logs = {d.name for d in space.space.decisions if d.log}
    assert logs == {"alpha", "steps", "power"} and choices["power"] == (1, 4, 16)


def test_configurations_survive_the_way_there_and_back(space):
    rng = np.random.default_rng(0)
    for _ in range(50):
        values = space.space.decode([rng.integers(len(d.choices)) for d in space.space.decisions])
        native = space.native(values)
        for name, told in API.items():
            low, high = told.get("range", (-math.inf, math.inf))
            assert not isinstance(native[name], float) or low <= native[name] <= high
            assert told["type"] != "int" or type(native[name]) is int
        again = space.native(space.values(native))
        assert again.keys() == native.keys()
        for name, value in native.items():
            assert again[name] == (pytest.approx(value) if type(value) is float else value)
    # A peer sees the same scales: the ends of its intervals are the ends of the problem's ranges.
    task = described(evaluator_with(space))
    low, high, whole = task.intervals["beta_1"]
    assert (low, high) == pytest.approx((logit(0.5), logit(0.99))) and not whole
    assert task.intervals["steps"] == (10, 5000, True) and "power" not in task.intervals


def evaluator_with(space):
    class Known:
        def translation(self, problem):
            return space

    return evaluator.benchmark_of(Known(), "SVM_iris_acc", 0, 0)  # pyright: ignore


def test_bilog_is_odd_monotone_and_inverted():
    xs = np.array([-1e6, -3.0, -1e-9, 0.0, 1e-9, 0.5, 1e6])
    ys = np.array([bilog(x) for x in xs])
    assert (np.diff(ys) > 0).all() and bilog(math.e - 1.0) == pytest.approx(1.0)
    np.testing.assert_allclose([biexp(y) for y in ys], xs, rtol=1e-12)
    np.testing.assert_allclose(ys, [-bilog(-x) for x in xs])


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ({"type": "complex"}, "rate: type 'complex' is none of real, int, bool, cat"),
        ({"type": "real", "space": "cubic", "range": [0, 1]}, "rate: space 'cubic' is none of"),
        ({"type": "real", "space": "logit", "values": [0.1]}, "rate: values on the scale logit"),
    ],
)
def test_what_is_no_space_of_bayesmarks_is_refused_by_name(told, message):
    with pytest.raises(ValueError, match=message):
        translated({"rate": told})


@pytest.fixture
def published(tmp_path):
    """Two problems as the starter kit writes them."""

    def variable(values):
        # The other objective is there to be left out.
        return {"data": np.stack([values, np.full_like(values, 99.0)], axis=-1).tolist()}

    rounds = 16
    mean = np.stack([np.linspace(0.8, 0.4, rounds), np.linspace(10.0, 5.0, rounds)], axis=1)
    data = {
        "coords": {
            "function": {"data": ["kNN_iris_nll", "DT_wine_nll"]},
            "objective": {"data": ["_visible_to_opt", "generalization"]},
        },
        "data_vars": {
            "median": variable(mean + 0.1),
            "mean": variable(mean),
            "clip": variable(np.array([1.0, 12.0])),
            "best": variable(np.array([0.2, 2.0])),
        },
    }
    told = {
        "data": data,
        "meta": {"signature": {"DT_wine_nll": [1.0] * 5, "kNN_iris_nll": [2.0] * 5}},
    }
    (tmp_path / "baseline-16-8.json").write_text(json.dumps(told))
    return tmp_path


def test_the_score_is_that_of_the_challenge(published):
    known = reference.references("16x8", published)
    assert list(known) == ["DT_wine_nll", "kNN_iris_nll"]
    tree, neighbours = known.values()
    # 0 at the best known, 1 at a median random configuration; clipped to [-1, 1]; a failed run is a 1.
    np.testing.assert_allclose(neighbours.normed(np.array([0.2, 1.0, 0.6])), [0.0, 1.0, 0.5])
    np.testing.assert_allclose(tree.normed(np.array([-30.0, 99.0, np.inf])), [-1.0, 1.0, 1.0])
    normed = {
        "DT_wine_nll": tree.normed(np.array([7.0, 2.0])),
        "kNN_iris_nll": neighbours.normed(np.array([0.2])),
    }
    assert reference.score(normed) == pytest.approx(100.0 * (1.0 - (0.25 + 0.0) / 2))
    # The mean that is published of random search: 5 of [2, 12], .4 of [.2, 1].
    found = reference.published_random("16x8", list(known), published)
    assert found == pytest.approx(100.0 * (1.0 - (0.3 + 0.25) / 2))
    np.testing.assert_array_equal(neighbours.signature, [2.0] * 5)


def test_the_best_so_far_counts_whole_rounds_and_failures_are_infinite():
    losses = [None] * 8 + [3.0, 2.0, None, 5.0, 4.0, 4.0, 4.0, 4.0] + [2.5] * 8 + [0.0]
    found = reference.best_so_far(losses, reference.PROTOCOLS["16x8"])
    np.testing.assert_array_equal(found, [np.inf, 2.0, 2.0])
    one = reference.best_so_far([2.0, 3.0, 1.0], reference.PROTOCOLS["100x1"])
    np.testing.assert_array_equal(one, [2.0, 2.0, 1.0])


def test_a_missing_reference_says_where_it_can_be_found(tmp_path):
    with pytest.raises(FileNotFoundError, match="bbo_challenge_starter_kit"):
        reference.references("100x1", tmp_path / "nowhere")


def test_the_interval_of_a_quantile_covers_it():
    """Of uniform numbers the quantile is known, and so is the chance that an order statistic is below it."""
    rng = np.random.default_rng(1)
    share, n = 1.0 - 0.5 ** (1.0 / 10), 300  # the best of ten
    found = np.array([table.quantile_with_interval(rng.random(n), share) for _ in range(400)])
    inside = np.mean((found[:, 1] <= share) & (share <= found[:, 2]))
    assert 0.93 < inside <= 1.0
    ordered = np.arange(1.0, n + 1)
    at, low, high = table.quantile_with_interval(ordered, share)
    assert at == math.ceil(n * share)
    # Order statistic k of n uniform numbers is beta(k, n + 1 - k): at most 2.5 % beyond either end.
    assert (
        beta.sf(share, low, n + 1 - low) <= 0.025 and beta.cdf(share, high, n + 1 - high) <= 0.025
    )


class Fake:
    """Problems that need no package: the loss is a formula, the signature is drawn as asked."""

    def versions(self):
        return {"python": "3.7"}

    def space(self, name):
        if name == "nothing":
            raise KeyError(name)
        return {"p": {"type": "int", "space": "linear", "range": (np.int64(1), 4)}}

    def signature(self, name):
        return [1.0, 2.0]

    def suggest(self, name, seed, n):
        return [{"p": np.int64(1 + (seed + i) % 4)} for i in range(n)]

    def evaluate(self, name, row, seed):
        if row["p"] == 4:
            raise ValueError("does not converge")
        return math.nan if row["p"] == 3 else row["p"] + seed


def test_the_server_answers_each_line_and_outlives_errors():
    asked = {"problem": "x", "rows": [{"p": 1}, {"p": 3}, {"p": 4}], "seeds": [5, 6, 7]}
    messages = [
        {"versions": True},
        {"space": "x"},
        {"space": "nothing"},
        {"signature": "x"},
        {"suggest": {"problem": "x", "seed": 2, "n": 3}},
        {"evaluate": asked},
    ]
    out = io.StringIO()
    server.serve(Fake(), [*map(json.dumps, messages), "no json"], out)
    answers = [json.loads(line) for line in out.getvalue().splitlines()]
    assert answers[0] == {"versions": {"python": "3.7"}}
    assert answers[1] == {"space": {"p": {"type": "int", "space": "linear", "range": [1, 4]}}}
    assert answers[2] == {"error": "KeyError: 'nothing'"}
    assert answers[3:5] == [{"signature": [1.0, 2.0]}, {"rows": [{"p": 3}, {"p": 4}, {"p": 1}]}]
    assert answers[5]["losses"] == [6.0, None, None] and len(answers[5]["seconds"]) == 3
    assert answers[6]["error"].startswith("JSONDecodeError")


def test_a_run_goes_on_with_the_noise_and_the_configurations_of_one_that_never_stopped(
    tmp_path, monkeypatch
):
    found = evaluator.Evaluator(COMMAND)
    monkeypatch.setattr(bench_bayesmark, "evaluator", lambda: found)
    job = Job(evaluator.OWN_RANDOM, "bayesmark/kNN_iris_acc", 1, 0.0, 3, 12)
    short = job._replace(trials=5)
    assert bench_bayesmark.work([short], tmp_path / "stopped", math.inf) == 5
    assert bench_bayesmark.work([job], tmp_path / "stopped", math.inf) == 7
    assert bench_bayesmark.work([job], tmp_path / "whole", math.inf) == 12
    stopped, whole = (read(job.path(tmp_path / name)) for name in ("stopped", "whole"))
    assert [line["values"] for line in stopped] == [line["values"] for line in whole]
    assert [line["loss"] for line in stopped] == [line["loss"] for line in whole]
    # The child's loss is its seed: each trial has a number of its own.
    assert [line["loss"][0] for line in whole] == [step_seed(3, told) for told in range(12)]
    with pytest.raises(RuntimeError, match="bayesmark KeyError: 'unknown'"):
        found.signature("unknown")


def test_the_tables_hold_finished_runs_and_their_scores(tmp_path, monkeypatch, published):
    known = reference.references("16x8", published)
    monkeypatch.setattr(table, "references", lambda protocol: known)
    folder = table.folder_of("16x8", tmp_path) / "random"
    folder.mkdir(parents=True)
    line = {"values": [{}] * 8, "seen": [0.6] * 8, "cost": [0] * 8, "cpu": 1.0, "tell_cpu": 0.0}
    losses = [[1.0] * 8] * 8 + [[0.4] + [0.9] * 7] * 8
    lines = "".join(json.dumps({**line, "loss": v}) + "\n" for v in losses)
    (folder / "bayesmark_kNN_iris_nll-b8-n0-s1.jsonl").write_text(lines)
    (folder / "bayesmark_kNN_iris_nll-b8-n0-s2.jsonl").write_text(
        json.dumps({**line, "loss": [1.0] * 8}) + "\n"
    )
    out = tmp_path / "bayesmark.csv"
    assert table.write_table(tmp_path, out) == 1  # the other run has not ended
    (row,) = table.rows_of(out)
    assert table.run_of(row) == ("16x8", "kNN_iris_nll", "random", 1)
    assert (float(row["half_score"]), float(row["end_score"])) == pytest.approx((0.0, 75.0))
    # Another machine's runs join those that stand there.
    assert table.write_table(tmp_path / "nothing", out) == 1
    monkeypatch.setattr(document, "TABLE", out)
    assert document.runs("16x8", "end")["random"]["kNN_iris_nll"] == pytest.approx([75.0])


def test_problems_come_in_the_order_of_the_globs_and_first_what_compiles():
    names = ["DT_iris_acc", "DT_iris_nll", "kNN_iris_acc"]
    assert bench_bayesmark.matching(["kNN*", "*"], names) == [names[2], *names[:2]]
    with pytest.raises(ValueError, match="no problem is called 'SVM"):
        bench_bayesmark.matching(["SVM*"], names)
    protocol = reference.PROTOCOLS["16x8"]
    jobs = bench_bayesmark.jobs_of(["optuna-gp", "autorank"], names, range(2), protocol)
    assert len(jobs) == 12 and {job.trials for job in jobs} == {128}
    front = bench_bayesmark.compiling_first(jobs)
    assert [(j.searcher, j.task) for j in front[:2]] == [
        ("autorank", "bayesmark/DT_iris_acc"),
        ("autorank", "bayesmark/kNN_iris_acc"),
    ]
    assert sorted(front) == sorted(jobs)


def test_the_page_says_who_is_ahead_where_and_which_problems_are_the_published_ones(
    tmp_path, monkeypatch
):
    scores = {
        "autorank": {"kNN_iris_acc": 90.0, "DT_iris_acc": 110.0, "SVM_wine_nll": 100.0},
        "optuna-gp": {"kNN_iris_acc": 96.0, "DT_iris_acc": 100.0, "SVM_wine_nll": 80.0},
        "rare": {"kNN_iris_acc": 200.0},  # too few problems to stand beside the others
        document.EXACTLY.name: {"kNN_iris_acc": 95.0, "SVM_wine_nll": 103.0},
    }
    rows = [
        dict.fromkeys(table.FIELDS, "1")
        | {"protocol": "100x1", "problem": p, "searcher": s, "seed": seed}
        | {"half_score": score - 10.0, "end_score": score + (-1) ** seed}
        for s, of in scores.items()
        for p, score in of.items()
        for seed in (0, 1, 100)  # seed 100 is one that settings were chosen on
    ]
    problems = [
        {"problem": p, "signature_error": e, "random_100x1": r, "random_16x8": r}
        for p, e, r in (
            ("kNN_iris_acc", 0, 70),
            ("DT_iris_acc", 1e-12, 80),
            ("SVM_wine_nll", 2e-3, 75),
        )
    ]
    median = {"protocol": "100x1", "best_of": 1, "evaluations": 300, "here": 1.0}
    random = [
        median | {"problem": str(i), "low": 0.9, "high": 1.1, "published": told}
        for i, told in enumerate((0.9, 1.0, 1.1, 1.2))
    ]
    for name, fields, found in (
        ("TABLE", table.FIELDS, rows),
        ("PROBLEMS", table.PROBLEM_FIELDS, problems),
        ("RANDOM", table.RANDOM_FIELDS, random),
    ):
        table.write(tmp_path / name, fields, found)
        monkeypatch.setattr(document, name, tmp_path / name)
    lines = document.overall()
    cells = [[c.strip() for c in line.strip("|").split("|")] for line in lines[2:]]
    assert [row[1] for row in cells] == ["autorank", "optuna-gp", "random search, published"]
    assert cells[0][2:5] == ["3", "6", "90.00"] and cells[0][5].startswith("100.00 ± 24.84")
    assert cells[1][5].startswith("92.00") and cells[1][6].startswith("+8.00 [")
    assert cells[2][5] == "75.00"
    assert document.behind()[2:] == ["| kNN_iris_acc | 90.0 | optuna-gp (96.0) |"]
    parts = {line.split(" | ")[0]: line for line in document.by_part()[2:]}
    assert parts["| iris"].endswith("+2.00 (optuna-gp) | 95.0, 90.0 (1) |") and parts[
        "| nll"
    ].endswith("| 103.0, 100.0 (1) |")
    ours, peer = document.nearly_exact()[2:]
    assert ours == "| autorank | 2 | 95.00 | 99.00 | +4.00 |"
    assert peer == "| optuna-gp | 2 | 88.00 | 99.00 | +11.00 |"
    same, other = document.signatures()[2:]
    assert same.startswith("| equal to 1e-09 | 2 |") and other.endswith("| SVM_wine_nll |")
    assert document.random_search()[-1] == "| 100x1 | 1 | 4 | 300 | 3 | 0 | 1 |"


def test_the_real_problems_are_the_published_ones():
    if catalogue.interpreter("bayesmark") is None or not reference.FOLDER.exists():
        pytest.skip(
            "no environment of Bayesmark: make bayesmark; or none of the starter kit's files"
        )
    found = evaluator.Evaluator()
    if not found.versions()["python"].startswith("3.7"):
        pytest.skip("Bayesmark is here, but not with the packages of the challenge")
    for problem in ("kNN_iris_nll", "DT_wine_acc", "MLP-sgd_iris_nll"):
        published = reference.references("100x1")[problem].signature
        np.testing.assert_allclose(found.signature(problem), published, rtol=1e-9)
    rows = found.suggest("DT_wine_acc", 0, 2)
    losses, _ = found.losses("DT_wine_acc", [rows[0], rows[0], rows[1]], [1, 1, 2])
    assert losses[0] == losses[1]
    found.close()
