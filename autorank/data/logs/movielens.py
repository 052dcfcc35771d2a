"""MovieLens-100K: 100,000 ratings of 1,682 films by 943 users, over seven months of 1997 and 1998.

A rating of 4 or 5 is a click, a 5 is a conversion. All features were known before the rating: the user, the film and
the time. Nothing is computed from ratings. Harper and Konstan, "The MovieLens Datasets", ACM TiiS 2015.
"""

import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from autorank.base.records import location
from autorank.data.format.canonical_text import canonical_texts
from autorank.data.format.source import Chunk, Columns, Source
from autorank.data.logs.base import SOURCES, DataConfig, DeriveForScoring, optional_path
from autorank.data.logs.download import extract
from autorank.data.logs.movielens_files import OFFICIAL, PACKAGED, download, find_files
from autorank.data.prepare.columns import as_series, as_text, item, to_numbers
from autorank.data.prepare.csv_format import CsvFormat
from autorank.data.prepare.read_csv import read_csv

VERSION = 1
# The order of the flags in u.item.
GENRES = (
    "unknown Action Adventure Animation Children's Comedy Crime Documentary Drama Fantasy "
    "Film-Noir Horror Musical Mystery Romance Sci-Fi Thriller War Western"
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
# The columns of a log from which features are computed, in either layout.
SCORED = (
    ("user_id", "item_id", "timestamp"),
    ("user_id:token", "item_id:token", "timestamp:float"),
)
FORMAT = CsvFormat("\t", None, ("user_id", "item_id", "rating", "timestamp"), "latin-1")


@dataclass(frozen=True)
class MovielensConfig(DataConfig):
    """Location of the ratings."""

    source: str = "movielens"
    # Folder or .zip in either layout; null = downloaded on first use (5 MB).
    path: str | None = location()


@SOURCES.register("movielens", MovielensConfig)
def from_settings(settings: MovielensConfig) -> Source:
    """MovieLens-100K: rating >= 4 counts as a click, rating = 5 as a conversion. Downloaded on first use."""
    return source(optional_path(settings.path))


def source(path: Path | None = None) -> Source:
    """The ratings from a local folder or .zip in either layout, or downloaded on first use (5 MB).

    Raises:
        FileNotFoundError: ``path`` holds neither layout.
    """
    return Source(
        name="movielens",
        settings={"reader": "movielens", "version": VERSION},
        files=() if path is None else find_files(path),
        columns=COLUMNS,
        chunks=lambda raw, progress: _chunks(path or download(raw, progress)),
        origin="MovieLens-100K, GroupLens, https://grouplens.org/datasets/movielens/100k/",
        licence="GroupLens terms: research use, no redistribution without permission",
    )


def _chunks(path: Path) -> Iterator[Chunk]:
    files = find_files(path)
    if len(files) == 1:
        with tempfile.TemporaryDirectory() as scratch:
            extract(files[0], Path(scratch))
            yield from _chunks(Path(scratch))
        return
    official = files[0].name in OFFICIAL
    users, items = _users(files[1], official), _items(files[2], official)
    for chunk in read_csv(files[0], FORMAT if official else CsvFormat("\t", None)):
        yield chunk._replace(columns=_with_labels(chunk.columns, users, items))


def _csv_format(official: bool, separator: str, names: str) -> CsvFormat:
    """Official files have no header; the header of the others contains types."""
    if official:
        return CsvFormat(separator, None, tuple(names.split()), "latin-1")
    return CsvFormat("\t", None)


def _table(path: Path, form: CsvFormat) -> dict[str, list[str]]:
    """A small table; types are removed from names such as "user_id:token"."""
    columns: dict[str, list[str]] = {}
    for chunk in read_csv(path, form):
        if chunk.bad:
            raise ValueError(
                f"{chunk.bad[0].place}: {chunk.bad[0].reason}; download {path.name} again"
            )
        for name, values in chunk.columns.items():
            columns.setdefault(name.partition(":")[0], []).extend(values.to_list())
    return columns


def _users(path: Path, official: bool) -> Any:
    import polars as pl

    names = "user_id age gender occupation zip_code"
    frame = pl.DataFrame(_table(path, _csv_format(official, "|", names)))
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
        table = _table(path, _csv_format(official, "|", names))
        flags = zip(*(table[f"flag{i}"] for i in range(len(GENRES))), strict=True)
        genres = [[g for g, flag in zip(GENRES, row, strict=True) if flag == "1"] for row in flags]
        years = pl.Series(table["title"]).str.extract(r"\((\d{4})\)[^\d]*$")
    else:
        table = _table(path, _csv_format(official, "\t", ""))
        genres = [text.split() for text in table["class"]]
        # A film made for video has "V" here, and the year only in its title.
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


def for_scoring(folder: Path) -> DeriveForScoring:
    """Computes the features from the columns `SCORED` of a log, joined with the users and films in ``folder``.

    Rows without a valid timestamp cannot be scored. The files are read on the first call.
    """

    @cache
    def users_and_items() -> tuple[Any, Any]:
        for names in (OFFICIAL, PACKAGED):
            files = [folder / name for name in names[1:]]
            if all(file.is_file() for file in files):
                official = names == OFFICIAL
                return _users(files[0], official), _items(files[1], official)
        raise FileNotFoundError(
            f"{folder} lacks {' and '.join(OFFICIAL[1:])} (or {' and '.join(PACKAGED[1:])}), which the ratings "
            "are joined to; put the file to be scored next to them, or give it all columns of the model"
        )

    def features(columns: dict[str, Any]) -> tuple[Mapping[str, Any], dict[int, str]]:
        import polars as pl

        users, items = users_and_items()
        by_name = {name.partition(":")[0]: column for name, column in columns.items()}
        times = by_name["timestamp"]
        numbers, _ = to_numbers(times)
        wrong = np.flatnonzero(np.isnan(numbers)).tolist()
        reasons = {row: f"timestamp={item(times, row)!r} is not a time" for row in wrong}
        texts = {
            name: as_series(canonical_texts(as_text(column))) for name, column in by_name.items()
        }
        found = _with_features(pl.DataFrame(texts), users, items)
        return found.to_dict(as_series=True), reasons

    return features


def _with_features(rows: Any, users: Any, items: Any) -> Any:
    """Joins users and films, and adds the features of the time."""
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


def _with_labels(columns: Mapping[str, Any], users: Any, items: Any) -> Mapping[str, Any]:
    """The features and the two labels of ratings."""
    import polars as pl

    rows = pl.DataFrame({name.partition(":")[0]: values for name, values in columns.items()})
    rating = pl.col("rating").cast(pl.Float64, strict=False)
    legal = pl.when(rating.is_in([1.0, 2.0, 3.0, 4.0, 5.0])).then(rating)
    frame = _with_features(rows, users, items).with_columns(
        click=(legal >= 4).cast(pl.Int8), conversion=(legal == 5).cast(pl.Int8)
    )
    return frame.to_dict(as_series=True)
