"""Each shipped study finds what was planted; settings that mean nothing are refused by name."""

import numpy as np
import pytest
import yaml

from autorank.studies.findings import ALL, findings, refuse_fewer_splits, sentence
from autorank.studies.journal import Cell
from autorank.studies.predictor_study import PredictorStudy, refuse_too_few
from autorank.studies.subjects import SUBJECTS
from tests.studies.planted import ROOT, cut, found, linear, planted

FILES = sorted((ROOT / "configs" / "study").glob("*.yaml"))
SMALL = {"hidden": (16,), "steps": 60, "rate": 0.01}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_shipped_studies_are_whole(path):
    content = yaml.safe_load(path.read_text())
    study = SUBJECTS[content.get("subject", "predictor")].settings(**content)
    arms = study.resolved()
    assert len(arms) > 3 and study.reference in arms
    assert study.question and study.paper and "TIME" not in study.time
    assert len({str(arm) for arm in arms.values()}) == len(arms), "two arms are the same"


def folded(x):
    """No linear function orders it: the best are at equal a and b."""
    return np.abs(x[:, 0] - x[:, 1]) + 0.1 * x[:, 2]


def test_kind_study_prefers_the_model_that_fits_the_truth(tmp_path):
    tables = [planted("linear", linear), planted("folded", folded)]
    arms = ("ridge", "neighbours", "gaussian", "mean")
    study = cut("predictor-kind", arms, "neighbours", num_test=200, num_train=100)
    by = found(tmp_path, study, tables, splits=6)
    assert by["ridge", "planted/linear", "tau_b"].mean > 0.98
    assert by["ridge", "planted/linear", "tau_b"].difference.sign == 1
    assert by["ridge", "planted/folded", "tau_b"].difference.sign == -1
    assert by["gaussian", "planted/folded", "tau_b"].difference.sign == 1
    # A constant orders nothing: half of the pairs count as wrong, and a correlation does not exist.
    assert by["mean", ALL, "discordant_share"].mean == 0.5
    assert np.isnan(by["mean", ALL, "tau_b"].mean)
    assert "not defined for mean" in sentence(study, tables, list(by.values()))
    assert by["neighbours", ALL, "tau_b"].difference.mean == 0


def test_ensemble_study_finds_that_members_help(tmp_path):
    arms = ("members_1", "members_3", "members_10")
    # After few steps members differ by their start; averaging removes what is a member's own.
    few = SMALL | {"rate": 0.003}
    study = cut("predictor-ensemble", arms, "members_10", num_train=60, num_test=100, predictor=few)
    by = found(tmp_path, study, [planted("linear", linear)], splits=20)
    taus = [by[arm, ALL, "tau_b"].mean for arm in arms]
    assert taus == sorted(taus)
    assert by["members_1", ALL, "tau_b"].difference.sign == -1


def test_size_study_finds_that_records_help(tmp_path):
    arms = ("ensemble_20", "ensemble_200")
    settings = SMALL | {"loss": "mse", "members": 2, "steps": 200, "rate": 0.02}
    study = cut("predictor-size", arms, "ensemble_20", num_test=100, predictor=settings)
    by = found(tmp_path, study, [planted("folded", folded)], splits=6)
    assert by["ensemble_200", ALL, "tau_b"].difference.sign == 1
    assert by["ensemble_200", ALL, "discordant_share"].difference.sign == -1


def test_loss_study_finds_that_ranking_losses_ignore_the_scale(tmp_path):
    arms = ("mse_x10", "logistic_x10")
    study = cut(
        "predictor-loss",
        arms,
        "mse_x10",
        num_train=60,
        num_test=200,
        measures=("tau_b",),
        predictor=SMALL,
    )
    tables = [planted("heavy", lambda x: np.exp(3 * linear(x)))]
    by = found(tmp_path, study, tables, splits=6)
    # Squares see the few huge values alone; a pairwise loss sees the order of all.
    assert by["logistic_x10", ALL, "tau_b"].difference.sign == 1
    assert by["logistic_x10", ALL, "tau_b"].mean > 0.8


def test_arms_without_effect_or_meaning_are_refused():
    def study(**arm):
        return PredictorStudy(arms={"own": arm}, reference="own")

    with pytest.raises(ValueError, match="study.arms.own.predictor has no effect with kind=ridge"):
        study(kind="ridge", predictor={"members": 2}).resolved()
    with pytest.raises(ValueError, match="study.arms.own.predictor.memebrs is not a setting"):
        study(predictor={"memebrs": 2}).resolved()
    with pytest.raises(ValueError, match="study.arms.own.loss is not a setting; write one of kind"):
        study(loss="mse").resolved()
    with pytest.raises(ValueError, match="kind='trees' is not known"):
        study(kind="trees").resolved()
    with pytest.raises(ValueError, match="study.arms.own: predictor.loss"):
        study(predictor={"loss": "rank"}).resolved()
    with pytest.raises(ValueError, match="study=NAME"):
        PredictorStudy().resolved()
    with pytest.raises(ValueError, match="study.reference='other'"):
        PredictorStudy(arms={"own": {}}, reference="other").resolved()
    with pytest.raises(ValueError, match="study.measures='tau'"):
        PredictorStudy(measures=("tau",))


def test_more_records_than_there_are_is_refused():
    study = PredictorStudy(arms={"own": {"num_train": 1200}}, reference="own")
    with pytest.raises(ValueError, match="num_train=1200 and study.num_test=296 are more than the"):
        refuse_too_few(study, [planted("linear", linear)])


def test_the_sentence_says_what_the_intervals_say():
    study = PredictorStudy(
        arms={name: {"kind": "mean"} for name in ("base", "up", "down", "same")},
        reference="base",
        measures=("tau_b",),
        num_test=648,
    )
    table = planted("linear", linear)
    d = {"base": (0.5, 0.5), "up": (0.7, 0.7001), "down": (0.3, 0.3001), "same": (0.4, 0.6)}
    rows = {
        Cell(arm, table.name, s): {"tau_b": pair[s]} for arm, pair in d.items() for s in range(2)
    }
    text = sentence(study, [table], findings(study, [table], 2, rows))
    assert "higher than that of base for up (+0.200 [" in text
    assert "; lower for down (-0.200 [" in text
    assert "no difference was shown for same (+0.000 [" in text


def test_results_are_not_replaced_by_those_of_fewer_splits(tmp_path):
    path = tmp_path / "predictor-kind.csv"
    refuse_fewer_splits(path, 3)
    path.with_suffix(".json").write_text('{"splits": 20}')
    refuse_fewer_splits(path, 20)
    with pytest.raises(ValueError, match="the results of 20 splits and these are of 3"):
        refuse_fewer_splits(path, 3)
