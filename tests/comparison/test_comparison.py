"""Comparing runs: groups, pairs, intervals, what is left out, and how it is shown."""

import csv
import importlib.util
import io
import json
import math
import re
import shutil
import sqlite3
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import yaml
from hydra.utils import instantiate
from omegaconf import OmegaConf

from autorank.comparison.after_sweep import AfterSweep
from autorank.comparison.compare import Comparison, compare
from autorank.comparison.figures import FIGURES, at, looks_of, mean_and_error
from autorank.comparison.finding import run_folders
from autorank.comparison.grouping import names_of
from autorank.comparison.page import comparison_page
from autorank.comparison.reading import read_search
from autorank.comparison.result import LeftOut
from autorank.comparison.text import console_text, csv_text
from tests.comparison.fake_runs import (
    LUCK,
    SETTINGS,
    gain_of,
    settings,
    write_run,
    write_twelve,
)

ROOT = Path(__file__).resolve().parents[2]
NASTY = '<script>alert("x")</script>&amp;'


@pytest.fixture(scope="module")
def twelve(tmp_path_factory) -> Path:
    return write_twelve(tmp_path_factory.mktemp("twelve"))


@pytest.fixture(scope="module")
def found(twelve) -> Comparison:
    return compare([str(twelve)], ["searcher=autorank"])


def members(comparison: Comparison) -> dict[str, set[int]]:
    return {g.name: {r.seed for r in g.results} for g in comparison.groups}


# --- groups and pairs -----------------------------------------------------------------------------


def test_twelve_runs_are_four_groups_of_three_seeds(found):
    assert members(found) == {
        "searcher=autorank": {0, 1, 2},
        "searcher=paper, predictor.members=1": {0, 1, 2},
        "searcher=paper, predictor.members=3": {0, 1, 2},
        "searcher=paper, predictor.members=10": {0, 1, 2},
    }
    assert found.num_runs == 12 and not found.left_out and not found.idle
    # Names, folders and workers differ between all of them and are no differences of the searches.
    assert "search.workers" not in found.keys and "name" not in found.keys
    assert {"searcher.name", "predictor.members", "searcher.pool", "searcher.steps"} <= set(
        found.keys
    )


def test_intervals_are_those_of_the_paired_t_test(found):
    (block,) = found.blocks
    base = np.array([gain_of(0, s) for s in LUCK])
    by_name = {row.group.name: row for row in block.rows}
    assert block.rows[0].difference is None and block.rows[0].group is found.reference
    for place, (searcher, changes, _) in enumerate(SETTINGS):
        name = f"searcher={searcher}"
        name += f", predictor.members={changes['predictor__members']}" if changes else ""
        row, own = by_name[name], np.array([gain_of(place, s) for s in LUCK])
        assert row.mean == pytest.approx(own.mean())
        assert row.sd == pytest.approx(own.std(ddof=1))
        assert row.noise == pytest.approx(0.05 + 0.01 * place)
        if place == 0:
            continue
        gap = row.difference
        expected = scipy.stats.ttest_rel(own, base).confidence_interval(0.95)
        assert gap.seeds == (0, 1, 2)
        assert gap.mean == pytest.approx((own - base).mean())
        assert (gap.low, gap.high) == pytest.approx((expected.low, expected.high))
        # Unpaired, the luck of the seeds would hide every one of these differences.
        assert scipy.stats.ttest_ind(own, base).pvalue > 0.05
    assert [r.difference.verdict for r in block.rows[1:]] == ["not shown", "worse", "worse"]


def test_only_seeds_that_both_have_are_paired(tmp_path):
    ours, theirs = {0: -0.3, 1: -0.1, 2: -0.7, 5: 40.0}, {1: 0.2, 2: 0.1, 0: 0.15, 9: -40.0}
    for searcher, gains in (("paper", ours), ("autorank", theirs)):
        for seed, gain in gains.items():
            write_run(tmp_path / f"{searcher}-{seed}", settings(searcher, seed), gain)
    (block,) = compare([f"{tmp_path}/*"], ["searcher=autorank"]).blocks
    gap = block.rows[1].difference
    assert gap.seeds == (0, 1, 2)
    differences = np.array([ours[s] - theirs[s] for s in (0, 1, 2)])
    half = scipy.stats.t.ppf(0.975, 2) * differences.std(ddof=1) / math.sqrt(3)
    assert gap.mean == pytest.approx(differences.mean())
    assert gap.high - gap.low == pytest.approx(2 * half)
    # The means are over all of a group's runs.
    assert block.rows[1].mean == pytest.approx(np.mean(list(ours.values())))


def test_data_sets_are_never_paired_with_each_other(tmp_path):
    gains = {
        ("paper", "d1"): -0.2,
        ("autorank", "d1"): 0.1,
        ("paper", "d2"): -0.9,
        ("autorank", "d2"): -0.7,
    }
    for (searcher, data), gain in gains.items():
        width = {"d1": 16, "d2": 32}[data]  # of the baseline that comes with the data
        for seed in (0, 1):
            config = settings(searcher, seed, model__width=width)
            folder = tmp_path / f"{searcher}-{data}-{seed}"
            write_run(
                folder, config, gain + 0.05 * seed * (searcher == "paper"), data=data, name=data
            )
    found = compare([str(tmp_path)], ["searcher=autorank"])
    assert members(found) == {"searcher=autorank": {0, 1}, "searcher=paper": {0, 1}}
    gaps = {b.name: b.rows[1].difference for b in found.blocks}
    assert gaps["d1 (ctr)"].mean == pytest.approx(-0.3 + 0.025)
    assert gaps["d2 (ctr)"].mean == pytest.approx(-0.2 + 0.025)
    assert any("model.width" in note for note in found.notes)
    assert {row.name for b in found.blocks for row in b.rows} == set(members(found))
    # Two data sets of two seeds: both means have the same variance, so Satterthwaite's freedom is 1 + 1.
    (row,) = found.overall
    assert (row.data_sets, row.pairs) == (2, 4) and row.mean == pytest.approx(-0.225)
    error = math.sqrt(2 * np.var([0.0, 0.05], ddof=1) / 2) / 2
    assert row.high - row.mean == pytest.approx(scipy.stats.t.ppf(0.975, 2) * error)
    assert list(csv.DictReader(io.StringIO(csv_text(found))))[-1]["data"] == "*"
    assert "Over data sets" in console_text(found) and "Over data sets" in comparison_page(found)


def test_held_out_ne_is_compared_in_percent(tmp_path):
    for seed, (ours, theirs) in enumerate([(0.891, 0.9), (0.8, 0.8)]):
        write_run(tmp_path / f"a{seed}", settings("paper", seed), 0.0, ne=ours)
        write_run(tmp_path / f"b{seed}", settings("autorank", seed), 0.0, ne=theirs)
    (block,) = compare([str(tmp_path)], ["searcher=autorank"], "ne").blocks
    assert block.rows[1].difference.mean == pytest.approx(-0.5)


def test_other_measures_are_compared_as_losses_in_points(tmp_path):
    for seed, (ours, theirs) in enumerate([(0.71, 0.70), (0.74, 0.71)]):
        own, other = ({"auc": auc, "calibration": 1.0} for auc in (ours, theirs))
        write_run(tmp_path / f"a{seed}", settings("paper", seed), 0.0, measures=own)
        write_run(tmp_path / f"b{seed}", settings("autorank", seed), 0.0, measures=other)
    found = compare([str(tmp_path)], ["searcher=autorank"], "auc")
    row = found.blocks[0].rows[1]
    assert row.difference.mean == pytest.approx(-2.0) and row.mean == pytest.approx(0.275)
    assert "differences in points of 1 - auc from" in console_text(found)
    assert ",auc," in csv_text(found) and "points of 1 - auc" in comparison_page(found)
    unknown = compare([str(tmp_path)], ["searcher=autorank"], "gauc").blocks[0].rows[1]
    assert math.isnan(unknown.mean)


def test_a_seed_that_ran_twice_counts_once(tmp_path):
    # The same search under two numbers of workers, which is no difference; and a predictor that nobody reads.
    for name, members_, gain in (("a", 3, -0.2), ("b", 10, -0.4)):
        config = settings("autorank", 0, predictor__members=members_, search__workers=members_)
        write_run(tmp_path / name, config, gain)
    write_run(tmp_path / "c", settings("paper", 0), 0.0)
    found = compare([str(tmp_path)], ["searcher=paper"])
    row = found.blocks[0].rows[1]
    assert row.seeds == {0: pytest.approx(-0.3)} and len(row.results) == 2
    assert row.difference.verdict == "one pair" and math.isnan(row.difference.low)
    assert any("2 runs of 1 seeds" in note for note in found.notes)
    (idle,) = found.idle
    assert (idle.key, idle.values) == ("predictor.members", ["3", "10"])
    assert idle.why == "searcher=autorank does not read it"
    apart = compare([str(tmp_path)], by=["search.workers"])
    assert len(apart.groups) == 3


def test_names_say_all_that_differs_and_differ_themselves():
    base = {"searcher.name": "paper", "searcher.steps": 5, "model.width": 8}
    other = {"searcher.name": "autorank", "searcher.pool": 9, "model.width": 16}
    assert names_of([base, other]) == [
        "searcher=paper, model.width=8",
        "searcher=autorank, model.width=16",
    ]
    # A part's own setting that does vary within it is part of the name.
    assert names_of([base, base | {"searcher.steps": 6}, other])[0] == (
        "searcher=paper, searcher.steps=5, model.width=8"
    )
    small = {f"space.decisions.d{i}": "x" for i in range(4)}
    large = {f"space.decisions.d{i}": "y" for i in range(6)}
    assert names_of([small, large]) == ["space 1 (4 decisions)", "space 2 (6 decisions)"]


@pytest.mark.parametrize(
    "reference", [[], ["B"], ["predictor.members=3"], ["searcher=paper", "predictor.members=3"]]
)
def test_the_reference_is_the_one_that_was_meant(twelve, reference):
    found = compare([str(twelve)], reference)
    if not reference:
        assert found.reference is found.groups[0]
    elif reference == ["B"]:
        assert found.reference is found.groups[1]
    else:
        assert "members=3" in found.reference.name
    by_folder = compare([str(twelve)], [str(found.reference.results[1].folder)])
    assert by_folder.reference.name == found.reference.name


@pytest.mark.parametrize(
    ("reference", "words"), [("searcher=paper", "means several groups"), ("Q", "means no group")]
)
def test_an_unclear_reference_is_refused_with_the_choices(twelve, reference, words):
    with pytest.raises(ValueError, match=words) as refused:
        compare([str(twelve)], [reference])
    assert "searcher=paper, predictor.members=10" in str(refused.value)


# --- which runs take part -------------------------------------------------------------------------


def test_what_cannot_be_compared_is_listed_with_its_reason(tmp_path):
    runs = tmp_path / "runs"
    for seed in (0, 1):
        write_run(runs / f"ok-{seed}", settings("paper", seed), -0.1)
    write_run(runs / "cut", settings("paper", 2), -0.1, finished=False)
    damaged = write_run(runs / "damaged", settings("paper", 3), -0.1) / "trials.db"
    damaged.write_bytes(damaged.read_bytes()[:5000])
    later = write_run(runs / "later", settings("paper", 4), -0.1)
    with sqlite3.connect(later / "trials.db") as connection:
        (text,) = connection.execute("SELECT value FROM meta WHERE key = 'identity'").fetchone()
        changed = json.dumps(json.loads(text) | {"format": "99"})
        connection.execute("UPDATE meta SET value = ? WHERE key = 'identity'", (changed,))
    half = write_run(runs / "half", settings("paper", 5), -0.1) / "summary.json"
    half.write_text(half.read_text()[:40])
    other = write_run(runs / "other", settings("paper", 6), -0.1)
    summary = json.loads((other / "summary.json").read_text())
    del summary["metric"]
    (other / "summary.json").write_text(json.dumps(summary))
    (write_run(runs / "no-config", settings("paper", 7), -0.1) / "config.yaml").unlink()
    (runs / "stray").mkdir()
    (runs / "multirun.yaml").write_text("x: 1")

    found = compare([f"{runs}/*", str(tmp_path / "absent")])
    assert members(found) == {"all settings the same": {0, 1}}
    reasons = {entry.folder.name: entry.reason for entry in found.left_out}
    expected = {
        "cut": "interrupted after 2 of 8 trials", "damaged": "damaged", "later": "format 99",
        "half": "summary.json cannot be read", "other": "KeyError: 'metric'", "no-config": "no config.yaml",
        "absent": "no trials.db, result.json or *.wandb there",
    }  # fmt: skip
    assert reasons.keys() == expected.keys()
    for name, words in expected.items():
        assert words in reasons[name]
    text = console_text(found)
    assert "Left out: 7" in text and all(words in text for words in expected.values())
    assert "Left out: 7" in comparison_page(found)
    with pytest.raises(ValueError, match="no finished run to compare(.|\n)*interrupted"):
        compare([str(runs / "cut")])


def test_folders_are_found_once_and_by_number(twelve):
    places = [
        str(twelve / "job-10"),
        f"{twelve}/job-*",
        str(twelve),
        str(twelve / "job-3" / "trials.db"),
    ]
    names = [folder.name for folder in run_folders(places)]
    assert names == ["job-10", *(f"job-{i}" for i in range(12) if i != 10)]


def test_a_ledger_with_fingerprints_of_an_earlier_version_counts_by_its_settings(tmp_path):
    folder = write_run(tmp_path / "old", settings("paper", 4, search__workers=9), -0.1)
    with sqlite3.connect(folder / "trials.db") as connection:
        (text,) = connection.execute("SELECT value FROM meta WHERE key = 'identity'").fetchone()
        old = {
            k: "0" * 64 if k not in ("format", "data") else v for k, v in json.loads(text).items()
        }
        connection.execute("UPDATE meta SET value = ? WHERE key = 'identity'", (json.dumps(old),))
    result = read_search(folder)
    assert not isinstance(result, LeftOut)
    assert result.settings["predictor.members"] == 10
    assert not {"search.seed", "search.workers", "data.folder", "name"} & result.settings.keys()


def test_a_sweep_ends_with_the_comparison_and_its_command(twelve, tmp_path, capsys):
    written = yaml.safe_load((ROOT / "configs" / "search.yaml").read_text())["hydra"]["callbacks"]
    callback = instantiate(written["compare"])
    callback.on_multirun_end(OmegaConf.create({"hydra": {"sweep": {"dir": str(twelve)}}}))
    said = capsys.readouterr().out
    assert "12 runs in 4 groups" in said
    assert said.endswith(
        f"python -m experiments.compare {twelve} --page {twelve}/comparison.html\n"
    )
    callback.on_multirun_end(OmegaConf.create({"hydra": {"sweep": {"dir": str(tmp_path)}}}))
    assert "no finished run to compare" in capsys.readouterr().out


@pytest.mark.parametrize("ends", [True, False])
def test_a_sweep_that_ends_with_an_error_is_compared_as_the_program_ends(
    twelve, capsys, monkeypatch, ends
):
    at_exit = []
    monkeypatch.setattr("atexit.register", at_exit.append)
    callback, config = AfterSweep(), OmegaConf.create({"hydra": {"sweep": {"dir": str(twelve)}}})
    callback.on_multirun_start(config)
    if ends:  # else Hydra raises the error of a job, and calls nothing
        callback.on_multirun_end(config)
    for function in at_exit:
        function()
    assert capsys.readouterr().out.count("12 runs in 4 groups") == 1


def test_a_sweep_with_a_ledger_of_its_own_means_its_runs(tmp_path):
    write_run(tmp_path / "sweep", settings("paper", 0), -0.1)
    write_run(tmp_path / "sweep" / "1", settings("paper", 1), -0.1)
    assert run_folders([str(tmp_path / "sweep")]) == [tmp_path / "sweep" / "1"]


def test_every_seed_of_a_training_is_a_run(tmp_path):
    values = {8: {0: 0.9, 1: 0.92, 2: 0.91}, 16: {0: 0.89, 1: 0.90, 2: 0.91}}
    for width, by_seed in values.items():
        config = {
            "name": f"train-{width}", "runs": "runs", "seeds": 5 - width // 8, "export": True, "fraction": 1.0,
            "data": {"source": "log", "folder": f"cache-{width}", "path": None},
            "model": {"width": width}, "training": {"devices": 1},
        }  # fmt: skip
        result = {
            "metrics": ["ctr"],
            "runs": [{"seed": s, "ne": [0.95], "failed": "", "num_rows": 9} for s in by_seed]
            + [{"seed": 3, "ne": [None], "failed": "non-finite loss", "num_rows": 2}],
            "test": [{"seed": s, "ctr": {"ne": v}} for s, v in by_seed.items()],
            "config": config,
        }
        (tmp_path / str(width)).mkdir()
        (tmp_path / str(width) / "result.json").write_text(json.dumps(result))
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "result.json").write_text("{")
    found = compare([str(tmp_path)], ["model.width=8"])
    assert found.measure == "ne" and members(found).keys() == {"model.width=8", "model.width=16"}
    assert ["broken"] == [entry.folder.name for entry in found.left_out]
    percent = [100 * (values[16][s] / values[8][s] - 1) for s in range(3)]
    gap = found.blocks[0].rows[1].difference
    expected = scipy.stats.ttest_1samp(percent, 0.0).confidence_interval(0.95)
    assert gap.seeds == (0, 1, 2) and gap[1:4] == pytest.approx((np.mean(percent), *expected))
    assert any("1 without a known ne" in note for note in found.notes)
    assert "single models" in comparison_page(found)
    write_run(tmp_path / "search", settings("paper", 0), -0.1)
    mixed = compare([str(tmp_path)])
    assert mixed.num_runs == 1 and len(mixed.left_out) == 3
    assert sum("a model trained alone" in reason for _, reason in mixed.left_out) == 2


# --- curves and fronts ----------------------------------------------------------------------------


def test_the_course_is_the_lowest_label_and_the_cost_so_far(twelve):
    result = read_search(twelve / "job-0")
    assert not isinstance(result, LeftOut)
    with sqlite3.connect(twelve / "job-0" / "trials.db") as connection:
        rows = connection.execute(
            "SELECT quality, fidelity, cost FROM trials ORDER BY id"
        ).fetchall()
    labels, shares = np.array([r[0] for r in rows]), [r[1] for r in rows]
    np.testing.assert_allclose(result.course.best, [labels[: i + 1].min() for i in range(8)])
    np.testing.assert_allclose(result.course.passes, np.cumsum(shares))
    assert result.values["label"] == labels.min()
    for ratio, label in result.front:
        assert label == min(q for q, _, c in rows if math.exp(c) <= ratio * (1 + 1e-12))


def test_steps_and_bands():
    x, y = np.array([1.0, 2.0, 4.0]), np.array([5.0, 3.0, 2.0])
    grid = np.array([0.5, 1.0, 1.5, 3.9, 4.0, 9.0])
    np.testing.assert_array_equal(at(x, y, grid, beyond=True), [np.nan, 5, 5, 3, 2, 2])
    np.testing.assert_array_equal(at(x, y, grid, beyond=False), [np.nan, 5, 5, 3, 2, np.nan])
    curves = np.array([[1.0, 2.0], [2.0, 4.0], [6.0, np.nan]])
    mean, error = mean_and_error(curves)
    assert (mean[0], error[0]) == pytest.approx((3.0, scipy.stats.sem(curves[:, 0])))
    assert np.isnan(mean[1]) and np.isnan(error[1])
    assert np.isnan(mean_and_error(curves[:1])[1]).all()


def test_every_figure_is_drawn_and_names_its_axes(found):
    (block,) = found.blocks
    for name, drawing in FIGURES.items():
        figure = drawing.draw(found, block)
        assert figure is not None and figure.get_suptitle(), name
        assert all(ax.get_xlabel() for ax in figure.axes)
    assert "1 not shown to differ" in FIGURES["differences"].draw(found, block).get_suptitle()
    looks = looks_of(block)
    assert len({(v.colour, v.line) for v in looks.values()}) == 4


# --- the console, the CSV, the page ---------------------------------------------------------------


def test_the_console_and_the_csv_say_the_same(found):
    rows = list(csv.DictReader(io.StringIO(csv_text(found))))
    assert len(rows) == 4 and {r["runs"] for r in rows} == {"3"}
    text = console_text(found)
    for row, shown in zip(found.blocks[0].rows, rows, strict=True):
        assert float(shown["mean"]) == row.mean
        assert shown["name"] == row.group.name and row.group.name in text
        assert (
            shown["predictor.members"] == row.group.name.partition("members=")[2]
            or shown["searcher"] == "autorank"
        )
        if row.difference is not None:
            assert (float(shown["low"]), float(shown["high"])) == row.difference[2:4]
            assert f"{row.difference.low:+.3f} to {row.difference.high:+.3f}" in text
    assert rows[0]["difference"] == "" and rows[0]["reference"] == rows[0]["group"]


def test_the_program_writes_both_files_and_explains_itself(twelve, tmp_path, capsys, monkeypatch):
    path = ROOT / "experiments" / "compare.py"
    spec = importlib.util.spec_from_file_location("compare_program", path)
    assert spec is not None and spec.loader is not None
    program = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(program)
    assert "NE gain of the winner with fresh seeds (%)" in program.parser().format_help()
    files = [tmp_path / "new" / "table.csv", tmp_path / "new" / "page.html"]
    line = [
        "compare",
        str(twelve),
        "--reference",
        "A",
        "--csv",
        str(files[0]),
        "--page",
        str(files[1]),
    ]
    monkeypatch.setattr("sys.argv", line)
    assert program.main() == 0
    assert files[0].read_text() == csv_text(compare([str(twelve)], ["A"]))
    assert "12 runs in 4 groups" in files[1].read_text()
    assert f"wrote {files[1]}" in capsys.readouterr().out
    monkeypatch.setattr("sys.argv", ["compare", str(tmp_path / "absent")])
    assert program.main() == 1 and "no trials.db, result.json or *.wandb" in capsys.readouterr().err


class Page(HTMLParser):
    """Tables as lists of rows; refuses tags that do not nest and what a browser would fetch."""

    VOID = ("meta", "link", "br", "path", "use", "image", "stop")

    def __init__(self, html: str):
        super().__init__()
        self.open, self.tables, self.scripts = [], [], 0
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        for name in ("src", "href", "xlink:href"):
            assert (values.get(name) or "#").startswith(("#", "data:")), values
        self.scripts += tag == "script"
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] in ("td", "th"):
            self.tables[-1][-1][-1] += data


def test_the_page_is_whole_and_fetches_nothing(found):
    page = Page(comparison_page(found))
    assert page.scripts == 1
    table = page.tables[0]
    assert [row[0] for row in table[1:]] == [row.group.letter for row in found.blocks[0].rows]
    assert len(page.tables[-1]) == 13  # all runs, and the head


def test_settings_stay_text_on_the_page(tmp_path):
    for seed in (0, 1):
        write_run(
            tmp_path / f"a{seed}", settings("paper", seed, training__note=NASTY), -0.1, name=NASTY
        )
        write_run(tmp_path / f"b{seed}", settings("paper", seed), -0.1, name=NASTY)
    html = comparison_page(compare([str(tmp_path)]))
    assert NASTY not in html and Page(html).scripts == 1


CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --virtual-time-budget=2000"
).split()
# Run by the test: clicks heads of a small table and of the page's first one, and puts what came of it into the title.
CLICKS = """<table class="sortable" id="small"><thead><tr><th>x</th></tr></thead><tbody>
<tr><td>1,000</td></tr><tr><td>-</td></tr><tr><td>-2.5</td></tr><tr><td>+10</td></tr><tr><td>b10</td></tr>
<tr><td>9e-1</td></tr><tr><td>b9</td></tr></tbody></table>
<script>addEventListener("load", () => {
  const cells = (t, c) => [...t.tBodies[0].rows].map(r => r.cells[c].textContent);
  const small = document.getElementById("small"), first = document.querySelector("table"), seen = [];
  for (const [table, column] of [[small, 0], [small, 0], [first, 2], [first, 2]]) {
    table.tHead.rows[0].cells[column].click();
    seen.push(cells(table, table === small ? 0 : 2));
  }
  const svg = [...document.querySelectorAll("figure svg")].map(s => s.getBoundingClientRect().width > 500);
  document.title = "seen:" + JSON.stringify([seen, svg, first.tHead.rows[0].cells[2].getAttribute("aria-sort")]);
});</script>"""


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on PATH")
def test_a_browser_sorts_the_table(found, tmp_path):
    assert CHROMIUM is not None
    html = comparison_page(found)
    # Before the page's own script, which looks for tables when it is read.
    place = html.rindex("<script>")
    (tmp_path / "page.html").write_text(html[:place] + CLICKS + html[place:])
    done = subprocess.run(
        [
            CHROMIUM,
            *FLAGS,
            f"--user-data-dir={tmp_path / 'profile'}",
            "--dump-dom",
            (tmp_path / "page.html").as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    title = re.search(r"<title>seen:(.*?)</title>", done.stdout)
    assert title, done.stdout[:500]
    (up, down, means_up, means_down), drawn, direction = json.loads(title[1])
    assert up == ["-2.5", "9e-1", "+10", "1,000", "b9", "b10", "-"]
    assert down == ["b10", "b9", "1,000", "+10", "9e-1", "-2.5", "-"]
    means = sorted(row.mean for row in found.blocks[0].rows)
    assert means_up == [f"{m:+.3f}" for m in means] and means_down == means_up[::-1]
    assert drawn == [True] * len(FIGURES) and direction == "descending"
