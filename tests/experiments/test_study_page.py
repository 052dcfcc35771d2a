"""The page of studies is that of the written results, and says no more than their intervals."""

import dataclasses

import matplotlib.image
import pytest

from autorank.report.style import png_bytes
from autorank.studies.figures import figure_of
from autorank.studies.findings import as_rows
from autorank.studies.predictor_study import PredictorStudy
from autorank.studies.written import read_written
from experiments import study_page
from tests.studies.planted import found, linear, planted

WORDS = "near instead of ridge"
TABLES = [
    planted("linear", linear),
    # Nothing to learn: no difference can be shown.
    planted("flat", lambda x: (x @ [[1.0], [7.0], [3.0], [5.0]] * 997 % 1)[:, 0]),
]
STUDY = PredictorStudy(
    question="Which?",
    paper="nothing.",
    arms={
        "ridge_5": {"kind": "ridge", "num_train": 40},
        "near_5": {"kind": "neighbours", "num_train": 40},
        "near_9": {"kind": "neighbours", "neighbours": 9, "num_train": 40},
    },
    reference="ridge_5",
    contrasts={WORDS: {"near_5": 1, "ridge_5": -1}},
    num_test=200,
)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """The rows of a small study and what made them, as the program writes them."""
    from autorank.app.provenance import provenance, write_rows
    from autorank.base.records import plain

    folder = tmp_path_factory.mktemp("results")
    rows = list(found(folder / "run", STUDY, TABLES, splits=8).values())
    made_by = {"command": "a command", "splits": 8, "seed": 0, "cpu_seconds": 100, "sentence": ""}
    path = folder / "own.csv"
    write_rows(path, as_rows("own", rows), made_by | {"study": plain(STUDY)} | provenance())
    return path


def test_the_page_its_figures_and_the_front_are_current():
    study_page.main(["--check"])


def test_a_title_that_the_results_do_not_bear_is_refused(results):
    told = dataclasses.replace(STUDY, title="Near is worse", shows={WORDS: "< 0"})
    assert read_written(results, told).at(WORDS).difference.high < 0
    for claim in ("> 0", "< -0.9", "not shown"):
        with pytest.raises(ValueError, match="rests on 'near instead of ridge' being"):
            read_written(results, dataclasses.replace(told, shows={WORDS: claim}))
    with pytest.raises(ValueError, match="is no claim"):
        read_written(results, dataclasses.replace(told, shows={WORDS: "up"}))


def test_results_of_other_arms_are_refused(results):
    arms = STUDY.arms | {"mean_1": {"kind": "mean"}}
    with pytest.raises(ValueError, match="other study.arms than configs/study/own.yaml has"):
        read_written(results, dataclasses.replace(STUDY, arms=arms))


def test_a_table_that_says_something_else_than_the_mean_is_named(results):
    written = read_written(results, STUDY)
    (line,) = study_page.told(written)
    assert line.startswith("Near instead of ridge: -")
    assert line.endswith("; not shown on planted/flat.")
    table = "\n".join(study_page.arms_table(written))
    assert table.count("reference") == 1 and table.count("\n") == 1 + len(STUDY.arms)
    mean = written.at("near_9").mean
    assert f"| {mean:.3f} |" in table
    by_table = study_page.tables_table(written)
    assert len(by_table) == 2 + len(TABLES)


def test_every_kind_of_figure_carries_its_mark(results, tmp_path, monkeypatch):
    monkeypatch.setattr(study_page, "FIGURES", tmp_path)
    written = read_written(results, STUDY)
    over_axis = written._replace(study=dataclasses.replace(STUDY, axis="neighbours"))
    monkeypatch.setattr("autorank.studies.figures.FEW", 1)
    by_table = figure_of(written, "a title")
    monkeypatch.undo()
    monkeypatch.setattr(study_page, "FIGURES", tmp_path)
    for figure, panels in (
        (figure_of(written, "b"), 2),
        (figure_of(over_axis, "c"), 2),
        (by_table, 1),
    ):
        assert len(figure.axes) == panels
    mark = study_page.marked(written)
    path = study_page.picture("own")
    assert study_page.mark_of(path) == ""
    path.write_bytes(study_page.with_mark(png_bytes(by_table), mark))
    assert study_page.mark_of(path) == mark != study_page.marked(over_axis)
    assert matplotlib.image.imread(path).ndim == 3  # a whole picture still
