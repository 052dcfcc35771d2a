"""The study of returns on planted cells: what is said of an order is what its intervals say."""

import math

import pytest

from autorank.studies.intervals import Difference
from autorank.studies.roi_cells import Cell, Origin, read_cell
from autorank.studies.roi_findings import best_cell, gain_sentence, mean_gain, order_sentence, steps
from autorank.studies.roi_page import count, where_made
from autorank.studies.roi_settings import RoiConfig, RoiPlan
from autorank.studies.roi_written import put, read_written

ORDER = ("random", "autorank", "paper")


def cells(**gains):
    """Rows of one data set from gains by searcher, one a seed; None is a cell that did not finish."""
    return [
        {
            "data": "log",
            "searcher": searcher,
            "seed": seed,
            "test_gain": math.nan if gain is None else gain,
            "choice_gain": math.nan if gain is None else -seed,
            "reason": "stopped" if gain is None else "",
        }
        for searcher, values in gains.items()
        for seed, gain in enumerate(values)
    ]


def test_an_order_that_every_seed_agrees_with_holds():
    rows = cells(
        random=[-0.05, -0.06, -0.07], autorank=[-0.08, -0.091, -0.1], paper=[-0.1, -0.11, -0.12]
    )
    said = order_sentence(rows, "log", ORDER)
    assert said.startswith("log: the order random < autorank < paper holds")
    assert "paper minus autorank -0.020 [-0.0" in said


def test_one_claim_the_other_way_round_refutes_it():
    rows = cells(
        random=[-0.05, -0.06, -0.07], autorank=[-0.02, -0.031, -0.04], paper=[-0.1, -0.11, -0.12]
    )
    said = order_sentence(rows, "log", ORDER)
    assert "does not hold: autorank is worse than random (" in said


def test_an_interval_over_zero_is_neither_and_says_what_would_have_been_seen():
    rows = cells(random=[0.0, 0.0, 0.0], autorank=[-0.3, 0.1, -0.1], paper=[-0.5, -0.1, -0.301])
    found = steps(rows, "log", ORDER)
    assert [s.verdict for s in found] == ["open", "shown"]
    said = order_sentence(rows, "log", ORDER)
    assert "is neither shown nor refuted" in said and f"{found[0].least:.2f} % NE in 80 %" in said
    # t of 2 degrees of freedom: mean -.1, sd .2, 4.303 * .2 / sqrt(3).
    assert found[0].difference == pytest.approx(
        Difference(-0.1, -0.1 - 0.49683, -0.1 + 0.49683), abs=1e-4
    )


def test_seeds_are_paired_and_unfinished_cells_do_not_count():
    rows = cells(random=[0.0, 1.0, None], autorank=[-0.1, 0.9, 5.0], paper=[None, None, -1.0])
    assert steps(rows, "log", ORDER)[0].difference.mean == pytest.approx(-0.1)
    assert (
        "cannot be said: too few search seeds of autorank and paper (1 in common)"
        in order_sentence(rows, "log", ORDER)
    )
    assert mean_gain(rows, "log", "random").mean == pytest.approx(0.5)


def test_the_best_cell_is_chosen_without_the_test_part():
    rows = cells(random=[-9.0, 0.0], paper=[-5.0, 3.0])
    best = best_cell(rows, "log")
    assert best is not None and (best["searcher"], best["seed"]) == ("random", 1)
    extra = {"test_gain_low": -0.1, "final_seeds": 15, "flops_ratio": 0.5, "least_gain": 0.07}
    assert "no gain shown; one of 0.07 %" in gain_sentence(best | extra | {"test_gain_high": 0.1})
    assert "better than the tuned baseline" in gain_sentence(
        best | extra | {"test_gain_high": -0.05}
    )


def test_an_empty_cell_has_its_reason(tmp_path):
    assert read_cell(Cell("log", "paper", 0), tmp_path / "no").row["reason"] == "not run"
    (tmp_path / "cell.log").write_text("...\nerror: searcher=optuna-gp needs an environment\n")
    read = read_cell(Cell("log", "optuna-gp", 0), tmp_path)
    assert read.row["reason"] == "searcher=optuna-gp needs an environment"


def test_names_and_numbers_are_refused_by_key():
    with pytest.raises(ValueError, match=r"roi\.data=.?x"):
        RoiConfig(roi=RoiPlan(data=("x",)), logs={"movielens": []})
    with pytest.raises(ValueError, match=r"roi\.final_seeds"):
        RoiPlan(final_seeds=1)


def test_written_rows_are_read_back_and_another_logs_rows_stay(tmp_path):
    def config(*data):
        return RoiConfig(
            results=str(tmp_path), roi=RoiPlan(data=data), logs={"a": ["data=a"], "b": ["data=b"]}
        )

    def named(data, gain):
        return [row | {"data": data} for row in cells(random=[gain, None])]

    put(
        config("a"),
        named("a", -0.1),
        [{"data": "a", "searcher": "random", "seed": 0, "day": 1}],
        "first",
        {"a": []},
    )
    put(config("b"), named("b", -0.2), [], "second", {"b": []})
    gpu, cores = Origin("GPU", "1.0", "abc"), Origin("2 cores", "1.1", "def+")
    put(config("a"), named("a", -0.3), [], "third", {"a": [cores, gpu, gpu]})
    found = read_written(tmp_path)
    assert [(r["data"], r["test_gain"]) for r in found.rows if not r["reason"]] == [
        ("b", -0.2),
        ("a", -0.3),
    ]
    assert math.isnan(found.rows[1]["test_gain"]) and found.rows[1]["reason"] == "stopped"
    assert found.days == [] and found.made_by["a"]["command"] == "third"
    assert found.made_by["b"]["log"] == ["data=b"]
    assert where_made(found.made_by["a"]) == (
        "GPU, jax 1.0, revision abc (2 of the searches); 2 cores, jax 1.1, revision def+ (1 of the searches)"
    )
    assert "searches" not in where_made(found.made_by["b"])


def test_numbers_of_exposures_have_two_digits():
    assert count(1234567.0) == "1,200,000" and count(math.inf) == "infinitely many"
    assert count(7.0) == "7"


def test_the_page_is_that_of_the_committed_results():
    from experiments.roi_page import main

    assert main(["--check"]) == 0
