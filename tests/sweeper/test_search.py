"""The default searcher well past its first design: through Hydra with failures and a kill, over seeds."""

import signal
import sqlite3

import numpy as np
import pytest

from autorank.base.result import Result
from autorank.ledger.ledger import Ledger
from autorank.searchers.named import named_searcher
from autorank.space.parse import parse_space
from autorank.sweep.rules import SweepRules
from autorank.sweep.sweep import Sweep
from tests.sweeper.test_faults import rows, start, sweep, wait_for

SPACE = ["rate=tag(log,interval(1e-4,1))", "hydra.sweeper.searcher=autorank"]
TRIALS = 40
SETTINGS = ["hydra.sweeper.batch_size=8", "when=[3]", "do=no_number"]


def regret(x, kind, rate) -> np.ndarray:
    """What the app returns, by its formula; NaN where it fails."""
    found = (x - 12.0) ** 2 + (kind != 1) + 20 * np.log10(rate / 0.02) ** 2
    return np.where((x == 3) | ((rate > 0.5) & (x > 10)), np.nan, found)


def test_through_hydra_with_failures_killed_and_resumed(tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    sweep(whole, *SPACE, *SETTINGS, trials=TRIALS)
    process = start(parts, *SPACE, *SETTINGS, trials=TRIALS)
    wait_for(parts, 21)  # inside a round of the model
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    sweep(parts, *SPACE, *SETTINGS, trials=TRIALS)
    found = rows(whole)
    assert rows(parts) == found and len(found) == TRIALS
    assert any(r[3] == "failed" for r in found)
    with sqlite3.connect(whole / "trials.db") as connection:
        (guided,) = connection.execute(
            "SELECT count(*) FROM trials WHERE predicted NOT LIKE '[null%'"
        ).fetchone()
    connection.close()
    assert guided >= TRIALS - 16
    # Random search of as many trials, many times over: what its luckiest in a hundred reaches.
    rng = np.random.default_rng(0)
    shape = (4000, TRIALS)
    values = regret(
        rng.integers(0, 20, shape), rng.integers(0, 3, shape), 10 ** rng.uniform(-4, 0, shape)
    )
    assert min(r[4] for r in found if r[4] is not None) < np.quantile(np.nanmin(values, 1), 0.01)
    # The median: a trial now and then explores, in a corner where the planted regret is a hundred times as high.
    later = [r[4] for r in found[16:] if r[4] is not None]
    assert np.median(later) < np.quantile(np.nanmedian(values[:, 16:], 1), 0.01)


@pytest.mark.parametrize("maximize", [False, True])
def test_over_seeds_it_beats_random_search(tmp_path, maximize):
    """Rounds of 8, paired seeds; the same as the best of a random search only by luck."""
    space = parse_space(
        {"x": "range(0,20)", "kind": "choice(a,b,c)", "rate": "tag(log, interval(1e-4, 1))"},
        {},
        {"x": 10, "kind": "a", "rate": 1e-2},
        grid_size=64,
    )

    def best(name: str, seed: int) -> float:
        def make(batch_size: int, capacity: int):
            return named_searcher(
                name, space, capacity=capacity, batch_size=batch_size, initial=None, alpha=0.0
            )

        rules = SweepRules(TRIALS, seed, maximize, max_failure_rate=1.0)
        with Ledger.open(tmp_path / f"{name}{seed}.db", {}) as ledger:
            sweep = Sweep(space, make, ledger, rules)
            while batch := sweep.propose(8):
                for trial in batch:
                    v = space.decode(np.array(trial.config))
                    found = float(regret(v["x"], "abc".index(v["kind"]), v["rate"]))
                    value = None if np.isnan(found) else -found if maximize else found
                    sweep.finish(trial, Result(value, None, ""))
            winner = sweep.best()
        assert winner is not None and winner.quality is not None
        return abs(winner.quality)

    seeds = range(1 if maximize else 4)
    ours, random = ([best(name, s) for s in seeds] for name in ("autorank", "random"))
    assert all(o < 0.5 * r for o, r in zip(ours, random, strict=True)), (ours, random)
