"""Progress: the best label so far against trials and against rows trained on."""

import math
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from autorank.ledger.run_folder import Run, full_rows, of_stage, searched
from autorank.report.style import (
    BLUE,
    GREY,
    INK,
    PALE,
    RED,
    legend,
    name_axes,
    panels,
    robust_limits,
    rows_text,
)


class Labels(NamedTuple):
    """Labels of the ended trials in order, each ``[n]``."""

    values: np.ndarray  # NaN without a label
    failed: np.ndarray
    rows: np.ndarray  # trained on so far
    pilots: int  # the first trials

    @property
    def best(self) -> np.ndarray:
        """The lowest label so far; NaN before the first."""
        best = np.minimum.accumulate(np.where(np.isnan(self.values), np.inf, self.values))
        return np.where(np.isinf(best), np.nan, best)


def progress(run: Run) -> Figure | None:
    """Labels of all trials and the best so far."""
    labels = _read(run)
    if not np.isfinite(labels.values).any():
        return None
    figure, axes = panels(_title(labels), 2)
    limits = robust_limits([*labels.values[np.isfinite(labels.values)]], [0.0])
    _draw(axes[0], np.arange(1, len(labels.values) + 1), labels, limits)
    _draw(axes[1], labels.rows, labels, limits)
    for ax, x in zip(axes, ("trials", "rows trained on by the trials"), strict=True):
        name_axes(ax, x, "NE gain, label (%, lower is better)")
    axes[1].xaxis.set_major_formatter(FuncFormatter(rows_text))
    legend(axes[0], loc="upper right", bbox_to_anchor=(1.0, 0.92))
    return figure


def _read(run: Run) -> Labels:
    done = [t for t in searched(run) if t.status != "proposed"]
    return Labels(
        np.array([math.nan if t.quality is None else t.quality for t in done]),
        np.array([t.status == "failed" for t in done], bool),
        np.cumsum([t.fidelity for t in done]) * full_rows(run),
        sum(t.status != "proposed" for t in of_stage(run, "pilot")),
    )


def _title(labels: Labels) -> str:
    values, pilots = labels.values, labels.pilots
    title = f"The best trial was number {np.nanargmin(values) + 1} of {len(values)}"
    first, later = values[:pilots], values[pilots:]
    if not (np.isfinite(first).any() and np.isfinite(later).any()):
        return title
    gain = float(np.nanmin(first) - np.nanmin(later))
    verb = f"beat the pilots' best by {gain:.2f}" if gain > 0 else "did not beat the pilots' best"
    return f"{title}; the rounds {verb}"


def _draw(ax: Axes, x: np.ndarray, labels: Labels, limits: tuple[float, float]) -> None:
    values, failed, pilots = labels.values, labels.failed, labels.pilots
    shown, high = np.isfinite(values), limits[1]
    dots = {"s": 14, "c": GREY, "alpha": 0.7, "linewidths": 0}
    ax.scatter(x[shown], np.minimum(values[shown], high), label="trials", **dots)
    if failed.any():
        crosses = {"marker": "x", "c": RED, "s": 26, "clip_on": False}
        ax.scatter(x[failed], np.full(failed.sum(), high), label="failed", **crosses)
    ax.step(x, labels.best, where="post", color=BLUE, linewidth=1.8, label="best so far")
    if 0 < pilots < len(values):
        border = (x[pilots - 1] + x[pilots]) / 2
        ax.axvline(border, color=INK, linewidth=0.8, linestyle=":")
        ax.annotate(
            "pilots | rounds",
            (border, 0.97),
            fontsize=7.5,
            xycoords=("data", "axes fraction"),
            ha="center",
            va="top",
            bbox={"fc": "white", "ec": "none", "pad": 0.5},
        )
    ax.axhline(0.0, color=PALE, linewidth=0.8)
    ax.set_ylim(*limits)
