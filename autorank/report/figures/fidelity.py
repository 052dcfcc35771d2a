"""Fidelity: how well a shortened run ranks the pilots as the whole run does."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from autorank.ledger.run_folder import Run
from autorank.report.style import BLUE, INK, ORANGE, legend, name_axes, panels


def fidelity(run: Run) -> Figure | None:
    """Kendall's tau-b against the share of the log, with the chosen share."""
    record = run.records["fidelity"][-1] if run.records["fidelity"] else {}
    if not record.get("fractions") or not any(t is not None for t in record.get("tau", [])):
        return None
    chosen, tau = float(record.get("chosen_fraction") or 1.0), record.get("chosen_tau")
    agreement = "" if tau is None else f" (Kendall's tau-b {tau:.2f} with the final order)"
    figure, (ax,) = panels(f"Trials see {chosen:.0%} of the log{agreement}")
    low = _draw_agreement(ax, record)
    if tau is not None and record.get("chosen_low") is not None:
        ends = [[tau - record["chosen_low"]], [record["chosen_high"] - tau]]
        looks = {"fmt": "D", "color": INK, "markersize": 5, "capsize": 3}
        ax.errorbar([chosen], [tau], yerr=ends, label="tau-b of held-out pilots", **looks)
    ax.axvline(chosen, color=INK, linewidth=1.0, linestyle=":", label="chosen")
    ax.set_ylim(min(0.0, float(np.nanmin(low, initial=0.0))) - 0.03, 1.03)
    ax.set_xlim(0.0, 1.03)
    ax.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    pilots = record.get("num_finished", "the")
    name_axes(ax, "share of the log trained on", f"rank agreement, tau-b over {pilots} pilots")
    legend(ax, loc="lower right")
    return figure


def _draw_agreement(ax: Axes, record: Mapping[str, Any]) -> np.ndarray:
    """Draws tau-b at each share, with and without the trend; returns the lower ends of its intervals."""
    x = np.array(record["fractions"], float)
    low, high = np.array(record["low"], float), np.array(record["high"], float)
    ax.fill_between(x, low, high, color=BLUE, alpha=0.18, linewidth=0, label="95% interval")
    held_out = record.get("chosen_low") is not None
    name = "tau-b of the pilots that chose the trend" if held_out else "tau-b"
    ax.plot(x, np.array(record["tau"], float), color=BLUE, marker="o", markersize=4, label=name)
    plain = record.get("tau_without_trend")
    if plain and plain != record["tau"]:
        looks = {"color": ORANGE, "linestyle": "--", "marker": "s", "markersize": 3.5}
        ax.plot(x, np.array(plain, float), label="without the trend", **looks)
    return low
