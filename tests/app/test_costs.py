"""A searcher's cost is the objective's, the cap is exact, and settings that cannot be meant say what to write."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from autorank.app import build
from autorank.app.composition import settings
from autorank.app.costs import counter, known_cost
from autorank.app.idle import idle_settings
from autorank.app.settings import PlanConfig, SearchConfig
from autorank.base.records import value_at
from autorank.data.format.batches import Dataset
from autorank.data.format.schema import Field, Schema
from autorank.objectives.training import AnalyticCost
from autorank.search.budget import Budget
from autorank.search.cap import refuse_dear, require_cost, within
from autorank.search.context import Context, SearchStopped
from autorank.search.pilots import pilot_design
from autorank.searchers.autorank import AutorankConfig
from autorank.searchers.evolution import EvolutionConfig
from autorank.searchers.region import Region
from autorank.space.parse import parse_space
from tests.planted import planted_objective, planted_space

FIELDS = tuple(Field(f"f{i}", 3, 0) for i in range(5))
SCHEMA = Schema("t", FIELDS, ("d",), ("click",), 2, 1, ("y",), "", "", {}, {})
DATA = Dataset(SCHEMA, np.zeros((2, 5), np.int32), np.zeros((2, 1)), np.zeros((2, 1), np.int8))
DECISIONS = {
    "model.num_layers": "choice(1,2,3)",
    "model.layer1.a": "choice(dot,attention,linear,cross,cross_low,convolution,fmb,mask)",
    "model.layer2.a": "choice(none,dot,fmb)",
    "model.layer2.b": "choice(none,mask,attention)",
    "model.width": "tag(log, choice(8,16,32))",
    "model.mlp_width": "tag(log, choice(32,128))",
    "model.norm": "choice(pre,post,none)",
    "model.ensemble": "choice(concat,sum)",
    "model.head_width": "tag(log, choice(32,64))",
    "training.dense_rate": "tag(log, interval(1e-4, 1e-2))",
}


def of_space(**plan):
    config = SearchConfig(search=PlanConfig(**plan))
    start = {k: value_at(config, k) for k in DECISIONS if k != "training.dense_rate"}
    start |= {"model.layer1.a": "dot", "training.dense_rate": 1e-3}
    conditions = {"model.layer2.*": {"model.num_layers": [2, 3]}}
    space = parse_space(DECISIONS, conditions, start, grid_size=4)
    shape = type("Shape", (), {"num_fields": 5, "num_dense": 1})
    return config, space, AnalyticCost(build.decoder(config, space), shape)  # pyright: ignore


def test_the_searchers_cost_is_the_objectives_and_the_cap_is_exact():
    config, space, objective = of_space(goal="front", max_flops_ratio=1.5)
    configs = np.asarray(space.sample(jax.random.key(0), 150))
    expected = objective(configs)
    count = jax.jit(counter(config, DATA, space))(configs)
    found = np.asarray(count.high, np.int64) * 2**20 + np.asarray(count.low)
    np.testing.assert_array_equal(found, expected)
    baseline = objective(np.array([space.baseline]))[0]
    cost = known_cost(config, DATA, space)
    assert cost is not None and cost.fits is not None
    np.testing.assert_allclose(
        cost.log_ratio(jnp.asarray(configs)), np.log(expected / baseline), atol=2e-6
    )
    np.testing.assert_array_equal(cost.fits(jnp.asarray(configs)), expected <= 1.5 * baseline)
    assert 0 < (expected <= 1.5 * baseline).mean() < 1
    assert cost.dearest == pytest.approx(np.log(1.5), abs=2e-3)
    # The baseline's own cost is within a cap of 1, with another rate for example.
    one = known_cost(*reordered(of_space(max_flops_ratio=1.0)))
    assert one is not None and one.fits is not None
    moved = np.tile(np.array(space.baseline, np.int32), (2, 1))
    moved[1, space.names.index("training.dense_rate")] += 1
    assert np.asarray(one.fits(jnp.asarray(moved))).all()
    assert known_cost(*reordered(of_space())) is None
    free = known_cost(*reordered(of_space(goal="front")))
    assert free is not None and free.fits is None
    assert free.dearest > np.log(expected / baseline).max()


def reordered(found):
    config, space, _ = found
    return config, DATA, space


def test_pilots_stay_within_the_cap_and_are_as_before_without_one():
    space, objective = planted_space(), planted_objective(planted_space())
    for ratio, seed in ((1.0, 0), (1.5, 1), (8.0, 2)):
        budget = Budget(24, 0, "ctr", 8, 6, 3, 3, 2, 0.9, max_flops_ratio=ratio)

        def may(configs, budget=budget):
            return within(objective, space, budget, configs)

        pilots = pilot_design(jax.random.key(seed), space, 8, 0.15, may)
        assert objective.cost is not None
        costs = objective.cost(pilots) / objective.cost(np.array([space.baseline]))[0]
        assert (costs <= ratio).all() and len(pilots) == len(np.unique(pilots, axis=0)) == 8
        dear = np.array(space.baseline)[None].copy()
        dear[0, space.names.index("width")] = 3
        context = Context(objective, space, None, budget, lambda *_: None)  # pyright: ignore
        if ratio < 8:
            with pytest.raises(SearchStopped, match=r"max_flops_ratio=1.*'width': 64"):
                refuse_dear(context, dear)
    unbounded = pilot_design(jax.random.key(0), space, 8, 0.15, lambda c: np.ones(len(c), bool))
    np.testing.assert_array_equal(unbounded, pilot_design(jax.random.key(0), space, 8, 0.15))
    with pytest.raises(SearchStopped, match="max_flops_ratio=null"):
        require_cost(objective._replace(cost=None), budget)


def test_settings_that_cannot_be_meant_say_what_to_write():
    with pytest.raises(ValueError, match=r"max_flops_ratio=0.5 leaves out the baseline.*write 1"):
        PlanConfig(max_flops_ratio=0.5)
    with pytest.raises(ValueError, match=r"search.goal.*best.*front"):
        PlanConfig(goal="cheap")
    with pytest.raises(ValueError, match=r"searcher=evolution.*searcher=autorank or searcher=rand"):
        SearchConfig(searcher=EvolutionConfig(), search=PlanConfig(goal="front"))
    own = AutorankConfig(alphas=(0.0,))
    said = idle_settings(SearchConfig(searcher=own, search=PlanConfig(goal="front")))
    assert list(said) == ["searcher.alphas=[0.0] has no effect with search.goal=front"]


def test_a_cap_that_leaves_nothing_is_refused_before_anything_is_trained():
    config, space, _ = of_space(max_flops_ratio=1.0)
    cost = known_cost(config, DATA, space)
    assert cost is not None and cost.fits is not None
    assert len(Region(space, cost.fits).some(5)) == 5
    small = parse_space({"model.width": "choice(16,32)"}, {}, {"model.width": 16}, grid_size=4)
    with pytest.raises(ValueError, match="leaves nothing to search"):
        build.searcher(config, small, known_cost(config, DATA, small))


def test_the_settings_are_read_from_the_command_line():
    from hydra import compose, initialize_config_dir

    from autorank.app.programs import CONFIGS, register

    register()
    with initialize_config_dir(CONFIGS, version_base="1.3"):
        composed = compose("search", ["search.goal=front", "search.max_flops_ratio=2"])
    config = settings(composed, SearchConfig)
    assert config.search.goal == "front" and config.search.max_flops_ratio == 2.0
