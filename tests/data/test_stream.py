import threading
import time

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from autorank.data.format.batches import Dataset
from autorank.data.format.schema import Field, Schema
from autorank.data.prepare.stream import blocks, deduplicator, read_ahead


def dataset(num_rows: int) -> Dataset:
    rng = np.random.default_rng(0)
    fields = (Field("a", 10, 0), Field("b", 20, 10))
    schema = Schema(
        "toy", fields, ("x",), ("click",), num_rows, max(1, num_rows // 2), ("c",), "", "", {}, {}
    )
    return Dataset(
        schema,
        np.stack([rng.integers(0, 10, num_rows), rng.integers(10, 30, num_rows)], 1).astype(
            np.int32
        ),
        rng.normal(size=(num_rows, 1)).astype(np.float32),
        rng.integers(0, 2, (num_rows, 1)).astype(np.int8),
    )


@pytest.mark.parametrize("ahead", [0, 1, 3])
@pytest.mark.parametrize("first_row", [0, 5, 100])
def test_blocks_are_the_rows_in_order(ahead, first_row):
    data = dataset(100)
    found = list(blocks(data, 7, first_row=first_row, ahead=ahead))
    assert [len(block.labels) for block in found[:-1]] == [7] * (len(found) - 1)
    for name in ("sparse", "dense", "labels"):
        whole = getattr(data, name)[first_row:]
        parts = [getattr(block, name) for block in found]
        np.testing.assert_array_equal(np.concatenate([whole[:0], *parts]), whole)
    whole = list(blocks(data, 7, first_row=first_row, ahead=ahead, drop_rest=True))
    assert len(whole) == (100 - first_row) // 7


def test_blocks_share_no_memory():
    """What JAX may hold in place is never written to again."""
    data = dataset(4096)
    found = list(blocks(data, 64, ahead=2))
    on_device = [jax.device_put(block.dense) for block in blocks(data, 64, ahead=2)]
    for i, block in enumerate(found):
        assert not np.shares_memory(block.sparse, data.sparse)
        np.testing.assert_array_equal(on_device[i], data.dense[64 * i : 64 * i + 64])
    assert not np.shares_memory(found[0].dense, found[1].dense)


def test_half_precision_loses_what_is_said():
    data = dataset(1000)
    data.dense[:3, 0] = [1e6, -1e6, 0.0]
    dense = np.concatenate([block.dense for block in blocks(data, 64, dense_dtype=np.float16)])
    assert dense.dtype == np.float16
    assert dense[:3, 0].tolist() == [65504, -65504, 0]
    np.testing.assert_allclose(dense[3:], data.dense[3:], rtol=5e-4, atol=1e-7)


def test_bad_blocks_are_refused():
    with pytest.raises(ValueError, match="block_rows=0"):
        blocks(dataset(10), 0)


def test_an_error_of_the_thread_reaches_the_consumer():
    def items():
        yield 1
        raise OSError("disk on fire")

    found = read_ahead(items(), 2)
    assert next(found) == 1
    with pytest.raises(OSError, match="disk on fire"):
        next(found)


def test_a_consumer_that_stops_stops_the_thread():
    made = []

    def items():
        for i in range(1000):
            made.append(i)
            yield i

    found = read_ahead(items(), 3)
    assert [next(found), next(found)] == [0, 1]
    found.close()  # type: ignore[attr-defined]
    assert len(made) <= 2 + 3 + 2
    assert not any(thread.name == "read ahead" for thread in threading.enumerate())


def test_the_thread_is_ahead():
    made = []

    def items():
        for i in range(10):
            made.append(i)
            yield i

    found = read_ahead(items(), 3)
    next(found)
    deadline = time.monotonic() + 20
    while len(made) < 4 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len(made) >= 4
    assert list(found) == list(range(1, 10))


DEDUP = {size: deduplicator(size) for size in (31, 50_000)}


@given(
    arrays.arrays(
        np.int32, arrays.array_shapes(max_dims=2, min_side=0), elements=st.integers(0, 30)
    ),
    st.integers(0, 5),
)
def test_dedup_against_numpy(ids, spare):
    """Tables that are short and long against the batch; what they held before does not matter."""
    for size in (31, 31, 50_000):
        dedup = DEDUP[size]
        expected, inverse = np.unique(ids, return_inverse=True)
        capacity = len(expected) + spare
        found = dedup(ids, capacity)
        assert found.count == len(expected) and len(found.ids) == capacity
        np.testing.assert_array_equal(found.ids[: found.count], expected)
        np.testing.assert_array_equal(found.inverse, inverse.reshape(ids.shape))
        assert (np.diff(found.ids) > 0).all() and (found.ids[found.count :] >= size).all()
        ids = ids[::-1].copy()


def test_dedup_refuses():
    dedup = deduplicator(10)
    ids = np.array([[1, 2], [3, 1]], np.int32)
    assert dedup(ids).ids.shape == (4,)
    with pytest.raises(ValueError, match="3 distinct ids do not fit capacity=2"):
        dedup(ids, 2)
    assert DEDUP[50_000](ids).count == 3
    for bad in (-1, 10):
        with pytest.raises(ValueError, match="are outside"):
            dedup(np.array([bad, 3], np.int32))
