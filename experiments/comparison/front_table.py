"""What `bench_front.csv` says, as tables of docs/results.md."""

from collections.abc import Mapping, Sequence

import numpy as np

from experiments.comparison.bench_front import TABLE, Row, read
from experiments.comparison.noise import noise_of
from experiments.comparison.report_table import FIRST_TUNING_SEED

LAST = 100
NAMES = {"front": "`search.goal=front`", "best": "`search.goal=best`"}
MEASURES = ("hypervolume", "tried", "equal_cost", "equal_quality", "cpu_seconds")
# Values of runs by task, [runs].
ByTask = dict[str, np.ndarray]


def of_fronts() -> list[str]:
    """What each searcher's front lacks, by noise, and the paired difference of the first one from it."""
    rows = shown(read(TABLE))
    lines = [
        "| noise | searcher | tasks | runs | lacks of the hypervolume at 50 | at 100 | of all that was tried, at 100 | "
        "goal=front minus it at 100, same tasks [95 %] | regret at equal cost | log FLOPs too many at equal NE | "
        "CPU s a run |",
        "|" + "---|" * 11,
    ]
    for noise in sorted({r["noise"] for r in rows}, key=lambda n: str(noise_of(n))):
        of_noise = [r for r in rows if r["noise"] == noise]
        now = values(of_noise, LAST)
        ours = now.get("front", {})
        for name in sorted(now, key=lambda s: mean(now[s]["hypervolume"])):
            found = now[name]
            at_50 = mean(values(of_noise, 50)[name]["hypervolume"])
            cells: list[str] = [noise, NAMES.get(name, name), str(len(found["hypervolume"]))]
            cells += [str(sum(map(len, found["hypervolume"].values()))), f"{at_50:.3f}"]
            cells += [f"{mean(found[m]):.3f}" for m in MEASURES[:2]]
            cells.append(apart(ours["hypervolume"], found["hypervolume"]) if ours else "-")
            cells += [f"{mean(found[m]):.3f}" for m in MEASURES[2:4]]
            cells.append(f"{mean(found[MEASURES[4]]):.2g}")
            lines.append(f"| {' | '.join(cells)} |")
    return lines


def of_front_tasks() -> list[str]:
    """What the fronts lack at 100 trials by task, with the standard error over seeds and their number."""
    rows = shown(read(TABLE))
    names = sorted({r["searcher"] for r in rows}, key=lambda s: (s not in NAMES, s != "front", s))
    lines = [f"| task | noise | {' | '.join(NAMES.get(str(n), str(n)) for n in names)} |"]
    lines.append("|" + "---|" * (2 + len(names)))
    for task, noise in sorted({(r["task"], r["noise"]) for r in rows}):
        some = [r for r in rows if (r["task"], r["noise"]) == (task, noise)]
        now = values(some, LAST)
        cells = [cell(now[n]["hypervolume"].get(task)) if n in now else "-" for n in names]
        lines.append(f"| {task} | {noise} | {' | '.join(cells)} |")
    return lines


def shown(rows: Sequence[Row]) -> list[Row]:
    """Rows of seeds that no setting was chosen on, and of searchers without changed settings."""
    return [r for r in rows if int(r["seed"]) < FIRST_TUNING_SEED and "+" not in r["searcher"]]


def values(rows: Sequence[Row], trials: int) -> dict[str, dict[str, ByTask]]:
    """By searcher, measure and task the values of its runs at a number of trials, in the order of their seeds."""
    found: dict[str, dict[str, dict[str, list[float]]]] = {}
    for r in sorted(rows, key=lambda r: int(r["seed"])):
        if int(r["trials"]) == trials:
            own = found.setdefault(r["searcher"], {})
            for name in MEASURES:
                own.setdefault(name, {}).setdefault(r["task"], []).append(float(r[name]))
    return {
        s: {m: {t: np.array(v) for t, v in tasks.items()} for m, tasks in measures.items()}
        for s, measures in found.items()
    }


def mean(of: Mapping[str, np.ndarray]) -> float:
    """Mean over tasks of the means over runs."""
    return float(np.mean([v.mean() for v in of.values()]))


def apart(left: ByTask, right: ByTask, draws: int = 4000) -> str:
    """Mean difference over common tasks with a bootstrap interval over the runs of each, if these are three or more."""
    tasks = sorted(set(left) & set(right))
    if not tasks or left is right:
        return "-"
    rng = np.random.default_rng(0)

    def resampled(of: np.ndarray) -> np.ndarray:
        return of[rng.integers(len(of), size=(draws, len(of)))].mean(axis=1)

    point = np.mean([left[t].mean() - right[t].mean() for t in tasks])
    if min(len(of[t]) for of in (left, right) for t in tasks) < 3:
        return f"{point:+.3f}"
    drawn = np.mean([resampled(left[t]) - resampled(right[t]) for t in tasks], axis=0)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return f"{point:+.3f} [{low:+.3f}, {high:+.3f}]"


def cell(of: np.ndarray | None) -> str:
    """Mean, standard error and number of runs."""
    if of is None:
        return "-"
    error = f"±{of.std(ddof=1) / len(of) ** 0.5:.3f}, " if len(of) > 1 else ""
    return f"{of.mean():.3f} ({error}{len(of)})"
