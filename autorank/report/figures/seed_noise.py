"""How far seeds alone move NE, beside the gains of the finalists seed by seed."""

from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from autorank.ledger.run_folder import Run, winner_config
from autorank.report.finals import finalists
from autorank.report.style import BLUE, GREEN, GREY, INK, name_axes, panels


class Dots(NamedTuple):
    """One line of the figure."""

    name: str
    gains: np.ndarray  # percent, one for each seed
    colour: str


def seed_noise(run: Run) -> Figure | None:
    """The gains of each seed, one line a model and a set of seeds."""
    if not run.records["seed_noise"]:
        return None
    levels = np.array(run.records["seed_noise"][-1]["ne"], float)
    lines = _lines(run, levels)
    noise = run.summary.get("seed_noise_percent")
    noise = float(levels.std(ddof=1) / levels.mean() * 100) if noise is None else noise
    figure, (ax,) = panels(_title(run, noise), height=1.3 + 0.42 * len(lines))
    ax.axvspan(-2 * noise, 2 * noise, color="#f0f0f0", zorder=0)
    ax.axvline(0.0, color=GREY, linewidth=0.8)
    for height, line in enumerate(lines):
        _draw(ax, height, line)
    ax.set_yticks(range(len(lines)), [line.name for line in lines])
    ax.set_ylim(len(lines) - 0.5, -0.5)
    name_axes(
        ax,
        "NE against the baseline's mean, or against its run of the same seed (%)\n"
        "bar: mean over seeds; band: two standard deviations of the baseline",
        "",
    )
    return figure


def _lines(run: Run, levels: np.ndarray) -> list[Dots]:
    lines = [Dots("baseline, validation", 100 * (levels / levels.mean() - 1), INK)]
    winner = winner_config(run)
    for number, final in enumerate(finalists(run), start=1):
        chosen = final.config == winner
        name = "winner, choosing seeds" if chosen else f"finalist {number}, choosing seeds"
        lines.append(Dots(name, final.gains, BLUE if chosen else GREY))
    for final in finalists(run, "confirmation"):
        if final.config == winner:
            lines.append(Dots("winner, validation, fresh seeds", final.gains, BLUE))
    for metric, test in ((run.summary.get("winner") or {}).get("test") or {}).items():
        gains = np.array(test["gains"], float)
        lines.append(Dots(f"winner, held-out test ({metric})", gains, GREEN))
    return lines


def _draw(ax: Axes, height: int, line: Dots) -> None:
    heights = [height] * len(line.gains)
    ax.scatter(line.gains, heights, c=line.colour, s=26, alpha=0.75, linewidths=0)
    if np.isfinite(line.gains).any():
        mean = np.nanmean(line.gains)
        ax.plot([mean], [height], marker="|", markersize=16, color=line.colour)


def _title(run: Run, noise: float) -> str:
    """The gain in units of the noise, unless its interval says that it may be noise itself."""
    gain = run.summary.get("ne_gain_percent") or {}
    mean, low, high = gain.get("mean"), gain.get("low"), gain.get("high")
    if mean is None or not noise:
        return f"Changing only the seed moves the baseline's NE by {noise:.3f}%"
    if low is None or high is None or low <= 0 <= high:
        return f"The winner's {mean:+.2f}% cannot be distinguished from seed noise"
    times = abs(mean) / noise
    return (
        f"Seeds alone move NE by {noise:.3f}%; the winner's {mean:+.2f}% is {times:.1f} times that"
    )
