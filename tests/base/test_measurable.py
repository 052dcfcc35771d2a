"""Metrics that a part of the log cannot tell: told early, null everywhere, never the end of a search."""

import json
import logging
import math
from typing import Any

import numpy as np
import pytest

from autorank.app import build
from autorank.app.provenance import write_rows
from autorank.app.training_job import held_out_scores
from autorank.app.tuning_job import tuning_metric
from autorank.base import measurable
from autorank.base.metrics import normalized_entropy
from autorank.comparison import collection
from autorank.comparison.collection_table import table
from autorank.data.logs.table import TableConfig
from autorank.fidelity import curve_label
from autorank.fidelity.rules import FixedConfig, FullConfig, HalvingConfig, PilotsConfig
from autorank.ledger.ledger import Ledger
from autorank.ledger.strict_json import dumps
from autorank.objectives.base import Objective
from autorank.report.console import console_table
from autorank.report.page import write_report
from autorank.search.context import SearchStopped
from autorank.search.held_out import compare
from tests.planted import NUM_WINDOWS, planted_objective
from tests.search.test_search import SPACE, search

METRICS = ("ctr", "cvr", "ctcvr")
FULL = FullConfig()
SMALL: dict[str, Any] = {"num_pilots": 0, "trials": 6, "batch_size": 6}


def strict(text: str):
    def refuse(name):
        raise ValueError(name)

    return json.loads(text, parse_constant=refuse)


# --- what is known before anything is trained -----------------------------------------------------


def test_windows_are_those_with_both_classes():
    rng = np.random.default_rng(0)
    num_steps, batch, num_windows = 23, 4, 7
    rows = (rng.random((num_steps * batch, 2)) < (0.3, 0.4)).astype(np.int8)
    found = measurable.windows(rows, METRICS, num_steps, num_windows)
    for q, metric in enumerate(METRICS):
        for window in range(num_windows):
            steps = [s for s in range(num_steps) if s * num_windows // num_steps == window]
            part = np.concatenate([rows[s * batch : (s + 1) * batch] for s in steps])
            targets, _ = measurable.targets_of(part, metric)
            ne = normalized_entropy(np.full(len(targets), 0.3), targets)
            assert found[window, q] == math.isfinite(ne)
    assert not found.all() and found.any(axis=0).all()
    assert (measurable.of_metric(found, METRICS, "mean") == found.all(axis=1)).all()


SOME, FEW = (lambda i: i % 3 == 0), (lambda i: i % 2 == 0)
FIRST = 4000  # of 5,000 rows, for training
LOGS = {
    "held out without a click": (
        (lambda i: i < FIRST and SOME(i), FEW),
        ("1,000", "held-out", "positive of clicked"),
        ("ctr", "cvr", "ctcvr"),
    ),
    "held out with clicks alone": (
        (lambda i: i >= FIRST or SOME(i), FEW),
        ("1,000", "held-out", "negative of clicked"),
        ("ctr",),
    ),
    "held out without a conversion": (
        (SOME, lambda i: i < FIRST and FEW(i)),
        ("333", "held-out", "positive of bought"),
        ("cvr", "ctcvr"),
    ),
    "held out, every click converts": (
        (SOME, lambda i: i >= FIRST or FEW(i)),
        ("333", "held-out", "negative of bought"),
        ("cvr",),
    ),
    "training without a conversion": (
        (SOME, lambda i: i >= FIRST and FEW(i)),
        ("1,334", "training", "positive of bought"),
        ("cvr", "ctcvr"),
    ),
}


@pytest.mark.parametrize("name", LOGS)
def test_preparing_says_which_part_and_label_is_missing_what(name, tmp_path, caplog):
    (clicked, bought), (rows, part, missing), metrics = LOGS[name]
    lines = ["user,ts,clicked,bought"]
    for i in range(5000):
        click, buy = clicked(i), clicked(i) and bought(i)
        lines.append(f"u{i % 7},{1_700_000_000 + i},{int(click)},{int(buy)}")
    (tmp_path / "log.csv").write_text("\n".join(lines) + "\n")
    (tmp_path / "schema.yaml").write_text(
        "name: t\nclick: clicked\nconversion: bought\ntime: ts\ncategorical: [user]\ndense: []\n"
    )
    config = TableConfig(
        path=str(tmp_path / "log.csv"),
        schema=str(tmp_path / "schema.yaml"),
        folder=str(tmp_path / "data"),
    )
    for _ in range(2):  # also where it was prepared before
        caplog.clear()
        with caplog.at_level(logging.WARNING, "autorank"):
            build.dataset(config, lambda line: None)
        said = [r.getMessage() for r in caplog.records]
        assert len(said) == len(metrics)
        assert all(part in line and "will be null" in line for line in said)
        assert any(rows in line and missing in line for line in said)
        for metric, line in zip(metrics, said, strict=True):
            assert f"NE of {metric} cannot" in line


# --- a search ends with its report whatever is missing --------------------------------------------


def with_metrics(
    metric_windows: dict[str, np.ndarray], test_labels: np.ndarray, **fields
) -> Objective:
    """The planted problem with three metrics, each with an NE in its windows ``[t]`` alone."""
    plain = planted_objective(SPACE)
    where = np.stack([metric_windows.get(m, np.ones(NUM_WINDOWS, bool)) for m in METRICS], axis=1)

    def evaluate(configs, seeds, fidelity):
        for i, outcome in plain.evaluate(configs, seeds, fidelity):
            curve = np.where(where, np.repeat(outcome.curve, 3, axis=1), np.nan)
            yield i, outcome._replace(curve=curve, ne=outcome.ne * 3)

    def test(config, seed):
        assert plain.test is not None
        p = np.resize(plain.test(config, seed), (len(test_labels), 1))
        return np.repeat(p, 3, axis=1)

    return plain._replace(
        metrics=METRICS, evaluate=evaluate, test=test, test_labels=test_labels, **fields
    )


BOTH = np.stack([np.arange(400) % 3 == 0, np.arange(400) % 6 == 0], axis=1).astype(float)
HELD_OUT = {
    "nothing": (BOTH, ()),
    "clicks": (BOTH * 0, METRICS),
    "rows without a click": (np.stack([np.ones(400), BOTH[:, 1]], axis=1), ("ctr",)),
    "conversions": (BOTH * (1, 0), ("cvr", "ctcvr")),
    "clicks that do not convert": (BOTH[:, :1] * (1, 1), ("cvr",)),
}


@pytest.mark.parametrize(
    ("metric", "missing"), [*(("ctr", name) for name in HELD_OUT), ("mean", "conversions")]
)
def test_a_held_out_part_of_one_class_leaves_nulls_and_the_rest(missing, metric, tmp_path):
    test_labels, unknown = HELD_OUT[missing]
    counts = tuple(measurable.count("held-out", test_labels, m) for m in METRICS)
    objective = with_metrics({}, test_labels, counts=counts)
    summary = search(tmp_path, objective=objective, fidelity=FULL, metric=metric, **SMALL)
    said = {w["signature"] for w in summary["warnings"]}
    assert {f"no NE of {m} on the held-out rows" for m in unknown} == {
        s for s in said if "held" in s
    }
    for name in METRICS:
        entry = summary["per_task"][name]
        known = name not in unknown
        assert (entry["baseline_ne"] is not None) == (entry["winner_ne"] is not None) == known
        gain = entry["ne_gain_percent"]
        assert all((gain[k] is not None) == known for k in ("mean", "low", "p", "rows_low"))
    on_test = "ctr" not in unknown
    assert (summary["winner"]["ne"] is not None) == on_test
    assert summary["ne_gain_on"] == ("held-out test" if on_test else "validation")
    assert math.isfinite(summary["ne_gain_percent"]["mean"])
    text = dumps(summary, indent=1)
    assert strict(text)["status"] == "finished"
    assert "nan" not in console_table(summary)
    (tmp_path / "summary.json").write_text(text)
    if missing == "clicks":  # nothing is known
        again = search(tmp_path, objective=objective, fidelity=FULL, metric=metric, **SMALL)
        assert again["winner"] == strict(text)["winner"]
        page = write_report(tmp_path).read_text()
        assert "NaN" not in page and ">nan" not in page
    summary |= {"versions": {"jax": "0"}, "device": "cpu", "git_revision": "x"}
    rows = [
        {k: "" if r[k] is None else str(r[k]) for k in collection.FIELDS}
        for r in collection.rows_of(summary)
    ]
    lines = table(rows).splitlines()[2:]
    assert sum("reference" in line for line in lines) == 1 and "nan" not in "".join(lines)


# --- the searched metric has windows of one class --------------------------------------------------

LATE = np.arange(NUM_WINDOWS) < 12  # nothing can be measured in the last eight windows
GAPS = np.arange(NUM_WINDOWS) % 3 == 1  # 1, 4, ..., 19
ONCE = np.arange(NUM_WINDOWS) == 7


@pytest.mark.parametrize(
    ("where", "told"), [(LATE, True), (LATE, False), (GAPS, True), (ONCE, True)]
)
def test_windows_of_one_class_are_skipped_alike_for_all(where, told, tmp_path):
    known = np.stack([np.ones_like(where), where, where], axis=1) if told else None
    objective = with_metrics({"cvr": where, "ctcvr": where}, BOTH, measurable=known)
    fidelity = PilotsConfig(num_pilots=6, trend=True, fractions=(0.4, 0.5, 0.7, 1.0))
    options: dict[str, Any] = {"num_pilots": 6, "trials": 12, "batch_size": 6, "metric": "cvr"}
    summary = search(tmp_path, objective=objective, fidelity=fidelity, **options)
    assert summary["winner"] is not None
    with Ledger.read(tmp_path / "trials.db") as ledger:
        trials = ledger.trials()
    assert not [t.reason for t in trials if "not finite" in t.reason]
    finished = [t for t in trials if t.status == "finished"]
    base = np.mean([curve(t) for t in finished if t.stage == "seed_noise"], axis=0)
    last = max(np.flatnonzero(where))
    used = [w for w in range(15, NUM_WINDOWS) if where[w]] or [last]
    for trial in finished:
        if trial.stage in ("pilot", "final"):
            gains = 100 * (curve(trial) / base - 1)
            assert trial.quality == pytest.approx(gains[used].mean())


def curve(trial) -> np.ndarray:
    rows = [[math.nan if v is None else v for v in row] for row in trial.outcome["curve"]]
    return np.array(rows)[:, 1]


def test_a_curve_that_ends_is_told_from_one_that_cannot_be_measured():
    line = np.arange(20.0)
    late = np.where(LATE, line, np.nan)
    assert math.isnan(curve_label.curve_label(late, 1.0))
    assert curve_label.curve_label(late, 1.0, where=LATE) == 11
    assert curve_label.curve_label(late, 1.0, where=LATE, dx=2.0) == pytest.approx(11)
    ended = np.where(np.arange(20) < 8, line, np.nan)
    assert math.isnan(curve_label.curve_label(ended, 1.0, where=LATE))
    assert math.isnan(curve_label.label_power_law(ended, 1.0, where=LATE))
    assert math.isfinite(curve_label.label_power_law(late, 1.0, where=LATE))
    assert curve_label.curve_label(ended, 0.4, where=LATE) == np.mean([6, 7])
    assert math.isnan(curve_label.curve_label(np.full(20, np.nan), 1.0, where=np.zeros(20, bool)))


# --- a search for what cannot be told is refused ---------------------------------------------------


@pytest.mark.parametrize(
    ("metric", "known", "fidelity", "words"),
    [
        ("cvr", (20, 0, 0), FULL, r"search\.metric=cvr cannot be computed.*search\.metric=ctr"),
        (
            "mean",
            (20, 0, 20),
            FULL,
            r"search\.metric=mean cannot.*every metric.*search\.metric=ctr",
        ),
        ("ctr", (0, 0, 0), FULL, r"search\.metric=ctr cannot be computed.*another log"),
        (
            "ctr",
            (9, 20, 20),
            FixedConfig(fraction=0.5),
            r"at 0\.5 of the log search\.metric=ctr.*number 12 of 20.*at least 0\.6",
        ),
        ("ctr", (9, 20, 20), HalvingConfig(), r"at 0\.2 of the log"),
    ],
)
def test_a_metric_that_training_cannot_tell_is_refused_before_anything_is_trained(
    metric, known, fidelity, words, tmp_path
):
    where = np.arange(NUM_WINDOWS)[:, None] >= NUM_WINDOWS - np.array(known)

    def evaluate(*_):
        raise AssertionError("trained")

    objective = with_metrics({}, BOTH, measurable=where)._replace(evaluate=evaluate)
    with pytest.raises(SearchStopped, match=words):
        search(tmp_path, objective=objective, fidelity=fidelity, metric=metric, **SMALL)
    with Ledger.read(tmp_path / "trials.db") as ledger:
        assert not ledger.trials()


def test_tuning_is_judged_by_what_can_be_told():
    where = np.ones((NUM_WINDOWS, 3), bool)
    where[:, 0] = False
    assert tuning_metric(with_metrics({}, BOTH, measurable=where)) == "cvr"
    with pytest.raises(ValueError, match="no window of the training rows.*num_windows"):
        tuning_metric(with_metrics({}, BOTH, measurable=where & False))


# --- files ------------------------------------------------------------------------------------------


def test_scores_that_are_unknown_are_null_in_json_and_empty_in_csv(tmp_path):
    scores = held_out_scores(with_metrics({}, BOTH * 0), np.full((400, 3), 0.2))
    found = strict(dumps(scores, indent=1))
    assert found["ctr"]["ne"] is None and found["cvr"]["log_loss"] is None
    assert found["ctr"]["log_loss"] > 0
    row = {"validation_ne_ctr": math.nan, "held_out_ne_ctr": [0.5, math.nan], "failed": ""}
    write_rows(tmp_path / "rows.csv", [row], {"limit": math.nan, "most": math.inf})
    assert (tmp_path / "rows.csv").read_text().splitlines()[1] == ',"[0.5,null]",'
    assert strict((tmp_path / "rows.json").read_text()) == {"limit": None, "most": "Infinity"}
    found = compare([math.nan] * 2, [math.nan] * 2, np.ones(4), np.ones(4))
    assert not any(math.isfinite(found[k]) for k in ("mean", "low", "rows_low", "rows_high"))
