"""What searchers share: the contract, their registry, and the history of told trials.

All metrics are lower-is-better; a NaN quality is a failed trial and never the best.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from autorank.base.records import require_range
from autorank.base.registry import Registry
from autorank.base.typing import Array, Bool, Float, Int, Key
from autorank.space.space import Space
from autorank.surrogates.base import Data
from autorank.surrogates.settings import PredictorConfig

if TYPE_CHECKING:
    from autorank.searchers.known_cost import KnownCost
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
    info: dict[str, Array]  # "repeat" bool [n]: was told before; each searcher adds its own


@runtime_checkable
class Init(Protocol):
    """Starts a search."""

    def __call__(self, key: Key, /) -> Any:
        """The state before any trial: a pytree of arrays with a field ``history``."""
        ...


@runtime_checkable
class Ask(Protocol):
    """Proposes trials."""

    def __call__(self, key: Key, state: Any, /) -> Proposal:
        """A batch of proposals; a function of the key and the state alone."""
        ...


@runtime_checkable
class Tell(Protocol):
    """Takes results in."""

    def __call__(self, state: Any, configs: Any, metrics: Any, /) -> Any:
        """The state after trials: configurations int ``[n, k]`` and their metrics float ``[n, 2]``, in order."""
        ...


@runtime_checkable
class Judge(Protocol):
    """Says what is believed of the told trials, which are noisy."""

    def __call__(self, state: Any, /) -> Float[Array, " capacity"]:
        """The quality that each told trial is believed to have, in the told units; NaN for a failed or unused one.

        The searcher recommends the trial for which it is lowest.
        """
        ...


def as_told(state: Any) -> Float[Array, " capacity"]:
    """The `Judge` of a searcher without a model: what was told is believed."""
    history: History = state.history
    quality = history.metrics[:, 0]
    return jnp.where(known(history) & jnp.isfinite(quality), quality, jnp.nan)


class Searcher(NamedTuple):
    """Pure functions over a state of arrays; the caller jits them.

    A search is resumed by telling its trials again in order: the same trials and key give the same proposals.

    Examples:
        >>> from autorank.searchers.random import RandomConfig, make_random
        >>> import jax
        >>> from autorank.space.space import Decision
        >>> space = Space((Decision("width", (8, 16, 32)),), (0,))
        >>> searcher = make_random(space, RandomConfig(batch_size=2), Context(capacity=8))
        >>> state = searcher.init(jax.random.key(0))
        >>> proposal = searcher.ask(jax.random.key(1), state)
        >>> state = searcher.tell(state, proposal.configs, jnp.array([[0.3, 0.0], [0.1, 0.0]]))
        >>> int(state.history.count), proposal.configs.shape
        (2, (2, 1))
        >>> int(jnp.nanargmin(searcher.judge(state)))  # the trial that it recommends
        1
    """

    init: Init
    ask: Ask
    tell: Tell
    judge: Judge = as_told
    # Whether it learns from several trials of a configuration, and may propose one again.
    repeats: bool = False


@dataclass(frozen=True)
class SearcherConfig:
    """The settings that all searchers share; each searcher extends them with its own."""

    name: str = ""
    batch_size: int = 10  # proposals of an ask

    def __post_init__(self):
        SEARCHERS.require_own_name(self)
        require_range("searcher.batch_size", self.batch_size, 1, 1_000_000)


def require_alphas(alphas: tuple[float, ...]) -> None:
    """Refuses weights of the cost that are outside [0, 1], and an empty tuple.

    Raises:
        ValueError: with an example of what to write.
    """
    if not alphas or not all(0 <= a <= 1 for a in alphas):
        raise ValueError(
            f"searcher.alphas={list(alphas)} must be one or more numbers in [0, 1], for example [0.0]"
        )


class Warm(NamedTuple):
    """Trials of ``l`` earlier searches, in the space of the new one."""

    configs: np.ndarray  # int32 [l, m, k]
    # float32 [l, m]: their labels, lower is better, each search in its own units; NaN for failed and unused rows.
    quality: np.ndarray
    first: np.ndarray  # int32 [n, k]: the most promising ones, to be tried first


class Context(NamedTuple):
    """What a searcher is made with, besides its own settings."""

    capacity: int  # most trials that are told or pending at once
    initial: int = 20  # trials told before a predictor is trusted; pilots count
    # The predictor of a searcher that reads one: its settings, or a predictor made already.
    predictor: "Predictor | PredictorConfig" = PredictorConfig()
    # Whether a configuration may be tried several times, with fresh noise each time, and so be proposed again.
    repeats: bool = False
    # best: the lowest quality. front: the lowest quality at every cost, for searchers with the trait `finds_front`.
    goal: str = "best"
    cost: "KnownCost | None" = None  # of the space's configurations; a goal of front needs it
    warm: "Warm | None" = (
        None  # earlier searches to learn from, for searchers with the trait `warms`
    )
    # Rising shares of the log that the searcher chooses among, for searchers with the trait `thaws`; configurations
    # then have one column more, the rung.
    rungs: tuple[float, ...] = ()
    # int32 [m, k]: the only configurations that can be tried, as in a recorded table; None: all can. `autorank` chooses
    # among them once it has a model. Designs and other searchers may propose others; the nearest ones are tried.
    listed: "np.ndarray | None" = None


class MakeSearcher(Protocol):
    """A searcher's factory."""

    def __call__(self, space: Space, settings: Any, context: Context, /) -> Searcher:
        """The searcher of a space; the settings are of the type that it is registered with."""
        ...


# Traits: `grid_size`, points of an interval in a sweep: many for searchers that know that neighbours are alike or draw
# at random, few for those that learn about each point by itself. `has_roles`: proposals of a batch differ in kind by
# their position (near the best, exploratory, ...). `reads_predictor`: learns with the ensemble of `Context.predictor`.
# `weighs_cost`: trades quality for cost in what it proposes, by its own setting `alphas`. `finds_front`: serves
# `Context.goal` = front; a searcher without the trait does not. `warms`: learns from `Context.warm`. `thaws`: serves
# `Context.rungs`.
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
    """Adds trials to the history.

    Inside ``jit`` the count is not known, so trials beyond the capacity are dropped there without an error.

    Raises:
        ValueError: outside ``jit``, if the trials do not fit.
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


class ToldState(NamedTuple):
    """The state of a searcher that keeps nothing but the told trials."""

    history: History
    first: Any = None  # int32 [n, k]: earlier trials that come before random ones, if it tries some


def tell_history(state: ToldState, configs: Any, metrics: Any) -> ToldState:
    """The `Tell` of searchers with a `ToldState`."""
    return state._replace(history=append(state.history, configs, metrics))


def tried_first(context: Context, space: Space) -> Int[Array, "n k"]:
    """The earlier trials to be tried first, within a cap on the cost; none without earlier searches."""
    if context.warm is None:
        return jnp.zeros((0, space.num_decisions), jnp.int32)
    first = jnp.asarray(context.warm.first, jnp.int32)
    fits = context.cost and context.cost.fits
    return first if fits is None or not len(first) else first[fits(first)]


def known(history: History) -> Bool[Array, " n"]:
    """Which rows of the history are used."""
    return jnp.arange(len(history.configs)) < history.count


def best(history: History) -> tuple[Int[Array, " k"], Float[Array, " 2"]]:
    """The configuration of lowest quality, the first among equals, and its metrics (NaN if all failed)."""
    quality = history.metrics[:, 0]
    usable = known(history) & ~jnp.isnan(quality)
    index = jnp.argmin(jnp.where(usable, quality, jnp.inf))
    metrics = jnp.where(usable[index], history.metrics[index], jnp.nan)
    return history.configs[index], metrics


def best_first(history: History) -> tuple[Int[Array, " n"], Int[Array, ""]]:
    """Rows of the history with the finished trials first, best first, and the number of finished trials."""
    quality = jnp.where(known(history), history.metrics[:, 0], jnp.nan)
    finished = jnp.isfinite(quality)
    return jnp.argsort(jnp.where(finished, quality, jnp.inf)), jnp.sum(finished)


def mutants_of_best(
    key: Key, space: Space, history: History, n: int, rate: float, num_parents: int
) -> Int[Array, "n k"]:
    """Mutants of the ``num_parents`` best trials, equally many of each."""
    order, num_finished = best_first(history)
    among = jnp.clip(num_finished, 1, num_parents)
    return space.mutate(key, history.configs[order[jnp.arange(n) % among]], rate)


def told_data(history: History, size: int | None = None) -> Data:
    """The first ``size`` rows of the history (default: all) as a surrogate learns from them."""
    used = known(history)[:size]
    has_cost = used & jnp.isfinite(history.metrics[:size, 1])
    metrics = history.metrics[:size]
    metrics = metrics.at[:, 1].set(jnp.where(has_cost, metrics[:, 1], 0.0))
    return Data(history.configs[:size], metrics, jnp.stack([used, has_cost], axis=1))
