"""Studies at equal training: what each rule of spending costs by hand, whom it lets go on, and what is refused."""

import dataclasses
from types import SimpleNamespace as Made
from typing import Any

import jax
import numpy as np
import pytest

from autorank.benchmarks.base import Benchmark
from autorank.searchers.base import Searcher
from autorank.studies.campaign import Campaign
from autorank.studies.cost_study import CostStudy, cost_subject
from autorank.studies.findings import ALL
from autorank.studies.search_tasks import search_task
from autorank.studies.searcher_programs import SearcherPrograms
from autorank.studies.spending import SPENDING
from tests.studies.planted import benchmark, found, linear

WINDOWS = 10


def planted() -> Benchmark:
    """Losses fall along ten windows by as much for all, so that any share of the training has the final order."""
    base = benchmark("falling", linear)

    def windows(rows):
        ends = base.query(rows)[:, 0]
        return ends[:, None] + np.linspace(1.0, 0.0, WINDOWS)[None]

    return base._replace(windows=windows)


TASK = search_task(planted())


def study(noise=0.0, **arms) -> CostStudy:
    return CostStudy(
        records=("planted/falling",),
        arms=arms,
        reference=next(iter(arms)),
        tail=0.01,
        batch=9,
        noise=noise,
    )


class Drawn:
    """A searcher that proposes the rows of a list, and remembers what it is told."""

    def __init__(self, configs):
        self._configs, self.told = configs, []

    def campaign(self) -> Campaign:
        history = Made(count=0, configs=np.zeros((10_000, 4)))
        state = Made(history=history)

        def ask(key, _):
            mine, self._configs = self._configs[:9], self._configs[9:]
            return Made(configs=mine)

        def tell(state, configs, metrics):
            self.told += [(tuple(c), float(m)) for c, m in zip(configs, metrics[:, 0], strict=True)]
            history.count = len(self.told)
            return state

        def judge(state):
            return np.array([label for _, label in self.told])

        searcher: Any = Searcher(lambda key: state, ask, tell, judge)
        programs = SearcherPrograms(searcher, ask, tell, judge)
        return Campaign(TASK, programs, jax.random.key(0), np.random.default_rng(0), 0.0, 0.01)


def spending(rule, configs, rounds, **arm):
    drawn = Drawn(np.array(configs, np.int32))
    campaign = drawn.campaign()
    arm |= {} if rule == "freeze_thaw" else {"searcher": "random"}
    own = study(own={"rule": rule} | arm).resolved()["own"]
    steps = SPENDING[rule].make(own, campaign)
    return [next(steps) for _ in range(rounds)], campaign, drawn


ORDERED = [(5, 4, i, j) for i in range(6) for j in range(6)]  # all worse than those of NINE but one
NINE = [(0, 0, 0, i) for i in (3, 1, 2, 4, 5)] + [
    (0, 0, 1, 0),
    (0, 1, 0, 0),
    (1, 0, 0, 0),
    (5, 5, 5, 5),
]


def test_whole_runs_cost_one_each_and_the_lowest_is_recommended():
    (step,), campaign, _ = spending("fixed", NINE, 1)
    assert step.spent == 9.0 and step.tried == 9 and tuple(step.chosen) == (0, 0, 0, 1)
    assert campaign.regret(step.chosen) == pytest.approx(0.1 / float(TASK.typical))


def test_a_share_for_all_pays_for_the_ends_of_three():
    (step,), campaign, _ = spending("fixed", NINE, 1, fraction=0.3)
    assert step.spent == pytest.approx(9 * 0.3 + 3 * 0.7) and campaign.spent == pytest.approx(2.7)
    assert tuple(step.chosen) == (0, 0, 0, 1)


def test_halving_lets_one_in_eta_go_on():
    (step,), campaign, drawn = spending("halving", NINE, 1, round=9)
    # Nine at .1, three to .3, one to the end.
    assert step.spent == campaign.spent == pytest.approx(0.9 + 3 * 0.2 + 0.7)
    assert tuple(step.chosen) == (0, 0, 0, 1) and len(drawn.told) == 9


def test_hyperbands_brackets_begin_at_each_rung():
    steps, campaign, _ = spending("hyperband", NINE + ORDERED, 3)
    sizes = np.diff([0, *(s.tried for s in steps)])
    assert sizes.tolist() == [9, 5, 3]
    costs = np.diff([0.0, *(s.spent for s in steps)])
    assert costs == pytest.approx([0.9 + 3 * 0.2 + 0.7, 5 * 0.3 + 0.7, 3.0])
    assert tuple(steps[-1].chosen) == (0, 0, 0, 1)


def test_asha_promotes_what_is_among_the_best_third_of_its_rung():
    steps, campaign, _ = spending("asha", NINE + ORDERED, 2)
    assert steps[0].spent == pytest.approx(0.9)
    # Of the second round's nine places three go to the best of the first, six to new ones.
    assert steps[1].spent == pytest.approx(0.9 + 3 * 0.2 + 6 * 0.1) and steps[1].tried == 15
    assert tuple(steps[1].chosen) == (0, 0, 0, 1)


def test_freeze_thaw_is_told_of_rungs_and_recommends_what_ended():
    asked = (
        [(*c, 0) for c in NINE]
        + [(*NINE[0], 1), (*NINE[1], 1)]
        + [(5, 0, i % 2, i // 2, 0) for i in range(7)]
    )
    asked += (
        [(*NINE[0], 2)] + [(5, 1, 0, i, 0) for i in range(6)] + [(5, 1, 1, i, 0) for i in range(2)]
    )
    steps, campaign, drawn = spending("freeze_thaw", asked, 3)
    spent = np.diff([0.0, *(s.spent for s in steps)])
    assert spent == pytest.approx([0.9, 2 * 0.2 + 7 * 0.1, 0.7 + 8 * 0.1])
    assert tuple(steps[1].chosen) == (0, 0, 0, 1)  # nothing has ended: the lowest of all
    assert tuple(steps[2].chosen) == NINE[0]  # the only one that has
    assert drawn.told[9][0] == (*NINE[0], 1)
    assert steps[2].tried == 9 + 7 + 8


def test_arms_that_differ_in_their_budget_share_a_search_and_a_larger_one_is_no_worse(tmp_path):
    own = study(
        small={"searcher": "random", "budget": 9.0},
        large={"searcher": "random", "budget": 36.0},
        half={"searcher": "random", "rule": "halving", "round": 9, "budget": 9.0},
    )
    own = dataclasses.replace(own, measures=("regret", "tried", "spent"))
    arms = own.resolved()
    assert arms["small"].fit == arms["large"].fit != arms["half"].fit
    by = found(tmp_path, own, [TASK], splits=2)
    for name, budget in (("small", 9.0), ("large", 36.0), ("half", 9.0)):
        assert by[name, ALL, "spent"].mean <= budget + 1e-9
    assert by["small", ALL, "tried"].mean == 9 and by["large", ALL, "tried"].mean == 36
    assert by["large", ALL, "regret"].mean <= by["small", ALL, "regret"].mean


def test_luck_is_a_runs_own_at_all_of_its_rungs():
    campaign = Drawn(np.array(NINE)).campaign()
    campaign.noise = 0.5
    config = np.array(NINE[0], np.int32)
    apart = campaign.label(config, 0.3) - campaign.label(config, 1.0)
    assert apart == pytest.approx(0.0, abs=1e-9)  # falls like the baseline's curve
    other = np.array(NINE[1], np.int32)
    true = campaign.regret(config) - campaign.regret(other)
    assert abs(campaign.label(config, 1.0) - campaign.label(other, 1.0) - true) > 1e-3


@pytest.mark.parametrize(
    ("arm", "words"),
    [
        (
            {"rule": "freeze_thaw", "searcher": "random"},
            "needs a searcher that decides what goes on",
        ),
        ({"rule": "fixed", "eta": 2.0}, r"eta has no effect with rule=fixed"),
        ({"rule": "halving", "rungs": [0.1, 0.5]}, "must end with 1.0"),
        ({"rule": "haling"}, "haling"),
        ({"budget": 0.0}, "budget"),
        ({"searcher": "nobody"}, "nobody"),
        ({"speed": 1}, "speed is not a setting"),
    ],
)
def test_bad_arms_are_refused(arm, words):
    with pytest.raises(ValueError, match=words):
        study(own=arm).resolved()


def test_a_task_without_curves_is_refused():
    bare = search_task(benchmark("bare", linear))
    subject = cost_subject(study(own={}))
    with pytest.raises(ValueError, match="has no curves"):
        subject.check([bare])
