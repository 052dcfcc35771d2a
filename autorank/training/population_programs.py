"""Compiles populations for one objective, trains them on a device, and takes single members out."""

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from autorank.base.jax_settings import refuse_implicit_transfers
from autorank.base.programs import ProgramCache, compiler_options, lower
from autorank.base.typing import PyTree
from autorank.models.dhen import DhenConfig
from autorank.population.layouts import Layout, layout_of, misfit, tuned
from autorank.population.routing import Routing
from autorank.population.weights import extract
from autorank.training.groups import Device, Shape
from autorank.training.population import PopulationProgram, PopulationState, make_population
from autorank.training.step import Curve, Data, Hparams, Schedule, TrainState, dense_optimizer
from autorank.training.tables import Table

Compiled = tuple[Any, PopulationProgram]  # the executable of `run`, and the program


class GroupResult(NamedTuple):
    """A trained population, members in the order given."""

    layout: Layout
    routing: Routing
    state: PopulationState
    curves: Curve  # on the host, [t, p, q]
    failed_steps: np.ndarray  # [p], -1 for none
    seconds: float


@dataclass(frozen=True, eq=False)
class PopulationPrograms:
    """The populations of one objective: each layout is compiled once for each device.

    Args:
        data: rows in time order; copied once to each device that is used.
        schedule: of a full run.
        shape: of the data and the steps.
        cache: where compiled programs are kept.
        dtype: of activations (`training.population.make_population`).
        most_distinct: bound on the distinct ids of a batch (`tables.max_distinct`).
    """

    data: Data
    schedule: Schedule
    shape: Shape
    cache: ProgramCache
    dtype: Any = jnp.float32
    most_distinct: int | None = None
    _lock: Any = field(default_factory=threading.Lock)
    _known: set[Layout] = field(default_factory=set)
    _copies: dict[Device, Data] = field(default_factory=dict)

    def known(self) -> frozenset[Layout]:
        """Layouts that are compiled."""
        with self._lock:
            return frozenset(self._known)

    def layout(self, configs: Sequence[DhenConfig]) -> Layout:
        """A compiled layout that holds ``configs``, or else their own."""
        sizes = self.shape.num_fields, self.shape.num_dense
        own = tuned(layout_of(configs, *sizes), jax.default_backend())
        known = self.known()
        if own in known:
            return own
        return next((found for found in known if not misfit(found, configs, *sizes)), own)

    def name(self, layout: Layout, device: Device) -> str:
        """Cache key of the layout's program on a device."""
        return f"population on {device}: {layout}"

    def compile(
        self, layout: Layout, configs: Sequence[DhenConfig], device: Device
    ) -> tuple[Compiled, float]:
        """The compiled program and the seconds spent on compiling it now (0 for a known one)."""

        def build() -> Compiled:
            program = self._program(layout)
            state, route = program.shapes(configs)
            rates = Hparams(*(jnp.zeros(layout.size) for _ in Hparams._fields))
            sharding = jax.sharding.SingleDeviceSharding(device)
            shapes = jax.tree.map(
                lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=sharding),
                (state, route, rates, self.schedule, self.data, np.int32(0)),
            )
            options = {"donate_argnums": 0, "compiler_options": compiler_options()}
            compiled = lower(program.run, *shapes, **options).compile()
            program.prepare(configs, device)
            with self._lock:
                self._known.add(layout)
            return compiled, program

        return self.cache.get(self.name(layout, device), build)

    def train(
        self,
        compiled: Compiled,
        layout: Layout,
        configs: Sequence[DhenConfig],
        seeds: Sequence[int],
        hparams: Sequence[Hparams],
        device: Device,
        stop: int,
    ) -> GroupResult:
        """Trains one population from the first step up to ``stop``.

        Args:
            compiled: what `compile` gave for ``layout`` and ``device``.
            layout: holds ``configs``.
            configs: the members.
            seeds: one for each member.
            hparams: scalars, for each member.
            device: trains all of them.
            stop: last step.
        """
        run, program = compiled
        started = time.perf_counter()
        with jax.default_device(device):
            stacked = stack(hparams, layout.size)
            state, route = program.start(configs, seeds, stacked, device)
            arguments = jax.device_put(
                (route, stacked, self.schedule, self._data_on(device), np.int32(stop)), device
            )
            with refuse_implicit_transfers():
                state = run(state, *arguments)
        curves, failed = jax.device_get((state.curve, state.failed_step))
        seconds = time.perf_counter() - started
        return GroupResult(layout, route, state, curves, np.asarray(failed), seconds)

    def _program(self, layout: Layout) -> PopulationProgram:
        return make_population(
            layout,
            self.shape.num_fields,
            self.shape.num_dense,
            num_ids=self.shape.num_ids,
            batch_size=self.shape.batch_size,
            num_windows=self.shape.num_windows,
            dtype=self.dtype,
            unique=self.most_distinct,
            untrained=self.shape.untrained,
        )

    def _data_on(self, device: Device) -> Data:
        with self._lock:
            if device not in self._copies:
                self._copies[device] = jax.device_put(self.data, device)
            return self._copies[device]


def member_state(
    result: GroupResult, config: DhenConfig, hparams: Hparams, index: int, shape: Shape
) -> TrainState:
    """The state from which the compact program of member ``index`` continues, on the first device."""
    state = result.state
    params, first, second = (
        extract(
            jax.device_get(tree),
            config,
            index,
            result.layout,
            result.routing,
            shape.num_fields,
            shape.num_dense,
        )
        for tree in (state.params, state.first_moment, state.second_moment)
    )
    device = jax.local_devices()[0]
    rows, accumulator = _column(state.rows, state.accumulator, np.int32(index))
    params = jax.device_put(params, device)
    optimizer = dense_optimizer(hparams, jnp.float32(1.0)).init(params)
    optimizer = optax.tree_utils.tree_set(
        optimizer,
        count=jnp.asarray(np.asarray(state.step)),
        mu=jnp.asarray(flat(first)),
        nu=jnp.asarray(flat(second)),
    )
    table = Table(
        jax.device_put(rows, device),
        jax.device_put(accumulator, device),
        jnp.zeros(shape.num_ids, jnp.int32),
    )
    curve = Curve(*(jnp.asarray(c[:, index]) for c in result.curves))
    step = jnp.asarray(np.asarray(state.step))
    return TrainState(params, optimizer, table, curve, step, jnp.int32(-1))


@jax.jit
def _column(rows: Any, accumulator: Any, index: Any) -> tuple[Any, Any]:
    """The table of one member: ``rows [v, p, d]`` and ``accumulator [v, p]`` at ``index``."""
    return (
        jax.lax.dynamic_index_in_dim(rows, index, 1, keepdims=False),
        jax.lax.dynamic_index_in_dim(accumulator, index, 1, keepdims=False),
    )


def stack(hparams: Sequence[Hparams], size: int) -> Hparams:
    """One array ``[p]`` for each rate; free places repeat the first trial's."""
    filled = [*hparams, *[hparams[0]] * (size - len(hparams))]
    return Hparams(
        *(
            jnp.asarray(np.array([float(v) for v in values], np.float32))
            for values in zip(*filled, strict=True)
        )
    )


def flat(tree: PyTree) -> np.ndarray:
    """All values as one vector, in the order of `optax.flatten`."""
    return np.concatenate([np.asarray(leaf).reshape(-1) for leaf in jax.tree.leaves(tree)])
