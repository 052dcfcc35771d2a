import gzip
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autorank.data.logs import table
from autorank.data.prepare import store
from autorank.data.prepare.csv_format import CsvFormat
from autorank.data.prepare.read_csv import read_csv

SCHEMA = """
name: shop
click: clicked
conversion: bought
time: ts
categorical: [user, "on"]
dense: [price]
drop: [dwell]
licence: own data
source: export
"""
HEADER = "user,on,price,dwell,ts,clicked,bought"


def write(folder: Path, text: str, schema: str = SCHEMA, name: str = "log.csv"):
    (folder / name).write_bytes(text.encode())
    (folder / "schema.yaml").write_text(schema)
    return folder / name, folder / "schema.yaml"


def lines(num_rows: int, separator: str = ",") -> list[str]:
    return [
        separator.join(map(str, (f"u{i % 2}", i % 3, i, 9, i, i % 2, int(i % 4 == 3))))
        for i in range(num_rows)
    ]


def open_prepared(source, folder, **changes):
    store.prepare(source, folder, **{"min_count": 1, "progress": lambda text: None, **changes})
    return store.load(folder)


def read(path, form=None):
    """All good rows as (line, values) and all bad ones as "file:line"."""
    good, bad = [], []
    for chunk in read_csv(path, form or CsvFormat()):
        columns = [chunk.columns[name].to_list() for name in chunk.columns]
        assert chunk.lines is not None
        good += list(zip(chunk.lines.tolist(), zip(*columns, strict=True), strict=True))
        bad += [row.place for row in chunk.bad]
    return good, bad


def test_every_form_gives_the_same_rows(tmp_path):
    text = "\n".join([HEADER, *lines(12)])
    path, schema = write(tmp_path, text)
    first = open_prepared(table.source(path, schema), tmp_path / "csv")
    assert first.schema.label_names == ("clicked", "bought") and first.schema.name == "shop"
    assert first.schema.licence == "own data" and first.schema.dense == ("price",)
    assert [field.name for field in first.schema.fields] == ["user", "on"]
    forms = {}
    (tmp_path / "log.csv.gz").write_bytes(gzip.compress(text.encode()))
    forms["gz"] = table.source(tmp_path / "log.csv.gz", schema)
    pl.read_csv(path).write_parquet(tmp_path / "log.parquet")
    forms["parquet"] = table.source(tmp_path / "log.parquet", schema)
    (tmp_path / "log.tsv").write_bytes(
        b"\xef\xbb\xbf" + "\r\n".join([HEADER.replace(",", "\t"), *lines(12, "\t"), ""]).encode()
    )
    (tmp_path / "tabs.yaml").write_text(SCHEMA + 'separator: "\\t"\nquote: null\n')
    forms["tsv"] = table.source(tmp_path / "log.tsv", tmp_path / "tabs.yaml")
    (tmp_path / "bare.csv").write_text("\n".join(lines(12)) + "\n")
    (tmp_path / "bare.yaml").write_text(
        SCHEMA + f"columns: [{HEADER.replace('on', repr('on'), 1)}]\n"
    )
    forms["bare"] = table.source(tmp_path / "bare.csv", tmp_path / "bare.yaml")
    for name, source in forms.items():
        other = open_prepared(source, tmp_path / name)
        assert other.fingerprint() == first.fingerprint(), name


def test_bad_lines_have_their_numbers(tmp_path):
    rows = lines(30)
    rows[4] = "too,few"
    rows[5] = ""
    rows[9] += ",many"
    rows[20] = rows[20].replace(",9,", ',"9,9",')
    path, schema = write(tmp_path, "\n".join([HEADER, *rows, "", ""]))
    data = open_prepared(table.source(path, schema), tmp_path / "out", max_bad_share=0.2)
    assert data.schema.num_rows == 27
    assert data.schema.notes["bad_rows"] == {
        "count": 2,
        "first": [
            "log.csv:6: 2 fields instead of 7",
            "log.csv:11: 8 fields instead of 7",
        ],
    }


@given(st.lists(st.sampled_from(["good", "short", "long", "blank", "quoted"]), max_size=40))
@settings(max_examples=40, deadline=None)
def test_line_numbers_against_brute_force(tmp_path_factory, kinds):
    text = {"good": "1,2,3", "short": "1,2", "long": "1,2,3,4", "blank": "", "quoted": '"1,1",2,3'}
    path = tmp_path_factory.mktemp("csv") / "log.csv"
    path.write_text("\n".join(["a,b,c", *(text[kind] for kind in kinds)]) + "\n")
    good, bad = read(path)
    numbered = list(enumerate(kinds, start=2))
    assert [line for line, _ in good] == [n for n, kind in numbered if kind in ("good", "quoted")]
    assert bad == [f"log.csv:{n}" for n, kind in numbered if kind in ("short", "long")]


def test_line_numbers_across_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr("autorank.data.prepare.read_csv.BLOCK", 40)
    rows = [f"{n},b,c" if n % 5 else f"{n},b" for n in range(2, 60)]
    (tmp_path / "log.csv").write_text("\n".join(["a,b,c", *rows]))
    good, bad = read(tmp_path / "log.csv")
    assert all(line == int(values[0]) for line, values in good)
    assert [line for line, _ in good] == [n for n in range(2, 60) if n % 5]
    assert bad == [f"log.csv:{n}" for n in range(2, 60) if n % 5 == 0]


def test_an_open_quote_is_counted_line_by_line(tmp_path):
    (tmp_path / "log.csv").write_text('a,b\n1,2\n"3,4\n5,6\n7",8,9\n10,11\n12\n13,14\n')
    good, bad = read(tmp_path / "log.csv")
    assert [line for line, _ in good] == [2, 6, 8]
    assert bad == ["log.csv:3", "log.csv:4", "log.csv:5", "log.csv:7"]
    good, bad = read(tmp_path / "log.csv", CsvFormat(quote=None))
    assert (3, ('"3', "4")) in good and bad == ["log.csv:5", "log.csv:7"]


def test_encodings(tmp_path):
    (tmp_path / "log.csv").write_bytes("a,b\né,2\n".encode("latin-1"))
    with pytest.raises(ValueError, match="log.csv.*must be utf-8 text"):
        read(tmp_path / "log.csv")
    good, _ = read(tmp_path / "log.csv", CsvFormat(encoding="latin-1"))
    assert good == [(2, ("é", "2"))]
    (tmp_path / "log.csv").write_bytes("é,b\n1,2\n".encode("latin-1"))
    with pytest.raises(ValueError, match="log.csv.*must be utf-8 text"):
        read(tmp_path / "log.csv")


@pytest.mark.parametrize(
    "old, new, message",
    [
        ("drop: [dwell]", "drop: []", r"without a role: \['dwell'\]"),
        ("dense: [price]", "dense: [price, weight]", r"does not have: \['weight'\]"),
        ("dense: [price]", "dense: [price, bought]", "'bought' is listed as dense and as conv"),
        ("drop: [dwell]", "drop: [dwell, user]", "'user' is listed as categorical and as drop"),
        ('[user, "on"]', "[user, on]", "quote those that YAML does not read as text"),
        ("name: shop", "name: 3", "name: 3 is not a name"),
        ("name: shop", "label: shop", r"unknown keys \['label'\], missing keys \['name'\]"),
        ("licence:", "separator: ab\nlicence:", "separator='ab'"),
        ('categorical: [user, "on"]', "categorical: user", "categorical: 'user' must be a list"),
        ('categorical: [user, "on"]', "categorical: []", r"missing keys \['categorical'\]"),
    ],
)
def test_roles_are_checked(tmp_path, old, new, message):
    assert old in SCHEMA
    path, schema = write(tmp_path, "\n".join([HEADER, *lines(4)]), SCHEMA.replace(old, new))
    with pytest.raises(ValueError, match=message):
        table.source(path, schema)


def test_files_are_checked(tmp_path):
    path, schema = write(tmp_path, "a,a,b\n")
    with pytest.raises(ValueError, match=r"\['a'\] occur twice"):
        table.source(path, schema)
    path, schema = write(tmp_path, "")
    with pytest.raises(ValueError, match="is empty"):
        table.source(path, schema)
    with pytest.raises(FileNotFoundError, match="data.path"):
        table.source(tmp_path / "none.csv", schema)
    path, _ = write(tmp_path, HEADER)
    with pytest.raises(FileNotFoundError, match="data.schema"):
        table.source(path, tmp_path / "none.yaml")
    schema.write_text("- just\n- a list\n")
    with pytest.raises(ValueError, match="expected keys and values"):
        table.source(path, schema)


def test_the_schema_file_runs_no_code(tmp_path):
    schema = SCHEMA.replace("name: shop", "name: !!python/object/apply:os.getcwd []")
    path, file = write(tmp_path, HEADER, schema)
    with pytest.raises(Exception, match="could not determine a constructor"):
        table.source(path, file)


def test_header_only(tmp_path):
    path, schema = write(tmp_path, HEADER + "\n")
    with pytest.raises(ValueError, match="log.csv has a header but no rows"):
        open_prepared(table.source(path, schema), tmp_path / "out")


def test_parquet_types(tmp_path):
    frame = pl.DataFrame(
        {
            "user": [1, None, 1, 2],
            "on": [True, False, None, True],
            "price": [1.5, None, float("nan"), 0.0],
            "dwell": [0, 0, 0, 0],
            "ts": pl.Series(["2024-01-04", "2024-01-01", "2024-01-02", "2024-01-03"]).str.to_date(),
            "clicked": [True, False, True, False],
            "bought": [1.0, 0.0, 0.0, 0.0],
        }
    )
    frame.write_parquet(tmp_path / "log.parquet")
    _, schema = write(tmp_path, HEADER)
    data = open_prepared(table.source(tmp_path / "log.parquet", schema), tmp_path / "out")
    assert data.labels.tolist() == [[0, 0], [1, 0], [0, 0], [1, 1]]
    user = data.schema.fields[0]
    assert (data.sparse[:, 0] - user.offset).tolist() == [0, 2, 3, 2]
    assert np.flatnonzero(data.dense[:, 0] == 0).tolist()[:2] == [0, 1]


@pytest.mark.parametrize(
    ("end", "kept", "bad"),
    [
        ('1,"open\n0,z\n1,w\n', 0, 3),  # would swallow the rest of the log as one value
        ('1,"open\n', 0, 1),
        ('1,"open', 0, 1),
        ('1,"closed\nz"\n', 1, 0),
        ('1,it"s\n', 1, 0),
    ],
)
@pytest.mark.parametrize("odd", [False, True])  # read as numbers, or as text because of an odd cell
def test_a_quote_that_is_never_closed_loses_no_row_unseen(tmp_path, end, kept, bad, odd):
    schema = "name: x\nclick: c\ncategorical: [a]\nlicence: x\nsource: y\n"
    rows = "c,a\n" + "1,x\n0,y\n" * 20 + ("2,x\n" if odd else "")
    made = write(tmp_path, rows + end, schema)
    found = open_prepared(table.source(*made), tmp_path / "out", max_bad_share=1.0).schema
    assert found.num_rows == 40 + kept
    assert found.notes["bad_rows"]["count"] == bad + odd
    reasons = " ".join(found.notes["bad_rows"]["first"])
    said = f":{42 + odd}: the quote that opens in line {42 + odd} is never closed"
    assert (said in reasons) == (bad > 0)
