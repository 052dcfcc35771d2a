"""Short cells are read as the careful reader reads them: the same rows, ids, counts and reports."""

import collections
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from autorank.data.fast_text import cell_parser, short_strings
from autorank.data.fast_text.cell_parser import CellLayout, parse_cells
from autorank.data.fast_text.short_strings import ShortStrings, distinct_short_strings, from_buffers
from autorank.data.format.canonical_text import canonical
from autorank.data.format.source import Columns, Position, Segment
from autorank.data.logs import avazu, criteo, criteo_like_text, table
from autorank.data.prepare import (
    csv_format,
    encoders_file,
    ingest,
    parse_text,
    store,
    text_segments,
)
from autorank.data.prepare.columns import as_text, distinct_values, to_numbers
from autorank.data.prepare.encoders import hashed_ids
from autorank.data.prepare.hashing import buckets_of, hash_text

NAMES = ("y", "a", "b", "c", "d")
COLUMNS = Columns(categorical=("c", "d"), dense=("a", "b"), click="y")
LAYOUT = CellLayout(5, "\t", None, (3, 4), (0,), (1, 2))

labels = st.sampled_from(["0", "1"] * 12 + ["", "2", "01", "1.0", "-1", "x", " 1"])
integers = st.one_of(
    st.integers(-99, 9999).map(str),
    st.integers(-(10**9), 10**10).map(str),
    st.sampled_from(
        ["", "", "-", "--1", "1-", "-0", "007", "+2", "1e3", " 4", "1.5", "inf", "nan"]
    ),
    st.sampled_from(
        ["12345678", "-1234567", "123456789", "-12345678", "1,5", "٣", "/", ":", "0x1"]
    ),
)
values = st.one_of(
    st.integers(0, 3).map(lambda i: f"{i:08x}"),
    st.sampled_from(
        ["", "ABCDEF01", "abcdef01", "zz", "é", "a b", "-1", "nine char", '"', 'x"y', "0"]
    ),
    st.text(st.characters(codec="utf-8", exclude_characters="\r\n\t\0"), max_size=9),
)
rows = st.one_of(
    st.tuples(labels, integers, integers, values, values).map("\t".join),
    st.tuples(
        st.sampled_from("01"),
        st.integers(0, 99).map(str),
        st.sampled_from(["", "7", "-3"]),
        st.sampled_from(["", "0000abcd", "0000ABCD"]),
        st.sampled_from(["", "68fd1e64"]),
    ).map("\t".join),
    st.sampled_from(
        ["", "\t\t\t\t", "0", "0\t1\t2\tx", "0\t1\t2\tx\ty\tz", "\t", "\t\t\t\t\t", " "]
    ),
)


def taken(content: bytes, plan: parse_text.TextLayout, hash_size: int) -> dict[str, bytes]:
    """The files of a part: rows, values, counts and reports."""
    read = Segment(lambda: parse_text.parse(content, 7, plan), Position(0, len(content), 9), 0.5)
    with tempfile.TemporaryDirectory() as folder:
        ingest.stage_segment(read, 0, plan.columns, Path(folder), hash_size)
        return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def both(
    content: bytes, plan: parse_text.TextLayout, hash_size: int
) -> list[dict[str, bytes] | str]:
    """What comes of it with and without the reader of short cells; an error as its text."""
    found = []
    fast = parse_text._parse_short_cells
    for reader in (fast, lambda *arguments: None):
        parse_text._parse_short_cells = reader
        try:
            found.append(taken(content, plan, hash_size))
        except ValueError as error:
            found.append(str(error))
        finally:
            parse_text._parse_short_cells = fast
    return found


@settings(max_examples=150, deadline=None)
@given(
    st.lists(rows, min_size=1, max_size=12),
    st.sampled_from(["\n", "\n", "\r\n", "\r"]),
    st.booleans(),
    st.sampled_from([40, 64, 1 << 18]),
    st.sampled_from([0, 97]),
    st.sampled_from([None, '"']),
)
@example(
    ["1\t-5\t\t68fd1e64\t", "0\t1\t2", "", "\t\t\t\t", "1\t1.5\t007\tz\tz"], "\n", False, 40, 0, '"'
)
@example(["2\t1\t1\ta\tb"] + ["0\t1\t1\ta\tb"] * 9, "\n", True, 40, 0, None)
def test_short_cells_give_the_files_of_the_careful_reader(
    lines, end, ended, window, hash_size, quote
):
    content = (end.join(lines) + (end if ended else "")).encode()
    plan = parse_text.TextLayout(
        "f.tsv", NAMES, csv_format.CsvFormat("\t", quote, NAMES), COLUMNS, COLUMNS.read
    )
    usual, cell_parser.WINDOW = cell_parser.WINDOW, window
    try:
        fast, careful = both(content, plan, hash_size)
    finally:
        cell_parser.WINDOW = usual
    assert fast == careful


def test_what_is_read_in_place_and_what_is_not():
    """The property above would hold if nothing were: these are read, with odd cells and wrong lines among them."""
    good = b"1\t-5\t\t68fd1e64\t\n0\t12345678\t7\tzz\tABCDEF01\n" * 20
    mixed = good + b"\n0\t1\n\t\t\t\t\n2\t123456789\t1.5\ta\tb\n1\t-\t-12345678\ta\tb"
    cells = parse_cells(mixed, LAYOUT)
    assert cells is not None
    assert cells.lines.tolist() == [*range(40), 43, 44]
    assert cells.wrong == [(41, 2)]
    label, first, second = cells.integers
    assert label.other_text == {40: "2"} and label[0] == "1"
    assert (
        first.other_text == {40: "123456789", 41: "-"}
        and first[1] == "12345678"
        and first[0] == "-5"
    )
    assert second.other_text == {40: "1.5", 41: "-12345678"} and second[0] == ""
    numbers, malformed = to_numbers(first)
    assert numbers[[0, 1, 40]].tolist() == [-5, 12345678, 123456789]
    assert np.flatnonzero(malformed).tolist() == [41] and np.isnan(numbers[41])
    assert (
        ShortStrings(cells.strings[0])[0] == "68fd1e64"
        and ShortStrings(cells.strings[1])[1] == "ABCDEF01"
    )
    for refused in (
        good + b"1\t1\t1\tnine char\tx\n",
        good + "1\t1\t1\té\tx\n".encode(),
        good + b"1\t1\t1\ta\0\tx\n",
        good.replace(b"\n", b"\r\n"),  # `parse_text` takes the \r away
        b"1\t0.5\t1\ta\tb\n" * 200,
        b"1" * (cell_parser.WINDOW + 1),
    ):
        assert parse_cells(refused, LAYOUT) is None
    assert parse_cells(good, LAYOUT._replace(quote='"')) is not None
    assert parse_cells(good + b'1\t1\t1\t"a"\tx\n', LAYOUT._replace(quote='"')) is None
    assert parse_cells(good, LAYOUT._replace(separator="\t\t")) is None
    blank = parse_cells(b"\n\n", LAYOUT)
    assert blank is not None and not len(blank.lines) and not blank.wrong
    assert parse_cells(b"", LAYOUT) is None


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(-9_999_999, 99_999_999), min_size=1, max_size=40))
@example([-9_999_999, 99_999_999, 0, 10_000_000, -1, 9])
def test_integers(numbers):
    content = "".join(f"1,{number},{number},x,y\n" for number in numbers).encode()
    cells = parse_cells(content, LAYOUT._replace(separator=","))
    assert cells is not None and not cells.integers[1].other_text
    assert cells.integers[1].values.tolist() == numbers == cells.integers[2].values.tolist()


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_generated_logs_are_read_in_place(tmp_path, monkeypatch, end):
    content = b"".join(criteo_like_text.text(4000, 3, max_vocabulary=3000)).replace(b"\n", end)
    path = tmp_path / "train.txt"
    path.write_bytes(content)
    monkeypatch.setattr(text_segments, "SEGMENT_BYTES", 1 << 18)
    monkeypatch.setattr(short_strings, "COMPILE_FROM_BYTES", 0)
    found = {}
    for name in ("fast", "careful"):
        if name == "fast":
            with monkeypatch.context() as only:
                only.setattr(parse_text, "_parse_typed", None)  # called, it would fail
                store.prepare(criteo.source(path), tmp_path / name, progress=lambda line: None)
        else:
            monkeypatch.setattr(parse_text, "_parse_short_cells", lambda *arguments: None)
            store.prepare(criteo.source(path), tmp_path / name, progress=lambda line: None)
        found[name] = store.load(tmp_path / name)
    assert found["fast"].schema == found["careful"].schema
    assert found["fast"].fingerprint() == found["careful"].fingerprint()


def test_avazu_is_read_in_place(tmp_path, monkeypatch):
    monkeypatch.setattr(short_strings, "COMPILE_FROM_BYTES", 0)
    rng = np.random.default_rng(0)
    lines = [",".join(avazu.HEADER)]
    for i in range(3000):
        cells = [f"{rng.integers(0, 50):08x}" for _ in avazu.FIELDS]
        cells[-2] = "-1"
        hour = f"141021{i * 24 // 3000:02d}" if i != 77 else "soon"
        lines.append(f"{10**18 + i},{rng.integers(0, 2)},{hour},{','.join(cells)}")
    lines[1200] += ",more"
    (tmp_path / "train.csv").write_text("\n".join(lines))
    found = {}
    for name in ("fast", "careful"):
        with monkeypatch.context() as only:
            if name == "fast":
                only.setattr(parse_text, "_parse_typed", None)
            else:
                only.setattr(parse_text, "_parse_short_cells", lambda *arguments: None)
            source = avazu.source(tmp_path / "train.csv")
            store.prepare(source, tmp_path / name, progress=lambda line: None)
        found[name] = store.load(tmp_path / name)
    assert found["fast"].schema == found["careful"].schema
    assert found["fast"].fingerprint() == found["careful"].fingerprint()
    assert found["fast"].schema.notes["bad_rows"]["count"] == 2


# ---- words ----

texts = st.lists(
    st.one_of(
        st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8),
        st.text(" \t-.0017", max_size=8),
        st.sampled_from(["True", "TRUE", "False", "FALSE", "-0", "-0.0", "7.00", "123456.0"]),
    ).filter(lambda value: len(value.encode()) <= 8),
    max_size=40,
)


@settings(max_examples=100, deadline=None)
@given(texts)
def test_words_are_their_text(items):
    arrow = pa.array(items, pa.string())
    column = ShortStrings(
        np.array([int.from_bytes(v.encode(), "little") for v in items], np.uint64)
    )
    assert len(column) == len(items) and column.to_pylist() == items
    assert [column[i] for i in range(len(items))] == items
    assert as_text(column).equals(arrow)
    again = from_buffers(*column.buffers())
    assert again is not None and again.packed.tolist() == column.packed.tolist()
    assert hash_text(column).tolist() == hash_text(arrow).tolist()
    assert buckets_of(column, 1000).tolist() == buckets_of(arrow, 1000).tolist()
    assert hashed_ids(column, 1000).tolist() == hashed_ids(arrow, 1000).tolist()
    codes, found = distinct_values(column)
    others, expected = distinct_values(arrow)
    named = expected.to_pylist()
    assert found.to_pylist() == [value for value in named if value]
    renamed = [found[code] if code >= 0 else "" for code in codes]
    assert renamed == [named[code] if code >= 0 else "" for code in others]
    assert renamed == [canonical(value) for value in items]


def test_what_has_no_word():
    for items in (["123456789"], ["a", "b\0"], ["\0"]):
        arrow = pa.array(items, pa.string())
        offsets = np.frombuffer(arrow.buffers()[1], np.int32)[: len(items) + 1]
        data = np.frombuffer(arrow.buffers()[2], np.uint8)[: offsets[-1]]
        assert from_buffers(offsets, data) is None


def in_python(items: list[int]) -> tuple[list[int], list[int]]:
    seen: dict[int, int] = collections.OrderedDict()
    first = []
    for row, item in enumerate(items):
        if item and item not in seen:
            seen[item] = len(seen)
            first.append(row)
    return [seen.get(item, -1) for item in items], first


@settings(max_examples=100, deadline=None)
@given(st.lists(st.one_of(st.integers(0, 5), st.integers(0, 2**64 - 1)), max_size=60))
def test_distinct_words(items):
    found = distinct_short_strings(np.array(items, np.uint64))
    assert found.codes.dtype == np.int32
    assert (found.codes.tolist(), found.first_row.tolist()) == in_python(items)
    counts = collections.Counter(items)
    assert [counts[items[row]] for row in found.first_row] == found.counts.tolist()
    assert found.values.packed.tolist() == [items[row] for row in found.first_row]
    weights = np.arange(len(items), dtype=np.int32)
    weighed = distinct_short_strings(np.array(items, np.uint64), weights)
    expected = np.bincount(found.codes + 1, weights, len(found.first_row) + 1)[1:]
    assert weighed.counts.tolist() == expected.tolist()


def test_distinct_words_of_many_rows():
    rng = np.random.default_rng(0)
    items = (rng.zipf(1.2, 60_000) % 20_000).astype(np.uint64) * np.uint64(0x100000001B3)
    found = distinct_short_strings(items)
    assert (found.codes.tolist(), found.first_row.tolist()) == in_python(items.tolist())


def test_distinct_words_made_to_meet(monkeypatch):
    """All words in one place of the table: slower, and still right."""
    monkeypatch.setattr(short_strings, "SEED", 0)
    meeting = []
    inverse = pow(0x9E3779B97F4A7C15, -1, 1 << 64)
    for low in range(300):
        mixed = ((0xABCDEF << 40) + low) * inverse % (1 << 64)
        meeting.append(mixed ^ (mixed >> 32))
    items = np.random.default_rng(0).choice(np.array(meeting, np.uint64), 5000)
    found = distinct_short_strings(items)
    assert (found.codes.tolist(), found.first_row.tolist()) == in_python(items.tolist())


@pytest.mark.parametrize("encoding", ["vocabulary", "hash"])
def test_values_that_look_different_are_one_in_either_reader(tmp_path, monkeypatch, encoding):
    monkeypatch.setattr(short_strings, "COMPILE_FROM_BYTES", 0)
    forms = ["7", "7.0", " 7", "7.00 ", "007", "0", "-0", "-0.0", "True", "true", "1", " ", "1.50"]
    rows = [f"{k % 2},{forms[k % len(forms)]},x" for k in range(60)]
    (tmp_path / "log.csv").write_text("\n".join(["click,user,item", *rows]))
    (tmp_path / "schema.yaml").write_text("name: s\nclick: click\ncategorical: [user, item]\n")
    found = {}
    for name in ("fast", "careful"):
        with monkeypatch.context() as only:
            if name == "fast":
                only.setattr(parse_text, "_parse_typed", None)  # called, it would fail
            else:
                only.setattr(parse_text, "_parse_short_cells", lambda *arguments: None)
            source = table.source(tmp_path / "log.csv", tmp_path / "schema.yaml")
            settings = {"min_count": 1, "encoding": encoding, "hash_size": 1000}
            store.prepare(source, tmp_path / name, progress=lambda line: None, **settings)
        found[name] = store.load(tmp_path / name)
    assert found["fast"].fingerprint() == found["careful"].fingerprint()
    if encoding == "vocabulary":
        known = encoders_file.read_encoders(tmp_path / "fast").fields[0].values
        assert set(known) == {"7", "007", "0", "true", "1", "1.50"}
    same = [found["fast"].sparse[k, 0] for k in range(4)]
    assert len(set(same)) == 1 and found["fast"].sparse[4, 0] != same[0]
