"""Metrics against arithmetic, double loops and scipy; ties, one class, empty, coverage of intervals."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from autorank.base import metrics

FEW = st.lists(st.integers(0, 4), min_size=2, max_size=12)
TWO = st.integers(2, 12).flatmap(
    lambda n: st.tuples(*[st.lists(st.integers(0, 4), min_size=n, max_size=n)] * 2)
)


def test_log_loss_by_hand_and_at_the_ends():
    assert metrics.log_loss([0.5, 0.25], [1, 0]) == pytest.approx(
        (math.log(2) + math.log(4 / 3)) / 2
    )
    assert metrics.log_loss([0.0], [1]) == pytest.approx(-math.log(1e-12))
    assert metrics.log_loss([1.0, 0.0], [1, 0]) == pytest.approx(0, abs=1e-11)
    assert math.isnan(metrics.log_loss([], []))


@given(st.lists(st.floats(-20, 20), min_size=1, max_size=8))
def test_logits_and_probabilities_agree(logits):
    targets = np.arange(len(logits)) % 2
    p = 1 / (1 + np.exp(-np.array(logits)))
    assert metrics.log_loss_of_logits(logits, targets) == pytest.approx(
        metrics.log_loss(p, targets), rel=1e-3, abs=1e-9
    )


def test_logits_of_any_size_have_exact_losses():
    assert metrics.log_loss_of_logits([1000.0, -1000.0], [0, 0]) == 500
    assert metrics.normalized_entropy_of_logits([1000.0, 0.0], [0, 1]) == pytest.approx(
        (1000 / math.log(2) + 1) / 2
    )


@given(st.lists(st.booleans(), min_size=2, max_size=30))
def test_the_base_rate_has_an_ne_of_one(targets):
    ne = metrics.normalized_entropy(np.full(len(targets), np.mean(targets)), targets)
    if len(set(targets)) == 1:
        assert math.isnan(ne)
    else:
        assert ne == pytest.approx(1)


def test_ne_from_sums_is_cell_by_cell():
    ne = metrics.normalized_entropy_from_sums(
        [[6.0, 3], [0, 1]], [[1, 0], [0, 2]], [[4, 4], [0, 2]]
    )
    q = 0.25
    expected = 1.5 / -(q * math.log(q) + (1 - q) * math.log(1 - q))
    np.testing.assert_allclose(ne, [[expected, np.nan], [np.nan, np.nan]])


def test_entropy_and_gain():
    np.testing.assert_allclose(metrics.entropy([0, 0.5, 1]), [0, math.log(2), 0])
    np.testing.assert_allclose(metrics.ne_gain_percent([0.9, 0.8], 0.8), [12.5, 0])


@given(TWO)
def test_auc_is_the_share_of_pairs_ordered(case):
    scores, targets = np.array(case[0]), np.array(case[1]) > 1
    pairs = [(a, b) for a in scores[targets] for b in scores[~targets]]
    value = metrics.auc(scores, targets)
    if pairs:
        assert value == pytest.approx(np.mean([(a > b) + 0.5 * (a == b) for a, b in pairs]))
    else:
        assert math.isnan(value)


@given(TWO)
def test_tau_pearson_and_discordance_are_those_of_loops(case):
    x, y = (np.array(v, float) for v in case)
    sx = np.sign(x[:, None] - x)[np.triu_indices(len(x), 1)]
    sy = np.sign(y[:, None] - y)[np.triu_indices(len(x), 1)]
    tau, r, wrong = (
        metrics.kendall_tau_b(x, y),
        metrics.pearson(x, y),
        metrics.discordant_share(x, y),
    )
    if sx.any() and sy.any():
        assert tau == pytest.approx((sx @ sy) / math.sqrt((sx @ sx) * (sy @ sy)), abs=1e-12)
        assert r == pytest.approx(np.corrcoef(x, y)[0, 1], abs=1e-9)
    else:
        assert math.isnan(tau) and math.isnan(r)
    if sy.any():
        pairs = [(a, b) for a, b in zip(sx, sy, strict=True) if b]
        assert wrong == pytest.approx(np.mean([(1 - a * b) / 2 for a, b in pairs]))
    else:
        assert math.isnan(wrong)


@given(TWO, st.lists(st.booleans(), min_size=20, max_size=20))
def test_tau_within_groups_is_that_of_a_loop_over_their_pairs(case, groups):
    x, y = (np.array(v, float) for v in case)
    groups = (groups * len(x))[: len(x)]
    pairs = [
        (np.sign(x[i] - x[j]), np.sign(y[i] - y[j]))
        for i in range(len(x))
        for j in range(i)
        if groups[i] == groups[j]
    ]
    untied = math.sqrt(sum(a * a for a, _ in pairs) * sum(b * b for _, b in pairs))
    tau = metrics.kendall_tau_b_within(x, y, groups)
    assert (
        tau == pytest.approx(sum(a * b for a, b in pairs) / untied) if untied else math.isnan(tau)
    )
    one = metrics.kendall_tau_b_within(x, y, np.zeros(len(x)))
    assert one == pytest.approx(metrics.kendall_tau_b(x, y), nan_ok=True)


def test_undefined_is_nan_and_silent():
    assert math.isnan(metrics.kendall_tau_b_within([1, np.nan, 2], [1, 2, 3], [0, 0, 0]))
    for metric in (metrics.kendall_tau_b, metrics.pearson):
        assert math.isnan(metric([1.0], [1.0]))
        assert math.isnan(metric([], []))
        assert math.isnan(metric([1, np.nan, 2], [1, 2, 3]))


def test_unpaired_lists_are_refused():
    with pytest.raises(ValueError, match="3 and 2 items"):
        metrics.kendall_tau_b([1, 2, 3], [1, 2])


def test_regret_and_recall_by_hand_with_ties():
    true = [0.0, 1.0, 2.0, 3.0]
    predicted = [5.0, 1.0, 1.0, 0.0]  # the best is predicted last; the tie hides 2.0 behind 1.0
    assert [metrics.regret_at_k(predicted, true, k) for k in (1, 2, 3, 4)] == [3, 2, 1, 0]
    assert [metrics.top_k_recall(predicted, true, k) for k in (1, 2, 3, 4)] == [0, 0, 2 / 3, 1]
    assert metrics.top_k_recall([0, 1, 2], [1, 1, 1], 2) == 1
    with pytest.raises(ValueError, match="k=5 is outside 1..4"):
        metrics.regret_at_k(predicted, true, 5)


@given(FEW)
def test_a_perfect_predictor_has_no_regret(values):
    for k in range(1, len(values) + 1):
        assert metrics.regret_at_k(values, values, k) == 0
        assert metrics.top_k_recall(values, values, k) == 1


def test_bootstrap_interval_covers_and_repeats():
    rng = np.random.default_rng(0)
    samples = rng.normal(size=(200, 30))
    intervals = [metrics.bootstrap_interval(s, num_bootstrap=200) for s in samples]
    assert 0.87 <= np.mean([i.low <= 0 <= i.high for i in intervals]) <= 0.99
    assert metrics.bootstrap_interval(samples[0], num_bootstrap=200) == intervals[0]
    assert intervals[0].value == pytest.approx(samples[0].mean())
    assert np.isnan(metrics.bootstrap_interval([])).all()


def test_bootstrap_of_rows_leaves_undefined_replicates_out():
    rows = np.array([[1.0, 1], [2, 2], [3, 3]])
    interval = metrics.bootstrap_interval(
        rows, lambda r: metrics.kendall_tau_b(r[:, 0], r[:, 1]), num_bootstrap=50
    )
    assert interval == pytest.approx((1, 1, 1))


def test_paired_test_is_students_and_wilcoxons():
    a, b = np.array([1.0, 2, 4, 3, 7]), np.array([2.0, 2.5, 3, 5, 9])
    test, scipy_test = metrics.paired_test(a, b), stats.ttest_rel(a, b)
    interval = scipy_test.confidence_interval()
    np.testing.assert_allclose(
        test, [np.mean(a - b), interval.low, interval.high, scipy_test.pvalue]
    )
    ranks = metrics.paired_test(a - b, method="wilcoxon")
    assert ranks.p == pytest.approx(stats.wilcoxon(a, b)[1])
    assert ranks[:3] == pytest.approx(test[:3])


def test_paired_test_where_there_is_nothing_to_test():
    assert metrics.paired_test([1.0])[0] == 1 and np.isnan(metrics.paired_test([1.0])[1:]).all()
    assert np.isnan(metrics.paired_test([1.0, np.nan])).all()
    assert np.isnan(metrics.paired_test([])).all()
    assert metrics.paired_test([0.5, 0.5]) == (0.5, 0.5, 0.5, 0)
    assert metrics.paired_test([0.0, 0.0], method="wilcoxon") == (0, 0, 0, 1)
    with pytest.raises(ValueError, match="'t' or 'wilcoxon'"):
        metrics.paired_test([1, 2], method="sign")


def test_rows_interval_is_of_the_ne_gain_and_paired():
    rng = np.random.default_rng(1)
    reference = rng.exponential(size=2000)
    assert metrics.paired_rows_interval(1.01 * reference, reference) == pytest.approx((1, 1))
    noisy = reference + rng.normal(0, 0.1, 2000)
    low, high = metrics.paired_rows_interval(noisy, reference)
    gain = 100 * (noisy.sum() / reference.sum() - 1)
    assert low < gain < high
    # Standard error of the ratio of sums, four of them from end to end.
    assert high - low == pytest.approx(
        3.92 * 100 * 0.1 / math.sqrt(2000) / reference.mean(), rel=0.3
    )


def test_rows_interval_widens_where_neighbours_are_alike():
    rng = np.random.default_rng(2)
    reference = np.ones(4000)
    shift = rng.normal(0, 0.1, 40)
    together = metrics.paired_rows_interval(
        reference + np.repeat(shift, 100), reference, num_blocks=40
    )
    apart = metrics.paired_rows_interval(reference + np.tile(shift, 100), reference, num_blocks=40)
    assert together[1] - together[0] > 5 * (apart[1] - apart[0])
    assert np.isnan(metrics.paired_rows_interval([], [])).all()
    assert metrics.paired_rows_interval([2.0], [1.0]) == (100, 100)
