"""Paired differences between arms over repeated random splits, with intervals that respect the splits' overlap.

The means of ``J`` splits are not independent: splits test the same records again. Nadeau and Bengio (Inference for
the generalization error, Machine Learning 52, 2003, section 3) estimate the variance of their mean by
``(1/J + rho/(1 - rho)) s^2``, where ``rho`` is the correlation of two splits and ``s^2`` their variance, and set
``rho`` to the expected overlap of two test sets. If a split uses all records that is the usual ``n_test / n_train``.
Here splits may leave records out, and the overlap is ``n_test / n_records``. The estimate is a heuristic: it leaves out
what overlapping training sets add.
"""

import math
from typing import NamedTuple

import numpy as np
import scipy

from autorank.base.typing import Float


class Difference(NamedTuple):
    """A mean difference and its two-sided interval; NaN where it is not defined."""

    mean: float
    low: float
    high: float

    @property
    def sign(self) -> int:
        """1 or -1 if the interval excludes 0, else 0."""
        return int(self.low > 0) - int(self.high < 0)

    @property
    def text(self) -> str:
        """The mean and its interval with three digits.

        Examples:
            >>> Difference(0.2, 0.1, 0.3).text
            '+0.200 [+0.100, +0.300]'
        """
        if math.isnan(self.low):
            return "not defined"
        return f"{self.mean:+.3f} [{self.low:+.3f}, {self.high:+.3f}]"


def corrected_interval(
    differences: Float[np.ndarray, " j"], rho: float, level: float = 0.95
) -> Difference:
    """Student's interval of the mean over splits, with the variance of Nadeau and Bengio.

    Args:
        differences: of each split.
        rho: correlation of two splits, in [0, 1): the share of the records that a split tests.
        level: of the interval.

    Raises:
        ValueError: a rho outside [0, 1).

    Examples:
        >>> d = corrected_interval(np.array([0.1, 0.2, 0.3]), rho=0.25)
        >>> round(d.mean, 3), round(d.high - d.mean, 3)
        (0.2, 0.351)
    """
    if not 0 <= rho < 1:
        raise ValueError(f"rho={rho!r} must lie in [0, 1); test on fewer records than there are")
    values = np.asarray(differences, np.float64)
    mean = float(values.mean()) if values.size else math.nan
    if values.size < 2 or not np.isfinite(values).all():
        return Difference(mean, math.nan, math.nan)
    variance = float(values.var(ddof=1)) * (1 / values.size + rho / (1 - rho))
    half = math.sqrt(variance) * float(scipy.special.stdtrit(values.size - 1, (1 + level) / 2))
    return Difference(mean, mean - half, mean + half)


def over_tables(
    differences: Float[np.ndarray, "t j"], rhos: Float[np.ndarray, " t"], level: float = 0.95
) -> Difference:
    """The interval of the mean over tables; it speaks of these tables, not of others.

    Splits of different tables are independent. With one rho for all, the mean over tables of the j-th splits has the
    correlation rho too; with several, the largest is taken, so that the interval is rather too wide.
    """
    return corrected_interval(np.mean(differences, axis=0), float(np.max(rhos)), level)
