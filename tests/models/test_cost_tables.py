"""FLOPs that a compiled program looks up: equal to the count of one configuration at a time, to the last one."""

import random

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from autorank.models.cost import flops_per_example
from autorank.models.cost_tables import FIELDS, cost_tables
from autorank.models.dhen import DhenConfig, LayerConfig
from autorank.models.interactions import MODULES

NAMES = ("none", *MODULES)
CHOICES = {
    "num_layers": (1, 2, 3),
    "width": (8, 64),
    "num_tokens": (8, 32),
    "rank": (8, 64),
    "heads": (1, 4),
    "kernel": (1, 5),
    "mlp_depth": (1, 3),
    "mlp_width": (16, 2048),
    "norm": ("pre", "post", "none"),
    "ensemble": ("concat", "sum", "weighted"),
    "head": ("ctr", "esmm"),
    "head_depth": (1, 2),
    "head_width": (16, 256),
    **{f"layer{i}.{slot}": NAMES for i in (1, 2, 3) for slot in "abc"},
}


def config_of(index: dict[str, int]) -> DhenConfig:
    values = {name: CHOICES[name][i] for name, i in index.items()}
    settings = {name: values[name] for name in FIELDS}
    for i in (1, 2, 3):
        settings[f"layer{i}"] = LayerConfig(*(values[f"layer{i}.{slot}"] for slot in "abc"))
    return DhenConfig(**settings)


@pytest.mark.parametrize("num_dense", [0, 3])
def test_the_tables_count_what_the_formula_counts(num_dense):
    rng = random.Random(num_dense)
    indices = [{k: rng.randrange(len(v)) for k, v in CHOICES.items()} for _ in range(400)]
    at = {k: jnp.array([index[k] for index in indices]) for k in CHOICES}
    count = jax.jit(cost_tables(CHOICES, 9, num_dense))(at)
    found = np.asarray(count.high, np.int64) * 2**20 + np.asarray(count.low)
    expected = np.array([flops_per_example(config_of(i), 9, num_dense) for i in indices])
    assert expected.max() > 2**24  # float32 does not hold these
    np.testing.assert_array_equal(found, expected.astype(np.int64))
    np.testing.assert_allclose(count.log(), np.log(expected), rtol=1e-6)
    limit = np.median(expected)
    np.testing.assert_array_equal(count.at_most(limit), expected <= limit)
    np.testing.assert_array_equal(count.at_most(limit - 1), expected <= limit - 1)


def test_sizes_that_cannot_be_counted_are_refused_with_what_to_write():
    many = {name: tuple(range(1, 65)) for name in ("mlp_width", "rank", "num_tokens", "width")}
    with pytest.raises(ValueError, match=r"fewer choices of model.*space.grid_size"):
        cost_tables(many | {"layer1.a": ("fmb",)}, 4, 0)
