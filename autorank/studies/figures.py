"""The figure of a study, from its written results: arms on each table, and differences with their intervals."""

import itertools
import re
import textwrap
from collections.abc import Sequence

import matplotlib.ticker
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from autorank.report.style import COLOURS, GREY, INK, PALE, legend, name_axes, panels
from autorank.studies.findings import ALL
from autorank.studies.intervals import Difference
from autorank.studies.written import Written

LINES, MARKS = ("-", "--", ":", "-."), "osD^v<>P"
FEW = 4  # tables up to which every arm is drawn on each
TITLE_WIDTH, PANEL_WIDTH, LONG_NAME = 84, 25, 25  # characters


def figure_of(written: Written, title: str) -> Figure:
    """Lines over the study's axis; or a row for each arm; or, with many tables, a row for each of them by contrast."""
    text = "\n".join(textwrap.wrap(title, TITLE_WIDTH))
    if written.study.axis:
        return _over_axis(written, text)
    if len(written.tables) <= FEW or not written.contrasts:
        return _by_arm(written, text)
    return _by_table(written, text)


def _over_axis(written: Written, title: str) -> Figure:
    figure, (left, right) = panels(title, 2, 3.9)
    series, others = _series(written)
    for colour, (name, points) in zip(COLOURS, series.items(), strict=False):
        x = [number for number, _ in points]
        for line, table in zip(LINES, written.tables, strict=False):
            means = [written.at(arm, table).mean for _, arm in points]
            left.plot(x, means, line, marker="o", ms=3, color=colour, label=f"{name}, {table}")
        found = [written.at(arm).difference for _, arm in points]
        means, lengths = [d.mean for d in found], _lengths(found)
        right.errorbar(x, means, lengths, color=colour, marker="o", ms=3, capsize=2, label=name)
    lines = itertools.cycle(LINES)
    for arm in others:
        for table, line in zip(written.tables, lines, strict=False):
            left.axhline(written.at(arm, table).mean, color=GREY, ls=line, label=f"{arm}, {table}")
        found = written.at(arm).difference
        right.axhspan(found.low, found.high, color=PALE, alpha=0.6, label=arm)
    right.axhline(0, color=GREY, lw=0.8)
    ticks = sorted({number for points in series.values() for number, _ in points})
    for ax in (left, right):
        if ticks[0] > 0:
            ax.set_xscale("log")
            ax.minorticks_off()
            ax.set_xticks(ticks, [f"{t:g}" for t in ticks])
    words = written.words
    name_axes(left, written.study.axis, words)
    apart = f"{words}\nminus that of {written.study.reference}, 95 % interval"
    name_axes(right, written.study.axis, apart)
    legend(left)
    legend(right)
    return figure


def _series(written: Written) -> tuple[dict[str, list[tuple[float, str]]], list[str]]:
    """Arms by what precedes the number that their names end with, as (number, arm); and those without a number."""
    series: dict[str, list[tuple[float, str]]] = {}
    others = []
    for arm in written.arms:
        parts = re.fullmatch(r"(.+)_(\d+\.?\d*)", arm)
        if parts is None:
            others.append(arm)
        else:
            series.setdefault(parts[1], []).append((float(parts[2]), arm))
    return series, others


def _by_arm(written: Written, title: str) -> Figure:
    arms = written.arms
    figure, (left, right) = panels(title, 2, 1.5 + 0.21 * len(arms))
    places = np.arange(len(arms))[::-1]
    for i, table in enumerate(written.tables):
        means = [written.at(arm, table).mean for arm in arms]
        left.plot(means, places, MARKS[i], ms=5, color=COLOURS[i], label=table, alpha=0.85)
    _rows(right, [written.at(arm).difference for arm in arms])
    left.set_ylim(right.get_ylim())
    left.set_yticks(places, arms)
    right.set_yticks(places, [""] * len(arms))
    words = written.words
    name_axes(left, words, "")
    name_axes(right, f"minus that of {written.study.reference}, 95 % interval", "")
    if len(written.tables) > 1:
        # Below, where it hides no point.
        figure.legend(loc="outside lower left", ncols=FEW, fontsize=8, frameon=False)
    return figure


def _by_table(written: Written, title: str) -> Figure:
    names = [ALL, *written.tables]
    # Long names of tables leave room for fewer panels.
    shown = written.contrasts[: FEW if max(map(len, names)) <= LONG_NAME else FEW - 1]
    figure, axes = panels(title, len(shown), 1.9 + 0.2 * len(names))
    places = np.arange(len(names))[::-1]
    for ax, words in zip(axes, shown, strict=True):
        _rows(ax, [written.at(words, name).difference for name in names])
        ax.set_yticks(places, [""] * len(names))
        ax.set_title("\n".join(textwrap.wrap(words, PANEL_WIDTH)), fontsize=8)
        ax.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(3))
    axes[0].set_yticks(places, ["mean over all", *written.tables])
    figure.supxlabel(f"difference in {written.words}, 95 % interval", fontsize=9)
    return figure


def _rows(ax: Axes, found: Sequence[Difference]) -> None:
    """A row for each difference, first on top; pale where the interval holds 0."""
    ax.axvline(0, color=GREY, lw=0.8)
    for place, d in zip(range(len(found) - 1, -1, -1), found, strict=True):
        if np.isfinite([d.mean, d.low, d.high]).all():
            colour = INK if d.sign else PALE
            ax.plot([d.low, d.high], [place, place], color=colour, lw=1.6)
            ax.plot([d.mean], [place], "o", ms=4, color=INK if d.sign else GREY)
    ax.set_ylim(-0.7, len(found) - 0.3)


def _lengths(found: Sequence[Difference]) -> np.ndarray:
    """What `Axes.errorbar` wants; 0 where there is no interval."""
    lengths = [(d.mean - d.low, d.high - d.mean) for d in found]
    return np.nan_to_num(np.array(lengths).T)
