"""A search by another measure than NE: the windows' values come from the scores that made the window NE."""

from dataclasses import replace

import numpy as np
import pytest

from autorank.app.identity import settings
from autorank.app.settings import PlanConfig, SearchConfig
from autorank.base.metrics import entropy
from autorank.base.records import plain
from autorank.base.searched import gains, losses, noise_of, searched
from autorank.objectives.measuring import WindowMeasure
from tests.objectives.test_choice import BATCH, ROWS, WINDOWS, dataset, objective


def test_measured_windows_are_those_of_the_ne_curve_and_a_rung_is_a_prefix():
    made = objective("auto", measure="log_loss")
    config = np.array([[0]], np.int32)
    half, whole = (dict(made.evaluate(config, [3], share))[0] for share in (0.5, 1.0))
    plain_run = dict(objective("compact").evaluate(config, [3], 1.0))[0]
    np.testing.assert_allclose(whole.curve, plain_run.curve, rtol=1e-5)
    labels = dataset().train().labels[:ROWS, 0].astype(float)
    steps = ROWS // BATCH
    window = np.repeat(np.arange(steps) * WINDOWS // steps, BATCH)
    rates = np.bincount(window, labels[: steps * BATCH]) / np.bincount(window)
    values = np.array(whole.details["measured"])[:, 0]
    np.testing.assert_allclose(values / entropy(rates), whole.curve[:, 0], rtol=1e-5)
    seen = np.isfinite(half.curve[:, 0])
    assert 0 < seen.sum() < WINDOWS and whole.num_rows == plain_run.num_rows
    np.testing.assert_array_equal(np.array(half.details["measured"])[seen, 0], values[seen])
    assert made.measurable is not None and made.measurable.all()


def test_gauc_of_a_window_is_a_loop_over_its_users_and_needs_users():
    data, rng = dataset(), np.random.default_rng(5)
    measure = WindowMeasure.of(data, "gauc", ("ctr",))
    scores = rng.random((200, 1))
    users, labels = data.sparse[100:300, 0], data.labels[100:300, 0]
    total = weight = 0.0
    for user in set(users) - {0, 1}:
        own = users == user
        plus, minus = scores[own & (labels > 0), 0], scores[own & (labels < 1), 0]
        if plus.size and minus.size:
            total += own.sum() * np.mean(plus[:, None] > minus[None, :])
            weight += own.sum()
    np.testing.assert_allclose(measure(100, 300, scores)[0], total / weight, atol=1e-12)
    fields = tuple(f._replace(name=f"x{i}") for i, f in enumerate(data.schema.fields))
    nameless = data._replace(schema=data.schema._replace(fields=fields))
    with pytest.raises(ValueError, match=r"search\.metric=gauc is measured within users"):
        WindowMeasure.of(nameless, "gauc", ("ctr",))


def test_lower_is_better_inside_and_points_do_not_depend_on_the_level():
    assert losses("auc", 0.8) < losses("auc", 0.7)
    assert losses("calibration", 1.1) > losses("calibration", 0.99)
    assert gains("ece", 0.02, 0.01) == pytest.approx(1.0)
    assert gains("log_loss", 0.99, 1.0) == pytest.approx(-1.0)
    assert noise_of("auc", [0.2, 0.3]) == pytest.approx(100 * np.std([0.2, 0.3], ddof=1))
    assert noise_of("ne", [0.9]) == 0


def test_another_metric_is_another_search_and_the_default_is_the_old_one():
    def plan(metric):
        config = replace(SearchConfig(), search=replace(PlanConfig(), metric=metric))
        return settings("plan", plain(config))

    assert plan("auto") == plan("ctr") == plan("ctr-ne")
    assert plan("auto")["search.metric"] == "ctr"
    assert plan("auc") == plan("ctr-auc") != plan("ctr")
    assert searched("cvr-ndcg") == ("cvr", "ndcg@5")


@pytest.mark.parametrize(
    "changed, said",
    [
        (
            {"metric": "f1"},
            r"search\.metric=f1 is not known; write a task \(ctr, cvr, ctcvr, mean\)",
        ),
        ({"metric": "auc", "executor": "population"}, r"write search\.executor=auto"),
    ],
)
def test_what_cannot_be_searched_for_is_refused(changed, said):
    with pytest.raises(ValueError, match=said):
        PlanConfig(**changed)
