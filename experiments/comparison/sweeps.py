"""How well sweeps search, through the sweeper and through the Optuna bridge, on a planted function; paired seeds.

    python -m experiments.comparison.sweeps --seeds 10 --trials 60 --csv experiments/results/bench_sweep.csv

The function has 3 numbers whose best values are drawn per seed (no grid knows them), a category and a whole number; a
corner of it fails. One arm is one way of asking: in rounds of 8, in flight with 4 workers whose jobs take unequal
time, one after another through Optuna; grids of 16 to 256 points; random search through the sweeper.
"""

import argparse
import csv
import heapq
import math
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from autorank.base.result import Result
from autorank.ledger.ledger import Ledger
from autorank.searchers.base import SEARCHERS
from autorank.searchers.named import named_searcher
from autorank.space.parse import parse_space
from autorank.sweep.rules import SweepRules
from autorank.sweep.sweep import Sweep

NUMBERS = {"rate": (1e-5, 1.0), "decay": (1e-7, 1e-1), "dropout": (0.0, 0.8)}
KINDS = ["a", "b", "c", "d"]


def planted(seed: int) -> Callable[[dict[str, Any]], float]:
    """Regret above the best value (0), NaN where the job fails."""
    rng = np.random.default_rng([20231107, seed])
    best = rng.uniform(0.15, 0.85, 3)
    kind, depth = str(rng.choice(KINDS)), int(rng.integers(2, 8))

    def value(values: dict[str, Any]) -> float:
        unit = []
        for name, (low, high) in NUMBERS.items():
            x = values[name]
            unit.append(
                x / high if low == 0 else math.log(x / low) / math.log(high / low)
            )  # to [0, 1]
        off = np.array(unit) - best
        if values["depth"] == 8 and unit[0] > 0.6:
            return math.nan
        return float(
            10 * off[0] ** 2
            + 4 * off[1] ** 2
            + 2 * (off[2] + 0.5 * off[0]) ** 2
            + 0.15 * abs(values["depth"] - depth)
            + 0.4 * (values["kind"] != kind)
        )

    return value


def space_of(grid_size: int) -> Any:
    """The search space on a grid."""
    return parse_space(
        {
            "rate": "tag(log, interval(1e-5, 1))",
            "decay": "tag(log, interval(1e-7, 1e-1))",
            "dropout": "interval(0, 0.8)",
            "depth": "range(1, 9)",
            "kind": "choice(a,b,c,d)",
        },
        {},
        {"rate": 1e-3, "decay": 1e-4, "dropout": 0.4, "depth": 4, "kind": "a"},
        grid_size=grid_size,
    )


def by_sweep(
    searcher: str, grid_size: int, in_flight: int, seed: int, trials: int
) -> tuple[list[float], float]:
    """Runs one arm through the sweeper: values in the order of proposal, and seconds spent on asking."""
    space, value = space_of(grid_size), planted(seed)
    roles = SEARCHERS[searcher].traits["has_roles"]

    def make(batch_size: int, capacity: int) -> Any:
        key = (searcher, grid_size, batch_size, capacity)
        if key not in _MADE:  # compiled once for all seeds
            _MADE[key] = named_searcher(
                searcher,
                space,
                capacity=capacity,
                batch_size=batch_size,
                initial=None,
                alpha=0.0,
            )
        return _MADE[key]

    size = 8 if roles or not in_flight else 1
    rules = SweepRules(trials, seed, max_failure_rate=1.0, batch_size=size, roles=roles)
    seconds = 0.0
    rng = np.random.default_rng(seed)
    with tempfile.TemporaryDirectory() as folder, Ledger.open(Path(folder) / "t.db", {}) as ledger:
        sweep = Sweep(space, make, ledger, rules)
        running: list[tuple[float, int, Any]] = []
        clock = 0.0
        while True:
            started = time.process_time()
            room = (in_flight - len(running)) if in_flight else (0 if running else 8)
            for trial in sweep.propose(room) if room else []:
                heapq.heappush(running, (clock + rng.exponential(), trial.id, trial))
            seconds += time.process_time() - started
            if not running:
                break
            clock, _, trial = heapq.heappop(running)
            found = value(space.decode(np.array(trial.config)))
            sweep.finish(trial, Result(None if math.isnan(found) else found, None, ""))
        rows = sweep.trials()
    return [math.nan if t.quality is None else t.quality for t in rows], seconds


_MADE: dict[Any, Any] = {}


def by_optuna(name: str, seed: int, trials: int) -> tuple[list[float], float]:
    """Runs one arm through an Optuna study: our sampler, or one of Optuna's."""
    import optuna  # pyright: ignore[reportMissingImports]

    from autorank.integrations.optuna import AutoRankSampler

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    value = planted(seed)

    def objective(trial: Any) -> float:
        values = {n: trial.suggest_float(n, a, b, log=a > 0) for n, (a, b) in NUMBERS.items()}
        values["depth"] = trial.suggest_int("depth", 1, 8)
        values["kind"] = trial.suggest_categorical("kind", KINDS)
        return value(values)

    samplers = {
        "autorank": lambda: AutoRankSampler(seed=seed),
        "random": lambda: optuna.samplers.RandomSampler(seed=seed),
        "tpe": lambda: optuna.samplers.TPESampler(seed=seed),
    }
    study = optuna.create_study(sampler=samplers[name]())
    started = time.process_time()
    study.optimize(objective, n_trials=trials)
    seconds = time.process_time() - started
    return [math.nan if t.value is None else t.value for t in study.trials], seconds


ARMS: dict[str, Callable[[int, int], tuple[list[float], float]]] = {
    "random, rounds": lambda s, n: by_sweep("random", 64, 0, s, n),
    "autorank, rounds, grid 16": lambda s, n: by_sweep("autorank", 16, 0, s, n),
    "autorank, rounds, grid 64": lambda s, n: by_sweep("autorank", 64, 0, s, n),
    "autorank, rounds, grid 256": lambda s, n: by_sweep("autorank", 256, 0, s, n),
    "autorank, in flight": lambda s, n: by_sweep("autorank", 64, 4, s, n),
    "evolution, rounds, grid 16": lambda s, n: by_sweep("evolution", 16, 0, s, n),
    "evolution, rounds, grid 64": lambda s, n: by_sweep("evolution", 64, 0, s, n),
    "reinforce, rounds, grid 16": lambda s, n: by_sweep("reinforce", 16, 0, s, n),
    "reinforce, rounds, grid 64": lambda s, n: by_sweep("reinforce", 64, 0, s, n),
    "Optuna random": lambda s, n: by_optuna("random", s, n),
    "Optuna TPE": lambda s, n: by_optuna("tpe", s, n),
    "Optuna, AutoRankSampler": lambda s, n: by_optuna("autorank", s, n),
}


def main() -> None:
    """Prints a Markdown table; with ``--csv`` every seed's numbers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--trials", type=int, default=60)
    parser.add_argument("--arms", nargs="*", default=list(ARMS))
    parser.add_argument("--csv", type=Path)
    arguments = parser.parse_args()
    found: dict[str, list[tuple[float, float, float]]] = {arm: [] for arm in arguments.arms}
    for seed in range(arguments.seeds):  # interleaved
        for arm in arguments.arms:
            values, seconds = ARMS[arm](seed, arguments.trials)
            later = values[len(values) // 2 :]
            row = (float(np.nanmin(values)), float(np.nanmean(later)), seconds)
            found[arm].append(row)
            print(f"seed {seed} {arm}: best {row[0]:.4f}, later mean {row[1]:.3f}", flush=True)
    print(
        "| way | best regret, median | worst seed | mean of the later half, median | CPU s a sweep |"
    )
    print("|---|---|---|---|---|")
    for arm, rows in found.items():
        best, later, seconds = (list(column) for column in zip(*rows, strict=True))
        print(
            f"| {arm} | {statistics.median(best):.4f} | {max(best):.4f} | {statistics.median(later):.3f} "
            f"| {statistics.median(seconds):.1f} |"
        )
    if arguments.csv:
        with arguments.csv.open("w", newline="") as stream:
            writer = csv.writer(stream)
            writer.writerow(["way", "seed", "trials", "best", "later_mean", "cpu_seconds"])
            for arm, rows in found.items():
                for seed, row in enumerate(rows):
                    numbers = [f"{v:.6g}" for v in row]
                    writer.writerow([arm, seed, arguments.trials, *numbers])


if __name__ == "__main__":
    main()
