"""Trees that are fitted to a recorded table: what they see, how well they order what they have not seen, and levels."""

import jax
import numpy as np
import pytest
import scipy.stats

from autorank.benchmarks import catalogue
from autorank.benchmarks.base import ask_table
from autorank.benchmarks.forest import Forest
from experiments.comparison.runs import LEVELS

NAME = "dhen_small_synthetic"


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    return catalogue.get(f"tables/{NAME}", tmp_path_factory.mktemp("nowhere"))


def test_what_the_trees_see_counts_the_modules_of_active_layers(table):
    forest, space = Forest(table), table.space
    config = space.encode(
        space.decode(np.array(space.baseline), inactive=True)
        | {"model.num_layers": 2, "model.layer1.a": "dot", "model.layer1.b": "none"}
        | {"model.layer2.a": "dot", "model.layer2.b": "cross", "model.layer3.a": "dot"}
    )
    own = np.asarray(space.features(config[None])).shape[1]
    counts = forest.features(config[None])[0, own:]
    names = [
        "attention",
        "convolution",
        "cross",
        "cross_low",
        "dot",
        "fmb",
        "linear",
        "mask",
        "none",
    ]
    assert dict(zip(names, counts.tolist(), strict=True)) == dict.fromkeys(names, 0.0) | {
        "dot": 2.0,
        "cross": 1.0,
        "none": 1.0,
    }


def test_it_orders_what_it_has_not_seen_and_costs_are_near(table):
    pytest.importorskip("sklearn")
    pool, held_out = table.pool, 500
    rows = [pool.values(i) for i in range(len(pool))]
    truth = table.query(rows)

    class Part:
        configs = pool.configs[:-held_out]
        values = staticmethod(pool.values)

        def __len__(self):
            return len(self.configs)

    found = Forest(table._replace(pool=Part()))(rows[-held_out:])
    tau = scipy.stats.kendalltau(found[:, 0], truth[-held_out:, 0]).statistic
    assert tau > 0.6  # two seeds of one configuration: .74
    assert np.corrcoef(found[:, 1], truth[-held_out:, 1])[0, 1] > 0.9


def test_any_configuration_can_be_asked_for_and_the_levels_bound_it(tmp_path):
    pytest.importorskip("sklearn")
    benchmark = catalogue.get(f"forest/{NAME}", tmp_path)
    configs = np.asarray(benchmark.space.sample(jax.random.key(3), 400))
    found = ask_table(benchmark, configs)
    assert benchmark.pool is None and np.isfinite(found).all()
    best, typical = catalogue.levels(LEVELS)[benchmark.name]
    assert best < found[:, 0].min() and np.median(found[:, 0]) == pytest.approx(typical, rel=5e-3)
