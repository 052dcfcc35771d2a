"""Importance: how much of the ranking of trials each decision explains by itself."""

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from autorank.ledger.run_folder import Run, told, values_of
from autorank.report.style import BLUE, PALE, RED, legend, name_axes, panels

MAX_DECISIONS = 16  # bars that can be read


def importance(run: Run) -> Figure | None:
    """The share of the variance of ranks between the choices of each decision, with the level of chance."""
    trials = told(run)
    if not run.decisions or len(trials) < 8:
        return None
    names = [d["name"] for d in run.decisions]
    values = [values_of(run.decisions, t.config) for t in trials]
    ranks = ranked(np.array([t.quality for t in trials], float))
    groups = [np.array([repr(v.get(name, "(inactive)")) for v in values]) for name in names]
    shares = np.array([explained(g, ranks[None])[0] for g in groups])
    levels = chance(groups, ranks)
    order = sorted(range(len(names)), key=lambda i: shares[i] - levels[i])[-MAX_DECISIONS:]
    clear = [names[i] for i in reversed(order) if shares[i] > levels[i]]
    title = (
        f"{clear[0]} exceeds chance by most" if clear else "No single decision explains the ranking"
    )
    figure, (ax,) = panels(title, height=1.5 + 0.24 * len(order))
    for height, i in enumerate(order):
        ax.barh(height, shares[i], color=BLUE if shares[i] > levels[i] else PALE, height=0.7)
        ax.plot([levels[i]] * 2, [height - 0.4, height + 0.4], color=RED, linewidth=1.6)
    mark = "exceeded by shuffled labels, for any decision, in 5% of cases"
    ax.plot([], [], color=RED, linewidth=1.6, label=mark)
    ax.set_yticks(range(len(order)), [names[i] for i in order], fontsize=8)
    ax.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    name_axes(ax, f"share of the variance of ranks that it explains, {len(trials)} trials", "")
    legend(ax, loc="lower right")
    return figure


def ranked(values: np.ndarray) -> np.ndarray:
    """Ranks from 1 with ties averaged, so that one diverged trial does not dominate.

    Examples:
        >>> ranked(np.array([3.0, 1e9, 3.0])).tolist()
        [1.5, 3.0, 1.5]
    """
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return (ends - (counts - 1) / 2)[inverse]


def explained(groups: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Eta squared of each row of ``values [s, n]``: variance between ``groups [n]`` over total variance.

    On ranks, ``(n - 1)`` times it is the Kruskal-Wallis statistic.

    Examples:
        >>> explained(np.array(["a", "a", "b", "b"]), np.array([[1.0, 1.0, 2.0, 2.0]])).tolist()
        [1.0]
    """
    _, inverse, counts = np.unique(groups, return_inverse=True, return_counts=True)
    centred = values - values.mean(axis=1, keepdims=True)
    total = (centred**2).sum(axis=1)
    sums = centred @ np.eye(len(counts))[inverse]
    return (sums**2 / counts).sum(axis=1) / np.where(total > 0, total, 1.0)


def chance(groups: list[np.ndarray], ranks: np.ndarray, num_shuffles: int = 1000) -> np.ndarray:
    """A share for each decision such that shuffled labels exceed any of them in 5% of cases.

    The levels hold for all decisions together. Of twenty decisions tested one by one, one would always look important.
    """
    rng = np.random.default_rng(0)
    shuffled = rng.permuted(np.tile(ranks, (num_shuffles, 1)), axis=1)
    null = np.array([explained(g, shuffled) for g in groups])
    places = np.argsort(np.argsort(null, axis=1, kind="stable"), axis=1)
    place = int(np.quantile(places.max(axis=0), 0.95, method="higher"))
    return np.sort(null, axis=1)[:, place]
