"""Statistics of a table against values computed apart from them."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import scipy.stats

from autorank.recorded.statistics import (
    described,
    final_ne,
    median_sd,
    pooled_sd,
    seed_statistics,
    statistics,
)
from tests.recorded.making import FAILED, PLAN, recorded_table


def test_the_numbers_of_a_small_table():
    table = recorded_table()
    found = statistics(table)
    tails = table.curves[:, 6:, 0].astype(np.float64).mean(axis=1)
    number, repeat = table.columns["number"], table.columns["repeat"]
    first = (number > 0) & (repeat == 0) & (number != FAILED)
    np.testing.assert_allclose(final_ne(table)[first], tails[first])
    assert np.isnan(final_ne(table)[number == FAILED]).all()
    assert found["configurations"] == 20 and found["runs"] == 35
    assert found["failed_configurations"] == 1 and found["share_failed"] == 0.05
    assert found["best_ne"] == pytest.approx(tails[first].min(), rel=1e-5)
    assert found["median_ne"] == pytest.approx(np.median(tails[first]), rel=1e-5)
    assert found["baseline_ne"] == pytest.approx(tails[number == 0].mean(), rel=1e-5)
    assert found["bayes_ne"] == 0.5
    # Six have more seeds; one of them failed.
    seeds = np.array([tails[number == i] for i in (1, 2, 3, 4, 6)])
    assert found["configurations_with_seeds"] == 5 and found["seeds_each"] == 3
    sd = np.sqrt(np.mean([np.var(row, ddof=1) for row in seeds]))
    assert found["seed_noise"]["value"] == pytest.approx(sd, rel=1e-5)
    taus = [
        scipy.stats.kendalltau(seeds[:, a], seeds[:, b]).statistic
        for a, b in itertools.combinations(range(3), 2)
    ]
    assert found["tau_of_two_seeds"]["value"] == pytest.approx(np.mean(taus), rel=1e-5)
    assert found["seconds"] == 20.0 and found["model_rows_per_second"] == 35 * 800 / 20
    assert 3 <= found["decisions_of_a_proposal"] <= 4
    assert 0 < found["distance_to_the_nearest"] < found["distance_of_two"] < 4
    text = described(found)
    assert "failed: 1 configurations, share 0.0500" in text and "best possible 0.50000" in text


def scaled_median(runs):
    """The median variance over the chi-squared distribution's median, by scipy.stats."""
    variance = np.median(runs.var(axis=1, ddof=1))
    return np.sqrt(variance / (scipy.stats.chi2.median(4) / 4))


def test_the_interval_of_the_seed_noise_holds_the_planted_one():
    rng = np.random.default_rng(0)
    held = {"seed_noise": 0, "seed_noise_median": 0}
    for _ in range(20):
        runs = rng.normal(0.9, 0.05, (60, 1)) + rng.normal(0, 0.003, (60, 5))
        whole = seed_statistics(runs)
        for name in held:
            found = whole[name]
            assert found["low"] < found["value"] < found["high"]
            held[name] += found["low"] < 0.003 < found["high"]
    assert min(held.values()) >= 16
    # One run that almost diverged decides the pooled one, and is nothing to the other.
    assert median_sd(runs) == pytest.approx(scaled_median(runs))
    before, runs[0, 0] = median_sd(runs), 500.0
    assert pooled_sd(runs) > 10 and median_sd(runs) == pytest.approx(before, rel=0.1)
    assert pooled_sd(np.array([[1.0, 3.0], [0.0, 0.0]])) == 1.0


def test_what_a_table_cannot_tell_is_null():
    table = recorded_table()
    one = table.columns["repeat"] == 0
    single = replace(
        table,
        configs=table.configs[one],
        curves=table.curves[one],
        ne=table.ne[one],
        failed=tuple(f for f, keep in zip(table.failed, one, strict=True) if keep),
        columns={k: v[one] for k, v in table.columns.items()},
        about=table.about | {"bayes_ne": None},
    )
    found = statistics(single)
    assert found["seed_noise"]["value"] is None and found["tau_of_two_seeds"]["low"] is None
    assert found["bayes_ne"] is None and "best possible -" in described(found)
    lost = replace(table, failed=("lost",) * len(table.failed))
    found = statistics(lost)
    assert found["share_failed"] == 1.0 and found["best_ne"] is None
    assert PLAN.repeats(1) == 3 and described(found)
