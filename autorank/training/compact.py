"""Compact programs of one objective: one for each structure, and the states that training continues from."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from autorank.base.jax_settings import refuse_implicit_transfers
from autorank.base.programs import ProgramCache, compiler_options, lower
from autorank.base.typing import PyTree
from autorank.models.dhen import DhenConfig, compact, structure_key
from autorank.training import sharded
from autorank.training.memory import Shape
from autorank.training.states import State, States
from autorank.training.step import Data, Hparams, Schedule, TrainState
from autorank.training.trainer import Program, make_program, zero_hparams

Compiled = tuple[Any, Program]  # the executable of `run`, and the program


class Setting(NamedTuple):
    """A decoded configuration: what is compiled, and what is only passed in."""

    model: DhenConfig
    hparams: Hparams


class Request(NamedTuple):
    """One configuration ``[k]`` to be trained with one seed."""

    config: np.ndarray
    seed: int
    setting: Setting

    @classmethod
    def of(
        cls, config: np.ndarray, seed: int, decode: Callable[[np.ndarray], Setting]
    ) -> "Request":
        """A request for a configuration that ``decode`` understands."""
        config = np.asarray(config, np.int32)
        return cls(config, int(seed), decode(config))

    @property
    def key(self) -> tuple[bytes, int]:
        """Cache key of its training state in `States`."""
        return self.config.tobytes(), self.seed


@dataclass(frozen=True, eq=False)
class CompactPrograms:
    """The compact programs of one objective: each structure is compiled once.

    Args:
        data: rows in time order; with a ``mesh`` placed on its devices (`sharded.place`).
        schedule: of a full run.
        shape: of the data and the steps.
        cache: where compiled programs are kept.
        states: where training takes its states from and leaves them.
        precision: of matrix products in training.
        most_distinct: bound on the distinct ids of a batch (`tables.max_distinct`).
        mesh: devices over which every model is spread, in float32 (`sharded`); None for one device.
    """

    data: Data
    schedule: Schedule
    shape: Shape
    cache: ProgramCache
    states: States
    precision: str = "float32"
    most_distinct: int | None = None
    mesh: Mesh | None = None
    _traced: dict[str, tuple[Any, Program]] = field(default_factory=dict)

    def program(self, model: DhenConfig) -> Program:
        """The training program of a model, not compiled."""
        if self.mesh is None:
            make: Callable[..., Program] = partial(
                make_program, max_distinct=self.most_distinct, precision=self.precision
            )
        else:
            make = partial(sharded.make_sharded_program, mesh=self.mesh)
        shape = self.shape
        return make(
            compact(model, shape.num_fields, shape.num_dense),
            head=model.head,
            width=model.width,
            num_ids=shape.num_ids,
            batch_size=shape.batch_size,
            num_windows=shape.num_windows,
            untrained=shape.untrained,
        )

    def is_compiled(self, structure: str) -> bool:
        """Whether the program of a `structure_key` is there."""
        return structure in self.cache

    def begin(self, model: DhenConfig) -> None:
        """Traces a program that `compile` will be asked for, before anything else is traced."""
        self._traced[structure_key(model)] = self._trace(model)

    def compile(self, model: DhenConfig) -> tuple[Compiled, float]:
        """The compiled program and the seconds spent on compiling it now (0 for a known structure)."""
        key = structure_key(model)

        def build() -> Compiled:
            traced, program = self._traced.pop(key, None) or self._trace(model)
            return traced.compile(), program

        return self.cache.get(key, build)

    def _trace(self, model: DhenConfig) -> tuple[Any, Program]:
        program = self.program(model)
        shapes = jax.tree.map(
            lambda a: jax.ShapeDtypeStruct(
                a.shape, a.dtype, sharding=a.sharding if is_spread(a) else None
            ),
            (jax.random.key(0), program.empty(), zero_hparams(), self.schedule, self.data),
        )
        step = jax.ShapeDtypeStruct((), jnp.int32)
        own = compiler_options(quick=self.shape.has_small_batches)
        options = {"donate_argnums": 1, "compiler_options": own}
        return lower(program.run, *shapes, step, step, **options), program

    def train(self, compiled: Compiled, request: Request, stop: int) -> tuple[TrainState, float]:
        """Trains a request up to step ``stop``: the state there, and the seconds of training.

        Training continues from the cached state of the request, or starts over where there is none or it lies beyond
        ``stop``. The new state is cached.
        """
        run, program = compiled
        found = self.states.pop(request.key)
        if found is None or int(found.step) > stop:
            state = program.empty()
        else:
            state = as_compact(found)
        key, rates, schedule, first, last = self.everywhere(
            (
                jax.random.key(request.seed),
                request.setting.hparams,
                self.schedule,
                jnp.int32(int(state.step)),
                jnp.int32(stop),
            )
        )
        started = time.perf_counter()
        with refuse_implicit_transfers():
            state = run(key, state, rates, schedule, self.data, first, last)
        jax.block_until_ready(state.step)
        seconds = time.perf_counter() - started
        self.states.put(request.key, state)
        return state, seconds

    def finished(self, request: Request) -> TrainState | None:
        """The cached state of a request after all rows of a full run; None if there is none."""
        found = self.states.peek(request.key)
        if found is None or int(found.step) < self.shape.num_steps:
            return None
        state = as_compact(found)
        self.states.put(request.key, state)
        return state

    def everywhere(self, tree: PyTree) -> PyTree:
        """Small arguments of a program, on every device that a model is spread over."""
        if self.mesh is None:
            return jax.device_put(tree)
        return jax.device_put(tree, NamedSharding(self.mesh, PartitionSpec()))

    def weights(self, state: TrainState) -> tuple[Any, jax.Array]:
        """Copies of the dense parameters and of the table ``[v, d]`` on one device."""
        if self.mesh is None:
            # Not `jnp.copy`, which is compiled for every shape.
            device = jax.local_devices()[0]
            return jax.device_put((state.params, state.table.rows), device, may_alias=False)
        return sharded.on_one_device(state, self.shape.num_ids)


def as_compact(state: State) -> TrainState:
    """A state as its compact program continues from it."""
    return state if isinstance(state, TrainState) else state.compact()


def is_spread(array: Any) -> bool:
    """Whether an array lies on a mesh; one on the host does not."""
    return isinstance(getattr(array, "sharding", None), NamedSharding)
