"""The units of a job's results, and those that a searcher is told."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

# Bound on a told quality: one absurd result must not make all others look alike.
LIMIT = 1e4


class Units(NamedTuple):
    """Converts between a job's units and those that a searcher is told, so that the job's do not matter.

    A quality becomes its distance from the median in interquartile ranges, lower is better; a cost becomes the
    logarithm of its ratio to a reference.

    Examples:
        >>> units = Units.of([1.0, 2.0, 3.0], reference=10.0, maximize=True)
        >>> units.told([3.0], [20.0]).round(3).tolist()
        [[-1.0, 0.693]]
        >>> units.own(np.array([[-1.0, 0.0]])).tolist()
        [[3.0, 10.0]]
    """

    centre: float = 0.0
    spread: float = 1.0
    # Cost that counts as 1.
    reference: float = 1.0
    maximize: bool = False

    @classmethod
    def of(cls, quality: Sequence[float], reference: float, maximize: bool) -> "Units":
        """From the qualities told so far, all finite."""
        signed = np.array(quality, np.float64) * (-1.0 if maximize else 1.0)
        centre = float(np.median(signed)) if len(signed) else 0.0
        # Halved: a difference of two finite numbers may be infinite.
        ends = np.percentile(signed / 2, [75, 25]) if len(signed) else (0.0, 0.0)
        spread = float(ends[0] - ends[1]) * 2
        if not (math.isfinite(spread) and spread > 0):
            spread = max(abs(centre), 1.0)
        return cls(centre, spread, reference, maximize)

    def told(self, quality: Any, cost: Any) -> np.ndarray:
        """``[n, 2]`` from a job's qualities and costs ``[n]``; NaN stays NaN."""
        signed = np.asarray(quality, np.float64) * (-1.0 if self.maximize else 1.0)
        with np.errstate(over="ignore"):  # clipped below
            scaled = (signed / 2 - self.centre / 2) / (self.spread / 2)
        logs = np.log(np.asarray(cost, np.float64) / self.reference)
        return np.stack([np.clip(scaled, -LIMIT, LIMIT), logs], axis=-1)

    def own(self, told: np.ndarray) -> np.ndarray:
        """The inverse of ``told``: qualities and costs ``[n, 2]``."""
        told = np.asarray(told, np.float64)
        with np.errstate(over="ignore"):
            signed = told[:, 0] * self.spread + self.centre
        cost = self.reference * np.exp(np.minimum(told[:, 1], 700.0))
        return np.stack([-signed if self.maximize else signed, cost], axis=-1)
