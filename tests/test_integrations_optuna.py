"""The bridge to Optuna: proposals from seed and study alone, failures learned from, nothing proposed twice."""

import warnings

import pytest

optuna = pytest.importorskip("optuna")
from autorank.integrations.optuna import AutoRankSampler  # noqa: E402

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
    space = {"c": optuna.distributions.CategoricalDistribution(list(range(40)))}
    study = optuna.create_study(sampler=AutoRankSampler("random", search_space=space))
    asked = [study.ask(space).params["c"] for _ in range(40)]
    assert sorted(asked) == list(range(40))


def test_refusals_name_what_to_write():
    with pytest.raises(ValueError, match="searcher='tpe' is not known; write one of autorank"):
        AutoRankSampler("tpe")
    study = optuna.create_study(
        directions=["minimize"] * 3,
        sampler=AutoRankSampler(
            "random", search_space={"x": optuna.distributions.FloatDistribution(0, 1)}
        ),
    )
    with pytest.raises(ValueError, match="3 objectives"):
        study.ask({"x": optuna.distributions.FloatDistribution(0, 1)})
