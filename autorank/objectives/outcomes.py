"""From sums of a training run to the `Outcome` of its trial."""

import math
from typing import Any

import numpy as np

from autorank.objectives.base import Outcome
from autorank.training.groups import Shape
from autorank.training.step import Curve
from autorank.training.trainer import lifetime_ne, window_ne


def outcome_of(
    curve: Curve,
    step: int,
    failed_step: int,
    stop: int,
    *,
    shape: Shape,
    flops: float,
    seconds: float,
    compile_seconds: float,
    details: dict[str, Any],
) -> Outcome:
    """The outcome of one trained model.

    Args:
        curve: sums ``[t, q]`` of one model, on the host or the device.
        step: steps that count; windows beyond them are NaN.
        failed_step: first step with a non-finite loss, -1 for none.
        stop: the step up to which the trial was to be trained.
        shape: of the data and the steps.
        flops: forward, per example, dense part.
        seconds: of training.
        compile_seconds: of compiling, 0 for a known program.
        details: recorded in the ledger.
    """
    reached = step * shape.num_windows // shape.num_steps
    counts = np.arange(shape.num_windows)[:, None] < reached
    failed = ""
    if failed_step >= 0:
        failed = f"non-finite loss at step {failed_step} of {shape.num_steps}"
    return Outcome(
        curve=np.where(counts, window_ne(curve), np.nan),
        ne=tuple(float(v) for v in lifetime_ne(curve)),
        flops=flops,
        num_rows=stop * shape.batch_size,
        seconds=seconds,
        compile_seconds=compile_seconds,
        failed=failed,
        details=details,
    )


def lost_outcome(
    reason: str, *, num_windows: int, num_metrics: int, flops: float, details: dict[str, Any]
) -> Outcome:
    """The outcome of a trial that left no curve, only the reason it failed.

    Examples:
        >>> lost = lost_outcome("a worker died", num_windows=4, num_metrics=1, flops=1e3, details={})
        >>> lost.curve.shape, lost.num_rows, lost.failed
        ((4, 1), 0, 'a worker died')
    """
    curve = np.full((num_windows, num_metrics), np.nan)
    return Outcome(curve, (math.nan,) * num_metrics, flops, 0, 0.0, 0.0, reason, details)
