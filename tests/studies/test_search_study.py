"""Studies of searches: measures against arithmetic, parts of a space against the whole, searchers on planted tasks."""

import dataclasses
import itertools

import numpy as np
import pytest

from autorank.benchmarks.base import Benchmark, ask_table
from autorank.benchmarks.nested import nested, planted_best
from autorank.recorded.pool import Pool
from autorank.studies.findings import ALL, findings
from autorank.studies.journal import Cell
from autorank.studies.run import jobs_of
from autorank.studies.search_measures import Searched, front_share, hypervolume, mean_regret, regret
from autorank.studies.search_study import SearchStudy
from autorank.studies.search_tasks import search_task
from tests.studies.planted import SPACE, benchmark, cut, found, linear

SMALL = {"hidden": (16,), "steps": 60, "rate": 0.01, "members": 2, "loss": "mse"}


def planted_task(name="linear", truth=linear, cost=lambda x: x[:, 3]):
    return search_task(benchmark(name, truth, cost))


TASK, NESTED = planted_task(), search_task(nested(0))


def test_regret_is_that_of_what_looks_best():
    true, seen = np.array([0.9, 0.1, np.nan, 0.4]), np.array([0.8, 0.5, np.nan, 0.2])
    search = Searched(true, true, seen, None)
    assert [regret(search, n) for n in (1, 2, 3, 4)] == [0.9, 0.1, 0.1, 0.4]
    assert mean_regret(search) == pytest.approx((0.9 + 0.1 + 0.1 + 0.4) / 4)
    assert regret(Searched(*np.full((3, 2), np.nan), None), 2) == 1.0


def test_hypervolume_is_the_dominated_share_of_a_grid():
    rng = np.random.default_rng(0)
    points = rng.uniform(-0.2, 1.3, (12, 2))
    points[3, 0] = np.nan
    centres = (np.arange(400) + 0.5) / 400
    q, c = np.meshgrid(centres, centres)
    dominated = np.any(
        [(a <= q) & (b <= c) for a, b in points[np.isfinite(points).all(axis=1)]], axis=0
    )
    assert hypervolume(*points.T) == pytest.approx(dominated.mean(), abs=0.01)
    task = TASK
    every = task.results(SPACE.enumerate(1296))
    assert front_share(Searched(every[:, 0], every[:, 1], every[:, 0], task)) == pytest.approx(1.0)
    assert every[:, 0].min() == 0 and np.median(every[:, 0]) == pytest.approx(1.0)


def test_a_part_of_a_space_has_its_first_decisions_free():
    task, part = NESTED, NESTED.part(3)
    assert part.space.cardinality() == 1000 and task.part(0) is task
    configs = part.space.enumerate(1000)
    baseline = np.array(task.space.baseline)
    full = np.tile(baseline, (1000, 1))
    full[:, :3] = list(itertools.product(range(10), repeat=3))
    mine = np.sort(part.results(configs)[:, 0])
    want = (ask_table(nested(0), full)[:, 0] - task.best) / (task.typical - task.best)
    assert np.allclose(mine, np.sort(want)) and mine[0] > 0.2
    assert task.results(planted_best(0)[None])[0, 0] == 0
    with pytest.raises(ValueError, match="decisions=21 is more than the 20"):
        task.refuse("study.arms.own", 21, 50)


def test_a_larger_space_holds_better_ones_at_the_same_budget(tmp_path):
    study = cut("space-size", ("random_1e3", "random_1e20"), "random_1e3")
    by = found(tmp_path, study, [NESTED], splits=10)
    # Enumerated: no configuration of the small space is better than this; 50 random ones of the large one are.
    floor = NESTED.part(3)
    least = floor.results(floor.space.enumerate(1000))[:, 0].min()
    assert least <= by["random_1e3", ALL, "regret_at_50"].mean < least + 0.2
    assert by["random_1e20", ALL, "regret_at_50"].difference.sign == -1
    assert by["random_1e20", ALL, "regret_at_50"].mean < least


def test_efficiency_study_finds_that_a_predictor_beats_chance(tmp_path):
    arms = ("random", "best_of_1e3")
    changes = {"trials": 50, "measures": ("regret_at_50", "mean_regret"), "predictor": SMALL}
    by = found(tmp_path, cut("search-efficiency", arms, "random", **changes), [TASK], splits=20)
    # Uniform draws without repeats: the expected best of 50 of the 1296.
    quality = np.sort(TASK.results(SPACE.enumerate(1296))[:, 0])
    drawn = [np.random.default_rng(s).permutation(1296)[:50].min() for s in range(2000)]
    assert abs(by["random", ALL, "regret_at_50"].mean - quality[drawn].mean()) < 0.08
    assert by["best_of_1e3", ALL, "regret_at_50"].difference.sign == -1
    assert by["best_of_1e3", ALL, "mean_regret"].difference.sign == -1
    assert by["best_of_1e3", ALL, "regret_at_50"].mean < 0.05


def test_candidates_study_finds_that_more_of_them_find_more(tmp_path):
    arms = ("best_of_1000", "best_of_1000000")
    changes = {"trials": 50, "measures": ("mean_regret",), "predictor": SMALL}
    study = cut("search-candidates", arms, "best_of_1000", **changes)
    # The planted space has 1296 configurations: 16 candidates are few, 2000 nearly all of them.
    numbers = zip(study.arms.items(), (16, 2000), strict=True)
    short = {
        name: arm | {"settings": arm["settings"] | {"candidates": n}} for (name, arm), n in numbers
    }
    by = found(tmp_path, dataclasses.replace(study, arms=short), [TASK], splits=8)
    assert by["best_of_1000000", ALL, "mean_regret"].difference.sign == -1


def test_reward_study_finds_that_a_weight_of_the_cost_costs_quality(tmp_path):
    """Quality and cost want opposite ends of the first decision."""
    task = planted_task("apart", lambda x: x @ [1, 0.3, 0.2, 0.1], lambda x: -3 * x[:, 0])
    changes = {"trials": 50, "measures": ("regret_at_50",), "predictor": SMALL}
    study = cut("reward", ("alpha_0", "alpha_0.6"), "alpha_0", **changes)
    # Random candidates stand for the policy, which takes longer to compile.
    more = {"maximiser": "random", "candidates": 1000}
    short = {name: {"settings": arm["settings"] | more} for name, arm in study.arms.items()}
    study = dataclasses.replace(study, arms=short)
    by = found(tmp_path, study, [task], splits=5)
    assert by["alpha_0", ALL, "regret_at_50"].mean < 0.05
    assert by["alpha_0.6", ALL, "regret_at_50"].difference.sign == 1


def test_ablation_study_tells_its_three_parts_apart():
    """Rows with planted effects of the three parts and of nothing else."""
    arms = tuple(
        f"{a}_{b}_{c}"
        for a in ("pairwise", "mse")
        for b in ("x10", "x1")
        for c in ("both", "alone")
    )
    study = cut("search-ablation", arms, "pairwise_x10_both", measures=("regret_at_50",))
    assert len({arm.searcher for arm in study.resolved().values()}) == 8
    rng, rows = np.random.default_rng(0), {}
    for seed in range(20):
        luck = rng.normal()  # of the seed, shared by all arms
        for arm in arms:
            planted = 0.3 * ("pairwise" in arm) - 0.2 * ("x10" in arm) + 0.01 * rng.normal()
            rows[Cell(arm, TASK.name, seed)] = {"regret_at_50": luck + planted}
    by = {f.arm: f.difference for f in findings(study, [TASK], 20, rows) if f.table == ALL}
    loss, members, tasks, _ = (by[words] for words in study.contrasts)
    assert loss.sign == 1 and abs(loss.mean - 0.3) < 0.01
    assert members.sign == -1 and abs(members.mean + 0.2) < 0.01
    assert abs(tasks.mean) < 0.01 and tasks.high - tasks.low < 0.02


def test_a_pool_is_searched_by_its_records():
    configs = SPACE.enumerate(1296)[::50]
    pool = Pool(SPACE, configs)

    def query(rows):
        found = configs[[pool.place(row) for row in rows]].sum(axis=1).astype(float)
        return np.stack([found, found], axis=1)

    task = search_task(Benchmark("planted", "pool", SPACE, {}, query, pool=pool))
    tried: set[int] = set()
    answered = task.answered(np.tile(configs[3], (3, 1)), tried)
    assert np.array_equal(answered[0], configs[3]) and len(tried) == 3
    with pytest.raises(ValueError, match="study.trials=50 are more than the 26 records"):
        task.refuse("study.arms.own", 0, 50)
    with pytest.raises(ValueError, match="has no meaning on planted/pool"):
        task.refuse("study.arms.own", 2, 20)


def test_arms_without_effect_or_meaning_are_refused():
    def resolve(**arm):
        return SearchStudy(arms={"own": arm}, reference="own").resolved()["own"]

    one = resolve(searcher="paper", settings={"maximiser": "random"}, predictor={"members": 3})
    assert one.searcher == "paper+maximiser=random+predictor.members=3"
    with pytest.raises(ValueError, match="study.arms.own: .*candidates=50 has no effect"):
        resolve(settings={"candidates": 50})
    with pytest.raises(ValueError, match="study.arms.own: predictor.members has no effect"):
        resolve(searcher="random", predictor={"members": 3})
    with pytest.raises(ValueError, match="study.arms.own.sercher is not a setting"):
        resolve(sercher="random")
    with pytest.raises(ValueError, match="study.measures: regret_at_75 needs more trials"):
        SearchStudy(trials=50, measures=("regret_at_75",))
    assert SearchStudy(trials=50).measures == (
        "regret_at_50",
        "regret_at_25",
        "mean_regret",
        "front_share",
    )
    study = SearchStudy(arms={"a": {}, "b": {"searcher": "random"}}, reference="a")
    assert len(jobs_of(study, [TASK], 2, {})) == 4
