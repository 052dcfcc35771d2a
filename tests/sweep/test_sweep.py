"""Proposals as a function of the ledger: pending trials, order of arrival, interruption, readings of results."""

import functools
import json
import math
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from autorank.base.result import Result, read_result
from autorank.ledger.ledger import Ledger
from autorank.searchers.base import append, empty
from autorank.searchers.named import named_searcher
from autorank.searchers.pending import ask_with_pending, impute
from autorank.space.parse import parse_space
from autorank.surrogates.predictor import ensemble
from autorank.sweep.ask_batch import rotated
from autorank.sweep.replay import replay
from autorank.sweep.rules import SweepRules, SweepStopped
from autorank.sweep.sweep import Sweep
from autorank.sweep.units import Units
from tests.ledger import format_1
from tests.making import make_searcher

ROOT = Path(__file__).resolve().parents[2]
SPACE = parse_space(
    {"depth": "choice(1,2,3,4,5)", "kind": "choice(a,b,c)", "rate": "tag(log, interval(1e-4, 1))"},
    {},
    {"depth": 3, "kind": "a", "rate": 1e-2},
    grid_size=9,
)
SEARCHERS = ("random", "evolution", "reinforce", "predictor")
_MADE: dict = {}


def make(name: str):
    def made(batch_size: int, capacity: int):
        if name == "predictor":  # as `named_searcher` makes it, but small
            predictor = ensemble(
                SPACE.num_features, capacity=capacity, members=2, hidden=(8,), steps=30, rate=1e-2
            )
            return make_searcher(
                "paper",
                SPACE,
                predictor=predictor,
                batch_size=batch_size,
                capacity=capacity,
                initial=8,
                num_local=3,
                steps=20,
                samples=8,
                alphas=(0.0,),
            )
        return named_searcher(
            name, SPACE, capacity=capacity, batch_size=batch_size, initial=10, alpha=0.0
        )

    # Compiled once for all tests.
    key = (name, SPACE.fingerprint())
    return _MADE.setdefault(key, functools.cache(made))


def result_of(trial) -> Result:
    v = SPACE.decode(np.array(trial.config))
    if v["depth"] == 5 and v["kind"] == "c":
        return Result(None, None, "out of memory")
    quality = abs(v["depth"] - 2) + (v["kind"] != "b") + abs(math.log10(v["rate"]) + 3)
    return Result(quality, 10.0 * v["depth"])


def rows(ledger):
    return [
        (t.id, t.round, t.config, t.status, t.quality, json.dumps(t.predicted))
        for t in ledger.trials()
    ]


def in_rounds(path, name, trials, order=None, stop_after=None, size=6):
    """Runs in rounds; ``order`` shuffles arrivals within a round; stops (as a kill does) after some results."""
    rng = np.random.default_rng(order) if order is not None else None
    done = 0
    with Ledger.open(path, {"a": "b"}) as ledger:
        sweep = Sweep(
            SPACE,
            make(name),
            ledger,
            SweepRules(trials, max_failure_rate=1.0, roles=name == "predictor"),
        )
        while True:
            waiting = sweep.waiting() or sweep.propose(size)
            if not waiting:
                return rows(ledger)
            if rng is not None:
                rng.shuffle(waiting)
            for trial in waiting:
                if stop_after is not None and done == stop_after:
                    return None
                sweep.finish(trial, result_of(trial))
                done += 1


@pytest.mark.parametrize("name", SEARCHERS)
def test_interrupted_and_in_any_order_equals_uninterrupted(name, tmp_path):
    whole = in_rounds(tmp_path / "whole.db", name, 24)
    assert {r[3] for r in whole} == {"finished", "failed"} or name != "random"
    for stop in (0, 3, 6, 7, 8):  # again and again on one ledger: inside rounds and between them
        in_rounds(tmp_path / "parts.db", name, 24, order=stop, stop_after=stop)
    assert in_rounds(tmp_path / "parts.db", name, 24, order=9) == whole
    configs = [r[2] for r in whole]
    assert configs[0] == SPACE.baseline
    assert len(set(configs)) == len(configs)


@pytest.mark.parametrize("name", SEARCHERS)
def test_in_flight_never_proposes_what_is_running_and_can_be_replayed(name, tmp_path):
    rng = np.random.default_rng(7)
    size = 8 if name == "predictor" else 1
    rules = SweepRules(20, max_failure_rate=1.0, batch_size=size, roles=size > 1)
    with Ledger.open(tmp_path / "t.db", {}) as ledger:
        sweep = Sweep(SPACE, make(name), ledger, rules)
        sweep.propose(4)
        while sweep.waiting():
            trial = sweep.waiting()[rng.integers(len(sweep.waiting()))]
            sweep.finish(trial, result_of(trial))
            sweep.propose(1)
        assert len(sweep.trials()) == 20
        assert len({t.config for t in sweep.trials()}) == 20
        assert replay(SPACE, make(name), ledger, rules) == []
        # The check can fail: another seed proposes something else.
        assert replay(SPACE, make(name), ledger, rules._replace(seed=1))


def test_a_kill_between_the_ask_and_its_proposals_changes_nothing(tmp_path):
    whole = in_rounds(tmp_path / "whole.db", "evolution", 24)
    in_rounds(tmp_path / "cut.db", "evolution", 24, stop_after=6)
    with Ledger.open(tmp_path / "cut.db", {"a": "b"}) as ledger:
        sweep = Sweep(SPACE, make("evolution"), ledger, SweepRules(24, max_failure_rate=1.0))
        for trial in sweep.waiting():
            sweep.finish(trial, result_of(trial))
        ledger.propose, kept = None, ledger.propose  # type: ignore[method-assign]
        with pytest.raises(TypeError):
            sweep.propose(6)
        ledger.propose = kept  # type: ignore[method-assign]
    assert in_rounds(tmp_path / "cut.db", "evolution", 24) == whole


def test_a_sweep_of_an_older_version_goes_on_in_its_migrated_ledger(tmp_path):
    whole = in_rounds(tmp_path / "whole.db", "evolution", 24)
    in_rounds(tmp_path / "old.db", "evolution", 24, stop_after=8)
    format_1.downgrade(tmp_path / "old.db")
    assert in_rounds(tmp_path / "old.db", "evolution", 24) == whole
    rules = SweepRules(24, max_failure_rate=1.0)
    format_1.downgrade(tmp_path / "old.db")
    with Ledger.read(tmp_path / "old.db") as ledger:
        assert replay(SPACE, make("evolution"), ledger, rules) == []


def test_proposals_do_not_depend_on_the_hash_seed():
    program = (
        "import tests.sweep.test_sweep as t, tempfile, pathlib\n"
        "print(t.in_rounds(pathlib.Path(tempfile.mkdtemp()) / 'a.db', 'evolution', 24))"
    )
    found = set()
    for seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", program],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=300,
            env={**__import__("os").environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)},
        )
        assert done.returncode == 0, done.stderr
        found.add(done.stdout)
    assert len(found) == 1


def test_imputed_outcomes():
    history = append(
        empty(SPACE, 8), np.zeros((3, 3), np.int32), np.array([[1, 0], [3, 2], [np.nan, 5]])
    )
    found = impute(history, np.array([[np.nan, np.nan], [7, np.nan], [0.5, 0.25]]))
    np.testing.assert_allclose(found, [[2, 1], [7, 1], [0.5, 0.25]])
    nothing = impute(empty(SPACE, 8), np.full((1, 2), np.nan))
    np.testing.assert_array_equal(nothing, [[0, 0]])


def test_asking_with_pending_trials_leaves_the_state_alone():
    s = make("reinforce")(8, 128)
    state = s.init(jax.random.key(0))
    pending = np.asarray(SPACE.sample(jax.random.key(1), 5))
    key = jax.random.key(2)
    ask_with_pending(jax.jit(s.ask), jax.jit(s.tell), key, state, pending, np.zeros((5, 2)))
    ask = jax.jit(s.ask)
    again, fresh = ask(key, state), ask(key, s.init(jax.random.key(0)))
    np.testing.assert_array_equal(again.configs, fresh.configs)


def test_a_small_space_is_run_through_in_order(tmp_path):
    space = parse_space(
        {"a": "choice(1,2)", "b": "choice(x,y,z)"}, {}, {"a": 1, "b": "x"}, grid_size=2
    )
    with Ledger.open(tmp_path / "t.db", {}) as ledger:
        sweep = Sweep(space, None, ledger, SweepRules(100, in_order=True))
        found = [t.config for t in sweep.propose(4) + sweep.propose(4)]
        assert found == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]
        assert sweep.propose(4) == []


def test_more_trials_than_the_space_has_run_what_is_left_of_it(tmp_path):
    """A searcher's sweep that is continued with so many trials that all are run; replayed in both parts."""
    space = parse_space(
        {"a": "choice(1,2)", "b": "choice(x,y,z)"}, {}, {"a": 2, "b": "x"}, grid_size=2
    )

    def made(batch_size, capacity):
        return named_searcher(
            "random", space, capacity=capacity, batch_size=batch_size, initial=None, alpha=0.0
        )

    with Ledger.open(tmp_path / "t.db", {}) as ledger:
        for trial in Sweep(space, made, ledger, SweepRules(3)).propose(3):
            ledger.finish(trial.id, {"failed": ""}, 1.0, None)
        later = Sweep(space, made, ledger, SweepRules(100, in_order=True))
        assert len(later.propose(2)) == 2 and len(later.propose(8)) == 1
        configs = [t.config for t in later.trials()]
        assert sorted(configs) == [(a, b) for a in range(2) for b in range(3)]
        assert replay(space, made, ledger, SweepRules(100, in_order=True)) == []


def test_predictions_are_kept_in_the_jobs_units():
    """What a pending trial was predicted to give must not change with the scale of what is told."""
    early = Units.of([1.0, 3.0], 10.0, maximize=True)
    late = Units.of([1.0, 3.0, 100.0, 200.0, 400.0], 20.0, maximize=True)
    own = early.own(np.array([[0.5, 0.0], [np.nan, np.nan]]))
    np.testing.assert_allclose(own[0], [1.5, 10.0])
    assert np.isnan(own[1]).all()
    again = late.told(own[:, 0], own[:, 1])
    np.testing.assert_allclose(late.own(again), own)
    assert again[0, 0] > 0.4  # poor by now, where it was usual before
    same = Units.of([5.0, 5.0], 1.0, maximize=False)
    assert same.spread == 5.0 and Units.of([], 1.0, maximize=False) == Units()
    huge = Units.of([-1.7e308, 1.7e308], 1.0, maximize=False)
    assert np.isfinite(huge.told([1.7e308], [1.0])).all()


@pytest.mark.parametrize(
    ("value", "quality", "cost"),
    [
        (1, 1, None),
        (0.5, 0.5, None),
        (np.float32(2), 2, None),
        ((1, 3), 1, 3),
        ([1.0, np.int64(3)], 1, 3),
        (np.array([1.0, 2.0]), 1, 2),
        (jax.numpy.float32(4), 4, None),
        ((2.5,), 2.5, None),
    ],
)
def test_results_that_can_be_read(value, quality, cost):
    assert read_result(value) == Result(quality, cost)


class _Rude:
    def __repr__(self):
        raise RuntimeError("no")


@pytest.mark.parametrize(
    "value",
    [
        None,
        "0.5",
        True,
        math.nan,
        math.inf,
        -math.inf,
        (1, 0),
        (1, -2),
        (1, math.nan),
        (1, 2, 3),
        (),
        {"loss": 1},
        10**400,
        object(),
        _Rude(),
        np.zeros((2, 2)),
        ((1, 2), 3),
    ],
    ids=lambda v: type(v).__name__,
)
def test_rubbish_is_a_failed_trial_with_a_reason(value):
    found = read_result(value)
    assert found.quality is None and found.failed.startswith("returned ")


def test_too_many_failures_stop_with_advice_and_rare_ones_do_not(tmp_path):
    rules = SweepRules(40, max_failure_rate=0.5)
    with Ledger.open(tmp_path / "t.db", {}) as ledger:
        sweep = Sweep(SPACE, make("random"), ledger, rules)
        trials = sweep.propose(8) + sweep.propose(8)
        for trial in trials[:5]:  # all of the first five: half of the least evidence
            sweep.finish(trial, Result(None, None, "boom"))
        for trial in trials[5:10]:
            sweep.finish(trial, Result(1.0, None))
        with pytest.raises(SweepStopped, match="6 of 11 trials failed.*boom.*max_failure_rate"):
            sweep.finish(trials[10], Result(None, None, "boom"))


def test_units_do_not_matter_and_the_cap_ranks_dear_trials_last(tmp_path):
    told = []
    for scale, path in ((1.0, "a.db"), (1e9, "b.db")):
        with Ledger.open(tmp_path / path, {}) as ledger:
            sweep = Sweep(SPACE, make("random"), ledger, SweepRules(8, cost_cap=1.5))
            for i, trial in enumerate(sweep.propose(8)):
                sweep.finish(trial, Result(scale * (10.0 - i), scale * (1.0 + i % 3)))
            told.append(sweep.readings.told(sweep.trials()))
            best = sweep.best()
            assert (
                best is not None and best.id == 7
            )  # trial 8 is better but costs twice the baseline
    np.testing.assert_allclose(told[0], told[1], rtol=1e-5)
    dear = told[0][:, 1] > math.log(1.5)
    assert told[0][dear, 0].min() > told[0][~dear, 0].max()


def test_a_few_of_an_ask_keep_the_mixture():
    none = np.zeros(4, bool)
    assert [rotated(4, i, 1, none)[0] for i in range(6)] == [0, 1, 2, 3, 0, 1]
    assert rotated(4, 3, 3, none) == [3, 0, 1]
    assert rotated(4, 0, 2, np.array([True, False, False, False])) == [1, 2]
