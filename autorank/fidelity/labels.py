"""The label that a curve of window NE earns, seen up to a fraction of the log.

Curves are ``[t windows]`` of NE, or of its gain over the baseline, on identical rows for all
models; lower is better. A label is the mean of the tail of the windows reached, plus a trend: a
line fitted to that tail, ``NE(t) = m t + c``, adds ``m dx`` (arXiv 2311.07870). Tail length and
``dx`` in windows are own choices; the power law is another extrapolation, for comparison.

A window without an NE (NaN: one class only) is skipped; a curve that *ends* before its fraction is
a failed trial and its label is NaN. One missing window at the end is forgiven: steps do not divide
evenly into windows. ``where [t]`` says which windows any model could have an NE in (`measurable`),
so that a log that ends in windows of one class is not taken for a failure.
"""

import math

import numpy as np
from jaxtyping import Bool, Float

EXPONENTS = np.geomspace(0.02, 2.0, 60)


def label(
    curve: Float[np.ndarray, " t"],
    fraction: float,
    *,
    tail: float = 0.25,
    dx: float = 0.0,
    where: Bool[np.ndarray, " t"] | None = None,
) -> float:
    """Mean of the tail of the windows reached, plus ``dx`` windows along its least-squares line.

    Args:
        curve: the whole log's windows; those past ``fraction`` are not looked at.
        fraction: share of the log that was trained on, in (0, 1].
        tail: share of the windows reached, in (0, 1]; at least one window, two for the line.
        dx: windows to extrapolate; 0 predicts that the curve stays where it is.
        where: windows that can be measured; None: all.
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
    """Mean over the *final* tail of the power law ``a + b n^-c`` fitted to the windows reached.

    Least squares: exact in ``a`` and ``b``, on a grid of 60 exponents in ``c``. The first ``skip``
    share of the windows reached (warm-up) is left out. With fewer than four windows it is the plain
    `label`.
    """
    _, reached = tail_windows(len(curve), fraction, tail)
    time, values = _finite(curve, math.floor(skip * reached), reached, where)
    if values.size < 4:
        return label(curve, fraction, tail=tail, where=where)
    first, end = tail_windows(len(curve), 1.0, tail)
    basis = (time + 0.5) ** -EXPONENTS[:, None]  # [c, t]
    centred, level = basis - basis.mean(axis=1, keepdims=True), values - values.mean()
    b = centred @ level / (centred**2).sum(axis=1)
    best = np.argmin(((level - b[:, None] * centred) ** 2).sum(axis=1))
    future = (np.arange(first, end) + 0.5) ** -EXPONENTS[best]
    return float(values.mean() + b[best] * (future.mean() - basis[best].mean()))


def tail_windows(num_windows: int, fraction: float, tail: float) -> tuple[int, int]:
    """``[first, reached)``: the windows that a label at ``fraction`` looks at."""
    if not 0 < fraction <= 1 or not 0 < tail <= 1:
        raise ValueError(f"fraction={fraction} and tail={tail} must both lie in (0, 1]")
    reached = max(1, math.floor(fraction * num_windows + 1e-9))
    return min(round((1 - tail) * reached), reached - 1), reached


def labels(
    curves: Float[np.ndarray, "p t"],
    fraction: float,
    *,
    tail: float = 0.25,
    dx: float = 0.0,
    where: Bool[np.ndarray, " t"] | None = None,
) -> Float[np.ndarray, " p"]:
    """`label` of each curve."""
    return np.array([label(c, fraction, tail=tail, dx=dx, where=where) for c in curves], np.float64)


# --- inside ---------------------------------------------------------------------------------------


def _finite(
    curve: np.ndarray, first: int, reached: int, where: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Times and values of the windows ``[first, reached)``; none if the curve ended earlier."""
    known = np.flatnonzero(np.isfinite(curve[:reached]))
    # What it must have: all that can be measured but the very last window.
    due = np.arange(reached - 1) if where is None else np.flatnonzero(where[: reached - 1])
    if not known.size or (due.size and known[-1] < due[-1]):
        return np.zeros(0), np.zeros(0)
    time = known[known >= min(first, known[-1])]
    return time.astype(np.float64), np.asarray(curve, np.float64)[time]


def _slope(time: np.ndarray, values: np.ndarray) -> float:
    centred = time - time.mean()
    spread = float(centred @ centred)
    return float(centred @ values) / spread if spread > 0 else 0.0
