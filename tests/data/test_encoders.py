import math

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autorank.data.format.canonical_text import canonical
from autorank.data.prepare.columns import distinct_values, to_numbers
from autorank.data.prepare.encoders import DenseEncoder, Encoders, FieldEncoder, encode, signed_log
from autorank.data.prepare.encoders_file import read_encoders, write_encoders

ENCODERS = Encoders(
    (FieldEncoder("city", 0, ("rome", "3", "é")), FieldEncoder("hour", 5, ("12",))),
    (DenseEncoder("price", 1.0, 2.0),),
)


@given(st.lists(st.one_of(st.none(), st.text(max_size=3), st.sampled_from(["a", "b"]))))
def test_codes_name_the_values(items):
    codes, found = distinct_values(pl.Series(items, dtype=pl.String))
    values = found.to_pylist()
    assert codes.dtype == np.int32 and len(set(values)) == len(values)
    named = [values[code] if code >= 0 else None for code in codes]
    assert named == [canonical(item or "") or None for item in items]


@pytest.mark.parametrize(
    "column, expected",
    [
        (np.array([3, -1, 3]), ["3", "-1", "3"]),
        (np.array([2**40]), [str(2**40)]),
        (np.array([], np.int64), []),
        ([True, None], ["true", None]),
        (pl.Series([1.5, float("nan"), None]), ["1.5", None, None]),
        (pl.Series([7, None], dtype=pl.Int8), ["7", None]),
        (pl.Series([7.0, None, -0.0, 2.0**53]), ["7", None, "0", str(2**53)]),
        (np.array([7.0, 0.1], np.float32), ["7", "0.1"]),
        (["7.0", " 7", "007", "True", "1e3"], ["7", "7", "007", "true", "1e3"]),
    ],
)
def test_values_are_compared_as_text(column, expected):
    codes, found = distinct_values(column)
    values = found.to_pylist()
    assert [values[code] if code >= 0 else None for code in codes] == expected


@pytest.mark.parametrize(
    "column, numbers, malformed",
    [
        (pl.Series(["1", " 2.5 ", "", None]), [1, 2.5, None, None], [0, 0, 0, 0]),
        (pl.Series(["-1e3", "nan", "inf", "x"]), [-1000, None, None, None], [0, 0, 1, 1]),
        (np.array([1, 2], np.int8), [1, 2], [0, 0]),
        (np.array([np.nan, np.inf]), [None, None], [0, 1]),
        (pl.Series([True, None]), [1, None], [0, 0]),
        ([1, None, 2.0], [1, None, 2], [0, 0, 0]),
        ([], [], []),
    ],
)
def test_numbers(column, numbers, malformed):
    found, wrong = to_numbers(column)
    assert wrong.tolist() == [bool(w) for w in malformed]
    expected = [math.nan if number is None else number for number in numbers]
    np.testing.assert_array_equal(found, expected)


def test_signed_log_keeps_sign_and_order():
    x = np.array([-1e9, -1.0, 0.0, 1.0, math.e - 1, 1e9, np.nan])
    y = signed_log(x)
    np.testing.assert_allclose(y[1:5], [-math.log(2), 0, math.log(2), 1], rtol=1e-12)
    assert (np.diff(y[:-1]) > 0).all() and np.isnan(y[-1])


def test_encode_by_hand():
    columns = {
        "city": ["rome", "3", "é", "paris", None, ""],
        "hour": np.array([12, 12, 0, 1, 2, 12]),
        "price": ["0", str(math.e - 1), "", None, str(math.exp(3) - 1), "-" + str(math.e - 1)],
        "ignored": ["x"] * 6,
    }
    sparse, dense = encode(ENCODERS, columns)
    assert sparse.tolist() == [[2, 7], [3, 7], [4, 6], [1, 6], [0, 6], [0, 7]]
    assert sparse.dtype == np.int32 and dense.dtype == np.float32
    np.testing.assert_allclose(dense[:, 0], [-0.5, 0, 0, 0, 1, -1], atol=1e-6)


@pytest.mark.parametrize(
    "columns, message",
    [
        ({"city": ["a"], "price": [1]}, "columns \\['hour'\\] are missing"),
        ({"city": ["a"], "hour": [1, 2], "price": [1]}, "differ in length"),
        ({"city": ["a"], "hour": [1], "price": ["cheap"]}, "price, row 0: 'cheap'"),
    ],
)
def test_encode_refuses(columns, message):
    with pytest.raises(ValueError, match=message):
        encode(ENCODERS, columns)


def test_encode_no_rows():
    sparse, dense = encode(ENCODERS, {"city": [], "hour": [], "price": []})
    assert sparse.shape == (0, 2) and dense.shape == (0, 1)


def test_file_gives_the_same_back(tmp_path):
    write_encoders(ENCODERS, tmp_path)
    assert read_encoders(tmp_path) == ENCODERS
    with pytest.raises(FileNotFoundError, match="encoders.json is missing"):
        read_encoders(tmp_path / "none")
    (tmp_path / "encoders.json").write_text('{"format": 7}')
    with pytest.raises(ValueError, match="format 7"):
        read_encoders(tmp_path)
