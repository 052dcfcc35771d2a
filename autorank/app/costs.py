"""What a search's configurations cost, as its searcher knows it: exact FLOPs, inside compiled programs."""

from collections.abc import Callable
from functools import reduce
from typing import Any

import jax.numpy as jnp
import numpy as np

from autorank.app.settings import SearchConfig
from autorank.base.typing import Array, Bool, Float, Int
from autorank.data.format.batches import Dataset
from autorank.models.cost_tables import FIELDS, SLOTS, Count, cost_tables
from autorank.models.dhen import LAYER_NAMES
from autorank.searchers.known_cost import KnownCost, cap_of, dearest_of
from autorank.space.space import Space

# From canonical configurations int32 [n, k] to exact FLOPs.
CountFlops = Callable[[Any], Count]


def known_cost(config: SearchConfig, data: Dataset, space: Space) -> KnownCost | None:
    """The cost of the space's configurations and the cap on it; None where no setting asks for either.

    Raises:
        ValueError: more sizes than can be counted one by one.
    """
    if config.search.goal != "front" and config.search.max_flops_ratio is None:
        return None
    count = counter(config, data, space)
    baseline = count(jnp.array([space.baseline], jnp.int32))
    flops = float(np.asarray(baseline.high, np.int64)[0] * 2**20 + np.asarray(baseline.low)[0])
    ratio = config.search.max_flops_ratio

    def log_ratio(configs: Int[Array, "n k"]) -> Float[Array, " n"]:
        return count(configs).log() - baseline.log()

    if ratio is None:
        return KnownCost(log_ratio, dearest_of(space, log_ratio))
    cap = cap_of(flops, ratio)

    def fits(configs: Int[Array, "n k"]) -> Bool[Array, " n"]:
        return count(configs).at_most(cap)

    return KnownCost(log_ratio, float(np.log(ratio)) + 1e-3, fits)


def counter(config: SearchConfig, data: Dataset, space: Space) -> CountFlops:
    """The FLOPs of a row for configurations of a space.

    Raises:
        ValueError: more sizes than can be counted one by one.
    """
    prefix = "model."
    columns = {
        d.name.removeprefix(prefix): i
        for i, d in enumerate(space.decisions)
        if d.name.startswith(prefix)
    }
    keys = (*FIELDS, *(f"{layer}.{slot}" for layer in LAYER_NAMES for slot in SLOTS))
    choices: dict[str, tuple[Any, ...]] = {
        key: (reduce(getattr, key.split("."), config.model),) for key in keys
    }
    choices |= {name: space.decisions[i].choices for name, i in columns.items()}
    tables = cost_tables(choices, len(data.schema.fields), len(data.schema.dense))

    def count(configs: Int[Array, "n k"]) -> Count:
        at = {name: configs[:, i] for name, i in columns.items()}
        return tables(at or {"num_layers": jnp.zeros(len(configs), jnp.int32)})

    return count
