"""Learning curves: window NE against training rows, and the gain against the baseline's mean curve."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from autorank.ledger.run_folder import (
    Run,
    curve_of,
    full_rows,
    labelled,
    metric_of,
    of_stage,
    searched,
    winner_config,
)
from autorank.report.style import (
    BLUE,
    GAIN,
    INK,
    PALE,
    legend,
    name_axes,
    panels,
    robust_limits,
    rows_text,
)


class Curves(NamedTuple):
    """Curves ``[t]`` of window NE, one for each run."""

    name: str  # of the best: "winner" or "best so far"
    reference: Sequence[np.ndarray]  # the baseline's
    best: Sequence[np.ndarray]
    others: Sequence[np.ndarray]  # trials
    rows: np.ndarray  # [t], training rows seen

    @property
    def baseline(self) -> np.ndarray:
        """The baseline's mean curve."""
        return np.mean(self.reference, axis=0)

    def gains(self) -> "Curves":
        """The same curves in percent against the baseline's mean curve."""
        mean = self.baseline

        def against(curves: Sequence[np.ndarray]) -> list[np.ndarray]:
            return [100 * (c - mean) / mean for c in curves]

        reference, best, others = map(against, (self.reference, self.best, self.others))
        return self._replace(reference=reference, best=best, others=others)


def curves(run: Run) -> Figure | None:
    """Curves of the baseline, the winner and the trials."""
    found = _read(run)
    if found is None:
        return None
    figure, (left, right) = panels(_title(found), 2)
    # The untrained model's first windows must not set the scale, least of all that of the gain.
    _draw(left, found, first=len(found.rows) // 20)
    _draw(right, found.gains(), first=len(found.rows) // 2)
    name_axes(left, "training rows seen", f"window NE ({metric_of(run)})")
    name_axes(right, "training rows seen", GAIN)
    legend(left)
    return figure


def _read(run: Run) -> Curves | None:
    """The run's complete curves; None without one of the baseline."""
    reference = [curve_of(run, t) for t in of_stage(run, "seed_noise") if t.status == "finished"]
    reference = [c for c in reference if c.size]
    if not reference:
        return None
    length = len(reference[0])
    config = winner_config(run)
    finals = (*of_stage(run, "final"), *of_stage(run, "confirmation"))
    trained = [t for t in finals if t.config == config and t.status == "finished"]
    trained = trained or [t for t in labelled(run) if t.config == config]
    best = [curve_of(run, t) for t in trained]
    others = [curve_of(run, t) for t in searched(run) if t.status == "finished"]
    return Curves(
        "winner" if run.summary.get("winner") else "best so far",
        reference,
        [c for c in best if len(c) == length],
        [c for c in others if len(c) == length],
        np.arange(1, length + 1) / length * full_rows(run),
    )


def _draw(ax: Axes, shown: Curves, first: int) -> None:
    """Draws all curves; those from window ``first`` on set the limits."""
    thin = {"linewidth": 0.5, "alpha": 0.45, "zorder": 2}
    bold = {"linewidth": 1.8, "zorder": 3}
    for curve in shown.others:
        ax.plot(shown.rows, curve, color=PALE, linewidth=0.6, zorder=1)
    for curve in shown.reference:
        ax.plot(shown.rows, curve, color=INK, **thin)
    for curve in shown.best:
        ax.plot(shown.rows, curve, color=BLUE, **thin)
    ax.plot(shown.rows, shown.baseline, color=INK, label="baseline", **bold)
    if shown.best:
        ax.plot(shown.rows, np.mean(shown.best, axis=0), color=BLUE, label=shown.name, **bold)
    ax.plot([], [], color=PALE, linewidth=0.8, label="trials")
    late = [v for c in shown.others for v in c[first:] if math.isfinite(v)]
    core = [v for c in (*shown.reference, *shown.best) for v in c[first:] if math.isfinite(v)]
    ax.set_ylim(robust_limits(late or core, core))
    ax.xaxis.set_major_formatter(FuncFormatter(rows_text))


def _title(shown: Curves) -> str:
    """Where the winner ends, by its last quarter."""
    if not shown.best:
        return "Learning curves: the baseline and the trials"
    curve, baseline = np.mean(shown.best, axis=0), shown.baseline
    late = np.isfinite(curve)
    late[: 3 * len(baseline) // 4] = False
    if not late.any():
        return f"Learning curves: the {shown.name} has not seen the last quarter of the log"
    gain = 100 * np.mean((curve[late] - baseline[late]) / baseline[late])
    side = "below" if gain < 0 else "above"
    return (
        f"Over the last quarter of the log the {shown.name} is {abs(gain):.2f}% {side} the baseline"
    )
