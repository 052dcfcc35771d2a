"""What was known of a household and a product before a week: counts of earlier weeks, kept while a log is read."""

from typing import Any

# Dense features that `History.describe` adds.
DENSE = (
    "product_purchases",  # log(1 + times the household bought the product)
    "category_purchases",  # log(1 + times it bought something of the product's category)
    "household_purchases",  # log(1 + all its purchases)
    "weeks_since_purchase",  # since it last bought the product; missing if never
    "product_rate",  # share of the product's exposures that were clicks, shrunk towards the rate of all
    "household_rate",  # of the household's exposures
)
# Exposures that the common rate counts for in a rate.
PRIOR = 50.0


class History:
    """Counts of purchases and exposures so far; purchases of products without promotion count, too.

    Args:
        categories: a frame with ``product_id`` and ``product_category``.
    """

    def __init__(self, categories: Any) -> None:
        import polars as pl

        self._categories = categories
        count = {"times": pl.Int64}
        self._products = pl.DataFrame(
            schema={"household_id": pl.Int64, "product_id": pl.Int64, **count, "last": pl.Int64}
        )
        self._in_category = pl.DataFrame(
            schema={"household_id": pl.Int64, "product_category": pl.String, **count}
        )
        self._households = pl.DataFrame(schema={"household_id": pl.Int64, **count})
        rates = {"clicks": pl.Int64, "shown": pl.Int64}
        self._rates = {
            key: pl.DataFrame(schema={key: pl.Int64, **rates})
            for key in ("product_id", "household_id")
        }

    def describe(self, rows: Any, week: int) -> Any:
        """``rows`` (``household_id``, ``product_id``) with the features `DENSE`, in their order."""
        import polars as pl

        def joined(frame: Any, other: Any, key: list[str], **names: str) -> Any:
            other = other.rename(names)
            return frame.join(other, on=key, how="left", maintain_order="left")

        pair, kind = ["household_id", "product_id"], ["household_id", "product_category"]
        frame = rows.join(self._categories, on="product_id", how="left", maintain_order="left")
        frame = joined(frame, self._products, pair, times="product_purchases")
        frame = joined(frame, self._in_category, kind, times="category_purchases")
        frame = joined(frame, self._households, ["household_id"], times="household_purchases")
        for key, name in (("product_id", "product_rate"), ("household_id", "household_rate")):
            known = self._rates[key]
            shown = max(1, int(known["shown"].sum()))
            rate = int(known["clicks"].sum()) / shown
            smooth = (pl.col("clicks") + PRIOR * rate) / (pl.col("shown") + PRIOR)
            own = known.select(key, smooth.alias(name))
            frame = joined(frame, own, [key]).with_columns(pl.col(name).fill_null(rate))
        counts = ("product_purchases", "category_purchases", "household_purchases")
        return frame.with_columns(
            *(pl.col(name).fill_null(0).cast(pl.Float64).log1p() for name in counts),
            weeks_since_purchase=(week - pl.col("last")).cast(pl.Float64),
        ).drop("last", "product_category")

    def expose(self, rows: Any) -> None:
        """Counts rows with their ``click``."""
        import polars as pl

        for key, known in self._rates.items():
            new = rows.group_by(key).agg(
                clicks=pl.col("click").cast(pl.Int64).sum(), shown=pl.len().cast(pl.Int64)
            )
            self._rates[key] = pl.concat([known, new]).group_by(key).sum()

    def buy(self, bought: Any, week: int) -> None:
        """Counts the purchases of a week."""
        import polars as pl

        def added(known: Any, frame: Any, key: list[str]) -> Any:
            new = frame.group_by(key).agg(times=pl.len().cast(pl.Int64))
            return pl.concat([known, new]).group_by(key).agg(pl.col("times").sum())

        pair = ["household_id", "product_id"]
        new = bought.group_by(pair).agg(
            times=pl.len().cast(pl.Int64), last=pl.lit(week, pl.Int64).first()
        )
        both = pl.concat([self._products, new]).group_by(pair)
        self._products = both.agg(pl.col("times").sum(), pl.col("last").max())
        kinds = bought.join(self._categories, on="product_id", how="left").drop_nulls(
            "product_category"
        )
        self._in_category = added(self._in_category, kinds, ["household_id", "product_category"])
        self._households = added(self._households, bought, ["household_id"])
