import collections

import numpy as np
import pytest

from autorank.data.logs import synthetic, synthetic_stream
from autorank.data.logs.synthetic_stream import bayes_ne, generate, pairs, triples
from autorank.data.prepare import encoders_file, store

SIZES = (8, 10, 16, 40)


def stream(num_rows, *, seed=0, sizes=SIZES, drift_rows=10**6):
    parts = list(generate(num_rows, seed=seed, sizes=sizes, drift_rows=drift_rows))
    return synthetic_stream.Rows(*(np.concatenate(column) for column in zip(*parts, strict=True)))


@pytest.fixture
def short_chunks(monkeypatch):
    monkeypatch.setattr(synthetic_stream, "CHUNK", 512)


@pytest.fixture(scope="module")
def long():
    return stream(200_000, drift_rows=10**9)


def test_a_longer_stream_extends_a_shorter_one(short_chunks):
    whole = stream(1500)
    for num_rows in (2, 511, 512, 513, 1400):
        for a, b in zip(stream(num_rows), whole, strict=True):
            np.testing.assert_array_equal(a, b[:num_rows])


def test_another_seed_is_another_stream(short_chunks):
    assert (stream(1000).ids != stream(1000, seed=1).ids).mean() > 0.3


def test_ids_follow_the_power_law(long):
    for j, size in enumerate(SIZES):
        counts = np.bincount(long.ids[:, j], minlength=size)
        expected = len(long.ids) * synthetic_stream.popularity(size)
        assert len(counts) == size
        assert ((counts - expected) ** 2 / expected).sum() < size + 6 * np.sqrt(2 * size)


def test_labels_follow_the_stated_probabilities(long):
    click, conversion = long.labels.T.astype(bool)
    assert not (conversion & ~click).any()
    for truth, label in ((long.truth[:, 0], click), (long.truth[click, 1], conversion[click])):
        # Calibrated in every tenth, within five standard errors.
        for part in np.array_split(np.argsort(truth), 10):
            p = truth[part]
            assert abs(label[part].mean() - p.mean()) < 5 * np.sqrt((p * (1 - p)).sum()) / len(p)


def test_bayes_ne_by_hand():
    labels = np.array([[1, 1], [1, 0], [0, 0], [0, 0]])
    truth = np.array([[0.8, 0.5], [0.6, 0.25], [0.1, 0.5], [0.5, 0.9]])
    h = np.log(2)
    ctr = -np.mean(np.log([0.8, 0.6, 0.9, 0.5]))
    cvr = -np.mean(np.log([0.5, 0.75]))
    ctcvr = -np.mean(np.log([0.4, 0.85, 0.95, 0.55]))
    base = -(0.25 * np.log(0.25) + 0.75 * np.log(0.75))
    found = bayes_ne(labels, truth)
    assert found == pytest.approx({"ctr": ctr / h, "cvr": cvr / h, "ctcvr": ctcvr / base})


def test_bayes_ne_of_one_class_is_none():
    found = bayes_ne(np.zeros((3, 2), int), np.full((3, 2), 0.5))
    assert found == {"ctr": None, "cvr": None, "ctcvr": None}


def test_no_distortion_of_the_truth_does_better(long):
    best = bayes_ne(long.labels, long.truth)
    logits = np.log(long.truth) - np.log1p(-long.truth)
    for scale, shift in ((0.8, 0.0), (1.2, 0.0), (1.0, 0.2), (1.0, -0.2)):
        other = bayes_ne(long.labels, 1 / (1 + np.exp(-(scale * logits + shift))))
        assert all((other[metric] or 0.0) > (best[metric] or 9.0) for metric in best)


def test_the_logits_have_the_stated_size(long):
    logits = np.log(long.truth) - np.log1p(-long.truth)
    # Dense terms of missing values vanish, the quadratic one to -1 / sqrt(2): the rest is exact in expectation.

    expected = sum(weight**2 for weight in synthetic_stream.WEIGHTS.values())
    assert logits[:, 0].var() == pytest.approx(expected, rel=0.1)


def test_terms_have_the_planted_order():
    """What is left after all functions of fewer fields is exactly the interaction."""
    teacher = synthetic_stream.make_teacher(0, 0, SIZES)
    pop = [synthetic_stream.popularity(size) for size in SIZES]
    for j in range(len(SIZES)):
        effects = np.stack([teacher.main[j], teacher.later[j], *teacher.latents[j].T], 1)
        np.testing.assert_allclose(pop[j] @ effects, 0, atol=1e-9)
        covariance = (effects * pop[j][:, None]).T @ effects
        np.testing.assert_allclose(covariance, np.eye(effects.shape[1]), atol=1e-8)
    i, j, k = triples(len(SIZES))[0]
    triple = np.einsum("al,bl,cl->abc", *(teacher.latents[f] for f in (i, j, k)))
    for axis, f in enumerate((i, j, k)):
        np.testing.assert_allclose(np.tensordot(pop[f], triple, (0, axis)), 0, atol=1e-8)
    variance = np.einsum("abc,a,b,c->", triple**2, pop[i], pop[j], pop[k])
    assert variance == pytest.approx(synthetic_stream.LATENTS)


def test_planted_fields_exist_and_pairs_are_disjoint():
    for num_fields in range(4, 40):
        flat = [field for pair in pairs(num_fields) for field in pair]
        assert max(collections.Counter(flat).values()) == 1 and max(flat) < num_fields
        assert triples(num_fields) and max(max(t) for t in triples(num_fields)) < num_fields


def test_effects_drift():
    """The same ids and dense values have another truth a quarter turn later."""
    teacher = synthetic_stream.make_teacher(0, 0, SIZES)
    ids = np.stack([np.arange(8)] * len(SIZES), 1).astype(np.int32)
    known = np.zeros((8, synthetic_stream.NUM_DENSE))
    now, quarter, full = (
        synthetic_stream.logit_terms(teacher, ids, known, np.full(8, turn))
        for turn in (0, np.pi / 2, 2 * np.pi)
    )
    np.testing.assert_allclose(now, full)
    assert np.abs(now - quarter).max() > 0.1


def test_prepared_with_its_limit(short_chunks, tmp_path):
    source = synthetic.source(2000, seed=3, sizes=SIZES, drift_rows=5000)
    schema = store.prepare(source, tmp_path / "s", min_count=1, progress=lambda text: None)
    data = store.load(tmp_path / "s")
    whole = stream(2000, seed=3, drift_rows=5000)
    np.testing.assert_array_equal(data.labels, whole.labels)
    assert schema.notes["bayes_ne"] == {
        "train": bayes_ne(whole.labels[:1600], whole.truth[:1600]),
        "test": bayes_ne(whole.labels[1600:], whole.truth[1600:]),
    }
    missing = (data.dense == 0).mean(0)
    np.testing.assert_allclose(missing, synthetic_stream.MISSING_SHARE, atol=0.03)
    values = encoders_file.read_encoders(tmp_path / "s").fields[2].values
    seen = data.sparse[:1600, 2] - schema.fields[2].offset - 2
    assert [int(values[i]) for i in seen] == whole.ids[:1600, 2].tolist()
    assert schema.notes["planted"]["pairs"] == [["field0", "field3"], ["field1", "field2"]]


def test_the_default_is_realistic():
    rows = next(
        generate(synthetic_stream.CHUNK, seed=0, sizes=synthetic_stream.SIZES, drift_rows=2_000_000)
    )
    assert 45_000 < sum(synthetic_stream.SIZES) < 55_000
    assert 0.2 < rows.labels[:, 0].mean() < 0.3
    limit = bayes_ne(rows.labels, rows.truth)
    assert limit["ctr"] is not None and 0.77 < limit["ctr"] < 0.83


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"sizes": (8, 8, 8)}, "at least 4 fields"),
        ({"sizes": (8, 8, 8, 7)}, "at least 8 ids"),
        ({"num_rows": 1}, "num_rows=1"),
        ({"seed": -1}, "seed=-1"),
        ({"drift_rows": 0}, "drift_rows=0"),
    ],
)
def test_settings_are_checked(changes, message):
    with pytest.raises(ValueError, match=message):
        synthetic.source(**{"num_rows": 10, "sizes": SIZES, **changes})
