"""Successive halving on a table whose order is the same at every rung: who goes on, what is ranked, what it costs."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from autorank.app.mirror import search_values
from autorank.fidelity.fidelity import successive_halving, total_cost
from autorank.fidelity.rules import FIDELITIES, HalvingConfig
from autorank.ledger import rungs
from autorank.ledger.errors import LedgerMismatch
from autorank.ledger.ledger import Ledger
from autorank.ledger.run_folder import labelled, read_run, told
from autorank.objectives.base import Objective
from autorank.objectives.table import table_objective
from autorank.report.page import write_report
from autorank.search.budget import Budget
from autorank.search.meter import Event
from autorank.search.run import run
from autorank.searchers.base import Searcher
from autorank.space.parse import parse_space
from tests.ledger import format_1
from tests.making import make_searcher
from tests.search.stopping import Stop, stopping_after

SPACE = parse_space(
    {"width": f"choice({','.join(map(str, range(100)))})", "depth": "choice(1,2)"},
    {},
    {"width": 0, "depth": 1},
    grid_size=8,
)
NUM_WINDOWS, NUM_ROWS, TRIALS, BATCH = 20, 1000, 60, 20
RUNGS = (0.2, 0.5, 1.0)
HALVING = HalvingConfig(rungs=RUNGS, eta=3.0)
ALL = np.array([(w, d) for w in range(100) for d in range(2)], np.int32)


def gain_of(config) -> float:
    """Percent against the baseline at the end of the log; no two alike."""
    w, d = map(int, config)
    return 0.0 if (w, d) == (0, 0) else ((37 * w + 50 * d) % 100) / 12.0 - 5.5 + 0.01 * d


def table() -> Objective:
    """Gains grow along the log: at a fifth of it they are half of the final ones, and in the same order."""
    share = np.linspace(0.5, 1.0, NUM_WINDOWS)
    curves = np.array([0.9 * (1 + gain_of(c) * share / 100) for c in ALL])[:, :, None]
    flops = 1.0 + ALL[:, 0] / 100.0
    return table_objective("table", ALL, curves, flops, metrics=("ctr",), num_rows=NUM_ROWS)


TABLE = table()
SEARCHER = make_searcher("random", SPACE, batch_size=BATCH, capacity=64)


def search(folder, *, objective=TABLE, fidelity=HALVING, pilots=0, searcher=SEARCHER, events=None):
    folder.mkdir(exist_ok=True)
    budget = Budget(TRIALS, 0, "ctr", pilots, BATCH, 2, 2, 3, 0.9)
    with Ledger.open(folder / "trials.db", {"data": "table"}) as ledger:
        ledger.put("decisions", [d._asdict() for d in SPACE.decisions])
        ledger.put("baseline", [0, 0])
        return run(
            objective,
            SPACE,
            searcher,
            ledger,
            budget,
            FIDELITIES[fidelity.kind].make(fidelity, 0),
            None,
            (events if events is not None else []).append,
        )


def stage(folder, *names):
    with Ledger.read(folder / "trials.db") as ledger:
        return [t for t in ledger.trials() if t.stage in names]


def lowest(trials) -> float:
    return min(t.quality for t in trials)


def content(folder):
    return [
        (
            t.stage,
            t.round,
            t.rung,
            t.position,
            t.config,
            t.fidelity,
            t.quality,
            json.dumps(t.outcome),
        )
        for t in stage(folder, "seed_noise", "pilot", "round", "promotion", "final")
    ]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder, events = tmp_path_factory.mktemp("halving"), []
    return folder, search(folder, events=events), events


def test_a_round_goes_20_6_2(whole):
    rows = stage(whole[0], "round", "promotion")
    for number in range(3):
        batches = [[t for t in rows if (t.stage, t.round) == ("round", number)]] + [
            [t for t in rows if (t.stage, t.round, t.rung) == ("promotion", number, level)]
            for level in (1, 2)
        ]
        assert [len(b) for b in batches] == [20, 6, 2]
        for below, above, share in zip(batches, batches[1:], (6, 2), strict=False):
            best = sorted(below, key=lambda t: gain_of(t.config))[:share]
            assert [t.config for t in above] == [t.config for t in best]


def test_finalists_are_the_best_that_were_trained_fully(whole):
    folder, summary, _ = whole
    full = [t for t in stage(folder, "promotion") if t.fidelity == 1.0]
    best = min(stage(folder, "round"), key=lambda t: gain_of(t.config)).config
    finals = {t.config for t in stage(folder, "final")}
    assert best in {t.config for t in full} and best in finals
    assert gain_of(summary["winner"]["choices"]) == gain_of(best) < -5
    assert finals <= {t.config for t in full}
    assert {tuple(p["config"].values()) for p in summary["front"]} <= {
        tuple(SPACE.decode(np.array(t.config)).values()) for t in full
    }
    for point in summary["front"]:
        (one,) = [t for t in full if math.isclose(t.quality or 0.0, point["quality"])]
        assert SPACE.decode(np.array(one.config)) == point["config"]


def test_the_cost_is_total_cost(whole):
    folder, summary, _ = whole
    schedule = successive_halving(RUNGS, eta=3.0)
    extra = NUM_ROWS * len(stage(folder, "seed_noise", "final", "confirmation"))
    expected = total_cost(schedule, TRIALS, NUM_ROWS, batch_size=BATCH)
    assert expected == pytest.approx(NUM_ROWS * 3 * (20 * 0.2 + 6 * 0.3 + 2 * 0.5))
    assert summary["trained_examples"] == pytest.approx(expected + extra)


def test_pilots_are_ranked_at_the_rung_of_what_they_are_compared_with(tmp_path):
    """The baseline's pilots see the whole log; each label that is compared is of one rung."""
    fidelity = replace(HALVING, num_pilots=20)
    seen = []
    searcher = recorded(seen)
    summary = search(tmp_path, fidelity=fidelity, pilots=20, searcher=searcher)
    schedule = successive_halving(RUNGS, eta=3.0)
    extra = NUM_ROWS * len(stage(tmp_path, "seed_noise", "final", "confirmation"))
    cost = total_cost(schedule, TRIALS - 20, NUM_ROWS, num_pilots=20, batch_size=BATCH)
    assert summary["trained_examples"] == pytest.approx(cost + extra)
    # All labels that the searcher is told are those of the first rung.
    at_first = np.linspace(0.5, 1.0, NUM_WINDOWS)[3]
    for configs, metrics in seen:
        for config, told_ in zip(configs, metrics[:, 0], strict=True):
            assert told_ == pytest.approx(gain_of(config) * at_first, abs=1e-5)
    assert sum(len(configs) for configs, _ in seen) == TRIALS + 1
    # Those of the front and of the finalists are of the last.
    at_last = np.linspace(0.5, 1.0, NUM_WINDOWS)[15:].mean()
    for point in summary["front"]:
        config = [
            SPACE.decisions[0].choices.index(point["config"]["width"]),
            point["config"]["depth"] - 1,
        ]
        assert point["quality"] == pytest.approx(gain_of(config) * at_last)
    run_ = read_run(tmp_path)
    assert len(told(run_)) == TRIALS and len(labelled(run_)) == 20 + 2 * 2
    assert lowest(labelled(run_)) == min(p["quality"] for p in summary["front"])
    write_report(tmp_path)


def recorded(seen):
    """Random search that notes what it is told."""
    import jax

    def tell(state, configs, metrics):
        jax.debug.callback(lambda c, m: seen.append((np.array(c), np.array(m))), configs, metrics)
        return SEARCHER.tell(state, configs, metrics)

    return Searcher(SEARCHER.init, SEARCHER.ask, tell)


def test_best_so_far_is_of_one_rung(whole):
    folder, _, events = whole
    ends = [e for e in events if isinstance(e, Event) and e.stage == "final"]
    full = [t for t in stage(folder, "promotion") if t.fidelity == 1.0]
    assert {e.best for e in ends} == {lowest(full)}
    assert all(0 <= e.done_share <= 1 for e in events)
    rows = stage(folder, "round", "promotion")
    first = [t for t in rows if t.round == 0 and t.stage == "round"]
    assert rungs.best(first, []) == lowest(first)
    second = [*first, *(t for t in rows if (t.stage, t.round, t.rung) == ("promotion", 0, 1))]
    assert rungs.best(second, []) == lowest(t for t in second if t.fidelity == 0.5)
    assert search_values(first, [])["search/best_ne_gain_percent"] == lowest(first)


def test_a_trial_that_fails_on_its_way_up_is_told_as_failed_and_never_ranked(tmp_path):
    def evaluate(configs, seeds, fidelity):
        for i, outcome in TABLE.evaluate(configs, seeds, fidelity):
            bad = fidelity == 0.5 and gain_of(configs[i]) < -5
            yield i, outcome._replace(failed="out of memory") if bad else outcome

    seen = []
    summary = search(tmp_path, objective=TABLE._replace(evaluate=evaluate), searcher=recorded(seen))
    failed = {t.config for t in stage(tmp_path, "promotion") if t.status == "failed"}
    assert failed and summary["num_failed"] == len(failed)
    told_ = {
        tuple(c): m for configs, metrics in seen for c, m in zip(configs, metrics, strict=True)
    }
    assert all(np.isnan(told_[c][0]) for c in failed)
    assert not failed & {t.config for t in stage(tmp_path, "final")}
    assert gain_of(summary["winner"]["choices"]) >= -5


def test_resumed_after_any_trial_is_the_same(whole, tmp_path):
    rng = np.random.default_rng(0)
    for _ in range(100):
        try:
            search(tmp_path, objective=stopping_after(TABLE, int(rng.integers(1, 12))))
            break
        except Stop:
            continue
    assert content(tmp_path) == content(whole[0])


def test_a_search_that_an_older_version_left_in_mid_promotion_goes_on(whole, tmp_path):
    """Its ledger had no column for the rung: it is migrated, and the end is the same."""
    outcomes = 2 + 20 + 3  # the baseline's two, the first round, half of its six promotions
    with pytest.raises(Stop):
        search(tmp_path, objective=stopping_after(TABLE, outcomes))
    format_1.downgrade(tmp_path / "trials.db")
    waiting = [t for t in stage(tmp_path, "promotion") if t.status == "proposed"]
    assert [(t.round, t.rung) for t in waiting] == [(0, 1)] * 3
    search(tmp_path)
    assert content(tmp_path) == content(whole[0])


def test_a_ledger_whose_promotions_were_decided_otherwise_is_refused(tmp_path):
    """Earlier versions promoted six of the twenty to every rung and told the searcher labels of all rungs."""
    with Ledger.open(tmp_path / "trials.db", {"data": "table"}) as ledger:
        for name, rung, configs, fidelity in (
            ("seed_noise", 0, [(0, 0), (0, 0)], 1.0),
            ("round", 0, ALL[1:21], 0.2),
            ("promotion", 1, ALL[1:7], 0.5),
            ("promotion", 2, ALL[1:7], 1.0),
        ):
            rows = ledger.propose(name, 0, configs, range(len(configs)), fidelity, rung=rung)
            for trial, (_, outcome) in zip(
                rows, TABLE.evaluate(np.array(configs), [0] * len(rows), fidelity), strict=True
            ):
                ledger.finish(trial.id, outcome._asdict() | {"curve": outcome.curve}, -1.0, 0.0)
    before = content(tmp_path)
    with pytest.raises(LedgerMismatch, match=r"promoted by an older version.*fresh=true"):
        search(tmp_path)
    assert content(tmp_path) == before
