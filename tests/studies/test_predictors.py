"""Kinds of predictors against arithmetic, and what lets arms share a fit."""

import dataclasses

import numpy as np
import pytest

from autorank.base.jax_settings import own_settings
from autorank.studies.predictor_study import PredictorArm
from autorank.studies.predictors import KINDS, Task
from autorank.studies.records import records_of
from autorank.studies.simple_models import PENALTIES, nearest_neighbours, ridge
from autorank.surrogates.settings import PredictorConfig
from tests.studies.planted import SPACE, linear, planted


@pytest.mark.parametrize("bootstrap", [False, True])
def test_the_first_members_of_a_fit_are_a_smaller_ensemble(bootstrap):
    table = planted("linear", linear)
    rows = np.random.default_rng(0).permutation(len(table))
    known, asked = rows[:12], rows[12:30]
    settings = PredictorConfig(hidden=(4,), steps=5, bootstrap=bootstrap, loss="mse")
    arm = PredictorArm(num_train=12, predictor=settings)

    def members(count):
        with own_settings():
            program = KINDS["ensemble"].make(arm.with_members(count), Task(SPACE, 18))
            return program(7, table.configs[known], table.metrics[known], table.configs[asked])

    three, two = members(3), members(2)
    assert three.shape == (3, 18) and np.ptp(three, axis=0).min() > 0
    assert np.allclose(three[:2], two, atol=1e-5)
    assert arm.fit == arm.with_members(9).fit
    assert arm.fit != dataclasses.replace(arm, num_train=13).fit


def test_ridge_takes_the_penalty_of_least_leave_one_out_error():
    rng = np.random.default_rng(0)
    x, asked = rng.normal(size=(25, 6)), rng.normal(size=(9, 6))
    y = x @ rng.normal(size=6) + rng.normal(size=25)

    def fit(x, y, penalty, asked):
        centre = x.mean(axis=0)
        a = x - centre
        w = np.linalg.solve(a.T @ a + penalty * np.eye(6), a.T @ (y - y.mean()))
        return y.mean() + (asked - centre) @ w

    def left_out(penalty):
        keep = ~np.eye(25, dtype=bool)
        return np.mean([(fit(x[k], y[k], penalty, x[i]) - y[i]) ** 2 for i, k in enumerate(keep)])

    # Centring without the row changes the penalty's meaning a little, so the grid's neighbours may win.
    errors = np.array([left_out(penalty) for penalty in PENALTIES])
    options = [fit(x, y, p, asked) for p in PENALTIES[np.abs(np.arange(33) - errors.argmin()) <= 1]]
    got = ridge(x, asked, y)
    assert any(np.allclose(got, option) for option in options)


def test_neighbours_are_the_nearest():
    rng = np.random.default_rng(0)
    x, asked, y = rng.normal(size=(40, 3)), rng.normal(size=(7, 3)), rng.normal(size=40)
    want = [y[sorted(range(40), key=lambda i: np.sum((x[i] - a) ** 2))[:4]].mean() for a in asked]
    assert np.allclose(nearest_neighbours(x, asked, y, 4), want)


def test_records_are_normalised_and_leave_failures_out():
    def truth(x):
        return np.where(x[:, 3] == 1.0, np.nan, 5 + 3 * x[:, 0])

    table = planted("failing", truth)
    assert table.num_failed == 216 and len(table) == 1080
    assert table.quality.min() == 0 and np.median(table.quality) == 1
    assert np.array_equal(table.metrics[:, 0], table.quality.astype("f4"))
    assert table.fingerprint() != planted("failing", lambda x: truth(x) + x[:, 1]).fingerprint()
    with pytest.raises(ValueError, match="all with the same result"):
        planted("constant", lambda x: np.ones(len(x)))


def test_records_of_the_recorded_tables_have_their_numbers():
    from pathlib import Path

    from autorank.benchmarks.catalogue import RESULTS, get

    table = records_of(get("dhen/kuairand", Path()))
    losses = np.genfromtxt(RESULTS / "dhen_table_kuairand.csv", delimiter=",", names=True)["ne"]
    assert len(table) == len(losses) == 1296
    want = np.sort((losses - losses.min()) / (np.median(losses) - losses.min()))
    assert np.allclose(np.sort(table.quality), want)
