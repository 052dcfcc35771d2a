"""What a search can evaluate: the interface, and a table of known results.

An objective answers ``evaluate(configs, seeds, fidelity)`` with one `Outcome` for each configuration, in any order.
The search knows nothing else about it, so a table, a surrogate or a job on a cluster can stand in for training
(`training_objective`).
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from autorank.base.measurable import Counts
from autorank.base.programs import ProgramStats
from autorank.models.dhen import DhenConfig


class Outcome(NamedTuple):
    """What one evaluation gave; a failed one keeps the windows that it reached."""

    curve: np.ndarray  # window NE [t, q]; NaN where not reached
    ne: tuple[float, ...]  # NE per metric over all rows scored, before they were learned from
    flops: float  # forward FLOPs per example, dense part
    num_rows: int  # rows of the log that this run has seen
    seconds: float  # training alone
    compile_seconds: float  # spent on compiling in this call, 0 for a known structure
    failed: str  # "" or the reason
    details: dict[str, Any]


class Trained(NamedTuple):
    """A trained model, as scoring and export need it."""

    config: DhenConfig
    params: Any
    rows: jax.Array  # the table [v, d]
    predict: Callable[..., jax.Array]  # params, rows, sparse, dense -> probabilities [b, q]; jitted
    metrics: tuple[str, ...]


class Objective(NamedTuple):
    """One thing to be minimised, behind functions."""

    name: str
    fingerprint: str  # names data and settings in the ledger
    metrics: tuple[str, ...]
    num_rows: int  # rows of a full run
    num_windows: int
    evaluate: Callable[[np.ndarray, Sequence[int], float], Iterator[tuple[int, Outcome]]]
    cost: Callable[[np.ndarray], np.ndarray] | None  # configs [n, k] -> FLOPs per example [n]
    stats: Callable[[], ProgramStats]
    # Only training on data has a held-out test: predictions [rows, q] of one trained configuration.
    test: Callable[[np.ndarray, int], np.ndarray] | None = None
    trained: Callable[[np.ndarray, int], Trained] | None = None
    qps: Callable[[np.ndarray], float] | None = None  # rows scored per second
    compiled_flops: Callable[[np.ndarray], float] | None = None  # by the compiler's cost analysis
    test_labels: np.ndarray | None = None
    # Bool [t, q]: windows with both classes; None: whatever the baseline's curve has.
    measurable: np.ndarray | None = None
    counts: tuple[Counts, ...] = ()  # classes by part and metric, where they are known


def predict_rows(
    model: Trained, sparse: np.ndarray, dense: np.ndarray, chunk: int = 8192
) -> np.ndarray:
    """Probabilities ``[rows, q]`` in chunks of one shape (the last is padded), so one program serves any length."""
    parts = []
    for first in range(0, len(sparse), chunk):
        ids, values = (
            np.asarray(sparse[first : first + chunk]),
            np.asarray(dense[first : first + chunk]),
        )
        short = chunk - len(ids)
        ids = np.pad(ids, ((0, short), (0, 0)), mode="edge")
        values = np.pad(values, ((0, short), (0, 0))).astype(np.float32)
        parts.append(
            np.asarray(model.predict(model.params, model.rows, ids, values))[: chunk - short]
        )
    return np.concatenate(parts).astype(np.float64)


def table_objective(
    name: str,
    configs: np.ndarray,
    curves: np.ndarray,
    flops: np.ndarray,
    *,
    metrics: tuple[str, ...],
    num_rows: int,
) -> Objective:
    """Known results as an objective: ``configs [n, k]``, window NE ``curves [n, t, q]``, ``flops [n]``.

    A recorded NaN curve is a failed trial. Asking for a configuration that is not in the table raises ``KeyError``.
    """
    configs, curves = np.asarray(configs, np.int32), np.asarray(curves, np.float64)
    row_of = {config.tobytes(): i for i, config in enumerate(configs)}
    num_windows = curves.shape[1]
    digest = hashlib.sha256()
    for part in (configs, curves, np.asarray(flops, np.float64)):
        digest.update(part.tobytes())

    def find(config: np.ndarray) -> int:
        row = row_of.get(np.asarray(config, np.int32).tobytes())
        if row is None:
            raise KeyError(f"{name}: configuration {list(map(int, config))} is not in the table")
        return row

    def evaluate(
        configs: np.ndarray, seeds: Sequence[int], fidelity: float
    ) -> Iterator[tuple[int, Outcome]]:
        reached = max(1, round(fidelity * num_windows))
        for i, (config, _) in enumerate(zip(configs, seeds, strict=True)):
            row = find(config)
            curve = curves[row].copy()
            failed = "" if np.isfinite(curve[:reached]).all() else "recorded as failed"
            curve[reached:] = np.nan
            ne = tuple(float(v) for v in curve[:reached].mean(axis=0))
            rows = round(fidelity * num_rows)
            yield i, Outcome(curve, ne, float(flops[row]), rows, 0.0, 0.0, failed, {})

    return Objective(
        name=name,
        fingerprint=digest.hexdigest(),
        metrics=metrics,
        num_rows=num_rows,
        num_windows=num_windows,
        evaluate=evaluate,
        cost=lambda asked: np.array([flops[find(c)] for c in asked], np.float64),
        stats=lambda: ProgramStats(0, 0, 0.0),
    )
