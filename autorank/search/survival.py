"""How much of a gain survives from label to validation to held-out test, and what luck alone would give."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from autorank.base.metrics import paired_test
from autorank.ledger.trial import Trial, finite
from autorank.search.baseline import Baseline
from autorank.search.confirm import LEVEL, Confirmed, EqualNE, nearest_miss
from autorank.search.context import Context
from autorank.search.evaluation import label_of
from autorank.search.failure_signs import FailureSign
from autorank.search.finals import Finals
from autorank.search.verdict import expected_best, least_gain, luckiest, shrunk

# Power of the test that `least_gain` is about.
POWER = 0.8
# Share of searches in which no copy of the baseline reaches `luckiest`.
QUANTILE = 0.95


def validation_gain(gains: np.ndarray) -> dict[str, Any]:
    """Mean over seeds with its 95% interval, percent; None where there are too few seeds."""
    test = paired_test(gains)
    return {
        "mean": finite(test.mean),
        "low": finite(test.low),
        "high": finite(test.high),
        "seeds": [finite(g) for g in gains],
    }


def label_luck(trials: Sequence[Trial], baseline: Baseline) -> dict[str, Any]:
    """The best label, and what as many copies of the baseline would reach by luck; percent, None if unknown.

    The noise is that of the baseline on all data; labels from a part of the log are noisier.
    """
    labels = [t.quality for t in trials if t.quality is not None]
    noise, num_seeds = baseline.noise_percent, len(baseline.curves)
    return {
        "best_label": min(labels, default=None),
        "num_labels": len(labels),
        "expected_best_copy": finite(expected_best(noise, len(labels))),
        "luckiest_copy": finite(luckiest(noise, num_seeds, len(labels), QUANTILE)),
        "quantile": QUANTILE,
    }


def luck_sign(luck: Mapping[str, Any]) -> FailureSign | None:
    """A sign if the luckiest of as many copies of the baseline would reach the best label."""
    best, reach = luck["best_label"], luck["luckiest_copy"]
    if best is not None and best >= 0:
        return FailureSign(
            "no label better than the baseline",
            f"the best of {luck['num_labels']} labels is {best:+.3f}%",
            "search longer (search.trials), or a space nearer to the baseline",
        )
    if best is None or reach is None or best < reach:
        return None
    return FailureSign(
        "best label within luck",
        f"the best of {luck['num_labels']} labels is {best:+.3f}%; in {100 * (1 - luck['quantile']):.0f}% of searches "
        f"the luckiest of as many copies of the baseline reaches {reach:+.3f}% by its seed alone",
        "trust the gains on fresh seeds, not the labels; more of the log a trial (fidelity=full) or a wider space "
        "makes larger differences, search.noise_seeds a better known noise",
    )


def finalists(
    context: Context,
    baseline: Baseline,
    trials: Sequence[Trial],
    finals: Finals,
    confirmed: Confirmed,
    test: Mapping[str, Any],
) -> list[dict[str, Any]]:
    """Each finalist's gain in percent from label to test; of the chosen ones also with the verdict's seeds."""
    qualities = [label_of(t) for t in trials]
    expected = shrunk(qualities, baseline.noise_percent if len(baseline.curves) > 1 else math.nan)
    place = {tuple(t.config): i for i, t in enumerate(trials)}
    tested = (test.get("finalists") or {}).get("gain") or {}
    rows = []
    for i, config in enumerate(finals.configs):
        at = place.get(tuple(config))
        gains = confirmed.gains.get(i)
        rows.append(
            {
                "trial": None if at is None else trials[at].id,
                "choices": list(config),
                "config": context.space.decode(np.array(config, np.int32)),
                "flops_ratio": math.exp(finals.costs[i]),
                "label": None if at is None else finite(qualities[at]),
                "label_without_luck": None if at is None else finite(float(expected[at])),
                "validation_gain_percent": validation_gain(finals.gains[i]),
                "test": tested.get(str(i)),
                "confirmed_gain_percent": None if gains is None else validation_gain(gains),
                "failed": confirmed.failed.get(i, ""),
                "roles": [name for name, j in confirmed.roles._asdict().items() if i == j],
            }
        )
    return rows


def equal_ne(context: Context, finals: Finals, confirmed: Confirmed) -> dict[str, Any]:
    """The rule of "at equal NE", its tests in order, and the nearest miss if none passed."""

    def entry(test: EqualNE) -> dict[str, Any]:
        return {
            "finalist": test.finalist + 1,
            "choices": list(finals.configs[test.finalist]),
            "flops_ratio": math.exp(finals.costs[test.finalist]),
            "mean": finite(test.mean),
            "bound": finite(test.bound),
            "passed": test.passed,
        }

    miss = nearest_miss(confirmed.equal_ne)
    return {
        "margin": context.budget.equal_ne_margin,
        "level": LEVEL,
        "tests": [entry(t) for t in confirmed.equal_ne],
        "nearest_miss": None if miss is None else entry(miss),
    }


def power(baseline: Baseline, gains: Sequence[float | None], num_seeds: int) -> dict[str, Any]:
    """The least gain that the verdict's seeds could have shown, percent: paired t-test, two-sided 5%.

    The spread is that of the winner's own paired ``gains``; without any, that of the difference of two runs with the
    baseline's noise.
    """
    values = np.array([math.nan if g is None else g for g in gains], np.float64)
    alone = baseline.noise_percent if len(baseline.curves) > 1 else math.nan
    sd = math.sqrt(2) * alone
    if len(values) > 1 and np.isfinite(values).all():
        sd = float(values.std(ddof=1))
    return {
        "least_gain_percent": finite(least_gain(sd, num_seeds, power=POWER, level=LEVEL)),
        "power": POWER,
        "num_seeds": num_seeds,
    }


def confirmation_signs(confirmed: Confirmed) -> list[FailureSign]:
    """Chosen models that fail with another seed."""
    return [
        FailureSign(
            "fails with another seed",
            f"finalist {i + 1} was chosen and then failed with a fresh seed: {reason}",
            "lower the learning rates or the init scale in the space",
        )
        for i, reason in sorted(confirmed.failed.items())
    ]
