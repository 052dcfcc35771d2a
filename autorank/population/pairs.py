"""Which slots of which lanes hold a module of each group: the work of a step, as arrays."""

from typing import Any, NamedTuple

import numpy as np

from autorank.base.typing import Array, Bool, Int
from autorank.population.capacity import Capacity, Lane
from autorank.population.families import groups


class Pairs(NamedTuple):
    """The (lane, slot) pairs of each group ``g`` in each layer ``n``, first ones first; the rest is padding.

    Within a group, pairs of one kind lie side by side.
    """

    lane: Int[Array, "n g i"]
    slot: Int[Array, "n g i"]
    kind: Int[Array, "n g i"]  # index in `Capacity.kinds`
    count: Int[Array, "n g"]


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
    found = groups(capacity)
    group_of = {k: g for g, group in enumerate(found) for k in group.kinds}
    shape = (capacity.num_layers, max(1, len(found)))
    lane, slot, kind = (
        np.zeros((*shape, len(running) * capacity.slots), np.int32) for _ in range(3)
    )
    count = np.zeros(shape, np.int32)
    held = np.where(running[:, None, None], lanes.kinds, -1)
    where = np.nonzero(held >= 0)
    by_kind = np.argsort(held[where], kind="stable")
    for i, n, s in zip(*(a[by_kind] for a in where), strict=True):
        g = group_of[int(held[i, n, s])]
        at = count[n, g]
        lane[n, g, at], slot[n, g, at], kind[n, g, at] = i, s, held[i, n, s]
        count[n, g] += 1
    arrays: Any = (lane, slot, kind, count)
    return Pairs(*arrays)
