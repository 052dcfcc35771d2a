"""Predictions: the predicted gain of each proposal against its label."""

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from autorank.base.metrics import kendall_tau_b
from autorank.ledger.run_folder import Run, told
from autorank.report.style import GREY, INK, name_axes, panels, robust_limits, shades


def predictions(run: Run) -> Figure | None:
    """Predicted against true gain of all proposals, and their rank agreement round by round."""
    trials = [t for t in told(run) if t.predicted and t.predicted[0] is not None]
    if len(trials) < 3:
        return None
    pairs = np.array([(t.predicted[0], t.quality) for t in trials if t.predicted], float)
    rounds = np.array([t.round for t in trials])
    tau = kendall_tau_b(pairs[:, 0], pairs[:, 1])
    said = (
        "separates good from bad" if tau >= 0.5 else "gives a hint" if tau >= 0.2 else "says little"
    )
    title = f"The predictor {said}: tau-b {tau:.2f} over its {len(trials)} proposals"
    figure, (left, right) = panels(title, 2)
    by_round = {int(r): pairs[rounds == r] for r in np.unique(rounds)}
    colour = shades(list(by_round))
    _draw_pairs(left, pairs, by_round, [colour(r) for r in by_round])
    taus = [
        kendall_tau_b(part[:, 0], part[:, 1]) if len(part) > 2 else math.nan
        for part in by_round.values()
    ]
    right.bar(list(by_round), taus, color=[colour(r) for r in by_round], width=0.7)
    right.axhline(0.0, color=INK, linewidth=0.8)
    right.set_ylim(-1.03, 1.03)
    right.xaxis.set_major_locator(MaxNLocator(integer=True))
    name_axes(right, "round", "tau-b within the round's proposals")
    return figure


def _draw_pairs(
    ax: Axes, pairs: np.ndarray, by_round: dict[int, np.ndarray], colours: Sequence
) -> None:
    for part, colour in zip(by_round.values(), colours, strict=True):
        ax.scatter(*part.T, s=20, color=colour, alpha=0.8, linewidths=0)
    ax.axline((0, 0), slope=1, color=GREY, linewidth=0.8, linestyle=":")
    ax.set_xlim(robust_limits(pairs[:, 0].tolist()))
    ax.set_ylim(robust_limits(pairs[:, 1].tolist()))
    name_axes(ax, "predicted NE gain (%), before training", "NE gain (%) after training")
