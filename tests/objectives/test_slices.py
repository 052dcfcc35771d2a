"""Losses of slices: what training leaves of each window, split by the values of a field."""

from dataclasses import replace

import numpy as np
import pytest

from autorank.app.settings import FormConfig, RecordTableConfig
from autorank.base.metrics import entropy
from autorank.objectives.slices import Slicing, slices_of
from autorank.objectives.training import ObjectiveConfig, only_compact
from autorank.training.settings import TrainingConfig
from tests.objectives.test_choice import BATCH, ROWS, WINDOWS, dataset, objective

STEPS = ROWS // BATCH


def test_slices_make_up_the_window_ne_and_a_rung_is_a_prefix():
    made = objective("auto", slices=Slicing("item", 3))
    config = np.array([[0]], np.int32)
    half, whole = (dict(made.evaluate(config, [3], share))[0] for share in (0.5, 1.0))
    plain = dict(objective("compact").evaluate(config, [3], 1.0))[0]
    np.testing.assert_allclose(whole.curve, plain.curve, rtol=1e-5)
    train = dataset().train()
    window = np.repeat(np.arange(STEPS) * WINDOWS // STEPS, BATCH)
    own = slices_of(train.sparse[: len(window), 1], 3)
    rows = np.zeros((WINDOWS, 3))
    np.add.at(rows, (window, own), 1)
    losses = np.array(whole.details["slices"])
    assert losses.shape == (WINDOWS, 3) and np.ptp(losses, axis=1).min() > 0
    labels = train.labels[: len(window), 0].astype(float)
    rates = np.bincount(window, labels) / np.bincount(window)
    ne = (losses * rows).sum(axis=1) / rows.sum(axis=1) / entropy(rates)
    np.testing.assert_allclose(ne, whole.curve[:, 0], rtol=1e-5)
    seen = np.isfinite(half.curve[:, 0])
    assert 0 < seen.sum() < WINDOWS
    np.testing.assert_array_equal(np.array(half.details["slices"])[seen], losses[seen])


@pytest.mark.parametrize("count", [2, 4, 9])
def test_the_most_frequent_values_have_slices_of_their_own(count):
    values = np.random.default_rng(1).geometric(0.3, 500)
    found = slices_of(values, count)
    frequent = sorted(set(values), key=lambda v: (-np.sum(values == v), v))[: count - 1]
    for row, value in zip(found, values, strict=True):
        assert row == (frequent.index(value) if value in frequent else count - 1)


def test_fewer_values_than_slices_leave_some_empty():
    assert slices_of(np.array([4, 4, 2]), 6).tolist() == [0, 0, 1]


def test_what_cannot_be_sliced_is_refused():
    with pytest.raises(ValueError, match="slices=c: no field of planted has that name; write one"):
        objective("compact", slices=Slicing("c"))
    base = ObjectiveConfig(slices=Slicing("item"))
    assert only_compact(base) == "slices=item needs scores"
    with pytest.raises(ValueError, match=r"slices=item and search\.metric=auc exclude each other"):
        only_compact(replace(base, measure="auc"))
    with pytest.raises(ValueError, match="write training.devices=1, or slices=null"):
        only_compact(replace(base, training=TrainingConfig(devices=2)))
    with pytest.raises(
        ValueError, match="slices=item needs scores, which a population does not give"
    ):
        RecordTableConfig(slices="item", search=FormConfig(executor="population"))
