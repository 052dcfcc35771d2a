"""One part of each kind, as a package outside the project would write them."""

from dataclasses import dataclass

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from autorank.base.records import require_range
from autorank.data.format.source import Chunk, Columns, Source
from autorank.data.logs.base import SOURCES, DataConfig
from autorank.models import flops
from autorank.models.interactions import MODULES, Sizes
from autorank.models.maps import mix
from autorank.models.parameters import kernel
from autorank.searchers.base import (
    SEARCHERS,
    Context,
    Proposal,
    Searcher,
    SearcherConfig,
    ToldState,
    append,
    best,
    empty,
)
from autorank.searchers.novelty import proposer
from autorank.surrogates.losses import LOSSES


@dataclass(frozen=True)
class MineConfig(SearcherConfig):
    """How far mutants go."""

    name: str = "mine"
    own_field: int = 1  # times that a mutant is mutated

    def __post_init__(self):
        super().__post_init__()
        require_range("searcher.own_field", self.own_field, 1, 9)


def register_searcher() -> None:
    """Registers `mine`."""

    @SEARCHERS.register(
        "mine",
        MineConfig,
        grid_size=64,
        has_roles=False,
        reads_predictor=False,
        weighs_cost=False,
        finds_front=False,
        warms=False,
        thaws=False,
    )
    def make_mine(space, settings: MineConfig, context: Context) -> Searcher:
        """Mutants of the best trial."""
        batch_size, capacity = settings.batch_size, context.capacity
        propose = proposer(space, batch_size=batch_size, capacity=capacity)

        def init(key) -> ToldState:
            return ToldState(empty(space, capacity))

        def ask(key, state) -> Proposal:
            mutate_key, propose_key = jax.random.split(key)
            rows = jnp.broadcast_to(
                best(state.history)[0][None], (4 * batch_size, space.num_decisions)
            )
            for i in range(settings.own_field):
                rows = space.mutate(jax.random.fold_in(mutate_key, i), rows, 0.3)
            configs, repeat, _ = propose(propose_key, state.history, rows)
            return Proposal(configs, jnp.full((batch_size, 2), jnp.nan), {"repeat": repeat})

        def tell(state, configs, metrics):
            return ToldState(append(state.history, configs, metrics))

        return Searcher(init, ask, tell)


@dataclass(frozen=True)
class PowerConfig:
    """Which power."""

    power: float = 2.0


def register_loss() -> None:
    """Registers `power`."""

    @LOSSES.register("power", PowerConfig, scaled=True, regression=True)
    def power_loss(
        scores, targets, *, where=None, weights=None, power=2.0, reduce_fn=jnp.mean
    ) -> jax.Array:
        """Absolute error to a power."""
        weights = jnp.ones_like(scores) if weights is None else weights
        if where is not None:
            scores, targets, weights = (
                jnp.where(where, x, 0.0) for x in (scores, targets, weights)
            )
        total = weights.sum(-1)
        error = weights * jnp.abs(scores - targets) ** power
        return reduce_fn(error.sum(-1) / jnp.where(total > 0, total, 1.0))


def square_flops(s: Sizes) -> int:
    """FLOPs of `Square`."""
    return s.positions * s.width + flops.mix(s.positions, s.tokens, s.width)


def register_module() -> None:
    """Registers `square`."""

    @MODULES.register("square", flops=square_flops, uses=())
    class Square(nn.Module):
        """``W X^2`` over the embedding axis."""

        sizes: Sizes

        @nn.compact
        def __call__(self, x, active=None):
            """``m`` embeddings in, ``l`` out."""
            s = self.sizes
            weight = kernel(self, "out", {"positions": s.positions}, {"tokens": s.tokens})
            return mix(x * x, weight, flat=s.flat)


@dataclass(frozen=True)
class CoinsConfig(DataConfig):
    """How many tosses."""

    source: str = "coins"
    num_rows: int = 3000


def register_source() -> None:
    """Registers `coins`."""

    @SOURCES.register("coins", CoinsConfig)
    def coins(settings: CoinsConfig) -> Source:
        """Clicks that depend on two ids."""

        def chunks(raw, progress):
            rng = np.random.default_rng(0)
            user, item = rng.integers(0, 20, (2, settings.num_rows))
            p = 1 / (1 + np.exp(1.0 - 0.2 * (user - 10) * ((item % 3) - 1)))
            click = (rng.random(settings.num_rows) < p).astype(int)
            columns = {"user": user.astype(str), "item": item.astype(str), "click": click}
            yield Chunk(columns)

        columns = Columns(("user", "item"), (), "click")
        own = {"reader": "coins", "num_rows": settings.num_rows}
        return Source("coins", own, (), columns, chunks, "made up", "none")


KINDS = {
    "searcher": (SEARCHERS, "mine", register_searcher),
    "loss": (LOSSES, "power", register_loss),
    "module": (MODULES, "square", register_module),
    "source": (SOURCES, "coins", register_source),
}
