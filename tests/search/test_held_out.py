"""Held-out rows are scored seed by seed: the numbers are those of all seeds at once."""

import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import scipy.stats

from autorank.base.metrics import auc, log_losses, normalized_entropy
from autorank.search.ab_test import Day, experiment
from autorank.search.context import Context
from autorank.search.held_out import score

ROWS, SEEDS = 400, (7, 8, 9)
RNG = np.random.default_rng(0)
LABELS = (RNG.random((ROWS, 1)) < 0.4).astype(float)
USERS = RNG.integers(-1, 30, ROWS)


def predictions(config, seed):
    rng = np.random.default_rng([int(config[0]), seed])
    noise = rng.normal(size=(ROWS, 1))
    return 1 / (1 + np.exp(-(1 + config[0]) * (LABELS - 0.5) - noise))


@pytest.fixture(scope="module")
def found():
    nothing: Any = None
    objective: Any = SimpleNamespace(
        test=predictions, test_labels=LABELS, test_users=USERS, metrics=("ctr",)
    )
    context = Context(*(objective, nothing, nothing, nothing), notify=lambda *told: None)
    return score(context, {"baseline": [0], "winner": [1]}, SEEDS)


def test_seeds_keep_their_order_and_means_are_over_all(found):
    y = LABELS[:, 0]
    for name, config in (("baseline", [0]), ("winner", [1])):
        each = [predictions(config, s)[:, 0] for s in SEEDS]
        assert found["ne"][name]["ctr"] == pytest.approx([normalized_entropy(p, y) for p in each])
        assert found["measures"][name]["ctr"]["auc"] == pytest.approx([auc(p, y) for p in each])
        rows = found["reliability"][name]["ctr"]
        assert sum(b.rows * b.predicted for b in rows) == pytest.approx(each[0].sum())


def test_gains_of_other_measures_are_paired_by_seed(found):
    ours, theirs = (np.array(found["measures"][n]["ctr"]["auc"]) for n in ("winner", "baseline"))
    gain = found["measure_gains"]["winner"]["ctr"]["auc"]
    low, high = scipy.stats.t.interval(
        0.95, 2, *(f(theirs - ours) for f in (np.mean, scipy.stats.sem))
    )
    assert gain["mean"] == pytest.approx(100 * np.mean(theirs - ours))
    assert (gain["low"], gain["high"]) == pytest.approx((100 * low, 100 * high))


def test_days_are_of_the_mean_losses_and_survive_json(found):
    y = LABELS[:, 0]
    mean = {
        c: np.mean([log_losses(predictions([c], s)[:, 0], y) for s in SEEDS], axis=0)
        for c in (0, 1)
    }
    days = [Day(*json.loads(json.dumps(day))) for day in found["days"]["winner"]["ctr"]]
    whole = experiment(days)
    assert whole is not None and sum(d.rows for d in days) == ROWS
    assert whole.gain == pytest.approx(100 * (mean[1].mean() / mean[0].mean() - 1))
    none = experiment(found["days"]["baseline"]["ctr"])
    assert none is not None and none.gain == 0 and none.shown_after is None
