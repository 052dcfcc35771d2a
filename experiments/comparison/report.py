"""What `bench_search.csv` says: tables between markers in docs/results.md, figures, and a page for your own table.

python -m experiments.comparison.report            writes docs/results.md's tables and docs/bench_search*.png
python -m experiments.comparison.report --check    fails if the document differs from the CSV
python -m experiments.comparison.report --csv runs/mine.csv --page runs/mine.html     tables and figures in one file

Regret is normalised: 0 is the best known loss of a task, 1 a median random configuration. A searcher's figure on a task
is the mean over its seeds; a comparison uses the tasks that both have; its interval is a bootstrap over tasks, and over
seeds within each. Seeds from 100 on are those that settings were chosen on: the ablation shows them, nothing else does.
"""

import argparse
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from autorank.app.variants import variant
from autorank.benchmarks.dhen import DHEN_TASKS
from autorank.searchers.named import NEARLY_EXACT
from experiments.comparison.challenge.document import SECTIONS as CHALLENGE
from experiments.comparison.figures import FIGURES
from experiments.comparison.front_table import of_front_tasks, of_fronts
from experiments.comparison.noise import noise_of, noise_text
from experiments.comparison.page import page
from experiments.comparison.report_table import (
    EXACT,
    OURS,
    Table,
    at,
    gap,
    mean_ranks,
    of_exact,
    of_many,
    paired,
    read_table,
)
from experiments.machine import RESULTS, ROOT

CSV = RESULTS / "bench_search.csv"
DOCUMENT = ROOT / "docs" / "results.md"
FIGURE_FOLDER = ROOT / "docs"


def overall(
    table: Table, batch: int | None = None, noise: float | str | None = None, end: int = 100
) -> list[str]:
    """Regret by searcher at some numbers of trials up to ``end``, and the paired difference from autorank there."""
    curves = table.curves(batch, noise)
    last = table.place(end)
    places = {n: table.place(n) for n in (25, 50, 100) if n in table.points} | {end: last}
    now = at(curves, places[end])
    ours = now.get("autorank", {})
    heads = " | ".join(f"{'regret ' if i == 0 else ''}at {n}" for i, n in enumerate(places))
    lines = [
        f"| searcher | tasks | runs | {heads} | autorank on the same tasks | autorank minus it [95 % interval] | "
        "s a suggestion |",
        "|" + "---|" * (len(places) + 6),
    ]
    seconds = at(table.curves(batch, noise, "seconds_per_suggestion"), places[end])
    order = sorted(now, key=lambda s: np.mean([v.mean() for v in now[s].values()]))
    for s in order:
        # Only tasks and seeds that went as far as ``end``.
        done = {t: v[np.isfinite(v[:, places[end]])] for t, v in curves[s].items() if t in now[s]}
        cells = " | ".join(
            f"{np.mean([v[:, i].mean() for v in done.values()]):.{4 if n == end else 3}f}"
            for n, i in places.items()
        )
        runs = sum(len(v) for v in now[s].values())
        found = paired(ours, now[s])
        n = found[-1]
        same = f"{np.mean([ours[t].mean() for t in ours if t in now[s]]):.4f}" if n else "-"
        apart = "-" if s == "autorank" or not n else gap(*found)
        cost = np.mean([v.mean() for v in seconds[s].values()])
        lines.append(f"| {s} | {len(now[s])} | {runs} | {cells} | {same} | {apart} | {cost:.2g} |")
    return lines


def noise_levels(table: Table) -> list[str]:
    """Regret at 100 by level of noise, of what is recommended and of what looked best, beside the nearly exact one.

    ``table`` has the names of the file.
    """
    exact = variant("autorank", 1, NEARLY_EXACT).name
    named = {exact: EXACT}
    both = Table([{**r, "searcher": named.get(r["searcher"], r["searcher"])} for r in table.rows])
    lines = [
        "| noise | searcher | tasks | runs | regret at 100 | of the trial that looked best "
        "| autorank on the same tasks | autorank minus it [95 % interval] |",
        "|" + "---|" * 8,
    ]
    levels = {noise_of(r["noise"]) for r in table.rows if r["searcher"] == "autorank"}
    for noise in sorted(levels, key=lambda level: (isinstance(level, str), level)):
        now = at(both.curves(1, noise), both.place(100))
        looked = at(both.curves(1, noise, "observed"), both.place(100))
        own = now.get("autorank", {})
        for s in sorted(now, key=lambda s: (s != "autorank", s)):
            if not (tasks := sorted(set(own) & set(now[s]))):
                continue
            means = (np.mean([of[t].mean() for t in tasks]) for of in (now[s], looked[s], own))
            cells = " | ".join(f"{mean:.4f}" for mean in means)
            apart = "-" if s == "autorank" else gap(*paired(own, now[s]))
            runs = sum(len(now[s][t]) for t in tasks)
            lines.append(
                f"| {noise_text(noise)} | {s} | {len(tasks)} | {runs} | {cells} | {apart} |"
            )
    return lines


def noise_suites(table: Table) -> list[str]:
    """Regret at 100 by level of noise and suite, beside that of Optuna's Gaussian process."""
    peer = "optuna-gp"
    lines = [
        f"| noise | suite | tasks | autorank | {peer} | autorank minus it [95 % interval] |",
        "|" + "---|" * 6,
    ]
    levels = {noise_of(r["noise"]) for r in table.rows if r["searcher"] == "autorank"}
    for noise in sorted(levels, key=lambda level: (isinstance(level, str), level)):
        now = at(table.curves(1, noise), table.place(100))
        if peer not in now:
            continue
        common = sorted(set(now["autorank"]) & set(now[peer]))
        suites = list(dict.fromkeys(task.split("/")[0] for task in common))
        parts = {"all": suites, "all but mixed_crash": [s for s in suites if s != "mixed_crash"]}
        for suite, of in (parts | {suite: [suite] for suite in suites}).items():
            tasks = [task for task in common if task.split("/")[0] in of]
            own, theirs = ({t: now[s][t] for t in tasks} for s in ("autorank", peer))
            means = (np.mean([v.mean() for v in half.values()]) for half in (own, theirs))
            cells = " | ".join(f"{mean:.4f}" for mean in means)
            lines.append(
                f"| {noise_text(noise)} | {suite} | {len(own)} | {cells} | {gap(*paired(own, theirs))} |"
            )
    return lines


def of_few(table: Table) -> list[str]:
    """Regret at 100 on the tasks of the searchers that ran on a part of them (`of_many` has the others)."""
    now = at(table.curves(), table.place(100))
    many, _ = of_many(now)
    few = sorted(set(now) - set(many))
    tasks = [t for t in now["autorank"] if any(t in now[s] for s in few)]
    columns = ["autorank", *few]
    lines = [f"| task | {' | '.join(columns)} |", "|" + "---|" * (len(columns) + 1)]
    for t in tasks:
        cells = (
            f"{now[s][t].mean():.4f} ({len(now[s][t])})" if t in now[s] else "-" for s in columns
        )
        lines.append(f"| {t} | {' | '.join(cells)} |")
    return lines


def without_failures(table: Table) -> list[str]:
    """The paired difference over the tasks of which no part fails by design."""
    now = at(table.curves(), table.place(100))
    kept = {
        s: {t: v for t, v in tasks.items() if not t.startswith("mixed_crash/")}
        for s, tasks in now.items()
    }
    lines = ["| peer | tasks | its regret at 100 | autorank | autorank minus it [95 % interval] |"]
    lines.append("|---|---|---|---|---|")
    peers = sorted(set(now) - set(OURS))
    if "optuna-gp-worst" in now:
        # All tasks again: that variant where a part of the space fails, the default where nothing does.
        mended = "optuna-gp, failing tasks as optuna-gp-worst"
        kept[mended] = kept["optuna-gp"] | now["optuna-gp-worst"]
        kept["autorank"] = now["autorank"]
        peers.append(mended)
    for s in peers:
        found = paired(kept["autorank"], kept[s])
        if n := found[-1]:
            tasks = set(kept["autorank"]) & set(kept[s])
            own = np.mean([kept[s][t].mean() for t in tasks])
            base = np.mean([kept["autorank"][t].mean() for t in tasks])
            lines.append(f"| {s} | {n} | {own:.4f} | {base:.4f} | {gap(*found)} |")
    return lines


def by_suite(table: Table) -> list[str]:
    """Mean regret at 100 per suite over the tasks that every listed searcher has, and autorank's rank.

    Listed are the searchers that ran on half of the tasks or more.
    """
    now = at(table.curves(), table.place(100))
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


def behind(table: Table, margin: float = 0.005) -> list[str]:
    """Tasks on which a searcher that ran on most tasks is ahead of autorank at 100 by more than ``margin``."""
    now = at(table.curves(), table.place(100))
    searchers, _ = of_many(now)
    lines = [f"| task | autorank | ahead by more than {margin:g} |", "|---|---|---|"]
    for t, own in now["autorank"].items():
        ahead = {s: now[s][t].mean() for s in searchers if t in now[s]}
        ahead = {s: v for s, v in ahead.items() if v < own.mean() - margin}
        if ahead:
            names = ", ".join(f"{s} ({v:.4f})" for s, v in sorted(ahead.items()))
            lines.append(f"| {t} | {own.mean():.4f} | {names} |")
    return lines


def reach(table: Table) -> list[str]:
    """Trials after which autorank's mean regret is at most a peer's at 100, on common tasks."""
    curves = table.curves()
    end = table.place(100)
    now = at(curves, end)
    lines = ["| peer | its regret at 100 | autorank is there after | tasks |", "|---|---|---|---|"]
    for s in sorted(set(now) - set(OURS)):
        tasks = sorted(set(now[s]) & set(now["autorank"]))
        if not tasks:
            continue
        level = np.mean([now[s][t].mean() for t in tasks])
        # Up to 100 trials, which all runs have.
        whole = [curves["autorank"][t][:, : end + 1] for t in tasks]
        means = np.mean([v[np.isfinite(v[:, -1])].mean(axis=0) for v in whole], axis=0)
        there = [n for n, v in zip(table.points, means, strict=False) if v <= level]
        when = f"{there[0]} trials" if there else "not within 100"
        lines.append(f"| {s} | {level:.4f} | {when} | {len(tasks)} |")
    return lines


def wasted(table: Table) -> list[str]:
    """Failed trials among the first 100 where 17 % of the space fail."""
    found = at(table.curves(column="failed"), table.place(100))
    lines = ["| searcher | failed of 100 | regret at 100 | runs |", "|---|---|---|---|"]
    regret = at(table.curves(), table.place(100))
    rows = []
    for s, tasks in found.items():
        own = {t: v for t, v in tasks.items() if t.startswith("mixed_crash/")}
        if own:
            values = np.concatenate(list(own.values()))
            level = np.mean([regret[s][t].mean() for t in own])
            rows.append((values.mean(), s, level, len(values)))
    lines += [f"| {s} | {v:.1f} | {r:.3f} | {n} |" for v, s, r, n in sorted(rows)]
    return lines


def ablation(table: Table) -> list[str]:
    """Variants of a searcher against it, on common tasks of the tuning seeds, and variants of the other seeds."""
    lines = [
        "| variant | seeds | tasks | runs | its regret at 100 | without the change, same tasks | difference "
        "[95 % interval] |",
        "|---|---|---|---|---|---|---|",
    ]
    for tuning in (True, False):
        now = at(table.curves(tuning=tuning, variants=True), table.place(100))
        for s in sorted(s for s in now if "+" in s):
            ours = now.get(s.partition("+")[0], {})
            found = paired(now[s], ours)
            if n := found[-1]:
                tasks = set(now[s]) & set(ours)
                runs = sum(len(now[s][t]) for t in tasks)
                own = np.mean([now[s][t].mean() for t in tasks])
                base = np.mean([ours[t].mean() for t in tasks])
                lines.append(
                    f"| `{s}` | {'tuning' if tuning else 'others'} | {n} | {runs} | {own:.4f} | {base:.4f} | "
                    f"{gap(*found)} |"
                )
    return lines


def ranks(table: Table) -> list[str]:
    """Mean rank over tasks at some numbers of trials."""
    curves = table.curves()
    searchers, tasks = of_many(at(curves, table.place(100)))
    lines = [f"| trials | {' | '.join(searchers)} | tasks |", "|" + "---|" * (len(searchers) + 2)]
    if not tasks:
        return lines
    for n in (25, 50, 75, 100):
        if n not in table.points:
            continue
        found = mean_ranks(at(curves, table.place(n)), searchers, tasks)
        lines.append(f"| {n} | {' | '.join(f'{v:.2f}' for v in found)} | {len(tasks)} |")
    return lines


def by_task(table: Table) -> list[str]:
    """Mean regret at 100 and, in brackets, its standard error over seeds and their number."""
    now = at(table.curves(), table.place(100))
    searchers, _ = of_many(now)
    lines = [f"| task | {' | '.join(searchers)} |", "|" + "---|" * (len(searchers) + 1)]

    def cell(values: np.ndarray | None) -> str:
        if values is None:
            return "-"
        n = len(values)
        error = f"±{values.std(ddof=1) / np.sqrt(n):.4f}, " if n > 1 else ""
        return f"{values.mean():.4f} ({error}{n})"

    for task in max(now.values(), key=len, default={}):
        cells = " | ".join(cell(now[s].get(task)) for s in searchers)
        lines.append(f"| {task} | {cells} |")
    return lines


def costs(table: Table) -> list[str]:
    """CPU seconds of suggestions (ask and tell, compiling included)."""
    lines = ["| searcher | runs | trials | CPU minutes | CPU s a run |", "|---|---|---|---|---|"]
    for s, row in sorted(table.costs.items()):
        seconds = row["cpu_seconds"]
        lines.append(
            f"| `{s}` | {row['runs']} | {row['trials']} | {seconds / 60:.1f} | {seconds / row['runs']:.2g} |"
        )
    return lines


def dhen_tables(_: Table) -> list[str]:
    """What the committed tables of our own DHENs hold, from the provenance beside them."""
    lines = [
        "| task | configurations | failed | seeds each | rows of a pass | best NE | median NE | sd of NE over seeds | "
        "tau of two seeds | seconds | device |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for task in DHEN_TASKS:
        told = json.loads((CSV.parent / f"dhen_table_{task}.json").read_text())
        sd, tau = (told.get(k) for k in ("seed_noise_sd_of_one_run", "kendall_tau_of_two_seeds"))
        cells = (
            f"dhen/{task}",
            told["configurations"],
            told["failed_configurations"],
            told["seeds_each"],
            f"{told['rows_of_a_pass']:,}",
            f"{told['best_ne']:.5f}",
            f"{told['median_ne']:.5f}",
            "-" if sd is None else f"{sd:.5f}",
            "-" if tau is None else f"{tau:.3f}",
            f"{told['seconds']:.0f}",
            told["device"],
        )
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return lines


def recorded_tables(_: Table) -> list[str]:
    """What the committed tables of random configurations hold, from the statistics beside them."""
    lines = [
        "| task | configurations | share failed | runs | rows of a pass | windows | best NE | median NE "
        "| best possible | seed noise of the median configuration [95 %] | of the best quarter "
        "| tau-b of two seeds [95 %] | seconds | model-rows/s | device |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for file in sorted((CSV.parent / "tables").glob("*.json")):
        told = json.loads(file.read_text())["statistics"]
        cells = (
            f"tables/{file.stem}",
            told["configurations"],
            number(told["share_failed"], 4),
            told["runs"],
            f"{told['rows_of_a_pass']:,}",
            told["windows"],
            *(number(told[name], 5) for name in ("best_ne", "median_ne", "bayes_ne")),
            bounds(told["seed_noise_median"], 5),
            number(told["seed_noise_of_the_best_quarter"], 5),
            bounds(told["tau_of_two_seeds"], 3),
            f"{told['seconds']:.0f}",
            number(told["model_rows_per_second"], 0),
            "; ".join(told["devices"]),
        )
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return lines if len(lines) > 2 else ["No table is recorded yet."]


def number(value: float | None, digits: int) -> str:
    """A number, or a dash for one that is not known."""
    return "-" if value is None else f"{value:,.{digits}f}"


def bounds(found: Mapping[str, float | None], digits: int) -> str:
    """``value [low, high]``."""
    value, low, high = (number(found[name], digits) for name in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"


# By marker in docs/results.md: the title on a page of your own runs, in this order.
SECTIONS: dict[str, tuple[str, Callable[[Table], list[str]]]] = {
    "overall": ("Regret at 25, 50 and 100 trials", overall),
    "few": ("Searchers that ran on a part of the tasks (runs in brackets)", of_few),
    "batch10": ("Batches of 10", lambda t: overall(t, 10, 0.0)),
    "noise": ("With noise in what is told", lambda t: overall(t, 1, 0.05)),
    "noise_levels": ("", noise_levels),  # not of the runs
    "noise_suites": ("", noise_suites),
    "longer": ("150 trials", lambda t: overall(t, end=150)),
    "without_failures": ("Without the tasks of which a part fails", without_failures),
    "suites": ("By suite", by_suite),
    "behind": ("Tasks on which another searcher is ahead", behind),
    "ranks": ("Mean rank", ranks),
    "reach": ("Trials needed to reach a peer's level at 100", reach),
    "wasted": ("Failed trials where a part of the space fails", wasted),
    "ablation": ("Ablation", ablation),
    "costs": ("CPU seconds of suggestions", costs),
    "tasks": ("By task", by_task),
    "dhen_tables": ("", dhen_tables),  # not of the runs
    "recorded_tables": ("", recorded_tables),
    "fronts": ("", lambda _: of_fronts()),
    "front_tasks": ("", lambda _: of_front_tasks()),
    **{name: ("", lambda _, make=make: make()) for name, make in CHALLENGE.items()},
}


NOISY = (
    "noise",
    "noise_levels",
    "noise_suites",
)  # have the searchers as they run where results are noisy


def render(text: str, table: Table) -> str:
    """The document with every table between its markers; ``table`` has the names of the file."""
    exact = of_exact(table)
    for name, (_, make) in SECTIONS.items():
        begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
        if begin in text:
            head, rest = text.split(begin)
            _, tail = rest.split(end)
            text = (
                f"{head}{begin}\n"
                + "\n".join(make(table if name in NOISY else exact))
                + f"\n{end}{tail}"
            )
    return text


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--csv", type=Path, default=CSV, help="a table that bench_search wrote")
    parser.add_argument("--page", type=Path, help="write one HTML file, not docs/results.md")
    options = parser.parse_args()
    # A page of one's own runs has their variants in every table; the document has them in the ablation.
    table = read_table(options.csv, variants=options.page is not None)
    if options.page is not None:
        # Where all runs are batches of 10, the first table has them.
        own = {k: v for k, v in SECTIONS.items() if k != "batch10" or table.batch != 10}
        options.page.write_text(page(table, own, FIGURES))
        print(f"wrote {options.page}")
        return 0
    text = DOCUMENT.read_text()
    made = render(text, table)
    if options.check:
        if made == text:
            print("docs/results.md is up to date")
            return 0
        print("docs/results.md differs: run python -m experiments.comparison.report")
        return 1
    DOCUMENT.write_text(made)
    for name, (_, draw) in FIGURES.items():
        draw(of_exact(table)).savefig(FIGURE_FOLDER / f"{name}.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
