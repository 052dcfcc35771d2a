"""What is measured of a predictor on records that it has not seen."""

import math
from collections.abc import Callable, Mapping, Sequence
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


class PredictionMeasure(NamedTuple):
    """A number for predicted and true qualities, both lower is better; a `Measure` that can be computed."""

    words: str
    compute: Callable[[Any, Any], float]
    needs: int = 2  # records, for it to say anything


# NaN where a measure is not defined, as a correlation with a constant prediction is not.
MEASURES: Mapping[str, PredictionMeasure] = {
    "tau_b": PredictionMeasure("Kendall's tau-b", kendall_tau_b),
    "pearson": PredictionMeasure("Pearson's correlation", pearson),
    "discordant_share": PredictionMeasure("share of discordant pairs", discordant_share),
    **{
        f"regret_at_{k}": PredictionMeasure(f"regret@{k}", partial(regret_at_k, k=k), k + 1)
        for k in (1, 3, 10)
    },
    "top_10_recall": PredictionMeasure("top-10 recall", partial(top_k_recall, k=10), 11),
}
LARGEST_K = 10


def measured(predicted: np.ndarray, true: np.ndarray, measures: Sequence[str]) -> dict[str, float]:
    """The measures of predictions ``[n]`` by name; a diverged fit predicts NaN, and has no measure at all.

    Examples:
        >>> measured(np.arange(10.0), np.arange(10.0), ("discordant_share", "regret_at_1"))
        {'discordant_share': 0.0, 'regret_at_1': 0.0}
    """
    if not np.isfinite(predicted).all():
        return dict.fromkeys(measures, float("nan"))
    return {name: MEASURES[name].compute(predicted, true) for name in measures}


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
