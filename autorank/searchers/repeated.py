"""What trials of the same configuration tell about results."""

import jax.numpy as jnp

from autorank.base.typing import Array, Bool
from autorank.searchers.base import History, known

# Equal repeats before results count as exact: a coarse metric, such as the accuracy on few rows, gives one by chance.
LEAST = 2


def are_exact(history: History) -> Bool[Array, ""]:
    """Whether repeats have shown that a configuration always gets the same result: `LEAST` of them, and none differs.

    Examples:
        >>> def told(*qualities):
        ...     metrics = jnp.array([(q, 0.0) for q in qualities])
        ...     return History(jnp.zeros((len(qualities), 1), jnp.int32), metrics, len(qualities))
        >>> [bool(are_exact(told(*q))) for q in ((0.3, 0.3), (0.3, 0.3, 0.3), (0.3, 0.3, 0.3, 0.4))]
        [False, True, False]
    """
    quality = history.metrics[:, 0]
    finished = known(history) & jnp.isfinite(quality)
    same = jnp.all(history.configs[:, None] == history.configs[None], axis=2)
    order = jnp.arange(len(quality))
    earlier = same & finished[:, None] & finished[None] & (order[:, None] > order[None])
    differ = jnp.any(earlier & (quality[:, None] != quality[None]))
    return (jnp.sum(jnp.any(earlier, axis=1)) >= LEAST) & ~differ
