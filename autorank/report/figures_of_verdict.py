"""Figure about the verdict: how much of each finalist's gain survives."""

import math
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from autorank.ledger.run_folder import Run
from autorank.report.style import BLUE, GREY, INK, label, legend, panels

STEPS = ("label", "validation,\nchoosing seeds", "validation,\nfresh seeds", "held-out test")


def survival(run: Run) -> Figure | None:
    """NE gain of each finalist from its label to the test; the winner in colour, with its intervals."""
    entries = run.summary.get("finalists") or []
    if not entries:
        return None
    figure, (ax,) = panels(title(run), height=4.2)
    draw_luck(ax, run.summary.get("label_luck") or {})
    ax.axhline(0.0, color=INK, linewidth=0.8)
    shown: set[str] = set()
    # The winner last, above the others.
    for entry in sorted(entries, key=lambda e: "winner" in (e.get("roles") or [])):
        winner = "winner" in (entry.get("roles") or [])
        gains = steps_of(run, entry, winner)
        means = np.array([g.get("mean") if g.get("mean") is not None else math.nan for g in gains])
        at = np.flatnonzero(np.isfinite(means))
        name = "winner" if winner else "other finalists"
        colour = BLUE if winner else GREY
        ax.plot(at, means[at], "o-", color=colour, linewidth=1.8 if winner else 1.0, markersize=5 if winner else 3.5,
                zorder=4 if winner else 3, label=None if name in shown else name)  # fmt: skip
        shown.add(name)
        if winner:
            spans = [
                (i, g)
                for i, g in enumerate(gains)
                if g.get("low") is not None and g.get("high") is not None
            ]
            for i, gain in spans:
                ax.plot([i, i], [gain["low"], gain["high"]], color=BLUE, linewidth=1.2, zorder=4)
    ax.set_xlim(-0.4, len(STEPS) - 0.6)
    ax.set_xticks(range(len(STEPS)), STEPS)
    label(ax, "", "NE gain against baseline (%, lower is better)")
    legend(ax, loc="best")
    return figure


def steps_of(run: Run, entry: dict[str, Any], winner: bool) -> list[dict[str, Any]]:
    """Gains at each of the steps; the winner's test is that of the fresh seeds."""
    metric, tasks = run.summary.get("metric"), run.summary.get("tasks") or []
    metric = metric if metric in tasks or not tasks else tasks[0]
    test = (run.summary.get("winner") or {}).get("test") if winner else entry.get("test")
    return [
        {"mean": entry.get("label")},
        entry.get("validation_gain_percent") or {},
        entry.get("confirmed_gain_percent") or {},
        (test or {}).get(metric) or {},
    ]


def draw_luck(ax: Any, luck: dict[str, Any]) -> None:
    """What the luckiest copy of the baseline would have as its label, on average and in one search of twenty."""
    mean, reach = luck.get("expected_best_copy"), luck.get("luckiest_copy")
    if mean is None:
        return
    ends = [(mean, "#d8d8d8")] if reach is None else [(reach, "#f0f0f0"), (mean, "#d8d8d8")]
    low = min(value for value, _ in ends)
    best = luck.get("best_label")
    # A few seeds know the noise so badly that the band would set the scale.
    limit = 3 * max(abs(best or 0.0), abs(mean))
    for value, colour in ends:
        ax.fill_between(
            [-0.35, 0.35], [max(value, -limit)] * 2, 0.0, color=colour, linewidth=0, zorder=1
        )
    ax.annotate(
        "luck alone", (0.0, max(low, -limit)), ha="center", va="bottom", fontsize=7.5, color=INK
    )


def title(run: Run) -> str:
    """The winner's way in a line."""
    winner = next((e for e in run.summary["finalists"] if "winner" in (e.get("roles") or [])), None)
    if winner is None:
        return "No finalist was chosen"
    first = winner.get("label")
    *_, fresh, test = (g.get("mean") for g in steps_of(run, winner, True))
    last, where = (
        (test, "on the held-out test") if test is not None else (fresh, "with fresh seeds")
    )
    if first is None or last is None:
        return "Gains of the finalists from label to test"
    return f"The winner's label of {first:+.2f}% became {last:+.2f}% {where}"
