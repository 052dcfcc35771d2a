"""Signs of failure fire where a fault is planted; what is told and what is read are as the study says."""

import dataclasses

import numpy as np
import pytest

from autorank.studies.search_tasks import search_task
from autorank.studies.sign_study import SIGNS, Left, SignStudy, told
from tests.studies.planted import ROOT, benchmark, found, linear, shipped

TASK = search_task(benchmark("linear", linear))


def test_what_is_planted_is_found(tmp_path):
    study = shipped(ROOT / "configs" / "study" / "failure-signatures.yaml")
    # Many steps for few trials, so that noise is learnt by heart.
    small = {"members": 2, "hidden": (32,), "steps": 300, "rate": 0.02, "loss": "mse"}
    names = ("overfit_healthy", "overfit_planted", "collapse_healthy")
    study = dataclasses.replace(
        study,
        arms={name: study.arms[name] for name in names},
        contrasts={},
        searcher={"alphas": (0.0,), "samples": 4, "steps": 40, "batch_size": 6},
        predictor=small,
    )
    by = found(tmp_path, study, [TASK], splits=4)
    fired = {name: by[name, "all", "fired"].mean for name in names}
    assert fired == {
        "overfit_healthy": 0.0,
        "overfit_planted": 1.0,
        "collapse_healthy": 0.0,
    }
    assert by["overfit_healthy", "all", "heldout_tau"].mean > 0.7
    assert abs(by["overfit_planted", "all", "heldout_tau"].mean) < 0.3


def test_decorrelation_is_read_from_the_later_rounds():
    def left(*taus):
        order = np.arange(8.0)
        rounds = [{"predicted": (order * tau).tolist(), "true": order.tolist()} for tau in taus]
        return Left({"rounds": rounds}, [])

    assert SIGNS["decorrelation"](left(1, -1, -1)) and SIGNS["decorrelation"](left(1, 1, -1, -1))
    assert not SIGNS["decorrelation"](left(-1, 1, 1))


def test_collapse_is_read_from_the_first_tenth_of_the_steps():
    def left(at_a_tenth, distinct=0.5):
        entropy = np.interp(np.arange(100), [0, 10, 99], [1.0, at_a_tenth, 0.0])
        policy = {"round": 0, "entropy": entropy[None, None], "distinct": np.array([distinct])}
        return Left({}, [policy])

    assert SIGNS["collapse"](left(0.04)) and not SIGNS["collapse"](left(0.3))
    assert SIGNS["collapse"](left(0.3, distinct=0.001))


def test_what_a_search_is_told():
    configs = TASK.space.enumerate(50)
    true = TASK.results(configs)[:, 0]

    def quality(labels, is_pilot):
        return told(labels, TASK, configs, np.random.default_rng(0), is_pilot=is_pilot)[:, 0]

    assert np.allclose(quality("true", False), true)
    assert np.allclose(quality("turned", True), true)
    assert np.allclose(quality("turned", False), 2 - true)
    assert abs(np.corrcoef(quality("noise", True), true)[0, 1]) < 0.4


def test_arms_that_mean_nothing_are_refused():
    def study(**arm):
        return SignStudy(arms={"own": arm}, reference="own").resolved()

    with pytest.raises(ValueError, match="study.arms.own: sign='overfitted'"):
        study(sign="overfitted")
    with pytest.raises(ValueError, match="study.arms.own.searcher.rates is not a setting"):
        study(searcher={"rates": 1})
    with pytest.raises(ValueError, match="study.arms.own: labels='random'"):
        study(labels="random")
