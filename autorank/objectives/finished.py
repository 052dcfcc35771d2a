"""Models that are trained on all rows: scored on the held-out rows, measured, exported."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from autorank.base.ahead import Ahead
from autorank.base.jax_settings import own_settings, refuse_implicit_transfers
from autorank.base.programs import ProgramCache, compiler_options, lower
from autorank.data.format.batches import Dataset
from autorank.models.cost import compiled_flops, measure_qps
from autorank.models.dhen import DhenConfig, structure_key
from autorank.models.heads import METRICS
from autorank.objectives.base import (
    SCORED_AT_ONCE,
    Chunk,
    Trained,
    chunks_of,
    predict_chunks,
)
from autorank.objectives.placement import on_devices, padded
from autorank.training.compact import CompactPrograms, Request, Setting
from autorank.training.step import Data, TrainState
from autorank.training.trainer import zero_hparams

# Held-out ids and dense features, together, up to which they stay on the device: half a gigabyte.
KEPT = 128 * 1024 * 1024


@dataclass(frozen=True, eq=False)
class FinishedModels:
    """Compact models of one objective after all training rows.

    Args:
        dataset: its held-out rows are scored.
        decode: from a configuration ``[k]`` to its `Setting`.
        compact: trains.
        head: one of `METRICS`.
        progressive: whether the held-out rows are learned from, each batch after it was scored.
        qps_seconds: that one measurement of the throughput takes.
        jax_choices: the user's settings of JAX that training follows (`training_choices`).
        ahead: compiles what `prepare` is told of.
    """

    dataset: Dataset
    decode: Callable[[np.ndarray], Setting]
    compact: CompactPrograms
    head: str
    progressive: bool
    qps_seconds: float
    jax_choices: dict[str, Any]
    ahead: Ahead
    _functions: ProgramCache = field(default_factory=ProgramCache)

    def prepare(self, configs: Iterable[Sequence[int]], /) -> None:
        """See `Prepare`."""
        requests = [Request.of(np.array(c, np.int32), 0, self.decode) for c in configs]
        distinct = {structure_key(r.setting.model): r for r in requests}.values()
        name = "follow" if self.progressive else "predict"
        self.ahead.start([partial(self._compiled, request, name) for request in distinct])

    def trained(self, config: np.ndarray, seed: int, /) -> Trained:
        """See `TrainedModel`."""
        with own_settings(**self.jax_choices):
            request = Request.of(config, seed, self.decode)
            # Copied: the cached state is donated if the configuration is ever continued.
            params, rows = self.compact.weights(self._state(request))
            predict = self._jitted(request, "predict")
            return Trained(request.setting.model, params, rows, predict, METRICS[self.head])

    def test(self, config: np.ndarray, seed: int, /) -> np.ndarray:
        """See `HeldOutTest`."""
        held_out = self.dataset.test()
        with own_settings(**self.jax_choices):
            request = Request.of(config, seed, self.decode)
            if not self.progressive:
                compiled = self.trained(config, seed)._replace(
                    predict=self._compiled(request, "predict")
                )
                chunks = self._kept or chunks_of(held_out.sparse, held_out.dense)
                return predict_chunks(compiled, chunks, len(held_out.sparse))
            batch_size = self.compact.shape.batch_size
            state = self._state(request)
            columns = (held_out.sparse, held_out.dense, held_out.labels)
            rows = [padded(column, batch_size) for column in columns]
            later = on_devices(rows, self.compact.mesh, batch_size)
            follow = self._compiled(request, "follow")
            rates, schedule = self.compact.everywhere(
                (request.setting.hparams, self.compact.schedule)
            )
            with refuse_implicit_transfers():
                scores = follow(state, rates, schedule, later)
            return np.asarray(scores, np.float64)[: len(held_out.sparse)]

    @cached_property
    def _kept(self) -> list[Chunk]:
        """The held-out rows on the device, which some thirty models score; empty where they are many."""
        held_out = self.dataset.test()
        few = held_out.sparse.size + held_out.dense.size <= KEPT
        return list(chunks_of(held_out.sparse, held_out.dense)) if few else []

    def qps(self, config: np.ndarray, /) -> float:
        """Rows that the model of a configuration ``[k]`` scores per second."""
        self.ahead.join()
        train = self.dataset.train()
        with own_settings(**self.jax_choices):
            request = Request.of(config, 0, self.decode)
            empty = self.compact.program(request.setting.model).empty()
            params, table = self.compact.weights(empty)
            # The program that scores: measured several times a run, it is compiled once.
            predict = self._compiled(request, "predict")
            rows = np.arange(SCORED_AT_ONCE) % self.dataset.schema.num_train
            return measure_qps(
                lambda p, x, d: predict(p, table, x, d),
                params,
                jnp.asarray(train.sparse[rows]),
                jnp.asarray(train.dense[rows], jnp.float32),
                self.qps_seconds,
            )

    def compiled_flops(self, config: np.ndarray, /) -> float:
        """Forward FLOPs per example of a configuration ``[k]``, by the compiler's cost analysis."""
        shape = self.compact.shape
        with own_settings(**self.jax_choices):
            model = Request.of(config, 0, self.decode).setting.model
            return float(compiled_flops(model, shape.num_fields, shape.num_dense))

    def _state(self, request: Request) -> TrainState:
        """The state after all training rows; one that is there needs no program to train."""
        if (found := self.compact.finished(request)) is not None:
            return found
        compiled, _ = self.compact.compile(request.setting.model)
        return self.compact.train(compiled, request, self.compact.shape.num_steps)[0]

    def _jitted(self, request: Request, name: str) -> Any:
        """The function ``name`` of the model's program, jitted once for its structure."""
        model = request.setting.model

        def build() -> Any:
            return jax.jit(getattr(self.compact.program(model), name))

        return self._functions.get(f"{name} {structure_key(model)}", build)[0]

    def _compiled(self, request: Request, name: str) -> Any:
        """The same function for the shapes of `test` and `qps`; over several devices JAX compiles it when called."""
        if self.compact.mesh is not None:
            return self._jitted(request, name)
        model = request.setting.model

        def build() -> Any:
            function = getattr(self.compact.program(model), name)
            # On a GPU without tuning: beside models that train, what is timed there says little, and takes long.
            options = compiler_options() if jax.default_backend() == "gpu" else None
            shapes = self._shapes(model, name)
            return lower(function, *shapes, compiler_options=options).compile()

        return self._functions.get(f"compiled {name} {structure_key(model)}", build)[0]

    def _shapes(self, model: DhenConfig, name: str) -> tuple[Any, ...]:
        """The shapes of the arguments."""
        state = jax.eval_shape(self.compact.program(model).empty)
        held_out, batch_size = self.dataset.test(), self.compact.shape.batch_size
        rows = -(-len(held_out.sparse) // batch_size) * batch_size
        if name == "predict":
            rows = SCORED_AT_ONCE
        types = (
            (held_out.sparse, jnp.int32),
            (held_out.dense, jnp.float32),
            (held_out.labels, jnp.float32),
        )
        later = [jax.ShapeDtypeStruct((rows, column.shape[1]), dtype) for column, dtype in types]
        if name == "predict":
            return state.params, state.table.rows, *later[:2]
        # As a tuple of arrays, which these stand for.
        return state, zero_hparams(), self.compact.schedule, Data._make(later)
