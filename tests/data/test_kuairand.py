import csv
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from autorank.data.logs import kuairand
from autorank.data.prepare import encoders_file, store

LOG = (
    ""
    "user_id,video_id,date,hourmin,time_ms,is_click,is_like,is_follow,is_comment,is_forward,is_hate,"
    ""
    "long_view,play_time_ms,duration_ms,profile_stay_time,comment_stay_time,is_profile_enter,is_rand,tab"
).split(",")
USER = ["user_id", "is_lowactive_period", *kuairand.USER_FIELDS, *kuairand.USER_NUMBERS]
VIDEO = ["video_id", "upload_dt", "visible_status", "video_duration", *kuairand.VIDEO_FIELDS]
VIDEO += kuairand.VIDEO_NUMBERS


def write(path: Path, names, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, names, restval="0")
        writer.writeheader()
        writer.writerows(rows)


def exposures(num_rows: int, first: int = 0):
    for i in range(first, first + num_rows):
        yield {
            "user_id": i % 4,
            "video_id": i % 6,
            "date": 20220425 + i // 20,
            "hourmin": 100 * (i % 24),
            "time_ms": 1650812741436 + 1000 * i,
            "is_click": i % 2,
            "long_view": int(i % 6 == 1),
            "duration_ms": 8000 * 2 ** (i % 3),
            "is_like": i % 2,
            "play_time_ms": 99 * i,
            "tab": i % 3,
        }


def official(folder: Path, *logs) -> Path:
    for n, rows in enumerate(logs):
        write(folder / f"log_standard_{n}_pure.csv", LOG, rows)
    users = [
        {"user_id": u, "fans_user_num_range": "[1,10)", "register_days": 10 * u} for u in range(3)
    ]
    write(folder / kuairand.USERS, USER, users)
    videos = [
        {"video_id": v, "author_id": v // 2, "tag": "12,39", "music_type": ""} for v in range(6)
    ]
    write(folder / kuairand.VIDEOS, VIDEO, videos)
    return folder


def open_prepared(path, folder, **changes):
    store.prepare(
        kuairand.source(path), folder, **{"min_count": 1, "progress": lambda text: None, **changes}
    )
    return store.load(folder)


def values(data, folder, name, rows=slice(None)):
    j = [field.name for field in data.schema.fields].index(name)
    names = [None, "?", *encoders_file.read_encoders(folder).fields[j].values]
    return [names[i - data.schema.fields[j].offset] for i in data.sparse[rows, j].tolist()]


def test_joined_and_derived_by_hand(tmp_path):
    rows = list(exposures(40))
    data = open_prepared(official(tmp_path / "k", rows), tmp_path / "out")
    np.testing.assert_array_equal(data.labels, [[r["is_click"], r["long_view"]] for r in rows])
    train = slice(0, data.schema.num_train)

    def column(name):
        return values(data, tmp_path / "out", name, train)

    rows = rows[train]
    assert column("hour") == [str(r["hourmin"] // 100) for r in rows]
    assert column("weekday") == [{20220425: "1", 20220426: "2"}[r["date"]] for r in rows]
    assert column("author_id") == [str(r["video_id"] // 2) for r in rows]
    assert column("tag") == ["12,39"] * len(rows)
    assert column("music_type") == [None] * len(rows)
    # Steps of a third of an octave: 3 log2(8) = 9, then 12 and 15.
    assert column("duration") == [
        {8000: "9", 16000: "12", 32000: "15"}[r["duration_ms"]] for r in rows
    ]
    # User 3 is not in the table of users.
    ranges = [None if r["user_id"] == 3 else "[1,10)" for r in rows]
    assert column("fans_user_num_range") == ranges
    days = list(data.schema.dense).index("register_days")
    assert (data.dense[train, days][[r["user_id"] == 3 for r in rows]] == 0).all()


def test_duplicates_count_once(tmp_path):
    rows = list(exposures(30))
    almost = rows[3] | {"tab": 7}
    twice = [*rows, rows[3], rows[3], almost, rows[29]]
    a = open_prepared(official(tmp_path / "k", twice), tmp_path / "a")
    b = open_prepared(official(tmp_path / "l", [*rows, almost]), tmp_path / "b")
    assert a.schema.notes["duplicate_rows"] == 3 and a.schema.num_rows == 31
    assert a.fingerprint() == b.fingerprint()


def test_several_logs_and_the_nested_folder(tmp_path):
    early, late = list(exposures(20)), list(exposures(20, first=20))
    one = open_prepared(official(tmp_path / "one", early + late), tmp_path / "a")
    official(tmp_path / "two" / "KuaiRand-Pure" / "data", early, late)
    two = open_prepared(tmp_path / "two", tmp_path / "b")
    assert two.fingerprint() == one.fingerprint()
    official(tmp_path / "swapped" / "data", late, early)
    swapped = open_prepared(tmp_path / "swapped", tmp_path / "c")
    np.testing.assert_array_equal(swapped.labels, one.labels)


def test_features_do_not_see_outcomes(tmp_path):
    rows = list(exposures(40))
    outcomes = (*kuairand.OUTCOMES, "is_click", "long_view")
    assert set(outcomes).isdisjoint((*kuairand.COLUMNS.categorical, *kuairand.COLUMNS.dense))
    rng = np.random.default_rng(0)
    changed = [row | {name: int(rng.integers(2)) for name in outcomes} for row in rows]
    a = open_prepared(official(tmp_path / "k", rows), tmp_path / "a")
    b = open_prepared(official(tmp_path / "l", changed), tmp_path / "b")
    assert (a.labels != b.labels).any()
    np.testing.assert_array_equal(a.sparse, b.sparse)
    np.testing.assert_array_equal(a.dense, b.dense)


def test_the_leaking_file_is_never_read(tmp_path):
    folder = official(tmp_path / "k", exposures(30))
    before = open_prepared(folder, tmp_path / "out").fingerprint()
    (folder / "video_features_statistic_pure.csv").write_bytes(b"\xff not even text")
    assert open_prepared(folder, tmp_path / "other").fingerprint() == before


def test_a_malformed_line_is_counted(tmp_path):
    folder = official(tmp_path / "k", exposures(30))
    with (folder / "log_standard_0_pure.csv").open("a") as file:
        file.write("1,2,3\n")
    data = open_prepared(folder, tmp_path / "out", max_bad_share=0.1)
    assert data.schema.notes["bad_rows"] == {
        "count": 1,
        "first": ["log_standard_0_pure.csv:32: 3 fields instead of 19"],
    }


def test_other_files_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="is not a KuaiRand-Pure folder"):
        kuairand.source(tmp_path)
    folder = official(tmp_path / "k", exposures(30))
    text = (folder / kuairand.USERS).read_text().replace("onehot_feat3", "feature3")
    (folder / kuairand.USERS).write_text(text)
    with pytest.raises(ValueError, match=r"user_features_pure.csv: columns \['onehot_feat3'\]"):
        open_prepared(folder, tmp_path / "out")


def test_the_real_log(shared_data, tmp_path):
    raw = shared_data / "kuairand_pure"
    data = open_prepared(raw, tmp_path / "out", min_count=2)
    schema = data.schema
    assert schema.notes["duplicate_rows"] == 5460 and schema.notes["bad_rows"]["count"] == 0
    assert (schema.num_rows, schema.num_train) == (222_869, 178_295)
    log = pl.read_csv(raw / "log_standard_4_22_to_5_08_pure.csv")
    log = log.unique(maintain_order=True, keep="first").sort("time_ms", maintain_order=True)
    np.testing.assert_array_equal(data.labels, log.select("is_click", "long_view").to_numpy())
    # Every row's user, looked up in the vocabulary, is the log's.
    known = values(data, tmp_path / "out", "user_id")
    users = log["user_id"].cast(str).to_list()
    assert all(user in (other, "?") for user, other in zip(known, users, strict=True))
    assert "?" not in values(data, tmp_path / "out", "tab", slice(0, schema.num_train))
    assert np.isfinite(data.dense).all()
    np.testing.assert_allclose(data.train().dense.std(0), 1, atol=0.05)
    assert (data.sparse.min(0) >= [field.offset for field in schema.fields]).all()
    assert (data.sparse.max(0) < [field.offset + field.size for field in schema.fields]).all()
