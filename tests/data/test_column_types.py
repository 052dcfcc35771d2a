"""Every Arrow type in every role: read as what it obviously is, or refused by name before any row is read."""

import datetime as dt
import uuid
from decimal import Decimal

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet as pq
import pytest

from autorank.data.format import column_casts, column_types
from autorank.data.format.column_types import EXTENSIONS, READINGS
from autorank.data.format.source import Columns, Position
from autorank.data.logs import table
from autorank.data.prepare import store, table_file
from autorank.data.prepare.check_rows import read_labels
from autorank.data.prepare.columns import as_text, to_numbers
from autorank.data.prepare.csv_format import CsvFormat
from autorank.data.prepare.times import read_times

ROLES = ("click", "conversion", "time", "categorical", "dense")
BITS, NAN = [1, 0, 1, None], float("nan")
DAYS = [dt.date(2024, 2, 29), dt.date(1969, 12, 31), dt.date(2024, 3, 1), None]
MOMENTS = [
    dt.datetime(2024, 2, 29, 23, 30),
    dt.datetime(1969, 12, 31, 23, 59, 59),
    dt.datetime(2024, 3, 1),
    None,
]
EPOCH = [int((m - dt.datetime(1970, 1, 1)).total_seconds()) * 10**9 for m in MOMENTS[:3] if m]
DAY_EPOCH = [int((d - dt.date(1970, 1, 1)).days) * 86_400 * 10**9 for d in DAYS[:3] if d]
MOMENT_TEXT = ["2024-02-29 23:30:00", "1969-12-31 23:59:59", "2024-03-01 00:00:00", ""]
DAY_TEXT = ["2024-02-29", "1969-12-31", "2024-03-01", ""]
PRICES = [Decimal("1.50"), Decimal("-3.00"), Decimal("0.07"), None]
UUIDS = [uuid.UUID(int=n * 0x123456789ABCDEF0123456789ABCDEF % 2**128) for n in (1, 2, 3)]
TEXT = pa.array(["1", "0", "1", None])
WHOLE = {
    "click": [1, 0, 1, NAN],
    "time": [1, 0, 1, None],
    "categorical": ["1", "0", "1", ""],
    "dense": [1, 0, 1, NAN],
}
FLOATS = WHOLE  # whole numbers are one value in any type
BOOLS = {k: v for k, v in WHOLE.items() if k != "time"} | {
    "categorical": ["true", "false", "true", ""]
}
MONEY = {
    "click": [1.5, -3, 0.07, NAN],
    "time": [1.5, -3, 0.07, None],
    "categorical": ["1.5", "-3", "0.07", ""],
    "dense": [1.5, -3, 0.07, NAN],
}
NAIVE = {"time": [*EPOCH, None], "categorical": MOMENT_TEXT}
ZONED = {"time": [*EPOCH, None], "categorical": [f"{t}+00:00" if t else "" for t in MOMENT_TEXT]}
DATES = {"time": [*DAY_EPOCH, None], "categorical": DAY_TEXT}
CLOCK = {"categorical": ["10:00:00", "00:00:00.5", "23:59:59", ""]}
TIMES = [dt.time(10), dt.time(0, 0, 0, 500_000), dt.time(23, 59, 59), None]


def stored(kind, storage):
    return pa.ExtensionArray.from_storage(kind, storage)


def extension():
    class Point(pa.ExtensionType):
        def __init__(self):
            super().__init__(pa.int64(), "tests.point")

        def __arrow_ext_serialize__(self):
            return b""

        @classmethod
        def __arrow_ext_deserialize__(cls, storage_type, serialized):
            return cls()

    return stored(Point(), pa.array(BITS, pa.int64()))


def utc(unit, zone):
    return pa.array(MOMENTS, pa.timestamp(unit)).cast(pa.int64()).cast(pa.timestamp(unit, zone))


# name -> an array of four rows, what each role reads from it (as numbers or text); other roles refuse it.
TYPES = {
    **{str(kind): (TEXT.cast(kind), WHOLE) for kind in (pa.string(), pa.large_string())},
    "string_view": (TEXT.cast(pa.string_view()), WHOLE),
    "dictionary of text": (TEXT.dictionary_encode(), WHOLE),
    "ordered dictionary": (
        pa.DictionaryArray.from_arrays(
            pa.array([1, 0, 1, None], pa.uint8()), ["0", "1"], ordered=True
        ),
        WHOLE,
    ),
    "dictionary of integers": (pa.array(BITS, pa.int16()).dictionary_encode(), WHOLE),
    "dictionary of timestamps": (pa.array(MOMENTS).dictionary_encode(), NAIVE),
    "dictionary of decimals": (pa.array(PRICES, pa.decimal128(9, 2)).dictionary_encode(), MONEY),
    "dictionary of views": (
        pa.DictionaryArray.from_arrays(
            pa.array([1, 0, 1, None]), pa.array(["0", "1"], pa.string_view())
        ),
        WHOLE,
    ),
    "runs of a dictionary": (
        pa.RunEndEncodedArray.from_arrays(
            pa.array([1, 2, 3, 4], pa.int16()), TEXT.dictionary_encode()
        ),
        WHOLE,
    ),
    "runs of integers": (pa.compute.run_end_encode(pa.array(BITS, pa.int64())), WHOLE),
    "runs of text": (pa.compute.run_end_encode(TEXT), WHOLE),
    **{
        str(kind): (pa.array(BITS, kind), WHOLE)
        for kind in (pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.uint16())
    },
    **{str(kind): (pa.array(BITS, kind), WHOLE) for kind in (pa.uint32(), pa.uint64())},
    **{
        str(kind): (pa.array(BITS, kind), FLOATS)
        for kind in (pa.float16(), pa.float32(), pa.float64())
    },
    **{
        str(kind): (pa.array(PRICES, kind), MONEY)
        for kind in (
            pa.decimal32(9, 2),
            pa.decimal64(18, 2),
            pa.decimal128(38, 2),
            pa.decimal256(76, 3),
        )
    },
    "bool": (pa.array(BITS).cast(pa.bool_()), BOOLS),
    "bool8": (stored(pa.bool8(), pa.array(BITS, pa.int8())), BOOLS),
    **{
        f"timestamp {u}": (pa.array(MOMENTS, pa.timestamp(u)), NAIVE)
        for u in ("s", "ms", "us", "ns")
    },
    **{
        f"timestamp {z}": (utc("ms", z), ZONED)
        for z in ("UTC", "Europe/Paris", "+05:30", "No/Zone")
    },
    "timestamp ns Asia/Kolkata": (utc("ns", "Asia/Kolkata"), ZONED),
    "date32": (pa.array(DAYS, pa.date32()), DATES),
    "date64": (pa.array(DAYS, pa.date64()), DATES),
    "time32": (pa.array(TIMES, pa.time32("ms")), CLOCK),
    "time64 us": (pa.array(TIMES, pa.time64("us")), CLOCK),
    "time64 ns": (pa.array(TIMES, pa.time64("ns")), CLOCK),
    "uuid": (
        stored(pa.uuid(), pa.array([*(u.bytes for u in UUIDS), None], pa.binary(16))),
        {"categorical": [*map(str, UUIDS), ""]},
    ),
    "null": (pa.nulls(4), {"categorical": [""] * 4, "dense": [NAN] * 4}),
    "duration": (pa.array(BITS, pa.duration("ms")), {}),
    "interval": (pa.array([(1, 2, 3), None, None, None], pa.month_day_nano_interval()), {}),
    "binary": (pa.array([b"1", b"0", b"1", None]), {}),
    "large_binary": (pa.array([b"1", b"0", b"1", None], pa.large_binary()), {}),
    "binary_view": (pa.array([b"1", b"0", b"1", None], pa.binary_view()), {}),
    "fixed_size_binary": (pa.array([b"12", b"02", b"12", None], pa.binary(2)), {}),
    "dictionary of bytes": (pa.array([b"1", b"0", b"1", None]).dictionary_encode(), {}),
    "json": (stored(pa.json_(), pa.array(["1", "0", "1", None])), {}),
    "list": (pa.array([[1], [0], [1], None]), {}),
    "large_list": (pa.array([[1], [0], [1], None], pa.large_list(pa.int64())), {}),
    "fixed_size_list": (pa.array([[1], [0], [1], None], pa.list_(pa.int64(), 1)), {}),
    "list_view": (pa.array([[1], [0], [1], None], pa.list_view(pa.int64())), {}),
    "map": (pa.array([[("a", 1)]] * 4, pa.map_(pa.string(), pa.int64())), {}),
    "struct": (pa.array([{"a": 1}] * 4), {}),
    "union": (
        pa.UnionArray.from_dense(
            pa.array([0] * 4, pa.int8()), pa.array(range(4), pa.int32()), [pa.array([1] * 4)]
        ),
        {},
    ),
    "unknown extension": (extension(), {}),
}


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    """One Arrow file of all columns, in two record batches."""
    path = tmp_path_factory.mktemp("types") / "log.arrow"
    all_types = pa.table({name: array for name, (array, _) in TYPES.items()})
    with pa.ipc.new_file(path, all_types.schema) as file:
        file.write_table(all_types, max_chunksize=3)
    return path


def columns_with(name, role):
    base = Columns((), (), "the click", None)
    field = {"categorical": (name,), "dense": (name,)}.get(role, name)
    return base._replace(**{role: field})


def in_role(path, name, role):
    columns = columns_with(name, role)
    file = table_file.inspect_table(path, CsvFormat())
    table_file.check_types(file, columns, [name])
    chunks = [
        piece.read() for piece in table_file.table_segments(file, columns, Position(), read=[name])
    ]
    assert [chunk.lines.tolist() for chunk in chunks] == [[1, 2, 3], [4]]
    found = [chunk.columns[name] for chunk in chunks]
    if role == "categorical":
        return [text for column in found for text in as_text(column).to_pylist()]
    if role == "time":
        times = [read_times(column) for column in found]
        pairs = [(v, k) for m in times for v, k in zip(m.values.tolist(), m.known, strict=True)]
        return [value if known else None for value, known in pairs]
    numbers = (
        read_labels if role in ("click", "conversion") else lambda column: to_numbers(column)[0]
    )
    return [value for column in found for value in numbers(column).tolist()]


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("name", TYPES)
def test_each_type_in_each_role(log, name, role):
    array, readings = TYPES[name]
    expected = readings.get("click" if role == "conversion" else role)
    if expected is not None:
        found = in_role(log, name, role)
        if isinstance(expected[0], str) or role == "time":
            assert found == expected
        else:
            np.testing.assert_array_equal(found, expected)
        return
    with pytest.raises(ValueError) as caught:
        in_role(log, name, role)
    message = str(caught.value)
    assert message.startswith(f"{log}: column {name!r} of type ") and "\n" not in message
    assert f"cannot be read as {role}: " in message
    shown = str(array.type).split("<")[0].split("[")[0].split(" ")[0]
    assert shown in message
    assert ("list it under drop" in message) == (role in ("categorical", "dense"))


def test_the_table_covers_every_type():
    """No kind without a test, none that the table of readings lacks, and each type id of Arrow is one of them."""
    kinds = {column_types.kind_of(pa.field(n, array.type)) for n, (array, _) in TYPES.items()}
    assert kinds == set(READINGS)
    assert all(set(row) == set(ROLES) for row in READINGS.values())
    assert set(EXTENSIONS.values()) <= {*READINGS, "storage"}


def test_extensions_that_only_the_metadata_knows():
    """A reader without the extension sees its storage; the name decides all the same."""

    def field(name, kind):
        return pa.field("x", kind, metadata={"ARROW:extension:name": name})

    assert column_types.kind_of(field("google:sqlType:json", pa.string())) == "json"
    moment = field("google:sqlType:datetime", pa.timestamp("us"))
    assert column_types.kind_of(moment) == "timestamp"
    assert column_types.kind_of(field("geoarrow.point", pa.float64())) == "extension"
    assert column_types.describe(field("geoarrow.point", pa.float64())) == "geoarrow.point (double)"


def test_all_wrong_columns_are_named_at_once(tmp_path):
    lists = pa.array([[1], [2]])
    pq.write_table(
        pa.table({"u": lists, "p": lists, "y": [0, 1], "t": pa.array([b"a", b"b"])}),
        tmp_path / "log.parquet",
    )
    roles = "name: x\nclick: y\ntime: t\ncategorical: [u]\ndense: [p]\n"
    (tmp_path / "roles.yaml").write_text(roles)
    with pytest.raises(ValueError) as caught:
        table.source(tmp_path / "log.parquet", tmp_path / "roles.yaml")
    for column, role in (("u", "categorical"), ("p", "dense"), ("t", "time")):
        assert f"column {column!r} of type" in str(caught.value)
        assert f"cannot be read as {role}" in str(caught.value)
    # What is dropped may be anything.
    roles = "name: x\nclick: y\ncategorical: [y2]\ndrop: [u, p, t]\n".replace("y2", "v")
    (tmp_path / "roles.yaml").write_text(roles)
    found = pq.read_table(tmp_path / "log.parquet").append_column("v", pa.array(["a", "b"]))
    pq.write_table(found, tmp_path / "log.parquet")
    table.source(tmp_path / "log.parquet", tmp_path / "roles.yaml")


def test_prepared_as_if_they_were_plain(tmp_path):
    """A Parquet file of odd types gives the data of one of plain types, ids and numbers alike."""
    num = 60
    users, prices = [f"u{i % 7}" for i in range(num)], [Decimal(i % 11) / 4 for i in range(num)]
    clicks = [i % 3 == 0 for i in range(num)]
    times = [
        dt.datetime(2024, 3, 31, 0, 59) + dt.timedelta(minutes=(i * 37) % 60) for i in range(num)
    ]
    plain = pa.table(
        {
            "user": users,
            "price": [float(p) for p in prices],
            "ts": [t.isoformat() + "Z" for t in times],
            "clicked": [int(c) for c in clicks],
        }
    )
    enum = pl.Series(users, dtype=pl.Enum(sorted(set(users)))).to_arrow()
    odd = pa.table(
        {
            "user": enum,
            "price": pa.array(prices, pa.decimal256(60, 4)),
            "ts": pa.array(times, pa.timestamp("us")).cast(pa.timestamp("us", "Europe/Paris")),
            "clicked": pa.array([str(c) for c in clicks]).dictionary_encode(),
        }
    )
    roles = "name: x\nclick: clicked\ntime: ts\ncategorical: [user]\ndense: [price]\n"
    (tmp_path / "roles.yaml").write_text(roles)
    found = []
    for name, content in {"plain": plain, "odd": odd}.items():
        pq.write_table(content, tmp_path / f"{name}.parquet", row_group_size=25)
        source = table.source(tmp_path / f"{name}.parquet", tmp_path / "roles.yaml")
        store.prepare(source, tmp_path / name, min_count=1, progress=lambda text: None)
        found.append(store.load(tmp_path / name))
    for name in ("sparse", "dense", "labels"):
        np.testing.assert_array_equal(getattr(found[0], name), getattr(found[1], name))


@pytest.mark.parametrize("write", ["parquet", "ipc", "old ipc"])
def test_what_polars_writes(tmp_path, write):
    """Its categories are dictionaries of string views, in all its files but those of the oldest form."""
    frame = pl.DataFrame(
        {
            "u": pl.Series(["a", None, "b", "a"], dtype=pl.Categorical),
            "e": pl.Series(["x", "y", "y", None], dtype=pl.Enum(["y", "x"])),
            "s": ["é", "", None, "long enough to be no inline view"],
        }
    )
    path = tmp_path / "log"
    if write == "parquet":
        frame.write_parquet(path)
    else:
        level = pl.CompatLevel.oldest() if write == "old ipc" else None
        frame.write_ipc(path, compat_level=level)
    columns = Columns(("u", "e", "s"), (), "y")
    file = table_file.inspect_table(path, CsvFormat())
    table_file.check_types(file, columns, columns.categorical)
    (piece,) = table_file.table_segments(file, columns, Position(), read=columns.categorical)
    found = {name: as_text(column).to_pylist() for name, column in piece.read().columns.items()}
    assert found["u"] == ["a", "", "b", "a"] and found["e"] == ["x", "y", "y", ""]
    assert found["s"] == ["é", "", "", "long enough to be no inline view"]


def test_slices_of_runs_and_dictionaries():
    """A chunk may be a slice: of the rows, not of the runs."""
    runs = pa.RunEndEncodedArray.from_arrays(
        pa.array([2, 5, 6], pa.int32()), pa.array([7, None, 9])
    )
    codes = pa.array(["a", "b", "a", "c", "b", "a"]).dictionary_encode()
    for array in (runs, codes):
        whole = array.to_pylist()
        for first in range(6):
            for stop in range(first, 7):
                column = pa.chunked_array([array[first:stop]], array.type)
                found = column_casts.read_as(column, pa.field("x", array.type), "categorical")
                assert found.to_pylist() == whole[first:stop]


def test_text_that_is_no_text(tmp_path):
    raw = pa.array([b"ok", b"\xff\xfe"])
    broken = pa.Array.from_buffers(pa.string(), 2, raw.buffers())
    pq.write_table(pa.table({"user": broken, "y": [0, 1]}), tmp_path / "log.parquet")
    with pytest.raises(ValueError, match=r"log.parquet: column 'user' of type string .*UTF8"):
        columns = columns_with("user", "categorical")
        file = table_file.inspect_table(tmp_path / "log.parquet", CsvFormat())
        table_file.check_types(file, columns, ["user"])
        next(table_file.table_segments(file, columns, Position(), read=["user"])).read()
