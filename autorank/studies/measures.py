"""What is measured of a predictor on records that it has not seen."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

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


# NaN where a measure is not defined, as a correlation with a constant prediction is not.
MEASURES: Mapping[str, Measure] = {
    "tau_b": Measure(kendall_tau_b, "Kendall's tau-b", True),
    "pearson": Measure(pearson, "Pearson's correlation", True),
    "discordant_share": Measure(discordant_share, "share of discordant pairs", False),
    **{
        f"regret_at_{k}": Measure(partial(regret_at_k, k=k), f"regret@{k}", False)
        for k in (1, 3, 10)
    },
    "top_10_recall": Measure(partial(top_k_recall, k=10), "top-10 recall", True),
}
LARGEST_K = 10
