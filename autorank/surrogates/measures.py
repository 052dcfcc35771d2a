"""What is measured of a predictor on records that it has not seen."""

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from autorank.base.metrics import (
    discordant_share,
    kendall_tau_b,
    pearson,
    regret_at_k,
    top_k_recall,
)


class Measure(NamedTuple):
    """A number for predicted and true qualities, both lower is better."""

    compute: Callable[[Any, Any], float]
    words: str
    larger_is_better: bool
    needs: int = 2  # records, at least


# NaN where a measure is not defined, as a correlation with a constant prediction is not.
MEASURES: Mapping[str, Measure] = {
    "tau_b": Measure(kendall_tau_b, "Kendall's tau-b", True),
    "pearson": Measure(pearson, "Pearson's correlation", True),
    "discordant_share": Measure(discordant_share, "share of discordant pairs", False),
    **{
        f"regret_at_{k}": Measure(partial(regret_at_k, k=k), f"regret@{k}", False, k + 1)
        for k in (1, 3, 10)
    },
    "top_10_recall": Measure(partial(top_k_recall, k=10), "top-10 recall", True, 11),
}
LARGEST_K = 10


def defined(predicted: Any, true: Any) -> dict[str, float]:
    """The measures that these records define, by name, over those that have both a prediction and a true quality.

    With no more than k records, regret@k and recall of k say nothing and are left out.

    Args:
        predicted, true: [n], lower is better; NaN or None where unknown.

    Examples:
        >>> defined([1.0, 2.0, 3.0, None], [0.1, 0.3, 0.2, 0.0])["regret_at_1"]
        0.0
        >>> defined([1.0], [0.1])
        {}
    """
    predicted, true = (np.asarray(values, np.float64) for values in (predicted, true))
    known = np.isfinite(predicted) & np.isfinite(true)
    found = {
        name: measure.compute(predicted[known], true[known])
        for name, measure in MEASURES.items()
        if known.sum() >= measure.needs
    }
    return {name: value for name, value in found.items() if math.isfinite(value)}
