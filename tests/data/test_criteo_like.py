import math

import numpy as np
import pytest

from autorank.base.metrics import normalized_entropy
from autorank.data.logs import criteo_like, criteo_like_truth
from autorank.data.logs.criteo_like import BLOCK, TILE

SMALL = 20_000


@pytest.fixture(scope="module")
def rows() -> criteo_like.Rows:
    return criteo_like.arrays(2 * BLOCK + 17, 5, max_vocabulary=SMALL, workers=2)


def test_sizes_are_the_published_ones():
    full = criteo_like_truth.sizes()
    assert sum(full) - 2 * len(full) == 33_762_577
    assert full[2] == 10_131_227 + 2 and full[8] == 3 + 2


@pytest.mark.parametrize("most", [78, 79, 500, 200_000, 2_000_000, 8_000_001])
def test_sizes_sum_to_the_given_vocabulary(most):
    found, full = criteo_like_truth.sizes(most), criteo_like_truth.sizes()
    assert sum(found) == most
    cut = [size for size, whole in zip(found, full, strict=True) if size < whole]
    assert max(found) - min(cut) <= 1 and max(cut) == max(found)


def test_too_few_rows_are_refused():
    with pytest.raises(ValueError, match="max_vocabulary=77"):
        criteo_like_truth.sizes(77)
    with pytest.raises(ValueError, match="seed=-1"):
        criteo_like_truth.world(-1)


def test_shapes_and_ranges(rows):
    assert [array.dtype for array in rows] == ["int32", "float32", "int8", "float32"]
    sizes = np.array(criteo_like_truth.sizes(SMALL))
    local = rows.sparse - np.cumsum([0, *sizes[:-1]])
    assert (local >= 0).all() and (local < sizes).all()
    assert not (local == 1).any()  # nothing is unknown to the maker
    missing = (local == 0).mean(0)
    np.testing.assert_allclose(missing, criteo_like_truth.FIELD_MISSING, atol=0.01)
    np.testing.assert_allclose(
        (rows.dense == 0).mean(0), criteo_like_truth.DENSE_MISSING, atol=0.01
    )


def test_popularity_is_a_power_law(rows):
    """Against the bounded Pareto law in double precision, on the field with the most ids."""
    j = int(np.argmax(criteo_like_truth.sizes(SMALL)))
    size = criteo_like_truth.sizes(SMALL)[j] - 2
    local = rows.sparse[:, j] - sum(criteo_like_truth.sizes(SMALL)[:j])
    ranks = local[local > 0] - 1
    power = 1 - criteo_like_truth.EXPONENT
    for bound in (2, 3, 10, 100, 1000, size):
        expected = (bound**power - 1) / ((size + 1.0) ** power - 1)
        share = (ranks < bound).mean()
        assert abs(share - expected) < 5 * math.sqrt(expected * (1 - expected) / len(ranks)) + 1e-6


def test_rows_do_not_depend_on_how_they_are_asked_for(rows):
    parts = list(criteo_like.blocks(BLOCK + 10, 5, max_vocabulary=SMALL, first_row=BLOCK - 7))
    for whole, blocks in zip(rows, zip(*parts, strict=True), strict=True):
        np.testing.assert_array_equal(np.concatenate(blocks), whole[BLOCK - 7 : 2 * BLOCK + 3])
    alone = criteo_like.arrays(1000, 5, max_vocabulary=SMALL, workers=1, dense_dtype=np.float16)
    np.testing.assert_array_equal(alone.sparse, rows.sparse[:1000])
    np.testing.assert_array_equal(alone.dense, rows.dense[:1000].astype(np.float16))
    other = criteo_like.arrays(1000, 6, max_vocabulary=SMALL, workers=1)
    assert (other.sparse != alone.sparse).mean() > 0.5


def test_columns_and_blocks_are_independent(rows):
    """No correlation beyond chance between any two columns, nor between a row and the same row of the next block."""
    columns = np.concatenate([rows.dense, np.log1p(rows.sparse)], 1)[: 2 * BLOCK]
    correlation = np.corrcoef(columns, rowvar=False)
    np.fill_diagonal(correlation, 0)
    assert np.abs(correlation).max() < 5 / math.sqrt(len(columns))
    for column in columns.T:
        assert abs(np.corrcoef(column[:BLOCK], column[BLOCK:])[0, 1]) < 5 / math.sqrt(BLOCK)


def test_clicks_follow_the_truth(rows):
    clicks = rows.labels[:, 0]
    assert abs(clicks.mean() - criteo_like_truth.BASE_RATE) < 0.01
    assert 0.7 < normalized_entropy(rows.truth, clicks) < 0.9
    edges = np.quantile(rows.truth, np.linspace(0, 1, 11))
    bucket = np.clip(np.searchsorted(edges, rows.truth) - 1, 0, 9)
    for k in range(10):
        inside = bucket == k
        p = rows.truth[inside].mean()
        assert abs(clicks[inside].mean() - p) < 5 * math.sqrt(p * (1 - p) / inside.sum())


def test_popular_ids_carry_signal(rows):
    """Naive Bayes on the ids of one half predicts the other half; on shuffled clicks it does not."""
    half = len(rows.labels) // 2
    clicks = rows.labels[:, 0].astype(float)

    def held_out_ne(train_clicks: np.ndarray) -> float:
        prior = train_clicks.mean()
        score = np.full(len(clicks) - half, np.log(prior / (1 - prior)))
        for j in range(rows.sparse.shape[1]):
            counts = np.bincount(rows.sparse[:half, j], minlength=SMALL)
            sums = np.bincount(rows.sparse[:half, j], train_clicks, minlength=SMALL)
            rate = (sums + 20 * prior) / (counts + 20)
            effect = np.log(rate / (1 - rate)) - np.log(prior / (1 - prior))
            score += effect[rows.sparse[half:, j]]
        return float(normalized_entropy(1 / (1 + np.exp(-score)), rows.labels[half:, 0]))

    shuffled = np.random.default_rng(0).permutation(clicks[:half])
    assert held_out_ne(clicks[:half]) < 0.98 < 1 < held_out_ne(shuffled)


def test_the_device_makes_the_same_stream(rows):
    made = criteo_like.device_arrays(5, TILE + 5, max_vocabulary=SMALL)
    sparse, dense, labels, truth = (np.asarray(array) for array in made)
    cut = criteo_like.Rows(*(array[: TILE + 5] for array in rows))
    assert [a.dtype for a in (sparse, dense, labels, truth)] == [a.dtype for a in cut]
    assert sparse.shape == cut.sparse.shape and labels.shape == cut.labels.shape
    assert np.abs(sparse - cut.sparse).max() <= 1 and (sparse != cut.sparse).mean() < 0.01
    np.testing.assert_allclose(dense, cut.dense, atol=1e-5)
    same = (sparse == cut.sparse).all(1)
    np.testing.assert_allclose(truth[same], cut.truth[same], atol=1e-5)
    assert (labels[same] == cut.labels[same]).mean() > 0.999
