"""One model over several devices of a host: the table sharded by rows, the dense part data-parallel.

Each device holds a block of ``ceil(v / devices)`` table rows with their accumulators, and a copy of the dense
parameters; it computes on its part of every batch. A step exchanges rows like this:

1. a device finds the distinct ids of its part, at most ``u = min(lookups, v)``, padded to ``u``;
2. all devices gather all ids (``all_gather``), read the rows they hold, zeros elsewhere;
3. ``psum_scatter`` gives every device the rows of its ids: one summand is a row, the others are zero, so it is exact;
4. gradients of distinct ids go back by ``all_gather``; a device sums those of each row it holds, duplicates from all
   devices included, *before* the accumulator sees them (that makes it Adagrad), and updates its block in place.

Why not ``all_to_all``: a static shape that can never overflow needs room for all ``u`` ids towards every device, which
moves as many bytes as gathering them (`exchange_bytes`), and needs bucketing besides. Here nothing can overflow.
Losses, counts and dense gradients are summed over devices (``psum``), so all of them see the same loss and stop at the
same step. Multi-host: the same functions work on a mesh of all hosts' devices after ``jax.distributed.initialize()`` if
`place` is given global arrays; not tested here.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from autorank.base.typing import Array, Float, Int, Key, PyTree
from autorank.models.dhen import Model
from autorank.models.heads import METRICS, objective_weights, probabilities, task_losses
from autorank.training.tables import Table, deduplicate, draw_rows, freeze_rows, rowwise_adagrad
from autorank.training.trainer import (
    Curve,
    Data,
    Hparams,
    Program,
    Schedule,
    TrainState,
    dense_optimizer,
    fresh_state,
    make_program,
    zero_hparams,
)

AXIS = "devices"


def device_mesh(devices: int) -> Mesh:
    """The first ``devices`` devices of this host in a row, 0 for all.

    Raises:
        ValueError: more than there are.
    """
    there = jax.local_devices()
    if devices > len(there):
        raise ValueError(
            f"training.devices={devices}, but this host has {len(there)} ({there[0].device_kind}); "
            f"write training.devices={len(there)}, or 0 for all of them"
        )
    return Mesh(np.array(there[: devices or None]), (AXIS,))


def place(
    sparse: np.ndarray | Array,
    dense: np.ndarray | Array,
    labels: np.ndarray | Array,
    mesh: Mesh,
    batch_size: int,
) -> Data:
    """Rows in time order (on the host) -> each device holds its part of every batch, and nothing else.

    The rows of step ``s`` on device ``r`` are ``[s batch_size + r b, ... + b)`` with ``b = batch_size / devices``.
    Rows beyond the last full batch are left out.

    Raises:
        ValueError: a batch that does not divide by the number of devices.
    """
    part = _part(batch_size, mesh.size)
    num_steps = len(sparse) // batch_size
    own = num_steps * part  # rows of one device

    def move(column: np.ndarray | Array, dtype: type) -> Array:
        width = column.shape[1]
        parts = np.asarray(column)[: num_steps * batch_size]
        parts = parts.reshape(num_steps, mesh.size, part, width)

        def rows_of(where: Any) -> np.ndarray:
            # Copies one device's rows at a time, whatever the log's length.
            device = (where[0].start or 0) // max(1, own)
            return parts[:, device].reshape(own, width).astype(dtype)

        sharding = NamedSharding(mesh, P(AXIS))
        return jax.make_array_from_callback((mesh.size * own, width), sharding, rows_of)

    return Data(move(sparse, np.int32), move(dense, np.float32), move(labels, np.float32))


def on_one_device(state: TrainState, num_ids: int) -> tuple[PyTree, Float[Array, "v d"]]:
    """Dense parameters and table on the first device, which must hold them: for scoring and export.

    Through the host's memory. A table that no single device can hold trains, but cannot be exported.
    """
    params, rows = jax.tree.map(np.asarray, (state.params, state.table.rows))
    return jax.device_put((params, rows[:num_ids]), jax.local_devices()[0])


def exchange_bytes(*, batch_size: int, num_fields: int, width: int, num_ids: int, devices: int) -> int:  # fmt: skip
    """Bytes that each device receives in a step for table rows and their gradients (ids int32, rows float32).

    A ring moves ``devices - 1`` pieces of ``u`` ids (all_gather), ``u`` rows (psum_scatter) and ``u`` gradients
    (all_gather).
    """
    capacity = min(_part(batch_size, devices) * num_fields, num_ids)
    return (devices - 1) * capacity * (4 + 2 * 4 * width)


class Exchanged(NamedTuple):
    """The distinct ids of all devices, as one device sees them."""

    inverse: Int[Array, "b f"]  # position of each own look-up among the own distinct ids
    local: Int[
        Array, " w"
    ]  # row in the own block of every device's ids; the block's length where another holds it


def unique_ids(
    ids: Int[Array, "b f"], padding: int, capacity: int
) -> tuple[Int[Array, " u"], Int[Array, "b f"]]:
    """Distinct ids in ascending order, then ``padding``; and each look-up's position among them.

    By sorting: `tables.deduplicate` needs scratch of the whole vocabulary, which no device has here.
    """
    flat = ids.reshape(-1)
    order = jnp.argsort(flat)
    ascending = flat.at[order].get(mode="promise_in_bounds", unique_indices=True)
    is_first = jnp.concatenate([jnp.ones(1, bool), ascending[1:] != ascending[:-1]])
    slot = jnp.cumsum(is_first.astype(jnp.int32)) - 1
    unique = jnp.full(capacity, padding, jnp.int32).at[slot].set(ascending, mode="drop")
    inverse = jnp.zeros_like(slot).at[order].set(slot, unique_indices=True)
    return unique, inverse.reshape(ids.shape)


def make_sharded_program(
    model: Model,
    *,
    mesh: Mesh,
    head: str,
    width: int,
    num_ids: int,
    batch_size: int,
    num_windows: int,
    untrained: Sequence[int] = (),
) -> Program:
    """`trainer.make_program` over the devices of ``mesh``, with the same arguments, results and meaning.

    ``run`` and ``follow`` take data from `place`. The state's table has ``devices * block`` rows, in order, of which
    those beyond ``num_ids`` are never touched; `on_one_device` gives the table without them. Initial values are those
    of one device; results agree with it up to the order of summation.

    Raises:
        ValueError: a batch that does not divide by the number of devices.
    """
    plain = make_program(
        model, head=head, width=width, num_ids=num_ids, batch_size=batch_size, num_windows=num_windows
    )  # fmt: skip
    metrics = METRICS[head]
    weights = jnp.asarray(objective_weights(head), jnp.float32)
    part = _part(batch_size, mesh.size)
    block = -(-num_ids // mesh.size)
    table_spec = Table(*(P(AXIS),) * 3)  # pyright: ignore[reportArgumentType]
    state_spec = TrainState(P(), P(), table_spec, P(), P(), P())  # pyright: ignore[reportArgumentType]
    data_spec = Data(P(AXIS), P(AXIS), P(AXIS))  # pyright: ignore[reportArgumentType]

    def zero_table() -> Table:
        rows = mesh.size * block
        # One entry more for each device: where ids of other devices go.
        owner = jnp.zeros(mesh.size * (block + 1), jnp.int32)
        return Table(jnp.zeros((rows, width)), jnp.zeros(rows), owner)

    @jax.shard_map(
        mesh=mesh,
        in_specs=(P(), P(), P(AXIS), P(AXIS)),
        out_specs=(P(AXIS), P(AXIS)),
        check_vma=False,
    )
    def draw(key: Key, scale: Array, rows: Array, accumulator: Array) -> tuple[Array, Array]:
        first = jax.lax.axis_index(AXIS) * block
        drawn = draw_rows(key, rows, scale, first)
        return freeze_rows(drawn, jnp.zeros_like(accumulator), untrained, first)

    def initialise(key: Key, hparams: Hparams, table: Table) -> TrainState:
        """As `initial_state`, every device drawing its own rows."""
        dense_key, table_key = jax.random.split(key)
        rows, accumulator = draw(table_key, hparams.table_scale, table.rows, table.accumulator)
        table = Table(rows, accumulator, table.owner)
        return fresh_state(model, dense_key, hparams, table, (num_windows, len(metrics)))

    def shardings(state: TrainState) -> TrainState:
        whole, rows = (NamedSharding(mesh, spec) for spec in (P(), P(AXIS)))
        spread = jax.tree.map(lambda _: whole, state)
        return spread._replace(table=Table(*(rows,) * 3))  # pyright: ignore[reportArgumentType]

    def exchange(sparse: Array) -> Exchanged:
        capacity = min(sparse.size, num_ids)
        own, inverse = unique_ids(sparse, mesh.size * block, capacity)
        ids = jax.lax.all_gather(own, AXIS, tiled=True)
        local = ids - jax.lax.axis_index(AXIS) * block
        return Exchanged(inverse, jnp.where((local >= 0) & (local < block), local, block))

    def fetch(rows: Array, exchanged: Exchanged) -> Array:
        held = rows.at[exchanged.local].get(mode="fill", fill_value=0.0)
        return jax.lax.psum_scatter(held, AXIS, tiled=True)

    def update(
        table: Table, exchanged: Exchanged, gradient: Array, rate: Array, eps: Array
    ) -> Table:
        gradients = jax.lax.all_gather(gradient, AXIS, tiled=True)
        touched, owner = deduplicate(exchanged.local[:, None], table.owner)
        total = jnp.zeros((len(touched.ids), width)).at[touched.inverse[:, 0]].add(gradients)
        # The entry of the other devices' ids lies beyond the block: scatters drop it.
        return rowwise_adagrad(table._replace(owner=owner), touched, total, rate=rate, eps=eps)

    def loss_fn(
        params: PyTree, rows: Array, inverse: Array, dense: Array, labels: Array
    ) -> tuple[Array, tuple[tuple[Array, Array, Array], Array]]:
        """This device's summand of the loss over the whole batch."""
        logits = model.apply(params, rows.at[inverse].get(mode="promise_in_bounds"), dense)
        losses, where, targets = task_losses(logits, labels, head)
        where = where.astype(losses.dtype)
        sums = jnp.sum(jnp.where(where > 0, losses, 0.0), axis=0)
        counts = jax.lax.psum(jnp.sum(where, axis=0), AXIS)
        loss = jnp.sum(weights * sums / jnp.maximum(counts, 1.0))
        positives = jnp.sum(targets * where, axis=0)
        return loss, ((sums, positives, counts), logits)

    def train_step(
        hparams: Hparams, schedule: Schedule, data: Data, state: TrainState, first: Array
    ) -> tuple[TrainState, Array]:
        sparse, dense, labels = (
            jax.lax.dynamic_slice_in_dim(column, first, part) for column in data
        )
        exchanged = exchange(sparse)
        # A copy that varies over devices has this device's gradient, summed below.
        params = jax.tree.map(lambda p: jax.lax.pcast(p, AXIS, to="varying"), state.params)
        (loss, ((sums, positives, counts), logits)), gradients = jax.value_and_grad(
            loss_fn, argnums=(0, 1), has_aux=True
        )(params, fetch(state.table.rows, exchanged), exchanged.inverse, dense, labels)
        loss, sums, positives, dense_gradient = jax.lax.psum(
            (loss, sums, positives, gradients[0]), AXIS
        )
        factor = jnp.minimum(1.0, (state.step + 1) / jnp.maximum(schedule.warmup_steps, 1))
        updates, opt_state = dense_optimizer(hparams, factor).update(
            dense_gradient, state.optimizer, state.params
        )
        table = update(
            state.table, exchanged, gradients[1], hparams.table_rate * factor, hparams.table_eps
        )
        window = state.step * num_windows // jnp.maximum(schedule.num_steps, 1)
        added = zip(state.curve, (sums, positives, counts), strict=True)
        state = TrainState(
            params=optax.apply_updates(state.params, updates),
            optimizer=opt_state,
            table=table,
            curve=Curve(*(c.at[window].add(s) for c, s in added)),
            step=state.step + 1,
            failed_step=jnp.where(jnp.isfinite(loss), state.failed_step, state.step),
        )
        return state, logits

    @jax.shard_map(mesh=mesh, in_specs=(state_spec, P(), P(), data_spec, P()), out_specs=state_spec)
    def steps(
        state: TrainState, hparams: Hparams, schedule: Schedule, data: Data, stop: Array
    ) -> TrainState:
        return jax.lax.while_loop(
            lambda s: (s.step < stop) & (s.failed_step < 0),
            lambda s: train_step(hparams, schedule, data, s, s.step * part)[0],
            state,
        )

    def run(
        key: Key,
        state: TrainState,
        hparams: Hparams,
        schedule: Schedule,
        data: Data,
        start: Array,
        stop: Array,
    ) -> TrainState:
        def fresh(state: TrainState) -> TrainState:
            made = initialise(key, hparams, state.table)
            return jax.lax.with_sharding_constraint(made, shardings(made))

        state = jax.lax.cond(start == 0, fresh, lambda s: s, state)
        return steps(state, hparams, schedule, data, stop)

    @jax.shard_map(mesh=mesh, in_specs=(state_spec, P(), P(), data_spec), out_specs=P(None, AXIS))
    def follow_parts(state: TrainState, hparams: Hparams, schedule: Schedule, data: Data) -> Array:
        def one(state: TrainState, first: Array) -> tuple[TrainState, Array]:
            state, logits = train_step(hparams, schedule, data, state, first)
            return state, probabilities(logits, head)

        firsts = part * jnp.arange(data.sparse.shape[0] // part)
        return jax.lax.scan(one, state, firsts)[1]

    def follow(state: TrainState, hparams: Hparams, schedule: Schedule, data: Data) -> Array:
        return follow_parts(state, hparams, schedule, data).reshape(-1, len(metrics))

    def empty() -> TrainState:
        shapes = jax.eval_shape(
            lambda h: initialise(jax.random.key(0), h, zero_table()), zero_hparams()
        )

        def zeros(shape: jax.ShapeDtypeStruct, sharding: NamedSharding) -> Array:
            # Made on the devices: no host or device ever holds the whole table.
            return jnp.zeros(shape.shape, shape.dtype, device=sharding)

        return jax.tree.map(zeros, shapes, shardings(shapes))

    return Program(empty, run, plain.predict, follow)


def _part(batch_size: int, devices: int) -> int:
    """Rows of a batch on each device."""
    if batch_size % devices:
        lower = batch_size // devices * devices
        near = f"{lower} or {lower + devices}" if lower else f"{devices}"
        raise ValueError(
            f"training.batch_size={batch_size} does not divide by the {devices} devices of training.devices; "
            f"write training.batch_size={near}"
        )
    return batch_size // devices
