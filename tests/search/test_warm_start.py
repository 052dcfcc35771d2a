"""What an earlier search leaves for the next one: translation, refusals, what is tried first, and what is copied."""

import json
from dataclasses import replace

import jax
import numpy as np
import pytest

from autorank.app.settings import PlanConfig, SearchConfig
from autorank.app.warm_start import copy_earlier, earlier_searches
from autorank.ledger.ledger import Ledger
from autorank.search.pilots import pilot_design
from autorank.search.warm_start import Wanted, described, in_brief, read_earlier, warm_of
from autorank.searchers.base import Context, Warm, tried_first
from autorank.searchers.evolution import EvolutionConfig
from autorank.searchers.known_cost import KnownCost
from autorank.searchers.random import RandomConfig
from autorank.space.space import Decision, Space
from tests.making import make_searcher

RATE = Decision("rate", (0.001, 0.01, 0.1), "number", True)
MODULE = Decision("module", ("dot", "cross", "none"))
EARLIER = Space((RATE, MODULE, Decision("depth", (1, 2))), (1, 0, 0))
# The module has another order and one choice less, the rate other numbers, the depth is gone, the width is new.
LATER = Space(
    (
        MODULE._replace(choices=("cross", "dot")),
        RATE._replace(choices=(0.001, 0.03, 0.1)),
        Decision("width", (8, 16)),
    ),
    (1, 0, 1),
)
OTHER = Space((Decision("other", (0, 1, 2)),), (0,))
WANTED = Wanted(LATER, "ctr", "best")
PLAN = {"search.metric": "ctr", "search.goal": "best"}


def ledger_of(folder, rows, plan=PLAN, space=EARLIER):
    """A ledger of trials ``(choices, label, log FLOPs ratio)``; a label of None is a failed trial."""
    identity = {"plan": json.dumps(plan)}
    with Ledger.open(folder / "trials.db", identity) as ledger:
        if space is not None:
            ledger.put("decisions", [d._asdict() for d in space.decisions])
            ledger.put("baseline", [int(v) for v in space.baseline])
        configs = [choices for choices, _, _ in rows]
        seeds = range(len(rows))
        for trial, (_, label, cost) in zip(
            ledger.propose("round", 0, configs, seeds=seeds, fidelity=1.0), rows, strict=True
        ):
            ledger.finish(trial.id, {"failed": "" if label is not None else "NaN"}, label, cost)
    return folder


ROWS = [
    ((0, 0, 0), -0.5, 0.0),  # dot, .001
    ((1, 1, 1), -0.2, 0.3),  # cross, .01: nearest to .03 on a log scale
    ((2, 1, 0), None, 0.1),  # failed
    ((2, 2, 0), -0.9, 0.2),  # the module "none" is not in the later space
    ((2, 0, 1), 0.4, -0.5),
    ((0, 1, 0), 0.1, -0.2),
]


def test_shared_decisions_are_translated_and_others_are_named(tmp_path):
    found = read_earlier(str(ledger_of(tmp_path / "a", ROWS)), WANTED, tmp_path / "own.db")
    assert found["trials"] == [
        [[1, 1, 1], 0.0, 0.0],  # the earlier baseline
        [[1, 0, 1], -0.5, 0.0],
        [[0, 1, 1], -0.2, 0.3],
        [[0, 2, 1], None, 0.1],
        [[1, 2, 1], 0.4, -0.5],
        [[0, 0, 1], 0.1, -0.2],
    ]
    assert found["left_out"] == 1
    assert found["not_searched_there"] == ["width"] and found["not_searched_here"] == ["depth"]
    assert described(found) == (
        f"5 trials of {tmp_path / 'a'}, 1 left out that this space cannot say; it did not vary width; this search "
        f"does not vary depth"
    )
    assert in_brief([found])[0]["trials"] == 6
    same = read_earlier(str(tmp_path / "a" / "trials.db"), WANTED, tmp_path / "own.db")
    assert same["digest"] == found["digest"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"plan": PLAN | {"search.metric": "cvr"}}, "went by search.metric=cvr, this search by"),
        ({"plan": PLAN | {"search.goal": "front"}}, "went by search.goal=front, this search by"),
        ({"space": None}, "does not say what it searched for"),
        ({"rows": ROWS[:4]}, "has 3 trials with a label"),
        (
            {"space": Space((Decision("other", (0, 1, 2)),) * 1, (0,)), "rows": [((0,), 0.1, 0.0)]},
            "and this search none",
        ),
    ],
)
def test_what_cannot_warm_a_search_is_refused_with_a_sentence(tmp_path, change, words):
    ledger_of(tmp_path / "a", **({"rows": ROWS} | change))
    with pytest.raises(ValueError, match=words):
        read_earlier(str(tmp_path / "a"), WANTED, tmp_path / "own.db")


def test_the_run_itself_and_nothing_are_refused(tmp_path):
    folder = ledger_of(tmp_path / "a", ROWS)
    with pytest.raises(ValueError, match="is this run itself"):
        read_earlier(str(folder), WANTED, folder / "trials.db")
    with pytest.raises(ValueError, match="there is no ledger; write a run's folder"):
        read_earlier(str(tmp_path / "b"), WANTED, tmp_path / "own.db")
    with pytest.raises(ValueError, match="write a run's folder, or a list of different ones"):
        PlanConfig(warm_start=["runs/a", "runs/a"])
    assert PlanConfig(warm_start="runs/a").warm_start == ("runs/a",)
    with pytest.raises(ValueError, match="no effect with searcher=random.*searcher=evolution"):
        SearchConfig(searcher=RandomConfig(), search=PlanConfig(warm_start="runs/a"))
    SearchConfig(searcher=EvolutionConfig(), search=PlanConfig(warm_start="runs/a"))


def test_a_running_search_keeps_what_it_read(tmp_path):
    folder = ledger_of(tmp_path / "a", ROWS)
    config = replace(SearchConfig(), search=PlanConfig(warm_start=str(folder)))
    own = tmp_path / "own"
    own.mkdir()
    before = earlier_searches(config, own, LATER)
    with Ledger.open(own / "trials.db", {}) as ledger:
        copy_earlier(ledger, before)
    with Ledger.open(folder / "trials.db", {"plan": json.dumps(PLAN)}) as ledger:
        (trial,) = ledger.propose("round", 1, [[0, 1, 1]], seeds=[9], fidelity=1.0)
        ledger.finish(trial.id, {"failed": ""}, -3.0, 0.0)
    assert earlier_searches(config, own, LATER) == before
    other = earlier_searches(config, tmp_path / "new", LATER)
    assert len(other[0]["trials"]) == 7 and other[0]["digest"] != before[0]["digest"]
    (folder / "trials.db").unlink()
    assert earlier_searches(config, own, LATER) == before


def records(*lists):
    return [{"trials": trials} for trials in lists]


def test_the_best_trials_come_first_and_two_ledgers_take_turns():
    one = [
        [[1, 0, 1], -0.5, 0.3],
        [[0, 1, 1], -0.2, 0.0],
        [[0, 2, 1], None, 0.0],
        [[0, 0, 1], 0.1, -1.0],
    ]
    two = [[[1, 0, 1], -9.0, 0.0], [[1, 0, 0], -8.0, 0.0], [[0, 0, 0], -7.0, 0.0]]
    warm = warm_of(records(one, two), LATER, num_first=3, goal="best")
    assert warm is not None and warm.configs.shape == (2, 64, 3)
    assert np.isfinite(warm.quality).sum(axis=1).tolist() == [3, 3]
    # [1, 0, 1] is the baseline, which every search trains anyway.
    assert warm.first.tolist() == [[0, 1, 1], [1, 0, 0], [0, 0, 1]]
    front = warm_of(records(one), LATER, num_first=2, goal="front")
    assert front is not None and front.first.tolist()[0] == [0, 0, 1]  # the cheapest of the front
    assert warm_of([], LATER, num_first=3, goal="best") is None


def test_earlier_trials_are_pilots_and_the_first_proposals_within_a_cap():
    space = Space(tuple(Decision(n, tuple(range(6)), "number") for n in "abcd"), (0, 0, 0, 0))
    first = np.array([[5, 5, 5, 5], [4, 4, 4, 4]], np.int32)
    key = jax.random.key(0)
    cold, warm = pilot_design(key, space, 8), pilot_design(key, space, 8, first=first)
    assert np.array_equal(warm[:4], cold[:4]) and np.array_equal(warm[4:6], first)
    below = pilot_design(key, space, 8, may=lambda c: c.sum(axis=1) < 18, first=first)
    assert first[0].tolist() not in below.tolist() and first[1].tolist() in below.tolist()
    history = Warm(first[None], np.zeros((1, 2), np.float32), first)
    searcher = make_searcher("evolution", space, capacity=16, batch_size=3, warm=history)
    proposal = searcher.ask(key, searcher.init(key))
    assert np.asarray(proposal.configs)[:2].tolist() == first.tolist()
    cost = KnownCost(lambda c: c.sum(axis=1) / 10.0, 2.0, lambda c: c.sum(axis=1) < 18)
    context = Context(16, cost=cost, warm=history)
    assert np.asarray(tried_first(context, space)).tolist() == [[4, 4, 4, 4]]
