"""Where a metric can be computed: NE needs a positive and a negative among the rows that it is measured on.

Labels are 0/1 columns ``[rows, 1 or 2]``, click and conversion. Which windows and parts of a log hold both classes
depends on the log alone, so it is known before anything is trained and is the same for all models.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Counts(NamedTuple):
    """The rows and positives of one metric in one part of a log."""

    part: str  # "training" or "held-out"
    metric: str
    rows: int  # of the part
    counted: int  # that the metric is measured on: every row, or those with a click
    positives: int

    @property
    def known(self) -> bool:
        """Whether the metric can be computed."""
        return 0 < self.positives < self.counted


def possible_metrics(labels: np.ndarray) -> tuple[str, ...]:
    """The metrics that label columns ``[rows, 1 or 2]`` allow.

    Examples:
        >>> possible_metrics(np.zeros((3, 2)))
        ('ctr', 'cvr', 'ctcvr')
    """
    return ("ctr",) if labels.shape[1] < 2 else ("ctr", "cvr", "ctcvr")


def targets_of(labels: np.ndarray, metric: str) -> tuple[np.ndarray, np.ndarray]:
    """0/1 targets and the rows they are measured on: ctr and ctcvr on impressions, cvr on clicks."""
    click = labels[:, 0] > 0
    every = np.ones(len(labels), bool)
    if metric == "ctr":
        return click.astype(np.float64), every
    conversion = labels[:, 1] > 0
    if metric == "ctcvr":
        return (click & conversion).astype(np.float64), every
    return conversion[click].astype(np.float64), click


def count(part: str, labels: np.ndarray, metric: str) -> Counts:
    """Counts of one metric in one part.

    Examples:
        >>> count("training", np.array([[1, 1], [1, 0], [0, 0]]), "cvr")
        Counts(part='training', metric='cvr', rows=3, counted=2, positives=1)
    """
    targets, _ = targets_of(labels, metric)
    return Counts(part, metric, len(labels), len(targets), int(targets.sum()))


def windows(
    labels: np.ndarray, metrics: Sequence[str], num_steps: int, num_windows: int
) -> np.ndarray:
    """Bool ``[t, q]``: which windows hold both classes.

    The rows are those of ``num_steps`` whole batches. A batch belongs to the window that its step falls into, as in
    training.
    """
    steps = np.arange(num_steps) * num_windows // max(1, num_steps)
    window = np.repeat(steps, len(labels) // max(1, num_steps))
    found = []
    for metric in metrics:
        targets, where = targets_of(labels, metric)
        rows = np.bincount(window[where], minlength=num_windows)
        positives = np.bincount(window[where], targets, minlength=num_windows)
        found.append((positives > 0) & (positives < rows))
    return np.stack(found, axis=1)


def of_metric(measurable: np.ndarray, metrics: Sequence[str], metric: str) -> np.ndarray:
    """Windows ``[t]`` in which the searched metric is known; "mean" needs all metrics at once."""
    if metric == "mean":
        return np.asarray(measurable.all(axis=1))
    return measurable[:, list(metrics).index(metric)]


def described(counts: Counts, names: Sequence[str]) -> str:
    """What is missing, by the names of the label columns: ``the 1,200 held-out rows have no negative of clicked``."""
    click, conversion = (*names, "conversion")[:2] if len(names) < 2 else names[:2]
    missing = "negative" if counts.positives and counts.positives == counts.counted else "positive"
    rows = f"the {counts.rows:,} {counts.part} rows"
    if counts.metric == "ctr":
        return f"{rows} have no {missing} of {click}"
    if counts.metric == "ctcvr":
        return f"{rows} have no {missing} of {click} and {conversion} together"
    if not counts.counted:
        return f"{rows} have no positive of {click}, on which {conversion} is measured"
    return f"the {counts.counted:,} {counts.part} rows with {click}=1 have no {missing} of {conversion}"
