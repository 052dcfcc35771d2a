"""Numbers that decide are settings: each reaches what it is for, and its default is what was done without it."""

import inspect
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from autorank.app.settings import PlanConfig, SearchConfig
from autorank.data.format.batches import Dataset
from autorank.data.format.schema import Field, Schema
from autorank.search.budget import Budget
from autorank.search.finals import choose_roles, pick_finalists
from autorank.search.pilots import pilot_design
from autorank.searchers import candidates
from autorank.searchers.autorank import AutorankConfig
from autorank.surrogates import gaussian_process as gp
from tests.planted import planted_space

SPACE = planted_space()


def test_the_prior_on_the_noise_is_what_was_asked_for():
    priors = gp.default_priors(4.0, effect_sd=0.9, noise=(0.02, 0.7))
    assert priors.noise == (math.log(0.02), 0.7) and priors.effect[1] == 0.9
    assert gp.default_priors(4.0).noise == (math.log(1e-3), 1.5)


def test_small_changes_are_as_small_and_as_frequent_as_asked():
    parents = jnp.tile(jnp.array(SPACE.baseline, jnp.int32), (4000, 1))
    where = [d.name for d in SPACE.decisions].index("rate")

    def moves(**options):
        settings = candidates.CandidateSettings(mutation_rate=1.0, **options)
        rows = np.asarray(candidates.vary(jax.random.key(0), SPACE, parents, settings))
        return np.abs(rows[:, where] - SPACE.baseline[where])

    assert moves(near_share=1.0, near_step=0.01).max() == 1
    assert moves(near_share=0.0).mean() > 1.5 > moves(near_share=1.0, near_step=0.1).mean()
    assert (moves() == moves(near_share=0.75, near_step=0.1)).all()


def test_pilots_near_the_baseline_change_the_share_asked_for():
    def distance(rate):
        pilots = pilot_design(jax.random.key(0), SPACE, 16, rate)
        return (pilots[8:] != np.array(SPACE.baseline)).sum(axis=1).mean()

    assert distance(0.9) > distance(0.15)
    np.testing.assert_array_equal(
        pilot_design(jax.random.key(0), SPACE, 16), pilot_design(jax.random.key(0), SPACE, 16, 0.15)
    )


def test_the_plans_defaults_are_the_settings():
    from autorank.app import build

    made = build.budget(SearchConfig())
    bare = Budget(
        **{n: getattr(made, n) for n in Budget._fields if n not in Budget._field_defaults}
    )
    assert bare == made
    changed = {
        "choice_seeds": 2,
        "final_half_width": 0.03,
        "max_final_seeds": 9,
        "equal_cost": 1.2,
        "equal_ne_margin": 0.02,
        "pilot_mutation": 0.3,
        "test_finalists": False,
        "max_flops_ratio": 2.0,
    }
    # The measure is a part of search.metric.
    assert set(changed) == set(Budget._field_defaults) - {"measure"}
    assert build.budget(SearchConfig(search=PlanConfig(metric="auc"))).measure == "auc"
    assert (
        build.budget(SearchConfig(search=PlanConfig(**changed)))._asdict().items()
        >= changed.items()
    )


def test_the_functions_of_the_finals_have_the_settings_defaults():
    plan = PlanConfig()
    finals = inspect.signature(pick_finalists).parameters
    assert finals["equal_cost"].default == plan.equal_cost
    assert finals["margin"].default == plan.equal_ne_margin
    assert inspect.signature(choose_roles).parameters["equal_cost"].default == plan.equal_cost


def test_the_speed_is_measured_for_as_long_as_asked_for():
    from autorank.app import build
    from autorank.objectives.training import ObjectiveConfig

    schema = Schema("t", (Field("f", 3, 0),), ("d",), ("click",), 2, 1, ("y",), "", "", {}, {})
    data = Dataset(schema, np.zeros((2, 1), np.int32), np.zeros((2, 1)), np.zeros((2, 1), np.int8))

    def seconds(**plan):
        config = SearchConfig(search=PlanConfig(**plan))
        return build.objective_settings(config, data, SPACE).qps_seconds

    assert seconds() == ObjectiveConfig().qps_seconds and seconds(qps_seconds=0.02) == 0.02
    with pytest.raises(ValueError, match=r"search\.qps_seconds=0"):
        PlanConfig(qps_seconds=0.0)


@pytest.mark.parametrize(
    ("settings", "words"),
    [({"noise_sd": 0.0}, "noise_sd"), ({"pool": 0}, "pool"), ({"near_share": 1.5}, "near_share")],
)
def test_settings_that_cannot_be_meant_are_refused(settings, words):
    with pytest.raises(ValueError, match=rf"searcher\.{words}="):
        AutorankConfig(**settings)
