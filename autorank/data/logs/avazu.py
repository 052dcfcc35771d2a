"""Avazu's mobile advertising log, from the Kaggle challenge of 2014.

`train.csv` (or .gz) has 40,428,967 rows from 2014-10-21 to 2014-10-30, in time order; 17.0 % are clicks. Its columns
are id, click, hour (YYMMDDHH), C1, banner_pos, site_id, site_domain, site_category, app_id, app_domain, app_category,
device_id, device_ip, device_model, device_type, device_conn_type, and C14 to C21. The terms of the challenge must be
accepted at https://www.kaggle.com/c/avazu-ctr-prediction, so the file is not downloaded automatically.

``hour`` is the time column, and two features are derived from it: ``hour_of_day`` (0 to 23) and ``weekday`` (1 is
Monday). It is not a feature itself, because every hour of the held-out days is new. Nor is ``id``, which identifies the
row. All other columns are categorical and compared as text. An empty cell is a missing value; -1, which C20 and others
use for "none", is a value like any other. Rows with an invalid hour, a label other than 0 and 1, or a wrong number of
cells are left out, counted, and reported with their line.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autorank.base.records import location
from autorank.data.format.canonical_text import canonical_texts
from autorank.data.format.source import Columns, Position, Progress, Segment, Source, chunks_of
from autorank.data.logs.base import SOURCES, DataConfig, optional_path
from autorank.data.prepare.columns import as_series, as_text, item
from autorank.data.prepare.csv_format import CsvFormat, column_names
from autorank.data.prepare.text_segments import segments

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
    "download train.csv or train.gz from https://www.kaggle.com/c/avazu-ctr-prediction/data, and write "
    "data.path=FILE or its folder"
)
_NAMES = ("train.csv", "train.csv.gz", "train.gz")


@dataclass(frozen=True)
class AvazuConfig(DataConfig):
    """Location of the log."""

    source: str = "avazu"
    path: str | None = location()  # file or folder; not downloaded automatically


@SOURCES.register("avazu", AvazuConfig)
def from_settings(settings: AvazuConfig) -> Source:
    """Avazu: Kaggle's train.csv[.gz], which must be downloaded by hand."""
    return source(optional_path(settings.path))


def source(path: Path | None) -> Source:
    """The log in `train.csv`, `train.csv.gz` or `train.gz`, given as a file or as its folder.

    Raises:
        FileNotFoundError: no path, or no such file; the message tells where to get it.
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
    read = ("click", "hour", *FIELDS)

    def read_segments(raw: Path, progress: Progress, start: Position) -> Iterator[Segment]:
        return segments((file,), CsvFormat(), COLUMNS, start, derive=derive, read=read)

    return Source(
        name="avazu",
        settings={"reader": "avazu", "version": VERSION},
        files=(file,),
        columns=COLUMNS,
        chunks=chunks_of(read_segments),
        origin="Avazu click-through rate prediction, Kaggle 2014",
        licence=LICENCE,
        segments=read_segments,
    )


def derive(columns: dict[str, Any]) -> dict[str, Any]:
    """Adds the hour of the day and the weekday; an invalid ``hour`` becomes text that is not a time."""
    import polars as pl

    text = as_series(canonical_texts(as_text(columns["hour"])))
    frame = pl.DataFrame({"text": text}).with_columns(
        # Many rows share an hour, so each distinct text is parsed once.
        moment=pl.col("text").replace_strict(_hours(text), default=None, return_dtype=pl.Datetime)
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
    """`derive`, and the rows that cannot be scored, row -> reason."""
    found = derive(columns)
    rows = found["hour_of_day"].is_null().arg_true().to_list()
    return found, {row: f"hour={item(columns['hour'], row)!r} is no hour YYMMDDHH" for row in rows}


def _hours(text: Any) -> dict[str, Any]:
    """The date and hour of each distinct text that is valid."""
    import polars as pl

    distinct = (
        text.drop_nulls().unique().to_frame("text").filter(pl.col("text").str.contains(r"^\d{8}$"))
    )
    # Polars rejects a time format without minutes.
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
