"""Figures of `bench_search.csv`: regret against trials, over tasks, by suite and by task; ranks, levels and seconds."""

import textwrap
from collections.abc import Callable, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from autorank.report.style import legend, name_axes, panels
from experiments.comparison.report_table import (
    Curves,
    Table,
    at,
    mean_ranks,
    of_many,
)

LEVEL = 0.05  # of a median random configuration's regret
FLOOR = 1e-4  # regrets below are drawn here
_LAST = 100
TITLE_WIDTH = 90  # characters


def over_tasks(table: Table) -> Figure:
    """Mean regret over the tasks that all have, against trials, with 95 % intervals over tasks."""
    curves, points, searchers, tasks = _of_many(table)
    ends = {
        s: np.mean([_whole(curves[s][t], points)[:, -1].mean() for t in tasks]) for s in searchers
    }
    best, *others = sorted(searchers, key=lambda s: ends[s])
    title = f"{best} ends lowest: a regret of {ends[best]:.3f} after {points[-1]} trials"
    if others:
        title += f", {others[0]} {ends[others[0]]:.3f}"
    figure, (ax,) = panels("\n".join(textwrap.wrap(title, TITLE_WIDTH)), height=4.2)
    for s in searchers:
        means = np.array([_whole(curves[s][t], points).mean(axis=0) for t in tasks])
        _line(ax, points, means, s)
    _logarithmic(ax)
    name_axes(ax, "trials", f"normalised regret (mean of {len(tasks)} tasks, 95 % interval)")
    legend(ax)
    return figure


def by_suite(table: Table) -> Figure:
    """Mean regret by suite."""
    curves, points, searchers, tasks = _of_many(table)
    suites = list(dict.fromkeys(t.split("/")[0] for t in tasks))
    figure, axes = _grid("Regret against trials, by suite", len(suites), 3, 2.4)
    for ax, suite in zip(axes, suites, strict=False):
        own = [t for t in tasks if t.startswith(f"{suite}/")]
        for s in searchers:
            means = np.array([_whole(curves[s][t], points).mean(axis=0) for t in own])
            _line(ax, points, means, s, interval=False)
        ax.set_title(f"{suite} ({len(own)} task{'s' * (len(own) > 1)})", fontsize=9)
        _logarithmic(ax)
    _name(figure, axes[0])
    return figure


def by_task(table: Table) -> Figure:
    """Mean regret by task, with 95 % intervals over seeds."""
    curves, points, searchers, tasks = _of_many(table)
    figure, axes = _grid("Regret against trials, by task", len(tasks), 6, 1.6)
    for ax, task in zip(axes, tasks, strict=False):
        for s in searchers:
            _line(ax, points, _whole(curves[s][task], points), s)
        ax.set_title(task.replace("/", "\n"), fontsize=7)
        _logarithmic(ax)
    _name(figure, axes[0])
    return figure


def in_brief(table: Table) -> Figure:
    """Mean rank, share of runs that are within `LEVEL`, and seconds a suggestion against regret."""
    curves, points, searchers, tasks = _of_many(table)
    figure, (left, middle, right) = panels(
        "Rank, runs that are near the best, and what a suggestion costs", 3, 3.6
    )
    ranks = np.array([mean_ranks(at(curves, table.place(n)), searchers, tasks) for n in points])
    for s, values in zip(searchers, ranks.T, strict=True):
        left.plot(points, values, linewidth=_width(s), label=s)
        there = np.array([(_whole(curves[s][t], points) <= LEVEL).mean(axis=0) for t in tasks])
        middle.plot(points, there.mean(axis=0), linewidth=_width(s))
    left.invert_yaxis()
    name_axes(left, "trials", "mean rank over tasks (1 is best)")
    name_axes(middle, "trials", f"share of runs with a regret of {LEVEL:g} or less")
    beside = _are_short(searchers)
    if beside:
        legend(left, fontsize=6.5)
    else:
        _name(figure, left)
    end = table.place(_LAST)
    seconds = at(table.curves(column="seconds_per_suggestion"), end)
    regret = at(curves, end)
    for s in searchers:
        cost = float(np.mean([seconds[s][t].mean() for t in tasks]))
        level = float(np.mean([regret[s][t].mean() for t in tasks]))
        right.plot(cost, level, "o", markersize=7 if s == "autorank" else 5)
        if beside:
            offset = {"xytext": (4, 3), "textcoords": "offset points"}
            right.annotate(s, (cost, level), fontsize=6.5, **offset)
    right.set_xscale("log")
    _logarithmic(right)
    right.margins(0.25)
    name_axes(right, "CPU seconds a suggestion at 100", "regret at 100")
    return figure


# By the name of its file: what it shows, and who draws it.
FIGURES: dict[str, tuple[str, Callable[[Table], Figure]]] = {
    "bench_search": ("Mean over the tasks that all searchers have", over_tasks),
    "bench_search_suites": ("By suite", by_suite),
    "bench_search_brief": ("Ranks, levels reached, seconds", in_brief),
    "bench_search_tasks": ("By task, intervals over seeds", by_task),
}


def _of_many(table: Table) -> tuple[Curves, list[int], list[str], list[str]]:
    curves = table.curves()
    end = table.place(_LAST)
    searchers, tasks = of_many(at(curves, end))
    if not tasks:
        raise KeyError(f"{_LAST} trials on a task that all searchers have")
    return curves, table.points[: end + 1], searchers, tasks


def _logarithmic(ax: Axes) -> None:
    """A logarithmic axis with plain numbers; those between powers of ten only if it spans at most one."""
    ax.set_yscale("log")
    low, high = ax.get_ylim()
    ax.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    few = np.floor(np.log10(high)) - np.ceil(np.log10(low)) < 1
    ax.yaxis.set_minor_formatter(
        lambda value, _: f"{value:g}" if few and f"{value:e}"[0] in "235" else ""
    )
    ax.tick_params(which="minor", labelsize=ax.yaxis.get_ticklabels()[0].get_fontsize())


def _whole(runs: np.ndarray, points: Sequence[int]) -> np.ndarray:
    """The runs that have all of the points, up to the last: [seeds, points]."""
    upto = runs[:, : len(points)]
    return upto[np.isfinite(upto[:, -1])]


def _width(searcher: str) -> float:
    return 2.4 if searcher == "autorank" else 1.1


def _line(
    ax: Axes, points: Sequence[int], rows: np.ndarray, searcher: str, *, interval: bool = True
) -> None:
    """The mean of rows ``[n, points]`` and its 95 % interval."""
    middle = rows.mean(axis=0)
    shown = np.maximum(middle, FLOOR)
    line = ax.plot(points, shown, label=searcher, linewidth=_width(searcher))[0]
    if interval and len(rows) > 1:
        error = 1.96 * rows.std(axis=0, ddof=1) / np.sqrt(len(rows))
        low, high = np.maximum(middle - error, FLOOR), np.maximum(middle + error, FLOOR)
        ax.fill_between(points, low, high, alpha=0.1, color=line.get_color(), linewidth=0)


def _grid(title: str, count: int, columns: int, height: float) -> tuple[Figure, list[Axes]]:
    """Small panels side by side, the first of which has the names of the lines."""
    rows = -(-count // columns)
    figure, (first,) = panels(title, height=0.6 + height * rows)
    first.remove()
    axes = list(np.atleast_1d(figure.subplots(rows, columns, sharex=True, squeeze=False)).flat)
    for ax in axes[count:]:
        ax.remove()
    for ax in axes[max(count - columns, 0) : count]:  # nothing is drawn below these
        ax.tick_params(labelbottom=True)
    for ax in axes[:count]:
        ax.spines[["top", "right"]].set_visible(False)
        ax.tick_params(labelsize=6.5)
    figure.supxlabel("trials", fontsize=9)
    figure.supylabel("normalised regret", fontsize=9)
    return figure, axes[:count]


def _are_short(names: Sequence[str]) -> bool:
    """Whether names fit beside a title or into a panel; those of variants often do not."""
    return max(map(len, names)) <= 25 and sum(len(name) + 8 for name in names) <= 100


def _name(figure: Figure, ax: Axes) -> None:
    """Names the lines beside the title, or below the panels where they would not fit."""
    handles, names = ax.get_legend_handles_labels()
    where, columns = "outside upper right", len(names)
    if not _are_short(names):
        where, columns = "outside lower left", 1
        figure.set_figheight(figure.get_figheight() + 0.16 * len(names))
    figure.legend(handles, names, loc=where, ncols=columns, fontsize=7, frameon=False)
