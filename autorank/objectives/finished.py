"""Models that are trained on all rows: scored on the held-out rows, measured, exported."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from autorank.base.jax_settings import own_settings, refuse_implicit_transfers
from autorank.base.programs import ProgramCache
from autorank.data.format.batches import Dataset
from autorank.models.cost import compiled_flops, measure_qps
from autorank.models.dhen import structure_key
from autorank.models.heads import METRICS
from autorank.objectives.base import Trained, predict_rows
from autorank.objectives.placement import on_devices, padded
from autorank.training.compact import CompactPrograms, Request, Setting
from autorank.training.step import TrainState


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
    """

    dataset: Dataset
    decode: Callable[[np.ndarray], Setting]
    compact: CompactPrograms
    head: str
    progressive: bool
    qps_seconds: float
    jax_choices: dict[str, Any]
    _functions: ProgramCache = field(default_factory=ProgramCache)

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
            if not self.progressive:
                return predict_rows(self.trained(config, seed), held_out.sparse, held_out.dense)
            request = Request.of(config, seed, self.decode)
            batch_size = self.compact.shape.batch_size
            state = self._state(request)
            columns = (held_out.sparse, held_out.dense, held_out.labels)
            rows = [padded(column, batch_size) for column in columns]
            later = on_devices(rows, self.compact.mesh, batch_size)
            follow = self._jitted(request, "follow")
            rates, schedule = self.compact.everywhere(
                (request.setting.hparams, self.compact.schedule)
            )
            with refuse_implicit_transfers():
                scores = follow(state, rates, schedule, later)
            return np.asarray(scores, np.float64)[: len(held_out.sparse)]

    def qps(self, config: np.ndarray, /) -> float:
        """Rows that the model of a configuration ``[k]`` scores per second."""
        train = self.dataset.train()
        with own_settings(**self.jax_choices):
            request = Request.of(config, 0, self.decode)
            empty = self.compact.program(request.setting.model).empty()
            params, table = self.compact.weights(empty)
            # The program that scores: measured several times a run, it is compiled once.
            predict = self._jitted(request, "predict")
            rows = min(4096, self.dataset.schema.num_train)
            return measure_qps(
                lambda p, x, d: predict(p, table, x, d),
                params,
                jnp.asarray(train.sparse[:rows]),
                jnp.asarray(train.dense[:rows], jnp.float32),
                self.qps_seconds,
            )

    def compiled_flops(self, config: np.ndarray, /) -> float:
        """Forward FLOPs per example of a configuration ``[k]``, by the compiler's cost analysis."""
        shape = self.compact.shape
        with own_settings(**self.jax_choices):
            model = Request.of(config, 0, self.decode).setting.model
            return float(compiled_flops(model, shape.num_fields, shape.num_dense))

    def _state(self, request: Request) -> TrainState:
        """The state after all training rows."""
        compiled, _ = self.compact.compile(request.setting.model)
        return self.compact.train(compiled, request, self.compact.shape.num_steps)[0]

    def _jitted(self, request: Request, name: str) -> Any:
        """The function ``name`` of the model's program, jitted once for its structure."""
        model = request.setting.model

        def build() -> Any:
            return jax.jit(getattr(self.compact.program(model), name))

        return self._functions.get(f"{name} {structure_key(model)}", build)[0]
