import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from autorank.serving.unknown_shares import LEAST, LEVEL, bound, warnings


@given(st.floats(0, 1), st.integers(1, 10**9))
def test_the_bound_lies_above_the_held_out_share(share, rows):
    assert LEAST <= bound(share, rows) < 1
    if share * rows < rows - 1:
        assert bound(share, rows) > share or bound(share, rows) == LEAST


def test_both_shares_and_the_field_are_told():
    lines = warnings({"user": 80, "item": 3}, 100, {"user": 0.125, "item": 0.02}, 1000)
    assert len(lines) == 1
    assert "field user: 80 % of 100 scored rows" in lines[0]
    assert "12.5 % of the 1,000 held-out rows" in lines[0]


def test_a_few_rows_are_no_proof():
    for num_rows in (1, 2, 3):
        assert not warnings({"user": num_rows}, num_rows, {"user": 0.0}, 10**6)
    assert warnings({"user": 4}, 4, {"user": 0.0}, 10**6)
    # Three held-out rows say little of what is to be expected.
    assert not warnings({"user": 4}, 4, {"user": 0.0}, 3)


def test_rows_like_the_held_out_ones_are_hardly_ever_warned_of():
    rng = np.random.default_rng(0)
    false = 0
    for share in (0.0, 0.01, 0.1, 0.5, 0.9):
        for num_rows in (5, 50, 5000):
            for _ in range(100):
                count = int(rng.binomial(num_rows, share))
                false += len(warnings({"user": count}, num_rows, {"user": share}, 2000))
    assert false == 0


def test_what_is_three_times_as_likely_is_still_no_news():
    """At the bound itself a warning is as rare as `LEVEL` says."""
    rng = np.random.default_rng(1)
    counts = rng.binomial(400, bound(0.1, 10_000), 3000)
    found = sum(len(warnings({"u": int(c)}, 400, {"u": 0.1}, 10_000)) for c in counts)
    assert found <= 3 + 3000 * LEVEL * 5


def test_unknown_fields_and_none_unknown():
    assert not warnings({"new": 9}, 9, {"user": 0.0}, 100)
    assert not warnings({"user": 0}, 0, {"user": 0.0}, 100)
