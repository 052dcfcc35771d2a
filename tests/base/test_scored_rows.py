"""Measures of scored rows against loops that follow their definitions, and scikit-learn where it is installed."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autorank.base.metrics import auc
from autorank.base.scored_rows import (
    NDCG_AT,
    calibration,
    expected_calibration_error,
    grouped_auc,
    ndcg_at,
    reliability,
    scores_of,
)

# Few distinct scores, so that there are ties.
ROWS = st.lists(
    st.tuples(st.integers(0, 6), st.integers(0, 1), st.integers(-3, 3)), min_size=1, max_size=40
)


def gauc_by_loops(scores, targets, groups):
    total = weight = 0.0
    for group in sorted(set(groups)):
        own = [(s, t) for s, t, g in zip(scores, targets, groups, strict=True) if g == group]
        pairs = [(a, b) for a, x in own if x for b, y in own if not y]
        if pairs:
            area = sum(1.0 if a > b else 0.5 if a == b else 0.0 for a, b in pairs) / len(pairs)
            total, weight = total + len(own) * area, weight + len(own)
    return total / weight if weight else math.nan


def ndcg_by_loops(scores, targets, groups, k):
    found = []
    for group in sorted(set(groups)):
        own = [(s, t) for s, t, g in zip(scores, targets, groups, strict=True) if g == group]
        own.sort(key=lambda pair: -pair[0])
        shared = [np.mean([t for s, t in own if s == score]) for score, _ in own]
        best = sorted((t for _, t in own), reverse=True)
        dcg, ideal = (
            sum(gain / math.log2(i + 2) for i, gain in enumerate(gains[:k]))
            for gains in (shared, best)
        )
        if ideal:
            found.append(dcg / ideal)
    return np.mean(found) if found else math.nan


@given(ROWS, st.integers(1, 7))
def test_measures_of_groups_are_their_definitions(rows, k):
    scores, targets, groups = zip(*rows, strict=True)
    expected = gauc_by_loops(scores, targets, groups)
    np.testing.assert_allclose(grouped_auc(scores, targets, groups), expected, rtol=1e-12)
    expected = ndcg_by_loops(scores, targets, groups, k)
    np.testing.assert_allclose(ndcg_at(scores, targets, groups, k), expected, rtol=1e-12)


def test_one_group_is_plain_auc_and_the_order_of_rows_does_not_matter():
    rng = np.random.default_rng(0)
    scores, targets = rng.random(500).round(2), rng.integers(0, 2, 500)
    groups = rng.integers(0, 40, 500)
    assert grouped_auc(scores, targets, np.zeros(500)) == pytest.approx(auc(scores, targets))
    order = rng.permutation(500)
    for measure in (grouped_auc, ndcg_at):
        shuffled = measure(scores[order], targets[order], groups[order])
        assert shuffled == pytest.approx(measure(scores, targets, groups), rel=1e-12)


def test_scikit_learn_agrees():
    metrics = pytest.importorskip("sklearn.metrics")
    calibration_curve = pytest.importorskip("sklearn.calibration").calibration_curve
    rng = np.random.default_rng(1)
    p, y = rng.random(2_000), rng.integers(0, 2, 2_000)
    groups = rng.integers(0, 50, 2_000)
    found = scores_of(p, y, groups)
    assert found["auc"] == pytest.approx(metrics.roc_auc_score(y, p), abs=1e-9)
    assert found["log_loss"] == pytest.approx(metrics.log_loss(y, p), abs=1e-9)
    rounded = p.round(1)
    own = [(y[groups == g], rounded[groups == g]) for g in range(50)]
    expected = np.average(
        [metrics.roc_auc_score(*one) for one in own], weights=[len(one[0]) for one in own]
    )
    assert grouped_auc(rounded, y, groups) == pytest.approx(expected, abs=1e-9)
    expected = np.mean([metrics.ndcg_score([a], [b], k=NDCG_AT) for a, b in own])
    assert ndcg_at(rounded, y, groups) == pytest.approx(expected, abs=1e-9)
    observed, predicted = calibration_curve(y, p, n_bins=20, strategy="quantile")
    bins = reliability(p, y, 20)
    np.testing.assert_allclose([b.observed for b in bins], observed, atol=1e-9)
    np.testing.assert_allclose([b.predicted for b in bins], predicted, atol=1e-9)


def test_calibration_finds_a_planted_factor():
    rng = np.random.default_rng(2)
    rate = rng.uniform(0.05, 0.4, 200_000)
    y = (rng.random(rate.size) < rate).astype(float)
    assert calibration(rate, y) == pytest.approx(1, abs=0.02)
    assert expected_calibration_error(rate, y) < 0.01
    assert calibration(1.5 * rate, y) == pytest.approx(1.5, abs=0.03)
    # Predictions that are too high by half of the mean rate of .225.
    assert expected_calibration_error(1.5 * rate, y) == pytest.approx(0.1125, abs=0.01)


def test_what_is_not_defined_is_nan_and_warns_of_nothing():
    assert math.isnan(grouped_auc([], [], [])) and math.isnan(ndcg_at([], [], []))
    assert math.isnan(grouped_auc([0.1, 0.2], [1, 1], [0, 0]))
    assert math.isnan(ndcg_at([0.1, 0.2], [0, 0], [0, 1]))
    assert math.isnan(calibration([0.1], [0])) and math.isnan(expected_calibration_error([], []))
    nothing = scores_of([], [], [])
    assert all(math.isnan(value) for value in nothing.values())
    # Rows of no group count everywhere but in the measures of groups.
    found = scores_of([0.9, 0.1, 0.4], [1, 0, 1], [-1, -1, -1])
    assert math.isnan(found["gauc"]) and found["auc"] == 1.0
    with pytest.raises(ValueError, match="2, 1 and 2 rows"):
        grouped_auc([1, 2], [1], [0, 0])
    with pytest.raises(ValueError, match="k=0"):
        ndcg_at([1], [1], [0], k=0)
