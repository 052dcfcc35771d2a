"""Training that also keeps what was predicted, for curves that no sums of all rows give: AUC, GAUC, losses of slices.

The scores of a window are those from before its rows were learned, as in the window NE. They leave the device window by
window, so that memory is one window of scores (4 bytes a row and metric), however long the log is.
"""

import math
import time
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

from autorank.base.jax_settings import refuse_implicit_transfers
from autorank.base.programs import compiler_options, lower
from autorank.models.dhen import DhenConfig, structure_key
from autorank.models.heads import METRICS
from autorank.training.compact import CompactPrograms, Compiled, Request, as_compact
from autorank.training.step import TrainState
from autorank.training.trainer import SingleProgram, zero_hparams


@runtime_checkable
class MeasureRows(Protocol):
    """Measures the rows of a window from what was predicted before they were learned."""

    @property
    def name(self) -> str:
        """The entry of an outcome's details that the values of all windows go into."""
        ...

    @property
    def size(self) -> int:
        """Number of values ``v`` of a window."""
        ...

    def __call__(self, first: int, last: int, scores: np.ndarray, /) -> np.ndarray:
        """Values ``[v]`` of rows ``[first, last)`` of the log from their probabilities ``[last - first, q]``."""
        ...


@dataclass(frozen=True, eq=False)
class ScoredPrograms:
    """The compact programs of one objective that give scores while they train, on one device.

    Args:
        compact: its programs and the states that training continues from.
        measure: of the rows of one window.
    """

    compact: CompactPrograms
    measure: MeasureRows
    # By request: values of the windows that its state has seen [t, v].
    _measured: dict[tuple[bytes, int], np.ndarray] = field(default_factory=dict)

    def compile(self, model: DhenConfig) -> tuple[Compiled, float]:
        """The compiled program and the seconds spent on compiling it now (0 for a known structure)."""
        own = self.compact

        def build() -> Compiled:
            program = own.program(model)
            assert isinstance(program, SingleProgram)
            step = jax.ShapeDtypeStruct((), jnp.int32)
            shapes = jax.tree.map(
                lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype),
                (jax.random.key(0), program.empty(), zero_hparams(), own.schedule, own.data),
            )
            scores = jax.ShapeDtypeStruct(self._scores_shape(model), jnp.float32)
            options = compiler_options(quick=own.shape.has_small_batches)
            lowered = lower(
                program.run_scored,
                *shapes,
                step,
                step,
                scores,
                donate_argnums=(1, 7),
                compiler_options=options,
            )
            return lowered.compile(), program

        return own.cache.get(f"scored {structure_key(model)}", build)

    def train(
        self, compiled: Compiled, request: Request, stop: int
    ) -> tuple[TrainState, float, np.ndarray]:
        """Trains a request up to step ``stop``, window by window.

        Returns:
            The state there, the seconds of training, and the measured values ``[t, v]`` of the windows up to there.
        """
        run, program = compiled
        own, shape = self.compact, self.compact.shape
        found, measured = own.states.pop(request.key), self._measured.get(request.key)
        if found is None or measured is None or int(found.step) > stop:
            state = program.empty()
            measured = np.full((shape.num_windows, self.measure.size), np.nan)
        else:
            state = as_compact(found)
        started, measured = time.perf_counter(), measured.copy()
        key, rates, schedule = own.everywhere(
            (jax.random.key(request.seed), request.setting.hparams, own.schedule)
        )
        scores = jax.device_put(
            np.zeros(self._scores_shape(request.setting.model), np.float32), may_alias=False
        )
        for window, first, last in self._windows(int(state.step), stop):
            ends = jax.device_put((np.int32(first), np.int32(last)))
            with refuse_implicit_transfers():
                state, scores = run(key, state, rates, schedule, own.data, *ends, scores)
            if int(state.failed_step) >= 0:
                break
            rows = first * shape.batch_size, last * shape.batch_size
            values = np.asarray(scores)[: rows[1] - rows[0]]
            measured[window] = self.measure(*rows, values)
        seconds = time.perf_counter() - started
        own.states.put(request.key, state)
        self._measured[request.key] = measured
        return state, seconds, measured

    def _windows(self, start: int, stop: int) -> list[tuple[int, int, int]]:
        """Windows with their steps ``[first, last)`` among ``[start, stop)``; a run never ends inside a window."""
        return [
            (w, first, last)
            for w, (first, last) in enumerate(self.compact.shape.windows)
            if start <= first < last <= stop
        ]

    def _scores_shape(self, model: DhenConfig) -> tuple[int, int]:
        shape = self.compact.shape
        steps = math.ceil(shape.num_steps / shape.num_windows)
        return steps * shape.batch_size, len(METRICS[model.head])
