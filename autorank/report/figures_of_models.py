"""Figures about the models found: the front, learning curves, seed noise."""

import math
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from autorank.ledger.front import front_of
from autorank.ledger.run_folder import (
    Run,
    curve_of,
    full_rows,
    labelled,
    metric_of,
    of_stage,
    searched,
    winner_config,
)
from autorank.ledger.trial import Trial
from autorank.report.style import (
    BLUE,
    GREEN,
    GREY,
    INK,
    ORANGE,
    PALE,
    RED,
    label,
    legend,
    panels,
    ratios,
    robust_limits,
    rows_text,
)

ROLES = {
    "winner": "winner",
    "winner_equal_cost": "best at equal cost",
    "winner_equal_ne": "cheapest at equal NE",
}
GAIN = "NE gain against baseline (%, lower is better)"
FLOPS = "FLOPs per example, against baseline"


def front(run: Run) -> Figure | None:
    """NE gain against FLOPs: every trial, the front, the baseline at (1x, 0), the winners."""
    trials = labelled(run)
    if not trials:
        return None
    finals = finalists(run)
    figure, (ax,) = panels(front_title(run), height=4.9)
    keep = [0.0, *(float(np.nanmean(f["gain"])) for f in finals if np.isfinite(f["gain"]).any())]
    low, high = robust_limits([t.quality or 0.0 for t in trials], keep)
    for stages, colour, marker, name in (
        (("pilot",), GREY, "s", "pilots"),
        (("round", "promotion"), BLUE, "o", "search trials"),
    ):
        chosen = [t for t in trials if t.stage in stages]
        inside = [t for t in chosen if (t.quality or 0.0) <= high]
        ax.scatter(
            [math.exp(t.cost or 0.0) for t in inside],
            [t.quality or 0.0 for t in inside],
            s=22, c=colour, marker=marker, alpha=0.65, linewidths=0, label=name if chosen else None,
        )  # fmt: skip
    line = front_of(trials)
    ax.plot(
        [math.exp(t.cost or 0.0) for t in line],
        [t.quality or 0.0 for t in line],
        color=BLUE, linewidth=1.2, drawstyle="steps-post", label="front of the trials",
    )  # fmt: skip
    ax.axhline(0.0, color=PALE, linewidth=0.8, zorder=0)
    ax.axvline(1.0, color=PALE, linewidth=0.8, zorder=0)
    ax.scatter([1.0], [0.0], marker="*", s=150, c=INK, label="baseline", zorder=4)
    for final in finals:
        draw_final(ax, final)
    on_the_edge(ax, run, trials, high)
    costs = [math.exp(t.cost) for t in searched(run) if t.cost is not None]
    ratios(ax, costs + [math.exp(f["cost"]) for f in finals])
    ax.set_ylim(low, high)
    label(ax, FLOPS, GAIN)
    name_winners(ax, run, finals)
    figure.legend(
        *ax.get_legend_handles_labels(),
        loc="outside lower center",
        ncols=4,
        frameon=False,
        fontsize=8,
    )
    return figure


def front_title(run: Run) -> str:
    """The result in a line."""
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


def finalists(run: Run, kind: str = "finals") -> list[dict[str, Any]]:
    """Configuration, gains by seed (NaN = failed) and cost of each finalist; "confirmation": of the chosen ones."""
    if not run.records[kind]:
        return []
    record = run.records[kind][-1]
    gains = [[math.nan if g is None else g for g in row] for row in record.get("gain", [])]
    rows = zip(record.get("configs", []), gains, record.get("costs", []), strict=False)
    return [{"config": tuple(c), "gain": np.array(g), "cost": cost or 0.0} for c, g, cost in rows]


def draw_final(ax: Axes, final: dict[str, Any]) -> None:
    """Mean and range of a finalist's seeds; nothing for one that failed with all."""
    gains = final["gain"][np.isfinite(final["gain"])]
    if not gains.size:
        return
    mean = gains.mean()
    named = "finalists, all data: mean and range of seeds"
    ax.errorbar(
        [math.exp(final["cost"])], [mean], yerr=[[mean - gains.min()], [gains.max() - mean]],
        fmt="D", color=ORANGE, markeredgecolor=INK, markeredgewidth=0.6, markersize=6, capsize=3,
        linewidth=1.2, zorder=5,
        label=None if named in ax.get_legend_handles_labels()[1] else named,
    )  # fmt: skip


def on_the_edge(ax: Axes, run: Run, trials: list[Trial], high: float) -> None:
    """What the axes cannot hold: labels far above, and failed trials, on the upper edge."""
    outside = [t for t in trials if (t.quality or 0.0) > high]
    failed = [t for t in searched(run) if t.status == "failed"]
    for chosen, marker, colour, name in (
        (outside, "^", GREY, f"{len(outside)} worse than shown"),
        (failed, "x", RED, f"{len(failed)} failed"),
    ):
        if chosen:
            ax.scatter(
                [math.exp(t.cost or 0.0) for t in chosen], [high] * len(chosen),
                marker=marker, c=colour, s=34, clip_on=False, label=name, zorder=6,
            )  # fmt: skip


def name_winners(ax: Axes, run: Run, finals: list[dict[str, Any]]) -> None:
    """Says which finalist plays which part."""
    points: dict[tuple[int, ...], list[str]] = {}
    for role, text in ROLES.items():
        choices = (run.summary.get(role) or {}).get("choices")
        if choices:
            points.setdefault(tuple(choices), []).append(text)
    for final in finals:
        if final["config"] in points:
            ax.annotate(
                ", ".join(points[final["config"]]),
                (math.exp(final["cost"]), float(np.nanmean(final["gain"]))),
                textcoords="offset points", xytext=(9, -11), fontsize=8, color=INK, zorder=7,
                bbox={"boxstyle": "round,pad=0.15", "fc": "white", "ec": "none", "alpha": 0.8},
            )  # fmt: skip


def curves(run: Run) -> Figure | None:
    """Window NE against rows, and the gain against the baseline's mean curve."""
    reference = [curve_of(run, t) for t in of_stage(run, "seed_noise") if t.status == "finished"]
    reference = [c for c in reference if c.size]
    if not reference:
        return None
    baseline = np.mean(reference, axis=0)
    rows = np.arange(1, len(baseline) + 1) / len(baseline) * full_rows(run)
    others = [curve_of(run, t) for t in searched(run) if t.status == "finished"]
    others = [c for c in others if len(c) == len(baseline)]
    config = winner_config(run)
    pool = [
        t
        for t in (*of_stage(run, "final"), *of_stage(run, "confirmation"))
        if t.config == config and t.status == "finished"
    ]
    pool = pool or [t for t in labelled(run) if t.config == config]
    best = [c for c in (curve_of(run, t) for t in pool) if len(c) == len(baseline)]
    name = "winner" if run.summary.get("winner") else "best so far"
    figure, (left, right) = panels(curves_title(name, baseline, best), 2)
    for ax, shown in ((left, lambda c: c), (right, lambda c: 100 * (c - baseline) / baseline)):
        for curve in others:
            ax.plot(rows, shown(curve), color=PALE, linewidth=0.6, zorder=1)
        for curve in reference:
            ax.plot(rows, shown(curve), color=INK, linewidth=0.5, alpha=0.45, zorder=2)
        for curve in best:
            ax.plot(rows, shown(curve), color=BLUE, linewidth=0.5, alpha=0.45, zorder=2)
        ax.plot(rows, shown(baseline), color=INK, linewidth=1.8, label="baseline", zorder=3)
        if best:
            ax.plot(rows, shown(np.mean(best, axis=0)), color=BLUE, linewidth=1.8, zorder=3,
                    label=name)  # fmt: skip
        ax.plot([], [], color=PALE, linewidth=0.8, label="trials")
        # The untrained model's first windows must not set the scale, least of all the gain's.
        first = len(baseline) // (20 if ax is left else 2)
        late = [v for c in others for v in shown(c)[first:] if math.isfinite(v)]
        core = [v for c in (*reference, *best) for v in shown(c)[first:] if math.isfinite(v)]
        ax.set_ylim(robust_limits(late or core, core))
        ax.xaxis.set_major_formatter(FuncFormatter(rows_text))
    label(left, "training rows seen", f"window NE ({metric_of(run)})")
    label(right, "training rows seen", GAIN)
    legend(left)
    return figure


def curves_title(name: str, baseline: np.ndarray, best: list[np.ndarray]) -> str:
    """Where the winner ends, by its last quarter."""
    if not best:
        return "Learning curves: the baseline and the trials"
    curve = np.mean(best, axis=0)
    late = np.isfinite(curve)
    late[: 3 * len(baseline) // 4] = False
    if not late.any():
        return f"Learning curves: the {name} has not seen the last quarter of the log"
    gain = 100 * np.mean((curve[late] - baseline[late]) / baseline[late])
    side = "below" if gain < 0 else "above"
    return f"Over the last quarter of the log the {name} is {abs(gain):.2f}% {side} the baseline"


def seed_noise(run: Run) -> Figure | None:
    """How far seeds alone move NE, beside the gains of the finalists seed by seed."""
    if not run.records["seed_noise"]:
        return None
    levels = np.array(run.records["seed_noise"][-1]["ne"], float)
    rows = [("baseline, validation", 100 * (levels / levels.mean() - 1), INK)]
    winner = winner_config(run)
    for number, final in enumerate(finalists(run), start=1):
        chosen = final["config"] == winner
        name = "winner, choosing seeds" if chosen else f"finalist {number}, choosing seeds"
        rows.append((name, final["gain"], BLUE if chosen else GREY))
    for final in finalists(run, "confirmation"):
        if final["config"] == winner:
            rows.append(("winner, validation, fresh seeds", final["gain"], BLUE))
    for metric, test in ((run.summary.get("winner") or {}).get("test") or {}).items():
        rows.append((f"winner, held-out test ({metric})", np.array(test["gains"], float), GREEN))
    noise = run.summary.get("seed_noise_percent")
    noise = float(levels.std(ddof=1) / levels.mean() * 100) if noise is None else noise
    figure, (ax,) = panels(noise_title(run, noise), height=1.3 + 0.42 * len(rows))
    ax.axvspan(-2 * noise, 2 * noise, color="#f0f0f0", zorder=0)
    ax.axvline(0.0, color=GREY, linewidth=0.8)
    for height, (_, gains, colour) in enumerate(rows):
        ax.scatter(gains, [height] * len(gains), c=colour, s=26, alpha=0.75, linewidths=0)
        if np.isfinite(gains).any():
            ax.plot([np.nanmean(gains)], [height], marker="|", markersize=16, color=colour)
    ax.set_yticks(range(len(rows)), [name for name, _, _ in rows])
    ax.set_ylim(len(rows) - 0.5, -0.5)
    label(
        ax,
        "NE against the baseline's mean, or against its run of the same seed (%)\n"
        "bar: mean over seeds; band: two standard deviations of the baseline",
        "",
    )
    return figure


def noise_title(run: Run, noise: float) -> str:
    """The gain in units of the noise, unless its interval says that it may be noise itself."""
    gain = run.summary.get("ne_gain_percent") or {}
    mean, low, high = gain.get("mean"), gain.get("low"), gain.get("high")
    if mean is None or not noise:
        return f"Another seed alone moves the baseline's NE by {noise:.3f}%"
    if low is None or high is None or low <= 0 <= high:
        return f"The winner's {mean:+.2f}% cannot be told from what seeds alone do"
    times = abs(mean) / noise
    return (
        f"Seeds alone move NE by {noise:.3f}%; the winner's {mean:+.2f}% is {times:.1f} times that"
    )
