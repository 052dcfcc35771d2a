"""Which slots of which lanes hold a module of each kind: the work of a step, as arrays."""

from typing import Any, NamedTuple

import numpy as np

from autorank.base.typing import Array, Bool, Int
from autorank.population.capacity import Capacity, Lane


class Pairs(NamedTuple):
    """The (lane, slot) pairs of each kind ``k`` in each layer ``n``, first ones first; the rest is padding."""

    lane: Int[Array, "n k i"]
    slot: Int[Array, "n k i"]
    count: Int[Array, "n k"]


def pairs_of(capacity: Capacity, lanes: Lane, running: Bool[np.ndarray, " p"]) -> Pairs:
    """The pairs of the ``running`` lanes; ``lanes`` are stacked (NumPy).

    Examples:
        >>> from autorank.models.dhen import DhenConfig, LayerConfig
        >>> from autorank.population.capacity import capacity_of, lane_of, stacked
        >>> models = [DhenConfig(num_layers=1, layer1=LayerConfig(*names)) for names in (("dot", "dot"), ("cross",))]
        >>> capacity = capacity_of(models, num_fields=4, num_dense=2)
        >>> lanes = stacked([lane_of(model, capacity) for model in models])
        >>> pairs_of(capacity, lanes, np.array([True, True])).count.tolist()
        [[1, 2]]
    """
    p = len(running)
    shape = (capacity.num_layers, max(1, len(capacity.kinds)))
    lane, slot = (np.zeros((*shape, p * capacity.slots), np.int32) for _ in range(2))
    count = np.zeros(shape, np.int32)
    held = np.where(running[:, None, None], lanes.kinds, -1)
    for i, n, s in zip(*np.nonzero(held >= 0), strict=True):
        k = held[i, n, s]
        at = count[n, k]
        lane[n, k, at], slot[n, k, at] = i, s
        count[n, k] += 1
    found: Any = (lane, slot, count)
    return Pairs(*found)
