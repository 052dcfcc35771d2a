"""The rows of `bench_search.csv`: curves by searcher and task, comparisons over the tasks that two searchers share."""

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

FIRST_TUNING_SEED = 100
OURS = ("autorank", "paper", "random", "evolution", "reinforce")
# Searcher -> task -> values [seeds, points], NaN beyond a run.
Curves = dict[str, dict[str, np.ndarray]]


class Table:
    """The CSV, by batch size and noise."""

    def __init__(
        self, rows: Sequence[Mapping[str, str]], costs: Mapping[str, Any] | None = None
    ) -> None:
        self.rows = rows
        self.costs = costs or {}  # by searcher: runs, trials, cpu_seconds
        self.points = sorted({int(r["trials"]) for r in rows})

    def place(self, trials: int) -> int:
        """Where a number of trials stands among the points.

        Raises:
            KeyError: no run went as far.
        """
        if trials not in self.points:
            raise KeyError(f"{trials} trials")
        return self.points.index(trials)

    def curves(
        self, batch: int = 1, noise: float = 0.0, column: str = "regret", *, tuning: bool = False
    ) -> Curves:
        """Values at all points, of the seeds that settings were chosen on or of the others."""
        found: dict[str, dict[str, dict[int, np.ndarray]]] = {}
        for r in self.rows:
            if int(r["batch"]) != batch or float(r["noise"]) != noise:
                continue
            if (int(r["seed"]) >= FIRST_TUNING_SEED) != tuning:
                continue
            seeds = found.setdefault(r["searcher"], {}).setdefault(f"{r['suite']}/{r['task']}", {})
            curve = seeds.setdefault(int(r["seed"]), np.full(len(self.points), np.nan))
            curve[self.points.index(int(r["trials"]))] = float(r[column])
        return {
            s: {t: np.stack([c for _, c in sorted(v.items())]) for t, v in ts.items()}
            for s, ts in found.items()
        }


def read_table(path: Path) -> Table:
    """Reads the table that `bench_search` wrote, and the costs of its runs from the JSON beside it."""
    with path.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    beside = path.with_suffix(".json")
    costs = json.loads(beside.read_text())["searchers"] if beside.exists() else {}
    return Table(rows, costs)


def at(curves: Curves, place: int) -> dict[str, dict[str, np.ndarray]]:
    """Finished runs' values at one point: searcher -> task -> [seeds]."""
    out: dict[str, dict[str, np.ndarray]] = {}
    for searcher, tasks in curves.items():
        for task, values in tasks.items():
            kept = values[:, place][np.isfinite(values[:, place])]
            if len(kept):
                out.setdefault(searcher, {})[task] = kept
    return out


def paired(
    left: Mapping[str, np.ndarray], right: Mapping[str, np.ndarray], draws: int = 4000
) -> tuple[float, float, float, int]:
    """Mean difference over common tasks, its 95 % interval, number of tasks."""
    tasks = sorted(set(left) & set(right))
    if not tasks:
        return float("nan"), float("nan"), float("nan"), 0
    rng = np.random.default_rng(0)
    point = float(np.mean([left[t].mean() - right[t].mean() for t in tasks]))

    def resampled(values: np.ndarray) -> np.ndarray:
        return values[rng.integers(len(values), size=(draws, len(values)))].mean(axis=1)

    gaps = np.stack([resampled(left[t]) - resampled(right[t]) for t in tasks])  # [tasks, draws]
    picked = rng.integers(len(tasks), size=(len(tasks), draws))
    means = np.take_along_axis(gaps, picked, axis=0).mean(axis=0)
    low, high = np.quantile(means, [0.025, 0.975])
    return point, float(low), float(high), len(tasks)


def gap(point: float, low: float, high: float, tasks: int) -> str:
    """A paired difference as text, without an interval for fewer than three tasks."""
    return f"{point:+.4f} [{low:+.4f}, {high:+.4f}]" if tasks > 2 else f"{point:+.4f}"


def shown(searchers: Sequence[str]) -> list[str]:
    """Searchers without the variants of an ablation."""
    return [s for s in searchers if "+" not in s]


def of_many(now: Mapping[str, Mapping[str, np.ndarray]]) -> tuple[list[str], list[str]]:
    """Searchers that ran on half of autorank's tasks or more, and the tasks that all of them have.

    Without autorank: on half of the tasks of the searcher that has most.
    """
    most = now["autorank"] if "autorank" in now else max(now.values(), key=len, default={})
    searchers = sorted(s for s in shown(list(now)) if 2 * len(now[s]) >= len(most))
    tasks = [t for t in most if all(t in now[s] for s in searchers)]
    return searchers, tasks


def mean_ranks(
    now: Mapping[str, Mapping[str, np.ndarray]], searchers: Sequence[str], tasks: Sequence[str]
) -> np.ndarray:
    """Mean rank of each searcher over tasks, by its mean regret; regrets within 0.0001 share their mean rank."""
    values = np.array([[now[s][t].mean() for s in searchers] for t in tasks])
    apart = values[:, :, None] - values[:, None, :]
    rank = 1 + (apart > 1e-4).sum(axis=2) + 0.5 * ((np.abs(apart) <= 1e-4).sum(axis=2) - 1)
    return rank.mean(axis=0)
