"""Raw rows of each source are scored as its own log was read, joined and derived."""

import gzip

import numpy as np
import polars as pl
import pytest

from autorank.data.logs import avazu, criteo, criteo_like_text, kuairand, movielens
from autorank.score import score
from tests.data.test_avazu import HEADER, lines
from tests.data.test_kuairand import exposures
from tests.data.test_kuairand import official as kuairand_folder
from tests.data.test_movielens import RATINGS, official, packaged
from tests.serving.test_score import scores, trained


def test_criteo_with_and_without_label(tmp_path):
    criteo_like_text.write(tmp_path / "train.txt", 300, 3, max_vocabulary=200)
    model = trained(criteo.source(tmp_path / "train.txt"), tmp_path)
    np.testing.assert_allclose(scores(model.run, tmp_path / "train.txt"), model.expected, atol=1e-6)
    rows = [line.partition("\t")[2] for line in (tmp_path / "train.txt").read_text().splitlines()]
    rows.insert(3, "1\t2")
    (tmp_path / "test.txt.gz").write_bytes(gzip.compress("\n".join(rows).encode()))
    found = pl.read_parquet(score(model.run, tmp_path / "test.txt.gz"))
    assert found["reason"][3] == "2 fields instead of 39" and found["p_ctr"][3] is None
    kept = found.filter(pl.col("line") != 4).select("p_ctr", "p_cvr").to_numpy()
    np.testing.assert_allclose(kept, model.expected, atol=1e-6)
    (tmp_path / "other.txt").write_text("a\tb\n" * 9)
    with pytest.raises(ValueError, match="2 cells instead of 40 or 39"):
        score(model.run, tmp_path / "other.txt")
    (tmp_path / "some.txt").write_text("just a letter\n")
    with pytest.raises(ValueError, match="1 cells instead of 40 or 39"):
        score(model.run, tmp_path / "some.txt")


def test_avazu_derives_its_hours(tmp_path):
    rows = lines(120)
    (tmp_path / "train.csv").write_text("\n".join([HEADER, *rows]))
    model = trained(avazu.source(tmp_path / "train.csv"), tmp_path)
    np.testing.assert_allclose(scores(model.run, tmp_path / "train.csv"), model.expected, atol=1e-6)
    frame = pl.read_csv(tmp_path / "train.csv", infer_schema=False).drop("click")
    frame.write_csv(tmp_path / "test.csv")
    np.testing.assert_allclose(scores(model.run, tmp_path / "test.csv"), model.expected, atol=1e-6)
    as_float = frame.with_columns(pl.col("hour", "C14").cast(pl.Float64, strict=False))
    as_float.with_columns(C14=frame["C14"]).write_parquet(tmp_path / "test.parquet")
    found = scores(model.run, tmp_path / "test.parquet")
    np.testing.assert_allclose(found, model.expected, atol=1e-6)
    frame[1:4].with_columns(hour=pl.Series(["14102199", "14102100", None])).write_csv(
        tmp_path / "bad.csv"
    )
    found = pl.read_parquet(score(model.run, tmp_path / "bad.csv"))
    assert found["reason"].to_list() == [
        "hour='14102199' is no hour YYMMDDHH",
        None,
        "hour='' is no hour YYMMDDHH",
    ]
    frame.drop("hour").write_csv(tmp_path / "less.csv")
    with pytest.raises(ValueError, match=r"'weekday'\] are missing, or else columns \['hour'\]"):
        score(model.run, tmp_path / "less.csv")


@pytest.mark.parametrize("layout, file", [(official, "u.data"), (packaged, "ml-100k.inter")])
def test_movielens_joins_users_and_films(tmp_path, layout, file):
    folder = layout(tmp_path / "ml")
    model = trained(movielens.source(folder), tmp_path)
    expected = np.empty_like(model.expected)  # in the order of the file
    expected[np.argsort([time for *_, time in RATINGS], kind="stable")] = model.expected
    np.testing.assert_allclose(scores(model.run, folder / file), expected, atol=1e-6)
    frame = pl.DataFrame(RATINGS, ["user_id", "item_id", "rating", "timestamp"], orient="row")
    serving = frame.drop("rating").with_columns(pl.col("user_id").cast(pl.Float64))
    serving.write_parquet(folder / "rows.parquet")
    np.testing.assert_allclose(scores(model.run, folder / "rows.parquet"), expected, atol=1e-6)
    serving.write_parquet(tmp_path / "rows.parquet")
    with pytest.raises(FileNotFoundError, match="put the file to be scored next to them"):
        score(model.run, tmp_path / "rows.parquet")


def test_kuairand_joins_users_and_videos(tmp_path):
    folder = kuairand_folder(tmp_path / "k", list(exposures(60)))
    model = trained(kuairand.source(folder), tmp_path)
    log = folder / "log_standard_0_pure.csv"
    np.testing.assert_allclose(scores(model.run, log), model.expected, atol=1e-6)
    frame = pl.read_csv(log).select(*kuairand.SCORED)
    twice = pl.concat([frame, frame])  # each row counts, also one that was there before
    twice.write_parquet(folder / "rows.parquet")
    found = scores(model.run, folder / "rows.parquet")
    np.testing.assert_allclose(found, np.concatenate([model.expected] * 2), atol=1e-6)
