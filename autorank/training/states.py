"""Training states that promotion, resumption and scoring go on from, in the form in which they were left."""

import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
import optax

from autorank.base.typing import PyTree
from autorank.models.dhen import DhenConfig
from autorank.population.capacity import Capacity
from autorank.population.storage import extract, insert
from autorank.training.step import Hparams, TrainState, adamw, dense_optimizer
from autorank.training.tables import Table


@runtime_checkable
class Held(Protocol):
    """A state of a lane: on its device until another program asks for it."""

    @property
    def step(self) -> int:
        """Steps that it has seen."""
        ...

    @property
    def nbytes(self) -> int:
        """Device bytes that it takes by itself."""
        ...

    def snapshot(self) -> "Snapshot":
        """A copy that no lane changes."""
        ...

    def compact(self) -> TrainState:
        """The state from which the compact program continues, on the first device."""
        ...


State = TrainState | Held


class States:
    """The most recent training states within a limit of bytes, so that promotion and scoring need not retrain.

    Examples:
        >>> states = States(limit_bytes=1 << 20)
        >>> (b"config", 0) in states
        False
    """

    def __init__(self, limit_bytes: int) -> None:
        self._states: OrderedDict[tuple, tuple[State, int]] = OrderedDict()
        self._limit, self._lock = limit_bytes, threading.Lock()

    def __contains__(self, key: tuple) -> bool:
        with self._lock:
            return key in self._states

    def peek(self, key: tuple) -> State | None:
        """The state of a key, which stays; None if there is none."""
        with self._lock:
            found = self._states.get(key)
        return found[0] if found else None

    def pop(self, key: tuple) -> State | None:
        """Takes a state out, because training donates it; None if there is none."""
        with self._lock:
            found = self._states.pop(key, None)
        return found[0] if found else None

    def put(self, key: tuple, state: State) -> None:
        """Adds a state and evicts the oldest ones that take memory until under the limit."""
        with self._lock:
            self._states[key] = (state, size_of(state))
            self._states.move_to_end(key)
            total = sum(size for _, size in self._states.values())
            for old, (_, size) in list(self._states.items()):
                if total <= self._limit:
                    break
                if size:
                    del self._states[old]
                    total -= size


def size_of(state: State) -> int:
    """Device bytes of a state."""
    if isinstance(state, TrainState):
        return sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    return state.nbytes


@dataclass(frozen=True, eq=False)
class Snapshot:
    """The state of one lane, copied on its device.

    Args:
        state: without an axis of lanes.
        step: that it has come to.
        model: whose parameters it holds.
        hparams: with which it was trained.
        capacity: how its parameters lie (`storage`).
    """

    state: TrainState
    step: int
    model: DhenConfig
    hparams: Hparams
    capacity: Capacity

    @property
    def nbytes(self) -> int:
        """See `Held`."""
        return sum(leaf.nbytes for leaf in jax.tree.leaves(self.state))

    def snapshot(self) -> "Snapshot":
        """Itself."""
        return self

    def compact(self) -> TrainState:
        """See `Held`."""
        device = jax.local_devices()[0]
        own = self.state
        # On the host: each operation outside of a program would be compiled by itself, for every structure anew.
        dense = jax.device_get((own.params, moments(own.optimizer), own.step))
        params, first, second = (
            extract(tree, self.model, self.capacity) for tree in (dense[0], *dense[1])
        )
        rates = dense_optimizer(self.hparams, jnp.float32(1))
        shapes = jax.eval_shape(rates.init, params)
        step: Any = np.asarray(dense[2])
        optimizer = optax.tree_utils.tree_set(shapes, count=step, mu=flat(first), nu=flat(second))
        failed: Any = np.int32(-1)
        owner: Any = np.zeros(own.table.rows.shape[0], np.int32)
        # A program for several widths holds every row at the largest one.
        rows = own.table.rows
        rows = rows if rows.shape[1] == self.model.width else rows[:, : self.model.width]
        table = Table(rows, own.table.accumulator, owner)
        # Copied: the compact program donates what it continues from.
        return jax.device_put(
            TrainState(params, optimizer, table, own.curve, step, failed), device, may_alias=False
        )


def lane_state(state: TrainState, model: DhenConfig, capacity: Capacity) -> TrainState:
    """The state of a compact program as one lane holds it; the dense part comes as NumPy."""
    params, (first, second) = jax.device_get((state.params, moments(state.optimizer)))
    lane, mu, nu = (
        insert(tree, model, capacity)
        for tree in (params, unflattened(first, params), unflattened(second, params))
    )
    hparams = Hparams(*[jnp.float32(0)] * len(Hparams._fields))
    optimizer = optax.tree_utils.tree_set(
        adamw(hparams, jnp.float32(1)).init(lane), count=np.int32(state.step), mu=mu, nu=nu
    )
    beyond = capacity.width - model.width
    rows = jnp.pad(state.table.rows, ((0, 0), (0, beyond))) if beyond else state.table.rows
    table = Table(rows, state.table.accumulator, jnp.zeros(0, jnp.int32))
    return TrainState(lane, optimizer, table, state.curve, state.step, jnp.int32(-1))


def moments(optimizer: PyTree) -> tuple[PyTree, PyTree]:
    """Both moments of AdamW's state."""
    first, second = (optax.tree_utils.tree_get(optimizer, name) for name in ("mu", "nu"))
    return first, second


def flat(tree: PyTree) -> np.ndarray:
    """All values as one vector, in the order of `optax.flatten`."""
    return np.concatenate([np.asarray(leaf).reshape(-1) for leaf in jax.tree.leaves(tree)])


def unflattened(vector: np.ndarray, like: PyTree) -> PyTree:
    """The tree that `flat` made a vector of."""
    leaves, treedef = jax.tree.flatten(like)
    ends = np.cumsum([np.size(leaf) for leaf in leaves])
    parts: list[Any] = np.split(np.asarray(vector), ends[:-1])
    shaped = [part.reshape(np.shape(leaf)) for part, leaf in zip(parts, leaves, strict=True)]
    return jax.tree.unflatten(treedef, shaped)
