"""Avazu's mobile advertising log of the Kaggle challenge of 2014.

`train.csv` (or .gz): 40,428,967 rows, 2014-10-21 to 2014-10-30, 17.0 % clicks, in the order of time.
Columns id, click, hour (YYMMDDHH), C1, banner_pos, site_id, site_domain, site_category, app_id,
app_domain, app_category, device_id, device_ip, device_model, device_type, device_conn_type,
C14 .. C21. Terms of the challenge: https://www.kaggle.com/c/avazu-ctr-prediction, which asks for
them to be accepted; nothing is fetched.

``hour`` gives the order of time and two features, ``hour_of_day`` (0 .. 23) and ``weekday`` (1 is
Monday). It is itself no feature: every hour of the held-out days is new. Nor is ``id``, which names
the row. All columns but the label are categories, compared as text; an empty cell is a missing value
(-1, which C20 and others use for "none", is a value like any other). A row whose hour is no hour,
whose label is neither 0 nor 1, or with another number of cells is left out, counted, and reported
with its line.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from autorank.base.records import location
from autorank.data.format.source import Chunk, Columns, Cut, Piece, Progress, Source
from autorank.data.format.values import plain_texts
from autorank.data.logs.base import SOURCES, DataConfig, optional_path
from autorank.data.prepare.encoders import as_series, as_text, item
from autorank.data.prepare.text import CsvFormat, column_names, pieces

VERSION = 1
FIELDS = (
    "C1",
    "banner_pos",
    "site_id",
    "site_domain",
    "site_category",
    "app_id",
    "app_domain",
    "app_category",
    "device_id",
    "device_ip",
    "device_model",
    "device_type",
    "device_conn_type",
    *(f"C{j}" for j in range(14, 22)),
)
DERIVED = ("hour_of_day", "weekday")
HEADER = ("id", "click", "hour", *FIELDS)
COLUMNS = Columns(
    categorical=(*DERIVED, *FIELDS),
    dense=(),
    click="click",
    time="hour",
    dropped=("id",),
)
LICENCE = "terms of the Kaggle challenge; accept them where the data is fetched"
WHERE = (
    "fetch train.csv or train.gz from https://www.kaggle.com/c/avazu-ctr-prediction/data, and write "
    "data.path=FILE or its folder"
)
_NAMES = ("train.csv", "train.csv.gz", "train.gz")


@dataclass(frozen=True)
class AvazuConfig(DataConfig):
    """Where the log is."""

    source: str = "avazu"
    path: str | None = location()  # file or folder; nothing is fetched


@SOURCES.register("avazu", AvazuConfig)
def from_settings(settings: AvazuConfig) -> Source:
    """Avazu: Kaggle's train.csv[.gz]. Nothing is fetched."""
    return source(optional_path(settings.path))


def source(path: Path | None) -> Source:
    """The log in `train.csv`, `train.csv.gz` or `train.gz`, given as file or as folder.

    Raises:
        FileNotFoundError: nothing given, or no such file; the text says where to get it.
        ValueError: a file with other columns.
    """
    file = _find(path)
    names = column_names(file, CsvFormat())
    if names != HEADER:
        absent = [name for name in HEADER if name not in names]
        raise ValueError(
            f"{file}: columns {absent or list(names)} are missing or in another order; is this "
            f"Avazu's train.csv? {WHERE}"
        )
    read = partial(
        pieces,
        (file,),
        CsvFormat(),
        COLUMNS,
        derive=derive,
        read=("click", "hour", *FIELDS),
    )

    def chunks(raw: Path, progress: Progress) -> Iterator[Chunk]:
        return (piece.read() for piece in read(Cut()))

    def parts(raw: Path, progress: Progress, start: Cut) -> Iterator[Piece]:
        return read(start)

    return Source(
        name="avazu",
        settings={"reader": "avazu", "version": VERSION},
        files=(file,),
        columns=COLUMNS,
        chunks=chunks,
        origin="Avazu click-through rate prediction, Kaggle 2014",
        licence=LICENCE,
        pieces=parts,
    )


def derive(columns: dict[str, Any]) -> dict[str, Any]:
    """Hour of the day and weekday from ``hour``; what is no hour becomes text that no time can be read from."""
    import polars as pl

    text = as_series(plain_texts(as_text(columns["hour"])))
    frame = pl.DataFrame({"text": text}).with_columns(
        # Hours repeat for many rows: text is parsed once for each.
        moment=pl.col("text").replace_strict(_moments(text), default=None, return_dtype=pl.Datetime)
    )
    found = frame.select(
        hour=pl.when(pl.col("moment").is_null())
        .then(pl.format("{} (no hour YYMMDDHH)", pl.col("text").fill_null("")))
        .otherwise(pl.col("text")),
        hour_of_day=pl.col("moment").dt.hour().cast(pl.String),
        weekday=pl.col("moment").dt.weekday().cast(pl.String),
    )
    return {**columns, **found.to_dict(as_series=True)}


def for_scoring(columns: dict[str, Any]) -> tuple[dict[str, Any], dict[int, str]]:
    """`derive`, and the rows that cannot be scored: row -> reason."""
    found = derive(columns)
    rows = found["hour_of_day"].is_null().arg_true().to_list()
    return found, {row: f"hour={item(columns['hour'], row)!r} is no hour YYMMDDHH" for row in rows}


def _moments(text: Any) -> dict[str, Any]:
    """The date and hour of each distinct text of 8 digits that is one."""
    import polars as pl

    distinct = (
        text.drop_nulls().unique().to_frame("text").filter(pl.col("text").str.contains(r"^\d{8}$"))
    )
    # A format with hours alone is refused as no full time: minutes are added.
    found = distinct.with_columns(
        moment=("20" + pl.col("text") + "00").str.to_datetime("%Y%m%d%H%M", strict=False)
    ).drop_nulls()
    return dict(zip(found["text"].to_list(), found["moment"].to_list(), strict=True))


def _find(path: Path | None) -> Path:
    if path is None:
        raise FileNotFoundError(f"data=avazu needs data.path: {WHERE}")
    found = [path] if path.is_file() else [path / n for n in _NAMES if (path / n).is_file()]
    if not found:
        raise FileNotFoundError(f"{path}: no {' or '.join(_NAMES)} there: {WHERE}")
    return found[0]
