"""What configurations cost, known before they are trained, and a cap on it."""

from collections.abc import Callable
from typing import NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

from autorank.base.typing import Array, Bool, Float, Int
from autorank.space.space import Space

MOST_TABULATED = 1_000_000


@runtime_checkable
class LogRatio(Protocol):
    """Knows costs."""

    def __call__(self, configs: Int[Array, "n k"], /) -> Float[Array, " n"]:
        """log(FLOPs / baseline FLOPs) of canonical configurations; runs inside ``jit``."""
        ...


@runtime_checkable
class Fits(Protocol):
    """Knows a cap."""

    def __call__(self, configs: Int[Array, "n k"], /) -> Bool[Array, " n"]:
        """Whether canonical configurations cost no more than the cap; runs inside ``jit``."""
        ...


class KnownCost(NamedTuple):
    """The cost of the configurations of a space, in the unit in which searchers are told of it."""

    log_ratio: LogRatio
    dearest: float  # log ratio that no configuration of interest exceeds; the cap, if there is one
    fits: Fits | None = None  # None: there is no cap


def cap_of(baseline: float, ratio: float | None) -> float:
    """The largest FLOPs that a cap allows; infinite without one.

    What costs as much as the cap is within it, however the product was rounded.
    """
    return np.inf if ratio is None else ratio * baseline * (1 + 1e-9)


def dearest_of(space: Space, log_ratio: LogRatio, num_samples: int = 4096) -> float:
    """About the largest log cost ratio: of a sample, and a tenth of the sample's range more."""
    sample = space.sample(jax.random.key(0), num_samples)
    costs = np.asarray(jax.jit(log_ratio)(sample))
    return float(costs.max() + 0.1 * (costs.max() - costs.min()) + 1e-3)


def tabulated(
    space: Space, cost: Callable[[np.ndarray], np.ndarray], cap: float | None = None
) -> KnownCost:
    """The cost of a small space, from that of every configuration.

    Args:
        space: the space.
        cost: log cost of canonical configurations ``[n, k]``, with any origin.
        cap: largest ratio to the baseline's cost; None is without a cap.

    Raises:
        ValueError: a large space.

    Examples:
        >>> from autorank.space.space import Decision
        >>> space = Space((Decision("width", (8, 16, 32)),), (1,))
        >>> known = tabulated(space, lambda configs: np.log([8, 16, 32])[configs[:, 0]], cap=1.0)
        >>> known.fits(jnp.array([[0], [1], [2]])).tolist()
        [True, True, False]
    """
    sizes = space.num_choices.astype(np.int64)
    if np.prod(sizes.astype(float)) > MOST_TABULATED:
        raise ValueError(f"the space has more than {MOST_TABULATED:,} combinations of choices")
    strides = np.append(np.cumprod(sizes[:0:-1])[::-1], 1).astype(np.int32)
    configs = space.enumerate(space.cardinality())
    ratios = cost(configs) - cost(np.array([space.baseline], np.int32))[0]
    table = np.zeros(int(np.prod(sizes)))
    table[configs @ strides] = ratios
    is_within = np.exp(table) <= cap_of(1.0, cap)

    def place(configs: Array) -> Array:
        return jnp.sum(configs * jnp.asarray(strides)[None, :], axis=1)

    def log_ratio(configs: Int[Array, "n k"]) -> Float[Array, " n"]:
        return jnp.asarray(table, jnp.float32)[place(configs)]

    def fits(configs: Int[Array, "n k"]) -> Bool[Array, " n"]:
        return jnp.asarray(is_within)[place(configs)]

    dearest = float(ratios.max()) if cap is None else min(float(ratios.max()), np.log(cap))
    return KnownCost(log_ratio, dearest + 1e-3, None if cap is None else fits)
