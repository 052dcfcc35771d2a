"""One pass over a log for many models at once: different architectures, rates and seeds, the same batches.

Every step reads one batch, finds its distinct ids once, and trains all models on it. Their tables lie side by side,
``[v, p, d]``: the rows of one id are contiguous over the models, so that gather and scatter move long runs of memory.
A model gets the same initial values and the same updates as its compact program with the same seed, so which of them
trains a trial is a matter of speed alone (tested). No arithmetic mixes models, so one that diverges harms no other.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from autorank.base.typing import Array, Float, Int, PyTree
from autorank.models.dhen import DhenConfig, canonical, initial_spread, parameters
from autorank.models.heads import METRICS, objective_weights, task_losses
from autorank.models.parameters import fill, noise_size
from autorank.population.layouts import Layout
from autorank.population.model import Population
from autorank.population.routing import Routing, routing
from autorank.population.weights import insert, owners, shapes
from autorank.training.step import Curve, Data, Hparams, Schedule
from autorank.training.tables import deduplicate, draw_rows, freeze_rows
from autorank.training.trainer import DENSE, EMBEDDING, INPUT, OPTIMIZER

BETA1, BETA2 = 0.9, 0.999  # Adam, as in compact programs


class PopulationState(NamedTuple):
    """What a population carries from step to step."""

    params: PyTree  # axes [p, ...], [l, p, ...] or [l, i, ...]
    first_moment: PyTree
    second_moment: PyTree
    rows: Float[Array, "v p d"]
    accumulator: Float[Array, "v p"]
    owner: Int[Array, " v"]  # scratch of `deduplicate`
    curve: Curve  # axes [t, p, q]
    step: Int[Array, ""]
    failed_step: Int[Array, " p"]  # first step with a non-finite loss, -1 for none


def make_population(
    layout: Layout,
    num_fields: int,
    num_dense: int,
    *,
    num_ids: int,
    batch_size: int,
    num_windows: int,
    dtype: Any = jnp.float32,
    unique: int | None = None,
    untrained: Sequence[int] = (),
) -> "PopulationProgram":
    """Builds the training program of one layout.

    Args:
        layout: what the program can hold.
        num_fields: categorical fields of a row.
        num_dense: dense features of a row.
        num_ids: rows of each table.
        batch_size: rows of a step.
        num_windows: windows of the learning curves.
        dtype: of activations and of the weights' copies in the matrix products, whose sums are float32. Master
            weights, optimiser state, tables and losses stay float32.
        unique: bound on the distinct ids of a batch; None for the number of look-ups.
        untrained: rows of all tables that are zero and stay so.
    """
    capacity = min(unique or batch_size * num_fields, batch_size * num_fields, num_ids)
    return PopulationProgram(
        layout,
        num_fields,
        num_dense,
        num_ids,
        batch_size,
        num_windows,
        dtype,
        capacity,
        tuple(untrained),
    )


@dataclass(frozen=True, eq=False)
class PopulationProgram:
    """The training program of one layout; the caller compiles ``run``.

    A model whose loss is not finite goes on as NaN, with its first such step in ``failed_step``.
    """

    layout: Layout
    num_fields: int
    num_dense: int
    num_ids: int
    batch_size: int
    num_windows: int
    dtype: Any
    capacity: int  # distinct ids of a batch
    untrained: tuple[int, ...]
    # Programs that draw initial values, by length and device.
    _draws: dict[tuple[int, Any], Any] = field(default_factory=dict)

    def start(
        self,
        configs: Sequence[DhenConfig],
        seeds: Sequence[int],
        hparams: Hparams,
        device: Any = None,
    ) -> tuple[PopulationState, Routing]:
        """The state before the first step, on ``device`` (None: the first); ``hparams`` have an axis ``[p]``."""
        device = device or jax.local_devices()[0]
        with jax.default_device(device):
            route = routing(self.layout, configs, self.num_fields, self.num_dense)
            short = self.layout.size - len(configs)
            numbers = jnp.asarray(np.array([*seeds, *[0] * short], np.uint32))
            noise, *tables = self._compiled_draws(configs, device)(
                *jax.device_put((numbers, hparams.table_scale), device)
            )
            noise, scales = np.asarray(noise), np.asarray(hparams.init_scale)
            members = [
                fill(
                    noise[i],
                    parameters(config, self.num_fields, self.num_dense),
                    lambda leaf, i=i, c=config: scales[i] * initial_spread(c, leaf),
                )
                for i, config in enumerate(map(canonical, configs))
            ]
            params = insert(members, configs, self.layout, route, self.num_fields, self.num_dense)
            # One transfer: an array made on the device is a program for every shape. Copied, as the state is donated.
            state = jax.device_put(self._around(params, *tables), device, may_alias=False)
            return state, route

    def run(
        self,
        state: PopulationState,
        routing: Routing,
        hparams: Hparams,
        schedule: Schedule,
        data: Data,
        stop: Array,
    ) -> PopulationState:
        """Trains all models on steps ``[state.step, stop)``; ``hparams`` have an axis ``[p]``."""
        step = PopulationStep(self, routing, hparams, schedule, data)
        return jax.lax.while_loop(lambda s: s.step < stop, step, state)

    def shapes(self, configs: Sequence[DhenConfig]) -> tuple[PopulationState, Routing]:
        """The shapes of what `start` gives: compiling needs no values."""
        route = routing(self.layout, configs, self.num_fields, self.num_dense)
        params = shapes(self.layout, self.num_fields, self.num_dense)
        own = (self.num_ids, self.layout.size)
        kinds = (
            ((*own, self.layout.width), jnp.float32),
            (own, jnp.float32),
            ((self.num_ids,), jnp.int32),
        )
        tables = (jax.ShapeDtypeStruct(*kind) for kind in kinds)
        state = jax.tree.map(
            lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), self._around(params, *tables)
        )
        return state, route

    def prepare(self, configs: Sequence[DhenConfig], device: Any = None) -> None:
        """Compiles what `start` needs, which otherwise does so itself."""
        self._compiled_draws(configs, device or jax.local_devices()[0])

    def _compiled_draws(self, configs: Sequence[DhenConfig], device: Any) -> Any:
        # One draw for all: a normal draw's beginning does not depend on its length, so a power of two serves many.
        trees = (parameters(canonical(c), self.num_fields, self.num_dense) for c in configs)
        longest = 1 << (max(map(noise_size, trees)) - 1).bit_length()
        if (longest, device) not in self._draws:
            sharding = jax.sharding.SingleDeviceSharding(device)
            seeds, scales = (
                jax.ShapeDtypeStruct((self.layout.size,), kind, sharding=sharding)
                for kind in (jnp.uint32, jnp.float32)
            )
            lowered = jax.jit(self._draw, static_argnums=2).lower(seeds, scales, longest)
            self._draws[longest, device] = lowered.compile()
        return self._draws[longest, device]

    def _draw(self, seeds: Array, scales: Array, longest: int) -> tuple[Array, Array, Array, Array]:
        """Standard normal numbers for the dense parts ``[p, longest]``, the tables, accumulators, scratch."""
        num_ids, size, width = self.num_ids, self.layout.size, self.layout.width
        split = jax.vmap(lambda seed: jax.random.split(jax.random.key(seed)))(seeds)

        def place(i: Array, rows: Array) -> Array:
            own = draw_rows(split[i, 1], jnp.zeros((num_ids, width)), scales[i])
            return jax.lax.dynamic_update_slice_in_dim(rows, own[:, None], i, 1)

        rows = jax.lax.fori_loop(0, size, place, jnp.zeros((num_ids, size, width)))
        noise = jax.vmap(lambda key: jax.random.normal(key, (longest,)))(split[:, 0])
        rows, accumulator = freeze_rows(rows, jnp.zeros((num_ids, size)), self.untrained)
        return noise, rows, accumulator, jnp.zeros(num_ids, jnp.int32)

    def _around(self, params: PyTree, rows: Any, accumulator: Any, owner: Any) -> PopulationState:
        """The state before the first step, NumPy but for the tables."""
        curve_shape = (self.num_windows, self.layout.size, len(METRICS[self.layout.head]))
        curve: Any = (np.zeros(curve_shape, np.float32) for _ in range(3))
        first, second = (
            jax.tree.map(lambda a: np.zeros(a.shape, np.float32), params) for _ in range(2)
        )
        step: Any = np.int32(0)
        failed: Any = np.full(self.layout.size, -1, np.int32)
        return PopulationState(
            params, first, second, rows, accumulator, owner, Curve(*curve), step, failed
        )


@dataclass(frozen=True, eq=False)
class PopulationStep:
    """One step of all models on the same batch; traced inside the loop over steps."""

    program: PopulationProgram
    routing: Routing
    hparams: Hparams
    schedule: Schedule
    data: Data

    def __call__(self, state: PopulationState) -> PopulationState:
        """The state after one more batch."""
        batch_size, num_windows = self.program.batch_size, self.program.num_windows
        with jax.named_scope(INPUT):
            sparse, dense, labels = (
                jax.lax.dynamic_slice_in_dim(column, state.step * batch_size, batch_size)
                for column in self.data
            )
            touched, owner = deduplicate(sparse, state.owner, self.program.capacity)
        ids = touched.ids
        with jax.named_scope(EMBEDDING):
            rows = state.rows.at[ids].get(mode="clip", unique_indices=True)
        slopes, parts = jax.grad(self._loss, argnums=(0, 1), has_aux=True)(
            state.params, rows, touched.inverse, dense, labels.astype(jnp.float32)
        )
        loss, *sums = parts
        factor = jnp.minimum(1.0, (state.step + 1) / jnp.maximum(self.schedule.warmup_steps, 1))
        with jax.named_scope(OPTIMIZER):
            params, first, second = self._adamw(state, slopes[0], factor)
        with jax.named_scope(EMBEDDING):
            table, accumulator = self._update_rows(state, ids, slopes[1], factor)
        window = state.step * num_windows // jnp.maximum(self.schedule.num_steps, 1)
        return PopulationState(
            params,
            first,
            second,
            table,
            accumulator,
            owner,
            Curve(*(c.at[window].add(s) for c, s in zip(state.curve, sums, strict=True))),
            state.step + 1,
            jnp.where((state.failed_step < 0) & ~jnp.isfinite(loss), state.step, state.failed_step),
        )

    def _loss(
        self, params: PyTree, rows: Array, inverse: Array, dense: Array, labels: Array
    ) -> tuple[Array, tuple[Array, Array, Array, Array]]:
        """The sum of all models' losses; their own losses ``[p]`` and the curve's sums ``[p, q]``."""
        layout, dtype = self.program.layout, self.program.dtype
        model = Population(layout, self.program.num_fields, self.program.num_dense)
        with jax.named_scope(EMBEDDING):
            looked_up = rows.at[inverse].get(mode="promise_in_bounds")  # [b, f, p, d]
            x = looked_up.astype(dtype).transpose(2, 0, 1, 3)
        with jax.named_scope(DENSE):
            cast = jax.tree.map(lambda a: a.astype(dtype), params)
            logits = model.apply(cast, x, dense.astype(dtype), self.routing).astype(jnp.float32)
        losses, where, targets = jax.vmap(lambda z: task_losses(z, labels, layout.head))(logits)
        where = where.astype(losses.dtype)
        sums = jnp.sum(jnp.where(where > 0, losses, 0.0), axis=1)  # [p, q]
        counts = jnp.sum(where, axis=1)
        weights = jnp.asarray(objective_weights(layout.head), jnp.float32)
        loss = jnp.sum(weights[None] * sums / jnp.maximum(counts, 1.0), axis=1)
        return jnp.sum(loss), (loss, sums, jnp.sum(targets * where, axis=1), counts)

    def _adamw(
        self, state: PopulationState, gradient: PyTree, factor: Array
    ) -> tuple[PyTree, PyTree, PyTree]:
        """``optax.adamw``, every model with its own rate, eps and decay: parameters and both moments."""
        program, hparams = self.program, self.hparams
        count = (state.step + 1).astype(jnp.float32)
        correction1, correction2 = 1 - BETA1**count, 1 - BETA2**count

        def one(p: Array, m: Array, v: Array, g: Array, owner: Array) -> tuple[Array, Array, Array]:
            rate, eps, decay = (
                h[owner].reshape(owner.shape + (1,) * (p.ndim - owner.ndim))
                for h in (hparams.dense_rate * factor, hparams.dense_eps, hparams.weight_decay)
            )
            m = BETA1 * m + (1 - BETA1) * g
            v = BETA2 * v + (1 - BETA2) * jnp.square(g)
            direction = (m / correction1) / (jnp.sqrt(v / correction2) + eps)
            return p - rate * (direction + decay * p), m, v

        whose = owners(program.layout, self.routing, program.num_fields, program.num_dense)
        trees = (state.params, state.first_moment, state.second_moment, gradient, whose)
        columns = zip(
            *(one(*c) for c in zip(*map(jax.tree.leaves, trees), strict=True)), strict=True
        )
        first, second, third = (
            jax.tree.unflatten(jax.tree.structure(state.params), c) for c in columns
        )
        return first, second, third

    def _update_rows(
        self, state: PopulationState, ids: Array, gradient: Array, factor: Array
    ) -> tuple[Array, Array]:
        """Row-wise Adagrad (`tables.rowwise_adagrad`) with rates ``[p]``."""
        accumulator = state.accumulator.at[ids].get(mode="clip", unique_indices=True)
        accumulator = accumulator + jnp.mean(jnp.square(gradient), axis=-1)
        rate = (self.hparams.table_rate * factor)[None]
        scale = -rate / (jnp.sqrt(accumulator) + self.hparams.table_eps[None])
        return (
            state.rows.at[ids].add(scale[..., None] * gradient, mode="drop", unique_indices=True),
            state.accumulator.at[ids].set(accumulator, mode="drop", unique_indices=True),
        )
