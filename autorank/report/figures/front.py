"""The front: NE gain against FLOPs."""

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from autorank.ledger.front import front_of
from autorank.ledger.run_folder import Run, labelled, searched
from autorank.ledger.trial import Trial
from autorank.report.finals import Finalist, finalists
from autorank.report.style import (
    BLUE,
    GAIN,
    GREY,
    INK,
    ORANGE,
    PALE,
    RED,
    name_axes,
    panels,
    ratios,
    robust_limits,
)

ROLES = {
    "winner": "winner",
    "winner_equal_cost": "best at equal cost",
    "winner_equal_ne": "cheapest at equal NE",
}
FLOPS = "FLOPs per example, against baseline"


def front(run: Run) -> Figure | None:
    """Every trial, the front, the baseline at (1x, 0), the finalists and the winners."""
    trials = labelled(run)
    if not trials:
        return None
    finals = finalists(run)
    figure, (ax,) = panels(_title(run), height=4.9)
    means = (float(np.nanmean(f.gains)) for f in finals if np.isfinite(f.gains).any())
    low, high = robust_limits([t.quality or 0.0 for t in trials], [0.0, *means])
    _draw_trials(ax, trials, high)
    ax.axhline(0.0, color=PALE, linewidth=0.8, zorder=0)
    ax.axvline(1.0, color=PALE, linewidth=0.8, zorder=0)
    ax.scatter([1.0], [0.0], marker="*", s=150, c=INK, label="baseline", zorder=4)
    for final in finals:
        _draw_final(ax, final)
    _draw_outside(ax, run, trials, high)
    costs = [math.exp(t.cost) for t in searched(run) if t.cost is not None]
    ratios(ax, costs + [math.exp(f.cost) for f in finals])
    ax.set_ylim(low, high)
    name_axes(ax, FLOPS, GAIN)
    _name_winners(ax, run, finals)
    handles = ax.get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    return figure


def _title(run: Run) -> str:
    gain, winner = run.summary.get("ne_gain_percent") or {}, run.summary.get("winner") or {}
    if gain.get("mean") is None:
        best = min((t.quality or 0.0 for t in labelled(run)), default=0.0)
        return f"Best label so far: NE {best:+.2f}% against the baseline"
    interval = ""
    if gain.get("low") is not None and gain.get("high") is not None:
        interval = f" (95%: {gain['low']:+.2f} to {gain['high']:+.2f})"
    ratio = winner.get("flops_ratio")
    cost = "" if ratio is None else f" at {ratio:.2g}x the FLOPs"
    return f"The winner changes NE by {gain['mean']:+.2f}%{interval}{cost}"


def _draw_trials(ax: Axes, trials: Sequence[Trial], high: float) -> None:
    """Pilots and search trials below ``high``, and their front."""
    for stages, colour, marker, name in (
        (("pilot",), GREY, "s", "pilots"),
        (("round", "promotion"), BLUE, "o", "search trials"),
    ):
        chosen = [t for t in trials if t.stage in stages]
        inside = [t for t in chosen if (t.quality or 0.0) <= high]
        looks = {"s": 22, "c": colour, "marker": marker, "alpha": 0.65, "linewidths": 0}
        ax.scatter(*_points(inside), label=name if chosen else None, **looks)
    line = {"color": BLUE, "linewidth": 1.2, "drawstyle": "steps-post"}
    ax.plot(*_points(front_of(trials)), label="front of the trials", **line)


def _points(trials: Sequence[Trial]) -> tuple[list[float], list[float]]:
    return [math.exp(t.cost or 0.0) for t in trials], [t.quality or 0.0 for t in trials]


def _draw_final(ax: Axes, final: Finalist) -> None:
    """Mean and range of a finalist's seeds; nothing if it failed with all."""
    gains = final.gains[np.isfinite(final.gains)]
    if not gains.size:
        return
    mean = gains.mean()
    name = "finalists, all data: mean and range of seeds"
    looks = {"fmt": "D", "color": ORANGE, "markeredgecolor": INK, "markeredgewidth": 0.6}
    ax.errorbar(
        [math.exp(final.cost)],
        [mean],
        yerr=[[mean - gains.min()], [gains.max() - mean]],
        markersize=6,
        capsize=3,
        linewidth=1.2,
        zorder=5,
        label=None if name in ax.get_legend_handles_labels()[1] else name,
        **looks,
    )


def _draw_outside(ax: Axes, run: Run, trials: Sequence[Trial], high: float) -> None:
    """On the upper edge, what the axes cannot hold: labels far above, and failed trials."""
    outside = [t for t in trials if (t.quality or 0.0) > high]
    failed = [t for t in searched(run) if t.status == "failed"]
    for chosen, marker, colour, name in (
        (outside, "^", GREY, f"{len(outside)} worse than shown"),
        (failed, "x", RED, f"{len(failed)} failed"),
    ):
        if chosen:
            costs = [math.exp(t.cost or 0.0) for t in chosen]
            looks = {"marker": marker, "c": colour, "s": 34, "clip_on": False, "zorder": 6}
            ax.scatter(costs, [high] * len(costs), label=name, **looks)


def _name_winners(ax: Axes, run: Run, finals: Sequence[Finalist]) -> None:
    """Writes the roles of chosen finalists beside them."""
    roles: dict[tuple[int, ...], list[str]] = {}
    for role, text in ROLES.items():
        choices = (run.summary.get(role) or {}).get("choices")
        if choices:
            roles.setdefault(tuple(choices), []).append(text)
    box = {"boxstyle": "round,pad=0.15", "fc": "white", "ec": "none", "alpha": 0.8}
    for final in finals:
        if final.config in roles:
            ax.annotate(
                ", ".join(roles[final.config]),
                (math.exp(final.cost), float(np.nanmean(final.gains))),
                textcoords="offset points",
                xytext=(9, -11),
                fontsize=8,
                color=INK,
                zorder=7,
                bbox=box,
            )
