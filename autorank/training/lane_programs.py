"""The lane programs of one objective: each capacity is compiled once for each device and number of lanes."""

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cache, lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from autorank.base.programs import OneFirst, ProgramCache, compiler_options, lower
from autorank.base.typing import Array, PyTree
from autorank.models.dhen import DhenConfig, canonical, initial_spread, parameters
from autorank.models.parameters import fill, noise_size
from autorank.population.capacity import Capacity, empty_lane, widest
from autorank.population.network import Network
from autorank.population.pairs import pairs_of
from autorank.population.storage import insert, is_shape, shapes
from autorank.training.lanes import Distinct, LaneProgram, Lanes, distinct_ids
from autorank.training.memory import SMALL_BATCH, Device, Shape, lane_size
from autorank.training.step import Data, Hparams, Schedule, TrainState
from autorank.training.trainer import zero_hparams

# On an accelerator, pairs of a lane and a slot that a loop handles side by side: fewer rounds of kernels, but padding
# where a kind has an odd number of pairs. Four at a time took 1.14 times as long with batches of 512.
CHUNK = 2
# Numbers of initial weights that stay on the host: 160 MB, or those of one seed.
DRAWS_KEPT = 40_000_000


def shared(
    capacities: Mapping[int, Capacity], batch_size: int, backend: str
) -> Mapping[int, Capacity]:
    """Capacities by width, joined where one program for all of them is faster than one for each.

    Examples:
        >>> from autorank.population.capacity import capacity_of
        >>> own = {width: capacity_of([DhenConfig(width=width)], 4, 2) for width in (8, 16)}
        >>> {width: c.width for width, c in shared(own, 512, "gpu").items()}
        {8: 16, 16: 16}
    """
    if backend == "cpu" or batch_size >= SMALL_BATCH:
        return capacities
    return dict.fromkeys(capacities, widest(capacities.values()))


class Inputs(NamedTuple):
    """What every dispatch on a device reads."""

    schedule: Schedule
    data: Data
    distinct: Distinct


class Compiled(NamedTuple):
    """The executables of a `LaneProgram`; `run` and `put` donate the state, `put` also the lanes."""

    program: LaneProgram
    begin: Any
    fresh: Callable[[int], Any]  # by width, compiled on first use
    put: Any
    take: Any
    run: Any
    # Normal numbers of a seed, as many as the largest model needs.
    noise: Callable[[int], np.ndarray]

    @property
    def capacity(self) -> Capacity:
        """What the program can hold."""
        return self.program.network.capacity

    def start(self, model: DhenConfig, seed: int, hparams: Hparams, device: Device) -> TrainState:
        """The state of a model before its first step: the compact program's for the same seed."""
        config, c = canonical(model), self.capacity
        tree = parameters(config, c.num_fields, c.num_dense)
        # Its beginning does not depend on its length, so one draw serves all models.
        noise = self.noise(seed)[: noise_size(tree)]
        scale = np.asarray(hparams.init_scale)
        params = fill(noise, tree, lambda leaf: scale * initial_spread(config, leaf))
        params = jax.device_put(insert(params, config, c), device)
        number, scale = jax.device_put((np.uint32(seed), hparams.table_scale), device)
        return self.fresh(config.width)(params, number, scale)


def kept_draws(draw: Any, size: int, device: Device) -> Callable[[int], np.ndarray]:
    """``draw`` of a seed, ``size`` numbers, on the host; some are kept: trials have one seed, finalists a few."""

    @lru_cache(maxsize=max(1, DRAWS_KEPT // size))
    def noise(seed: int) -> np.ndarray:
        return np.asarray(draw(jax.device_put(np.uint32(seed), device)))

    return noise


@dataclass(frozen=True, eq=False)
class LanePrograms:
    """Compiles lane programs on the rows of one objective.

    Args:
        data: rows in time order; copied once to each device that is used.
        schedule: of a full run.
        shape: of the data and the steps.
        cache: where compiled programs are kept.
        dtype: of activations (`Network`).
        most_distinct: bound on the distinct ids of a batch (`tables.max_distinct`); None for the number of look-ups.
    """

    data: Data
    schedule: Schedule
    shape: Shape
    cache: ProgramCache
    dtype: Any = jnp.float32
    most_distinct: int | None = None
    _lock: Any = field(default_factory=threading.Lock)
    _inputs: dict[Device, Inputs] = field(default_factory=dict)
    _plain: set[tuple[Capacity, Device]] = field(default_factory=set)  # without our kernels
    _first: OneFirst = field(default_factory=OneFirst)

    def leave_to_compiler(self, capacity: Capacity, device: Device) -> bool:
        """Makes the programs of a capacity without our kernels from now on; False if they are already.

        Whether a kernel's rows fit the shared memory of a device is known only once it is compiled there.
        """
        with self._lock:
            new = (capacity, device) not in self._plain
            self._plain.add((capacity, device))
            return new

    def program(self, capacity: Capacity, size: int, device: Device | None = None) -> LaneProgram:
        """The program of ``size`` lanes, not compiled."""
        shape, network = self.shape, self._network(capacity)
        if (capacity, device) in self._plain:
            network = replace(network, kernels="")
        return LaneProgram(
            network, size, shape.num_ids, shape.batch_size, shape.num_windows, shape.untrained
        )

    def _network(self, capacity: Capacity) -> Network:
        backend = jax.default_backend()
        own, chunk = capacity, 1
        if backend != "cpu":
            chunk = CHUNK
            # Each module of a family has kernels of its own.
            own = capacity._replace(split=True)
        return Network(own, chunk, self.dtype).tuned(backend)

    @staticmethod
    def name(capacity: Capacity, size: int, device: Device) -> str:
        """Cache key of a program."""
        return f"{size} lanes on {device}: {capacity}"

    def compile(self, capacity: Capacity, size: int, device: Device) -> tuple[Compiled, float]:
        """The compiled program and the seconds spent on compiling it now (0 for a known one)."""
        name = self.name(capacity, size, device)
        return self._first.build(
            (capacity, size),
            lambda: self.cache.get(
                name, lambda: self._build(self.program(capacity, size, device), device)
            ),
        )

    def inputs(self, device: Device) -> Inputs:
        """The rows on a device, and the distinct ids of each of their batches."""
        with self._lock:
            if device not in self._inputs:
                schedule, data = jax.device_put((self.schedule, self.data), device)
                shape = self.shape
                found = distinct_ids(
                    data.sparse,
                    batch_size=shape.batch_size,
                    num_ids=shape.num_ids,
                    capacity=self._most_distinct(),
                )
                self._inputs[device] = Inputs(schedule, data, found)
            return self._inputs[device]

    def _most_distinct(self) -> int:
        look_ups = self.shape.batch_size * self.shape.num_fields
        return min(self.most_distinct or look_ups, look_ups, self.shape.num_ids)

    def _build(self, program: LaneProgram, device: Device) -> Compiled:
        where = jax.sharding.SingleDeviceSharding(device)

        def shaped(tree: PyTree) -> PyTree:
            return jax.tree.map(
                lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=where), tree
            )

        def lowered(function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
            own = compiler_options(quick=self.shape.has_small_batches)
            options |= {"compiler_options": own, "out_shardings": where}
            return lower(function, *map(shaped, arguments), **options)

        def begin() -> tuple[TrainState, Any]:
            return program.empty(), program.no_lanes()

        size = lane_size(program.network.capacity)

        def draw(seed: Array) -> Array:
            dense_key = jax.random.split(jax.random.key(seed))[0]
            return jax.random.normal(dense_key, (size,))

        state, lanes = jax.eval_shape(begin)
        at, seed = jax.ShapeDtypeStruct((), jnp.int32), jax.ShapeDtypeStruct((), jnp.uint32)
        one = jax.eval_shape(program.take, state, at)
        lane = self._lane(program.network.capacity)
        models = jax.tree.map(lambda a: np.zeros(a.shape, a.dtype), lanes.models)
        running = np.zeros(program.size, bool)
        pairs = pairs_of(program.network.capacity, models, running)
        scale = zero_hparams().table_scale
        inputs = self._shapes()

        @cache
        def fresh(width: int) -> Any:
            return lowered(partial(program.fresh, width=width), one.params, seed, scale).compile()

        parts = (
            lowered(program.run, state, lanes, pairs, *inputs, at, donate_argnums=0),
            lowered(begin),
            lowered(program.put, state, lanes, at, one, lane, donate_argnums=(0, 1)),
            lowered(program.take, state, at),
            lowered(draw, seed),
        )
        # Side by side: XLA compiles outside the interpreter lock.
        with ThreadPoolExecutor(len(parts)) as pool:
            run, begun, put, take, drawn = pool.map(lambda part: part.compile(), parts)
        return Compiled(program, begun, fresh, put, take, run, kept_draws(drawn, size, device))

    def _shapes(self) -> Inputs:
        batch_size = self.shape.batch_size
        num_steps = self.data.sparse.shape[0] // batch_size
        ids = num_steps, self._most_distinct()
        inverse = num_steps * batch_size, self.shape.num_fields
        found: Any = (jax.ShapeDtypeStruct(s, jnp.int32) for s in (ids, inverse))
        distinct = Distinct(*found)
        return Inputs(self.schedule, self.data, distinct)

    @staticmethod
    def _lane(capacity: Capacity) -> Lanes:
        """The shapes of one lane's arguments."""
        own = jax.tree.map(
            lambda s: jax.ShapeDtypeStruct(s, bool), shapes(capacity), is_leaf=is_shape
        )
        stop: Any = np.int32(0)
        return Lanes(empty_lane(capacity), zero_hparams(), own, stop)
