"""Covariance of configurations: Matern 5/2 plus main effects.

    k(x, x') = s^2 (1 + sqrt(5) r + 5/3 r^2) exp(-sqrt(5) r) + sum_d v_d m_d(x, x')
    r^2 = sum_d |e_d(x) - e_d(x')|^2 / l_d^2

``e_d`` embeds decision ``d``:

- a number as its scaled value;
- a categorical choice as a one-hot vector over sqrt(2), so that two different choices are at distance 1;
- an inactive decision as the zero vector. A conditional number has a second, constant column, so that inactive is at
  distance 0 from inactive and between 1/2 and 1 from any value.

``m_d`` is the correlation of a main effect, an additive kernel of first order (Duvenaud et al., arXiv 1112.4394). It
is 1 for equal categorical choices and 0 for different ones; for numbers it falls smoothly with the distance; an
inactive decision has no effect. One matrix product of features gives the sum over all decisions.
"""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

from autorank.base.typing import Array, Float, Int, Key
from autorank.space.grammar import scaled
from autorank.space.space import Decision, Space

SQRT5 = math.sqrt(5.0)
RANK = 5  # features that approximate the main effect of a number
REACH = 0.3  # length scale of a number's main effect, as a share of its range


class Columns(NamedTuple):
    """The roles of an embedding's columns."""

    owner: np.ndarray  # int32 [x]: the decision of each column
    apart: np.ndarray  # int32 [a]: the columns that distances are measured by
    effect: np.ndarray  # int32 [b]: the columns of main effects; empty without them
    gain: np.ndarray  # float32 [b]: squared factors of the main effects' columns
    num_decisions: int


class Theta(NamedTuple):
    """Hyperparameters, all as logarithms."""

    scales: Array  # float32 [k]: log length scale of each decision
    effects: Array  # float32 [k], or [0] without main effects: log v_d
    amplitude: Array  # float32: log s^2
    noise: Array  # float32: log noise variance


@runtime_checkable
class Embed(Protocol):
    """Embeds configurations."""

    def __call__(self, configs: Int[Array, "n k"], /) -> Float[Array, "n x"]:
        """The embedding of each configuration."""
        ...


class _Column(NamedTuple):
    """One column of an embedding."""

    values: np.ndarray  # [c]: by choice
    is_distance: bool  # distances are measured by it
    gain: float  # its factor in main effects; 0 if it plays no part in them


def embedding(space: Space, *, effects: bool = True) -> tuple[Embed, Columns]:
    """The function that embeds configurations, and the roles of its columns.

    Args:
        space: the search space.
        effects: whether to add the columns that main effects need.

    Returns:
        The function and the `Columns`.

    Examples:
        >>> space = Space((Decision("act", ("relu", "tanh")), Decision("rate", (1, 2, 3), "number")), (0, 0))
        >>> embed, columns = embedding(space, effects=False)
        >>> np.round(np.asarray(embed(jnp.array([[0, 0], [1, 2]])), float), 2).tolist()
        [[0.71, 0.0, -0.5], [0.0, 0.71, 0.5]]
        >>> columns.owner.tolist()
        [0, 0, 1]
    """
    owned = [(i, c) for i, d in enumerate(space.decisions) for c in _columns_of(d, effects)]
    owner = np.array([i for i, _ in owned], np.int32)
    by_choice = [np.pad(c.values, (0, space.max_choices - len(c.values))) for _, c in owned]
    flat = np.stack(by_choice).astype(np.float32).reshape(-1)
    start = np.arange(len(owned), dtype=np.int32) * space.max_choices
    in_effects = [at for at, (_, c) in enumerate(owned) if effects and c.gain]

    def embed(configs: Int[Array, "n k"]) -> Float[Array, "n x"]:
        value = jnp.asarray(flat)[jnp.asarray(start)[None, :] + configs[:, owner]]
        return jnp.where(space.active(configs)[:, owner], value, 0.0)

    return embed, Columns(
        owner=owner,
        apart=np.array([at for at, (_, c) in enumerate(owned) if c.is_distance], np.int32),
        effect=np.array(in_effects, np.int32),
        gain=np.array([owned[at][1].gain for at in in_effects], np.float32),
        num_decisions=space.num_decisions,
    )


def feature_columns(owner: Sequence[int] | np.ndarray, *, effects: bool = True) -> Columns:
    """The roles of columns that are any features, such as `Space.features`; a zero is an inactive decision's.

    Args:
        owner: int ``[x]``, the decision of each column, from 0 on without gaps; columns of one decision share a length
            scale.
        effects: whether each decision has a main effect, which is linear in its columns.

    Examples:
        >>> feature_columns([0, 0, 1], effects=False).num_decisions
        2

    Raises:
        ValueError: a decision without a column.
    """
    owner = np.asarray(owner, np.int32)
    every = np.arange(len(owner), dtype=np.int32)
    num_decisions = int(owner.max(initial=-1)) + 1
    if not num_decisions or set(owner.tolist()) != set(range(num_decisions)):
        raise ValueError(
            f"owner={owner.tolist()} must name decisions from 0 on without gaps, for example [0, 0, 1]"
        )
    in_effects = every if effects else every[:0]
    gain = np.ones(len(in_effects), np.float32)
    return Columns(owner, every, in_effects, gain, num_decisions)


def _columns_of(decision: Decision, effects: bool) -> Iterator[_Column]:
    """The columns that embed one decision."""
    num = len(decision.choices)
    if decision.kind != "number":
        for one_hot in np.eye(num) * math.sqrt(0.5):
            yield _Column(one_hot, True, 2.0)
        return
    numbers = np.asarray(scaled(decision.choices, decision.log), np.float32)
    yield _Column(numbers - 0.5, True, 0.0)
    if decision.parents:
        yield _Column(np.full(num, math.sqrt(0.5)), True, 0.0)
    for feature in _smooth(numbers) if effects else ():
        yield _Column(feature, False, 1.0)


def _smooth(numbers: np.ndarray) -> np.ndarray:
    """Features ``[rank, c]`` of unit length whose products approximate a Matern correlation of the choices."""
    r = np.abs(numbers[:, None] - numbers[None, :]) / REACH
    kernel = (1 + SQRT5 * r + (5 / 3) * r * r) * np.exp(-SQRT5 * r)
    values, vectors = np.linalg.eigh(kernel)
    top = vectors[:, -RANK:] * np.sqrt(np.maximum(values[-RANK:], 0.0))
    return (top / np.linalg.norm(top, axis=1, keepdims=True)).T


def squared_distances(
    left: Float[Array, "n x"], right: Float[Array, "m x"], columns: Columns
) -> Float[Array, "k n m"]:
    """Squared distances of embedded configurations, one matrix for each decision, before division by length scales."""
    owner = jnp.asarray(columns.owner[columns.apart])
    hot = jax.nn.one_hot(owner, columns.num_decisions, axis=0)  # [k, a]
    square = (left[:, None, columns.apart] - right[None, :, columns.apart]) ** 2
    return jnp.einsum("kx,nmx->knm", hot, square)


def main_effects(
    left: Float[Array, "n x"], right: Float[Array, "m x"], columns: Columns
) -> Float[Array, "k n m"]:
    """Correlations of the main effects, one matrix for each decision; ``[0, n, m]`` without main effects."""
    if not len(columns.effect):
        return jnp.zeros((0, len(left), len(right)))
    owner = jnp.asarray(columns.owner[columns.effect])
    hot = jax.nn.one_hot(owner, columns.num_decisions, axis=0) * columns.gain[None, :]
    both = left[:, None, columns.effect] * right[None, :, columns.effect]
    return jnp.einsum("kx,nmx->knm", hot, both)


def matern(squared: Array) -> Array:
    """The Matern 5/2 correlation at a squared, scaled distance, elementwise."""
    r = jnp.sqrt(jnp.maximum(squared, 1e-12))
    return (1 + SQRT5 * r + (5 / 3) * r * r) * jnp.exp(-SQRT5 * r)


def covariance(
    theta: Theta, left: Float[Array, "n x"], right: Float[Array, "m x"], columns: Columns
) -> Float[Array, "n m"]:
    """Covariance of two sets of embedded configurations: one matrix product for each of its two terms."""
    weight = jnp.exp(-theta.scales)[columns.owner[columns.apart]][None, :]
    a, b = left[:, columns.apart] * weight, right[:, columns.apart] * weight
    squared = jnp.sum(a * a, 1)[:, None] + jnp.sum(b * b, 1)[None, :] - 2 * a @ b.T
    found = jnp.exp(theta.amplitude) * matern(squared)
    if not len(columns.effect):
        return found
    effects = left[:, columns.effect] * _variances(theta, columns)[None, :]
    return found + effects @ right[:, columns.effect].T


def prior_variance(
    theta: Theta, features: Float[Array, "n x"], columns: Columns
) -> Float[Array, " n"]:
    """The diagonal of `covariance` of configurations with themselves."""
    found = jnp.full(len(features), jnp.exp(theta.amplitude))
    if not len(columns.effect):
        return found
    return found + (features[:, columns.effect] ** 2) @ _variances(theta, columns)


def _variances(theta: Theta, columns: Columns) -> Float[Array, " b"]:
    """Variances of the columns of main effects."""
    return jnp.exp(theta.effects)[columns.owner[columns.effect]] * columns.gain


def mean_active(space: Space, num_samples: int = 2048) -> float:
    """The mean number of active decisions of a uniform configuration; ``k`` for a space without conditions."""
    if not any(d.parents for d in space.decisions):
        return float(space.num_decisions)

    @jax.jit
    def mean(key: Key) -> Array:
        configs = space.sample(key, num_samples)
        return jnp.mean(jnp.sum(space.active(configs), axis=1))

    return float(mean(jax.random.key(0)))
