"""Statistics of earlier rows: a planted leak is caught, and they are those of a plain loop."""

import math

import numpy as np
import pytest

from autorank.base.metrics import auc
from autorank.studies.reference import ReferenceConfig, everywhere, predictions
from autorank.studies.target_statistics import PRIOR_ROWS, encode

ROWS, TRAIN = 600, 480


def log(seed=0, ids=150):
    """Ids that say nothing: targets are coin flips."""
    rng = np.random.default_rng(seed)
    return (
        rng.integers(0, ids, (ROWS, 1)),
        (rng.random(ROWS) < 0.5).astype(float),
        np.ones(ROWS, bool),
    )


def test_features_are_those_of_a_loop_over_earlier_blocks():
    rng = np.random.default_rng(1)
    ids = np.stack([rng.integers(0, 7, ROWS), 7 + rng.integers(0, 5, ROWS)], axis=1)
    targets, where = (rng.random(ROWS) < 0.3).astype(float), rng.random(ROWS) < 0.8
    found = encode(ids, targets, where, 12, TRAIN, blocks=48)
    for row in (0, 9, 10, 255, 479, 480, 599):
        seen = np.arange(ROWS) < min(row // 10 * 10, TRAIN)
        seen &= where
        rate = (targets[seen].sum() + 0.5) / (seen.sum() + 1)
        for f in range(2):
            same = seen & (ids[:, f] == ids[row, f])
            p = (targets[same].sum() + PRIOR_ROWS * rate) / (same.sum() + PRIOR_ROWS)
            assert found[row, f] == pytest.approx(math.log(p / (1 - p)), abs=1e-5)
            assert found[row, 2 + f] == pytest.approx(
                math.log((same.sum() + 1) / (seen.sum() + 1)), abs=1e-5
            )


@pytest.mark.parametrize("follow", [False, True])
def test_no_row_knows_its_own_target_or_a_later_one(follow):
    ids, targets, where = log()
    before = encode(ids, targets, where, 150, TRAIN, follow=follow)
    for row in (5, 300, TRAIN - 1, TRAIN, ROWS - 1):
        other = targets.copy()
        other[row] = 1 - other[row]
        changed = (encode(ids, other, where, 150, TRAIN, follow=follow) != before).any(axis=1)
        assert not changed[: row + 1].any()
        # Held-out targets reach later held-out rows only where they are asked for.
        assert changed[row + 1 :].any() == (row < TRAIN or (follow and row < ROWS - 1))


def test_a_planted_leak_is_what_this_would_catch():
    ids, targets, where = log(ids=300)
    # In sample: every row counts itself.
    rates = np.bincount(ids[:, 0], targets) / np.maximum(np.bincount(ids[:, 0]), 1)
    assert auc(rates[ids[:TRAIN, 0]], targets[:TRAIN]) > 0.8
    honest = encode(ids, targets, where, 300, TRAIN)[:TRAIN, 0]
    assert abs(auc(honest, targets[:TRAIN]) - 0.5) < 0.08


def test_the_models_find_what_earlier_rows_say():
    pytest.importorskip("sklearn")
    rng = np.random.default_rng(2)
    rates = rng.random(10)
    ids = rng.integers(0, 10, (3000, 1))
    targets = (rng.random(3000) < rates[ids[:, 0]]).astype(float)
    features = encode(ids, targets, np.ones(3000, bool), 10, 2000)
    best = auc(rates[ids[2000:, 0]], targets[2000:])
    for model in ("logistic", "boosted_trees"):
        (p,) = predictions(model, features[500:2000], targets[500:2000], features[2000:], 1)
        assert auc(p, targets[2000:]) > best - 0.04
        assert p.mean() == pytest.approx(targets[2000:].mean(), abs=0.05)


def test_conversions_are_measured_on_clicks_and_bad_settings_are_named():
    labels = np.array([[1, 1], [1, 0], [0, 0]])
    targets, where = everywhere(labels, "cvr")
    assert targets.tolist() == [1, 0, 0] and where.tolist() == [True, True, False]
    with pytest.raises(ValueError, match="models"):
        ReferenceConfig(models=("forest",))
