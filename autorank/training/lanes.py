"""One pass over a log for many models at once, each in a lane of one compiled program.

A lane has its own architecture, rates, seed, table and *place in the log*: a trial that ends makes room for the next
one while the others go on. Its initial values and its updates are those of its compact program with the same seed, so
which of them trains a trial is a matter of speed alone (tested). No arithmetic mixes lanes: one that diverges harms no
other.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from autorank.base.typing import Array, Bool, Float, Int, PyTree
from autorank.models.heads import METRICS
from autorank.population.capacity import Lane, empty_lane, stacked
from autorank.population.kernels.arena import Moments, Rates, learned
from autorank.population.kernels.slot_table import slot_table
from autorank.population.network import Network
from autorank.population.pairs import Pairs
from autorank.population.storage import LAYERED, is_shape, shapes
from autorank.training.step import (
    Curve,
    Data,
    Hparams,
    Progress,
    Schedule,
    TrainState,
    adamw,
    advance,
    batch_loss,
    learn,
    warmup,
)
from autorank.training.tables import (
    Table,
    Touched,
    deduplicate,
    draw_rows,
    freeze_rows,
    rowwise_adagrad,
    sum_duplicates,
)
from autorank.training.trainer import DENSE, EMBEDDING, INPUT, OPTIMIZER, zero_hparams


class Distinct(NamedTuple):
    """The distinct ids of every batch of a log, found once (`tables.deduplicate`)."""

    ids: Int[Array, "steps u"]
    inverse: Int[Array, "n f"]


class Lanes(NamedTuple):
    """What the lanes compute besides their state; an axis ``[p]`` of lanes comes first."""

    models: Lane
    hparams: Hparams
    used: PyTree  # bool, as the parameters: numbers that the model has
    stop: Int[Array, " p"]  # step before which the lane ends


@partial(jax.jit, static_argnames=("batch_size", "num_ids", "capacity"))
def distinct_ids(
    sparse: Int[Array, "n f"], *, batch_size: int, num_ids: int, capacity: int
) -> Distinct:
    """The distinct ids of every full batch; at most ``capacity`` in each (`tables.max_distinct`)."""
    num_steps = sparse.shape[0] // batch_size

    def one(owner: Array, step: Array) -> tuple[Array, Touched]:
        batch = jax.lax.dynamic_slice_in_dim(sparse, step * batch_size, batch_size)
        touched, owner = deduplicate(batch, owner, capacity)
        return owner, touched

    owner = jnp.zeros(num_ids, jnp.int32)
    _, touched = jax.lax.scan(one, owner, jnp.arange(num_steps))
    return Distinct(touched.ids, touched.inverse.reshape(-1, sparse.shape[1]))


# How the parameters of lanes lie: behind the axis of layers where there is one.
AXES: dict[str, int] = {"embedding": 0, "head": 0} | dict.fromkeys(LAYERED, 1)


@dataclass(frozen=True, eq=False)
class LaneProgram:
    """The training program of ``size`` lanes; the caller compiles its functions.

    Args:
        network: what the lanes compute.
        size: number of lanes ``p``.
        num_ids: rows of each table.
        batch_size: rows of a step.
        num_windows: windows of the learning curves.
        untrained: rows of all tables that are zero and stay so.
    """

    network: Network
    size: int
    num_ids: int
    batch_size: int
    num_windows: int
    untrained: Sequence[int] = ()

    @property
    def head(self) -> str:
        """One of `METRICS`."""
        return self.network.capacity.head

    def empty(self) -> TrainState:
        """Zeros: a state without models."""
        p, c = self.size, self.network.capacity
        params = {name: lane_zeros(tree, p, AXES[name]) for name, tree in shapes(c).items()}
        optimizer = jax.vmap(
            lambda params, hparams: adamw(hparams, jnp.float32(1)).init(params),
            in_axes=(AXES, 0),
            out_axes=self.optimizer_axes(),
        )(params, Hparams(*[jnp.zeros(p)] * len(Hparams._fields)))
        # The scratch of `deduplicate` is not needed: `Distinct` is there.
        table = Table(
            jnp.zeros((p, self.num_ids, c.width)),
            jnp.zeros((p, self.num_ids)),
            jnp.zeros((p, 0), jnp.int32),
        )
        curve = Curve(
            *(jnp.zeros((p, self.num_windows, len(METRICS[self.head]))) for _ in range(3))
        )
        return TrainState(
            params, optimizer, table, curve, jnp.zeros(p, jnp.int32), jnp.full(p, -1, jnp.int32)
        )

    def run(
        self,
        state: TrainState,
        lanes: Lanes,
        pairs: Pairs,
        schedule: Schedule,
        data: Data,
        distinct: Distinct,
        num_steps: Array,
    ) -> TrainState:
        """``num_steps`` more steps of every lane that has not come to its end; ``pairs`` are theirs."""
        step = LaneStep(self, lanes, pairs, schedule, data, distinct)
        return jax.lax.fori_loop(0, num_steps, lambda _, s: step(s), state)

    def put(
        self, state: TrainState, lanes: Lanes, at: Array, one: TrainState, lane: Lanes
    ) -> tuple[TrainState, Lanes]:
        """The state with ``one`` model's in lane ``at``; ``one`` and ``lane`` have no axis of lanes."""

        def put(axis: int, whole: Array, own: Array) -> Array:
            return jax.lax.dynamic_update_index_in_dim(whole, own, at, axis)

        return (
            jax.tree.map(put, self._state_axes(), state, one),
            jax.tree.map(put, self._lanes_axes(), lanes, lane),
        )

    def take(self, state: TrainState, at: Array) -> TrainState:
        """The state of one lane."""
        return jax.tree.map(
            lambda axis, a: jax.lax.dynamic_index_in_dim(a, at, axis, keepdims=False),
            self._state_axes(),
            state,
        )

    def fresh(
        self, params: PyTree, seed: Array, table_scale: Float[Array, ""], width: int
    ) -> TrainState:
        """The state of one model before its first step, around its dense parameters; ``width`` is static."""
        table_key = jax.random.split(jax.random.key(seed))[1]
        c, zeros = self.network.capacity, jnp.zeros(self.num_ids)
        # As many numbers as the compact program draws: the same ones.
        rows = draw_rows(table_key, jnp.zeros((self.num_ids, width)), table_scale)
        rows, accumulator = freeze_rows(rows, zeros, self.untrained)
        rows = jnp.pad(rows, ((0, 0), (0, c.width - width)))
        curve = Curve(*(jnp.zeros((self.num_windows, len(METRICS[self.head]))) for _ in range(3)))
        return TrainState(
            params,
            adamw(zero_hparams(), jnp.float32(1)).init(params),
            Table(rows, accumulator, jnp.zeros(0, jnp.int32)),
            curve,
            jnp.int32(0),
            jnp.int32(-1),
        )

    def no_lanes(self) -> Lanes:
        """The arguments of lanes without models, as shapes filled with zeros."""
        c, p = self.network.capacity, self.size
        used = {name: lane_zeros(tree, p, AXES[name], bool) for name, tree in shapes(c).items()}
        models = jax.tree.map(jnp.asarray, stacked([empty_lane(c)] * p))
        hparams = Hparams(*[jnp.zeros(p) for _ in Hparams._fields])
        return Lanes(models, hparams, used, jnp.zeros(p, jnp.int32))

    def params_axes(self) -> PyTree:
        """The axis of lanes of every parameter."""
        return {
            name: jax.tree.map(lambda _, n=name: AXES[n], tree, is_leaf=is_shape)
            for name, tree in shapes(self.network.capacity).items()
        }

    def optimizer_axes(self) -> PyTree:
        """The axis of lanes of every array of the optimiser's state."""
        params = self.params_axes()
        state = jax.eval_shape(
            lambda: adamw(zero_hparams(), jnp.float32(1)).init(
                jax.tree.map(jnp.zeros, shapes(self.network.capacity), is_leaf=is_shape)
            )
        )
        # The count has its own axis; both moments lie as the parameters do.
        return optax_axes(state, params)

    def _state_axes(self) -> TrainState:
        zero: Any = 0
        return TrainState(
            self.params_axes(),
            self.optimizer_axes(),
            Table(zero, zero, zero),
            Curve(zero, zero, zero),
            zero,
            zero,
        )

    def _lanes_axes(self) -> Lanes:
        zero: Any = 0
        return Lanes(
            Lane(*[zero] * len(Lane._fields)),
            Hparams(*[zero] * len(Hparams._fields)),
            self.params_axes(),
            zero,
        )


def lane_zeros(tree: PyTree, size: int, axis: int, dtype: Any = jnp.float32) -> PyTree:
    """Arrays of zeros for a tree of shapes, with ``size`` lanes along ``axis``."""

    def one(shape: tuple[int, ...]) -> Array:
        return jnp.zeros((*shape[:axis], size, *shape[axis:]), dtype)

    return jax.tree.map(one, tree, is_leaf=is_shape)


def optax_axes(state: PyTree, params: PyTree) -> PyTree:
    """The axis of lanes in an optimiser's state: that of the parameters in a moment, else the first."""
    treedef = jax.tree.structure(params)

    def is_moment(value: Any) -> bool:
        return jax.tree.structure(value) == treedef

    return jax.tree.map(lambda v: params if is_moment(v) else 0, state, is_leaf=is_moment)


@dataclass(frozen=True, eq=False)
class LaneStep:
    """One step of all lanes, each on the batch that it has come to; traced inside the loop over steps."""

    program: LaneProgram
    lanes: Lanes
    pairs: Pairs
    schedule: Schedule
    data: Data
    distinct: Distinct

    def __call__(self, state: TrainState) -> TrainState:
        """The state after one more batch of every lane that runs."""
        program, hparams = self.program, self.lanes.hparams
        runs = (state.step < self.lanes.stop) & (state.failed_step < 0)
        with jax.named_scope(INPUT):
            num_steps = self.distinct.ids.shape[0]
            at = jnp.minimum(state.step, num_steps - 1)
            sparse, dense, labels, inverse = (
                jax.vmap(partial(self._batch, column))(at)
                for column in (*self.data, self.distinct.inverse)
            )
            # Where a lane has ended, every id lies beyond its table: nothing is written.
            beyond = program.num_ids + jnp.arange(self.distinct.ids.shape[1], dtype=jnp.int32)
            ids = jnp.where(runs[:, None], self.distinct.ids[at], beyond[None])
        with jax.named_scope(EMBEDDING):
            x = jax.vmap(_rows)(state.table.rows, sparse)
        models = self.lanes.models
        # Where a lane has ended, no slot holds a module: kernels find nothing to do.
        models = models._replace(kinds=jnp.where(runs[:, None, None], models.kinds, -1))
        (_, (loss, sums)), slopes = jax.value_and_grad(self._loss, argnums=(0, 1), has_aux=True)(
            state.params, x, dense, labels, models
        )
        factor = jax.vmap(warmup, (0, None))(state.step, self.schedule)
        with jax.named_scope(OPTIMIZER):
            params, optimizer = self._learn(state, slopes[0], factor, runs, models)
        with jax.named_scope(EMBEDDING):
            rate, eps = hparams.table_rate * factor, hparams.table_eps
            width = jnp.maximum(self.lanes.models.width, 1)
            touched = Touched(ids, inverse)
            table = jax.vmap(_update)(state.table, touched, slopes[1], rate, eps, width)
        progress = Progress(state.curve, state.step, state.failed_step)
        ahead = jax.vmap(partial(advance, schedule=self.schedule, num_windows=program.num_windows))(
            progress, sums, jnp.isfinite(loss)
        )
        return TrainState(params, optimizer, table, *_where(runs, ahead, progress))

    def _batch(self, column: Array, step: Array) -> Array:
        size = self.program.batch_size
        return jax.lax.dynamic_slice_in_dim(column, step * size, size)

    def _loss(
        self, params: PyTree, x: Array, dense: Array, labels: Array, models: Lane
    ) -> tuple[Array, tuple[Array, Curve]]:
        """The sum of all lanes' losses; their own losses ``[p]`` and sums ``[p, q]``."""
        network = self.program.network
        with jax.named_scope(DENSE):
            logits = network.apply(params, x, dense, models, self.pairs)
        own = partial(batch_loss, head=self.program.head)
        loss, sums = jax.vmap(own)(logits.astype(jnp.float32), labels.astype(jnp.float32))
        return jnp.sum(loss), (loss, sums)

    def _learn(
        self,
        state: TrainState,
        gradient: PyTree,
        factor: Array,
        runs: Bool[Array, " p"],
        models: Lane,
    ) -> tuple[PyTree, PyTree]:
        """AdamW on the numbers that each model has; lanes that have ended stay as they are."""
        network = self.program.network
        layout = network.layout(runs.shape[0], self.program.batch_size)
        if layout is None:
            return self._learn_all(
                gradient, self.lanes.used, state.optimizer, state.params, factor, runs
            )
        # The arenas are learned by a kernel; of them, optax gets what is left of them: nothing.
        cut = map(_without_arena, (gradient, self.lanes.used, state.optimizer, state.params))
        small, used, optimizer, params = cut
        new, optimizer = self._learn_all(small, used, optimizer, params, factor, runs)
        get = partial(optax.tree_utils.tree_get, state.optimizer)
        mean, square, count = get("mu"), get("nu"), get("count")
        shape = state.params["arena"].shape
        hparams = self.lanes.hparams
        found = learned(
            layout,
            slot_table(network.capacity, models),
            Moments(*(tree["arena"].reshape(-1) for tree in (state.params, mean, square))),
            gradient["arena"].reshape(-1),
            Rates(
                hparams.dense_rate * factor,
                hparams.dense_eps,
                hparams.weight_decay,
                (count + 1).astype(jnp.float32),
                runs,
            ),
        )
        arenas = [array.reshape(shape) for array in found]
        mean, square = (optax.tree_utils.tree_get(optimizer, name) for name in ("mu", "nu"))
        optimizer = optax.tree_utils.tree_set(
            optimizer, mu=mean | {"arena": arenas[1]}, nu=square | {"arena": arenas[2]}
        )
        return new | {"arena": arenas[0]}, optimizer

    def _learn_all(
        self,
        gradient: PyTree,
        used: PyTree,
        optimizer: PyTree,
        params: PyTree,
        factor: Array,
        runs: Bool[Array, " p"],
    ) -> tuple[PyTree, PyTree]:
        """AdamW of `learn` for each lane."""

        def one(
            hparams: Hparams,
            factor: Array,
            runs: Array,
            g: PyTree,
            used: PyTree,
            m: PyTree,
            p: PyTree,
        ) -> tuple[PyTree, PyTree]:
            g = jax.tree.map(lambda g, u: jnp.where(u, g, 0.0), g, used)
            new = learn(adamw(hparams, factor), g, m, p)
            return jax.tree.map(partial(jnp.where, runs), (new[0], new[1]), (p, m))

        axes, own = self.program.params_axes(), self.program.optimizer_axes()
        return jax.vmap(one, (0, 0, 0, axes, axes, own, axes), (axes, own))(
            self.lanes.hparams, factor, runs, gradient, used, optimizer, params
        )


def _without_arena(tree: PyTree) -> PyTree:
    """A tree of parameters, or one that holds such trees, with empty arenas."""

    def is_params(value: Any) -> bool:
        return isinstance(value, dict) and "arena" in value

    def cut(value: Any) -> Any:
        return value | {"arena": value["arena"][..., :0]} if is_params(value) else value

    return jax.tree.map(cut, tree, is_leaf=is_params)


def _rows(rows: Float[Array, "v d"], ids: Int[Array, "b f"]) -> Float[Array, "b f d"]:
    return rows.at[ids].get(mode="promise_in_bounds", wrap_negative_indices=False)


def _update(
    table: Table, touched: Touched, gradient: Array, rate: Array, eps: Array, width: Array
) -> Table:
    """Row-wise Adagrad on the touched rows of one lane."""
    summed = sum_duplicates(gradient, touched)
    return rowwise_adagrad(table, touched, summed, rate=rate, eps=eps, width=width)


def _where(runs: Bool[Array, " p"], new: PyTree, old: PyTree) -> PyTree:
    def one(a: Array, b: Array) -> Array:
        return jnp.where(runs.reshape(-1, *(1,) * (a.ndim - 1)), a, b)

    return jax.tree.map(one, new, old)
