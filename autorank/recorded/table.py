"""A recorded table in memory: random configurations, each with the curves of its runs."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from autorank.ledger.strict_json import dumps
from autorank.recorded.journal import Run, shapes_of
from autorank.space.space import Space

# Columns of plain numbers and text by their Arrow types; those of choices and curves are lists.
PLAIN = {
    "number": "int32",
    "repeat": "int16",
    "seed": "int64",
    "session": "int16",
    "flops": "double",
    "rows": "int64",
    "seconds": "float",
    "compile_seconds": "float",
    "at": "float",
    "failed": "string",
}


@dataclass(frozen=True, eq=False)
class RecordedTable:
    """Runs ``n`` of a table, ordered by number and repeat."""

    space: Space
    # `metrics`, `num_windows`, `num_rows` of a pass, `settings`, `bayes_ne`, `plan`, `sessions`, ...
    about: dict[str, Any]
    configs: np.ndarray  # int32 [n, k]
    curves: np.ndarray  # window NE, float32 [n, t, q]
    ne: np.ndarray  # [n, q]
    failed: tuple[str, ...]
    columns: dict[str, np.ndarray]  # [n] each: those of `PLAIN` but the last
    # Mean log loss of each slice of a window, float32 [n, t, s]; None where none were kept. `about` has their rows.
    slices: np.ndarray | None = None

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of the ``q`` metrics."""
        return tuple(self.about["metrics"])

    @cached_property
    def measurable(self) -> np.ndarray:
        """Windows that have an NE in any run, bool ``[t, q]``; the others hold one class only."""
        return np.asarray(np.isfinite(self.curves).any(axis=0))

    @cached_property
    def lost(self) -> np.ndarray:
        """Runs that failed, bool ``[n]``."""
        return np.array([bool(reason) for reason in self.failed], bool)

    @property
    def arrays(self) -> tuple[np.ndarray, ...]:
        """All values but the reasons of failures."""
        slices = () if self.slices is None else (self.slices,)
        return self.configs, self.curves, self.ne, *self.columns.values(), *slices

    def digest(self) -> str:
        """sha256 of all values, whatever the file's encoding."""
        digest = hashlib.sha256(dumps(self.failed).encode())
        for part in self.arrays:
            digest.update(np.ascontiguousarray(part).tobytes())
        return digest.hexdigest()


def made_table(
    space: Space, configs: np.ndarray, runs: Sequence[Run], about: Mapping[str, Any]
) -> RecordedTable:
    """The table of some runs; ``configs [m, k]`` are by number."""
    runs = sorted(runs, key=lambda run: (run.number, run.repeat))
    shapes = shapes_of(about)
    numbers = np.array([run.number for run in runs], np.int64)
    return RecordedTable(
        space,
        dict(about),
        np.asarray(configs, np.int32)[numbers],
        np.array([run.curve for run in runs], np.float32).reshape(-1, *shapes["curve"]),
        np.array([run.ne for run in runs], np.float64).reshape(-1, shapes["curve"][1]),
        tuple(run.failed for run in runs),
        {
            name: np.array([getattr(run, name) for run in runs], _numpy_type(kind))
            for name, kind in PLAIN.items()
            if name != "failed"
        },
        np.array([run.slices for run in runs], np.float32).reshape(-1, *shapes["slices"])
        if "slices" in shapes
        else None,
    )


def runs_of(table: RecordedTable) -> list[Run]:
    """The runs of a table, as a journal has them."""
    rows = range(len(table.failed))
    plain = [{name: column[i].item() for name, column in table.columns.items()} for i in rows]
    return [
        Run(
            **plain[i],
            curve=table.curves[i],
            ne=tuple(table.ne[i].tolist()),
            failed=table.failed[i],
            slices=None if table.slices is None else table.slices[i],
        )
        for i in rows
    ]


def _numpy_type(kind: str) -> Any:
    return {"double": np.float64, "float": np.float32}.get(kind, kind)
