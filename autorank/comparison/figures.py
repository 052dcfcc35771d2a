"""The figures of a comparison: differences with intervals, best label so far, fronts."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from autorank.comparison.compare import Block, Comparison
from autorank.comparison.pairing import Row, unit_of
from autorank.comparison.result import Result
from autorank.report.style import (
    COLOURS,
    GREEN,
    INK,
    PALE,
    RED,
    legend,
    name_axes,
    panels,
    ratios,
    robust_limits,
)

LINES = ("-", "--", ":")
MOST_NAMED = 12  # groups that a figure tells apart; the others are pale
MOST_BANDS = 6
MOST_ROWS = 60  # of the differences
POINTS = 200  # of a curve's grid


class Look(NamedTuple):
    """How a group is drawn."""

    colour: str
    line: str
    named: bool
    band: bool = False


def looks_of(block: Block) -> dict[str, Look]:
    """Looks by letter: the reference and the best rows are told apart."""
    looks: dict[str, Look] = {}
    for i, row in enumerate(block.rows):
        if row.difference is None:
            looks[row.group.letter] = Look(INK, "-", True, True)
        elif len(looks) < MOST_NAMED:
            line = LINES[(i // len(COLOURS)) % len(LINES)]
            looks[row.group.letter] = Look(
                COLOURS[i % len(COLOURS)], line, True, len(looks) < MOST_BANDS
            )
        else:
            looks[row.group.letter] = Look(PALE, "-", False)
    return looks


def label_of(row: Row, width: int = 48) -> str:
    """Letter and name, cut where it is long."""
    name = row.name if len(row.name) <= width else row.name[: width - 3] + "..."
    return f"{row.group.letter}  {name}"


def counted(rows: Sequence[Row]) -> str:
    """How many rows are better, worse, or not shown to differ."""
    verdicts = [row.difference.verdict for row in rows if row.difference is not None]
    parts = [f"{verdicts.count(v)} {v}" for v in ("better", "worse") if v in verdicts]
    open_ = len(verdicts) - verdicts.count("better") - verdicts.count("worse")
    if open_:
        parts.append(f"{open_} not shown to differ")
    return ", ".join(parts)


def differences(found: Comparison, block: Block) -> Figure | None:
    """Mean paired differences with their intervals, the band of one run's seed noise behind."""
    rows = [r for r in block.rows if r.difference is not None and math.isfinite(r.difference.mean)]
    if not rows:
        return None
    title, rows = f"Against {found.reference.letter}: {counted(rows)}", rows[:MOST_ROWS]
    figure, (ax,) = panels(title, height=1.5 + 0.28 * len(rows))
    places = np.arange(len(rows))[::-1]
    noises = [row.noise for row in block.rows if math.isfinite(row.noise)]
    unit = unit_of(found.measure)
    if noises and unit == "% NE":
        noise = max(noises)
        ax.axvspan(
            -noise,
            noise,
            color="#eeeeee",
            zorder=0,
            label="seed noise of one run (1 sd, the largest of the rows)",
        )
    ax.axvline(0.0, color=INK, linewidth=0.8)
    for place, row in zip(places, rows, strict=True):
        gap = row.difference
        assert gap is not None
        colour = {"better": GREEN, "worse": RED}.get(gap.verdict, "#555555")
        if math.isfinite(gap.low):
            ax.plot([gap.low, gap.high], [place, place], color=colour, linewidth=2.0)
        ax.scatter([gap.mean], [place], color=colour, s=26, zorder=3)
    ax.set_yticks(places, [label_of(row) for row in rows])
    ax.set_ylim(-0.7, len(rows) - 0.3)
    name_axes(ax, f"difference from {found.reference.letter} ({unit}, lower is better)", "")
    legend(ax)
    return figure


def mean_and_error(curves: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean over runs and its standard error, pointwise; NaN where a run has no value.

    Args:
        curves: ``[runs, points]``; one run has no error.
    """
    n = len(curves)
    mean = curves.mean(axis=0)
    if n < 2:
        return mean, np.full_like(mean, np.nan)
    return mean, curves.std(axis=0, ddof=1) / math.sqrt(n)


def at(x: np.ndarray, y: np.ndarray, grid: np.ndarray, beyond: bool) -> np.ndarray:
    """A step function's values on a grid: that of the last ``x`` reached, NaN before the first.

    Args:
        x: increasing ``[n]``.
        y: ``[n]``.
        grid: ``[points]``.
        beyond: whether the last value holds behind the last ``x``; else NaN stands there.
    """
    if not len(x):
        return np.full(len(grid), np.nan)
    place = np.searchsorted(x, grid * (1 + 1e-12), side="right") - 1
    values = np.where(place >= 0, y[np.maximum(place, 0)], np.nan)
    return values if beyond else np.where(grid > x[-1] * (1 + 1e-9), np.nan, values)


def by_trials(result: Result, grid: np.ndarray) -> np.ndarray:
    """Best label so far after so many trials."""
    best = result.course.best
    return at(np.arange(1.0, len(best) + 1), best, grid, beyond=False)


def by_passes(result: Result, grid: np.ndarray) -> np.ndarray:
    """Best label so far after so many passes over the log."""
    return at(result.course.passes, result.course.best, grid, beyond=False)


def curves(found: Comparison, block: Block) -> Figure | None:
    """Best label so far, mean over runs with its standard error, against trials and against what they cost."""
    most = max((len(r.course.best) for row in block.rows for r in row.results), default=0)
    passes = max(
        (r.course.passes[-1] for row in block.rows for r in row.results if len(r.course.passes)),
        default=0.0,
    )
    if not most or not passes:
        return None
    figure, axes = panels(curves_title(block), 2, height=3.8 + legend_height(block))
    looks = looks_of(block)
    grids = (np.arange(1.0, most + 1), np.linspace(0, passes, POINTS)[1:])
    drawn: list[float] = []
    for ax, grid, values in zip(axes, grids, (by_trials, by_passes), strict=True):
        drawn += draw_means(ax, block, looks, grid, values)
        ax.axhline(0.0, color=PALE, linewidth=0.8)
    name_axes(axes[0], "trials", "best label so far (% NE against the baseline)")
    name_axes(axes[1], "cost of the trials (full passes over the log)", "")
    for ax in axes:
        ax.set_ylim(*robust_limits(drawn, [0.0]))
    name_groups(figure, axes[0])
    return figure


def curves_title(block: Block) -> str:
    """Whose best label is lowest in the end."""
    ends = {
        row.group.letter: float(np.mean([r.values["label"] for r in row.results]))
        for row in block.rows
    }
    known = {k: v for k, v in ends.items() if math.isfinite(v)}
    if not known:
        return "No run has a label"
    best = min(known, key=lambda k: known[k])
    return f"Lowest best label at the end: {best} with {known[best]:+.2f} % on average"


def draw_means(
    ax: Axes,
    block: Block,
    looks: dict[str, Look],
    grid: np.ndarray,
    values: Callable[[Result, np.ndarray], np.ndarray],
) -> list[float]:
    """Each group's mean and band on a grid, the pale ones first; returns the values of the means."""
    drawn: list[float] = []
    for row in sorted(block.rows, key=lambda r: looks[r.group.letter].named):
        look = looks[row.group.letter]
        mean, error = mean_and_error(np.array([values(r, grid) for r in row.results]))
        name = label_of(row) if look.named else None
        ax.plot(
            grid,
            mean,
            look.line,
            color=look.colour,
            linewidth=1.6,
            label=name,
            drawstyle="steps-post",
        )
        if look.band and np.isfinite(error).any():
            ax.fill_between(
                grid,
                mean - error,
                mean + error,
                color=look.colour,
                alpha=0.13,
                step="post",
                linewidth=0,
            )
        drawn += mean[np.isfinite(mean)].tolist()
    return drawn


def fronts(found: Comparison, block: Block) -> Figure | None:
    """The best label at or below each cost, mean over runs with its standard error; thin lines are single runs."""
    costs = [c for row in block.rows for r in row.results for c in r.front[:, 0]]
    if not costs:
        return None
    grid = (
        np.geomspace(min(costs), max(costs), POINTS)
        if min(costs) < max(costs)
        else np.array(costs[:1])
    )
    looks = looks_of(block)
    figure, (ax,) = panels(fronts_title(block), height=4.2 + legend_height(block))
    for row in block.rows:
        look = looks[row.group.letter]
        for result in row.results if look.named else ():
            ax.plot(
                *result.front.T,
                color=look.colour,
                alpha=0.35,
                linewidth=0.7,
                drawstyle="steps-post",
            )

    def attained(result: Result, grid: np.ndarray) -> np.ndarray:
        return at(result.front[:, 0], result.front[:, 1], grid, beyond=True)

    drawn = draw_means(ax, block, looks, grid, attained)
    ax.axhline(0.0, color=PALE, linewidth=0.8, zorder=0)
    ax.axvline(1.0, color=PALE, linewidth=0.8, zorder=0)
    ax.scatter([1.0], [0.0], marker="*", s=120, c=INK, zorder=4, label="baseline")
    ratios(ax, costs)
    labels = [v for row in block.rows for r in row.results for v in r.front[:, 1]]
    ax.set_ylim(*robust_limits([*drawn, *labels], [0.0]))
    name_axes(
        ax,
        "FLOPs per example, at most (against the baseline)",
        "best label (% NE against the baseline)",
    )
    name_groups(figure, ax)
    return figure


def fronts_title(block: Block) -> str:
    """Whose front is lowest at the baseline's cost."""
    at_one = {
        row.group.letter: float(
            np.mean(
                [at(r.front[:, 0], r.front[:, 1], np.ones(1), beyond=True)[0] for r in row.results]
            )
        )
        for row in block.rows
    }
    known = {k: v for k, v in at_one.items() if math.isfinite(v)}
    if not known:
        return "No group has models at the baseline's FLOPs in all of its runs"
    best = min(known, key=lambda k: known[k])
    return f"At the baseline's FLOPs the lowest labels are those of {best}: {known[best]:+.2f} % on average"


def legend_height(block: Block) -> float:
    """Inches that `name_groups` takes."""
    return 0.17 * math.ceil((min(len(block.rows), MOST_NAMED) + 1) / 2)


def name_groups(figure: Figure, ax: Axes) -> None:
    """The legend below the panels."""
    handles = ax.get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=2, frameon=False, fontsize=8)


class Drawing(NamedTuple):
    """A figure's function and its caption."""

    draw: Callable[[Comparison, Block], Figure | None]
    caption: str


FIGURES = {
    "differences": Drawing(
        differences,
        "Dot: mean of the paired differences. Line: 95 % interval for this mean over seeds (Student's t), green or red "
        "where it excludes 0; a single pair has none. Grey band: what the seed alone moves one run of the baseline by. "
        "At most the 60 lowest means are drawn; the table has all.",
    ),
    "curves": Drawing(
        curves,
        "Mean over runs; the band, for six groups at most, is one standard error. The seeds' common luck is in it, so "
        "it is wider than what pairs say. These are labels, too good as the lowest of many noisy ones. A curve ends "
        "where the first of its runs ends. On the right, trials of partial fidelity cost what they saw of the log.",
    ),
    "fronts": Drawing(
        fronts,
        "The lowest label among the trials of at most so many FLOPs. Thick: mean over runs with one standard error, "
        "from where all runs have a trial. Thin: single runs.",
    ),
}
