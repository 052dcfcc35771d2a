"""Groups of trials trained as one population: how many fit a device, compiling, training, taking a member out."""

import os
import threading
from collections import defaultdict
from collections.abc import Callable, Sequence
from math import prod
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax

from autorank.base.programs import ProgramCache, compiler_options, lower
from autorank.base.typing import PyTree
from autorank.models.blocks import is_leaf
from autorank.models.dhen import DhenConfig, canonical, layer_outputs, layers, parameters
from autorank.models.embedding import num_embeddings
from autorank.population.plans import Plan, Routing, misfit, plan_of, tuned
from autorank.population.weights import extract
from autorank.training.population import PopulationProgram, PopulationState, make_population
from autorank.training.tables import Table
from autorank.training.trainer import Curve, Data, Hparams, Schedule, TrainState, dense_optimizer

Device: TypeAlias = Any  # `jax.Device`, which type checkers take for a variable
MEMORY_SHARE = 0.6  # of the device's free bytes that one group may take
MAX_MODELS = 128  # of one group; a larger program takes longer to compile than it saves
COPIES = 8  # of a layer's input and output that the backward pass keeps, roughly
DENSE_COPIES = 5  # parameters, two moments, gradient, the copies in the activations' precision


class Shape(NamedTuple):
    """What all trials of an objective share."""

    num_fields: int
    num_dense: int
    num_ids: int
    batch_size: int
    num_windows: int
    num_steps: int
    untrained: tuple[int, ...] = ()  # rows of the table that stay zero (`tables.freeze_rows`)


def bytes_per_model(config: DhenConfig, shape: Shape) -> int:
    """Estimated device bytes of one member: its table (rows and accumulator), dense part and activations."""
    c = canonical(config)
    table = shape.num_ids * (4 * c.width + 4)
    dense = DENSE_COPIES * 4 * dense_size(c, shape)
    positions = num_embeddings(shape.num_fields, shape.num_dense)
    kept = 4 * shape.num_fields * c.width  # looked up, transposed, gradient, update
    for layer in layers(c):
        outputs, n = layer_outputs(c, layer, positions), len(layer.modules)
        kept += COPIES * (1 + n) * (positions + outputs) * c.width
        kept += 3 * n * (c.mlp_depth * c.mlp_width + positions * max(positions, c.rank))
        positions = outputs
    kept += 3 * c.head_depth * c.head_width
    return table + dense + 4 * shape.batch_size * kept


def free_bytes(device: Device) -> int:
    """Of the device, by its own account; where it keeps none (CPU), of the machine's memory."""
    stats = device.memory_stats() or {}
    if "bytes_limit" in stats:
        return int(stats["bytes_limit"]) - int(stats.get("bytes_in_use", 0))
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):
        return 1 << 31


def form_groups(
    configs: Sequence[DhenConfig], shape: Shape, *, free: int, parts: int = 1, limit: int = 0
) -> list[list[int]]:
    """Indices of ``configs`` in groups of one width and head that fit ``free`` bytes; like depths together.

    Args:
        configs: models.
        shape: of the data and the steps.
        free: bytes of one device that are free; a group takes `MEMORY_SHARE` of them.
        parts: devices; at least that many groups where there are models enough.
        limit: most models of a group, 0 for `MAX_MODELS`.
    """
    alike: dict[tuple[int, str], list[int]] = defaultdict(list)
    for i, config in enumerate(configs):
        alike[config.width, config.head].append(i)
    groups = []
    for members in alike.values():
        sizes = {i: bytes_per_model(configs[i], shape) for i in members}
        most = max(1, int(MEMORY_SHARE * free / max(sizes.values())))
        most = min(most, limit or MAX_MODELS, -(-len(members) // parts))
        members.sort(key=lambda i: (-canonical(configs[i]).num_layers, sizes[i], i))
        count = -(-len(members) // most)
        groups += [list(map(int, part)) for part in np.array_split(np.array(members), count)]
    return groups


class GroupResult(NamedTuple):
    """A trained population, members in the order given."""

    plan: Plan
    routing: Routing
    state: PopulationState
    curves: Curve  # on the host, [t, p, q]
    failed_steps: np.ndarray  # [p], -1 for none
    seconds: float


class Groups(NamedTuple):
    """Functions over the groups of one objective."""

    plan: Callable[[Sequence[DhenConfig]], Plan]  # a known one that they fit, or their own
    known: Callable[[], frozenset[Plan]]  # compiled
    # Plan, configurations, device -> (compiled, program), seconds
    compile: Callable[
        [Plan, Sequence[DhenConfig], Device], tuple[tuple[Any, PopulationProgram], float]
    ]
    # What `compile` gave, plan, configurations, seeds, hparams, device, last step
    train: Callable[..., GroupResult]
    # Result, configurations, hparams, index -> the state of that member's compact build, on the first device
    member: Callable[[GroupResult, Sequence[DhenConfig], Sequence[Hparams], int], TrainState]


def make_groups(
    data: Data,
    schedule: Schedule,
    shape: Shape,
    cache: ProgramCache,
    *,
    dtype: Any = jnp.float32,
    most_distinct: int | None = None,
    clock: Callable[[], float],
) -> Groups:
    """Compiles into ``cache`` and trains on ``data``, which is copied once to each device that is used.

    No batch of ``data`` has more than ``most_distinct`` distinct ids (`tables.max_distinct`).
    """
    num_fields, num_dense = shape.num_fields, shape.num_dense
    lock = threading.Lock()
    plans: set[Plan] = set()
    copies: dict[Device, Data] = {}
    column = jax.jit(
        lambda rows, accumulator, p: (
            jax.lax.dynamic_index_in_dim(rows, p, 1, keepdims=False),
            jax.lax.dynamic_index_in_dim(accumulator, p, 1, keepdims=False),
        )
    )

    def data_on(device: Device) -> Data:
        with lock:
            if device not in copies:
                copies[device] = jax.device_put(data, device)
            return copies[device]

    def known() -> frozenset[Plan]:
        with lock:
            return frozenset(plans)

    def plan(configs: Sequence[DhenConfig]) -> Plan:
        own = tuned(plan_of(configs, num_fields, num_dense), jax.default_backend())
        there = known()
        if own in there:
            return own
        fits = (p for p in there if not misfit(p, configs, num_fields, num_dense))
        return next(fits, own)

    def compile_(
        plan: Plan, configs: Sequence[DhenConfig], device: Device
    ) -> tuple[tuple[Any, PopulationProgram], float]:
        def build() -> tuple[Any, PopulationProgram]:
            program = make_population(
                plan,
                num_fields,
                num_dense,
                num_ids=shape.num_ids,
                batch_size=shape.batch_size,
                num_windows=shape.num_windows,
                dtype=dtype,
                unique=most_distinct,
                untrained=shape.untrained,
            )
            state, route = program.shapes(configs)
            rates = Hparams(*(jnp.zeros(plan.size) for _ in Hparams._fields))
            there = jax.sharding.SingleDeviceSharding(device)
            shapes = jax.tree.map(
                lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=there),
                (state, route, rates, schedule, data, np.int32(0)),
            )
            options = {"donate_argnums": 0, "compiler_options": compiler_options()}
            compiled = lower(program.run, *shapes, **options).compile()
            program.prepare(configs, device)
            with lock:
                plans.add(plan)
            return compiled, program

        return cache.get(f"population on {device}: {plan}", build)

    def train(
        compiled: tuple[Any, PopulationProgram],
        plan: Plan,
        configs: Sequence[DhenConfig],
        seeds: Sequence[int],
        hparams: Sequence[Hparams],
        device: Device,
        stop: int,
    ) -> GroupResult:
        run, program = compiled
        started = clock()
        with jax.default_device(device):
            stacked = stack(hparams, plan.size)
            state, route = program.start(configs, seeds, stacked, device)
            here = jax.device_put((state, route, stacked, schedule), device)
            state = run(*here, data_on(device), jax.device_put(np.int32(stop), device))
        curves, failed = jax.device_get((state.curve, state.failed_step))
        return GroupResult(plan, route, state, curves, np.asarray(failed), clock() - started)

    def member(
        result: GroupResult,
        configs: Sequence[DhenConfig],
        hparams: Sequence[Hparams],
        index: int,
    ) -> TrainState:
        state = result.state
        params, first, second = (
            extract(
                jax.device_get(tree),
                configs[index],
                index,
                result.plan,
                result.routing,
                num_fields,
                num_dense,
            )
            for tree in (state.params, state.first_moment, state.second_moment)
        )
        device = jax.local_devices()[0]
        rows, accumulator = column(state.rows, state.accumulator, np.int32(index))
        params = jax.device_put(params, device)
        optimizer = dense_optimizer(hparams[index], jnp.float32(1.0)).init(params)
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

    return Groups(plan, known, compile_, train, member)


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


def member_bytes(config: DhenConfig, shape: Shape) -> int:
    """Of one member's compact state in a cache."""
    return shape.num_ids * (4 * config.width + 8) + 12 * dense_size(config, shape)


def dense_size(config: DhenConfig, shape: Shape) -> int:
    """Numbers in the dense part of a compact model."""
    tree = parameters(canonical(config), shape.num_fields, shape.num_dense)
    return sum(prod(leaf.shape) for leaf in jax.tree.leaves(tree, is_leaf=is_leaf))
