"""What the cells of the study of returns say: each searcher's gain over its seeds, and whether the paper's order holds.

A search's seed decides its proposals and, with the same number of trials, which model it ends with, so search seeds are
the sample. Intervals are Student's over them; two searchers are compared by the differences of the same seeds.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from autorank.search.verdict import least_gain
from autorank.studies.intervals import Difference, corrected_interval
from autorank.studies.roi_cells import Row, whole

SHOWN, REVERSED, OPEN = "shown", "reversed", "open"


class Step(NamedTuple):
    """One claim of the order: ``better`` finds lower NE than ``worse``."""

    worse: str
    better: str
    difference: Difference  # gain of better minus that of worse; below 0 if the claim is true
    seeds: int
    least: float  # the true difference that so many seeds find in 80 % of cases

    @property
    def verdict(self) -> str:
        """What the interval says of the claim."""
        return {-1: SHOWN, 0: OPEN, 1: REVERSED}[self.difference.sign]


def by_seed(rows: Sequence[Row], data: str, searcher: str) -> dict[int, float]:
    """The held-out gains of a searcher's winners on one data set, by search seed."""
    return {
        int(row["seed"]): float(row["test_gain"])
        for row in whole(rows)
        if (row["data"], row["searcher"]) == (data, searcher) and math.isfinite(row["test_gain"])
    }


def mean_gain(rows: Sequence[Row], data: str, searcher: str) -> Difference:
    """A searcher's mean held-out gain over its search seeds, with Student's interval."""
    return corrected_interval(np.array([*by_seed(rows, data, searcher).values()]), 0.0)


def steps(rows: Sequence[Row], data: str, order: Sequence[str]) -> list[Step]:
    """The claims that an order makes on one data set, neighbour by neighbour."""
    found = []
    for worse, better in zip(order, order[1:], strict=False):
        theirs, ours = by_seed(rows, data, worse), by_seed(rows, data, better)
        seeds = sorted(ours.keys() & theirs.keys())
        gaps = np.array([ours[s] - theirs[s] for s in seeds])
        spread = float(gaps.std(ddof=1)) if len(gaps) > 1 else math.nan
        least = least_gain(spread, len(gaps))
        found.append(Step(worse, better, corrected_interval(gaps, 0.0), len(seeds), least))
    return found


def order_sentence(rows: Sequence[Row], data: str, order: Sequence[str]) -> str:
    """Whether the order holds on a data set, and no more than the intervals say."""
    found = steps(rows, data, order)
    text = " < ".join(order)
    lacking = [step for step in found if step.seeds < 2]
    if lacking:
        names = " and ".join(f"{s.worse} and {s.better} ({s.seeds} in common)" for s in lacking)
        return f"{data}: whether {text} cannot be said: too few search seeds of {names}."
    listed = "; ".join(
        f"{s.better} minus {s.worse} {s.difference.text} % NE, {s.seeds} seeds" for s in found
    )
    verdicts = {step.verdict for step in found}
    if verdicts == {SHOWN}:
        return f"{data}: the order {text} holds ({listed})."
    if REVERSED in verdicts:
        wrong = " and ".join(
            f"{s.better} is worse than {s.worse}" for s in found if s.verdict == REVERSED
        )
        return f"{data}: the order {text} does not hold: {wrong} ({listed})."
    unknown = [step for step in found if step.verdict == OPEN]
    least = max(step.least for step in unknown)
    return (
        f"{data}: the order {text} is neither shown nor refuted ({listed}); so many seeds would have shown a "
        f"difference of {least:.2f} % NE in 80 % of cases."
    )


def best_cell(rows: Sequence[Row], data: str) -> Row | None:
    """The cell whose winner has the best validation gain over the choosing seeds; the test part has no say."""
    own = [r for r in whole(rows) if r["data"] == data and math.isfinite(r["choice_gain"])]
    return min(own, key=lambda row: row["choice_gain"], default=None)


def gain_sentence(row: Row) -> str:
    """What a data set's best model gained over the tuned baseline, and what could have been seen."""
    low, high = row["test_gain_low"], row["test_gain_high"]
    text = (
        f"{row['data']}: the best by validation ({row['searcher']}, search seed {row['seed']:g}) has "
        f"{row['test_gain']:+.3f} % NE [{low:+.3f}, {high:+.3f}] over {row['final_seeds']:g} final seeds "
        f"at {row['flops_ratio']:.2f}x the FLOPs"
    )
    if row["choice_gain"] >= 0:
        text += f"; validation ({row['choice_gain']:+.3f} %) would have kept the baseline"
    if high < 0:
        return text + ": better than the tuned baseline."
    if low > 0:
        return text + ": worse than the tuned baseline."
    return (
        text
        + f": no gain shown; one of {row['least_gain']:.2f} % would have been in 80 % of cases."
    )


def survival(rows: Sequence[Row], data: str) -> Mapping[str, float]:
    """Mean gain of the winners at each step from label to test, over all cells of a data set."""
    own = [row for row in whole(rows) if row["data"] == data]
    names = ("label", "choice_gain", "validation_gain", "test_gain")
    return {name: float(np.mean([row[name] for row in own])) if own else math.nan for name in names}
