"""What `bench_search.csv` says: tables between markers in docs/results.md, and figures.

python experiments/bench_search_report.py            writes docs/results.md's tables and docs/bench_search.png
python experiments/bench_search_report.py --check    fails if the document differs from the CSV

Regret is normalised: 0 is the best known loss of a task, 1 a median random configuration. A searcher's figure on a task
is the mean over its seeds; a comparison uses the tasks that both have; its interval is a bootstrap over tasks, and over
seeds within each. Seeds from 100 on are those that settings were chosen on: the ablation shows them, nothing else does.
"""

import argparse
import csv
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
CSV = ROOT / "experiments" / "results" / "bench_search.csv"
DOCUMENT = ROOT / "docs" / "results.md"
FIGURE = ROOT / "docs" / "bench_search.png"
SUITES_FIGURE = ROOT / "docs" / "bench_search_suites.png"
FIRST_TUNING_SEED = 100
OURS = ("autorank", "paper", "random", "evolution", "reinforce")
Curves = dict[
    str, dict[str, np.ndarray]
]  # searcher -> task -> regret [seeds, points], NaN beyond a run


class Table:
    """The CSV, by batch size and noise."""

    def __init__(self, rows: Sequence[Mapping[str, str]]) -> None:
        self.rows = rows
        self.points = sorted({int(r["trials"]) for r in rows})

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
        return {s: {t: np.stack([c for _, c in sorted(v.items())]) for t, v in ts.items()}
                for s, ts in found.items()}  # fmt: skip


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


def shown(searchers: Sequence[str]) -> list[str]:
    """Searchers without the variants of an ablation."""
    return [s for s in searchers if "+" not in s]


def overall(table: Table, batch: int) -> list[str]:
    """Regret by searcher and the paired difference from autorank."""
    curves = table.curves(batch)
    place = {n: table.points.index(n) for n in (25, 50, 100) if n in table.points}
    now = at(curves, place[100])
    ours = now.get("autorank", {})
    lines = [
        "| searcher | tasks | runs | regret at 25 | at 50 | at 100 | autorank on the same tasks | autorank minus it "
        "[95 % interval] | s a suggestion |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    seconds = at(table.curves(batch, column="seconds_per_suggestion"), place[100])
    order = sorted(shown(list(now)), key=lambda s: np.mean([v.mean() for v in now[s].values()]))
    for s in order:
        cells = [
            np.mean([v.mean() for v in at(curves, place[n])[s].values()]) for n in (25, 50, 100)
        ]
        runs = sum(len(v) for v in now[s].values())
        point, low, high, n = paired(ours, now[s])
        same = np.mean([ours[t].mean() for t in ours if t in now[s]]) if n else float("nan")
        gap = "-" if s == "autorank" else f"{point:+.4f} [{low:+.4f}, {high:+.4f}]"
        cost = np.mean([v.mean() for v in seconds[s].values()])
        lines.append(
            f"| {s} | {len(now[s])} | {runs} | {cells[0]:.3f} | {cells[1]:.3f} | {cells[2]:.4f} | {same:.4f} | {gap} | "
            f"{cost:.2g} |"
        )
    return lines


def without_failures(table: Table) -> list[str]:
    """The paired difference over the tasks of which no part fails by design."""
    now = at(table.curves(1), table.points.index(100))
    kept = {
        s: {t: v for t, v in tasks.items() if not t.startswith("mixed_crash/")}
        for s, tasks in now.items()
    }
    lines = ["| peer | tasks | its regret at 100 | autorank | autorank minus it [95 % interval] |"]
    lines.append("|---|---|---|---|---|")
    peers = sorted(set(shown(list(now))) - set(OURS))
    if "optuna-gp-worst" in now:
        # All tasks again: that variant where a part of the space fails, the default where nothing does.
        mended = "optuna-gp, failing tasks as optuna-gp-worst"
        kept[mended] = kept["optuna-gp"] | now["optuna-gp-worst"]
        kept["autorank"] = now["autorank"]
        peers.append(mended)
    for s in peers:
        point, low, high, n = paired(kept["autorank"], kept[s])
        if n:
            tasks = set(kept["autorank"]) & set(kept[s])
            own = np.mean([kept[s][t].mean() for t in tasks])
            base = np.mean([kept["autorank"][t].mean() for t in tasks])
            gap = f"{point:+.4f} [{low:+.4f}, {high:+.4f}]"
            lines.append(f"| {s} | {n} | {own:.4f} | {base:.4f} | {gap} |")
    return lines


def by_suite(table: Table) -> list[str]:
    """Mean regret at 100 per suite over the tasks that every listed searcher has, and autorank's rank.

    Listed are the searchers that ran on half of the tasks or more.
    """
    now = at(table.curves(1), table.points.index(100))
    suites = list(dict.fromkeys(t.split("/")[0] for t in now["autorank"]))
    searchers, _ = of_many(now)
    lines = [f"| suite | tasks | {' | '.join(searchers)} | autorank's rank |"]
    lines.append("|" + "---|" * (len(searchers) + 3))
    for suite in suites:
        tasks = [t for t in now["autorank"] if t.startswith(f"{suite}/")]
        tasks = [t for t in tasks if all(t in now[s] for s in searchers)]
        if not tasks:
            continue
        values = {s: np.mean([now[s][t].mean() for t in tasks]) for s in searchers}
        rank = 1 + sum(v < values["autorank"] - 1e-9 for v in values.values())
        cells = " | ".join(f"{values[s]:.4f}" for s in searchers)
        lines.append(f"| {suite} | {len(tasks)} | {cells} | {rank} |")
    return lines


def reach(table: Table) -> list[str]:
    """Trials after which autorank's mean regret is at most a peer's at 100, on common tasks."""
    curves = table.curves(1)
    end = table.points.index(100)
    now = at(curves, end)
    lines = ["| peer | its regret at 100 | autorank is there after | tasks |", "|---|---|---|---|"]
    for s in sorted(set(shown(list(now))) - set(OURS)):
        tasks = sorted(set(now[s]) & set(now["autorank"]))
        if not tasks:
            continue
        level = np.mean([now[s][t].mean() for t in tasks])
        means = np.mean([np.nanmean(curves["autorank"][t], axis=0) for t in tasks], axis=0)
        there = [n for n, v in zip(table.points, means, strict=True) if v <= level]
        when = f"{there[0]} trials" if there else f"not within {table.points[-1]}"
        lines.append(f"| {s} | {level:.4f} | {when} | {len(tasks)} |")
    return lines


def wasted(table: Table) -> list[str]:
    """Failed trials among the first 100 where 17 % of the space fail."""
    found = at(table.curves(1, column="failed"), table.points.index(100))
    lines = ["| searcher | failed of 100 | regret at 100 | runs |", "|---|---|---|---|"]
    regret = at(table.curves(1), table.points.index(100))
    rows = []
    for s, tasks in found.items():
        own = {t: v for t, v in tasks.items() if t.startswith("mixed_crash/")}
        if own:
            values = np.concatenate(list(own.values()))
            level = np.mean([regret[s][t].mean() for t in own])
            rows.append((values.mean(), s, level, len(values)))
    lines += [f"| {s} | {v:.1f} | {r:.3f} | {n} |" for v, s, r, n in sorted(rows) if "+" not in s]
    return lines


def ablation(table: Table) -> list[str]:
    """Variants of a searcher against it, on common tasks of the tuning seeds, and variants of the other seeds."""
    lines = [
        "| variant | seeds | tasks | runs | its regret at 100 | autorank on the same tasks | variant minus autorank "
        "[95 % interval] |",
        "|---|---|---|---|---|---|---|",
    ]
    for tuning in (True, False):
        now = at(table.curves(1, tuning=tuning), table.points.index(100))
        ours = now.get("autorank", {})
        for s in sorted(s for s in now if "+" in s):
            point, low, high, n = paired(now[s], ours)
            if n:
                tasks = set(now[s]) & set(ours)
                runs = sum(len(now[s][t]) for t in tasks)
                own = np.mean([now[s][t].mean() for t in tasks])
                base = np.mean([ours[t].mean() for t in tasks])
                lines.append(
                    f"| `{s}` | {'tuning' if tuning else 'others'} | {n} | {runs} | {own:.4f} | {base:.4f} | "
                    f"{point:+.4f} [{low:+.4f}, {high:+.4f}] |"
                )
    return lines


def of_many(now: Mapping[str, Mapping[str, np.ndarray]]) -> tuple[list[str], list[str]]:
    """Searchers that ran on half of autorank's tasks or more, and the tasks that all of them have."""
    searchers = sorted(s for s in shown(list(now)) if 2 * len(now[s]) >= len(now["autorank"]))
    tasks = [t for t in now["autorank"] if all(t in now[s] for s in searchers)]
    return searchers, tasks


def ranks(table: Table) -> list[str]:
    """Mean rank over tasks at some numbers of trials; equal regrets share their mean rank."""
    curves = table.curves(1)
    searchers, tasks = of_many(at(curves, table.points.index(100)))
    lines = [f"| trials | {' | '.join(searchers)} | tasks |", "|" + "---|" * (len(searchers) + 2)]
    for n in (25, 50, 75, 100):
        if n not in table.points:
            continue
        now = at(curves, table.points.index(n))
        values = np.array([[now[s][t].mean() for s in searchers] for t in tasks])
        # Differences below a ten-thousandth of a median random regret are ties.
        apart = values[:, :, None] - values[:, None, :]
        rank = 1 + (apart > 1e-4).sum(axis=2) + 0.5 * ((np.abs(apart) <= 1e-4).sum(axis=2) - 1)
        cells = " | ".join(f"{v:.2f}" for v in rank.mean(axis=0))
        lines.append(f"| {n} | {cells} | {len(tasks)} |")
    return lines


def by_task(table: Table) -> list[str]:
    """Mean regret at 100 and, in brackets, its standard error over seeds and their number."""
    now = at(table.curves(1), table.points.index(100))
    searchers, _ = of_many(now)
    lines = [f"| task | {' | '.join(searchers)} |", "|" + "---|" * (len(searchers) + 1)]

    def cell(values: np.ndarray | None) -> str:
        if values is None:
            return "-"
        n = len(values)
        error = f"±{values.std(ddof=1) / np.sqrt(n):.4f}, " if n > 1 else ""
        return f"{values.mean():.4f} ({error}{n})"

    for task in now["autorank"]:
        cells = " | ".join(cell(now[s].get(task)) for s in searchers)
        lines.append(f"| {task} | {cells} |")
    return lines


def costs(table: Table) -> list[str]:
    """CPU seconds of suggestions (ask and tell, compiling included), from the provenance beside the CSV."""
    found = json.loads(CSV.with_suffix(".json").read_text())["searchers"]
    lines = ["| searcher | runs | trials | CPU minutes | CPU s a run |", "|---|---|---|---|---|"]
    for s, row in sorted(found.items()):
        seconds = row["cpu_seconds"]
        lines.append(
            f"| `{s}` | {row['runs']} | {row['trials']} | {seconds / 60:.1f} | {seconds / row['runs']:.2g} |"
        )
    return lines


def figure(table: Table) -> None:
    """Mean regret over the tasks that all have, against trials, with 95 % intervals over tasks."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    curves = table.curves(1)
    end = table.points.index(100)
    now = at(curves, end)
    searchers, tasks = of_many(now)
    fig, axis = plt.subplots(figsize=(7, 4.2), dpi=120)
    points = table.points[: end + 1]
    for s in sorted(searchers):
        means = np.array([np.nanmean(curves[s][t], axis=0)[: end + 1] for t in tasks])
        middle = means.mean(axis=0)
        error = 1.96 * means.std(axis=0, ddof=1) / np.sqrt(len(tasks))
        line = axis.plot(points, middle, label=s, linewidth=2.4 if s == "autorank" else 1.2)[0]
        axis.fill_between(
            points, middle - error, middle + error, alpha=0.08, color=line.get_color()
        )
    axis.set(xlabel="trials", ylabel=f"normalised regret, mean over {len(tasks)} tasks")
    axis.set_yscale("log")
    axis.legend(frameon=False, fontsize=8)
    fig.tight_layout()
    fig.savefig(FIGURE)
    plt.close(fig)

    suites = list(dict.fromkeys(t.split("/")[0] for t in tasks))
    fig, axes = plt.subplots(2, -(-len(suites) // 2), figsize=(12, 5.6), dpi=110, sharex=True)
    for axis, suite in zip(axes.flat, suites, strict=False):
        own = [t for t in tasks if t.startswith(f"{suite}/")]
        for s in sorted(searchers):
            means = np.array([np.nanmean(curves[s][t], axis=0)[: end + 1] for t in own])
            width = 2.2 if s == "autorank" else 1.0
            axis.plot(points, np.maximum(means.mean(axis=0), 1e-4), label=s, linewidth=width)
        axis.set_title(f"{suite} ({len(own)} tasks)", fontsize=9)
        axis.set_yscale("log")
    axes.flat[0].legend(frameon=False, fontsize=7)
    fig.supxlabel("trials", fontsize=9)
    fig.supylabel("normalised regret", fontsize=9)
    fig.tight_layout()
    fig.savefig(SUITES_FIGURE)
    plt.close(fig)


SECTIONS: dict[str, Callable[[Table], list[str]]] = {
    "overall": lambda t: overall(t, 1),
    "batch10": lambda t: overall(t, 10),
    "without_failures": without_failures,
    "suites": by_suite,
    "ranks": ranks,
    "tasks": by_task,
    "reach": reach,
    "wasted": wasted,
    "ablation": ablation,
    "costs": costs,
}


def render(text: str, table: Table) -> str:
    """The document with every table between its markers."""
    for name, make in SECTIONS.items():
        begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
        if begin in text:
            head, rest = text.split(begin)
            _, tail = rest.split(end)
            text = f"{head}{begin}\n" + "\n".join(make(table)) + f"\n{end}{tail}"
    return text


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    with CSV.open(newline="") as stream:
        table = Table(list(csv.DictReader(stream)))
    text = DOCUMENT.read_text()
    made = render(text, table)
    if options.check:
        print("docs/results.md is up to date" if made == text else "docs/results.md differs: run")
        return int(made != text)
    DOCUMENT.write_text(made)
    figure(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
