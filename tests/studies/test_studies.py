"""Each shipped study finds what was planted; settings that mean nothing are refused by name."""

import dataclasses

import numpy as np
import pytest

from autorank.base.metrics import kendall_tau_b
from autorank.studies.available import available
from autorank.studies.findings import (
    ALL,
    findings,
    refuse_fewer_splits,
    refuse_parts,
    sentence,
    told,
)
from autorank.studies.journal import Cell
from autorank.studies.predictor_study import PredictorArm, PredictorStudy, refuse_too_few
from autorank.studies.predictors import KINDS, Task
from autorank.studies.records import noisy, part_of, records_of
from tests.studies.planted import ROOT, benchmark, cut, found, linear, planted, shipped

FILES = sorted((ROOT / "configs" / "study").glob("*.yaml"))
SMALL = {"hidden": (16,), "steps": 60, "rate": 0.01}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_shipped_studies_are_whole(path):
    study = shipped(path)
    arms = study.resolved()
    assert len(arms) > 3 and study.reference in arms
    assert all(sums.keys() <= arms.keys() for sums in study.contrasts.values())
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
    arms = ("seed_1", "seed_3", "seed_10")
    # After few steps members differ by their start; averaging removes what is a member's own.
    few = SMALL | {"rate": 0.003}
    study = cut("predictor-ensemble", arms, "seed_10", num_train=60, num_test=100, predictor=few)
    by = found(tmp_path, study, [planted("linear", linear)], splits=20)
    taus = [by[arm, ALL, "tau_b"].mean for arm in arms]
    assert taus == sorted(taus)
    assert by["seed_1", ALL, "tau_b"].difference.sign == -1


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


def test_ablation_study_tells_the_parts_from_each_other(tmp_path):
    arms = ("pairwise_x10_both", "pairwise_x1_both", "mse_x10_both", "mse_x1_both")
    arms += tuple(arm.replace("both", "alone") for arm in arms)
    changes = {"num_train": 60, "num_test": 200, "measures": ("tau_b",), "predictor": SMALL}
    study = cut("predictor-ablation", arms, arms[0], **changes)
    tables = [planted("heavy", lambda x: np.exp(linear(x)))]
    by = found(tmp_path, study, tables, splits=10)
    words = {name.partition(",")[0].partition(" instead")[0]: name for name in study.contrasts}

    def effect(part):
        return by[words[part], ALL, "tau_b"]

    # Squares see the few huge values alone.
    assert effect("the pairwise loss").difference.sign == 1
    assert effect("10 members").difference.sign == 1
    # A contrast is the arithmetic of its arms.
    means = [by[arm, ALL, "tau_b"].mean for arm in arms]
    assert np.isclose(
        effect("the three together").mean, means[0] - by["mse_x1_alone", ALL, "tau_b"].mean
    )
    alike = np.mean(means[0:4]) - np.mean(means[4:8])
    assert np.isclose(effect("FLOPs learnt too").mean, alike)


def test_transfer_study_finds_a_family_that_turns_the_order_round(tmp_path):
    def turned(x):
        return np.where(x[:, 0] == 1.0, -1, 1) * linear(x[:, 1:] @ np.eye(3, 4))

    arms = ("gaussian", "gaussian_absent", "gaussian_few")
    study = cut("predictor-transfer", arms, "gaussian", num_test=100)
    tables = [
        part_of(planted(name, f), "a=1.0") for name, f in (("turned", turned), ("same", linear))
    ]
    by = found(tmp_path, study, tables, splits=4)
    turned_name, same = (table.name for table in tables)
    assert by["gaussian_absent", turned_name, "tau_b"].mean < -0.5
    assert by["gaussian_absent", same, "tau_b"].mean > 0.8
    absent, few = (
        "the family absent, for a Gaussian process",
        "20 of 160 records of the family instead of none, for a Gaussian process",
    )
    assert by[absent, turned_name, "tau_b"].difference.sign == -1
    assert by[few, turned_name, "tau_b"].difference.sign == 1


def test_input_study_finds_that_a_hump_needs_more_than_a_float(tmp_path):
    def hump(x):
        return np.abs(x - 0.4) @ np.array([4.0, 2.0, 1.0, 0.5])

    study = cut("predictor-input", ("float", "basis"), "float", num_test=200, num_train=60)
    study = dataclasses.replace(
        study, predictor={"hidden": (8,), "steps": 60, "rate": 0.02, "members": 2}
    )
    by = found(tmp_path, study, [planted("hump", hump)], splits=6)
    assert by["a smooth basis instead of one float", ALL, "tau_b"].difference.sign == 1
    assert by["basis", ALL, "tau_b"].mean > 0.8


def test_data_set_study_finds_that_noise_hides_the_order(tmp_path):
    table = planted("linear", linear)
    tables = [table, noisy(table, "0.3"), noisy(table, "3")]
    study = dataclasses.replace(
        cut("data-sets", ("margin_x1",), "margin_x1", num_train=40, num_test=200),
        predictor=SMALL,
    )
    by = found(tmp_path, study, tables, splits=4)
    for arm in study.arms:
        taus = [by[arm, made.name, "tau_b"].mean for made in tables]
        assert taus[0] > taus[1] > taus[2]


def test_bars_study_tells_the_order_within_families_from_that_of_families(tmp_path):
    def lottery(x):
        """Families differ by 1; within one, luck decides."""
        return 5 * x[:, 0] + np.random.default_rng(0).uniform(0, 0.5, len(x))

    def alike(x):
        """Every family has the same order, whatever it is by itself."""
        return lottery(x).round() + 0.1 * linear(x * [0, 1, 1, 1])

    tables = [planted("lottery", lottery), planted("alike", alike)]
    study = cut("data-sets-bars", ("gaussian",), "gaussian", num_train=60, family="a")
    by = found(tmp_path, study, tables, splits=3)
    assert all(by["gaussian", name, "tau_b"].mean > 0.8 for name in ("planted/lottery", ALL))
    assert abs(by["gaussian", "planted/lottery", "tau_b_within"].mean) < 0.2
    assert by["gaussian", "planted/alike", "tau_b_within"].mean > 0.6
    with pytest.raises(ValueError, match="study.family on planted/lottery='model' is not known"):
        refuse_too_few(dataclasses.replace(study, family="model"), tables)
    with pytest.raises(ValueError, match="tau_b_within and a family need each other"):
        dataclasses.replace(study, family="")


def test_results_beyond_a_quantile_count_as_it():
    def heavy(x):
        return np.exp(5 * linear(x))

    whole, clipped = (records_of(benchmark("heavy", heavy), clip=clip) for clip in (1.0, 0.9))
    assert np.array_equal(clipped.quality, np.minimum(whole.quality, clipped.quality.max()))
    assert (clipped.quality == clipped.quality.max()).mean() == pytest.approx(0.1, abs=0.01)


@pytest.mark.parametrize("kind", ["trees", "extra_trees"])
def test_trees_learn_what_is_planted(kind):
    pytest.importorskip("sklearn")
    table = planted("folded", folded)
    rows = np.random.default_rng(0).permutation(len(table))
    program = KINDS[kind].make(PredictorArm(kind=kind, num_train=300), Task(table.space, 200))
    known, asked = rows[:300], rows[300:500]
    (predicted,) = program(0, table.configs[known], table.metrics[known], table.configs[asked])
    assert kendall_tau_b(predicted, table.quality[asked]) > 0.7


def test_what_is_not_there_is_left_out_with_the_reason(monkeypatch, tmp_path):
    monkeypatch.setattr("autorank.studies.predictor_study.find_spec", lambda name: None)
    table = planted("linear", linear)

    def load(name):
        if name == "far":
            raise FileNotFoundError("far reads a file")
        return table

    study = PredictorStudy(
        records=("near",),
        more_records=("far",),
        arms={"trees": {"kind": "trees"}, "ridge": {"kind": "ridge"}, "mean": {"kind": "mean"}},
        reference="ridge",
        contrasts={"trees": {"trees": 1, "ridge": -1}, "mean": {"mean": 1, "ridge": -1}},
    )
    made, tables, missing = available(study, load)
    assert list(made.arms) == ["ridge", "mean"] and list(made.contrasts) == ["mean"]
    assert tables == [table] and len(missing) == 2
    assert "pip install 'autorank[studies]'" in missing[0] and "far reads a file" in missing[1]
    with pytest.raises(ValueError, match="takes whole studies"):
        refuse_parts(tmp_path / "own.csv", missing)
    with pytest.raises(ValueError, match="study.reference=trees: the arm trees needs the package"):
        available(dataclasses.replace(study, reference="trees"), load)
    with pytest.raises(FileNotFoundError):
        available(dataclasses.replace(study, records=("far",)), load)


def test_contrasts_add_up_to_nothing():
    def study(**weights):
        arms = {"a": {}, "b": {"num_train": 20}}
        return PredictorStudy(arms=arms, reference="a", contrasts={"own": weights}).resolved()

    study(a=1, b=-1)
    with pytest.raises(ValueError, match="study.contrasts.own: the weights add up to 1"):
        study(a=1)


def test_arms_without_effect_or_meaning_are_refused():
    def study(**arm):
        return PredictorStudy(arms={"own": arm}, reference="own")

    with pytest.raises(ValueError, match="study.arms.own.predictor has no effect with kind=ridge"):
        study(kind="ridge", predictor={"members": 2}).resolved()
    with pytest.raises(ValueError, match="study.arms.own.predictor.memebrs is not a setting"):
        study(predictor={"memebrs": 2}).resolved()
    with pytest.raises(ValueError, match="study.arms.own.loss is not a setting; write one of kind"):
        study(loss="mse").resolved()
    with pytest.raises(ValueError, match="kind='forest' is not known"):
        study(kind="forest").resolved()
    with pytest.raises(ValueError, match="study.arms.own.input has no effect with kind=gaussian"):
        study(kind="gaussian", input={"centred": True}).resolved()
    with pytest.raises(ValueError, match="study.arms.own.input.center is not a setting"):
        study(input={"center": True}).resolved()
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
        contrasts={"up": {"up": 1, "base": -1}, "same": {"same": 1, "base": -1}},
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
    (line, other) = told(study, findings(study, [table], 2, rows))
    assert line.startswith("up: Kendall's tau-b +0.200 [+")
    assert other.startswith("same: no difference shown (Kendall's tau-b +0.000 [-")
    assert "no difference was shown for same (+0.000 [" in text


def test_results_are_not_replaced_by_those_of_fewer_splits(tmp_path):
    path = tmp_path / "predictor-kind.csv"
    refuse_fewer_splits(path, 3)
    path.with_suffix(".json").write_text('{"splits": 20}')
    refuse_fewer_splits(path, 20)
    with pytest.raises(ValueError, match="the results of 20 splits and these are of 3"):
        refuse_fewer_splits(path, 3)
