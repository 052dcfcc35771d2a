"""The A/B stand-in: its interval covers at every look of simulated nulls, and its power is that of simulated tests."""

import math

import numpy as np
import pytest

from autorank.base.metrics import log_losses, normalized_entropy
from autorank.search.ab_test import days_of, experiment, exposures


def days(rng, rows=14 * 400, shift=0.0, block=1):
    """Days of differences that are equal over ``block`` rows, with standard deviation 1 and mean ``shift``."""
    noise = np.repeat(rng.normal(size=rows // block), block)
    reference = np.full(rows, 2.0)
    targets = np.tile([0.0, 1.0], rows // 2)
    return days_of(np.full(rows, 0.5), targets, reference + noise + shift, reference)


@pytest.mark.parametrize("block", [1, 4])
def test_the_sequence_covers_no_difference_at_every_look_also_where_rows_depend(block):
    rng, runs = np.random.default_rng(block), 300
    found = [experiment(days(rng, block=block)) for _ in range(runs)]
    wrong = sum(f.shown_after is not None for f in found if f is not None)
    # 5 % of 300 and three standard deviations; a fixed interval at each of 14 looks is wrong in about a quarter.
    assert wrong <= 0.05 * runs + 3 * math.sqrt(0.05 * 0.95 * runs)
    looked = [
        [abs(x.gain) > 1.96 * 50 / math.sqrt(400 * i / block) for i, x in enumerate(f.looks, 1)]
        for f in found
        if f
    ]
    assert np.any(looked, axis=1).mean() > 0.12


def test_a_true_difference_is_shown_and_stays():
    found = experiment(days(np.random.default_rng(0), shift=-0.2))
    assert found is not None and found.shown_after is not None
    assert found.looks[-1].high < 0 and found.gain == pytest.approx(-10.0, abs=2.0)


def test_exposures_give_the_power_that_they_say():
    rng, delta = np.random.default_rng(1), 0.2
    n = math.ceil(exposures(delta, 1.0))
    assert n == 197  # (1.95996 + 0.84162)^2 / 0.04
    means = rng.normal(delta, 1 / math.sqrt(n), 20_000)
    assert np.mean(np.abs(means) * math.sqrt(n) > 1.95996) == pytest.approx(0.8, abs=0.01)
    arms = math.ceil(exposures(delta, 2.0))
    gap = rng.normal(delta, math.sqrt(2 / arms), 20_000)
    assert np.mean(np.abs(gap) / math.sqrt(2 / arms) > 1.95996) == pytest.approx(0.8, abs=0.01)
    assert exposures(0.0, 1.0) == math.inf


def test_daily_numbers_are_those_of_the_rows():
    rng = np.random.default_rng(2)
    targets = (rng.random(300) < 0.3).astype(float)
    ours, theirs = rng.random((2, 300)) * 0.8 + 0.1
    losses, reference = log_losses(ours, targets), log_losses(theirs, targets)
    found = experiment(days_of(ours, targets, losses, reference, days=3))
    assert found is not None and len(found.looks) == 3
    rows = slice(100, 200)
    assert found.looks[1].ne == pytest.approx(normalized_entropy(ours[rows], targets[rows]))
    assert found.looks[1].calibration == pytest.approx(ours[rows].sum() / targets[rows].sum())
    assert found.gain == pytest.approx(100 * (losses.mean() / reference.mean() - 1))
    spread = losses.var() + reference.var()
    delta = losses.mean() - reference.mean()
    # Within days, so a little less than over all.
    assert found.exposures_an_arm == pytest.approx(exposures(delta, spread), rel=0.05)


def test_days_without_both_classes_are_nothing():
    none = np.zeros(50)
    assert experiment(days_of(none + 0.1, none, none + 0.1, none + 0.1)) is None
    assert experiment([]) is None
