"""Local search over configurations: change one decision at a time as long as the value rises."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

from autorank.base.typing import Array, Float, Int
from autorank.space.space import Space

MANY = 12  # choices from which the neighbours of a number are steps instead of all values
STEPS = (-32, -16, -8, -4, -2, -1, 1, 2, 4, 8, 16, 32)


@dataclass(frozen=True)
class ClimbSettings:
    """How long the local search goes on."""

    num_climbers: int = 6  # best candidates from which the acquisition is climbed
    climb_steps: int = 12  # most changes of one decision that each makes


@runtime_checkable
class Value(Protocol):
    """What is climbed."""

    def __call__(self, configs: Int[Array, "m k"], /) -> Float[Array, " m"]:
        """The value of each configuration; higher is better."""
        ...


@runtime_checkable
class Neighbours(Protocol):
    """What may be reached in one step."""

    def __call__(self, configs: Int[Array, "n k"], /) -> Int[Array, "n t k"]:
        """``t`` canonical neighbours of each configuration; some may be the configuration itself."""
        ...


def neighbourhood(space: Space) -> Neighbours:
    """Neighbours that differ in one decision: every other choice, or steps of powers of two for a long number.

    Examples:
        >>> from autorank.space.space import Decision
        >>> space = Space((Decision("a", (1, 2)), Decision("b", (1, 2))), (0, 0))
        >>> neighbourhood(space)(jnp.array([[0, 1]])).tolist()
        [[[0, 1], [1, 1], [0, 0], [0, 1]]]
    """
    where: list[int] = []
    value: list[int] = []
    relative: list[bool] = []
    for i, d in enumerate(space.decisions):
        long = d.kind == "number" and len(d.choices) > MANY
        moves = STEPS if long else range(len(d.choices))
        where += [i] * len(moves)
        value += moves
        relative += [long] * len(moves)
    at = np.array(where, np.int32)
    change = jax.nn.one_hot(jnp.asarray(at), space.num_decisions, dtype=bool)

    def neighbours(configs: Int[Array, "n k"]) -> Int[Array, "n t k"]:
        own = configs[:, at]
        moved = jnp.where(jnp.asarray(relative)[None, :], own, 0) + jnp.asarray(value)[None, :]
        moved = jnp.clip(moved, 0, jnp.asarray(space.num_choices[at] - 1)[None, :])
        found = jnp.where(change[None], moved[:, :, None], configs[:, None, :])
        n, t, k = found.shape
        return space.canonical(found.reshape(n * t, k)).reshape(n, t, k)

    return neighbours


def climb(
    value: Value, pool: Int[Array, "m k"], neighbours: Neighbours, settings: ClimbSettings
) -> tuple[Int[Array, " k"], Float[Array, ""]]:
    """The best configuration that is reached from the best of the pool, and its value."""
    configs, values = climb_each(value, pool, neighbours, settings)
    best = jnp.argmax(values)
    return configs[best], values[best]


def climb_each(
    value: Value, pool: Int[Array, "m k"], neighbours: Neighbours, settings: ClimbSettings
) -> tuple[Int[Array, "c k"], Float[Array, " c"]]:
    """Where each of the climbers that start at the best of the pool arrives, and the values there."""
    num_climbers, steps = settings.num_climbers, settings.climb_steps
    values = value(pool)
    top, at = jax.lax.top_k(values, num_climbers)
    start = pool[at]

    def is_rising(carry):
        _, _, step, moved = carry
        return moved & (step < steps)

    def step(carry):
        configs, values, step, _ = carry
        around = neighbours(configs)
        found = value(around.reshape(-1, around.shape[-1])).reshape(around.shape[:2])
        best = jnp.argmax(found, axis=1)
        rows = jnp.arange(num_climbers)
        better = found[rows, best] > values + 1e-5
        configs = jnp.where(better[:, None], around[rows, best], configs)
        return configs, jnp.where(better, found[rows, best], values), step + 1, jnp.any(better)

    carry = (start, top, jnp.int32(0), jnp.bool_(True))
    return jax.lax.while_loop(is_rising, step, carry)[:2]
