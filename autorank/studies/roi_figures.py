"""The figure of one data set: what each searcher's winners gained, and the best one as an experiment day by day."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from autorank.report.style import BLUE, GREY, INK, PALE, name_axes, panels
from autorank.studies.roi_cells import Row
from autorank.studies.roi_findings import best_cell, by_seed, mean_gain
from autorank.studies.roi_page import searchers_of


def figure_of(rows: Sequence[Row], days: Sequence[Row], data: str) -> Figure:
    """Both panels; the right one is empty without days."""
    searchers = searchers_of(rows, data)
    best = best_cell(rows, data)
    figure, (left, right) = panels(title_of(data, best), 2, 2.4 + 0.3 * len(searchers))
    gains(left, rows, data, searchers)
    own = [] if best is None else [d for d in days if same_cell(d, best)]
    sequence(right, own)
    if best is not None:
        right.set_title(
            f"{best['searcher']}, search seed {best['seed']:g}, as an experiment", fontsize=8.5
        )
    return figure


def title_of(data: str, best: Row | None) -> str:
    """What the best cell's interval says, and no more."""
    if best is None:
        return f"{data}: no search is finished"
    gain = best["test_gain"]
    if best["test_gain_high"] < 0:
        return f"{data}: the best by validation is {-gain:.2f} % NE better than the tuned baseline"
    if best["test_gain_low"] > 0:
        return f"{data}: the best by validation is {gain:.2f} % NE worse than the tuned baseline"
    return f"{data}: no gain over the tuned baseline was shown"


def same_cell(day: Row, row: Row) -> bool:
    """Whether a day belongs to a cell."""
    return all(day[key] == row[key] for key in ("data", "searcher", "seed"))


def gains(ax: Axes, rows: Sequence[Row], data: str, searchers: Sequence[str]) -> None:
    """A line for each searcher: its searches as points, their mean with its interval."""
    ax.axvline(0, color=GREY, lw=0.8)
    places = np.arange(len(searchers))[::-1]
    for place, searcher in zip(places, searchers, strict=True):
        each, mean = by_seed(rows, data, searcher), mean_gain(rows, data, searcher)
        ax.plot([*each.values()], [place + 0.16] * len(each), "o", ms=4, color=BLUE, alpha=0.7)
        if np.isfinite(mean.low):
            ax.plot([mean.low, mean.high], [place - 0.1] * 2, color=INK if mean.sign else PALE)
        if np.isfinite(mean.mean):
            ax.plot([mean.mean], [place - 0.1], "D", ms=4, color=INK if mean.sign else GREY)
    ax.set_yticks(places, searchers)
    ax.set_ylim(-0.7, len(searchers) - 0.3)
    name_axes(
        ax, "gain of the winner (% NE, lower is better)\nsearches above, mean with 95 % below", ""
    )


def sequence(ax: Axes, days: Sequence[Row]) -> None:
    """The gain so far with its sequential interval after each day."""
    ax.axhline(0, color=GREY, lw=0.8)
    if days:
        x = [day["day"] for day in days]
        ax.fill_between(
            x, [d["low"] for d in days], [d["high"] for d in days], color=PALE, alpha=0.6
        )
        ax.plot(x, [d["gain"] for d in days], color=INK, marker="o", ms=3)
    name_axes(ax, "days (equal parts of the test rows)", "gain so far (% NE), 95 % at every look")
