"""Bounds, luck and power against arithmetic, scipy and simulation."""

import math

import numpy as np
import pytest
import scipy.stats

from autorank.search.verdict import (
    expected_best,
    half_width,
    least_gain,
    luckiest,
    not_worse,
    rate_ratio,
    seeds_to_add,
    shrunk,
    upper_bound,
)

RNG = np.random.default_rng


def test_the_bound_is_scipys_one_sided_interval():
    gains = np.array([0.1, -0.05, 0.02, 0.08, -0.01])
    found = scipy.stats.ttest_1samp(gains, 0.0, alternative="less").confidence_interval(0.95)
    assert upper_bound(gains) == pytest.approx(found.high)
    both = scipy.stats.ttest_1samp(gains, 0.0).confidence_interval(0.95)
    assert half_width(gains) == pytest.approx((both.high - both.low) / 2)


@pytest.mark.parametrize("gains", [[], [0.1], [0.1, math.nan, 0.2]])
def test_too_few_seeds_say_nothing(gains):
    assert math.isnan(half_width(gains)) and math.isnan(upper_bound(gains))
    assert not_worse([gains], 100.0) == [False]


@pytest.mark.parametrize("num_models", [1, 4])
def test_a_model_worse_by_the_margin_passes_in_five_percent_of_searches(num_models):
    """Whatever the order is made from, and with the baseline's noise shared by all models."""
    rng, num_searches = RNG(0), 4000
    passed = 0
    for _ in range(num_searches):
        baseline = rng.normal(size=5)
        gains = 0.1 + 0.05 * (rng.normal(size=(num_models, 5)) - baseline)
        passed += any(not_worse(gains, 0.1))
    assert passed / num_searches <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / num_searches)
    assert passed / num_searches > 0.03 or num_models > 1


def test_an_equal_model_passes_where_the_noise_allows_it():
    rng = RNG(1)
    share = np.mean([not_worse([0.05 * rng.normal(size=5)], 0.1)[0] for _ in range(2000)])
    assert share > 0.95


def test_the_sequence_ends_with_the_first_that_fails():
    good, bad = [-0.5, -0.6, -0.55], [0.5, 0.6, 0.55]
    assert not_worse([good, bad, good], 0.1) == [True, False, False]
    assert not_worse([good, good], 0.1) == [True, True]


@pytest.mark.parametrize("num_seeds", [2, 5, 20])
def test_least_gain_is_found_in_four_of_five_runs(num_seeds):
    gain = least_gain(0.3, num_seeds)
    draws = RNG(2).normal(gain, 0.3, size=(20000, num_seeds))
    error = draws.std(axis=1, ddof=1) / math.sqrt(num_seeds)
    critical = scipy.stats.t.ppf(0.975, num_seeds - 1)
    found = np.abs(draws.mean(axis=1)) / error > critical
    assert found.mean() == pytest.approx(0.8, abs=0.012)
    assert math.isnan(least_gain(0.3, 1)) and math.isnan(least_gain(math.nan, 5))
    assert least_gain(0.0, 5) == 0.0


def test_expected_best_is_the_order_statistic():
    assert expected_best(0.3, 1) == pytest.approx(0.0, abs=1e-9)
    assert expected_best(1.0, 2) == pytest.approx(-1 / math.sqrt(math.pi))
    assert expected_best(1.0, 3) == pytest.approx(-1.5 / math.sqrt(math.pi))
    lowest = RNG(3).normal(size=(20000, 100)).min(axis=1)
    assert expected_best(0.3, 100) == pytest.approx(0.3 * lowest.mean(), abs=0.005)
    assert math.isnan(expected_best(0.0, 100))


@pytest.mark.parametrize("num_seeds", [3, 5])
def test_the_luckiest_copy_reaches_its_quantile_in_one_search_of_twenty(num_seeds):
    """With noise and level known only from a few seeds, as in a search."""
    rng, num_searches, num_trials = RNG(4), 4000, 50
    unit = luckiest(1.0, num_seeds, num_trials)
    beyond = 0
    for _ in range(num_searches):
        runs, copies = rng.normal(size=num_seeds), rng.normal(size=num_trials)
        beyond += (copies - runs.mean()).min() < unit * runs.std(ddof=1)
    assert beyond / num_searches == pytest.approx(0.05, abs=0.011)
    assert luckiest(0.3, num_seeds, num_trials) == pytest.approx(0.3 * unit)
    assert math.isnan(luckiest(0.3, 1, num_trials))


def test_shrinking_takes_out_all_of_the_luck_and_none_of_the_truth():
    rng = RNG(5)
    # Nothing but noise: the best label is worth nothing.
    labels = 0.3 * rng.normal(size=(2000, 100))
    best = labels.argmin(axis=1)
    kept = [shrunk(row, 0.3)[i] for row, i in zip(labels, best, strict=True)]
    assert labels.min(axis=1).mean() < -0.7 and abs(np.mean(kept)) < 0.08
    # Truth and noise alike: what is kept is what the best label is truly worth, on average.
    truth = 0.4 * rng.normal(size=(2000, 100))
    labels = truth + 0.3 * rng.normal(size=truth.shape)
    best = labels.argmin(axis=1)
    rows = np.arange(len(labels))
    kept = np.array([shrunk(row, 0.3)[i] for row, i in zip(labels, best, strict=True)])
    assert kept.mean() == pytest.approx(truth[rows, best].mean(), abs=0.04)
    # A few diverged trials hide nothing.
    labels[:, :20] += 30.0
    best = labels.argmin(axis=1)
    kept = np.array([shrunk(row, 0.3)[i] for row, i in zip(labels, best, strict=True)])
    assert kept.mean() == pytest.approx(truth[rows, best].mean(), abs=0.12)


def test_shrinking_leaves_failures_out_and_needs_eight_labels():
    labels = [*np.linspace(-1, 1, 9), math.nan]
    found = shrunk(labels, 0.0)
    np.testing.assert_allclose(found[:9], labels[:9])
    assert math.isnan(found[9])
    assert np.isnan(shrunk(labels[:7], 0.1)).all() and np.isnan(shrunk(labels, math.nan)).all()


def test_seeds_are_added_until_the_interval_is_narrow_or_the_budget_ends():
    wide = np.array([-1.0, 1.0, 0.0])
    assert seeds_to_add([wide], 1e-3, 20) == 3, "at most twice as many"
    assert seeds_to_add([wide], 1e-3, 4) == 1
    assert seeds_to_add([wide], 1e-3, 3) == 0
    assert seeds_to_add([wide], 3.0, 20) == 0
    assert seeds_to_add([0.01 * wide, wide], 2.0, 20) == 2, (
        "the widest counts: 3 (2.48 / 2)^2 = 4.6"
    )
    assert seeds_to_add([wide[:1]], 1.0, 20) == 1
    assert seeds_to_add([], 1.0, 20) == 0


def test_stopping_on_the_width_biases_neither_the_mean_nor_much_of_the_coverage():
    rng, ends, covered = RNG(6), [], []
    for _ in range(3000):
        gains = rng.normal(size=5)
        while more := seeds_to_add([gains], 0.8, 40):
            gains = np.concatenate([gains, rng.normal(size=more)])
        ends.append(gains.mean())
        covered.append(abs(gains.mean()) <= half_width(gains))
    assert abs(np.mean(ends)) < 4 * np.std(ends) / math.sqrt(len(ends))
    assert 0.92 < np.mean(covered) < 0.96


def test_rate_ratio_is_a_geometric_mean_with_its_interval():
    ratio = rate_ratio([2.0, 2.2, 1.8], [1.0, 1.0, 1.0])
    logs = np.log([2.0, 2.2, 1.8])
    interval = scipy.stats.ttest_1samp(logs, 0.0).confidence_interval(0.95)
    assert ratio.mean == pytest.approx(math.exp(logs.mean()))
    assert (ratio.low, ratio.high) == pytest.approx(
        (math.exp(interval.low), math.exp(interval.high))
    )
    assert math.isnan(rate_ratio([], []).mean) and math.isnan(rate_ratio([0.0], [1.0]).mean)
    assert rate_ratio([3.0], [2.0]).mean == pytest.approx(1.5)
