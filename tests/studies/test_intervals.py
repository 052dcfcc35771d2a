"""The corrected interval against hand computation, and its coverage where the truth is known."""

import math

import numpy as np
import pytest
import scipy.stats

from autorank.studies.intervals import corrected_interval, over_tables
from autorank.studies.splits import overlap, split_of


def test_is_the_formula_of_nadeau_and_bengio():
    d = np.array([0.02, 0.05, -0.01, 0.04, 0.03])
    # Splits of 100 records into 80 and 20 use all of them: the usual n_test / n_train = 1 / 4.
    half = scipy.stats.t.ppf(0.975, 4) * math.sqrt(np.var(d, ddof=1) * (1 / 5 + 20 / 80))
    got = corrected_interval(d, overlap(100, 20))
    assert np.allclose(got, (d.mean(), d.mean() - half, d.mean() + half))


def test_without_overlap_it_is_students():
    d = np.array([0.1, 0.4, 0.2, 0.7])
    low, high = scipy.stats.t.interval(0.9, 3, d.mean(), scipy.stats.sem(d))
    assert np.allclose(corrected_interval(d, 0.0, level=0.9)[1:], (low, high))


def test_covers_the_truth_where_splits_test_the_same_records_again():
    """Differences per record around 0; a split's difference is the mean over the records that it tests."""
    rng, inside, plain = np.random.default_rng(0), [], []
    for world in range(400):
        records = rng.normal(size=400)
        d = np.array([records[split_of(str(world), 400, 100, j, 0).test].mean() for j in range(10)])
        mine, students = corrected_interval(d, overlap(400, 100)), corrected_interval(d, 0.0)
        inside.append(mine.low <= 0 <= mine.high)
        plain.append(students.low <= 0 <= students.high)
    assert 0.92 < np.mean(inside) < 0.98
    assert np.mean(plain) < 0.85  # what the correction is for


def test_undefined_stays_undefined():
    assert math.isnan(corrected_interval(np.array([0.1]), 0.2).low)
    nan = corrected_interval(np.array([0.1, math.nan]), 0.2)
    assert math.isnan(nan.mean) and math.isnan(nan.low) and nan.sign == 0
    with pytest.raises(ValueError, match=r"rho=1\.0"):
        corrected_interval(np.array([0.1, 0.2]), 1.0)


def test_over_tables_pairs_splits_and_takes_the_larger_overlap():
    d = np.array([[0.1, 0.3, 0.2], [0.0, 0.1, 0.5]])
    assert over_tables(d, np.array([0.1, 0.3])) == corrected_interval(d.mean(axis=0), 0.3)


def test_splits_are_disjoint_nested_and_differ():
    a, b = split_of("x", 50, 20, 0, 0), split_of("x", 50, 20, 0, 0)
    assert np.array_equal(a.test, b.test) and a.seed == b.seed
    assert not set(a.test) & set(a.rest) and len(a.test) == 20 and len(a.rest) == 30
    others = [split_of("y", 50, 20, 0, 0), split_of("x", 50, 20, 1, 0), split_of("x", 50, 20, 0, 1)]
    assert all(not np.array_equal(a.test, other.test) for other in others)
    shares = [len(set(a.test) & set(split_of("x", 50, 20, j, 0).test)) / 20 for j in range(1, 400)]
    assert abs(np.mean(shares) - overlap(50, 20)) < 0.02
