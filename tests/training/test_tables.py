"""The row-sparse update against a dense one, with duplicates."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autorank.training.tables import (
    BLOCK,
    Table,
    deduplicate,
    draw_rows,
    freeze_rows,
    look_up,
    max_distinct,
    overflows,
    rowwise_adagrad,
    sum_duplicates,
)

# Bit-for-bit claims are about programs as production compiles them.
pytestmark = pytest.mark.optimized


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


def test_frozen_rows_are_zero_and_no_gradient_moves_them():
    table = new_table(6, 4)
    rows, accumulator = freeze_rows(table.rows, table.accumulator, (1, 4))
    np.testing.assert_array_equal(np.flatnonzero(~np.asarray(rows).any(axis=1)), [1, 4])
    ids = jnp.array([[0, 1], [4, 1]], jnp.int32)
    touched, owner = deduplicate(ids, table.owner)
    gradient = sum_duplicates(jnp.full((2, 2, 4), 1e3), touched)
    for eps in (0.0, 1e-8):
        after = rowwise_adagrad(
            Table(rows, accumulator, owner),
            touched,
            gradient,
            rate=jnp.float32(0.1),
            eps=jnp.float32(eps),
        )
        changed = np.flatnonzero((np.asarray(after.rows) != np.asarray(rows)).any(axis=1))
        np.testing.assert_array_equal(changed, [0])
    # A part of a table holds rows 3, 4, 5: only id 4 lies in it.
    part, _ = freeze_rows(table.rows[3:], table.accumulator[3:], (1, 4), first_row=3)
    np.testing.assert_array_equal(np.flatnonzero(~np.asarray(part).any(axis=1)), [1])
    same, _ = freeze_rows(table.rows, table.accumulator, ())
    assert same is table.rows


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

        def loss(x):
            return jnp.mean(jnp.square(x.sum(axis=1) - targets))

        gradient = sum_duplicates(jax.grad(loss)(look_up(table, ids)), touched)
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
    """A donated table is updated in place: temporaries stay far below the table's size."""
    table = new_table(num_rows, 16)
    ids = jnp.zeros((64, 3), jnp.int32)

    def step(table, ids):
        touched, owner = deduplicate(ids, table.owner)
        table = table._replace(owner=owner)
        gradient = sum_duplicates(jnp.square(look_up(table, ids)), touched)
        return rowwise_adagrad(table, touched, gradient, rate=jnp.float32(0.1), eps=jnp.float32(0))

    memory = jax.jit(step, donate_argnums=0).lower(table, ids).compile().memory_analysis()
    assert memory is not None
    assert memory.temp_size_in_bytes < 0.05 * table.rows.nbytes


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 8), min_size=6, max_size=6), st.integers(1, 6))
def test_a_capacity_from_the_data_changes_nothing_unless_it_overflows(values, capacity):
    ids = jnp.asarray(np.array(values, np.int32).reshape(3, 2))
    table = new_table(9, 2)
    gradient = jax.random.normal(jax.random.key(1), (3, 2, 2))

    def update(capacity):
        touched, _ = deduplicate(ids, table.owner, capacity)
        after = rowwise_adagrad(
            table,
            touched,
            sum_duplicates(gradient, touched),
            rate=jnp.float32(0.1),
            eps=jnp.float32(0),
        )
        return bool(overflows(touched)), np.asarray(after.rows)

    full = update(None)
    assert not full[0]
    overflow, rows = update(capacity)
    assert overflow == (len(set(values)) > capacity)
    if not overflow:
        np.testing.assert_array_equal(rows, full[1])


@pytest.mark.parametrize("batch_size", [1, 7, 100])
def test_max_distinct_counts_batches(batch_size):
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 400, (150, 3)).astype(np.int32)
    batches = [
        ids[i * batch_size : (i + 1) * batch_size] for i in range(-(-len(ids) // batch_size))
    ]
    most = max(len(np.unique(batch)) for batch in batches)
    found = max_distinct(ids, batch_size)
    assert most <= found < most + 256 and found % 256 == 0


def test_a_large_table_is_drawn_in_place_and_is_normal():
    shape = (BLOCK + 1001, 16)  # 17 blocks, the last one moved back
    draw = jax.jit(draw_rows, donate_argnums=1)
    buffer = jnp.full(shape, jnp.nan)
    compiled = draw.lower(jax.random.key(3), buffer, jnp.float32(0.5)).compile()
    memory = compiled.memory_analysis()
    assert memory is not None and memory.temp_size_in_bytes < 0.5 * buffer.nbytes
    rows = np.asarray(compiled(jax.random.key(3), buffer, jnp.float32(0.5)))
    assert np.isfinite(rows).all()
    assert abs(rows.std() - 0.5) < 0.005 and abs(rows.mean()) < 0.002
    assert len(np.unique(rows[:, 0])) > 0.99 * len(rows), "blocks must not repeat each other"
