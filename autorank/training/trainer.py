"""One pass over a time-ordered log: every batch is scored before it is learned from (progressive validation).

A `Program` is compiled once for each model structure. Learning rates, eps, scales, seed and the range of steps are
arguments, so trials that differ only in those share it, and a low-fidelity run is an exact prefix of the full one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

from autorank.base.metrics import normalized_entropy_from_sums
from autorank.base.typing import Array, Key, PyTree
from autorank.models.dhen import Model
from autorank.models.heads import METRICS, probabilities
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


@runtime_checkable
class Program(Protocol):
    """The training program of one model structure; the caller compiles its functions."""

    def empty(self) -> TrainState:
        """Zeros in the shapes of a state, on the device."""
        ...

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
        """Trains on steps ``[start, stop)``; a ``start`` of 0 draws new weights from ``key`` first.

        Stops early at a non-finite loss and leaves the step in ``failed_step``.
        """
        ...

    def predict(self, params: PyTree, rows: Array, sparse: Array, dense: Array) -> Array:
        """Probabilities ``[b, q]`` from dense parameters and the table's ``rows [v, d]``."""
        ...

    def follow(self, state: TrainState, hparams: Hparams, schedule: Schedule, data: Data) -> Array:
        """Continues to learn on later rows and gives each row's probabilities ``[n, q]`` from before it was learned.

        The number of rows must be a multiple of the batch size.
        """
        ...


def rounded(params: PyTree, precision: Any) -> PyTree:
    """The parameters with their matrices in another precision."""
    return jax.tree.map(lambda p: p.astype(precision) if p.ndim > 1 else p, params)


def zero_hparams() -> Hparams:
    """Zero hyperparameters for shape inference."""
    zero: Any = np.zeros((), np.float32)
    return Hparams(*[zero] * len(Hparams._fields))


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
) -> "SingleProgram":
    """Builds the training program of one structure on one device.

    Dense parameters are trained by AdamW with linear warm-up, the table by row-wise Adagrad with the same warm-up (own
    choice).

    Args:
        model: the dense network.
        head: one of `METRICS`.
        width: of an embedding.
        num_ids: rows of the table.
        batch_size: rows of a step.
        num_windows: windows of the learning curve.
        max_distinct: bound on the distinct ids of a batch (`tables.max_distinct`), which makes the table's update
            cheaper. A batch with more ends the run like a non-finite loss. None for no bound.
        precision: of the inputs of matrix products in training (`maps.product`). Their sums, master weights,
            activations and scoring stay float32.
        untrained: rows of the table (`Schema.unknown_ids`) that are zero and stay so (`tables.freeze_rows`).

    Examples:
        >>> from autorank.models.dhen import DhenConfig, compact
        >>> model = compact(DhenConfig(width=4), num_fields=2, num_dense=1)
        >>> program = make_program(model, head="ctr", width=4, num_ids=100, batch_size=16, num_windows=4)
        >>> program.empty().table.rows.shape
        (100, 4)
    """
    return SingleProgram(
        model,
        head,
        width,
        num_ids,
        batch_size,
        num_windows,
        max_distinct,
        precision,
        tuple(untrained),
    )


@dataclass(frozen=True, eq=False)
class SingleProgram:
    """The `Program` of one model on one device; `make_program` explains the fields."""

    model: Model
    head: str
    width: int
    num_ids: int
    batch_size: int
    num_windows: int
    max_distinct: int | None
    precision: Any
    untrained: tuple[int, ...]

    def empty(self) -> TrainState:
        """See `Program`."""
        shapes = jax.eval_shape(
            lambda h: self._initialise(jax.random.key(0), h, self._zero_table()), zero_hparams()
        )
        # Copied: a NumPy buffer that the device array aliases must not be donated.
        return jax.tree.map(
            lambda s: jax.device_put(np.zeros(s.shape, s.dtype), may_alias=False), shapes
        )

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
        state = self._begun(key, state, hparams, start)
        return jax.lax.while_loop(
            lambda s: (s.step < stop) & (s.failed_step < 0),
            lambda s: self._train_step(hparams, schedule, data, s, s.step * self.batch_size)[0],
            state,
        )

    def _begun(self, key: Key, state: TrainState, hparams: Hparams, start: Array) -> TrainState:
        """The state, with new weights before the first step."""
        return jax.lax.cond(
            start == 0, lambda s: self._initialise(key, hparams, s.table), lambda s: s, state
        )

    def run_scored(
        self,
        key: Key,
        state: TrainState,
        hparams: Hparams,
        schedule: Schedule,
        data: Data,
        start: Array,
        stop: Array,
        scores: Array,
    ) -> tuple[TrainState, Array]:
        """`run` that also fills ``scores [n, q]``: each row's probabilities from before it is learned."""
        state = self._begun(key, state, hparams, start)

        def one(carry: tuple[TrainState, Array]) -> tuple[TrainState, Array]:
            state, scores = carry
            first, at = state.step * self.batch_size, (state.step - start) * self.batch_size
            state, logits = self._train_step(hparams, schedule, data, state, first)
            found = probabilities(logits, self.head).astype(scores.dtype)
            return state, jax.lax.dynamic_update_slice_in_dim(scores, found, at, 0)

        return jax.lax.while_loop(
            lambda c: (c[0].step < stop) & (c[0].failed_step < 0), one, (state, scores)
        )

    def predict(self, params: PyTree, rows: Array, sparse: Array, dense: Array) -> Array:
        """See `Program`."""
        x = rows.at[sparse].get(mode="promise_in_bounds")
        return probabilities(self.model.apply(params, x, dense), self.head)

    def follow(self, state: TrainState, hparams: Hparams, schedule: Schedule, data: Data) -> Array:
        """See `Program`."""

        def one(state: TrainState, first: Array) -> tuple[TrainState, Array]:
            state, logits = self._train_step(hparams, schedule, data, state, first)
            return state, probabilities(logits, self.head)

        firsts = self.batch_size * jnp.arange(data.sparse.shape[0] // self.batch_size)
        _, parts = jax.lax.scan(one, state, firsts)
        return parts.reshape(-1, len(METRICS[self.head]))

    def _zero_table(self) -> Table:
        owner = jnp.zeros(self.num_ids, jnp.int32)
        return Table(jnp.zeros((self.num_ids, self.width)), jnp.zeros(self.num_ids), owner)

    def _initialise(self, key: Key, hparams: Hparams, table: Table) -> TrainState:
        """The state before the first step, in the memory of the old ``table``; the rows ``untrained`` stay zero."""
        dense_key, table_key = jax.random.split(key)
        rows = draw_rows(table_key, table.rows, hparams.table_scale)
        rows, accumulator = freeze_rows(rows, jnp.zeros_like(table.accumulator), self.untrained)
        table = Table(rows, accumulator, table.owner)
        curve_shape = (self.num_windows, len(METRICS[self.head]))
        return fresh_state(self.model, dense_key, hparams, table, curve_shape)

    @jax.named_scope(DENSE)
    def _loss(
        self, params: PyTree, x: Array, dense: Array, labels: Array
    ) -> tuple[Array, tuple[Curve, Array]]:
        """Mean loss of the batch, with its sums for the curve and the logits."""
        logits = self.model.apply(rounded(params, self.precision), x, dense)
        loss, sums = batch_loss(logits, labels, self.head)
        return loss, (sums, logits)

    def _train_step(
        self, hparams: Hparams, schedule: Schedule, data: Data, state: TrainState, first: Array
    ) -> tuple[TrainState, Array]:
        """One step on the batch that begins at row ``first``; also the logits from before it."""
        with jax.named_scope(INPUT):
            sparse, dense, labels = (
                jax.lax.dynamic_slice_in_dim(column, first, self.batch_size) for column in data
            )
            touched, owner = deduplicate(sparse, state.table.owner, self.max_distinct)
        with jax.named_scope(EMBEDDING):
            table = state.table._replace(owner=owner)
            x = look_up(table, sparse)
        (loss, (sums, logits)), (dense_gradient, gradient) = jax.value_and_grad(
            self._loss, argnums=(0, 1), has_aux=True
        )(state.params, x, dense, labels)
        factor = warmup(state.step, schedule)
        with jax.named_scope(OPTIMIZER):
            params, opt_state = learn(
                dense_optimizer(hparams, factor), dense_gradient, state.optimizer, state.params
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
        progress = Progress(state.curve, state.step, state.failed_step)
        progress = advance(progress, sums, healthy, schedule, self.num_windows)
        return TrainState(params, opt_state, table, *progress), logits


def window_ne(curve: Curve) -> np.ndarray:
    """Window NE ``[t, q]`` from the sums; NaN where a window has no rows or only one class (He et al. 2014)."""
    return normalized_entropy_from_sums(*curve)


def lifetime_ne(curve: Curve) -> np.ndarray:
    """NE ``[q]`` of all rows scored so far."""
    return normalized_entropy_from_sums(*(np.asarray(c, np.float64).sum(axis=0) for c in curve))
