"""Every slot with a module, and every lane, is in one list of each kind: that of the smallest view that holds it."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from autorank.models.dhen import DhenConfig, LayerConfig
from autorank.population.capacity import capacity_of, empty_lane, lane_of, stacked
from autorank.population.kernels.slot_table import Column, number_of
from autorank.population.kernels.work_lists import (
    LANES,
    groups_of,
    start_of_list,
    table_with_lists,
    views_of,
    works_of,
)

SIZES: dict[str, Any] = {"num_tokens": 16, "rank": 8, "head_width": 8, "ensemble": "concat"}
CONFIGS = [
    DhenConfig(
        width=width, num_layers=2, layer1=LayerConfig("attention", "mask"), layer2=LayerConfig(last), **SIZES
    )
    for width, last in ((8, "dot"), (32, "linear"), (16, "cross"))
]  # fmt: skip


@pytest.mark.parametrize("fields", [4, 37])
def test_lists_hold_each_slot_and_each_lane_once(fields):
    capacity = capacity_of(CONFIGS, fields, 2)._replace(split=True)
    # A lane without a model is no slot's, but rows go through it.
    models = [*(lane_of(config, capacity) for config in CONFIGS), empty_lane(capacity)]
    table = np.asarray(table_with_lists(capacity, jax.tree.map(jnp.asarray, stacked(models))))
    lanes, slots = len(models), capacity.slots
    columns = table[: capacity.num_layers * lanes * slots * len(Column)]
    columns = columns.reshape(capacity.num_layers, lanes * slots, len(Column))
    found: dict[Any, list[tuple[int, int]]] = {}
    for work in works_of(capacity):
        for layer in range(capacity.num_layers):
            start = int(start_of_list(capacity, lanes, work, jnp.int32(layer)))
            for number in table[start + 1 : start + 1 + table[start]].tolist():
                found.setdefault(work.modules, []).append((layer, number))
                own = columns[layer, number * slots if work.modules == LANES else number]
                other = Column.LEAVING if work.modules == LANES else Column.TOKENS
                sizes = max(own[Column.POSITIONS], own[other]), own[Column.WIDTH]
                views = views_of(capacity)
                held = [v for v in views if v.positions >= sizes[0] and v.width >= sizes[1]]
                assert held[0] == work.view
    assert sorted(found[LANES]) == [(i, j) for i in range(2) for j in range(lanes)]
    for group in groups_of(capacity):
        module = np.isin(columns[..., Column.MODULE], [number_of(n) for n in group])
        assert sorted(found[group]) == [tuple(at) for at in np.argwhere(module).tolist()]


def test_views_grow_by_powers_of_two():
    capacity = capacity_of(CONFIGS, 37, 2)
    sizes = {(view.positions, view.width) for view in views_of(capacity)}
    assert sizes == {(m, d) for m in (16, 32, 38) for d in (16, 32)}
    small = capacity_of([DhenConfig(width=8, num_layers=1, num_tokens=4)], 4, 2)
    assert len(views_of(small)) == 1
