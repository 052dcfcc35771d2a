"""A study that was stopped goes on with what is missing, and refuses rows of other settings."""

import numpy as np
import pytest

from autorank.studies.journal import Cell, Journal, read_rows
from autorank.studies.run import identity_of, jobs_of, run_study
from tests.studies.planted import cut, linear, planted

TABLES = [planted("linear", linear)]
STUDY = cut("predictor-kind", ("ridge", "neighbours"), "ridge", num_test=100)


def run(folder, splits, study=STUDY):
    with Journal(folder, identity_of(study, TABLES, 0), study.measures) as journal:
        missing = len(jobs_of(study, TABLES, splits, journal.rows))
        return missing, run_study(study, TABLES, journal, splits=splits, seed=0, workers=2)


def test_goes_on_after_a_kill_with_the_same_rows(tmp_path):
    missing, whole = run(tmp_path / "whole", 3)
    assert missing == 6
    run(tmp_path / "cut", 2)
    path = tmp_path / "cut" / "journal.csv"
    text = path.read_text()
    path.write_text(text[:-5])  # the last row was being written
    assert len(read_rows(path)) == 3
    missing, again = run(tmp_path / "cut", 3)
    assert missing == 3 and again == whole
    assert run(tmp_path / "cut", 3)[0] == 0
    assert run(tmp_path / "cut", 2)[1].keys() < whole.keys()


def test_refuses_rows_of_other_settings_by_name(tmp_path):
    run(tmp_path, 2)
    other = cut("predictor-kind", ("ridge", "neighbours"), "ridge", num_test=101)
    with pytest.raises(ValueError, match=r"rows of other settings: study.num_test differ"):
        run(tmp_path, 2, other)
    fewer = cut("predictor-kind", ("ridge", "neighbours"), "ridge", num_test=100, num_train=99)
    with pytest.raises(ValueError, match="study.arms.neighbours, study.arms.ridge differ"):
        run(tmp_path, 2, fewer)
    # Another arm is no contradiction.
    assert run(tmp_path, 2, cut("predictor-kind", ("ridge", "mean"), "ridge", num_test=100))[0] == 2


def test_is_written_by_one_process(tmp_path):
    with Journal(tmp_path, {}, ("tau_b",)) as journal:
        journal.add(Cell("a, b", "t", 1), {"tau_b": 1 / 3})
        journal.add(Cell("c", "t", 1), {"tau_b": float("nan")})
        with pytest.raises(ValueError, match="is being written by"):
            Journal(tmp_path, {}, ("tau_b",))
    rows = read_rows(tmp_path / "journal.csv")
    assert rows[Cell("a, b", "t", 1)] == {"tau_b": 1 / 3}
    assert np.isnan(rows[Cell("c", "t", 1)]["tau_b"])


def test_damage_is_named(tmp_path):
    path = tmp_path / "journal.csv"
    path.write_text("arm,table,split,tau_b\na,t,0,0.5\na,t,x,0.5\n")
    with pytest.raises(ValueError, match="line 3 is damaged"):
        read_rows(path)
    path.write_text("something else\n")
    with pytest.raises(ValueError, match="does not begin with arm,table,split"):
        read_rows(path)
