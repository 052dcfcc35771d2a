"""One pass over a time-ordered log: every batch is scored before it is learned from (METHOD: progressive validation).

A `Program` is compiled once per model structure. Learning rates, eps, scales, seed and the range of steps are
arguments, so trials that differ only in those share it, and a low-fidelity run is an exact prefix of the full one.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from autorank.base.metrics import normalized_entropy_from_sums
from autorank.base.typing import Array, Float, Int, Key, PyTree
from autorank.models.dhen import Model
from autorank.models.heads import METRICS, objective_weights, probabilities, task_losses
from autorank.training.tables import (
    Table,
    deduplicate,
    draw_rows,
    freeze_rows,
    look_up,
    overflows,
    rowwise_adagrad,
    sum_duplicates,
)

# Names of the parts of a step in profiles (`experiments/speed/profile.py`).
INPUT, EMBEDDING, DENSE, OPTIMIZER = PHASES = ("input", "embedding", "dense", "optimizer")


class Hparams(NamedTuple):
    """What a trial may change without a new program; float32 scalars (or ``[p]`` under vmap)."""

    dense_rate: Float[Array, "..."]
    table_rate: Float[Array, "..."]
    dense_eps: Float[Array, "..."]
    table_eps: Float[Array, "..."]
    weight_decay: Float[Array, "..."]
    init_scale: Float[Array, "..."]
    table_scale: Float[Array, "..."]


class Data(NamedTuple):
    """Rows in time order, on the device."""

    sparse: Int[Array, "n f"]
    dense: Float[Array, "n m"]
    labels: Float[Array, "n t"]


class Schedule(NamedTuple):
    """Lengths in steps of the *full* run; a partial run uses the same ones."""

    num_steps: Int[Array, "..."]
    warmup_steps: Int[Array, "..."]


class Curve(NamedTuple):
    """Sums per window of predict-before-train, from which window and lifetime NE follow."""

    losses: Float[Array, "t q"]  # nats
    positives: Float[Array, "t q"]
    counts: Float[Array, "t q"]  # rows


class TrainState(NamedTuple):
    """All that a run carries from step to step."""

    params: PyTree
    optimizer: PyTree
    table: Table
    curve: Curve
    step: Int[Array, ""]
    failed_step: Int[Array, ""]  # first step with a non-finite loss, -1 for none


class Program(NamedTuple):
    """Functions of one model structure; the caller compiles them."""

    empty: Callable[[], TrainState]
    run: Callable[[Key, TrainState, Hparams, Schedule, Data, Array, Array], TrainState]
    predict: Callable[[PyTree, Array, Array, Array], Array]
    follow: Callable[[TrainState, Hparams, Schedule, Data], Array]


def rounded(params: PyTree, precision: Any) -> PyTree:
    """The matrices of a model in another precision, all else as it is."""
    return jax.tree.map(lambda p: p.astype(precision) if p.ndim > 1 else p, params)


def zero_hparams() -> Hparams:
    """For shapes."""
    return Hparams(*(jnp.float32(0) for _ in Hparams._fields))


def dense_optimizer(hparams: Hparams, factor: Array) -> optax.GradientTransformation:
    """AdamW at ``factor`` of its rate, on one flat vector: one fused update instead of one for each array."""
    return optax.flatten(
        optax.adamw(
            hparams.dense_rate * factor,
            eps=hparams.dense_eps,  # pyright: ignore[reportArgumentType]
            weight_decay=hparams.weight_decay,  # pyright: ignore[reportArgumentType]
        )
    )


def initial_state(
    model: Model,
    key: Key,
    hparams: Hparams,
    table: Table,
    curve_shape: tuple[int, int],
    untrained: Sequence[int] = (),
) -> TrainState:
    """Before the first step, in the memory of the old ``table``; the rows ``untrained`` stay zero."""
    dense_key, table_key = jax.random.split(key)
    rows = draw_rows(table_key, table.rows, hparams.table_scale)
    rows, accumulator = freeze_rows(rows, jnp.zeros_like(table.accumulator), untrained)
    return fresh_state(
        model, dense_key, hparams, Table(rows, accumulator, table.owner), curve_shape
    )


def fresh_state(
    model: Model, dense_key: Key, hparams: Hparams, table: Table, curve_shape: tuple[int, int]
) -> TrainState:
    """A state with new dense parameters around a table that is ready."""
    params = model.init(dense_key, hparams.init_scale)
    opt_state = dense_optimizer(hparams, jnp.float32(1.0)).init(params)
    zeros = jnp.zeros(curve_shape)
    curve = Curve(zeros, zeros, zeros)
    return TrainState(params, opt_state, table, curve, jnp.int32(0), jnp.int32(-1))


def make_program(
    model: Model,
    *,
    head: str,
    width: int,
    num_ids: int,
    batch_size: int,
    num_windows: int,
    max_distinct: int | None = None,
    precision: Any = jnp.float32,
    untrained: Sequence[int] = (),
) -> Program:
    """Builds the training program of one structure.

    ``run(key, state, hparams, schedule, data, start, stop)`` trains on steps ``[start, stop)`` and initialises when
    ``start`` is 0; it stops early at a non-finite loss and leaves the step in ``failed_step``. ``predict(params, rows,
    sparse, dense)`` gives probabilities ``[b, q]``. ``follow(state, hparams, schedule, data)`` goes on learning on
    later rows (a multiple of ``batch_size``) and gives each row's probabilities from before it was learned from. Dense
    parameters: AdamW with linear warm-up; table: row-wise Adagrad with the same warm-up (own choice).

    ``max_distinct`` bounds the distinct ids of a batch (`tables.max_distinct` counts them), which makes the table's
    update cheaper; a batch with more ends the run like a non-finite loss. ``precision`` is that of the inputs of matrix
    products in training (`blocks.product`); their sums, master weights, activations and scoring stay float32. The rows
    ``untrained`` of the table (`Schema.unknown_ids`) are zero and stay so, see `tables.freeze_rows`.
    """
    metrics = METRICS[head]
    weights = jnp.asarray(objective_weights(head), jnp.float32)
    curve_shape = (num_windows, len(metrics))

    def zero_table() -> Table:
        owner = jnp.zeros(num_ids, jnp.int32)
        return Table(jnp.zeros((num_ids, width)), jnp.zeros(num_ids), owner)

    def initialise(key: Key, hparams: Hparams, table: Table) -> TrainState:
        return initial_state(model, key, hparams, table, curve_shape, untrained)

    @jax.named_scope(DENSE)
    def loss_fn(
        params: PyTree, x: Array, dense: Array, labels: Array
    ) -> tuple[Array, tuple[tuple[Array, Array, Array], Array]]:
        logits = model.apply(rounded(params, precision), x, dense)
        losses, where, targets = task_losses(logits, labels, head)
        where = where.astype(losses.dtype)
        sums = jnp.sum(jnp.where(where > 0, losses, 0.0), axis=0)
        counts = jnp.sum(where, axis=0)
        loss = jnp.sum(weights * sums / jnp.maximum(counts, 1.0))
        return loss, ((sums, jnp.sum(targets * where, axis=0), counts), logits)

    def train_step(
        hparams: Hparams, schedule: Schedule, data: Data, state: TrainState, first: Array
    ) -> tuple[TrainState, Array]:
        with jax.named_scope(INPUT):
            sparse, dense, labels = (
                jax.lax.dynamic_slice_in_dim(column, first, batch_size) for column in data
            )
            touched, owner = deduplicate(sparse, state.table.owner, max_distinct)
        with jax.named_scope(EMBEDDING):
            table = state.table._replace(owner=owner)
            x = look_up(table, sparse)
        (loss, (sums, logits)), (dense_gradient, gradient) = jax.value_and_grad(
            loss_fn, argnums=(0, 1), has_aux=True
        )(state.params, x, dense, labels)
        factor = jnp.minimum(1.0, (state.step + 1) / jnp.maximum(schedule.warmup_steps, 1))
        with jax.named_scope(OPTIMIZER):
            updates, opt_state = dense_optimizer(hparams, factor).update(
                dense_gradient, state.optimizer, state.params
            )
        with jax.named_scope(EMBEDDING):
            table = rowwise_adagrad(
                table,
                touched,
                sum_duplicates(gradient, touched),
                rate=hparams.table_rate * factor,
                eps=hparams.table_eps,
            )
        healthy = jnp.isfinite(loss) & ~overflows(touched)
        window = state.step * num_windows // jnp.maximum(schedule.num_steps, 1)
        state = TrainState(
            params=optax.apply_updates(state.params, updates),
            optimizer=opt_state,
            table=table,
            curve=Curve(*(c.at[window].add(s) for c, s in zip(state.curve, sums, strict=True))),
            step=state.step + 1,
            failed_step=jnp.where(healthy, state.failed_step, state.step),
        )
        return state, logits

    def run(
        key: Key,
        state: TrainState,
        hparams: Hparams,
        schedule: Schedule,
        data: Data,
        start: Array,
        stop: Array,
    ) -> TrainState:
        state = jax.lax.cond(
            start == 0, lambda s: initialise(key, hparams, s.table), lambda s: s, state
        )
        return jax.lax.while_loop(
            lambda s: (s.step < stop) & (s.failed_step < 0),
            lambda s: train_step(hparams, schedule, data, s, s.step * batch_size)[0],
            state,
        )

    def follow(state: TrainState, hparams: Hparams, schedule: Schedule, data: Data) -> Array:
        def one(state: TrainState, first: Array) -> tuple[TrainState, Array]:
            state, logits = train_step(hparams, schedule, data, state, first)
            return state, probabilities(logits, head)

        firsts = batch_size * jnp.arange(data.sparse.shape[0] // batch_size)
        _, parts = jax.lax.scan(one, state, firsts)
        return parts.reshape(-1, len(metrics))

    def predict(params: PyTree, rows: Array, sparse: Array, dense: Array) -> Array:
        x = rows.at[sparse].get(mode="promise_in_bounds")
        return probabilities(model.apply(params, x, dense), head)

    def empty() -> TrainState:
        shapes = jax.eval_shape(
            lambda h: initialise(jax.random.key(0), h, zero_table()), zero_hparams()
        )
        # Copied: a NumPy buffer that the device array aliases must not be donated.
        return jax.tree.map(
            lambda s: jax.device_put(np.zeros(s.shape, s.dtype), may_alias=False), shapes
        )

    return Program(empty, run, predict, follow)


def window_ne(curve: Curve) -> np.ndarray:
    """Window NE ``[t, q]`` from the sums; NaN where a window has no rows or only one class (He et al. 2014)."""
    return normalized_entropy_from_sums(*curve)


def lifetime_ne(curve: Curve) -> np.ndarray:
    """NE ``[q]`` of all rows scored so far."""
    return normalized_entropy_from_sums(*(np.asarray(c, np.float64).sum(axis=0) for c in curve))
