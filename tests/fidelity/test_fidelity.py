"""Fractions, trends and rungs against planted curves, brute force and scipy."""

import json
import math

import numpy as np
import pytest
from scipy import stats

from autorank.fidelity import agreement, curve_label, fidelity, pilots
from autorank.fidelity.choice import choose_dx, choose_fraction, dx_grid

FRACTIONS = (0.1, 0.2, 0.3, 0.5, 0.75, 0.9, 1.0)
WINDOWS = np.arange(100)


def crossing(num_pilots=20, noise=0.0, seed=0):
    """Slow starters win: the final order is that of the slopes, the early one its opposite."""
    rng = np.random.default_rng(seed)
    slope = -np.linspace(0.2, 1, num_pilots)[rng.permutation(num_pilots), None]
    curves = slope * (WINDOWS - 55.0) / 100
    return curves + noise * rng.normal(size=curves.shape)


def settled(at, num_pilots=20, seed=0):
    """Pure noise before the window ``at``, the final order from then on."""
    rng = np.random.default_rng(seed)
    curves = np.repeat(rng.normal(size=(num_pilots, 1)), 100, axis=1)
    curves[:, :at] = rng.normal(size=(num_pilots, at))
    return curves


def test_tau_curve_is_scipys_at_every_fraction():
    curves = np.random.default_rng(1).normal(size=(9, 100)).cumsum(axis=1).round(0)
    taus = agreement.tau_curve(curves, FRACTIONS, num_bootstrap=50)
    final = curve_label.curve_labels(curves, 1.0)
    for f, tau, low, high in zip(*taus, strict=True):
        expected = stats.kendalltau(curve_label.curve_labels(curves, f), final)[0]
        assert tau == pytest.approx(expected)
        assert low - 1e-9 <= high
    assert taus.tau[-1] == pytest.approx(1) and taus.low[-1] == pytest.approx(1)


def test_bootstrap_replicates_are_tau_b_of_the_resamples():
    rng = np.random.default_rng(2)
    short, final = rng.integers(0, 4, (2, 8)).astype(float), rng.integers(0, 4, 8).astype(float)
    _, replicates = agreement.bootstrap_tau(short, final, 20, 5)
    counts = np.random.default_rng(5).multinomial(8, np.full(8, 1 / 8), size=20)
    for b, count in enumerate(counts):
        rows = np.repeat(np.arange(8), count)
        for g in range(2):
            expected = stats.kendalltau(short[g, rows], final[rows])[0]
            assert replicates[g, b] == pytest.approx(expected, nan_ok=True)


def test_failed_pilots_are_left_out():
    curves = settled(0, 6)
    broken = np.concatenate([curves, np.full((1, 100), np.nan), curves[:1]])
    broken[-1, 60:] = np.nan  # diverges after the fraction
    np.testing.assert_array_equal(
        agreement.tau_curve(broken, [0.5], num_bootstrap=20).tau,
        agreement.tau_curve(curves, [0.5], num_bootstrap=20).tau,
    )


def test_equal_curves_and_few_pilots_have_no_order():
    for curves in (np.ones((5, 100)), np.ones((1, 100)), np.ones((0, 100))):
        taus = agreement.tau_curve(curves, FRACTIONS, num_bootstrap=10)
        assert np.isnan(np.array(taus[1:])).all()
        choice = choose_fraction(taus)
        assert choice.fraction == 1 and "no order" in choice.reason


def test_the_fraction_chosen_is_where_the_order_settles():
    taus = agreement.tau_curve(settled(15), FRACTIONS, num_bootstrap=200)
    choice = choose_fraction(taus)
    assert choice.fraction == 0.2 and choice.tau == pytest.approx(1)
    assert "smallest fraction" in choice.reason
    late = choose_fraction(agreement.tau_curve(settled(95), FRACTIONS, num_bootstrap=200))
    assert late.fraction == 1 and "no fraction keeps" in late.reason


def rule(tau, low):
    fractions = np.array([0.25, 0.5, 0.75, 0.9, 1.0])
    curve = agreement.TauCurve(fractions, np.array(tau), np.array(low), np.ones(5))
    return choose_fraction(curve)


def test_the_rule_by_hand():
    # Plateau .70 at .75; .9 shares windows with the end and does not raise it.
    assert rule([0.7, 0.8, 0.85, 0.95, 1], [0.4, 0.66, 0.7, 0.9, 1]).fraction == 0.5
    # Below the floor of .75 everywhere apart from the end: .9 shares windows with it, so all.
    assert rule([0.5, 0.6, 0.7, 0.95, 1], [0.4, 0.5, 0.5, 0.9, 1]).fraction == 1
    assert rule([0.5, 0.6, 0.7, 0.7, 1], [0.4, 0.5, 0.5, 0.6, 1]).fraction == 1
    # Exactly at slack and floor still counts.
    assert rule([0.75, 0.8, 0.8, 0.9, 1], [0.5, 0.5, 0.5, 0.9, 1]).fraction == 0.25


def test_the_trend_orders_crossing_curves():
    curves = crossing(noise=0.002)
    grid = dx_grid(100)
    dx = choose_dx(curves, 0.5, grid)
    assert dx > 0
    without = agreement.tau_curve(curves, [0.5], num_bootstrap=50)
    with_trend = agreement.tau_curve(curves, [0.5], dx=dx, num_bootstrap=50)
    assert without.tau[0] < -0.5 and with_trend.tau[0] > 0.9


def test_ties_go_to_the_smallest_step_and_no_trend_needs_none():
    # Without noise the order turns between the tail's middle (window 43.5) and 55, for good.
    assert choose_dx(crossing(), 0.5, [50.0, 20.0, 30.0]) == 20
    assert choose_dx(settled(0), 0.5, dx_grid(100)) == 0
    assert choose_dx(crossing(), 1.0, [20.0]) == 0
    assert choose_dx(np.ones((5, 100)), 0.5, [20.0]) == 0
    assert choose_dx(np.ones((0, 100)), 0.5, [20.0]) == 0


def test_a_trend_made_of_noise_is_refused():
    """Flat curves with noise: on a few pilots some step beats 0 by luck; the guard keeps 0 mostly."""
    chosen = []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        curves = rng.normal(size=(10, 1)) + 0.5 * rng.normal(size=(10, 100))
        chosen.append(choose_dx(curves, 0.5, dx_grid(100), num_bootstrap=100))
    assert np.mean(np.array(chosen) == 0) >= 0.8


def test_from_pilots_takes_the_trend_where_it_pays():
    with_trend, record = pilots.from_pilots(crossing(), FRACTIONS)
    without, plain = pilots.from_pilots(crossing(), FRACTIONS, trend=False)
    assert with_trend.rungs[0] < without.rungs[0]
    assert record["chosen_dx"] > 0 and plain["chosen_dx"] == 0
    assert json.loads(json.dumps(record, allow_nan=False)) == record
    curve = crossing()[0]
    expected = curve_label.curve_label(curve, with_trend.rungs[0], dx=record["chosen_dx"])
    assert with_trend.label(curve, with_trend.rungs[0]) == expected


def drifting(rng, num_pilots, num_windows=20):
    """A level, a random walk and noise: early orders are a hint at the final one."""
    walk = rng.normal(size=(num_pilots, num_windows)).cumsum(axis=1) / math.sqrt(num_windows)
    noise = 0.3 * rng.normal(size=(num_pilots, num_windows))
    return rng.normal(size=(num_pilots, 1)) + 0.9 * walk + noise


def test_the_tau_claimed_is_that_of_fresh_pilots():
    """On average over studies; the pilots that chose fraction and trend themselves promise more."""
    rng, rows = np.random.default_rng(0), []
    for study in range(30):
        chosen, record = pilots.from_pilots(
            drifting(rng, 12), (0.2, 0.3, 0.4, 0.5, 0.6, 0.7), seed=study
        )
        if chosen.rungs == (1.0,):
            assert record["chosen_tau"] is None
            continue
        fresh = drifting(rng, 200)
        short = [chosen.label(curve, chosen.rungs[0]) for curve in fresh]
        true = stats.kendalltau(short, curve_label.curve_labels(fresh, 1.0))[0]
        own = record["tau"][record["fractions"].index(record["chosen_fraction"])]
        inside = record["chosen_low"] <= true <= record["chosen_high"]
        rows.append((record["chosen_tau"] - true, own - true, inside))
    bias = np.array(rows, float)
    error = bias.std(axis=0, ddof=1) / math.sqrt(len(bias))
    assert len(bias) >= 20
    assert abs(bias[:, 0].mean()) < 2 * error[0] < 0.07
    assert bias[:, 1].mean() > 3 * error[1]
    assert bias[:, 2].mean() > 0.85


@pytest.mark.parametrize(("num_windows", "tail"), [(100, 0.25), (20, 0.3), (7, 0.25), (2, 0.5)])
def test_fractions_that_see_windows_of_the_final_label_are_left_out(num_windows, tail):
    first, _ = curve_label.tail_windows(num_windows, 1.0, tail)
    fractions = [i / 20 for i in range(1, 21)]
    rng = np.random.default_rng(0)
    # The order appears in the last windows before the final label, and is only clear within it.
    curves = rng.normal(size=(12, num_windows))
    curves[:, first:] = rng.normal(size=(12, 1))
    chosen, record = pilots.from_pilots(curves, fractions, tail=tail, trend=False)
    for name in ("tau", "low", "high", "tau_without_trend"):
        for fraction, value in zip(fractions, record[name], strict=True):
            if math.floor(fraction * num_windows + 1e-9) > first:
                assert value is None
    assert chosen.rungs == (1.0,) and record["chosen_tau"] is None


def test_fractions_that_all_share_windows_say_what_to_write():
    chosen, record = pilots.from_pilots(settled(0), [0.9, 1.0])
    assert chosen.rungs == (1.0,)
    assert "every fraction shares windows" in record["reason"] and "0.75" in record["reason"]


@pytest.mark.parametrize("num_pilots", [0, 1, 3])
def test_from_too_few_pilots_the_whole_log_is_used(num_pilots):
    chosen, record = pilots.from_pilots(settled(0, num_pilots), FRACTIONS)
    assert chosen.rungs == (1.0,) and record["chosen_tau"] is None
    assert "too few" in record["reason"]
    json.dumps(record, allow_nan=False)


def test_halving_promotes_the_best_third_and_never_a_failure():
    halving = fidelity.successive_halving([0.2, 0.5, 1.0], eta=3.0)
    scores = np.array([3, np.nan, 1, 2, 1, 5, 4, np.nan, 9])
    np.testing.assert_array_equal(halving.keep(scores), [2, 4, 3])
    np.testing.assert_array_equal(halving.keep(np.array([2.0, 1.0])), [1])
    assert halving.keep(np.full(6, np.nan)).size == 0
    assert halving.keep(np.zeros(0)).size == 0
    assert halving.label(WINDOWS.astype(float), 0.2) == curve_label.curve_label(
        WINDOWS.astype(float), 0.2
    )


def test_a_single_rung_takes_any_labeller():
    curve = 1 / (WINDOWS + 1.0)
    single = fidelity.single_rung(0.5, labeller=curve_label.label_power_law)
    assert single.rungs == (0.5,)
    assert single.label(curve, 0.5) == curve_label.label_power_law(curve, 0.5)
    np.testing.assert_array_equal(single.keep(np.array([2.0, np.nan, 1.0])), [2, 0])


@pytest.mark.parametrize("rungs", [[], [0.5, 0.2], [0.0, 1.0], [0.5, 1.5], [0.5, 0.5]])
def test_rungs_must_rise(rungs):
    with pytest.raises(ValueError, match="must rise strictly"):
        fidelity.successive_halving(rungs)


def test_bad_settings_are_named():
    with pytest.raises(ValueError, match="eta=1.0 must be above 1"):
        fidelity.successive_halving([1.0], eta=1.0)
    with pytest.raises(ValueError, match="fraction=0.0"):
        fidelity.single_rung(0.0)


def test_total_cost_by_hand():
    single = fidelity.single_rung(0.4)
    assert fidelity.total_cost(single, 10, 1000, num_pilots=5) == pytest.approx(5000 + 4000)
    halving = fidelity.successive_halving([0.2, 0.5, 1.0], eta=3.0)
    # 9 at .2, 3 on to .5, 1 on to 1.
    assert fidelity.total_cost(halving, 9, 100) == pytest.approx(100 * (1.8 + 0.9 + 0.5))
    assert fidelity.total_cost(halving, 9, 100, resume=False) == pytest.approx(
        100 * (1.8 + 1.5 + 1)
    )
    assert fidelity.total_cost(halving, 18, 100, batch_size=9) == pytest.approx(2 * 320)
    assert fidelity.total_cost(halving, 0, 100) == 0
    assert math.isfinite(fidelity.total_cost(halving, 1, 100))
