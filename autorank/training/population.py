"""One pass over a log for many models at once: different architectures, rates and seeds, the same batches.

Every step reads one batch, finds its distinct ids once, and trains all models on it. Their tables lie side by side,
``[v, p, d]``: the rows of one id are contiguous over the models, so that gather and scatter move long runs of memory.
A model gets the same initial values and the same updates as in the compact build with the same seed; which build trains
a trial is a matter of execution alone (tested). No arithmetic mixes models, so one that diverges harms no other.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from autorank.base.typing import Array, Float, Int, PyTree
from autorank.models.blocks import fill, noise_size
from autorank.models.dhen import DhenConfig, canonical, initial_spread, parameters
from autorank.models.heads import METRICS, objective_weights, task_losses
from autorank.population.model import population
from autorank.population.plans import Plan, Routing, routing
from autorank.population.weights import insert, owners, shapes
from autorank.training.tables import deduplicate, draw_rows, freeze_rows
from autorank.training.trainer import (
    DENSE,
    EMBEDDING,
    INPUT,
    OPTIMIZER,
    Curve,
    Data,
    Hparams,
    Schedule,
)

BETA1, BETA2 = 0.9, 0.999  # Adam, as in the compact build


class PopulationState(NamedTuple):
    """All that a population carries from step to step."""

    params: PyTree  # axes [p, ...], [l, p, ...] or [l, i, ...]
    first_moment: PyTree
    second_moment: PyTree
    rows: Float[Array, "v p d"]
    accumulator: Float[Array, "v p"]
    owner: Int[Array, " v"]  # scratch of `deduplicate`
    curve: Curve  # axes [t, p, q]
    step: Int[Array, ""]
    failed_step: Int[Array, " p"]  # first step with a non-finite loss, -1 for none


class PopulationProgram(NamedTuple):
    """Functions of one plan; the caller compiles them."""

    # Configurations, seeds, hparams [p], device (None: the first) -> the state before the first step.
    start: Callable[..., tuple[PopulationState, Routing]]
    run: Callable[[PopulationState, Routing, Hparams, Schedule, Data, Array], PopulationState]
    # The shapes of what `start` gives: compiling needs no values.
    shapes: Callable[[Sequence[DhenConfig]], tuple[PopulationState, Routing]]
    # Configurations, device: compiles what `start` will need, which else it does itself.
    prepare: Callable[..., None]


def make_population(
    plan: Plan,
    num_fields: int,
    num_dense: int,
    *,
    num_ids: int,
    batch_size: int,
    num_windows: int,
    dtype: Any = jnp.float32,
    unique: int | None = None,
    untrained: Sequence[int] = (),
) -> PopulationProgram:
    """Builds the training program of one plan.

    ``run(state, routing, hparams, schedule, data, stop)`` trains all models on steps ``[state.step, stop)``;
    ``hparams`` have an axis ``[p]``. A model whose loss is not finite goes on as NaN, its first such step in
    ``failed_step``. ``dtype`` is that of activations and of the weights' copies in the matrix products, whose sums are
    float32; master weights, optimiser state, tables and losses stay float32. ``unique`` bounds the distinct ids of a
    batch if the caller knows a bound; the default is the number of look-ups. The rows ``untrained`` of all tables are
    zero and stay so.
    """
    metrics = METRICS[plan.head]
    weights = jnp.asarray(objective_weights(plan.head), jnp.float32)
    model = population(plan, num_fields, num_dense)
    capacity = min(unique or batch_size * num_fields, batch_size * num_fields, num_ids)

    def cast(tree: PyTree) -> PyTree:
        return jax.tree.map(lambda a: a.astype(dtype), tree)

    def loss_fn(
        params: PyTree, rows: Array, inverse: Array, dense: Array, labels: Array, routing: Routing
    ) -> tuple[Array, tuple[Array, Array, Array, Array]]:
        with jax.named_scope(EMBEDDING):
            looked_up = rows.at[inverse].get(mode="promise_in_bounds")  # [b, f, p, d]
            x = looked_up.astype(dtype).transpose(2, 0, 1, 3)
        with jax.named_scope(DENSE):
            logits = model.apply(cast(params), x, dense.astype(dtype), routing).astype(jnp.float32)
        losses, where, targets = jax.vmap(lambda z: task_losses(z, labels, plan.head))(logits)
        where = where.astype(losses.dtype)
        sums = jnp.sum(jnp.where(where > 0, losses, 0.0), axis=1)  # [p, q]
        counts = jnp.sum(where, axis=1)
        loss = jnp.sum(weights[None] * sums / jnp.maximum(counts, 1.0), axis=1)
        return jnp.sum(loss), (loss, sums, jnp.sum(targets * where, axis=1), counts)

    def train_step(
        state: PopulationState, routing: Routing, hparams: Hparams, schedule: Schedule, data: Data
    ) -> PopulationState:
        with jax.named_scope(INPUT):
            sparse, dense, labels = (
                jax.lax.dynamic_slice_in_dim(column, state.step * batch_size, batch_size)
                for column in data
            )
            touched, owner = deduplicate(sparse, state.owner, capacity)
        ids = touched.ids
        with jax.named_scope(EMBEDDING):
            rows = state.rows.at[ids].get(mode="clip", unique_indices=True)
        slopes, parts = jax.grad(loss_fn, argnums=(0, 1), has_aux=True)(
            state.params, rows, touched.inverse, dense, labels.astype(jnp.float32), routing
        )
        loss, *sums = parts
        factor = jnp.minimum(1.0, (state.step + 1) / jnp.maximum(schedule.warmup_steps, 1))
        with jax.named_scope(OPTIMIZER):
            params, first, second = adamw(state, slopes[0], routing, hparams, factor)
        with jax.named_scope(EMBEDDING):
            table, accumulator = update_rows(state, ids, slopes[1], hparams, factor)
        window = state.step * num_windows // jnp.maximum(schedule.num_steps, 1)
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

    def adamw(
        state: PopulationState, gradient: PyTree, routing: Routing, hparams: Hparams, factor: Array
    ) -> tuple[PyTree, PyTree, PyTree]:
        """``optax.adamw``, every model with its own rate, eps and decay."""
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

        whose = owners(plan, routing, num_fields, num_dense)
        trees = (state.params, state.first_moment, state.second_moment, gradient, whose)
        columns = zip(
            *(one(*c) for c in zip(*map(jax.tree.leaves, trees), strict=True)), strict=True
        )
        first, second, third = (
            jax.tree.unflatten(jax.tree.structure(state.params), c) for c in columns
        )
        return first, second, third

    def update_rows(
        state: PopulationState, ids: Array, gradient: Array, hparams: Hparams, factor: Array
    ) -> tuple[Array, Array]:
        """Row-wise Adagrad (`tables.rowwise_adagrad`) with rates ``[p]``."""
        accumulator = state.accumulator.at[ids].get(mode="clip", unique_indices=True)
        accumulator = accumulator + jnp.mean(jnp.square(gradient), axis=-1)
        rate = (hparams.table_rate * factor)[None]
        scale = -rate / (jnp.sqrt(accumulator) + hparams.table_eps[None])
        return (
            state.rows.at[ids].add(scale[..., None] * gradient, mode="drop", unique_indices=True),
            state.accumulator.at[ids].set(accumulator, mode="drop", unique_indices=True),
        )

    def run(
        state: PopulationState,
        routing: Routing,
        hparams: Hparams,
        schedule: Schedule,
        data: Data,
        stop: Array,
    ) -> PopulationState:
        return jax.lax.while_loop(
            lambda s: s.step < stop,
            lambda s: train_step(s, routing, hparams, schedule, data),
            state,
        )

    def draws(seeds: Array, scales: Array, longest: int) -> tuple[Array, Array, Array, Array]:
        """Standard normal numbers for the dense parts ``[p, longest]``, the tables, accumulators, scratch."""
        split = jax.vmap(lambda seed: jax.random.split(jax.random.key(seed)))(seeds)

        def place(i: Array, rows: Array) -> Array:
            own = draw_rows(split[i, 1], jnp.zeros((num_ids, plan.width)), scales[i])
            return jax.lax.dynamic_update_slice_in_dim(rows, own[:, None], i, 1)

        empty = jnp.zeros((num_ids, plan.size, plan.width))
        rows = jax.lax.fori_loop(0, plan.size, place, empty)
        noise = jax.vmap(lambda key: jax.random.normal(key, (longest,)))(split[:, 0])
        rows, accumulator = freeze_rows(rows, jnp.zeros((num_ids, plan.size)), untrained)
        return noise, rows, accumulator, jnp.zeros(num_ids, jnp.int32)

    @functools.cache
    def compiled_draws(longest: int, device: Any) -> Any:
        there = jax.sharding.SingleDeviceSharding(device)
        seeds, scales = (
            jax.ShapeDtypeStruct((plan.size,), kind, sharding=there)
            for kind in (jnp.uint32, jnp.float32)
        )
        return jax.jit(draws, static_argnums=2).lower(seeds, scales, longest).compile()

    def drawing(configs: Sequence[DhenConfig], device: Any) -> Any:
        # One draw for all: a normal draw's beginning does not depend on its length, so a power of two serves many.
        trees = (parameters(canonical(c), num_fields, num_dense) for c in configs)
        longest = 1 << (max(map(noise_size, trees)) - 1).bit_length()
        return compiled_draws(longest, device)

    def prepare(configs: Sequence[DhenConfig], device: Any = None) -> None:
        drawing(configs, device or jax.local_devices()[0])

    def start(
        configs: Sequence[DhenConfig], seeds: Sequence[int], hparams: Hparams, device: Any = None
    ) -> tuple[PopulationState, Routing]:
        device = device or jax.local_devices()[0]
        with jax.default_device(device):
            route = routing(plan, configs, num_fields, num_dense)
            short = plan.size - len(configs)
            numbers = jnp.asarray(np.array([*seeds, *[0] * short], np.uint32))
            noise, *tables = drawing(configs, device)(
                *jax.device_put((numbers, hparams.table_scale), device)
            )
            noise, scales = np.asarray(noise), np.asarray(hparams.init_scale)
            members = [
                fill(
                    noise[i],
                    parameters(config, num_fields, num_dense),
                    lambda leaf, i=i, c=config: scales[i] * initial_spread(c, leaf),
                )
                for i, config in enumerate(map(canonical, configs))
            ]
            params = insert(members, configs, plan, route, num_fields, num_dense)
            # One transfer: an array made on the device is a program for every shape. Copied, as the state is donated.
            return jax.device_put(around(params, *tables), device, may_alias=False), route

    def around(params: PyTree, rows: Any, accumulator: Any, owner: Any) -> PopulationState:
        """The state before the first step, NumPy but for the tables."""
        curve: Any = (
            np.zeros((num_windows, plan.size, len(metrics)), np.float32) for _ in range(3)
        )
        first, second = (
            jax.tree.map(lambda a: np.zeros(a.shape, np.float32), params) for _ in range(2)
        )
        step: Any = np.int32(0)
        failed: Any = np.full(plan.size, -1, np.int32)
        return PopulationState(
            params, first, second, rows, accumulator, owner, Curve(*curve), step, failed
        )

    def state_shapes(configs: Sequence[DhenConfig]) -> tuple[PopulationState, Routing]:
        route = routing(plan, configs, num_fields, num_dense)
        params = shapes(plan, num_fields, num_dense)
        own = (num_ids, plan.size)
        kinds = (((*own, plan.width), jnp.float32), (own, jnp.float32), ((num_ids,), jnp.int32))
        tables = (jax.ShapeDtypeStruct(*kind) for kind in kinds)
        to_shape = lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype)  # noqa: E731
        return jax.tree.map(to_shape, around(params, *tables)), route

    return PopulationProgram(start, run, state_shapes, prepare)
