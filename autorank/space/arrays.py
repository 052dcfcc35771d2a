"""Operations on many configurations at a time; all of them run inside ``jit`` and ``scan``.

Configurations are int32 ``[n, k]``: choice indices of ``k`` decisions.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from autorank.base.typing import Array, Float, Int, Key
from autorank.space.tables import Tables


def active(xp: Any, tables: Tables, configs: Any) -> Any:
    """Which decisions are active, bool ``[n, k]``, computed with ``xp`` (numpy or jax.numpy).

    One matrix product for each level of conditions, roots first.
    """
    n, k = configs.shape
    roots = xp.asarray(tables.roots)[None, :]
    hot = configs[:, :, None] == xp.arange(tables.max_choices)[None, None, :]
    found = xp.broadcast_to(roots, (n, k))
    for _ in range(tables.depth):
        held = (hot & found[:, :, None]).reshape(n, k * tables.max_choices)
        # Sums of zeros and ones: exact in any matmul precision.
        found = roots | (held.astype(np.float32) @ xp.asarray(tables.activates) > 0.5)
    return found


def canonical(tables: Tables, configs: Int[Array | np.ndarray, "n k"]) -> Int[Array, "n k"]:
    """Inactive decisions set to the baseline's choice."""
    configs = jnp.asarray(configs, jnp.int32)
    baseline = jnp.asarray(tables.baseline)[None, :]
    return jnp.where(active(jnp, tables, configs), configs, baseline)


def sample(tables: Tables, key: Key, n: int) -> Int[Array, "n k"]:
    """Each decision uniform, then canonical (so not uniform over configurations)."""
    uniform = jax.random.uniform(key, (n, len(tables.num_choices)))
    return canonical(tables, choices_at(uniform, tables.num_choices))


def mutate(
    tables: Tables,
    key: Key,
    configs: Int[Array | np.ndarray, "n k"],
    rate: float | Float[Array, ""],
) -> Int[Array, "n k"]:
    """Changes each active decision with probability ``rate``, and at least one; canonical.

    A decision that the change activates is drawn anew. A configuration whose active decisions have one choice each
    stays as it is.
    """
    configs = jnp.asarray(configs, jnp.int32)
    n, k = configs.shape
    coin, pick, shift, new = jax.random.uniform(key, (4, n, k))
    sizes = tables.num_choices
    on = active(jnp, tables, configs)
    free = on & jnp.asarray(sizes > 1)[None, :]
    forced = jnp.argmax(jnp.where(free, pick, -1.0), axis=1)
    change = free & ((coin < rate) | jax.nn.one_hot(forced, k, dtype=bool))
    step = 1 + choices_at(shift, np.maximum(sizes - 1, 1))
    changed = (configs + step) % jnp.asarray(sizes)[None, :]
    kept = jnp.where(on, configs, choices_at(new, sizes))
    return canonical(tables, jnp.where(change, changed, kept))


def features(tables: Tables, configs: Int[Array | np.ndarray, "n k"]) -> Float[Array, "n x"]:
    """One-hot for categorical decisions, one scaled float for numbers, 0 where inactive."""
    configs = jnp.asarray(configs, jnp.int32)
    decision, choice = tables.feature_decision, tables.feature_choice
    own = configs[:, decision]  # [n, x]
    flat = jnp.asarray(tables.numbers.reshape(-1))
    values = flat[jnp.asarray(decision * tables.max_choices)[None, :] + own]
    hot = (own == jnp.asarray(choice)[None, :]).astype(jnp.float32)
    number = jnp.asarray(choice < 0)[None, :]
    on = active(jnp, tables, configs)[:, decision]
    return jnp.where(on, jnp.where(number, values, hot), 0.0)


def choices_at(uniform: Float[Array, "n k"], sizes: np.ndarray) -> Int[Array, "n k"]:
    """Uniform numbers in [0, 1) to choice indices.

    They are below 1 by at least 2^-23, so no product rounds up to its size. (``jax.random.randint`` is exact to the
    last bit, but takes twice as long to compile.)
    """
    return (uniform * jnp.asarray(sizes, jnp.float32)[None, :]).astype(jnp.int32)
