"""What searchers share: the contract, the history of told trials, no trial proposed twice.

All metrics are lower-is-better; a NaN quality is a failed trial and never the best.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from autorank.base.records import require_range
from autorank.base.registry import Registry
from autorank.base.typing import Array, Bool, Float, Int, Key
from autorank.space.space import Space
from autorank.surrogates.settings import PredictorConfig

if TYPE_CHECKING:
    from autorank.surrogates.predictor import Predictor  # loads flax, and most searchers need none


class History(NamedTuple):
    """Told trials, in order; rows from ``count`` on are unused."""

    configs: Array  # int32 [capacity, k]
    metrics: Array  # float32 [capacity, 2]: NE gain in percent, log(FLOPs / baseline FLOPs)
    count: Array  # int32


class Proposal(NamedTuple):
    """What to train next, and why."""

    configs: Array  # int32 [n, k]
    predicted: Array  # float32 [n, 2] in the units of the metrics; NaN = no prediction
    info: dict[str, Array]  # "repeat" bool [n]: was told before; more by searcher


class Searcher(NamedTuple):
    """Three pure functions over a state of arrays, with ``state.history``; jitted by the caller.

    ``ask`` is a function of key and state alone, so that a search is resumed by telling its rows
    again in order.
    """

    init: Callable[[Key], Any]  # key -> State
    ask: Callable[[Key, Any], Proposal]  # key, state -> batch_size proposals
    tell: Callable[[Any, Any, Any], Any]  # state, configs int [n, k], metrics float [n, 2] -> State


@dataclass(frozen=True)
class SearcherConfig:
    """What all searchers have; each has a record of its own with more."""

    name: str = ""
    batch_size: int = 10  # proposals of an ask

    def __post_init__(self):
        SEARCHERS.require_own_name(self)
        require_range("searcher.batch_size", self.batch_size, 1, 1_000_000)


def require_alphas(alphas: tuple[float, ...]) -> None:
    """Refuses weights of the cost outside [0, 1], and none at all.

    Raises:
        ValueError: with an example of what to write.
    """
    if not alphas or not all(0 <= a <= 1 for a in alphas):
        raise ValueError(
            f"searcher.alphas={list(alphas)} must be one or more numbers in [0, 1], for example [0.0]"
        )


class Context(NamedTuple):
    """What a searcher is made for, beside its own settings."""

    capacity: int  # most trials that are told or pending at once
    initial: int = 20  # trials told before a predictor is trusted; pilots count
    # What a searcher that reads the predictor learns with: its settings, or one that is made already.
    predictor: "Predictor | PredictorConfig" = PredictorConfig()


class MakeSearcher(Protocol):
    """A searcher's factory."""

    def __call__(self, space: Space, settings: Any, context: Context, /) -> Searcher:
        """The searcher of a space, by a record of its own type."""
        ...


# Traits: `grid_size`, points of an interval in a sweep: many for searchers that know that neighbours are alike or draw
# at random, few for those that learn about each point by itself. `has_roles`: proposals of a batch differ in kind by
# their position (near the best, exploratory, ...). `reads_predictor`: learns with the ensemble of `Context.predictor`.
# `weighs_cost`: trades quality for cost in what it proposes, by its own setting `alphas`.
SEARCHERS: Registry[MakeSearcher] = Registry(
    "searcher", former={"bayes": "autorank", "predictor": "paper"}
)


def empty(space: Space, capacity: int) -> History:
    """A history without trials."""
    return History(
        jnp.zeros((capacity, space.num_decisions), jnp.int32),
        jnp.full((capacity, 2), jnp.nan, jnp.float32),
        jnp.zeros((), jnp.int32),
    )


def append(
    history: History,
    configs: Int[Array | np.ndarray, "n k"],
    metrics: Float[Array | np.ndarray, "n 2"],
) -> History:
    """Adds rows. Inside ``jit`` the count is not known: rows beyond the capacity are dropped there.

    Raises:
        ValueError: outside ``jit``, when the rows do not fit.
    """
    capacity, n = len(history.configs), len(configs)
    if not isinstance(history.count, Tracer) and int(history.count) + n > capacity:
        raise ValueError(
            f"the history holds {int(history.count)} of capacity={capacity} trials and {n} more "
            f"do not fit; make the searcher with a larger capacity"
        )
    rows = history.count + jnp.arange(n)
    return History(
        history.configs.at[rows].set(jnp.asarray(configs, jnp.int32), mode="drop"),
        history.metrics.at[rows].set(jnp.asarray(metrics, jnp.float32), mode="drop"),
        jnp.minimum(history.count + n, capacity),
    )


def known(history: History) -> Bool[Array, " n"]:
    """Which rows of the history are used."""
    return jnp.arange(len(history.configs)) < history.count


def best(history: History) -> tuple[Int[Array, " k"], Float[Array, " 2"]]:
    """The trial of lowest quality, first among equals, and its metrics; NaN if all failed."""
    quality = history.metrics[:, 0]
    usable = known(history) & ~jnp.isnan(quality)
    index = jnp.argmin(jnp.where(usable, quality, jnp.inf))
    metrics = jnp.where(usable[index], history.metrics[index], jnp.nan)
    return history.configs[index], metrics


def fresh(
    history: History, candidates: Int[Array, "m k"], n: int
) -> tuple[Int[Array, " n"], Bool[Array, " n"], Int[Array, ""]]:
    """The first ``n`` candidates that are neither in the history nor earlier among the candidates.

    Rows are compared by two 32-bit hashes, sorted: equal rows are always found; two different rows
    count as equal once in 2^64 pairs, which loses a candidate and never lets a repeat through.

    Returns:
        Positions among the candidates, whether each is fresh (false when they ran out: repeats,
        first ones first), and the number of fresh candidates.
    """
    rows = jnp.concatenate([history.configs, candidates])
    used = jnp.concatenate([known(history), jnp.ones(len(candidates), bool)])
    position = jnp.arange(len(rows), dtype=jnp.int32)
    first, second = hashes(rows)
    first, second, unused, position = jax.lax.sort(
        (first, second, (~used).astype(jnp.int32), position), num_keys=3, is_stable=True
    )
    same = (first[1:] == first[:-1]) & (second[1:] == second[:-1]) & (unused[1:] == unused[:-1])
    repeat = jnp.zeros(len(rows), bool).at[position[1:]].set(same)[len(history.configs) :]
    num_fresh = jnp.sum(~repeat)
    place = jnp.where(repeat, num_fresh + jnp.cumsum(repeat), jnp.cumsum(~repeat)) - 1
    chosen = jnp.zeros(len(candidates), jnp.int32).at[place].set(jnp.arange(len(candidates)))[:n]
    return chosen, ~repeat[chosen], num_fresh


def proposer(space: Space, *, batch_size: int, capacity: int) -> Callable:
    """Makes ``propose(key, history, candidates) -> (configs [n, k], repeat [n], position [n])``.

    Takes fresh candidates ``[m, k]`` in order (``m`` may be 0); where they run out, fresh random
    samples (position ``m``); at the very last a list of ``capacity + batch_size`` different
    configurations, which cannot all be known. Repeats only when the space is exhausted.
    """
    if batch_size < 1 or capacity < batch_size:
        raise ValueError(f"batch_size={batch_size} must lie between 1 and capacity={capacity}")
    reserve = space.enumerate(capacity + batch_size)

    def propose(key: Key, history: History, candidates: Int[Array, "m k"]):
        m = len(candidates)
        sampled = space.sample(key, 4 * batch_size)
        pool = jnp.concatenate([candidates, sampled, jnp.asarray(reserve)])
        chosen, is_fresh, _ = fresh(history, pool, batch_size)
        return pool[chosen], ~is_fresh, jnp.minimum(chosen, m)

    return propose


def hashes(rows: Int[Array, "m k"]) -> tuple[Array, Array]:
    """Two multilinear hashes, uint32 ``[m]``."""
    factors = np.random.default_rng(20231107).integers(0, 1 << 32, (2, rows.shape[1]), np.uint32)
    values = rows.astype(jnp.uint32) + 1
    first, second = (
        jnp.sum(values * jnp.asarray(f)[None, :], axis=1, dtype=jnp.uint32) for f in factors
    )
    return first, second
