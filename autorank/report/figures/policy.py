"""The policy: its entropy and mean reward along its steps."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from autorank.ledger.run_folder import Run
from autorank.report.style import BLUE, GREY, legend, name_axes, panels, shades


def policy(run: Run) -> Figure | None:
    """Entropy and mean reward, one line a round."""
    records = [r for r in run.records["policy"] if series(r.get("entropy")).size]
    if not records:
        return None
    last = series(records[-1].get("entropy"))[-1]
    figure, axes = panels(f"The policy ends its last round at {last:.0%} of uniform entropy", 2)
    for ax, name in zip(axes, ("entropy", "reward"), strict=True):
        _draw(ax, records, name)
    axes[0].set_ylim(-0.03, 1.05)
    axes[0].set_ylabel("entropy (1 = uniform)")
    axes[1].set_ylabel("mean reward of the samples (predictor's scale)")
    if len(records) <= 12:
        legend(axes[0], ncols=2)
    return figure


def _draw(ax: Axes, records: list[dict[str, Any]], name: str) -> None:
    """A line for each round; a single line over the rounds if each recorded one number."""
    colour = shades([r["round"] for r in records])
    single = []
    for record in records:
        values = series(record.get(name))
        if values.size > 1:
            steps = list(record.get("step") or range(len(values)))[: len(values)]
            looks = {"color": colour(record["round"]), "linewidth": 1.3}
            ax.plot(steps, values, label=f"round {record['round']}", **looks)
        elif values.size:
            single.append((record["round"], values[0]))
    if single:
        ax.plot(*zip(*single, strict=True), color=BLUE, marker="o", markersize=3.5)
    if not ax.lines:
        ax.text(0.5, 0.5, "not recorded", transform=ax.transAxes, ha="center", color=GREY)
    name_axes(ax, "round" if single else "REINFORCE step", "")


def series(values: Any) -> np.ndarray:
    """The finite part of the mean over all axes but the last; rows that are not all finite are left out.

    Examples:
        >>> series([[1.0, 2.0], [3.0, 4.0], [None, None]]).tolist(), series(0.5).tolist()
        ([2.0, 3.0], [0.5])
    """
    array = np.array([] if values is None else values, float)
    if array.ndim > 1:
        array = array.reshape(-1, array.shape[-1])
        array = array[np.isfinite(array).all(axis=1)]
        array = array.mean(axis=0) if len(array) else np.zeros(0)
    array = np.atleast_1d(array)
    return array[np.isfinite(array)]
