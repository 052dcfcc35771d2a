"""Recorded curves of many configurations: what a study of fidelities stops early, and how their ends would be."""

import threading
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import jax
import numpy as np

from autorank.base.typing import Float
from autorank.benchmarks.base import Benchmark, SliceCurves
from autorank.fidelity.curve_label import curve_labels, label_power_law, tail_windows

T = TypeVar("T")
TAIL = 0.25  # share of the windows reached that a label is the mean of
SAMPLED = 2000  # random configurations of a surrogate


@dataclass(frozen=True, eq=False)
class CurveTable:
    """Curves ``[m, t]`` over the whole log, as differences from the baseline's, lower is better."""

    name: str
    curves: np.ndarray
    num_failed: int  # configurations without a whole curve, which were left out
    slices: SliceCurves | None = None  # of the same configurations and windows
    _kept: dict[Any, Any] = field(default_factory=dict)
    _lock: Any = field(default_factory=threading.RLock)

    def __len__(self) -> int:
        return len(self.curves)

    def described(self) -> str:
        """How many there are."""
        return f"{len(self)} curves of {self.curves.shape[1]} windows, {self.num_failed} failed ones left out"

    def fingerprint(self) -> str:
        """Changes with any curve."""
        crc = zlib.crc32(np.ascontiguousarray(self.curves).tobytes())
        for part in self.slices or ():
            crc = zlib.crc32(np.ascontiguousarray(part).tobytes(), crc)
        return f"{crc:08x} {self.curves.shape}"

    def constant(self, fraction: float) -> Float[np.ndarray, " m"]:
        """The mean of the last quarter of the windows up to a fraction: the curves stay where they are."""
        return self._of("constant", fraction)

    def slope(self, fraction: float) -> Float[np.ndarray, " m"]:
        """The slope a window of the least-squares lines through the same windows."""
        return self._of("slope", fraction)

    def power_law(self, fraction: float) -> Float[np.ndarray, " m"]:
        """The ends of the power laws fitted to the windows up to a fraction."""
        return self._of("power", fraction)

    def stratified(self, fraction: float) -> Float[np.ndarray, " m"]:
        """The log losses that follow if each slice stays where it is, and its share becomes what it is at the end.

        What a log will hold is known before it is learned from, or close to what it held a season ago (arXiv
        2512.01258). Differences from the baseline, in nats, over the windows of `constant`.

        Raises:
            ValueError: the table has no slices.
        """
        if self.slices is None:
            raise ValueError(
                f"prediction=stratified: {self.name} has no losses of slices; record a table with slices=FIELD"
            )
        return self._of("stratified", fraction)

    @property
    def final(self) -> Float[np.ndarray, " m"]:
        """The label at the end of the log."""
        return self.constant(1.0)

    @property
    def quality(self) -> Float[np.ndarray, " m"]:
        """The final label, 0 for the best of the table and 1 for its median."""
        best, median = self.final.min(), float(np.median(self.final))
        return (self.final - best) / ((median - best) or 1.0)

    def kept(self, key: Any, make: Callable[[], T]) -> T:
        """What depends on the curves and on ``key`` alone, made once."""
        with self._lock:
            if key not in self._kept:
                self._kept[key] = make()
            return self._kept[key]

    def _of(self, kind: str, fraction: float) -> np.ndarray:
        return self.kept((kind, fraction), lambda: self._computed(kind, fraction))

    def _computed(self, kind: str, fraction: float) -> np.ndarray:
        if kind == "power":
            return np.array([label_power_law(c, fraction, tail=TAIL) for c in self.curves])
        if kind == "stratified":
            return self._stratified(fraction)
        level = curve_labels(self.curves, fraction, tail=TAIL)
        if kind == "constant":
            return level
        return curve_labels(self.curves, fraction, tail=TAIL, dx=1.0) - level

    def _stratified(self, fraction: float) -> np.ndarray:
        assert self.slices is not None
        losses, baseline, rows = self.slices
        seen, end = (self._tail(f) for f in (fraction, 1.0))
        weights = np.where(np.isfinite(baseline), rows, 0.0)[seen]
        sums = np.einsum("mts,ts->ms", np.nan_to_num(losses - baseline)[:, seen], weights)
        known = weights.sum(axis=0) > 0
        levels = sums[:, known] / weights.sum(axis=0)[known]
        # A slice of which nothing was seen says nothing; the others make up for its share.
        shares = rows[end].sum(axis=0)[known]
        return levels @ (shares / shares.sum())

    def _tail(self, fraction: float) -> slice:
        """The windows that `constant` looks at."""
        return slice(*tail_windows(self.curves.shape[1], fraction, TAIL))


def curve_table(benchmark: Benchmark) -> CurveTable:
    """The curves of a benchmark: a recorded table's first seeds, or those that a surrogate gives.

    Raises:
        ValueError: it has no curves, or fewer than two whole ones.
    """
    pool, space = benchmark.pool, benchmark.space
    if pool is None:
        drawn = np.unique(np.asarray(space.sample(jax.random.key(0), SAMPLED)), axis=0)
    else:
        drawn = pool.configs
    *found, baseline = curves_of(benchmark, [*drawn, np.array(space.baseline)])
    curves = np.array(found)
    measured = np.isfinite(baseline)
    curves = (curves - baseline)[:, measured]
    whole = np.isfinite(curves).all(axis=1)
    if whole.sum() < 2:
        raise ValueError(f"{benchmark.name} has {whole.sum()} whole curves; name another table")
    slices = benchmark.slices
    if slices is not None:
        losses, own, rows = slices
        slices = SliceCurves(losses[whole][:, measured], own[measured], rows[measured])
    return CurveTable(benchmark.name, curves[whole], int((~whole).sum()), slices)


def curves_of(benchmark: Benchmark, configs: Sequence[np.ndarray]) -> Float[np.ndarray, "n t"]:
    """Curves of configurations: window NE of a recorded table's first metric and seeds, or what a surrogate gives.

    Raises:
        ValueError: the benchmark has none.
    """
    if benchmark.curves is not None and benchmark.pool is not None:
        rows = np.array(configs, np.int32)
        outcomes = dict(benchmark.curves.evaluate(rows, [0] * len(rows), 1.0))
        return np.stack([np.asarray(outcomes[i].curve)[:, 0] for i in range(len(rows))])
    if benchmark.windows is not None:
        return benchmark.windows([benchmark.space.decode(config) for config in configs])
    raise ValueError(
        f"{benchmark.name} has no curves; write study.records=tables/NAME (python -m experiments.record_table "
        "records them), or lcbench/3945"
    )
