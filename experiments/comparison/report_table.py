"""The rows of `bench_search.csv`: curves by searcher and task, comparisons over the tasks that two searchers share."""

import csv
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from autorank.app.variants import variant
from autorank.searchers.named import NEARLY_EXACT
from experiments.comparison.noise import noise_of

FIRST_TUNING_SEED = 100
EXACT = "autorank, results nearly exact"  # as sweeps and Optuna studies have it
OURS = ("autorank", "paper", "random", "evolution", "reinforce")
# Searcher -> task -> values [seeds, points], NaN beyond a run.
Curves = dict[str, dict[str, np.ndarray]]


class Table:
    """The CSV, by batch size and noise.

    Args:
        rows: its rows.
        costs: by searcher its runs, trials and cpu_seconds.
        variants: whether searchers with changed settings (``NAME+key=value``) stand beside the others; else only the
            ablation has them.
    """

    def __init__(
        self,
        rows: Sequence[Mapping[str, str]],
        costs: Mapping[str, Any] | None = None,
        *,
        variants: bool = False,
    ) -> None:
        self.rows = rows
        self.costs = costs or {}
        self.variants = variants
        self.points = sorted({int(r["trials"]) for r in rows})
        # What tables and figures show where they do not say otherwise: one proposal at a time and no noise, or, where
        # no run is like that, what most rows are.
        self._kinds: dict[tuple[int, float | str], list[Mapping[str, str]]] = defaultdict(list)
        for r in rows:
            self._kinds[int(r["batch"]), noise_of(r["noise"])].append(r)
        kinds = self._kinds
        usual: tuple[int, float | str] = (1, 0.0)
        if kinds and usual not in kinds:
            usual = min(kinds, key=lambda kind: (-len(kinds[kind]), kind[0], str(kind[1])))
        self.batch, self.noise = usual
        self._curves: dict[tuple[Any, ...], Curves] = {}

    def place(self, trials: int) -> int:
        """Where a number of trials stands among the points.

        Raises:
            KeyError: no run went as far.
        """
        if trials not in self.points:
            raise KeyError(f"{trials} trials")
        return self.points.index(trials)

    def curves(
        self,
        batch: int | None = None,
        noise: float | str | None = None,
        column: str = "regret",
        *,
        tuning: bool = False,
        variants: bool | None = None,
    ) -> Curves:
        """Values at all points, of the seeds that settings were chosen on or of the others.

        Args:
            batch, noise: of the runs; None is the table's own.
            column: of the CSV.
            tuning: of the seeds that settings were chosen on, or of the others.
            variants: with searchers whose settings are changed; None is as the table says.
        """
        kind = self.batch if batch is None else batch, self.noise if noise is None else noise
        variants = self.variants if variants is None else variants
        key = *kind, column, tuning, variants
        if key not in self._curves:
            self._curves[key] = self._made(kind, column, tuning, variants)
        return self._curves[key]

    def _made(
        self, kind: tuple[int, float | str], column: str, tuning: bool, variants: bool
    ) -> Curves:
        points = {n: i for i, n in enumerate(self.points)}
        found: dict[str, dict[str, dict[int, np.ndarray]]] = {}
        for r in self._kinds.get(kind, ()):
            if "+" in r["searcher"] and not variants:
                continue
            if (int(r["seed"]) >= FIRST_TUNING_SEED) != tuning:
                continue
            seeds = found.setdefault(r["searcher"], {}).setdefault(f"{r['suite']}/{r['task']}", {})
            seed = int(r["seed"])
            if seed not in seeds:
                seeds[seed] = np.full(len(points), np.nan)
            seeds[seed][points[int(r["trials"])]] = float(r[column])
        return {
            s: {t: np.stack([c for _, c in sorted(v.items())]) for t, v in ts.items()}
            for s, ts in found.items()
        }


def read_table(path: Path, *, variants: bool = False) -> Table:
    """Reads the table that `bench_search` wrote, and the costs of its runs from the JSON beside it."""
    with path.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    beside = path.with_suffix(".json")
    costs = json.loads(beside.read_text())["searchers"] if beside.exists() else {}
    return Table(rows, costs, variants=variants)


@cache
def without_noise(searcher: str) -> str | None:
    """What a searcher is called where results are exact; None for ours as it runs where they are noisy.

    There `autorank` takes results for nearly exact, as in sweeps and Optuna studies (`named.NEARLY_EXACT`).

    Examples:
        >>> name = variant("autorank+margin=0.3", 1, NEARLY_EXACT).name
        >>> without_noise(name), without_noise("autorank+margin=0.3"), without_noise("hebo")
        ('autorank+margin=0.3', None, 'hebo')
    """
    base, *changed = searcher.split("+")
    if base != "autorank":
        return searcher
    exact = set(variant(base, 1, NEARLY_EXACT).name.split("+")[1:])
    if not exact <= set(changed):
        return None
    return "+".join([base, *(part for part in changed if part not in exact)])


def of_exact(table: Table) -> Table:
    """The table with the names of `without_noise`."""
    names = {s: without_noise(s) for s in {*(r["searcher"] for r in table.rows), *table.costs}}
    rows = [{**r, "searcher": name} for r in table.rows if (name := names[r["searcher"]])]
    costs = {name: cost for s, cost in table.costs.items() if (name := names[s])}
    return Table(rows, costs, variants=table.variants)


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


def of_many(now: Mapping[str, Mapping[str, np.ndarray]]) -> tuple[list[str], list[str]]:
    """Searchers that ran on half of autorank's tasks or more, and the tasks that all of them have.

    Without autorank: on half of the tasks of the searcher that has most.
    """
    most = now["autorank"] if "autorank" in now else max(now.values(), key=len, default={})
    searchers = sorted(s for s in now if 2 * len(now[s]) >= len(most))
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
