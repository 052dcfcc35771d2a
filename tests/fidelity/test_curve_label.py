"""Labels against arithmetic: tails, lines, power laws, windows without a value."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autorank.base.metrics import ne_gain_percent
from autorank.fidelity import curve_label

TIME = np.arange(20.0)


def test_tail_windows_by_hand():
    assert curve_label.tail_windows(100, 1.0, 0.25) == (75, 100)
    assert curve_label.tail_windows(100, 0.29, 0.25) == (22, 29)  # 0.29 * 100 is 28.999999999999996
    assert curve_label.tail_windows(10, 0.05, 0.25) == (0, 1)
    assert curve_label.tail_windows(4, 1.0, 0.01) == (3, 4)
    with pytest.raises(ValueError, match=r"fraction=1.2 and tail=0.25 must both lie in \(0, 1\]"):
        curve_label.tail_windows(10, 1.2, 0.25)


def test_a_label_is_the_mean_of_its_tail_and_looks_no_further():
    curve = np.concatenate([TIME[:10], np.full(10, np.nan)])
    assert curve_label.curve_label(curve, 0.5, tail=0.4) == np.mean([6, 7, 8, 9])
    assert curve_label.curve_label(TIME, 0.5, tail=0.4) == np.mean([6, 7, 8, 9])


@given(st.floats(-5, 5), st.floats(-1, 1), st.floats(0, 30), st.sampled_from([0.1, 0.25, 1.0]))
def test_the_trend_continues_a_line_exactly(level, slope, dx, tail):
    line = level + slope * TIME
    flat = curve_label.curve_label(line, 0.5, tail=tail)
    assert curve_label.curve_label(line, 0.5, tail=tail, dx=dx) == pytest.approx(
        flat + slope * dx, abs=1e-9
    )


def test_the_trend_is_the_least_squares_line():
    curve = np.random.default_rng(0).normal(size=20)
    slope = np.polyfit(TIME[15:], curve[15:], 1)[0]
    assert curve_label.curve_label(curve, 1.0, dx=7.0) == pytest.approx(
        curve[15:].mean() + 7 * slope
    )


def test_one_window_has_no_trend():
    assert curve_label.curve_label(np.array([3.0, np.nan]), 0.5, dx=10.0) == 3


def test_windows_without_a_value_are_skipped_but_an_ended_curve_has_failed():
    hole = TIME.copy()
    hole[17] = np.nan
    assert curve_label.curve_label(hole, 1.0) == np.mean([15, 16, 18, 19])
    assert curve_label.curve_label(hole, 1.0, dx=5.0) == pytest.approx(
        np.mean([15, 16, 18, 19]) + 5
    )
    ended = np.where(TIME < 18, TIME, np.nan)
    assert math.isnan(curve_label.curve_label(ended, 1.0)) and math.isnan(
        curve_label.label_power_law(ended, 1.0)
    )
    short_by_one = np.where(TIME < 19, TIME, np.nan)
    assert curve_label.curve_label(short_by_one, 1.0) == np.mean([15, 16, 17, 18])
    assert math.isnan(curve_label.curve_label(np.full(20, np.nan), 0.5))


def test_the_power_law_finds_a_planted_one():
    time = np.arange(100)
    exponent = curve_label.EXPONENTS[40]
    curve = 0.8 + 0.3 * (time + 0.5) ** -exponent
    assert curve_label.label_power_law(curve, 0.4) == pytest.approx(curve[75:].mean(), abs=1e-9)
    between = 0.8 + 0.3 * (time + 0.5) ** -0.5
    truth = between[75:].mean()
    assert (
        abs(curve_label.label_power_law(between, 0.4) - truth)
        < 1e-3
        < between[30:40].mean() - truth
    )


def test_the_power_law_of_a_constant_and_of_too_little():
    assert curve_label.label_power_law(np.full(20, 0.7), 0.5) == pytest.approx(0.7)
    assert curve_label.label_power_law(TIME, 0.15) == curve_label.curve_label(TIME, 0.15)


def test_gains_are_percent_window_by_window():
    gains = ne_gain_percent(np.array([[0.9, 0.5], [1.1, np.nan]]), np.array([1.0, 0.5]))
    np.testing.assert_allclose(gains, [[-10, 0], [10, np.nan]])
