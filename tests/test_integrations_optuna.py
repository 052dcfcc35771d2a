"""The bridge to Optuna: proposals from seed and study alone, failures learned from, nothing proposed twice."""

import math
import pickle
import warnings

import numpy as np
import pytest

optuna = pytest.importorskip("optuna")
from optuna.distributions import (  # noqa: E402
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from autorank.integrations.optuna import AutoRankSampler  # noqa: E402
from autorank.integrations.optuna_trials import (  # noqa: E402
    conditions_of,
    metrics_of,
    points,
)

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
                study_name="s", storage=storage, load_if_exists=True,
                sampler=AutoRankSampler(searcher, seed=5),
            )  # fmt: skip
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
    for seed, direction in enumerate(["minimize", "maximize", "minimize"]):
        sign = 1.0 if direction == "minimize" else -1.0
        for sampler, found in (
            (AutoRankSampler(seed=seed), ours),
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
        "leaves": ("model", ("tree",)), "rate": ("model", ("net",)), "layers": ("model", ("net",)),
    }  # fmt: skip
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
    study.add_trials([
        make(params={"x": 0.1}, distributions=space, value=1.0),
        make(params={"x": 0.2}, distributions=space, value=3.0),
        make(state=states.PRUNED, params={"x": 0.3}, distributions=space, intermediate_values={0: 9.0, 1: 2.0}),
        make(state=states.FAIL, params={"x": 0.4}, distributions=space),
        make(params={"x": 0.5}, distributions=space, value=math.inf),
    ])  # fmt: skip
    units, told = metrics_of(study, study.trials)
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
