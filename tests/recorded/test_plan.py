"""Which runs a table has is a function of its settings alone."""

import numpy as np
import pytest

from autorank.recorded.plan import Plan, configurations
from autorank.recorded.space_text import space_from, space_text
from tests.recorded.making import PLAN, SPACE


def test_configurations_are_distinct_canonical_and_begin_with_the_baseline():
    configs = configurations(SPACE, PLAN)
    assert configs.shape == (1 + PLAN.configurations, 4) and configs.dtype == np.int32
    assert tuple(configs[0]) == SPACE.baseline
    assert len(np.unique(configs, axis=0)) == len(configs)
    SPACE.validate(configs)
    np.testing.assert_array_equal(configs, configurations(SPACE, PLAN))
    assert (configs != configurations(SPACE, PLAN._replace(seed=4))).any()


def test_a_configuration_and_its_seed_do_not_depend_on_how_many_there_are():
    more = Plan(configurations=40, repeated=30, more_seeds=5, seed=PLAN.seed)
    np.testing.assert_array_equal(
        configurations(SPACE, more)[: 1 + PLAN.configurations], configurations(SPACE, PLAN)
    )
    runs = PLAN.runs()
    assert set(runs) <= set(more.runs())
    assert [PLAN.seed_of(*r) for r in runs] == [more.seed_of(*r) for r in runs]
    assert len({PLAN.seed_of(*r) for r in runs}) == len(runs)
    # Fixed for ever: recorded tables depend on it.
    first = Plan(1, 1, 1, 0)
    assert (first.seed_of(1, 0), first.seed_of(17, 3)) == (1982462498, 1488348514)


@pytest.mark.parametrize("cut", [1, 7, 20])
def test_disjoint_ranges_cover_a_table_once(cut):
    parts = PLAN.runs(0, cut) + PLAN.runs(cut)
    assert sorted(parts) == sorted(PLAN.runs()) and len(PLAN.runs()) == 21 + 2 * 7
    assert PLAN.runs(21) == [] and PLAN.runs(19, 100) == [(19, 0), (20, 0)]


def test_a_space_that_is_too_small_is_refused():
    most = SPACE.cardinality() - 1
    assert len(configurations(SPACE, PLAN._replace(configurations=most))) == most + 1
    with pytest.raises(ValueError, match=f"configurations={most + 1}.*write {most} or fewer"):
        configurations(SPACE, PLAN._replace(configurations=most + 1))


def test_a_space_reads_back_from_its_text():
    assert space_from(space_text(SPACE), "here") == SPACE
    for text in ("", "a: [", "decisions: 3", space_text(SPACE).replace("0.01", "0.02", 1)):
        with pytest.raises(ValueError, match="here: this is no space"):
            space_from(text, "here")
