"""Studies of fidelities on planted curves: the order that a part keeps, trends that cross, and rules at equal cost."""

import numpy as np
import pytest

from autorank.benchmarks.base import SliceCurves
from autorank.benchmarks.catalogue import opened
from autorank.recorded.table_file import write_table
from autorank.studies.curves import CurveTable, curve_table
from autorank.studies.fidelity_study import FidelityArm, FidelityStudy
from autorank.studies.findings import ALL
from autorank.studies.stopping import RULES, Replay, predicted, within
from tests.recorded.making import FAILED, recorded_table
from tests.studies.planted import cut, found

TIME = np.arange(40)


def table_of(levels, slopes=0.0, noise=0.0):
    """Straight curves: a level at the start and a slope a window."""
    rng = np.random.default_rng(0)
    curves = np.add.outer(np.asarray(levels, float), np.zeros(40)) + np.multiply.outer(
        np.broadcast_to(slopes, len(levels)), TIME
    )
    return CurveTable("planted/curves", curves + noise * rng.normal(size=curves.shape), 0)


def crossing(n=300):
    """Who starts high falls faster, so that the order is turned round half-way."""
    levels = np.random.default_rng(1).permutation(n) / n
    return table_of(levels, -levels / 20 + 0.001 * levels)


def test_order_study_finds_that_a_trend_sees_a_crossing(tmp_path):
    arms = ("constant_0.2", "line_0.2", "constant_1", "constant_0.5")
    study = cut("epochs-order", arms, "constant_0.2", num_test=200)
    by = found(tmp_path, study, [crossing()], splits=4)
    assert by["constant_0.2", ALL, "tau_b"].mean == pytest.approx(-1)
    # Chosen on 20 pilots, a line goes far enough to turn the order of the others, too.
    assert by["line_0.2", ALL, "tau_b"].mean == pytest.approx(1)
    assert by["constant_1", ALL, "tau_b"].mean == pytest.approx(1)
    assert by["line_0.2", ALL, "tau_b"].difference.sign == 1


def test_trend_study_finds_how_far_to_go(tmp_path):
    study = cut("epochs-trend", ("dx_0", "dx_0.1", "dx_0.6", "chosen"), "dx_0", num_test=200)
    by = found(tmp_path, study, [crossing()], splits=4)
    taus = {arm: by[arm, ALL, "tau_b"].mean for arm in study.arms}
    # After .3 of 40 windows the labels are those of window 10; the lines cross at window 20.4, .26 of the log later.
    assert taus["dx_0"] == taus["dx_0.1"] == pytest.approx(-1)
    assert taus["dx_0.6"] == taus["chosen"] == pytest.approx(1)


def test_a_line_reaches_its_own_end():
    table = crossing()
    assert np.allclose(predicted(table, 0.4, "line"), table.final)
    law = CurveTable("law", np.add.outer(np.linspace(0, 1, 5), 1 / (TIME + 0.5)), 0)
    assert np.allclose(predicted(law, 0.5, "power"), law.final, atol=2e-3)


def drifting(n=300, slices=True):
    """Each model is good for one of two groups of rows; the first has nearly all rows early, and few at the end."""
    skill = np.random.default_rng(4).permutation(n) / n
    losses = np.broadcast_to(np.stack([skill, 1 - skill], axis=1)[:, None], (n, 40, 2))
    share = np.linspace(0.95, 0.05, 40)
    rows = np.round(1000 * np.stack([share, 1 - share], axis=1))
    curves = (losses * rows / 1000).sum(axis=2)
    own = SliceCurves(losses, np.zeros((40, 2)), rows)
    return CurveTable("planted/drift", curves, 0, own if slices else None)


def test_stratified_prediction_sees_a_change_of_the_mix():
    table = drifting()
    for fraction in (0.1, 0.3):
        assert np.allclose(predicted(table, fraction, "stratified"), table.final, atol=2e-3)
        order = predicted(table, fraction, "constant")
        assert np.corrcoef(order, table.final)[0, 1] == pytest.approx(-1)
    with pytest.raises(ValueError, match="planted/drift has no losses of slices; record a table"):
        predicted(drifting(slices=False), 0.1, "stratified")
    assert table.fingerprint() != drifting(slices=False).fingerprint()


def test_a_slice_of_which_nothing_was_seen_says_nothing():
    losses, baseline, rows = drifting(20).slices
    rows, baseline = rows.copy(), baseline.copy()
    rows[:10, 1], baseline[:10, 1] = 0, np.nan
    table = CurveTable("unseen", losses[:, :, 0], 0, SliceCurves(losses, baseline, rows))
    assert np.allclose(table.stratified(0.25), losses[:, 0, 0])


def test_stratified_study_finds_that_slices_keep_the_order(tmp_path):
    study = cut(
        "stratified-order", ("constant_0.1", "stratified_0.1"), "constant_0.1", num_test=200
    )
    by = found(tmp_path / "order", study, [drifting()], splits=4)
    assert by["constant_0.1", ALL, "tau_b"].mean == pytest.approx(-1)
    assert by["stratified_0.1", ALL, "tau_b"].mean > 0.99
    arms = ("stopping_constant", "stopping_stratified")
    study = cut("stratified-cost", arms, "stopping_constant", num_test=200)
    by = found(tmp_path / "cost", study, [drifting()], splits=4)
    assert by["stopping_stratified", ALL, "regret"].difference.sign == -1


def test_costs_are_those_counted_by_hand():
    table = table_of(np.random.default_rng(2).permutation(90) / 90)
    replay = Replay(table, np.arange(90), 0)
    best = int(np.argmin(table.final))

    def spent(rule, **arm):
        run = RULES[rule].make(FidelityArm(rule=rule, **arm), replay, 100.0)
        assert run.chosen == best and run.tried == 90
        return run.spent

    assert spent("full") == 90
    assert spent("fixed", fraction=0.25) == pytest.approx(90 * 0.25 + 3 * 0.75)
    # 90, 30 and 10 reach the rungs; the best of these have seen the whole log.
    assert spent("halving") == pytest.approx(90 * 0.1 + 30 * 0.2 + 10 * 0.7)
    # 90, 45 and 22 (45 / 2, rounded to even) reach the stops, and three of these the end.
    arm = {"stops": (0.1, 0.3, 0.5), "drop": 0.5}
    assert spent("stopping", **arm) == pytest.approx(90 * 0.1 + 45 * 0.2 + 22 * 0.2 + 3 * 0.5)


def test_asha_promotes_the_best_third_of_each_rung():
    table = table_of([3, 2, 1, 6, 5, 4, 9, 8, 7])
    arm = FidelityArm(rule="asha", rungs=(0.1, 0.5, 1.0))
    run = RULES["asha"].make(arm, Replay(table, np.arange(9), 0), 100.0)
    # Of each three the best goes on: after nine 2, 5 and 8 by arrival, but 8 is behind two others that were not
    # promoted (1 and 0), so that 1 goes on; and the best of the three at the second rung to the end.
    assert run.tried == 9 and run.chosen == 2
    assert run.spent == pytest.approx(9 * 0.1 + 3 * 0.4 + 0.5)


def test_cost_study_finds_that_early_labels_pay_where_they_keep_the_order(tmp_path):
    arms = ("full", "fixed_0.1", "halving", "asha", "pilots", "stopping_constant")
    study = cut("epochs-cost", arms, "full", num_test=200)
    levels = np.random.default_rng(3).permutation(900) / 900
    by = found(tmp_path / "kept", study, [table_of(levels)], splits=12)
    for arm in arms:
        # Each finds the best of those that it tried, whose rank is on average 1 / (n + 1); quality 1 is the median.
        tried = by[arm, ALL, "tried"].mean
        assert abs(by[arm, ALL, "regret"].mean - 2 / (tried + 1)) < 0.05, arm
        assert by[arm, ALL, "spent"].mean <= 20 + 1e-9
        assert arm == "full" or tried > 30
    assert by["full", ALL, "tried"].mean == 20
    assert by["fixed_0.1", ALL, "regret"].mean < by["full", ALL, "regret"].mean - 0.05
    by = found(tmp_path / "turned", study, [crossing(900)], splits=4)
    # Where the order turns, the early favourites are the worst; pilots see that and run to the end, or take a trend.
    for arm in ("fixed_0.1", "halving", "asha", "stopping_constant"):
        assert by[arm, ALL, "regret"].difference.sign == 1, arm
    assert by["pilots", ALL, "regret"].difference.sign <= 0


def test_curves_of_a_recorded_table_are_those_of_its_first_seeds(tmp_path):
    table = recorded_table()
    write_table(tmp_path / "toy.parquet", table)
    curves = curve_table(opened(str(tmp_path / "toy.parquet"), tmp_path))
    number, first = table.columns["number"], table.columns["repeat"] == 0
    rows = [np.flatnonzero((number == i) & first)[0] for i in range(1, 21) if i != FAILED]
    baseline = table.curves[np.flatnonzero((number == 0) & first)[0], :, 0]
    want = table.curves[rows, :, 0].astype(float) - baseline.astype(float)
    assert (curves.name, curves.num_failed) == ("tables/toy", 1)
    assert np.allclose(curves.curves, want)
    assert np.allclose(curves.final, want[:, 6:].mean(axis=1))
    with pytest.raises(ValueError, match="mixed/0 has no curves; write study.records"):
        curve_table(opened("mixed/0", tmp_path))


def test_slices_of_a_recorded_table_follow_its_curves(tmp_path):
    table = recorded_table(slices=True)
    write_table(tmp_path / "toy.parquet", table)
    curves = curve_table(opened(str(tmp_path / "toy.parquet"), tmp_path))
    assert curves.slices is not None and curves.slices.losses.shape == (19, 8, 3)
    # The slices' losses are .5, .6 and .9 of the curve's values, and a third of the rows each but in the first window.
    assert np.allclose(curves.stratified(1.0), curves.final * (0.5 + 0.6 + 0.9) / 3, atol=1e-6)
    first = curves.curves[:, 0]
    assert np.allclose(curves.stratified(0.125), first * 0.55, atol=1e-6)


def test_as_many_are_tried_as_the_budget_pays_for():
    replay = Replay(table_of(np.arange(100) / 100), np.arange(100), 0)
    run = within(RULES["fixed"].make, FidelityArm(rule="fixed", fraction=0.5), replay, 10.0)
    assert (run.tried, run.spent) == (17, 10.0)


def test_arms_without_effect_or_meaning_are_refused():
    def resolve(measures=("tau_b",), **arm):
        return FidelityStudy(arms={"own": arm}, reference="own", measures=measures).resolved()

    assert resolve(fraction=0.3, prediction="line", dx=0.2)
    with pytest.raises(ValueError, match="study.arms.own.rungs has no effect with rule=fixed"):
        resolve(("regret",), rule="fixed", rungs=[0.1, 1.0])
    with pytest.raises(ValueError, match="study.arms.own.dx has no effect without prediction=line"):
        resolve(dx=0.2)
    with pytest.raises(ValueError, match="study.measures: tau_b is not defined for study.arms.own"):
        resolve(rule="full")
    with pytest.raises(ValueError, match=r"study.arms.own: rungs=\[1.0, 0.5\] must rise"):
        resolve(("regret",), rule="halving", rungs=[1.0, 0.5])
    with pytest.raises(ValueError, match="rule='hyperband' is not known"):
        resolve(("regret",), rule="hyperband")
