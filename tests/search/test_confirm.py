"""Which seeds decide: none has two uses; a search among equal models gains nothing; seeds are added as needed."""

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest

from autorank.base.metrics import auc, ne_gain_percent
from autorank.base.programs import ProgramStats
from autorank.base.scored_rows import grouped_auc
from autorank.ledger.ledger import Ledger
from autorank.ledger.trial import Trial
from autorank.objectives.base import Objective, Outcome
from autorank.search.baseline import measure_baseline
from autorank.search.budget import Budget
from autorank.search.checks import refuse_finished_by_earlier_version
from autorank.search.confirm import confirm, equal_ne_tests, nearest_miss
from autorank.search.context import Context, SearchStopped
from autorank.search.finals import Finals, choose_roles, pick_finalists, run_finals
from autorank.search.held_out import run_test, score
from autorank.search.speed import REPEATS, measure
from autorank.search.survival import equal_ne, finalists, label_luck, luck_sign, power

BASELINE, NUM_WINDOWS, TAIL = (0,), 4, 0.25
NOISE = 0.3  # percent


class MemoryLedger:
    """A ledger without a file: hundreds of searches in seconds."""

    def __init__(self):
        self.rows, self.notes = [], []

    def trials(self, stage=None, round=None, rung=None):
        return [
            t
            for t in self.rows
            if stage in (None, t.stage) and round in (None, t.round) and rung in (None, t.rung)
        ]

    def propose(self, stage, round, configs, seeds, fidelity, predicted=None, rung=0):
        assert not self.trials(stage, round, rung)
        for i, (config, seed) in enumerate(zip(configs, seeds, strict=True)):
            self.rows.append(
                Trial(
                    len(self.rows),
                    stage,
                    round,
                    i,
                    tuple(map(int, config)),
                    int(seed),
                    fidelity,
                    None,
                    "proposed",
                    "",
                    None,
                    None,
                    None,
                    0.0,
                    None,
                    rung,
                )
            )
        return self.trials(stage, round, rung)

    def finish(self, trial_id, outcome, quality, cost):
        reason = outcome["failed"]
        self.rows[trial_id] = self.rows[trial_id]._replace(
            status="failed" if reason else "finished",
            reason=reason,
            quality=quality,
            cost=cost,
            outcome=outcome,
        )
        return self.rows[trial_id]

    def record(self, kind, key, payload):
        if not any((k, n) == (kind, key) for k, n, _ in self.notes):
            self.notes.append((kind, key, json.loads(json.dumps(payload, default=list))))

    def records(self, kind):
        return [p for k, _, p in self.notes if k == kind]


def noisy_objective(gain_of, cost_of, noise=NOISE, fails=lambda config, seed: False, salt=0):
    """NE 1 of the baseline plus gains in percent, plus noise that is a function of configuration and seed."""

    def ne(config, seed):
        draw = np.random.default_rng([salt, int(seed), *map(int, config)]).normal()
        return 1 + (gain_of(config) + noise * draw) / 100

    def evaluate(configs, seeds, fidelity):
        for i, (config, seed) in enumerate(zip(configs, seeds, strict=True)):
            bad = fails(tuple(config), seed)
            curve = np.full((NUM_WINDOWS, 1), math.nan if bad else ne(config, seed))
            flops = 100.0 * math.exp(cost_of(config))
            reason = "out of memory" if bad else ""
            yield i, Outcome(curve, (ne(config, seed),), flops, 10, 0.0, 0.0, reason, {})

    labels = np.array([[1.0], [0.0], [1.0], [0.0]])
    return Objective(
        name="noisy",
        fingerprint="",
        metrics=("ctr",),
        num_rows=10,
        num_windows=NUM_WINDOWS,
        evaluate=evaluate,
        cost=None,
        stats=lambda: ProgramStats(0, 0, 0.0),
        test_labels=labels,
        test=lambda config, seed: np.abs(1 - labels - math.exp(-0.7 * ne(config, seed))),
    )


def budget(**changes) -> Budget:
    values = {
        "trials": 50,
        "seed": 0,
        "metric": "ctr",
        "num_pilots": 0,
        "batch_size": 50,
        "noise_seeds": 5,
        "final_seeds": 5,
        "finalists": 3,
        "max_diverged": 1.0,
    }
    return Budget(**(values | changes))


def context_of(objective, **changes) -> Context:
    space = SimpleNamespace(baseline=BASELINE, decode=lambda config: {"x": int(config[0])})
    return Context(objective, space, MemoryLedger(), budget(**changes), lambda *_: None)  # pyright: ignore


def judged(context: Context):
    """The stages of a search: trials with the search's seed, finalists, the verdict."""
    baseline = measure_baseline(context, TAIL)
    ledger, count = context.ledger, context.budget.trials
    configs = np.arange(1, count + 1)[:, None]
    if not ledger.trials("round", 0):
        rows = ledger.propose("round", 0, configs, [context.budget.seed] * count, 1.0)
        for i, outcome in context.objective.evaluate(configs, [context.budget.seed] * count, 1.0):
            quality = float(ne_gain_percent(outcome.ne[0], baseline.mean_curve[0]))
            ledger.finish(
                rows[i].id,
                outcome._asdict() | {"curve": outcome.curve.tolist()},
                quality,
                math.log(outcome.flops / baseline.flops),
            )
    trials = ledger.trials("round", 0)
    picked = pick_finalists(trials, context.budget.finalists, baseline.noise_percent)
    finals = run_finals(context, picked, baseline)
    return baseline, trials, finals, confirm(context, finals, baseline)


def some_cost(config) -> float:
    return 0.02 * (float(config[0]) % 7 - 4) if config[0] else 0.0


@pytest.fixture(scope="module")
def null_searches():
    """Searches among models that are all the baseline."""
    found = []
    for salt in range(100):
        context = context_of(noisy_objective(lambda c: 0.0, some_cost, salt=salt))
        found.append((context, *judged(context)))
    return found


def test_among_equal_models_the_winner_gains_nothing(null_searches):
    labels, chosen_by, gains = [], [], []
    for _, _, trials, finals, confirmed in null_searches:
        labels.append(min(t.quality for t in trials))
        chosen_by.append(finals.gains[confirmed.roles.winner].mean())
        gains.append(confirmed.gains[confirmed.roles.winner].mean())
    error = np.std(gains) / math.sqrt(len(gains))
    assert abs(np.mean(gains)) < 3 * error, f"{np.mean(gains):+.3f} +- {error:.3f}"
    # What would have been reported by the label, or by the seeds that chose among the finalists.
    assert np.mean(labels) < -0.5 and np.mean(chosen_by) < -0.15


def test_no_seed_has_two_uses(null_searches):
    context, baseline, trials, finals, confirmed = null_searches[0]
    of_trials = {t.seed for t in trials}
    assert of_trials == {0} and baseline.seeds == (1, 2, 3, 4, 5)
    assert finals.seeds == (1, 2, 3) and confirmed.seeds == (6, 7, 8, 9, 10)
    by_stage = {}
    for trial in context.ledger.trials():
        by_stage.setdefault(trial.stage, set()).add(trial.seed)
    assert by_stage == {
        "seed_noise": {1, 2, 3, 4, 5},
        "round": {0},
        "final": {1, 2, 3},
        "confirmation": {6, 7, 8, 9, 10},
    }
    (record,) = context.ledger.records("confirmation")
    assert record["seeds"] == [6, 7, 8, 9, 10] and record["choice_seeds"] == [1, 2, 3]
    assert record["trial_seed"] == 0
    # The baseline is trained with them as well.
    assert {t.seed for t in context.ledger.trials("confirmation") if t.config == BASELINE} == {
        *confirmed.seeds
    }


def test_gains_are_paired_with_the_baselines_run_of_the_same_seed(null_searches):
    context, _, _, finals, confirmed = null_searches[0]
    winner = confirmed.roles.winner
    ne = {(t.config, t.seed): t.outcome["ne"][0] for t in context.ledger.trials("confirmation")}
    expected = [
        100 * (ne[tuple(finals.configs[winner]), s] / ne[BASELINE, s] - 1) for s in confirmed.seeds
    ]
    np.testing.assert_allclose(confirmed.gains[winner], expected)


def test_the_best_label_of_a_null_search_is_called_luck(null_searches):
    warned = []
    for _, baseline, trials, _, _ in null_searches:
        luck = label_luck(trials, baseline)
        warned.append(luck_sign(luck) is not None)
        assert luck["luckiest_copy"] < luck["expected_best_copy"] < 0
    assert np.mean(warned) == pytest.approx(0.95, abs=0.07)
    baseline = null_searches[0][1]
    real = [t._replace(quality=t.quality - 10.0) for t in null_searches[0][2]]
    assert luck_sign(label_luck(real, baseline)) is None
    assert luck_sign(label_luck([], baseline)) is None
    worse = [t._replace(quality=abs(t.quality)) for t in null_searches[0][2]]
    said = luck_sign(label_luck(worse, baseline))
    assert said is not None and said.signature == "no label better than the baseline"


@pytest.mark.parametrize("margin", [0.1])
def test_models_worse_by_the_margin_are_called_equal_in_at_most_five_percent(margin):
    passed, num_searches = 0, 100
    for salt in range(num_searches):
        objective = noisy_objective(
            lambda c: margin if c[0] else 0.0, lambda c: -0.01 * float(c[0]), noise=0.05, salt=salt
        )
        context = context_of(objective, trials=30, equal_ne_margin=margin)
        confirmed = judged(context)[3]
        passed += confirmed.roles.equal_ne is not None
        assert confirmed.equal_ne, "there were candidates"
    assert passed / num_searches <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / num_searches)


def test_a_cheaper_model_that_is_as_good_is_found_and_a_bad_one_named_as_the_nearest_miss():
    gains = {5: -0.5, 6: -0.4, 7: 0.6}
    objective = noisy_objective(
        lambda c: gains.get(int(c[0]), 1.0) if c[0] else 0.0,
        lambda c: -0.1 * float(c[0]),
        noise=0.02,
    )
    context = context_of(objective, trials=8)
    *_, finals, confirmed = judged(context)
    assert finals.configs[confirmed.roles.equal_ne] == [6], "the cheapest that is as good"
    assert nearest_miss(confirmed.equal_ne) is None
    said = equal_ne(context, finals, confirmed)
    assert said["margin"] == 0.1 and said["level"] == 0.95 and said["nearest_miss"] is None

    bad = noisy_objective(lambda c: 0.6 if c[0] else 0.0, lambda c: -0.1 * float(c[0]), noise=0.02)
    context = context_of(bad, trials=8)
    *_, finals, confirmed = judged(context)
    assert confirmed.roles.equal_ne is None
    miss = equal_ne(context, finals, confirmed)["nearest_miss"]
    assert miss["bound"] > 0.6 - 0.1 and not miss["passed"] and miss["flops_ratio"] < 1


def test_the_order_of_the_tests_comes_from_the_choice():
    finals = Finals([[1], [2], [3]], np.array([[0.2], [-0.3], [-0.4]]), np.array([-0.1, -0.2, 0.3]))
    gains = {0: np.array([-9.0, -9.1]), 1: np.array([0.0, 5.0]), 2: np.array([0.0, 0.0])}
    tests = equal_ne_tests(finals, gains, 0.1)
    assert [(t.finalist, t.passed) for t in tests] == [(1, False), (0, False)]


def test_candidates_for_equal_ne_are_safe_and_bold():
    blank = Trial(0, "round", 0, 0, (), 0, 1.0, None, "finished", "", None, None, None, 0.0, 1.0)
    rows = [
        (0.05, -3.0),
        (0.2, -4.0),
        (-0.3, -1.0),
        (-0.25, -0.5),
        (-9.0, 0.5),
        (0.02, -2.0),
        (-0.3, -0.1),
    ]
    trials = [blank._replace(id=i, config=(i,), quality=q, cost=c) for i, (q, c) in enumerate(rows)]
    picked = [c[0] for c in pick_finalists(trials, 1, 0.3, margin=0.1)]
    # Best; best at equal cost (two of one label, by number); safe: below -.2; bold: below .1, the cheapest.
    assert picked == [4, 2, 6, 3, 0, 5]
    assert pick_finalists([blank._replace(quality=None)], 1, 0.3) == []


def test_roles_and_their_candidate_for_equal_ne():
    gains = np.array([[-0.3], [0.1], [-0.1], [math.nan], [0.4]])
    finals = Finals([[i] for i in range(5)], gains, np.array([0.4, -2.0, -1.0, -3.0, -0.5]))
    assert choose_roles(finals) == (0, 2, 2)
    assert choose_roles(finals, without=[2]) == (0, 1, 1), "none is better: the best of the cheaper"
    assert choose_roles(finals, equal_cost=2.0) == (0, 0, 2)
    nothing = Finals([], np.zeros((0, 3)), np.zeros(0))
    assert choose_roles(nothing) == (None, None, None)


def test_a_chosen_model_that_fails_with_a_fresh_seed_is_replaced():
    gains = {1: -0.9, 2: -0.6}
    objective = noisy_objective(
        lambda c: gains.get(int(c[0]), 0.0),
        lambda c: 0.1 * float(c[0]),
        noise=0.02,
        fails=lambda c, s: c == (1,) and s == 8,
    )
    context = context_of(objective, trials=8)
    *_, finals, confirmed = judged(context)
    assert finals.configs[confirmed.roles.winner] == [2]
    assert list(confirmed.failed.values()) == ["out of memory"]
    baseline, trials, *_ = judged(context)
    rows = finalists(context, baseline, trials, finals, confirmed, {})
    assert [r["failed"] for r in rows if r["choices"] == [1]] == ["out of memory"]
    json.dumps(rows, allow_nan=False)


def test_a_seed_with_which_the_baseline_fails_counts_for_none():
    objective = noisy_objective(
        lambda c: -1.0 * (c[0] == 1), some_cost, fails=lambda c, s: c == BASELINE and s == 7
    )
    *_, confirmed = judged(context_of(objective, trials=8))
    assert confirmed.seeds == (6, 8, 9, 10) and len(confirmed.gains[confirmed.roles.winner]) == 4
    objective = noisy_objective(
        lambda c: 0.0, some_cost, fails=lambda c, s: c == BASELINE and s > 5
    )
    with pytest.raises(SearchStopped, match="baseline failed with every seed of 6 to 10"):
        judged(context_of(objective, trials=8))


@pytest.mark.parametrize(
    ("noise", "wanted", "most"), [(0.3, 0.2, 40), (0.3, 0.05, 12), (0.001, 0.2, 40)]
)
def test_seeds_are_added_until_the_interval_is_narrow(noise, wanted, most):
    from autorank.search.verdict import half_width

    objective = noisy_objective(lambda c: -1.0 * (c[0] == 1), some_cost, noise=noise)
    changes = {
        "trials": 8,
        "final_seeds": "auto",
        "final_half_width": wanted,
        "max_final_seeds": most,
    }
    context = context_of(objective, **changes)
    confirmed = judged(context)[3]
    widest = max(half_width(g) for g in confirmed.gains.values())
    assert widest <= wanted or len(confirmed.seeds) == most
    assert (len(confirmed.seeds) == 5) == (noise == 0.001)
    # The same rows again, and nothing new: as a resumed search does.
    rows = list(context.ledger.rows)
    again = judged(context)[3]
    assert context.ledger.rows == rows and again.seeds == confirmed.seeds


def test_every_finalist_is_tested_once_and_the_record_says_with_which_seeds(null_searches):
    context, _, _, finals, confirmed = null_searches[1]
    asked, plain = [], context.objective.test
    objective = context.objective._replace(
        test=lambda config, seed: asked.append((tuple(config), seed)) or plain(config, seed)
    )
    chosen = {"baseline": list(BASELINE), "winner": finals.configs[confirmed.roles.winner]}
    context = context._replace(objective=objective)
    found = run_test(context, chosen, confirmed.seeds, finals)
    assert len(asked) == len(set(asked)) == 2 * 5 + (len(finals.configs) + 1) * 3
    assert found["seeds"] == [*confirmed.seeds] and found["finalists"]["seeds"] == [1, 2, 3]
    assert set(found["finalists"]["gain"]) == {str(i) for i in range(len(finals.configs))}
    assert {"gains", "mean", "low", "high", "p", "rows_low", "rows_high"} == set(
        found["gain"]["winner"]["ctr"]
    )
    assert len(found["gain"]["winner"]["ctr"]["gains"]) == 5
    before = len(asked)
    assert run_test(context, chosen, confirmed.seeds, finals) == found and len(asked) == before


def test_the_held_out_rows_are_measured_by_more_than_ne(null_searches):
    context, _, _, finals, confirmed = null_searches[1]
    labels = context.objective.test_labels
    users = np.arange(len(labels)) % 7 - 1
    objective = context.objective._replace(test_users=users)
    chosen = {"baseline": list(BASELINE), "winner": finals.configs[confirmed.roles.winner]}
    found = score(context._replace(objective=objective), chosen, confirmed.seeds)
    for name, config in chosen.items():
        p = [objective.test(np.array(config, np.int32), s)[:, 0] for s in confirmed.seeds]
        measured = found["measures"][name]["ctr"]
        assert set(measured) == {"log_loss", "auc", "gauc", "ndcg@5", "calibration", "ece"}
        assert measured["auc"] == [auc(one, labels[:, 0]) for one in p]
        known = users >= 0
        own = [grouped_auc(one[known], labels[known, 0], users[known]) for one in p]
        assert measured["gauc"] == own
        bins = found["reliability"][name]["ctr"]
        assert sum(b.rows for b in bins) == len(labels)
        mean = sum(b.rows * b.predicted for b in bins) / len(labels)
        assert mean == pytest.approx(p[0].mean())


def test_power_uses_the_spread_of_the_verdicts_own_gains(null_searches):
    baseline = null_searches[0][1]
    wide, narrow = power(baseline, [-1.0, 1.0, 0.0], 3), power(baseline, [-0.01, 0.01, 0.0], 3)
    assert wide["least_gain_percent"] == pytest.approx(100 * narrow["least_gain_percent"])
    by_noise = power(baseline, [], 3)["least_gain_percent"]
    assert by_noise == pytest.approx(
        math.sqrt(2) * baseline.noise_percent * wide["least_gain_percent"]
    )
    assert power(baseline, [0.1], 1)["least_gain_percent"] is None


# --- ledgers of earlier versions -----------------------------------------------------------------


def old_rows(context, *, final_rows: bool):
    """Seed noise and finalists with seeds 0 ... 4, of which 0 is the trials' own."""
    ledger = context.ledger
    for stage, config, present in (("seed_noise", BASELINE, True), ("final", (3,), final_rows)):
        if present:
            ledger.propose(stage, 0, [config] * 5, range(5), 1.0)
    return context


@pytest.mark.parametrize("final_rows", [False, True])
def test_an_unfinished_ledger_of_an_earlier_version_goes_on_with_fresh_seeds(final_rows):
    context = old_rows(
        context_of(noisy_objective(lambda c: 0.0, some_cost), trials=8), final_rows=final_rows
    )
    baseline, _, finals, confirmed = judged(context)
    assert baseline.seeds == (0, 1, 2, 3, 4), "as its ledger has them"
    assert finals.seeds == (1, 2, 3) and confirmed.seeds == (5, 6, 7, 8, 9)
    if final_rows:
        assert finals.configs == [[3]] and finals.gains.shape == (1, 3)
    assert np.isfinite(finals.gains).all()


def test_a_ledger_finished_by_an_earlier_version_is_not_judged_again(tmp_path):
    with Ledger.open(tmp_path / "trials.db", {}) as ledger:
        refuse_finished_by_earlier_version(ledger, 0)
        ledger.record("test", "test", {"seeds": [0, 1], "ne": {}, "gain": {}})
        said = rf"earlier version.*\(0\).*experiments\.report run={tmp_path}.*fresh=true"
        with pytest.raises(SearchStopped, match=said):
            refuse_finished_by_earlier_version(ledger, 0)
        ledger.record("confirmation", "validation", {})
        refuse_finished_by_earlier_version(ledger, 0)


# --- rows per second -----------------------------------------------------------------------------


def test_speeds_are_measured_in_turn_once_and_give_a_ratio_with_its_interval():
    asked = []
    rng = np.random.default_rng(0)

    def qps(config):
        asked.append(int(config[0]))
        # The machine slows down meanwhile; both models feel it.
        return (200.0 if config[0] else 100.0) * 0.97 ** len(asked) * math.exp(0.03 * rng.normal())

    objective = noisy_objective(lambda c: 0.0, some_cost)._replace(qps=qps)
    context = context_of(objective)
    models = {"baseline": [0], "winner": [1], "equal_cost": [1]}
    found = measure(context, models)
    assert asked[:4] == [0, 1, 1, 0] and len(asked) == 2 * REPEATS
    assert found["winner"] == found["equal_cost"]
    assert found["winner"]["low"] < 2.0 < found["winner"]["high"]
    assert 0.02 < found["winner"]["high"] / found["winner"]["low"] - 1 < 0.2
    assert found["baseline"]["ratio"] == 1.0
    assert measure(context, models) == found and len(asked) == 2 * REPEATS
    # A model that was chosen anew after a resume has no measurement in that series.
    assert measure(context, models | {"equal_ne": [2]})["equal_ne"]["ratio"] is None
    nothing = measure(context_of(noisy_objective(lambda c: 0.0, some_cost)), models)
    assert nothing["winner"] == {"qps": None, "ratio": None, "low": None, "high": None}
