"""A grid's budget in points."""

import pytest

from autorank.app.settings import TuneConfig
from autorank.app.tuning_job import points_of

GRID = {"a": [1, 2, 3, 4], "b": [1, 2, 3], "c": ["x", "y"]}


def test_more_points_of_a_grid_have_the_fewer_and_none_twice():
    few, many, every = (points_of(GRID, n) for n in (5, 20, None))
    assert many[:5] == few and len({str(p) for p in many}) == 20 and len(every) == 24
    assert all(p in every for p in many) and points_of(GRID, 99) == every
    assert {p["a"] for p in many} == {1, 2, 3, 4}


def test_no_points_are_refused():
    with pytest.raises(ValueError, match="points=0"):
        TuneConfig(points=0)
