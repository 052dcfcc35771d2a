"""The finalists of a run as the figures draw them."""

import math
from typing import NamedTuple

import numpy as np

from autorank.ledger.run_folder import Run


class Finalist(NamedTuple):
    """A configuration trained on all data with several seeds."""

    config: tuple[int, ...]
    gains: np.ndarray  # [seeds], percent; NaN = failed
    cost: float  # log FLOPs against the baseline


def finalists(run: Run, kind: str = "finals") -> list[Finalist]:
    """The finalists with the choosing seeds; with ``kind="confirmation"``, the chosen ones with the fresh seeds."""
    if not run.records[kind]:
        return []
    record = run.records[kind][-1]
    gains = [[math.nan if g is None else g for g in row] for row in record.get("gain", [])]
    rows = zip(record.get("configs", []), gains, record.get("costs", []), strict=False)
    return [Finalist(tuple(c), np.array(g), cost or 0.0) for c, g, cost in rows]
