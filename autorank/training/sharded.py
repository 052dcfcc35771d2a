"""One model over several devices of a host: the table sharded by rows, the dense part data-parallel.

Each device holds a block of ``ceil(v / devices)`` table rows with their accumulators, and a copy of the dense
parameters; it computes on its part of every batch. `row_exchange` says how rows travel. Losses, counts and dense
gradients are summed over devices (``psum``), so all of them see the same loss and stop at the same step.

Multi-host: the same functions work on a mesh of all hosts' devices after ``jax.distributed.initialize()`` if `place` is
given global arrays; not tested here.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from autorank.base.typing import Array, Float, Key, PyTree
from autorank.models.dhen import Model
from autorank.models.heads import METRICS, probabilities
from autorank.training.row_exchange import AXIS, RowExchange, rows_per_device
from autorank.training.step import (
    Curve,
    Data,
    Hparams,
    Progress,
    Schedule,
    TrainState,
    advance,
    batch_loss,
    dense_optimizer,
    learn,
    warmup,
)
from autorank.training.tables import Table, draw_rows, freeze_rows
from autorank.training.trainer import SingleProgram, fresh_state, make_program, zero_hparams

TABLE_SPEC = Table(*(P(AXIS),) * 3)  # pyright: ignore[reportArgumentType]
STATE_SPEC = TrainState(P(), P(), TABLE_SPEC, P(), P(), P())  # pyright: ignore[reportArgumentType]
DATA_SPEC = Data(P(AXIS), P(AXIS), P(AXIS))  # pyright: ignore[reportArgumentType]


def device_mesh(devices: int) -> Mesh:
    """The first ``devices`` devices of this host in a row, 0 for all.

    Raises:
        ValueError: more devices than this host has.
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
    part = rows_per_device(batch_size, mesh.size)
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

    Copies go through the host's memory. A table that no single device can hold trains, but cannot be exported.
    """
    params, rows = jax.tree.map(np.asarray, (state.params, state.table.rows))
    return jax.device_put((params, rows[:num_ids]), jax.local_devices()[0])


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
) -> "ShardedProgram":
    """`trainer.make_program` over the devices of ``mesh``, with the same arguments, results and meaning.

    ``run`` and ``follow`` take data from `place`. The state's table has ``devices * block`` rows, in order; those
    beyond ``num_ids`` are never touched, and `on_one_device` gives the table without them. Initial values are those of
    one device; results agree with it up to the order of summation.

    Raises:
        ValueError: a batch that does not divide by the number of devices.
    """
    part = rows_per_device(batch_size, mesh.size)
    single = make_program(
        model,
        head=head,
        width=width,
        num_ids=num_ids,
        batch_size=batch_size,
        num_windows=num_windows,
        untrained=untrained,
    )
    return ShardedProgram(single, mesh, part)


@dataclass(frozen=True, eq=False)
class ShardedProgram:
    """The `Program` of one model over the devices of a mesh."""

    single: SingleProgram  # of the same model on one device
    mesh: Mesh
    part: int  # rows of a batch on each device

    @property
    def table(self) -> RowExchange:
        """The table's blocks and how their rows travel."""
        return RowExchange(self.mesh.size, self.single.num_ids, self.single.width)

    def empty(self) -> TrainState:
        """See `Program`."""
        shapes = jax.eval_shape(
            lambda h: self._initialise(jax.random.key(0), h, self._zero_table()), zero_hparams()
        )

        def zeros(shape: jax.ShapeDtypeStruct, sharding: NamedSharding) -> Array:
            # One block of zeros, copied to every device: no host or device ever holds the whole table.
            with jax.transfer_guard_device_to_device("allow"):
                return jnp.zeros(shape.shape, shape.dtype, device=sharding)

        return jax.tree.map(zeros, shapes, self._shardings(shapes))

    def run(
        self,
        key: Key,
        state: TrainState,
        hparams: Hparams,
        schedule: Schedule,
        data: Data,
        start: Array,
        stop: Array,
    ) -> TrainState:
        """See `Program`."""

        def fresh(state: TrainState) -> TrainState:
            made = self._initialise(key, hparams, state.table)
            return jax.lax.with_sharding_constraint(made, self._shardings(made))

        state = jax.lax.cond(start == 0, fresh, lambda s: s, state)
        steps = jax.shard_map(
            self._steps,
            mesh=self.mesh,
            in_specs=(STATE_SPEC, P(), P(), DATA_SPEC, P()),
            out_specs=STATE_SPEC,
        )
        return steps(state, hparams, schedule, data, stop)

    def predict(self, params: PyTree, rows: Array, sparse: Array, dense: Array) -> Array:
        """See `Program`; on one device."""
        return self.single.predict(params, rows, sparse, dense)

    def follow(self, state: TrainState, hparams: Hparams, schedule: Schedule, data: Data) -> Array:
        """See `Program`."""
        parts = jax.shard_map(
            self._follow,
            mesh=self.mesh,
            in_specs=(STATE_SPEC, P(), P(), DATA_SPEC),
            out_specs=P(None, AXIS),
        )
        return parts(state, hparams, schedule, data).reshape(-1, len(METRICS[self.single.head]))

    def _zero_table(self) -> Table:
        rows = self.mesh.size * self.table.block
        # One more entry for each device: where ids of other devices go.
        owner = jnp.zeros(self.mesh.size * (self.table.block + 1), jnp.int32)
        return Table(jnp.zeros((rows, self.single.width)), jnp.zeros(rows), owner)

    def _initialise(self, key: Key, hparams: Hparams, table: Table) -> TrainState:
        """The state before the first step, every device drawing its own rows."""
        dense_key, table_key = jax.random.split(key)
        draw = jax.shard_map(
            self._draw,
            mesh=self.mesh,
            in_specs=(P(), P(), P(AXIS), P(AXIS)),
            out_specs=(P(AXIS), P(AXIS)),
            check_vma=False,
        )
        rows, accumulator = draw(table_key, hparams.table_scale, table.rows, table.accumulator)
        table = Table(rows, accumulator, table.owner)
        curve_shape = (self.single.num_windows, len(METRICS[self.single.head]))
        return fresh_state(self.single.model, dense_key, hparams, table, curve_shape)

    def _shardings(self, state: TrainState) -> TrainState:
        whole, rows = (NamedSharding(self.mesh, spec) for spec in (P(), P(AXIS)))
        spread = jax.tree.map(lambda _: whole, state)
        return spread._replace(table=Table(*(rows,) * 3))  # pyright: ignore[reportArgumentType]

    # What follows runs on each device, on its part of the arrays.

    def _draw(self, key: Key, scale: Array, rows: Array, accumulator: Array) -> tuple[Array, Array]:
        first = jax.lax.axis_index(AXIS) * self.table.block
        drawn = draw_rows(key, rows, scale, first)
        return freeze_rows(drawn, jnp.zeros_like(accumulator), self.single.untrained, first)

    def _steps(
        self, state: TrainState, hparams: Hparams, schedule: Schedule, data: Data, stop: Array
    ) -> TrainState:
        return jax.lax.while_loop(
            lambda s: (s.step < stop) & (s.failed_step < 0),
            lambda s: self._train_step(hparams, schedule, data, s, s.step * self.part)[0],
            state,
        )

    def _follow(self, state: TrainState, hparams: Hparams, schedule: Schedule, data: Data) -> Array:
        def one(state: TrainState, first: Array) -> tuple[TrainState, Array]:
            state, logits = self._train_step(hparams, schedule, data, state, first)
            return state, probabilities(logits, self.single.head)

        firsts = self.part * jnp.arange(data.sparse.shape[0] // self.part)
        return jax.lax.scan(one, state, firsts)[1]

    def _loss(
        self, params: PyTree, rows: Array, inverse: Array, dense: Array, labels: Array
    ) -> tuple[Array, tuple[Curve, Array]]:
        """This device's summand of the loss over the whole batch."""
        looked_up = rows.at[inverse].get(mode="promise_in_bounds")
        logits = self.single.model.apply(params, looked_up, dense)
        over_devices = partial(jax.lax.psum, axis_name=AXIS)
        loss, sums = batch_loss(logits, labels, self.single.head, over_devices)
        return loss, (sums, logits)

    def _train_step(
        self, hparams: Hparams, schedule: Schedule, data: Data, state: TrainState, first: Array
    ) -> tuple[TrainState, Array]:
        """One step on the own part of the batch, which begins at row ``first`` of the own data."""
        sparse, dense, labels = (
            jax.lax.dynamic_slice_in_dim(column, first, self.part) for column in data
        )
        exchanged = self.table.send_ids(sparse)
        # A copy that varies over devices has this device's gradient, summed below.
        params = jax.tree.map(lambda p: jax.lax.pcast(p, AXIS, to="varying"), state.params)
        rows = self.table.fetch(state.table.rows, exchanged)
        (loss, (sums, logits)), gradients = jax.value_and_grad(
            self._loss, argnums=(0, 1), has_aux=True
        )(params, rows, exchanged.inverse, dense, labels)
        loss, losses, positives, dense_gradient = jax.lax.psum(
            (loss, sums.losses, sums.positives, gradients[0]), AXIS
        )
        factor = warmup(state.step, schedule)
        params, opt_state = learn(
            dense_optimizer(hparams, factor), dense_gradient, state.optimizer, state.params
        )
        rate, eps = hparams.table_rate * factor, hparams.table_eps
        table = self.table.update(state.table, exchanged, gradients[1], rate, eps)
        progress = Progress(state.curve, state.step, state.failed_step)
        sums = Curve(losses, positives, sums.counts)
        progress = advance(progress, sums, jnp.isfinite(loss), schedule, self.single.num_windows)
        return TrainState(params, opt_state, table, *progress), logits
