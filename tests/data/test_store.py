import collections
import json
import math
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autorank.data.format.source import BadRow, Chunk, Columns, Source, validate_columns
from autorank.data.prepare import encoders_file, scoring_files, store
from autorank.data.prepare.encoders import encode

COLUMNS = Columns(
    categorical=("user", "item"),
    dense=("price",),
    click="click",
    conversion="buy",
    time="ts",
    dropped=("dwell",),
)


def toy(rows, *, columns=COLUMNS, chunk=3, bad=(), files=(), **settings) -> Source:
    """A source of rows (user, item, price, click, buy, ts)."""
    names = ("user", "item", "price", "click", "buy", "ts")

    def chunks(raw, progress):
        for first in range(0, len(rows), chunk):
            part = rows[first : first + chunk]
            series = {
                name: pl.Series(name, [row[j] for row in part], pl.String)
                for j, name in enumerate(names)
            }
            lines = np.arange(first + 2, first + 2 + len(part))
            yield Chunk(series, "toy.csv", lines, bad if first == 0 else ())

    return Source("toy", settings, tuple(files), columns, chunks, "made up", "none")


def row(user="u", item="i", price="1", click="0", buy="0", ts="0"):
    return (user, item, price, click, buy, ts)


def toy_rows(num_rows=20):
    return [
        row(f"u{i % 3}", f"i{i % 7}", str(i), str(i % 2), str(int(i % 4 == 1)), str(i))
        for i in range(num_rows)
    ]


def quiet(message):
    pass


def prepare(source, folder, **changes):
    store.prepare(source, folder, **{"min_count": 1, "progress": quiet, **changes})
    return store.load(folder)


user = st.sampled_from(["a", "b", "c", "d", "", "é"])
number = st.sampled_from(["", "0", "-3", "12.5", "1e6"])


@given(
    st.lists(
        st.tuples(
            user, user, number, st.sampled_from("01"), st.sampled_from("01"), st.integers(0, 5)
        )
    ),
    st.integers(1, 4),
    st.sampled_from([0.3, 0.5, 0.8]),
    st.integers(1, 4),
)
@settings(max_examples=40, deadline=None)
def test_against_brute_force(tmp_path_factory, rows, min_count, train_fraction, chunk):
    # Both kinds of click first in time, so that there is always something to learn.
    rows = [(*r[:5], str(r[5])) for r in rows]
    rows = [row(click=str(i % 2), ts="-1") for i in range(8 + len(rows))] + rows
    folder = tmp_path_factory.mktemp("store") / "toy"
    data = prepare(
        toy(rows, chunk=chunk), folder, min_count=min_count, train_fraction=train_fraction
    )
    ordered = sorted(rows, key=lambda r: float(r[5]))  # stable
    num_train = min(max(1, round(train_fraction * len(rows))), len(rows) - 1)
    assert (data.schema.num_rows, data.schema.num_train) == (len(rows), num_train)
    np.testing.assert_array_equal(data.labels, [[int(r[3]), int(r[4])] for r in ordered])
    kept = encoders_file.read_encoders(folder).fields
    for j, field in enumerate(data.schema.fields):
        counts = collections.Counter(r[j] for r in ordered[:num_train] if r[j])
        assert set(kept[j].values) == {v for v, n in counts.items() if n >= min_count}
        frequencies = [counts[v] for v in kept[j].values]
        assert frequencies == sorted(frequencies, reverse=True)
        known = {v: i + 2 for i, v in enumerate(kept[j].values)}
        expected = [field.offset + (known.get(r[j], 1) if r[j] else 0) for r in ordered]
        np.testing.assert_array_equal(data.sparse[:, j], expected)
    logs = [
        math.copysign(math.log1p(abs(float(r[2]))), float(r[2])) if r[2] else None for r in ordered
    ]
    seen = np.array([v for v in logs[:num_train] if v is not None])
    mean, std = seen.mean(), seen.std()
    std = std if std > 1e-6 else 1.0
    expected = [0.0 if v is None else (v - mean) / std for v in logs]
    np.testing.assert_allclose(data.dense[:, 0], expected, rtol=1e-4, atol=1e-5)


def test_encoders_reproduce_the_arrays(tmp_path):
    rows = toy_rows(40)
    data = prepare(toy(rows), tmp_path / "toy", min_count=3)
    columns = {name: [r[j] for r in rows] for j, name in enumerate(("user", "item", "price"))}
    sparse, dense = encode(encoders_file.read_encoders(tmp_path / "toy"), columns)
    np.testing.assert_array_equal(sparse, data.sparse)
    np.testing.assert_allclose(dense, data.dense, rtol=1e-5, atol=1e-6)
    scoring_files.save_scoring_files(data, tmp_path)
    assert encoders_file.read_encoders(tmp_path) == encoders_file.read_encoders(tmp_path / "toy")


def test_nothing_is_learned_from_the_test_part(tmp_path):
    rows = toy_rows(20)
    changed = rows[:16] + [row("new", "new", "1e9", "1", "1", str(100 + i)) for i in range(4)]
    a = prepare(toy(rows), tmp_path / "a")
    b = prepare(toy(changed), tmp_path / "b")
    assert encoders_file.read_encoders(tmp_path / "a") == encoders_file.read_encoders(
        tmp_path / "b"
    )
    for name in ("sparse", "dense", "labels"):
        np.testing.assert_array_equal(getattr(a.train(), name), getattr(b.train(), name))
    assert b.test().sparse.tolist() == [[f.offset + 1 for f in b.schema.fields]] * 4
    assert b.schema.notes["unknown_share"]["test"] == {"user": 1.0, "item": 1.0}


def test_views(tmp_path):
    data = prepare(toy(toy_rows(20)), tmp_path / "toy")
    assert len(data.train().sparse) == 16 and len(data.test().labels) == 4
    whole = np.concatenate([data.train().dense, data.test().dense])
    np.testing.assert_array_equal(whole, data.dense)
    np.testing.assert_array_equal(data.train().prefix(5).sparse, data.sparse[:5])
    assert len(data.prefix(99).sparse) == 20
    assert data.test().fingerprint() == data.fingerprint()
    assert (data.sparse.dtype, data.dense.dtype, data.labels.dtype) == ("int32", "float32", "int8")
    assert np.shares_memory(data.train().sparse, data.sparse)
    with pytest.raises(ValueError, match="read-only"):
        data.sparse[0, 0] = 1


def test_equal_times_keep_their_order_across_the_split(tmp_path):
    rows = [row(f"u{i}", click=str(i % 2), ts="7") for i in range(10)]
    data = prepare(toy(rows), tmp_path / "toy", train_fraction=0.55)
    kept = encoders_file.read_encoders(tmp_path / "toy").fields[0].values
    assert kept == tuple(f"u{i}" for i in range(round(5.5)))
    assert data.sparse[:, 0].tolist() == [2, 3, 4, 5, 6, 7, 1, 1, 1, 1]


@pytest.mark.parametrize(
    "times",
    [
        ["2024-01-02", "2024-01-01 23:59:59.5", "2024-01-01T07:00:00"],
        ["9", "-1.5", "-1e3"],
        ["1650812741437", " 1650812741436 ", "0"],
    ],
)
def test_order_is_time(tmp_path, times):
    rows = [row(f"u{i}", click=str(i % 2), ts=ts) for i, ts in enumerate(times)]
    data = prepare(toy(rows), tmp_path / "toy", train_fraction=0.7)
    kept = encoders_file.read_encoders(tmp_path / "toy").fields[0].values
    names = ["missing", "unknown", *kept]
    assert [names[i] for i in data.sparse[:, 0]] == ["u2", "u1", "unknown"]


def test_times_of_two_kinds_are_refused(tmp_path):
    rows = [row(ts="2024-01-02"), row(click="1", ts="12")]
    for chunk in (1, 2):
        with pytest.raises(ValueError, match="'ts' mixes dates without a zone .* and numbers"):
            prepare(toy(rows, chunk=chunk), tmp_path / "toy")


def test_without_time_the_files_order_stays(tmp_path):
    rows = toy_rows(9)[::-1]
    columns = COLUMNS._replace(time=None, dropped=("dwell", "ts"), conversion=None)
    data = prepare(toy(rows, columns=columns), tmp_path / "toy")
    assert data.labels[:, 0].tolist() == [int(r[3]) for r in rows]
    assert data.schema.labels == ("click",) and data.labels.shape == (9, 1)


def test_no_dense_columns(tmp_path):
    data = prepare(toy(toy_rows(9), columns=COLUMNS._replace(dense=())), tmp_path / "toy")
    assert data.dense.shape == (9, 0) and data.train().dense.shape == (7, 0)


BAD = [
    row(click="2"),
    row(click=""),
    row(buy="yes"),
    row(price="cheap"),
    row(ts="soon"),
    row(ts=""),
    row(price="inf"),
]


def test_bad_rows_are_counted_with_their_lines(tmp_path):
    rows = toy_rows(10) + BAD + toy_rows(10)
    read_bad = (BadRow("toy.csv:99", "3 fields instead of 6"),)
    data = prepare(toy(rows, bad=read_bad), tmp_path / "toy", max_bad_share=0.5)
    good = prepare(toy(toy_rows(10) * 2), tmp_path / "good")
    np.testing.assert_array_equal(data.sparse, good.sparse)
    np.testing.assert_array_equal(data.labels, good.labels)
    notes = data.schema.notes["bad_rows"]
    assert notes["count"] == 1 + len(BAD)
    assert notes["first"] == [
        "toy.csv:99: 3 fields instead of 6",
        "toy.csv:12: click='2' is not a label 0 or 1",
        "toy.csv:13: click='' is not a label 0 or 1",
        "toy.csv:14: buy='yes' is not a label 0 or 1",
        "toy.csv:15: price='cheap' is not a number",
        "toy.csv:16: ts='soon' is not a time",
        "toy.csv:17: ts='' is not a time",
        "toy.csv:18: price='inf' is not a number",
    ]


def test_the_allowed_share_is_exact(tmp_path):
    rows = [*toy_rows(9), row(click="?")]
    assert prepare(toy(rows), tmp_path / "toy", max_bad_share=0.1).schema.num_rows == 9
    with pytest.raises(
        ValueError, match=r"1 of 10 rows are broken.*max_bad_share=0.09.*toy.csv:11"
    ):
        prepare(toy(rows), tmp_path / "other", max_bad_share=0.09)
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    "rows, message",
    [
        ([], "not one usable row .0 bad.: the source is empty"),
        ([row(click="x")], "not one usable row .1 bad.: toy.csv:2"),
        ([row(click="1")], "one usable row cannot be split"),
        ([row(click="1")] * 5, "label click is 1 in all 4 training rows"),
    ],
)
def test_logs_that_teach_nothing_are_refused(tmp_path, rows, message):
    with pytest.raises(ValueError, match=message):
        prepare(toy(rows), tmp_path / "toy", max_bad_share=1.0)
    assert not (tmp_path / "toy").exists()


def test_second_run_reuses_and_a_change_is_noticed(tmp_path):
    raw = tmp_path / "raw.csv"
    raw.write_text("one")
    folder = tmp_path / "toy"
    messages: list[str] = []
    changes: dict = {"min_count": 1, "progress": messages.append}

    def again(source=None, **more):
        messages.clear()
        store.prepare(source or toy(toy_rows(), files=[raw], v=1), folder, **{**changes, **more})
        return [m for m in messages if "preparing again" in m], any("read" in m for m in messages)

    assert again() == ([], True)
    before = (folder / "sparse.npy").stat().st_mtime_ns
    assert again() == ([], False)
    assert (folder / "sparse.npy").stat().st_mtime_ns == before
    for source, more, name in (
        (toy(toy_rows(), files=[raw], v=2), {}, "source_settings"),
        (None, {"min_count": 2}, "min_count"),
        (None, {"min_count": 2, "train_fraction": 0.5}, "train_fraction"),
    ):
        told, read = again(source, **more)
        assert read and name in told[0]
    raw.write_text("two")
    told, read = again()
    assert read and "files" in told[0]


def test_damage_is_noticed_and_repaired(tmp_path):
    folder = tmp_path / "toy"
    before = np.array(prepare(toy(toy_rows()), folder).sparse)
    whole = (folder / "sparse.npy").read_bytes()
    (folder / "sparse.npy").write_bytes(whole[:-4])
    with pytest.raises(ValueError, match="sparse.npy is damaged"):
        store.load(folder)
    repaired = prepare(toy(toy_rows()), folder)
    np.testing.assert_array_equal(repaired.sparse, before)
    (folder / "sparse.npy").write_bytes(whole[:-4] + b"\x01\x00\x00\x00")
    store.load(folder)
    with pytest.raises(ValueError, match="sparse.npy has changed"):
        store.load(folder, verify=True)
    np.save(folder / "labels.npy", np.zeros((20, 1), np.int8))
    with pytest.raises(ValueError, match=r"labels.npy is int8 \(20, 1\), expected int8 \(20, 2\)"):
        store.load(folder)
    np.save(folder / "labels.npy", np.zeros((20, 2), np.int64))
    with pytest.raises(ValueError, match="expected int8"):
        store.load(folder)


def test_nothing_prepared_and_foreign_folders(tmp_path):
    with pytest.raises(FileNotFoundError, match="schema.json is missing"):
        store.load(tmp_path)
    (tmp_path / "thesis.tex").write_text("all my work")
    with pytest.raises(ValueError, match="holds other files"):
        prepare(toy(toy_rows()), tmp_path)
    assert (tmp_path / "thesis.tex").read_text() == "all my work"


def test_a_failure_leaves_the_old_data_and_nothing_else(tmp_path):
    folder = tmp_path / "toy"
    before = prepare(toy(toy_rows()), folder).fingerprint()

    def broken(raw, progress):
        yield next(toy(toy_rows()).chunks(raw, progress))
        raise OSError("disk on fire")

    with pytest.raises(OSError, match="disk on fire"):
        prepare(toy(toy_rows(), v=2)._replace(chunks=broken), folder)
    assert store.load(folder, verify=True).fingerprint() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == [".toy.lock", "toy"]
    names = ["dense.npy", "encoders.json", "labels.npy", "schema.json", "sparse.npy"]
    assert sorted(p.name for p in folder.iterdir()) == names


def test_what_a_killed_process_left_is_cleared(tmp_path):
    (tmp_path / ".toy.partial" / "scratch").mkdir(parents=True)
    (tmp_path / ".toy.partial" / "sparse.npy").write_text("half")
    prepare(toy(toy_rows()), tmp_path / "toy")
    assert not (tmp_path / ".toy.partial").exists()


def test_two_that_start_together_prepare_once(tmp_path):
    entered, release, times = threading.Event(), threading.Event(), []

    def chunks(raw, progress):
        times.append(1)
        entered.set()
        assert release.wait(20)
        yield from toy(toy_rows()).chunks(raw, progress)

    source = toy(toy_rows())._replace(chunks=chunks)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(prepare, source, tmp_path / "toy")
        assert entered.wait(20)
        second = pool.submit(prepare, source, tmp_path / "toy")
        with pytest.raises(TimeoutError):
            second.result(0.1)
        release.set()
        assert first.result(20).fingerprint() == second.result(20).fingerprint()
    assert len(times) == 1


def test_same_content_same_fingerprint(tmp_path):
    a, b = (prepare(toy(toy_rows(), chunk=chunk), tmp_path / str(chunk)) for chunk in (2, 7))
    assert a.fingerprint() == b.fingerprint()
    c = prepare(toy(toy_rows()[:-1] + [row(ts="99")]), tmp_path / "c")
    assert c.fingerprint() != a.fingerprint()


def test_saved_encoders_belong_to_the_data(tmp_path):
    data = prepare(toy(toy_rows()), tmp_path / "toy")
    prepare(toy(toy_rows()), tmp_path / "toy", min_count=5)
    with pytest.raises(ValueError, match="has changed since"):
        scoring_files.save_scoring_files(data, tmp_path)
    with pytest.raises(ValueError, match="no folder"):
        scoring_files.save_scoring_files(data._replace(folder=None), tmp_path)


def test_notes_of_the_source_are_kept(tmp_path):
    source = toy(toy_rows())._replace(notes=lambda train, rows: {"sizes": [train, rows]})
    schema = prepare(source, tmp_path / "toy").schema
    assert schema.notes["sizes"] == [16, 20]
    assert schema.notes["positive_rates"] == {"train": [0.5, 0.25], "test": [0.5, 0.25]}
    assert json.loads((tmp_path / "toy" / "schema.json").read_text())["notes"] == schema.notes


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"categorical": ("user", "click")}, "'click' is listed as categorical and as click"),
        ({"categorical": ("user", "dwell")}, "'dwell' is listed as categorical and as drop"),
        ({"dense": ("buy",)}, "'buy' is listed as dense and as conversion"),
        ({"dense": ("user",)}, "'user' is listed as categorical and as dense"),
        ({"conversion": "click"}, "'click' is listed as click and as conversion"),
        ({"categorical": ("ts",)}, "'ts' is listed as categorical and as time"),
        ({"categorical": ()}, "no categorical column"),
    ],
)
def test_an_outcome_is_never_a_feature(tmp_path, changes, message):
    columns = COLUMNS._replace(**changes)
    with pytest.raises(ValueError, match=message):
        validate_columns(columns)
    with pytest.raises(ValueError, match=message):
        prepare(toy(toy_rows(), columns=columns), tmp_path / "toy")


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"train_fraction": 1.0}, "train_fraction=1.0"),
        ({"min_count": 0}, "min_count=0"),
        ({"max_bad_share": 1.5}, "max_bad_share=1.5"),
    ],
)
def test_settings_are_checked(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        prepare(toy(toy_rows()), tmp_path / "toy", **changes)


def test_a_chunk_without_a_column_is_refused(tmp_path):
    columns = COLUMNS._replace(dense=("price", "weight"))
    with pytest.raises(ValueError, match="toy.csv: columns \\['weight'\\] are missing"):
        prepare(toy(toy_rows(), columns=columns), tmp_path / "toy")
