"""The bridge to Optuna: proposals from seed and study alone, failures learned from, nothing proposed twice."""

import math
import pickle
import warnings

import numpy as np
import pytest

pytest.importorskip("optuna")
import optuna
from optuna.distributions import (
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from autorank.integrations.optuna import AutoRankSampler
from autorank.integrations.optuna_rows import Encoder, told_outcomes
from autorank.integrations.optuna_space import conditions_of, points, space_of

optuna.logging.set_verbosity(optuna.logging.WARNING)


def objective(trial):
    x = trial.suggest_float("x", 1e-3, 10.0, log=True)
    depth = trial.suggest_int("depth", 1, 8)
    kind = trial.suggest_categorical("kind", ["a", "b", None])
    if depth == 8:
        raise RuntimeError("out of memory")
    return abs(depth - 5) + (kind != "b") + abs(x - 1.0)


def run(study, n):
    study.optimize(objective, n_trials=n, catch=(RuntimeError,))
    return [(t.params, t.state.name) for t in study.trials]


@pytest.mark.parametrize("searcher", ["evolution", "random"])
def test_a_study_loaded_again_continues_as_it_would_have(searcher, tmp_path):
    whole = run(optuna.create_study(sampler=AutoRankSampler(searcher, seed=5)), 30)
    storage = f"sqlite:///{tmp_path}/study.db"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # SQLAlchemy leaves connections to the garbage collector
        for n in (7, 13, 10):
            study = optuna.create_study(
                study_name="s",
                storage=storage,
                load_if_exists=True,
                sampler=AutoRankSampler(searcher, seed=5),
            )
            parts = run(study, n)
        study._storage.remove_session()
    assert parts == whole
    assert any(state == "FAIL" for _, state in whole)
    shared = [tuple(p.values()) for p, _ in whole[1:]]
    assert len(set(shared)) == len(shared)


def test_running_trials_are_not_proposed_again():
    space = {"c": CategoricalDistribution(list(range(40)))}
    study = optuna.create_study(sampler=AutoRankSampler("random", search_space=space))
    asked = [study.ask(space).params["c"] for _ in range(40)]
    assert sorted(asked) == list(range(40))


def planted(trial, seed, sign=1.0):
    """Regret; what is best depends on the seed and is on no grid; a corner fails."""
    rate, decay, kind = np.random.default_rng([3, seed]).uniform(0.2, 0.8, 3)
    x = trial.suggest_float("rate", 1e-5, 1.0, log=True)
    y = trial.suggest_float("decay", 0.0, 1.0)
    depth = trial.suggest_int("depth", 1, 8)
    word = trial.suggest_categorical("kind", ["a", "b", None])
    u = 1 + math.log10(x) / 5
    if depth == 8 and u > 0.5:
        raise RuntimeError("out of memory")
    regret = 8 * (u - rate) ** 2 + 4 * (y - decay + 0.3 * (u - rate)) ** 2
    return sign * (regret + 0.2 * abs(depth - 5) + 0.5 * (word != ["a", "b", None][int(kind * 3)]))


def test_later_trials_beat_random_search_by_a_margin():
    """Paired over seeds, with failures; one of them is maximised."""
    ours, others = [], []
    sampler_of_ours = AutoRankSampler(seed=0)  # one for all studies: its programs are compiled once
    for seed, direction in enumerate(["minimize", "maximize", "minimize"]):
        sign = 1.0 if direction == "minimize" else -1.0
        for sampler, found in (
            (sampler_of_ours, ours),
            (optuna.samplers.RandomSampler(seed=seed), others),
        ):
            study = optuna.create_study(sampler=sampler, direction=direction)
            study.optimize(lambda t: planted(t, seed, sign), n_trials=32, catch=(RuntimeError,))  # noqa: B023
            later = [sign * t.value for t in study.trials[12:] if t.value is not None]
            found.append((sign * study.best_value, sum(later) / len(later)))
    best, mean = np.array(ours).T
    random_best, random_mean = np.array(others).T
    assert (best < 0.5 * random_best).all(), (best, random_best)
    assert (mean < 0.7 * random_mean).all(), (mean, random_mean)


def test_maximising_is_minimising_the_negative():
    found = []
    for direction, sign in (("minimize", 1.0), ("maximize", -1.0)):
        study = optuna.create_study(sampler=AutoRankSampler("evolution"), direction=direction)
        study.optimize(lambda t: planted(t, 0, sign), n_trials=16, catch=(RuntimeError,))  # noqa: B023
        found.append([t.params for t in study.trials])
    assert found[0] == found[1]


def branching(trial):
    """Define-by-run: each model has a parameter of its own."""
    model = trial.suggest_categorical("model", ["tree", "net", "linear"])
    if model == "tree":
        return 2.0 + abs(trial.suggest_int("leaves", 2, 512, log=True) - 30) / 30
    if model == "net":
        rate = trial.suggest_float("rate", 1e-4, 1.0, log=True)
        return 1.0 + abs(math.log10(rate) + 2) + 0.1 * trial.suggest_int("layers", 1, 4)
    return 3.0


def test_parameters_of_a_branch_are_learned_where_they_have_a_meaning():
    study = optuna.create_study(sampler=AutoRankSampler("evolution", seed=1))
    study.optimize(branching, n_trials=60)
    conditions = conditions_of([t for t in study.trials if t.state.is_finished()])
    assert conditions == {
        "leaves": ("model", ("tree",)),
        "rate": ("model", ("net",)),
        "layers": ("model", ("net",)),
    }
    later = [tuple(sorted(map(str, t.params.items()))) for t in study.trials[10:]]
    assert len(set(later)) == len(later)  # a branch without parameters is not run again and again
    assert np.mean([t.params["model"] == "net" for t in study.trials[30:]]) > 0.6


def test_a_range_that_changes_is_drawn_at_random_with_a_warning():
    def changing(trial):
        low = trial.suggest_int("low", 1, 5)
        return low + trial.suggest_int("high", low, 9)

    study = optuna.create_study(sampler=AutoRankSampler("random"))
    with pytest.warns(UserWarning, match="high: its distribution changes from trial to trial"):
        study.optimize(changing, n_trials=8)


@pytest.mark.parametrize(
    ("distribution", "expected"),
    [
        (IntDistribution(1, 10**9, log=True), None),
        (IntDistribution(1, 9, step=4), (1, 5, 9)),
        (FloatDistribution(0.0, 0.9, step=0.3), (0.0, 0.3, 0.6, 0.9)),
        (FloatDistribution(1e-300, 1e300, log=True), None),
    ],
)
def test_points_of_a_range_belong_to_it(distribution, expected):
    found = points(distribution, 64)
    assert all(distribution._contains(distribution.to_internal_repr(p)) for p in found)
    assert sorted(set(found)) == list(found) and len(found) <= 64
    if expected is not None:
        np.testing.assert_allclose(found, expected)


def test_threads_are_asked_one_after_another_and_never_for_the_same():
    study = optuna.create_study(sampler=AutoRankSampler("evolution"))
    study.optimize(lambda t: planted(t, 0), n_trials=24, n_jobs=4, catch=(RuntimeError,))
    shared = [tuple(t.params.values()) for t in study.trials if len(t.params) == 4]
    assert len(shared) == 24 and len(set(shared)) == 24


def test_pruned_trials_count_with_their_last_report_and_crashes_as_failed():
    study = optuna.create_study()
    space = {"x": FloatDistribution(0.0, 1.0)}
    states = optuna.trial.TrialState
    make = optuna.trial.create_trial
    study.add_trials(
        [
            make(params={"x": 0.1}, distributions=space, value=1.0),
            make(params={"x": 0.2}, distributions=space, value=3.0),
            make(
                state=states.PRUNED,
                params={"x": 0.3},
                distributions=space,
                intermediate_values={0: 9.0, 1: 2.0},
            ),
            make(state=states.FAIL, params={"x": 0.4}, distributions=space),
            make(params={"x": 0.5}, distributions=space, value=math.inf),
        ]
    )
    units, told = told_outcomes(study, study.trials)
    np.testing.assert_allclose(units.own(told)[:3, 0], [1.0, 3.0, 2.0])
    assert np.isnan(told[3:, 0]).all()


def test_a_second_objective_is_a_cost():
    study = optuna.create_study(
        directions=["minimize"] * 2, sampler=AutoRankSampler("random", alpha=0.5)
    )
    study.optimize(lambda t: (t.suggest_float("x", 0, 1), 2.0), n_trials=3)
    assert len(study.trials) == 3
    study = optuna.create_study(
        directions=["minimize", "maximize"],
        sampler=AutoRankSampler("random", search_space={"x": FloatDistribution(0, 1)}),
    )
    with pytest.raises(ValueError, match="is minimised; this study maximises it"):
        study.ask({"x": FloatDistribution(0, 1)})


def test_enqueued_trials_are_told_and_a_pickled_study_goes_on():
    study = optuna.create_study(sampler=AutoRankSampler("evolution", seed=2))
    study.enqueue_trial({"rate": 3e-3, "decay": 0.123, "depth": 2, "kind": None})
    study.optimize(lambda t: planted(t, 0), n_trials=5)
    assert study.trials[0].params["decay"] == 0.123  # off our grid, as it was wanted
    again = pickle.loads(pickle.dumps(study))
    for s in (study, again):
        s.optimize(lambda t: planted(t, 0), n_trials=3, catch=(RuntimeError,))
    assert [t.params for t in again.trials] == [t.params for t in study.trials]


def test_refusals_name_what_to_write():
    with pytest.raises(ValueError, match="searcher='tpe' is not known; write one of autorank"):
        AutoRankSampler("tpe")
    study = optuna.create_study(
        directions=["minimize"] * 3,
        sampler=AutoRankSampler("random", search_space={"x": FloatDistribution(0, 1)}),
    )
    with pytest.raises(ValueError, match="3 objectives"):
        study.ask({"x": FloatDistribution(0, 1)})


ODD = (
    {"x": "oops"},
    {"x": [1]},
    {"x": None},
    {"x": math.nan},
    {"x": -1},
    {"x": 7},
    {"depth": 10**400},
    {"kind": "unknown"},
    {"kind": {"a": 1}},
)


def mixed(trial):
    x = trial.suggest_float("x", 1e-3, 1.0, log=True)
    return (
        x
        + trial.suggest_int("depth", 1, 8)
        + (trial.suggest_categorical("kind", ["a", "b", None]) != "b")
    )


def test_odd_enqueued_values_are_left_out_with_a_warning_each_and_asking_goes_on():
    study = optuna.create_study(sampler=AutoRankSampler("random"))
    study.optimize(mixed, n_trials=2)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for odd in ODD:
            study.enqueue_trial(odd)
            study.optimize(mixed, n_trials=2, catch=(ValueError, OverflowError))
    plain = [t for t in study.trials if "fixed_params" not in t.system_attrs]
    assert len(plain) == 2 + len(ODD) and all(t.state.name == "COMPLETE" for t in plain)
    texts = [str(w.message) for w in caught if "left out" in str(w.message)]
    assert len(texts) == len(ODD)
    assert texts[0].startswith(
        "trial 2 is left out of what AutoRankSampler learns from: x='oops' is not in Float"
    )
    study.enqueue_trial(
        {"x": "0.5", "depth": True, "kind": np.str_("b")}
    )  # have an obvious reading
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        asked = study.ask()
        assert study.ask().suggest_float("x", 1e-3, 1.0, log=True) <= 1.0
    assert asked.suggest_int("depth", 1, 8) == 1


@pytest.mark.parametrize(
    "choices",
    [
        [math.nan, 0.0, None],
        [[1], [2, 3], []],
        [(1,), (2,), (3, 4)],
        [{"a": 1}, {"a": 2}, {}],
        [True, 1, 1.0],
        ["a", "a", "b"],
        [{1}, {2}, len],
    ],
)
def test_choices_of_any_kind_are_proposed_as_they_are(choices, tmp_path):
    """All of them, with their types, and again after a database changed tuples to lists."""
    stored = all(not isinstance(c, set) and c is not len for c in choices)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for storage in (None, f"sqlite:///{tmp_path}/s.db") if stored else (None,):
            study = optuna.create_study(storage=storage, sampler=AutoRankSampler("random", seed=1))
            found = []

            def job(trial, found=found):
                found.append(trial.suggest_categorical("c", choices))
                return 1.0

            study.optimize(job, n_trials=7)
            if storage:
                study._storage.remove_session()
            assert {repr(v) for v in found} == {repr(c) for c in choices}


def test_equal_choices_of_other_types_are_told_apart():
    d = CategoricalDistribution([True, 1, False, 0])
    space = space_of({"flag": d}, {}, 8)
    make = optuna.trial.create_trial

    def row(value, **attributes):
        trial = make(
            params={"flag": value}, distributions={"flag": d}, value=1.0, system_attrs=attributes
        )
        found, reason = Encoder(space, {"flag": d}).row(trial)
        return reason if found is None else found.tolist()

    assert row(1) == [1] and row(True) == [0] and row(0) == [3] and row(False) == [2]
    # A database returns the first of those that are equal; what was wanted says which it was.
    assert row(True, fixed_params={"flag": 1}) == [1]
    assert row(False, **{"autorank:proposed": {"flag": 3}}) == [3]
    assert row(False, **{"autorank:proposed": {"flag": 99}}) == [2]


def test_a_range_that_was_edited_holds_as_it_is_now():
    """The part of the old trials inside it is learned from; the rest is left out with one warning."""
    study = optuna.create_study(sampler=AutoRankSampler("random"))
    study.optimize(lambda t: t.suggest_float("x", 0, 1), n_trials=12)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        study.optimize(lambda t: t.suggest_float("x", 0.4, 4.0), n_trials=12)
    texts = [str(w.message) for w in caught]
    old = [t for t in study.trials[:12] if t.params["x"] < 0.4]
    assert len(texts) == 1 and "is not in FloatDistribution(high=4.0" in texts[0], texts
    assert f"and {len(old) - 1} more trials" in texts[0]
    assert all(0.4 <= t.params["x"] <= 4.0 for t in study.trials[12:])
    assert all("autorank:proposed" in t.system_attrs for t in study.trials[13:])


def test_trials_of_another_job_do_not_decide_what_is_proposed():
    """Added ones with other kinds of distributions; Optuna would fail a trial for which the old kind is proposed."""
    other = optuna.create_study(sampler=AutoRankSampler("random"))
    other.optimize(
        lambda t: t.suggest_float("x", 0, 1) + t.suggest_categorical("depth", [1, 2]), n_trials=3
    )
    for before in (0, 2):
        study = optuna.create_study(sampler=AutoRankSampler("random"))
        study.optimize(mixed, n_trials=before)
        study.add_trials(other.trials)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            study.optimize(mixed, n_trials=3)
        assert [t.state.name for t in study.trials[-3:]] == ["COMPLETE"] * 3
        assert all("autorank:proposed" in t.system_attrs for t in study.trials[-3:])
    space = {"x": FloatDistribution(0, 1), "depth": IntDistribution(1, 8)}
    study = optuna.create_study(sampler=AutoRankSampler("random", search_space=space))
    with pytest.warns(
        UserWarning, match="x: search_space says Float.*the job suggests Float.*log=True"
    ):
        study.optimize(mixed, n_trials=3)
    assert [t.state.name for t in study.trials] == ["COMPLETE"] * 3


def test_what_a_job_no_longer_suggests_is_no_longer_proposed():
    study = optuna.create_study(sampler=AutoRankSampler("random"))
    study.optimize(lambda t: t.suggest_float("x", 0, 1) + t.suggest_float("gone", 0, 1), n_trials=3)
    study.optimize(lambda t: t.suggest_float("x", 0, 1), n_trials=12)
    proposed = [set(t.system_attrs.get("autorank:proposed", ())) for t in study.trials[-12:]]
    assert proposed[-1] == {"x"} and "gone" in proposed[8]


def test_a_fuzzed_study_in_a_database_answers_every_ask(tmp_path):
    """A small part of experiments/fuzz/optuna_study.py, reloaded in the middle."""
    from experiments.fuzz.optuna_study import NAME, session

    storage = f"sqlite:///{tmp_path}/study.db"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        session(storage, "random", 4, 52, 9)
        session(storage, "random", 4, 61, 17)
        study = optuna.load_study(study_name=NAME, storage=storage)
        assert len(study.trials) >= 17
        study._storage.remove_session()
