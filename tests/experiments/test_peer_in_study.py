"""Other packages' ways to stop runs early, as rules of a study: what they spend by hand, and what is refused."""

from dataclasses import replace
from typing import Any

import jax
import numpy as np
import pytest

from autorank.searchers.base import SEARCHERS, Context
from autorank.studies.available import available
from autorank.studies.campaign import Campaign
from autorank.studies.searcher_programs import compiled
from autorank.studies.spending import SPENDING
from experiments.comparison.peers import catalogue, in_study
from experiments.comparison.peers.base import UNITS
from experiments.comparison.peers.in_study import task_of
from tests.studies.test_cost_study import TASK, planted, study

# Four numbers of six levels; the loss is 4 a + 2 b + c + d / 2 at any share of the training, 0 the best.
GOOD = {"a": 0.0, "b": 0.0, "c": 0.0, "d": 0.2}
WORSE = {"a": 1.0, "b": 0.0, "c": 0.0, "d": 0.0}


@pytest.fixture(scope="module")
def campaigns():
    entry = SEARCHERS["random"]
    own = compiled(entry.make(TASK.space, entry.settings(batch_size=2), Context(capacity=32)))

    def made(task=TASK):
        return Campaign(task, own, jax.random.key(0), np.random.default_rng(0), 0.0, 0.01)

    return made


class Scripted:
    """A peer that asks for what a list says, and remembers what it is told."""

    told: list = []
    closed = 0

    def __init__(self, *_, **__):
        self._steps = iter([(GOOD, 1), (WORSE, 1), (GOOD, 3), (GOOD, UNITS)])

    def ask_run(self):
        return next(self._steps)

    def tell(self, trials):
        Scripted.told += trials

    def close(self):
        Scripted.closed += 1


def test_a_run_that_goes_on_pays_for_what_is_new_and_the_lowest_of_the_furthest_is_recommended(
    campaigns, monkeypatch
):
    monkeypatch.setattr(in_study, "PeerProcess", Scripted)
    Scripted.told, Scripted.closed = [], 0
    campaign = campaigns()
    rule: Any = SPENDING["smac_hyperband"].make(None, campaign)
    steps = [next(rule) for _ in range(4)]
    assert [s.spent for s in steps] == pytest.approx([1 / 9, 2 / 9, 4 / 9, 10 / 9])
    assert [s.tried for s in steps] == [1, 2, 2, 2]
    assert campaign.regret(steps[-1].chosen) == pytest.approx(0.1 / float(TASK.typical))
    assert [t.units for t in Scripted.told] == [1, 1, 3, UNITS]
    assert Scripted.told[0].values == GOOD and Scripted.told[1].loss > Scripted.told[0].loss
    rule.close()
    assert Scripted.closed == 1


def test_an_arm_of_a_peer_has_no_searcher_and_is_left_out_without_its_environment(monkeypatch):
    with pytest.raises(ValueError, match="searcher has no effect with rule=optuna_hyperband"):
        study(own={"rule": "optuna_hyperband", "searcher": "random"}).resolved()
    monkeypatch.setattr(in_study, "interpreter", lambda environment: None)
    both = study(whole={"searcher": "random"}, other={"rule": "neps_priorband"})
    found = available(both, lambda name: TASK)
    assert list(found.study.arms) == ["whole"]
    assert found.missing == [
        "the arm other needs an environment: sh experiments/comparison/peers/make_env.sh neps"
    ]


def test_a_list_of_recorded_configurations_is_refused(campaigns):
    class Pool:
        configs = np.zeros((1, 4), np.int32)

    listed = replace(TASK, benchmark=planted()._replace(pool=Pool()))
    with pytest.raises(ValueError, match="leave the rules of peers out"):
        task_of(campaigns(listed))


@pytest.mark.parametrize("name", list(catalogue.STOPPING_PEERS))
def test_a_real_peer_stops_most_runs_early_and_finds_what_is_better_than_usual(name, campaigns):
    if catalogue.interpreter(catalogue.STOPPING_PEERS[name].environment) is None:
        pytest.skip(f"no environment of {name}: sh experiments/comparison/peers/make_env.sh")
    campaign = campaigns()
    rule: Any = SPENDING[name].make(None, campaign)
    step = next(rule)
    assert step.spent == pytest.approx(1 / 9) or name == "neps_priorband"
    while step.spent < 8:
        step = next(rule)
    rule.close()
    assert step.tried > 1.5 * step.spent  # whole runs alone would have tried one for each
    assert campaign.regret(step.chosen) < 1.0
