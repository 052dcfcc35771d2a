"""Rows scored per second, measured in turn: what the machine does meanwhile then meets all models alike."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from autorank.search.stages import Context
from autorank.search.verdict import rate_ratio

REPEATS = 7  # of all models, one after the other


def measure(context: Context, models: Mapping[str, list[int]]) -> dict[str, dict[str, Any]]:
    """By name: rows/s (median), and its ratio to "baseline" with a 95% interval over repeats; None if not measured.

    Once for a run: the ledger keeps every rate. The interval is of repeats in one process on one machine; another
    process repeats a ratio to about 5%.
    """
    qps = context.objective.qps
    unknown = {"qps": None, "ratio": None, "low": None, "high": None}
    if qps is None:
        return {name: dict(unknown) for name in models}
    known = context.ledger.records("speed")
    if not known:
        # Every other time backwards: what drifts slowly cancels.
        distinct = list(dict.fromkeys(tuple(c) for c in models.values()))
        rates: dict[tuple[int, ...], list[float]] = {c: [] for c in distinct}
        for repeat in range(REPEATS):
            for config in distinct if repeat % 2 == 0 else reversed(distinct):
                rates[config].append(float(qps(np.array(config, np.int32))))
        rows = [{"config": list(c), "rates": r} for c, r in rates.items()]
        context.ledger.record("speed", "chosen", rows)
        known = context.ledger.records("speed")
    measured = {tuple(row["config"]): row["rates"] for row in known[0]}
    reference = measured.get(tuple(models["baseline"]))
    found = {}
    for name, config in models.items():
        ours = measured.get(tuple(config))
        if ours is None or reference is None:
            found[name] = dict(unknown)
            continue
        ratio = rate_ratio(ours, reference)._asdict()
        ratio = {k: v if math.isfinite(v) else None for k, v in ratio.items()}
        found[name] = {
            "qps": float(np.median(ours)),
            "ratio": ratio["mean"],
            "low": ratio["low"],
            "high": ratio["high"],
        }
    return found
