"""The report of finished and interrupted runs: what it says, that it is whole, that a browser draws it."""

import json
import re
import shutil
import sqlite3
import subprocess
import threading
from html.parser import HTMLParser
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
from matplotlib.ticker import FixedLocator

from autorank.ledger.errors import LedgerCorrupt
from autorank.ledger.front import front_of
from autorank.ledger.ledger import Ledger
from autorank.ledger.run_folder import read_run, searched, values_of, winner_config
from autorank.ledger.trial import Trial
from autorank.report.charts import CHARTS, draw
from autorank.report.console import console_table
from autorank.report.figures.importance import chance, explained, ranked
from autorank.report.figures.policy import series
from autorank.report.figures.seed_noise import seed_noise
from autorank.report.finals import finalists
from autorank.report.page import page, write_report
from autorank.report.sentences import planned_trials
from autorank.report.style import robust_limits, rows_text
from autorank.report.tables.trials import trials_table
from tests.report.fake_run import DECISIONS, IDENTITY, NASTY, write_run


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    folder = write_run(tmp_path_factory.mktemp("runs") / "finished")
    write_report(folder)
    return folder


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory) -> Path:
    folder = write_run(tmp_path_factory.mktemp("runs") / "cut", num_trials=40, finished=False)
    write_report(folder)
    return folder


class Page(HTMLParser):
    """Collects text, tags and what a browser would fetch; refuses tags that do not nest."""

    VOID = ("meta", "link", "br", "path", "use", "image", "stop")

    def __init__(self, folder: Path):
        super().__init__()
        self.text, self.tags, self.open, self.links = "", [], [], []
        self.feed((folder / "report.html").read_text())
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.links += [
            v or "" for k, v in attrs if k in ("src", "href", "xlink:href", "action", "data")
        ]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


# --- the page -------------------------------------------------------------------------------------


def test_a_finished_run_says_its_result(finished):
    page = Page(finished)
    run = read_run(finished)
    gain = run.summary["ne_gain_percent"]
    assert f"The winner beats the baseline: NE {gain['mean']:+.3f}%" in page.text
    assert f"{gain['low']:+.3f} to {gain['high']:+.3f}" in page.text
    assert "At equal NE: -22% FLOPs, +25% rows/s." in page.text
    for words in (
        "finished: 60 trials, 7 failed",
        "policy collapse",
        "best possible NE",
        "5,600,000",
        "git revision",
    ):
        assert words in page.text
    drawn = [attrs["id"] for tag, attrs in page.tags if tag == "figure"]
    assert sorted(drawn) == sorted(CHARTS)
    rows = page.text.count("non-finite loss at step 31")
    assert rows == sum(t.status == "failed" for t in run.trials) > 0


def test_a_finished_run_says_how_sure_it_is(finished):
    page, run = Page(finished), read_run(finished)
    entry = next(e for e in run.summary["finalists"] if "winner" in e["roles"])
    gain = run.summary["ne_gain_percent"]
    for words in (
        f"over test rows {gain['rows_low']:+.3f} to {gain['rows_high']:+.3f}",
        "At equal NE (worse by less than 0.1% with 95% confidence)",
        "The smallest gain that these 5 seeds could have shown is 0.2% NE",
        "Best of 53 labels: -1.400%. The luckiest of as many copies of the baseline would reach -0.200%",
        "From label to test",
        f"{entry['label']:+.3f}{entry['label_without_luck']:+.3f}",
        "chosen as",
    ):
        assert words in page.text, words
    ratio = run.summary["winner"]["qps_ratio"]
    assert f"{ratio['ratio']:.2f}x [{ratio['low']:.2f}, {ratio['high']:.2f}]" in page.text


def test_nothing_at_equal_ne_is_said_with_its_nearest_miss(finished):
    run = read_run(finished)
    rule = run.summary["equal_ne"]
    miss = rule["tests"][0] | {"passed": False, "bound": 0.31, "finalist": 2}
    missed = {
        "winner_equal_ne": None,
        "flops_gain_percent": None,
        "qps_gain_percent": None,
        "equal_ne": rule | {"tests": [miss], "nearest_miss": miss},
    }
    run = run._replace(summary=run.summary | missed)
    text = page(run, {})
    assert "No model was shown to be at equal NE" in text and "none within 0.1%" in text
    assert "Nearest: finalist 2" in text and "upper bound +0.310%" in text
    assert "At equal NE:" not in text
    assert "No model was shown" in console_table(run.summary)
    alone = run.summary | {"equal_ne": rule | {"tests": [], "nearest_miss": None}}
    assert "no finalist is cheaper than the baseline" in page(run._replace(summary=alone), {})


def test_a_run_of_an_earlier_version_has_its_report(finished, tmp_path):
    """Its summary knows neither the verdict's seeds nor the finalists' way to it."""
    folder = shutil.copytree(finished, tmp_path / "old")
    summary = json.loads((folder / "summary.json").read_text())
    for key in (
        "choice_seeds",
        "qps_gain_interval",
        "equal_ne",
        "verdict",
        "label_luck",
        "finalists",
    ):
        del summary[key]
    for role in ("baseline", "winner", "winner_equal_ne"):
        del summary[role]["qps_ratio"]
    (folder / "summary.json").write_text(json.dumps(summary))
    connection = sqlite3.connect(folder / "trials.db")
    with connection:
        connection.execute("DELETE FROM records WHERE kind = 'confirmation'")
    connection.close()
    write_report(folder)
    found = Page(folder)
    assert "The winner beats the baseline" in found.text and "From label to test" not in found.text
    assert "At equal NE: -22% FLOPs" in found.text and "None" not in found.text
    assert "At equal NE (" not in console_table(summary)


def test_survival_shows_every_finalist_on_its_way(finished):
    run = read_run(finished)
    (ax,) = axes_of(finished, "survival")
    entries = run.summary["finalists"]
    lines = [line for line in ax.lines if len(line.get_xdata()) > 2]
    assert len(lines) == len(entries)
    winner = next(e for e in entries if "winner" in e["roles"])
    line = next(line for line in lines if line.get_label() == "winner")
    test = run.summary["winner"]["test"]["ctr"]["mean"]
    steps = [
        winner["label"],
        winner["validation_gain_percent"]["mean"],
        winner["confirmed_gain_percent"]["mean"],
        test,
    ]
    np.testing.assert_allclose(np.asarray(line.get_ydata(), float), steps)
    assert f"became {test:+.2f}% on the held-out test" in ax.figure.get_suptitle()
    assert ax.get_ylabel() == "NE gain against baseline (%, lower is better)"


def test_the_measures_that_ctr_models_are_read_by(finished):
    page = Page(finished)
    assert "nDCG@5" in page.text and "0.6543" in page.text and "1.031" in page.text
    # A click model's rates lie on its bins; an empty bin has no place on a logarithmic axis.
    (ax,) = axes_of(finished, "reliability")
    line = next(line for line in ax.lines if line.get_label() == "winner")
    np.testing.assert_allclose(line.get_xdata(), 0.02 * np.arange(1, 20))
    np.testing.assert_allclose(line.get_ydata(), 0.018 * np.arange(1, 20))
    assert "the winner 1.031 times the observed rate" in ax.figure.get_suptitle()


def test_an_interrupted_run_says_how_far_it_came(interrupted):
    page = Page(interrupted)
    assert "interrupted after 33 of 60 trials" in page.text
    assert "No final result yet. Best label so far: " in page.text
    assert "% NE (not a test result)" in page.text
    assert "best so far" in page.text and "winner" not in page.text.lower().replace("winners", "")
    assert {"front", "curves", "progress", "importance"} <= {
        attrs.get("id") for tag, attrs in page.tags if tag == "figure"
    }


@pytest.mark.parametrize(
    "stage", ["nothing", "seed noise", "no settings", "cut summary", "all failed"]
)
def test_whatever_is_there_makes_a_report(stage, tmp_path):
    with Ledger.open(tmp_path / "trials.db", IDENTITY) as ledger:
        if stage != "nothing":
            trials = ledger.propose("seed_noise", 0, [[0, 1]] * 2, [0, 1], 1.0)
            outcome = {
                "curve": [[0.9], [0.8]],
                "ne": [0.85],
                "flops": 1.0,
                "num_rows": 10,
                "failed": "",
            }
            ledger.finish(trials[0].id, outcome, 0.8, None)
        if stage == "all failed":
            for trial in ledger.propose("pilot", 0, [[0, 0], [1, 1]], [0, 0], 1.0):
                ledger.finish(trial.id, {"curve": [], "failed": "out of memory"}, None, None)
    if stage == "cut summary":
        (tmp_path / "summary.json").write_text('{"status": "fin')
    page = Page(write_report(tmp_path).parent)
    assert "interrupted after" in page.text and "No trial has a label yet." in page.text
    assert ("out of memory" in page.text) == (stage == "all failed")


def test_settings_are_data(finished):
    """A value of a configuration, a name and an advice that are markup stay text."""
    page = Page(finished)
    assert not [tag for tag, _ in page.tags if tag in ("script", "iframe", "object", "embed")]
    assert page.text.count(NASTY) >= 3
    assert not [a for _, attrs in page.tags for a in attrs if a.startswith("on")]


def test_nothing_is_fetched_from_anywhere(finished):
    page = Page(finished)
    assert page.links and all(link.startswith("#") or link == "data:," for link in page.links)
    text = (finished / "report.html").read_text()
    assert "@import" not in text and not re.findall(r"url\((?!#)", text)


def test_ids_are_unique_and_references_resolve(finished):
    page = Page(finished)
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    wanted = {link[1:] for link in page.links if link.startswith("#")}
    wanted |= set(re.findall(r"url\(#([^)]+)\)", (finished / "report.html").read_text()))
    assert wanted <= set(ids)


def test_same_run_same_files(finished):
    files = [finished / "report.html", *sorted((finished / "figures").iterdir())]
    assert len(files) == 1 + 2 * len(CHARTS)
    before = [path.read_bytes() for path in files]
    write_report(finished)
    assert [path.read_bytes() for path in files] == before


def test_no_run_and_a_damaged_one_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no ledger at"):
        write_report(tmp_path)
    (tmp_path / "trials.db").write_bytes(b"")
    with pytest.raises(LedgerCorrupt, match="damaged"):
        write_report(tmp_path)


@pytest.mark.parametrize(
    ("config", "trials"),
    [
        ("search: {trials: 7}", 7),
        ("", None),
        ("a: [", None),
        ("search: 3", None),
        ("search: {trials: x}", None),
    ],
)
def test_planned_trials(config, trials):
    assert planned_trials(config) == trials


# --- a browser's view -----------------------------------------------------------------------------

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --virtual-time-budget=2000"
).split()
# Run by the test, not part of the report: puts the figures' measures into the document's title.
MEASURE = """<script>addEventListener("load", () => { document.title = "sizes:" + JSON.stringify(
  [...document.querySelectorAll("figure")].map(f => { const svg = f.querySelector("svg").getBoundingClientRect();
  const ink = Math.max(...[...f.querySelectorAll("svg path, svg use")].map(p => p.getBoundingClientRect().width));
  return [f.id, svg.width, svg.height, ink, document.documentElement.scrollWidth]; })); });</script>"""


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on PATH")
def test_a_browser_draws_every_figure_and_asks_for_nothing_else(finished, tmp_path):
    assert CHROMIUM is not None
    html = (finished / "report.html").read_text().replace("</body>", MEASURE + "</body>")
    asked: list[str] = []

    class Server(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(200)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.end_headers()
            self.wfile.write(html.encode())

        def log_message(self, *args):  # pyright: ignore[reportIncompatibleMethodOverride]
            pass

    with HTTPServer(("127.0.0.1", 0), Server) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            # Every other host is a dead end, so that a request to one would also be an error.
            done = subprocess.run(
                [
                    CHROMIUM,
                    *FLAGS,
                    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
                    "--window-size=1100,900",
                    f"--user-data-dir={tmp_path / 'profile'}",
                    "--dump-dom",
                    f"http://127.0.0.1:{server.server_port}/report.html",
                ],
                capture_output=True,
                text=True,
                timeout=120,
                check=True,
            )
        finally:
            server.shutdown()
            thread.join()
    assert asked == ["/report.html"]
    found = re.search(r"<title>sizes:(.*?)</title>", done.stdout)
    assert found, done.stdout[:500]
    sizes = re.findall(r'\["(\w+)",([\d.]+),([\d.]+),([\d.]+),(\d+)\]', found[1])
    assert sorted(name for name, *_ in sizes) == sorted(CHARTS)
    for name, width, height, ink, page_width in sizes:
        assert float(width) > 600 and float(height) > 100 and float(ink) > 100, name
        assert int(page_width) <= 1100, "the page is wider than its window"
    assert "The winner beats the baseline" in done.stdout


# --- what the figures compute ---------------------------------------------------------------------


def axes_of(folder: Path, name: str):
    return draw(read_run(folder))[name].axes


def test_every_figure_has_a_title_and_every_axis_a_name_or_named_ticks(finished):
    for name, figure in draw(read_run(finished)).items():
        assert figure.get_suptitle(), name
        for axis in (axis for ax in figure.axes for axis in (ax.xaxis, ax.yaxis)):
            assert axis.get_label_text() or isinstance(axis.get_major_locator(), FixedLocator), name


def test_front_shows_every_trial_the_baseline_and_the_winner(finished):
    run = read_run(finished)
    (ax,) = axes_of(finished, "front")
    points = np.concatenate(
        [np.asarray(c.get_offsets()) for c in ax.collections if len(c.get_offsets())]
    )
    assert [1.0, 0.0] in points.tolist()
    tried = searched(run)
    # Labelled below or on the edge, failed on the edge, and the star.
    assert len(points) >= len(tried) + 1
    texts = " ".join(t.get_text() for t in ax.texts)
    assert "winner" in texts and "cheapest at equal NE" in texts
    labels = ax.get_legend_handles_labels()[1]
    failed = sum(t.status == "failed" for t in tried)
    assert f"{failed} failed" in labels
    low, high = ax.get_ylim()
    assert low < min(f.gains.mean() for f in finalists(run)) and high < 25, (
        "a diverged trial sets the scale"
    )


def test_front_of_is_pareto_by_brute_force():
    rng = np.random.default_rng(0)
    costs, gains = rng.integers(0, 6, 40) / 2, rng.integers(-5, 6, 40) / 4
    blank = Trial(0, "round", 0, 0, (), 0, 1.0, None, "finished", "", None, None, None, 0.0, 1.0)
    trials = [
        blank._replace(id=i, cost=c, quality=q)
        for i, (c, q) in enumerate(zip(costs, gains, strict=True))
    ]
    found = {(t.cost, t.quality) for t in front_of(trials)}
    best = {
        (a.cost, a.quality)
        for a in trials
        if not any(
            (b.cost <= a.cost and b.quality <= a.quality)
            and (b.cost, b.quality) != (a.cost, a.quality)
            for b in trials
        )
    }
    assert found == best
    assert front_of([]) == []


def test_curves_of_the_baseline_have_no_gain(finished):
    left, right = axes_of(finished, "curves")
    baseline = next(line for line in right.lines if line.get_label() == "baseline")
    np.testing.assert_allclose(np.asarray(baseline.get_ydata()), 0.0, atol=1e-9)
    assert np.asarray(baseline.get_xdata())[-1] == 100_000
    winner = next(line for line in right.lines if line.get_label() == "winner")
    gain = read_run(finished).summary["winner"]["test"]["ctr"]["mean"]
    np.testing.assert_allclose(np.mean(np.asarray(winner.get_ydata())[37:]), gain, atol=0.02)
    assert left.get_ylabel() == "window NE (ctr)"


def test_progress_is_the_running_minimum(finished):
    run = read_run(finished)
    best = axes_of(finished, "progress")[0].lines[0].get_ydata()
    labels = [np.inf if t.quality is None else t.quality for t in searched(run)]
    np.testing.assert_array_equal(np.asarray(best), np.minimum.accumulate(labels))


def test_promotions_replace_their_trials(tmp_path):
    with Ledger.open(tmp_path / "trials.db", IDENTITY) as ledger:
        for stage, fidelity, quality in (
            ("round", 0.2, -1.0),
            ("promotion", 1.0, -0.5),
            ("final", 1.0, -9.0),
        ):
            (trial,) = ledger.propose(stage, 0, [[3]], [0], fidelity)
            ledger.finish(trial.id, {"failed": ""}, quality, 0.0)
    run = read_run(tmp_path)
    (only,) = searched(run)
    assert (only.id, only.stage, only.quality) == (1, "promotion", -0.5)
    assert winner_config(run) == (3,)


def test_a_promotion_shows_its_round_and_its_rung(tmp_path):
    with Ledger.open(tmp_path / "trials.db", IDENTITY) as ledger:
        for rung, stage in enumerate(("round", "promotion", "promotion")):
            ledger.propose(stage, 3, [[3]], [0], 0.2 * (rung + 1), rung=rung)
    text = re.sub("<[^>]*>", " ", trials_table(read_run(tmp_path)))
    assert re.search(r"stage\s+round\s+rung\s+status", text)
    assert re.findall(r"(round|promotion)\s+3\s+(\d)\s+proposed", text) == [
        ("round", "0"),
        ("promotion", "1"),
        ("promotion", "2"),
    ]


def test_values_of_leaves_out_what_is_inactive():
    assert "model.layer0.heads" not in values_of(DECISIONS, (0, 0, 2, 0, 0, 0, 0, 0))
    values = values_of(DECISIONS, (4, 1, 2, 0, 0, 0, 0, 0))
    assert values["model.layer0.heads"] == 4 and values["model.num_layers"] == 6
    # A grandchild of an inactive decision is inactive too.
    chain = [
        {"name": "a", "choices": [0, 1], "parents": []},
        {"name": "b", "choices": [0, 1], "parents": [["a", [1]]]},
        {"name": "c", "choices": [0, 1], "parents": [["b", [1]]]},
    ]
    assert values_of(chain, (0, 1, 1)) == {"a": 0}
    assert values_of(chain, (1, 1, 0)) == {"a": 1, "b": 1, "c": 0}


def test_importance_is_kruskal_wallis():
    rng = np.random.default_rng(0)
    groups = rng.integers(0, 3, 60)
    values = rng.integers(0, 20, 60) + 5.0 * groups
    ranks = ranked(values)
    np.testing.assert_array_equal(ranks, scipy.stats.rankdata(values))
    statistic = scipy.stats.kruskal(*(values[groups == g] for g in range(3))).statistic
    both = explained(groups, np.stack([ranks, ranks[::-1]]))
    np.testing.assert_allclose(both[0] * (len(values) - 1), statistic)
    np.testing.assert_allclose(both[1], explained(groups[::-1], ranks[None])[0])
    assert explained(groups, np.ones((1, 60))).tolist() == [0.0]
    np.testing.assert_allclose(explained(np.zeros(60), ranks[None]), 0.0, atol=1e-12)
    np.testing.assert_allclose(explained(np.arange(60), ranks[None]), 1.0)


def test_chance_marks_hold_for_all_decisions_together():
    """Of pure noise some decision passes its mark in about 5% of cases, however many there are."""
    rng = np.random.default_rng(0)
    groups = [rng.integers(0, 2 + i % 5, 40) for i in range(20)]
    levels = chance(groups, np.arange(40.0))
    fresh = rng.permuted(np.tile(np.arange(40.0), (2000, 1)), axis=1)
    passed = np.array(
        [explained(g, fresh) > level for g, level in zip(groups, levels, strict=True)]
    )
    assert 0.02 < passed.any(axis=0).mean() < 0.09
    assert passed.mean(axis=1).max() < 0.02


@pytest.mark.parametrize(
    ("gain", "words"),
    [
        ({"mean": -0.5, "low": -0.6, "high": -0.4}, "is 5.0 times that"),
        ({"mean": -0.5, "low": -2.0, "high": 1.0}, "cannot be distinguished"),
        ({"mean": -0.5}, "cannot be distinguished"),
        (None, "Changing only the seed"),
    ],
)
def test_titles_do_not_promise_more_than_the_interval(finished, gain, words):
    run = read_run(finished)
    run = run._replace(summary=run.summary | {"ne_gain_percent": gain, "seed_noise_percent": 0.1})
    assert words in seed_noise(run).get_suptitle()


def test_importance_names_what_was_planted(finished):
    (ax,) = axes_of(finished, "importance")
    ranking = [t.get_text() for t in ax.get_yticklabels()][::-1]
    assert set(ranking[:2]) == {"training.dense_rate", "model.num_layers"}


def test_series_reduces_policies_and_drops_what_never_ran():
    nan = [None] * 3
    assert series(None).size == 0 and series(nan).size == 0 and series([[nan]]).size == 0
    np.testing.assert_allclose(series([[[1.0, 2.0]], [[3.0, 4.0]], [[None, None]]]), [2.0, 3.0])
    np.testing.assert_allclose(series(0.5), [0.5])


def test_robust_limits_hold_the_bulk_and_what_must_show():
    values = [*np.linspace(-1, 1, 50), 1e6]
    low, high = robust_limits(values)
    assert -1.5 < low <= -1 and 0.5 < high < 10
    assert robust_limits(values, [50.0])[1] > 50
    low, high = robust_limits([])
    assert low < 0 < high
    low, high = robust_limits([2.0, np.nan, 2.0])
    assert low < 2 < high


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (999, "999"), (1500, "1.5k"), (2e6, "2M"), (3e9, "3G")]
)
def test_rows_text(value, text):
    assert rows_text(value) == text


# --- the terminal ---------------------------------------------------------------------------------


def test_console_table(finished):
    text = console_table(read_run(finished).summary)
    lines = text.splitlines()
    assert lines[1].split() == ["baseline", "0.85000", "1,000", "5,000,000"]
    assert lines[3].split() == ["best", "at", "equal", "cost", "-", "-", "-"]
    assert "60 trials, 7 failed, 5,600,000 rows trained on, 55 compiles (1m11s), 5m12s" in text
    assert "warning: policy collapse" in text
    assert max(map(len, lines[:-1])) <= 100


def test_console_table_of_nothing_is_dashes():
    text = console_table({})
    assert "None" not in text and "nan" not in text and text.count("-") > 10
    nothing = {"winner": None, "ne_gain_percent": None, "warnings": None, "baseline": {"ne": None}}
    assert console_table(nothing) == text
