"""What a search goes by: a task (which label) and a measure of its scores, with lower-is-better losses and gains.

A search compares models by a loss of each window of the log. For NE and log loss a gain is the change in percent; for
the other measures a change in percent of the baseline's would be of another size on every log, or divide by almost
nothing (a calibrated baseline), so there a gain is the difference in points, 100 times the difference of two losses.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from autorank.base.metrics import Values, ne_gain_percent
from autorank.base.scored_rows import NDCG_AT, OF_GROUPS

NE = "ne"
TASKS = ("ctr", "cvr", "ctcvr", "mean")
BETTER_HIGH = ("auc", "gauc", f"ndcg@{NDCG_AT}")
# Need to know whose rows they are.
OF_USERS = tuple(OF_GROUPS)
# Gains are changes in percent; all others are in points.
IN_PERCENT = (NE, "log_loss")
MEASURES = (*IN_PERCENT, *BETTER_HIGH, "calibration", "ece")


class Searched(NamedTuple):
    """What ``search.metric`` asks for."""

    task: str  # one of `TASKS`
    measure: str = NE  # one of `MEASURES`

    @property
    def name(self) -> str:
        """The canonical text: the task alone for NE.

        Examples:
            >>> Searched("cvr").name, Searched("ctr", "gauc").name
            ('cvr', 'ctr-gauc')
        """
        return self.task if self.measure == NE else f"{self.task}-{self.measure}"


def searched(text: str) -> Searched:
    """Reads ``search.metric``: a task, a measure (of clicks), or both as ``TASK-MEASURE``; ``auto`` is ctr.

    Raises:
        ValueError: it is none of these.

    Examples:
        >>> searched("auto"), searched("gauc")
        (Searched(task='ctr', measure='ne'), Searched(task='ctr', measure='gauc'))
        >>> searched("cvr-log_loss")
        Searched(task='cvr', measure='log_loss')
    """
    if text in ("auto", *TASKS):
        return Searched("ctr" if text == "auto" else text)
    task, _, measure = text.rpartition("-")
    measure = f"ndcg@{NDCG_AT}" if measure == "ndcg" else measure
    if (task or "ctr") not in TASKS or measure not in MEASURES:
        raise ValueError(
            f"search.metric={text} is not known; write a task ({', '.join(TASKS)}), a measure of clicks "
            f"({', '.join(MEASURES)}), or TASK-MEASURE, for example cvr-auc"
        )
    return Searched(task or "ctr", measure)


def losses(measure: str, values: Values) -> np.ndarray:
    """Values of a measure as losses, elementwise: 1 - AUC, |log calibration|, and so on; NaN stays NaN.

    Examples:
        >>> losses("auc", [0.75]).tolist(), losses("calibration", [1.0]).tolist(), losses("ece", [0.1]).tolist()
        ([0.25], [0.0], [0.1])
    """
    values = np.asarray(values, np.float64)
    if measure in BETTER_HIGH:
        return np.asarray(1 - values)
    if measure == "calibration":
        return np.asarray(np.abs(np.log(np.maximum(values, 1e-12))))
    return values


def gains(measure: str, ours: Values, reference: Values) -> np.ndarray:
    """Gains of losses over a reference's, elementwise: percent, or points (`IN_PERCENT`); lower is better.

    Examples:
        >>> gains("ne", [0.9], [1.0]).round(6).tolist(), gains("auc", [0.24], [0.25]).round(6).tolist()
        ([-10.0], [-1.0])
    """
    if measure in IN_PERCENT:
        return ne_gain_percent(ours, reference)
    return np.asarray(100 * (np.asarray(ours, np.float64) - np.asarray(reference, np.float64)))


def noise_of(measure: str, levels: Sequence[float] | np.ndarray) -> float:
    """Standard deviation of losses of the same model over seeds, in the unit of `gains`; 0 for one seed."""
    levels = np.asarray(levels, np.float64)
    if len(levels) < 2:
        return 0.0
    spread = float(100 * levels.std(ddof=1))
    return spread / float(levels.mean()) if measure in IN_PERCENT else spread


def unit(measure: str) -> str:
    """The unit of `gains` in words.

    Examples:
        >>> unit("ne"), unit("gauc"), unit("calibration")
        ('% NE', 'points of 1 - gauc', 'points of |log calibration|')
    """
    if measure in IN_PERCENT:
        return "% NE" if measure == NE else f"% {measure}"
    if measure == "calibration":
        return "points of |log calibration|"
    return f"points of 1 - {measure}" if measure in BETTER_HIGH else f"points of {measure}"
