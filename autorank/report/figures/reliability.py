"""Predicted against observed rates on the held-out rows, for the baseline and the winner."""

import math
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from autorank.ledger.run_folder import Run
from autorank.report.style import BLUE, GREY, INK, legend, name_axes, panels
from autorank.report.summary import main_metric

ROLES = (("baseline", GREY), ("winner", BLUE))


def reliability(run: Run) -> Figure | None:
    """One line a model through its bins; calibrated models lie on the diagonal."""
    metric = main_metric(run.summary)
    lines = [(role, colour, _bins(run, role, metric)) for role, colour in ROLES]
    lines = [line for line in lines if len(line[2])]
    if not lines:
        return None
    figure, (ax,) = panels(_title(run, metric))
    rates = np.concatenate([bins.ravel() for _, _, bins in lines])
    low, high = rates.min() / 1.2, min(1.0, rates.max() * 1.2)
    ax.plot([low, high], [low, high], color=INK, linewidth=0.8, linestyle=":", label="calibrated")
    for role, colour, bins in lines:
        ax.plot(bins[:, 0], bins[:, 1], "o-", color=colour, markersize=4, linewidth=1, label=role)
    ax.set(xscale="log", yscale="log", xlim=(low, high), ylim=(low, high))
    # Rates as people write them, not as powers of ten.
    ticks = [m * 10.0**e for e in range(-6, 1) for m in (1, 2, 5) if low <= m * 10.0**e <= high]
    ax.minorticks_off()
    ax.set_xticks(ticks, [f"{t:g}" for t in ticks])
    ax.set_yticks(ticks, [f"{t:g}" for t in ticks])
    name_axes(ax, f"predicted rate, mean of a bin ({metric})", "observed rate")
    legend(ax, loc="upper left")
    return figure


def _bins(run: Run, role: str, metric: str) -> np.ndarray:
    """``[bins, 2]``: predicted and observed rates, without bins in which one of them is 0."""
    tested: Any = (run.records["test"] or [{}])[-1]
    found = tested.get("reliability", {}).get(role, {}).get(metric) or []
    bins = np.array([one[1:] for one in found], float).reshape(-1, 2)
    return bins[(bins > 0).all(axis=1)]


def _title(run: Run, metric: str) -> str:
    """What the models predict on average over what happened."""
    parts = []
    for role, _ in ROLES:
        measures = ((run.summary.get(role) or {}).get("measures") or {}).get(metric) or {}
        value = measures.get("calibration")
        if value is not None and math.isfinite(value):
            parts.append((role, f"{value:.3f}"))
    if not parts:
        return "Reliability on the held-out rows"
    (first, value), *others = parts
    text = "".join(f" and the {role} {value}" for role, value in others)
    return f"The {first} predicts {value}{text} times the observed rate"
