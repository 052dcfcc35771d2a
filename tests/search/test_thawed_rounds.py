"""A search whose searcher decides what goes on: one rung at a time, within the budget, and the same after any stop."""

import dataclasses
import math
from collections import defaultdict

import numpy as np
import pytest

from autorank.app.settings import SearchConfig
from autorank.fidelity.fidelity import left_to_the_searcher, total_cost
from autorank.fidelity.rules import FIDELITIES, FreezeThawConfig, FullConfig
from autorank.ledger import rungs
from autorank.ledger.ledger import Ledger
from autorank.objectives.table import table_objective
from autorank.search.budget import Budget
from autorank.search.run import run
from autorank.searchers.random import RandomConfig
from tests.fidelity.test_halving import ALL, NUM_ROWS, NUM_WINDOWS, SPACE, content, stage
from tests.making import make_searcher
from tests.search.stopping import Stop, stopping_after

RUNGS, BUDGET, TRIALS, BATCH = (0.2, 0.5, 1.0), 8.0, 30, 6
THAW = FreezeThawConfig(rungs=RUNGS, budget=BUDGET)
SEARCHER = make_searcher(
    "autorank", SPACE, batch_size=BATCH, capacity=112, alphas=(0.0,), fit_steps=10, rungs=RUNGS
)


def gain_of(config) -> float:
    """Percent against the baseline at the end of the log, lowest at width 63 and depth 2."""
    width, depth = map(int, config)
    return abs(width - 63) / 20 - 0.3 * depth - abs(0 - 63) / 20


def table():
    """Gains grow along the log; at a fifth of it they are half of the final ones."""
    share = np.linspace(0.5, 1.0, NUM_WINDOWS)
    curves = np.array([0.9 * (1 + gain_of(c) * share / 100) for c in ALL])[:, :, None]
    flops = 1.0 + ALL[:, 0] / 100.0
    return table_objective("table", ALL, curves, flops, metrics=("ctr",), num_rows=NUM_ROWS)


TABLE = table()


def search(folder, objective=TABLE, pilots=0, fidelity=THAW):
    folder.mkdir(exist_ok=True)
    budget = Budget(TRIALS, 0, "ctr", pilots, BATCH, 2, 2, 3, 0.9)
    with Ledger.open(folder / "trials.db", {"data": "table"}) as ledger:
        ledger.put("decisions", [d._asdict() for d in SPACE.decisions])
        ledger.put("baseline", [0, 0])
        rule = FIDELITIES[fidelity.kind].make(fidelity, 0)
        return run(objective, SPACE, SEARCHER, ledger, budget, rule, None, [].append)


def climbs(folder):
    runs = defaultdict(list)
    for trial in stage(folder, "round", "promotion"):
        runs[trial.config].append(trial)
    return runs


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("thaw")
    return folder, search(folder)


def test_a_run_takes_one_rung_at_a_time_and_keeps_its_seed(whole):
    runs = climbs(whole[0])
    assert 10 < len(runs) <= TRIALS
    for rows in runs.values():
        assert [t.fidelity for t in rows] == list(RUNGS[: len(rows)])
        assert [t.round for t in rows] == sorted({t.round for t in rows})
        assert len({t.seed for t in rows}) == 1
    reached = np.array([len(rows) for rows in runs.values()])
    # Fewer get to each further rung, and some to the last one.
    assert len(reached) > (reached > 1).sum() > (reached > 2).sum() > 0


def test_the_budget_is_spent_and_not_exceeded(whole):
    spent = sum(RUNGS[len(rows) - 1] for rows in climbs(whole[0]).values())
    # What is left would not have paid for a step to the end; otherwise all trials had begun.
    assert spent <= BUDGET + 1e-9
    assert spent > BUDGET - 0.5 or len(climbs(whole[0])) == TRIALS
    fidelity = left_to_the_searcher(RUNGS, BUDGET)
    assert total_cost(fidelity, TRIALS, 100) == 100 * BUDGET
    assert total_cost(fidelity, 3, 100, num_pilots=2) == 500


def test_the_model_finds_a_good_one_by_its_label_at_the_end(whole):
    folder, summary = whole
    with Ledger.read(folder / "trials.db") as ledger:
        found = rungs.top_rung(rungs.climbs(ledger.trials(), ledger.records(rungs.KIND)))
    best = min((t for t in found if t.quality is not None), key=lambda t: t.quality)
    assert best.fidelity == 1.0
    every = np.sort([gain_of(c) for c in ALL])
    assert gain_of(best.config) <= every[9]  # among the ten best of 200
    assert summary["fidelity_rungs"] == list(RUNGS)


def test_stopped_anywhere_it_ends_as_if_nothing_had_happened(whole, tmp_path):
    rng = np.random.default_rng(1)
    for _ in range(100):
        try:
            search(tmp_path, objective=stopping_after(TABLE, int(rng.integers(1, 9))))
            break
        except Stop:
            continue
    assert content(tmp_path) == content(whole[0])


def test_a_run_that_fails_goes_no_further(tmp_path):
    """What is best at the lowest rung fails as soon as it sees more."""

    def evaluate(configs, seeds, fidelity):
        for i, outcome in TABLE.evaluate(configs, seeds, fidelity):
            if 0.2 < fidelity < 1 and abs(int(configs[i][0]) - 63) <= 5:
                outcome = outcome._replace(failed="planted")
            yield i, outcome

    search(tmp_path, objective=TABLE._replace(evaluate=evaluate))
    failed = [rows for rows in climbs(tmp_path).values() if rows[-1].status == "failed"]
    assert failed and all(len(rows) == 2 for rows in failed)
    assert all(abs(rows[0].config[0] - 63) <= 5 for rows in failed)


def test_pilots_are_known_at_all_rungs_and_do_not_run_again(tmp_path):
    search(tmp_path, pilots=4, fidelity=dataclasses.replace(THAW, num_pilots=4))
    pilots = {t.config for t in stage(tmp_path, "pilot")}
    assert len(pilots) == 4 and not pilots & set(climbs(tmp_path))
    assert len(climbs(tmp_path)) <= TRIALS - 4


def test_what_it_cannot_do_is_refused():
    base = SearchConfig(fidelity=THAW)
    with pytest.raises(ValueError, match=r"not searcher=random; write searcher=autorank"):
        dataclasses.replace(base, searcher=RandomConfig())
    for plan, words in (
        ({"goal": "front"}, "fidelity=full"),
        ({"warm_start": ("runs/x",)}, "has no effect"),
    ):
        with pytest.raises(ValueError, match=words):
            dataclasses.replace(base, search=dataclasses.replace(base.search, **plan))
    dataclasses.replace(base, fidelity=FullConfig())
    for rungs_, words in (
        ((0.2, 0.5), "must rise to 1.0"),
        ((1.0,), "at least two"),
        ((0.5, 0.2), "rise"),
    ):
        with pytest.raises(ValueError, match=words):
            FreezeThawConfig(rungs=rungs_)
    with pytest.raises(ValueError, match="budget"):
        FreezeThawConfig(budget=0.0)


def test_the_planned_round_is_kept_before_it_is_trained(tmp_path):
    """A kill between asking and training loses nothing: the plan is what is trained."""
    with pytest.raises(Stop):
        search(tmp_path, objective=stopping_after(TABLE, 2))  # the baseline's two runs
    with Ledger.read(tmp_path / "trials.db") as ledger:
        (plan,) = ledger.records("thaw")
        waiting = [t for t in ledger.trials("round") if t.status == "proposed"]
    assert [tuple(c[:-1]) for c in plan["configs"]] == [t.config for t in waiting]
    assert all(c[-1] == 0 for c in plan["configs"]) and math.isclose(waiting[0].fidelity, 0.2)
