"""A stand-in for an A/B test: the held-out rows as days of an experiment in which two models score the same exposures.

Days are parts of the test rows in time order with equally many rows each. What is compared is each row's log loss, the
mean over seeds, in percent of the reference's mean loss: that is the gain in NE, whose denominator both models share.
Rows side by side are not independent (one user's, one hour's), so variances are those of the means of short blocks.

Nobody sees other rows because a model ranked them: it is a test of predictions, not of what they change.

References:
    Confidence sequence: Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas, Time-uniform central limit theory and
    asymptotic confidence sequences, Annals of Statistics 2024, theorem 2.2 and the choice of rho below it; it may be
    looked at after every day. Batch means: Glynn and Whitt, Operations Research 1991.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import special

DAYS = 14
BLOCKS = 20  # of a day, whose means give the variance
LEVEL, POWER = 0.95, 0.8


class Day(NamedTuple):
    """Sums over a day's rows."""

    rows: int
    positives: float
    predicted: float  # sum of predictions
    loss: float  # nats
    reference_loss: float
    squares: float  # sum over blocks of the squared sum of (loss - reference loss)
    own_squares: float  # of the squared deviation of a row's loss from its day's mean, of both models together


class Look(NamedTuple):
    """What is known after a day: of that day, and of all days up to it."""

    ne: float  # of that day; NaN for one class
    reference_ne: float
    calibration: float  # of that day: mean prediction over rate
    gain: float  # percent, all days so far
    low: float  # of the confidence sequence
    high: float


class Experiment(NamedTuple):
    """The whole stand-in."""

    looks: list[Look]
    shown_after: int | None  # days until the interval excluded 0 for the first time
    gain: float  # percent, all days
    paired_exposures: float  # for 80 % power, where both models score the same rows
    exposures_an_arm: float  # for 80 % power, where each row is scored by one of them


def days_of(
    predictions: np.ndarray,
    targets: np.ndarray,
    losses: np.ndarray,
    reference_losses: np.ndarray,
    days: int = DAYS,
    blocks: int = BLOCKS,
) -> list[Day]:
    """The days of rows ``[n]`` in time order; fewer where rows are few."""
    found = []
    for rows in np.array_split(np.arange(len(targets)), max(1, min(days, len(targets)))):
        if not rows.size:
            continue
        own, other = losses[rows], reference_losses[rows]
        sums = [part.sum() for part in np.array_split(own - other, min(blocks, rows.size))]
        spread = ((own - own.mean()) ** 2).sum() + ((other - other.mean()) ** 2).sum()
        found.append(
            Day(
                rows.size,
                float(targets[rows].sum()),
                float(predictions[rows].sum()),
                float(own.sum()),
                float(other.sum()),
                float(np.square(sums).sum()),
                float(spread),
            )
        )
    return found


def sequence_half_width(
    variance: float, count: float, planned: float, level: float = LEVEL
) -> float:
    """Half the width of the asymptotic confidence sequence of a mean after ``count`` of ``planned`` rows.

    ``sigma sqrt(2 (t rho^2 + 1) / (t^2 rho^2) log(sqrt(t rho^2 + 1) / alpha))``, with the rho that is best at the
    planned end.

    Args:
        variance: of one row.
        count: rows so far.
        planned: rows of the whole experiment.
        level: that all intervals cover at once.

    Examples:
        >>> sequence_half_width(1.0, 100.0, 100.0) > 1.96 / 10
        True
    """
    alpha = 1 - level
    rho2 = (-2 * math.log(alpha) + math.log(-2 * math.log(alpha)) + 1) / planned
    t = count * rho2 + 1
    return math.sqrt(variance * 2 * t / (count**2 * rho2) * math.log(math.sqrt(t) / alpha))


def exposures(delta: float, variance: float, power: float = POWER, level: float = LEVEL) -> float:
    """Rows with which a two-sided z-test finds a mean of ``delta``; infinite for none.

    Examples:
        >>> round(exposures(0.1, 1.0))
        785
    """
    if delta == 0:
        return math.inf
    z = float(special.ndtri((1 + level) / 2) + special.ndtri(power))
    return z**2 * variance / delta**2


def experiment(days: Sequence[Day], level: float = LEVEL) -> Experiment | None:
    """The stand-in from its days; None without a day that has both classes."""
    if not any(0 < d.positives < d.rows for d in days):
        return None
    table = np.array(days, np.float64)
    so_far, planned = table.cumsum(axis=0), float(table[:, 0].sum())
    looks = []
    for day, total in zip(days, so_far, strict=True):
        rows, loss, reference = total[0], total[3], total[4]
        mean = (loss - reference) / rows
        variance = max(0.0, _block_variance(total, len(looks) + 1))
        half = sequence_half_width(variance, rows, planned, level)
        scale = 100 * rows / reference
        rate = day.positives / day.rows
        entropy = float(special.entr(rate) + special.entr(1 - rate)) * day.rows
        own, other = (
            loss / entropy if entropy else math.nan for loss in (day.loss, day.reference_loss)
        )
        calibration = day.predicted / day.positives if day.positives else math.nan
        looks.append(
            Look(
                own, other, calibration, scale * mean, scale * (mean - half), scale * (mean + half)
            )
        )
    total = so_far[-1]
    delta = (total[3] - total[4]) / planned
    shown = next((i for i, x in enumerate(looks, 1) if x.low > 0 or x.high < 0), None)
    return Experiment(
        looks,
        shown,
        looks[-1].gain,
        exposures(delta, max(0.0, _block_variance(total, len(days)))),
        exposures(delta, total[6] / planned),
    )


def _block_variance(total: np.ndarray, days: int) -> float:
    """The variance of one row from sums over days (`Day`), by the means of blocks of about as many rows each."""
    rows, count = total[0], days * BLOCKS
    mean = (total[3] - total[4]) / rows
    blocks = min(count, rows)
    return float((total[5] / rows - rows / blocks * mean**2) * blocks / max(1.0, blocks - 1))
