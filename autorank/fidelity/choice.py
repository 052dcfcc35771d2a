"""Rules that choose a fraction of the log, and a trend, from the curves of pilots (arXiv 2311.07870).

The guard of `choose_dx` and the reading of "plateau" in `choose_fraction` are our choice.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from autorank.fidelity.agreement import TauCurve, bootstrap_tau
from autorank.fidelity.curve_label import curve_labels

CONFIDENCE = 0.9  # share of the resamples in which a trend must beat no trend


class Choice(NamedTuple):
    """The fraction taken, its tau-b, the plateau that it was compared with, and the reason in words."""

    fraction: float
    tau: float
    plateau: float
    reason: str


def choose_fraction(
    curve: TauCurve, *, tail: float = 0.25, slack: float = 0.05, tau_floor: float = 0.75
) -> Choice:
    """The smallest fraction whose tau-b is high enough and close enough to the plateau; 1 if there is none.

    The plateau is the highest lower bound of tau-b among the fractions (our reading of the paper). Only fractions up to
    ``1 - tail`` count: later ones agree with the end because they share its windows.

    Args:
        curve: tau-b at each fraction.
        tail: share of the windows reached that a curve label is the mean of.
        slack: how far below the plateau the lower bound of a fraction may lie.
        tau_floor: smallest acceptable tau-b.

    Examples:
        >>> fractions, tau = np.array([0.1, 0.3, 0.5]), np.array([0.5, 0.9, 0.92])
        >>> choose_fraction(TauCurve(fractions, tau, tau - 0.1, tau + 0.05)).fraction
        0.3
    """
    fractions, tau, low = curve.fractions, curve.tau, curve.low
    apart = fractions <= 1 - tail + 1e-9
    if not apart.any():
        return Choice(
            1.0,
            math.nan,
            math.nan,
            f"every fraction shares windows with the final label, the last {tail:g} of the log: "
            f"the whole log is used; write a fraction of at most {1 - tail:g} into "
            f"fidelity.fractions",
        )
    apart &= np.isfinite(low)
    if not apart.any():
        return Choice(1.0, math.nan, math.nan, "the pilots show no order: the whole log is used")
    plateau = float(low[apart].max())
    fits = apart & (low >= plateau - slack) & (tau >= tau_floor)
    if not fits.any():
        best = int(np.nanargmax(np.where(apart, tau, np.nan)))
        return Choice(
            1.0,
            math.nan,
            plateau,
            f"no fraction keeps the final order: the best up to {1 - tail:g} is "
            f"{fractions[best]:g} with tau-b {tau[best]:.2f}, where at least {tau_floor:g} and a "
            f"lower bound of at least {plateau - slack:.2f} are asked for",
        )
    i = int(np.argmax(fits))
    return Choice(
        float(fractions[i]),
        float(tau[i]),
        plateau,
        f"{fractions[i]:g} is the smallest fraction with tau-b of at least {tau_floor:g} "
        f"({tau[i]:.2f}) and a lower bound ({low[i]:.2f}) within {slack:g} "
        f"of the plateau ({plateau:.2f})",
    )


def choose_dx(
    curves: Float[np.ndarray, "p t"],
    fraction: float,
    grid: Sequence[float],
    *,
    tail: float = 0.25,
    confidence: float = CONFIDENCE,
    num_bootstrap: int = 1000,
    seed: int = 0,
) -> float:
    """The ``dx`` of the grid, or 0, with the highest tau-b on the pilots; the smallest one among equals.

    To avoid overfitting a handful of pilots, a ``dx`` only counts if it beats 0 in at least ``confidence`` of the
    bootstrap resamples of the pilots, paired.

    Args:
        curves: gain curves of the pilots, trained to the end.
        fraction: share of the log.
        grid: candidates, in windows.
        tail: share of the windows reached that a curve label is the mean of.
        confidence: share of the resamples in which a ``dx`` must beat 0.
        num_bootstrap: number of resamples.
        seed: seeds the resamples.

    Examples:
        >>> choose_dx(np.arange(6.0)[:, None] + np.zeros((6, 20)), 0.5, [5.0])
        0.0
    """
    steps = trends(grid)
    if fraction >= 1:
        return 0.0
    final = curve_labels(curves, 1.0, tail=tail)
    short = np.stack([curve_labels(curves, fraction, tail=tail, dx=float(s)) for s in steps])
    return float(steps[best_trend(short, final, steps, confidence, num_bootstrap, seed)[0]])


def dx_grid(num_windows: int) -> tuple[float, ...]:
    """Candidate trends: 0 and 5 % to 100 % of the log, in windows."""
    return tuple(s * num_windows for s in (0.0, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0))


def trends(grid: Sequence[float]) -> np.ndarray:
    """0 and the grid, by absolute value."""
    return np.array(sorted({0.0, *map(float, grid)}, key=lambda v: (abs(v), v)))


def best_trend(
    short: np.ndarray,
    final: np.ndarray,
    steps: np.ndarray,
    confidence: float,
    num_bootstrap: int,
    seed: int,
) -> tuple[int, float, np.ndarray]:
    """The index of the trend that `choose_dx` takes, its tau-b and its replicates.

    ``short [g, p]`` are the curve labels of each trend, ``final [p]`` the final ones.
    """
    tau, replicates = bootstrap_tau(short, final, num_bootstrap, seed)
    wins = (replicates > replicates[:1]).mean(axis=1)
    allowed = np.where((wins >= confidence) | (steps == 0), tau, -np.inf)
    # Curve labels are sums of floats: differences of tau-b below 1e-9 are rounding errors.
    best = int(np.argmax(np.round(allowed, 9))) if np.isfinite(tau[0]) else 0
    return best, float(tau[best]), replicates[best]
