"""The part of a space that may be proposed: what a cap on the cost leaves, or the configurations of a list.

A searcher is told of a cap by `Context.cost`, so that it looks where it may propose. Whatever it proposes passes
`within_cap`, which replaces a configuration beyond the cap by a random one within: so a cap holds for every searcher.
Where only a list can be tried (`Context.listed`), as in a recorded table, proposals that are not on it are moved by
whoever tries them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from autorank.base.typing import Array, Bool, Float, Int, Key
from autorank.searchers.base import Context, Proposal, Searcher
from autorank.searchers.climbing import neighbourhood
from autorank.searchers.known_cost import Fits
from autorank.searchers.novelty import equal_rows, fresh, hashes
from autorank.space.space import Space

DRAWS = 16  # random configurations that are tried for one within the cap
WALK = 64  # and then steps of a walk from the baseline


@dataclass(frozen=True)
class Region:
    """The configurations of a space that fit, of which the baseline must be one."""

    space: Space
    fits: Fits | None = None  # None: all do
    listed: Array | None = None  # int32 [m, k]: the only ones that do; None: no list

    def sample(self, key: Key, n: int) -> Int[Array, "n k"]:
        """Random configurations that fit.

        Each is the first of `DRAWS` that does. Where none does, it is the end of a random walk of `WALK` steps from the
        baseline that never leaves the region.
        """
        if self.listed is not None:
            return self.listed[jax.random.randint(key, (n,), 0, len(self.listed))]
        if self.fits is None:
            return self.space.sample(key, n)
        draw_key, walk_key = jax.random.split(key)
        fits, k = self.fits, self.space.num_decisions
        drawn = self.space.sample(draw_key, DRAWS * n)
        good = fits(drawn).reshape(DRAWS, n)
        first = jnp.argmax(good, axis=0)
        found = drawn.reshape(DRAWS, n, k)[first, jnp.arange(n)]
        return jnp.where(jnp.any(good, axis=0)[:, None], found, self._walk(walk_key, fits, n))

    def _walk(self, key: Key, fits: Fits, n: int) -> Int[Array, "n k"]:
        def step(configs: Array, key: Key) -> tuple[Array, None]:
            moved = self.space.mutate(key, configs, 1 / self.space.num_decisions)
            return jnp.where(fits(moved)[:, None], moved, configs), None

        start = jnp.broadcast_to(
            jnp.array(self.space.baseline, jnp.int32), (n, self.space.num_decisions)
        )
        return jax.lax.scan(step, start, jax.random.split(key, WALK))[0]

    def bounded(
        self, value: Callable[[Int[Array, "m k"]], Float[Array, " m"]]
    ) -> Callable[[Int[Array, "m k"]], Float[Array, " m"]]:
        """The function where configurations fit, and minus infinity elsewhere."""
        if self.fits is None:
            return value
        fits = self.fits
        return lambda configs: jnp.where(fits(configs), value(configs), -jnp.inf)

    def some(self, n: int) -> np.ndarray:
        """Up to ``n`` different configurations that fit, the baseline first; fewer where fewer are found.

        They are those that single changes reach from the baseline within the region, nearest first.

        Raises:
            ValueError: the baseline does not fit, or nothing else does.
        """
        assert self.fits is not None
        fits, neighbours = jax.jit(self.fits), jax.jit(neighbourhood(self.space))
        start = np.array([self.space.baseline], np.int32)
        if not bool(fits(start)[0]):
            raise ValueError(
                "search.max_flops_ratio leaves out the baseline itself; write 1 or more, or make the baseline smaller"
            )
        found = {start[0].tobytes(): start[0]}
        queue = [start[0]]
        while queue and len(found) < n:
            around = np.asarray(neighbours(queue.pop(0)[None]))[0]
            for config in around[np.asarray(fits(around))]:
                if config.tobytes() not in found:
                    found[config.tobytes()] = config
                    queue.append(config)
        if len(found) == 1:
            raise ValueError(
                "search.max_flops_ratio leaves nothing to search: no change of one decision of the baseline costs so "
                "little; write a larger ratio, or a space with cheaper choices"
            )
        return np.array(list(found.values())[:n])


def region_of(space: Space, context: Context) -> Region:
    """Where a searcher may propose.

    Raises:
        ValueError: a list that is empty or of another space, or of which nothing is within the cap.

    Examples:
        >>> from autorank.space.space import Decision
        >>> space = Space((Decision("width", (8, 16, 32)),), (0,))
        >>> region = region_of(space, Context(capacity=8, listed=np.array([[0], [2]])))
        >>> region.fits(jnp.array([[0], [1], [2]])).tolist()
        [True, False, True]
    """
    cap = context.cost and context.cost.fits
    if context.listed is None:
        return Region(space, cap)
    shape = np.shape(context.listed)
    if len(shape) != 2 or not shape[0] or shape[1] != space.num_decisions:
        raise ValueError(
            f"listed has shape {shape}: write configurations [m, {space.num_decisions}], at least one"
        )
    listed = jnp.asarray(context.listed, jnp.int32)
    if cap is not None:
        listed = listed[np.asarray(cap(listed))]
        if not len(listed):
            raise ValueError("no listed configuration is within the cap on the cost; raise the cap")
    names = hashes(listed)

    def fits(configs: Int[Array, "m k"]) -> Bool[Array, " m"]:
        return jnp.any(equal_rows(hashes(configs), names), axis=1)

    return Region(space, fits, listed)


def within_cap(searcher: Searcher, region: Region, *, batch_size: int, capacity: int) -> Searcher:
    """The searcher, whose proposals that do not fit are replaced by random ones that do.

    ``info["replaced"]`` says which; they have no prediction. None of them was told before, as long as the region has
    others.

    Args:
        searcher: any.
        region: where it may propose.
        batch_size: proposals of an ask.
        capacity: most trials that are told.

    Raises:
        ValueError: the baseline does not fit, or nothing else does.
    """
    if region.fits is None:
        return searcher
    fits, reserve = region.fits, region.some(capacity + batch_size)

    def ask(key: Key, state: Any) -> Proposal:
        proposal = searcher.ask(key, state)
        n = len(proposal.configs)
        good = fits(proposal.configs)
        sampled = region.sample(jax.random.fold_in(key, 0x0CAB), 4 * n)
        pool = jnp.concatenate([proposal.configs, sampled, jnp.asarray(reserve)])
        chosen = fresh(state.history, pool, min(2 * n, len(pool)))
        # The proposals are the first n of the pool; of the rest, the fresh ones come first.
        others = jnp.argsort(chosen.position < n, stable=True)
        taken = others[jnp.clip(jnp.cumsum(~good) - 1, 0, n - 1)]
        configs = jnp.where(good[:, None], proposal.configs, pool[chosen.position[taken]])
        repeat = jnp.where(good, proposal.info["repeat"], ~chosen.is_fresh[taken])
        predicted = jnp.where(good[:, None], proposal.predicted, jnp.nan)
        return Proposal(configs, predicted, proposal.info | {"repeat": repeat, "replaced": ~good})

    return searcher._replace(ask=ask)
