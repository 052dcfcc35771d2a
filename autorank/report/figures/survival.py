"""How much of each finalist's gain survives from its label to the test."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from autorank.ledger.run_folder import Run
from autorank.report.style import BLUE, GAIN, GREY, INK, legend, name_axes, panels
from autorank.report.summary import main_metric

STEPS = ("label", "validation,\nchoosing seeds", "validation,\nfresh seeds", "held-out test")


def survival(run: Run) -> Figure | None:
    """The gain of each finalist at each step; the winner in colour, with its intervals."""
    entries = run.summary.get("finalists") or []
    if not entries:
        return None
    figure, (ax,) = panels(_title(run), height=4.2)
    _draw_luck(ax, run.summary.get("label_luck") or {})
    ax.axhline(0.0, color=INK, linewidth=0.8)
    for entry in sorted(entries, key=_is_winner):  # the winner last, on top of the others
        _draw_finalist(ax, _gains_of(run, entry), _is_winner(entry))
    ax.set_xlim(-0.4, len(STEPS) - 0.6)
    ax.set_xticks(range(len(STEPS)), STEPS)
    name_axes(ax, "", GAIN)
    legend(ax, loc="best")
    return figure


def _is_winner(entry: Mapping[str, Any]) -> bool:
    return "winner" in (entry.get("roles") or [])


def _draw_finalist(ax: Axes, gains: list[dict[str, Any]], winner: bool) -> None:
    means = np.array([math.nan if g.get("mean") is None else g["mean"] for g in gains])
    at = np.flatnonzero(np.isfinite(means))
    name = "winner" if winner else "other finalists"
    looks = {"color": GREY, "linewidth": 1.0, "markersize": 3.5, "zorder": 3}
    if winner:
        looks = {"color": BLUE, "linewidth": 1.8, "markersize": 5, "zorder": 4}
    shown = ax.get_legend_handles_labels()[1]
    ax.plot(at, means[at], "o-", label=None if name in shown else name, **looks)
    for i, gain in enumerate(gains) if winner else ():
        if gain.get("low") is not None and gain.get("high") is not None:
            ax.plot([i, i], [gain["low"], gain["high"]], color=BLUE, linewidth=1.2, zorder=4)


def _gains_of(run: Run, entry: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Gains at each of the steps; the winner's test is that of the fresh seeds."""
    winner = _is_winner(entry)
    test = (run.summary.get("winner") or {}).get("test") if winner else entry.get("test")
    return [
        {"mean": entry.get("label")},
        entry.get("validation_gain_percent") or {},
        entry.get("confirmed_gain_percent") or {},
        (test or {}).get(main_metric(run.summary)) or {},
    ]


def _draw_luck(ax: Axes, luck: Mapping[str, Any]) -> None:
    """The label of the luckiest copy of the baseline, on average and in one search of twenty."""
    mean, reach = luck.get("expected_best_copy"), luck.get("luckiest_copy")
    if mean is None:
        return
    ends = [(mean, "#d8d8d8")] if reach is None else [(reach, "#f0f0f0"), (mean, "#d8d8d8")]
    low = min(value for value, _ in ends)
    # With few seeds the noise is so uncertain that the band would set the scale.
    limit = 3 * max(abs(luck.get("best_label") or 0.0), abs(mean))
    for value, colour in ends:
        top = [max(value, -limit)] * 2
        ax.fill_between([-0.35, 0.35], top, 0.0, color=colour, linewidth=0, zorder=1)
    place = (0.0, max(low, -limit))
    ax.annotate("luck alone", place, ha="center", va="bottom", fontsize=7.5, color=INK)


def _title(run: Run) -> str:
    winner = next(filter(_is_winner, run.summary["finalists"]), None)
    if winner is None:
        return "No finalist was chosen"
    first = winner.get("label")
    *_, fresh, test = (g.get("mean") for g in _gains_of(run, winner))
    last, where = (fresh, "with fresh seeds") if test is None else (test, "on the held-out test")
    if first is None or last is None:
        return "Gains of the finalists from label to test"
    return f"The winner's label of {first:+.2f}% became {last:+.2f}% {where}"
