"""The curve label of a trial: one number from its curve of window NE, seen up to a fraction of the log.

Curves are ``[t windows]`` of NE, or of its gain over the baseline, on identical rows for all models; lower is better.
A curve label is the mean of the tail of the windows reached, plus a trend: a line ``NE(t) = m t + c`` fitted to that
tail adds ``m dx`` (arXiv 2311.07870). The length of the tail and ``dx`` in windows are our choice. A power law is an
alternative extrapolation, for comparison.

A window without an NE (NaN: its rows are of one class) is skipped. A curve that *ends* before its fraction belongs to a
failed trial; its curve label is NaN. One missing window at the end is allowed, because steps do not divide evenly into
windows. ``where [t]`` marks the windows in which any model could have an NE (`measurable`), so that a log that ends in
windows of one class is not mistaken for a failure.
"""

import math

import numpy as np
from jaxtyping import Bool, Float

EXPONENTS = np.geomspace(0.02, 2.0, 60)


def curve_label(
    curve: Float[np.ndarray, " t"],
    fraction: float,
    *,
    tail: float = 0.25,
    dx: float = 0.0,
    where: Bool[np.ndarray, " t"] | None = None,
) -> float:
    """The mean of the tail of the windows reached, plus ``dx`` windows along its least-squares line.

    Args:
        curve: windows of the whole log; those after ``fraction`` are ignored.
        fraction: share of the log that was trained on, in (0, 1].
        tail: share of the windows reached, in (0, 1]; at least one window is used, and two for the line.
        dx: windows to extrapolate; 0 predicts that the curve stays where it is.
        where: windows that can be measured; None for all.

    Raises:
        ValueError: a fraction or a tail outside (0, 1].

    Examples:
        >>> curve = np.array([5.0, 4.0, 3.0, 2.0, np.nan, np.nan, np.nan, np.nan])
        >>> curve_label(curve, 0.5, tail=0.5), curve_label(curve, 0.5, tail=0.5, dx=1.0)
        (2.5, 1.5)
        >>> curve_label(curve, 1.0)
        nan
    """
    first, reached = tail_windows(len(curve), fraction, tail)
    _, values = _finite(curve, first, reached, where)
    if not values.size:
        return math.nan
    start = min(first, max(0, reached - 2))
    slope = _slope(*_finite(curve, start, reached, where)) if dx else 0.0
    return float(values.mean() + slope * dx)


def label_power_law(
    curve: Float[np.ndarray, " t"],
    fraction: float,
    *,
    tail: float = 0.25,
    skip: float = 0.1,
    where: Bool[np.ndarray, " t"] | None = None,
) -> float:
    """The mean over the *final* tail of the power law ``a + b n^-c`` fitted to the windows reached.

    The least-squares fit is exact in ``a`` and ``b`` and takes the best of 60 exponents ``c``. With fewer than four
    windows the result is `curve_label` without a trend.

    Args:
        curve: windows of the whole log; those after ``fraction`` are ignored.
        fraction: share of the log that was trained on, in (0, 1].
        tail: share of the whole log's windows, in (0, 1].
        skip: share of the windows reached that is left out as warm-up.
        where: windows that can be measured; None for all.

    Examples:
        >>> curve = 1 + 1 / (np.arange(40) + 0.5)
        >>> abs(label_power_law(curve, 0.5) - curve_label(curve, 1.0)) < 1e-3
        True
    """
    _, reached = tail_windows(len(curve), fraction, tail)
    time, values = _finite(curve, math.floor(skip * reached), reached, where)
    if values.size < 4:
        return curve_label(curve, fraction, tail=tail, where=where)
    first, end = tail_windows(len(curve), 1.0, tail)
    basis = (time + 0.5) ** -EXPONENTS[:, None]  # [c, t]
    centred, level = basis - basis.mean(axis=1, keepdims=True), values - values.mean()
    b = centred @ level / (centred**2).sum(axis=1)
    best = np.argmin(((level - b[:, None] * centred) ** 2).sum(axis=1))
    future = (np.arange(first, end) + 0.5) ** -EXPONENTS[best]
    return float(values.mean() + b[best] * (future.mean() - basis[best].mean()))


def tail_windows(num_windows: int, fraction: float, tail: float) -> tuple[int, int]:
    """The windows ``[first, reached)`` that a curve label at ``fraction`` is the mean of.

    Examples:
        >>> tail_windows(100, 0.5, tail=0.2)
        (40, 50)
    """
    if not 0 < fraction <= 1 or not 0 < tail <= 1:
        raise ValueError(f"fraction={fraction} and tail={tail} must both lie in (0, 1]")
    reached = max(1, math.floor(fraction * num_windows + 1e-9))
    return min(round((1 - tail) * reached), reached - 1), reached


def curve_labels(
    curves: Float[np.ndarray, "p t"],
    fraction: float,
    *,
    tail: float = 0.25,
    dx: float = 0.0,
    where: Bool[np.ndarray, " t"] | None = None,
) -> Float[np.ndarray, " p"]:
    """`curve_label` of each curve."""
    return np.array(
        [curve_label(c, fraction, tail=tail, dx=dx, where=where) for c in curves], np.float64
    )


def _finite(
    curve: np.ndarray, first: int, reached: int, where: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Times and values of the finite windows in ``[first, reached)``; none if the curve ended earlier."""
    known = np.flatnonzero(np.isfinite(curve[:reached]))
    # A complete curve has all measurable windows except perhaps the very last one.
    due = np.arange(reached - 1) if where is None else np.flatnonzero(where[: reached - 1])
    if not known.size or (due.size and known[-1] < due[-1]):
        return np.zeros(0), np.zeros(0)
    time = known[known >= min(first, known[-1])]
    return time.astype(np.float64), np.asarray(curve, np.float64)[time]


def _slope(time: np.ndarray, values: np.ndarray) -> float:
    """The slope of the least-squares line; 0 for a single time."""
    centred = time - time.mean()
    spread = float(centred @ centred)
    return float(centred @ values) / spread if spread > 0 else 0.0
