"""How well short curves keep the final order of the pilots: Kendall's tau-b and its bootstrap over pilots."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from autorank.fidelity.curve_label import curve_labels


class TauCurve(NamedTuple):
    """For each fraction of the log, tau-b of its curve labels with the final ones, and the bootstrap interval."""

    fractions: np.ndarray  # [f]
    tau: np.ndarray  # [f]
    low: np.ndarray  # [f]
    high: np.ndarray  # [f]


def tau_curve(
    curves: Float[np.ndarray, "p t"],
    fractions: Sequence[float],
    *,
    tail: float = 0.25,
    dx: float | Sequence[float] = 0.0,
    num_bootstrap: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> TauCurve:
    """Tau-b of the curve labels at each fraction with the final curve labels (whole log, no trend).

    Pilots that failed before or after a fraction are left out of it. Tau-b is NaN where fewer than two pilots, or no
    order among them, are left.

    Args:
        curves: gain curves of the pilots, trained to the end.
        fractions: shares of the log, each in (0, 1].
        tail: share of the windows reached that a curve label is the mean of.
        dx: windows to extrapolate; one number, or one for each fraction.
        num_bootstrap: resamples of the pilots.
        level: coverage of the interval, for example 0.95.
        seed: seeds the resamples.

    Examples:
        >>> curves = np.array([[3.0, 2.0, 1.0, 1.0], [4.0, 3.0, 2.0, 2.0], [5.0, 1.0, 3.0, 3.0]])
        >>> tau_curve(curves, [0.25, 0.5]).tau.round(2).tolist()
        [1.0, -0.33]
    """
    steps = np.broadcast_to(np.asarray(dx, np.float64), (len(fractions),))
    final = curve_labels(curves, 1.0, tail=tail)
    rows = []
    for fraction, step in zip(fractions, steps, strict=True):
        short = curve_labels(curves, fraction, tail=tail, dx=float(step))
        tau, replicates = bootstrap_tau(short[None], final, num_bootstrap, seed)
        rows.append((tau[0], *interval(replicates[0], level)))
    return as_tau_curve(fractions, rows)


def as_tau_curve(
    fractions: Sequence[float], rows: Sequence[tuple[float, float, float]]
) -> TauCurve:
    """A `TauCurve` of rows ``(tau, low, high)``, one for each fraction; there may be none."""
    columns = np.array(rows, np.float64).reshape(-1, 3).T
    return TauCurve(np.asarray(fractions, np.float64), *columns)


def bootstrap_tau(
    short: np.ndarray, final: np.ndarray, num_bootstrap: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Tau-b ``[g]`` of each row of ``short [g, p]`` with ``final [p]``; replicates ``[g, s]``.

    A resample is a vector of counts ``c``. With the sign matrices ``A`` and ``B`` of the two orders, its tau-b is
    ``c' (A * B) c / sqrt(c' |A| c  c' |B| c)``. A pilot drawn twice ties with itself on both sides and drops out.
    """
    valid = np.isfinite(final) & np.isfinite(short).all(axis=0)
    short, final = short[:, valid], final[valid]
    p = len(final)
    if p < 2:
        return np.full(len(short), np.nan), np.full((len(short), num_bootstrap), np.nan)
    counts = resampled_counts(np.random.default_rng(seed), p, num_bootstrap)
    a, b = np.stack([signs(values) for values in short]), signs(final)
    pairs = weighted_pairs(np.abs(a), counts) * weighted_pairs(np.abs(b), counts)
    agree = weighted_pairs(a * b, counts)
    taus = np.where(pairs > 0, agree / np.sqrt(np.maximum(pairs, 1)), np.nan)
    return taus[:, 0], taus[:, 1:]


def resampled_counts(rng: np.random.Generator, p: int, num_bootstrap: int) -> np.ndarray:
    """How often each of ``p`` pilots is drawn, ``[1 + s, p]``: once each in the first row, then by resample."""
    counts = rng.multinomial(p, np.full(p, 1 / p), size=num_bootstrap).astype(np.float64)
    return np.concatenate([np.ones((1, p)), counts])


def interval(replicates: np.ndarray, level: float) -> tuple[float, float]:
    """The central interval of the finite replicates; NaN if there are none."""
    seen = replicates[np.isfinite(replicates)]
    if not seen.size:
        return math.nan, math.nan
    low, high = np.quantile(seen, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def weighted_pairs(matrix: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """``c' M c`` of matrices ``[..., p, p]`` for each row of counts ``[s, p]``: ``[..., s]``."""
    return ((counts @ matrix) * counts).sum(axis=-1)


def signs(values: np.ndarray) -> np.ndarray:
    """The order of every pair, ``[p, p]``: 1 where the row's value is larger than the column's, -1 where smaller."""
    return np.sign(values[:, None] - values[None, :])
