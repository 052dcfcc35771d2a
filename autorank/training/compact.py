"""Compact programs of one objective: one compile for each structure, states that training goes on from."""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from autorank.base.programs import ProgramCache, compiler_options, lower
from autorank.models.dhen import DhenConfig, compact, structure_key
from autorank.training import sharded
from autorank.training.groups import Shape
from autorank.training.trainer import (
    Data,
    Hparams,
    Program,
    Schedule,
    TrainState,
    make_program,
    zero_hparams,
)


class Setting(NamedTuple):
    """A configuration, decoded: what is compiled and what is only passed in."""

    model: DhenConfig
    hparams: Hparams


class Request(NamedTuple):
    """One configuration ``[k]`` to be trained with one seed."""

    config: np.ndarray
    seed: int
    setting: Setting

    @property
    def key(self) -> tuple[bytes, int]:
        """Of its state in `States`."""
        return self.config.tobytes(), self.seed


class States:
    """The most recent training states, bounded in bytes, so that promotion and scoring need not retrain."""

    def __init__(self, limit_bytes: int) -> None:
        self._states: OrderedDict[tuple, tuple[TrainState, int]] = OrderedDict()
        self._limit, self._lock = limit_bytes, threading.Lock()

    def __contains__(self, key: tuple) -> bool:
        with self._lock:
            return key in self._states

    @property
    def limit(self) -> int:
        """Bytes."""
        return self._limit

    def pop(self, key: tuple) -> TrainState | None:
        """Taken out, for it will be donated; None if it is not there."""
        with self._lock:
            found = self._states.pop(key, None)
        return found[0] if found else None

    def put(self, key: tuple, state: TrainState) -> None:
        """Keeps it, and lets the oldest go until the limit is met."""
        size = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
        with self._lock:
            self._states[key] = (state, size)
            while sum(s for _, s in self._states.values()) > self._limit:
                self._states.popitem(last=False)


class Compact(NamedTuple):
    """Functions over the compact programs of one objective."""

    program: Callable[[DhenConfig], Program]  # not compiled
    compile: Callable[[DhenConfig], tuple[tuple[Any, Program], float]]  # (run, program), seconds
    # What `compile` gave, the request, the last step -> the state there, seconds of training
    train: Callable[[tuple[Any, Program], Request, int], tuple[TrainState, float]]
    # Copies of the parameters and the table [v, d] on one device
    weights: Callable[[TrainState], tuple[Any, jax.Array]]


def make_compact(
    data: Data,
    schedule: Schedule,
    shape: Shape,
    cache: ProgramCache,
    states: States,
    *,
    precision: str = "float32",
    most_distinct: int | None = None,
    mesh: Mesh | None = None,
) -> Compact:
    """Compiles into ``cache``, trains on ``data`` and keeps what it trained in ``states``.

    No batch of ``data`` has more than ``most_distinct`` distinct ids (`tables.max_distinct`). With a ``mesh`` every
    model is spread over its devices, in float32 (`sharded`), and ``data`` is placed on them.
    """

    def program_of(model: DhenConfig) -> Program:
        single = partial(make_program, max_distinct=most_distinct, precision=precision)
        build = single if mesh is None else partial(sharded.make_sharded_program, mesh=mesh)
        return build(
            compact(model, shape.num_fields, shape.num_dense),
            head=model.head,
            width=model.width,
            num_ids=shape.num_ids,
            batch_size=shape.batch_size,
            num_windows=shape.num_windows,
            untrained=shape.untrained,
        )

    def compile_(model: DhenConfig) -> tuple[tuple[Any, Program], float]:
        def build() -> tuple[Any, Program]:
            program = program_of(model)
            shapes = jax.tree.map(
                lambda a: jax.ShapeDtypeStruct(
                    a.shape, a.dtype, sharding=a.sharding if is_spread(a) else None
                ),
                (jax.random.key(0), program.empty(), zero_hparams(), schedule, data),
            )
            step = jax.ShapeDtypeStruct((), jnp.int32)
            options = {"donate_argnums": 1, "compiler_options": compiler_options()}
            return lower(program.run, *shapes, step, step, **options).compile(), program

        return cache.get(structure_key(model), build)

    def train(
        compiled: tuple[Any, Program], request: Request, stop: int
    ) -> tuple[TrainState, float]:
        run, program = compiled
        state = states.pop(request.key)
        if state is None or int(state.step) > stop:
            state = program.empty()
        first, last = jnp.int32(int(state.step)), jnp.int32(stop)
        key, rates = jax.random.key(request.seed), request.setting.hparams
        started = time.perf_counter()
        state = run(key, state, rates, schedule, data, first, last)
        jax.block_until_ready(state.step)
        seconds = time.perf_counter() - started
        states.put(request.key, state)
        return state, seconds

    def weights(state: TrainState) -> tuple[Any, jax.Array]:
        if mesh is None:
            return jax.tree.map(jnp.copy, (state.params, state.table.rows))
        return sharded.on_one_device(state, shape.num_ids)

    return Compact(program_of, compile_, train, weights)


def is_spread(array: jax.Array) -> bool:
    """Whether it lies on a mesh."""
    return isinstance(array.sharding, jax.sharding.NamedSharding)
