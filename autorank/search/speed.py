"""Rows scored per second, measured in turns, so that other load on the machine affects all models alike."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from autorank.base.metrics import finite_or_none
from autorank.search.context import Context
from autorank.search.verdict import rate_ratio

# Measurements of every model, one model after the other.
REPEATS = 7
UNKNOWN = {"qps": None, "ratio": None, "low": None, "high": None}


def measure(context: Context, models: Mapping[str, list[int]]) -> dict[str, dict[str, Any]]:
    """By name: rows/s (median), and its ratio to "baseline" with a 95% interval over repeats; None if not measured.

    Measured once for a run; the ledger keeps every rate. The interval is over repeats in one process on one machine;
    another process reproduces a ratio to about 5%.
    """
    qps = context.objective.qps
    if qps is None:
        return {name: dict(UNKNOWN) for name in models}
    known = context.ledger.records("speed")
    if not known:
        rates = in_turns(qps, list(dict.fromkeys(tuple(c) for c in models.values())))
        rows = [{"config": list(c), "rates": r} for c, r in rates.items()]
        context.ledger.record("speed", "chosen", rows)
        known = context.ledger.records("speed")
    measured = {tuple(row["config"]): row["rates"] for row in known[0]}
    reference = measured.get(tuple(models["baseline"]))
    return {name: against(reference, measured.get(tuple(c))) for name, c in models.items()}


def in_turns(
    qps: Callable[[np.ndarray], float], configs: Sequence[tuple[int, ...]]
) -> dict[tuple[int, ...], list[float]]:
    """Rates of distinct configurations, every other time in reverse order: slow drift cancels."""
    rates: dict[tuple[int, ...], list[float]] = {c: [] for c in configs}
    for repeat in range(REPEATS):
        for config in configs if repeat % 2 == 0 else reversed(configs):
            rates[config].append(float(qps(np.array(config, np.int32))))
    return rates


def against(reference: Sequence[float] | None, rates: Sequence[float] | None) -> dict[str, Any]:
    """The median rate, and its ratio to the reference measured in the same turns."""
    if rates is None or reference is None:
        return dict(UNKNOWN)
    ratio = {k: finite_or_none(v) for k, v in rate_ratio(rates, reference)._asdict().items()}
    return {
        "qps": float(np.median(rates)),
        "ratio": ratio["mean"],
        "low": ratio["low"],
        "high": ratio["high"],
    }
