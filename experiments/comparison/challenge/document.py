"""What the tables of Bayesmark's problems say, as tables of docs/results.md."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from scipy.stats import t as student

from autorank.app.variants import variant
from autorank.searchers.named import NEARLY_EXACT
from experiments.comparison.challenge.reference import PROTOCOLS
from experiments.comparison.challenge.table import BEST_OF, PROBLEMS, RANDOM, TABLE, Row, rows_of
from experiments.comparison.report_table import EXACT, FIRST_TUNING_SEED, paired

OURS = "autorank"
EXACTLY = variant(OURS, 1, NEARLY_EXACT)  # as sweeps and Optuna studies have it
ROUNDING = 1e-9  # relative: a signature that differs by less is equal
# Scores of runs by problem, [runs].
Scores = dict[str, np.ndarray]


def runs(protocol: str, column: str) -> Mapping[str, Scores]:
    """The challenge's score of each run, by searcher and problem, in the order of the seeds."""
    found: dict[str, dict[str, list[float]]] = {}
    for row in sorted(rows_of(TABLE), key=lambda r: int(r["seed"])):
        if row["protocol"] != protocol or int(row["seed"]) >= FIRST_TUNING_SEED:
            continue
        scores = found.setdefault(row["searcher"], {}).setdefault(row["problem"], [])
        scores.append(float(row[f"{column}_score"]))
    return {s: {p: np.array(v) for p, v in of.items()} for s, of in found.items()}


def common(scores: Mapping[str, Scores]) -> tuple[list[str], list[str]]:
    """Searchers that ran on half of autorank's problems or more, best first, and the problems that all of them have.

    Those with changed settings are not among them.
    """
    most = scores.get(OURS, {})
    many = [s for s in scores if 2 * len(set(scores[s]) & set(most)) >= len(most) and "+" not in s]
    problems = [p for p in most if all(p in scores[s] for s in many)]
    return sorted(many, key=lambda s: -mean(scores[s], problems)), problems


def mean(of: Scores, problems: Sequence[str]) -> float:
    """Mean over problems of the means over runs."""
    return float(np.mean([of[p].mean() for p in problems])) if problems else float("nan")


def overall() -> list[str]:
    """The challenge's score, with its own interval over problems, and the paired difference from autorank."""
    lines = [
        "| protocol | searcher | problems | runs | score after half of the rounds | score [95 %, over problems] | "
        "autorank minus it [95 %] | CPU s a suggestion |",
        "|" + "---|" * 8,
    ]
    for protocol in PROTOCOLS:
        half, end = runs(protocol, "half"), runs(protocol, "end")
        searchers, problems = common(end)
        if not problems:
            continue
        lines += [overall_row(protocol, s, half, end, problems) for s in searchers]
        told = {r["problem"]: float(r[f"random_{protocol}"]) for r in rows_of(PROBLEMS)}
        published = float(np.mean([told[p] for p in problems]))
        lines.append(
            f"| {protocol} | random search, published | {len(problems)} | - | - | {published:.2f} | - | - |"
        )
    return lines


def overall_row(
    protocol: str,
    searcher: str,
    half: Mapping[str, Scores],
    end: Mapping[str, Scores],
    problems: Sequence[str],
) -> str:
    """A row of `overall`: a searcher's scores on some problems, beside autorank's on the same."""
    own = {p: end[searcher][p] for p in problems}
    ours = {p: end[OURS][p] for p in problems}
    apart = "-" if searcher == OURS else difference(ours, own)
    count = sum(map(len, own.values()))
    cells = f"{len(problems)} | {count} | {mean(half[searcher], problems):.2f} | {interval(own)} | {apart}"
    return f"| {protocol} | {searcher} | {cells} | {seconds(protocol, searcher, problems):.2g} |"


def nearly_exact() -> list[str]:
    """autorank as sweeps and Optuna studies have it, beside each searcher on the same problems, 100 rounds of one."""
    end = runs("100x1", "end")
    exact = end.get(EXACTLY.name, {})
    searchers, _ = common(end)
    lines = [f"| searcher | problems | its score | {EXACT} | the latter minus it [95 %] |"]
    lines.append("|" + "---|" * 5)
    for s in searchers:
        if own := sorted(set(exact) & set(end[s])):
            left, right = ({p: end[name][p] for p in own} for name in (EXACTLY.name, s))
            scores = f"{mean(right, own):.2f} | {mean(left, own):.2f}"
            lines.append(f"| {s} | {len(own)} | {scores} | {difference(left, right)} |")
    return lines


def interval(of: Scores) -> str:
    """A score and its interval by Student's t over problems, which is that of `bayesmark.experiment_analysis`."""
    values = np.array([v.mean() for v in of.values()])
    if len(values) < 2:
        return f"{values.mean():.2f}"
    half = student.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return f"{values.mean():.2f} ± {half:.2f}"


def difference(left: Scores, right: Scores) -> str:
    """A paired difference, with a bootstrap interval over problems, and over runs within each."""
    point, low, high, n = paired(left, right)
    return f"{point:+.2f} [{low:+.2f}, {high:+.2f}]" if n > 2 else f"{point:+.2f}"


def seconds(protocol: str, searcher: str, problems: Sequence[str]) -> float:
    """Mean CPU seconds of a suggestion."""
    rows = (r for r in rows_of(TABLE) if r["protocol"] == protocol and r["searcher"] == searcher)
    return float(
        np.mean([float(r["seconds_per_suggestion"]) for r in rows if r["problem"] in problems])
    )


def by_part() -> list[str]:
    """Scores by model and by data set, one suggestion at a time, and the difference from the best other searcher."""
    end = runs("100x1", "end")
    searchers, problems = common(end)
    lines = [
        f"| of | problems | {' | '.join(searchers)} | autorank minus the best other "
        "| nearly exact, default, on the same |",
        "|" + "---|" * (len(searchers) + 4),
    ]
    exact = end.get(EXACTLY.name, {})
    others = [s for s in searchers if s != OURS]
    if not problems or not others:
        return lines
    for place in (0, 1, 2):
        for part in sorted({p.split("_")[place] for p in problems}):
            own = [p for p in problems if p.split("_")[place] == part]
            means = {s: mean(end[s], own) for s in searchers}
            best = max(others, key=lambda s: means[s])
            apart = difference(*({p: end[s][p] for p in own} for s in (OURS, best)))
            cells = " | ".join(f"{means[s]:.1f}" for s in searchers)
            both = [p for p in own if p in exact]
            pair = f"{mean(exact, both):.1f}, {mean(end[OURS], both):.1f} ({len(both)})"
            last = pair if both else "-"
            lines.append(f"| {part} | {len(own)} | {cells} | {apart} ({best}) | {last} |")
    return lines


def behind(margin: float = 5.0) -> list[str]:
    """Problems on which a searcher is ahead of autorank, one suggestion at a time, by more than ``margin``."""
    end = runs("100x1", "end")
    searchers, problems = common(end)
    lines = [f"| problem | autorank | ahead by more than {margin:g} |", "|---|---|---|"]
    for p in problems:
        own = end[OURS][p].mean()
        ahead = {s: v for s in searchers if (v := end[s][p].mean()) > own + margin}
        if ahead:
            names = ", ".join(f"{s} ({v:.1f})" for s, v in sorted(ahead.items()))
            lines.append(f"| {p} | {own:.1f} | {names} |")
    return lines


def signatures() -> list[str]:
    """How many problems are the published ones, by their signatures."""
    rows = rows_of(PROBLEMS)
    lines = ["| signature against the published one | problems | which |", "|---|---|---|"]
    apart = {r["problem"]: float(r["signature_error"]) for r in rows}
    same = [p for p, v in apart.items() if v <= ROUNDING]
    other = [p for p, v in apart.items() if v > ROUNDING]
    lines.append(f"| equal to {ROUNDING:.0e} | {len(same)} | all but those below |")
    if other:
        worst = max(apart[p] for p in other)
        lines.append(f"| apart by {worst:.1e} at most | {len(other)} | {', '.join(other)} |")
    return lines


def random_search() -> list[str]:
    """How often the published medians of random search lie in the intervals of those found here."""
    rows = rows_of(RANDOM)
    lines = [
        "| protocol | best of | problems | evaluations of each | published median inside the 95 % interval of ours "
        "| below it | above it |",
        "|" + "---|" * 7,
    ]
    for protocol, sizes in BEST_OF.items():
        for m in sizes:
            some = [r for r in rows if r["protocol"] == protocol and int(r["best_of"]) == m]
            if not some:
                continue
            below = sum(is_beyond(r, lambda told, low, high: told < low) for r in some)
            above = sum(is_beyond(r, lambda told, low, high: told > high) for r in some)
            counts = sorted({int(r["evaluations"]) for r in some})
            each = f"{counts[0]} to {counts[-1]}" if len(counts) > 1 else str(counts[0])
            inside = len(some) - below - above
            lines.append(
                f"| {protocol} | {m} | {len(some)} | {each} | {inside} | {below} | {above} |"
            )
    return lines


def is_beyond(row: Row, test: Callable[[float, float, float], bool]) -> bool:
    """Whether the published median fails a test of the interval by more than rounding."""
    told, low, high = (float(row[k]) for k in ("published", "low", "high"))
    slack = ROUNDING * max(abs(told), ROUNDING)
    return test(told, low - slack, high + slack)


SECTIONS = {
    "bayesmark": overall,
    "bayesmark_exact": nearly_exact,
    "bayesmark_parts": by_part,
    "bayesmark_behind": behind,
    "bayesmark_signatures": signatures,
    "bayesmark_random": random_search,
}
