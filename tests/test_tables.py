"""The row-sparse update against a dense one, with duplicates."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autorank.training.tables import Table, deduplicate, gather, look_up, rowwise_adagrad


def new_table(num_rows: int, width: int, seed: int = 0) -> Table:
    rows = jax.random.normal(jax.random.key(seed), (num_rows, width))
    return Table(rows, jnp.zeros(num_rows), jnp.zeros(num_rows, jnp.int32))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 8), min_size=6, max_size=6))
def test_deduplicate_finds_each_id_once(values):
    ids = np.array(values, np.int32).reshape(3, 2)
    stale_owner = jnp.full(9, 5, jnp.int32)  # whatever the last step left behind
    touched, owner = jax.jit(deduplicate)(ids, stale_owner)
    unique = np.asarray(touched.ids)
    real = unique[unique < 9]
    assert sorted(real) == sorted(set(values))
    np.testing.assert_array_equal(unique[np.asarray(touched.inverse)], ids)
    assert len(set(unique.tolist())) == len(unique), "padding must stay distinct"
    assert owner.shape == (9,)


def test_small_vocabulary_bounds_the_capacity():
    touched, _ = deduplicate(jnp.zeros((50, 3), jnp.int32), jnp.zeros(4, jnp.int32))
    assert touched.ids.shape == (4,)


def test_fifty_steps_equal_dense_adagrad_with_duplicates():
    num_rows, width, batch, fields = 30, 4, 16, 3
    table = new_table(num_rows, width)
    dense, accumulator = np.asarray(table.rows, np.float64), np.zeros(num_rows)
    rng = np.random.default_rng(0)
    rate, eps = 0.1, 1e-8

    @jax.jit
    def step(table, ids, targets):
        touched, owner = deduplicate(ids, table.owner)
        table = table._replace(owner=owner)

        def loss(rows):
            return jnp.mean(jnp.square(look_up(rows, touched).sum(axis=1) - targets))

        gradient = jax.grad(loss)(gather(table, touched))
        return rowwise_adagrad(
            table, touched, gradient, rate=jnp.float32(rate), eps=jnp.float32(eps)
        )

    for _ in range(50):
        ids = rng.integers(0, 10, (batch, fields)).astype(np.int32)  # many duplicates
        targets = rng.normal(size=(batch, width))
        table = step(table, ids, targets.astype(np.float32))
        residual = 2 * (dense[ids].sum(axis=1) - targets) / targets.size
        gradient = np.zeros_like(dense)
        for column in range(fields):
            np.add.at(gradient, ids[:, column], residual)
        accumulator += np.square(gradient).mean(axis=1)
        touched = np.unique(ids)
        dense[touched] -= rate * gradient[touched] / (np.sqrt(accumulator[touched]) + eps)[:, None]
    assert np.abs(np.asarray(table.rows) - dense).max() < 1e-4
    np.testing.assert_array_equal(np.asarray(table.accumulator)[10:], 0.0)


def test_untouched_rows_keep_their_bits():
    table = new_table(12, 3)
    ids = jnp.array([[2, 2], [7, 2]], jnp.int32)
    touched, _ = deduplicate(ids, table.owner)
    after = rowwise_adagrad(
        table, touched, jnp.ones((4, 3)), rate=jnp.float32(0.1), eps=jnp.float32(0.0)
    )
    rest = [i for i in range(12) if i not in (2, 7)]
    np.testing.assert_array_equal(np.asarray(after.rows)[rest], np.asarray(table.rows)[rest])
    assert not np.allclose(np.asarray(after.rows)[[2, 7]], np.asarray(table.rows)[[2, 7]])


@pytest.mark.parametrize("num_rows", [200_000])
def test_update_copies_no_table(num_rows):
    """A donated table is updated in place: temporaries stay far below the table's size (PERFORMANCE 8.3)."""
    table = new_table(num_rows, 16)
    ids = jnp.zeros((64, 3), jnp.int32)

    def step(table, ids):
        touched, owner = deduplicate(ids, table.owner)
        table = table._replace(owner=owner)
        gradient = jnp.square(gather(table, touched))
        return rowwise_adagrad(table, touched, gradient, rate=jnp.float32(0.1), eps=jnp.float32(0))

    memory = jax.jit(step, donate_argnums=0).lower(table, ids).compile().memory_analysis()
    assert memory is not None
    assert memory.temp_size_in_bytes < 0.05 * table.rows.nbytes
