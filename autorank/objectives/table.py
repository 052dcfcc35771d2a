"""An objective that looks its outcomes up in a table of known results."""

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from autorank.base.programs import ProgramStats
from autorank.objectives.base import Objective, Outcome


def table_objective(
    name: str,
    configs: np.ndarray,
    curves: np.ndarray,
    flops: np.ndarray,
    *,
    metrics: tuple[str, ...],
    num_rows: int,
    failed: Sequence[str] | None = None,
    measurable: np.ndarray | None = None,
) -> Objective:
    """Known results as an objective; a run whose curve ends before its fidelity is a failed trial.

    Args:
        name: of the table.
        configs: ``[n, k]``, a row for each run; a configuration may have several, one for each of its seeds.
        curves: window NE ``[n, t, q]``.
        flops: forward, per example ``[n]``.
        metrics: names of the ``q`` metrics.
        num_rows: rows of a full run.
        failed: why each run failed, "" for those that did not; None if that is not known.
        measurable: bool ``[t, q]``, windows that have an NE at all; None for all.

    Asking for a configuration that is not in the table raises ``KeyError``. Seed ``s`` gives run ``s % r`` of the ``r``
    that a configuration has.
    """
    curves = np.asarray(curves, np.float64)
    table = Table(
        name,
        np.asarray(configs, np.int32),
        curves,
        np.asarray(flops, np.float64),
        num_rows,
        tuple(failed) if failed is not None else ("",) * len(curves),
        np.ones(curves.shape[1:], bool) if measurable is None else measurable,
    )
    return Objective(
        name=name,
        fingerprint=table.digest(),
        metrics=metrics,
        num_rows=num_rows,
        num_windows=table.curves.shape[1],
        evaluate=table.evaluate,
        cost=table.cost,
        stats=lambda: ProgramStats(0, 0, 0.0),
        measurable=measurable,
    )


@dataclass(frozen=True, eq=False)
class Table:
    """Recorded curves and costs by configuration."""

    name: str
    configs: np.ndarray  # [n, k]
    curves: np.ndarray  # [n, t, q]
    flops: np.ndarray  # [n]
    num_rows: int
    failed: tuple[str, ...]  # [n]
    measurable: np.ndarray  # [t, q]

    @cached_property
    def _rows_of(self) -> dict[bytes, list[int]]:
        rows: dict[bytes, list[int]] = {}
        for i, config in enumerate(self.configs):
            rows.setdefault(config.tobytes(), []).append(i)
        return rows

    def find(self, config: np.ndarray, seed: int = 0) -> int:
        """The row of a configuration's run.

        Raises:
            KeyError: it is not in the table.
        """
        rows = self._rows_of.get(np.asarray(config, np.int32).tobytes())
        if rows is None:
            asked = list(map(int, config))
            raise KeyError(f"{self.name}: configuration {asked} is not in the table")
        return rows[int(seed) % len(rows)]

    def digest(self) -> str:
        """A hash of the whole table."""
        digest = hashlib.sha256()
        for part in (self.configs, self.curves, self.flops):
            digest.update(part.tobytes())
        return digest.hexdigest()

    def evaluate(
        self, configs: np.ndarray, seeds: Sequence[int], fidelity: float
    ) -> Iterator[tuple[int, Outcome]]:
        """See `Evaluate`; the NE of an outcome is the mean of its windows."""
        num_windows = self.curves.shape[1]
        reached = max(1, round(fidelity * num_windows))
        where = self.measurable[:reached]
        for i, (config, seed) in enumerate(zip(configs, seeds, strict=True)):
            row = self.find(config, seed)
            curve = self.curves[row].copy()
            curve[reached:] = np.nan
            failed = self.failed[row] if reached == num_windows else ""
            if not np.isfinite(curve[:reached][where]).all():
                failed = self.failed[row] or "recorded as failed"
            sums = np.where(where, curve[:reached], 0.0).sum(axis=0)
            counts = where.sum(axis=0)
            ne = tuple(float(s / c) if c else math.nan for s, c in zip(sums, counts, strict=True))
            rows = round(fidelity * self.num_rows)
            yield i, Outcome(curve, ne, float(self.flops[row]), rows, 0.0, 0.0, failed, {})

    def cost(self, configs: np.ndarray, /) -> np.ndarray:
        """See `Cost`."""
        return np.array([self.flops[self.find(config)] for config in configs], np.float64)
