"""An objective that looks its outcomes up in a table of known results."""

import hashlib
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
) -> Objective:
    """Known results as an objective; a recorded NaN curve is a failed trial.

    Args:
        name: of the table.
        configs: ``[n, k]``.
        curves: window NE ``[n, t, q]``.
        flops: forward, per example ``[n]``.
        metrics: names of the ``q`` metrics.
        num_rows: rows of a full run.

    Asking for a configuration that is not in the table raises ``KeyError``.
    """
    table = Table(
        name,
        np.asarray(configs, np.int32),
        np.asarray(curves, np.float64),
        np.asarray(flops, np.float64),
        num_rows,
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
    )


@dataclass(frozen=True, eq=False)
class Table:
    """Recorded curves and costs by configuration."""

    name: str
    configs: np.ndarray  # [n, k]
    curves: np.ndarray  # [n, t, q]
    flops: np.ndarray  # [n]
    num_rows: int

    @cached_property
    def _row_of(self) -> dict[bytes, int]:
        return {config.tobytes(): i for i, config in enumerate(self.configs)}

    def find(self, config: np.ndarray) -> int:
        """The row of a configuration.

        Raises:
            KeyError: it is not in the table.
        """
        row = self._row_of.get(np.asarray(config, np.int32).tobytes())
        if row is None:
            asked = list(map(int, config))
            raise KeyError(f"{self.name}: configuration {asked} is not in the table")
        return row

    def digest(self) -> str:
        """A hash of the whole table."""
        digest = hashlib.sha256()
        for part in (self.configs, self.curves, self.flops):
            digest.update(part.tobytes())
        return digest.hexdigest()

    def evaluate(
        self, configs: np.ndarray, seeds: Sequence[int], fidelity: float
    ) -> Iterator[tuple[int, Outcome]]:
        """See `Evaluate`; seeds have no effect."""
        num_windows = self.curves.shape[1]
        reached = max(1, round(fidelity * num_windows))
        for i, (config, _) in enumerate(zip(configs, seeds, strict=True)):
            row = self.find(config)
            curve = self.curves[row].copy()
            failed = "" if np.isfinite(curve[:reached]).all() else "recorded as failed"
            curve[reached:] = np.nan
            ne = tuple(float(v) for v in curve[:reached].mean(axis=0))
            rows = round(fidelity * self.num_rows)
            yield i, Outcome(curve, ne, float(self.flops[row]), rows, 0.0, 0.0, failed, {})

    def cost(self, configs: np.ndarray, /) -> np.ndarray:
        """See `Cost`."""
        return np.array([self.flops[self.find(config)] for config in configs], np.float64)
