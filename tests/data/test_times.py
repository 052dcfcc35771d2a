"""Times as programs write them are the instants that Python's datetime says; mixtures are refused."""

import datetime as dt
import random

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.csv
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autorank.data.fast_text.short_strings import ShortStrings
from autorank.data.logs import table
from autorank.data.prepare import encoders_file, store, time_forms, times
from autorank.data.prepare.time_forms import NAIVE, NUMBER, ZONED, incompatible_forms
from autorank.data.prepare.times import read_times

UTC = dt.UTC
START = dt.datetime(1970, 1, 1, tzinfo=UTC)
OFFSETS = st.integers(-23 * 60 - 59, 23 * 60 + 59).map(
    lambda m: dt.timezone(dt.timedelta(minutes=m))
)
# 64 bits of nanoseconds end in 1677 and 2262.
MOMENTS = st.datetimes(dt.datetime(1680, 1, 1), dt.datetime(2260, 1, 1))


def instant(moment: dt.datetime) -> int:
    """Nanoseconds since 1970, exactly."""
    zoned = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return (zoned - START) // dt.timedelta(microseconds=1) * 1000


def offset(moment, form):
    minutes = int(moment.utcoffset().total_seconds()) // 60
    hours, rest = divmod(abs(minutes), 60)
    return form.format("-" if minutes < 0 else "+", hours, rest)


def micro(m):
    return f"{m:%H:%M:%S}.{m.microsecond:06d}"


def day(m, mark="-"):
    return f"{m.year:04d}{mark}{m.month:02d}{mark}{m.day:02d}"


# Who writes it -> text of an aware datetime, and how much of the datetime is in it.
WHOLE, MILLIS, SECONDS, MINUTES, HOURS, DAYS = (
    1,
    1000,
    10**6,
    60 * 10**6,
    3600 * 10**6,
    86_400 * 10**6,
)
WRITERS = {
    "isoformat": (lambda m: m.isoformat(), WHOLE),
    "isoformat, milliseconds": (lambda m: m.isoformat(timespec="milliseconds"), MILLIS),
    "isoformat, minutes": (lambda m: m.isoformat(timespec="minutes"), MINUTES),
    "isoformat, hours": (lambda m: m.isoformat(timespec="hours"), HOURS),
    "str and pandas": (str, WHOLE),
    "JavaScript": (
        lambda m: (m := m.astimezone(UTC)) and f"{day(m)}T{micro(m)[:-3]}Z",
        MILLIS,
    ),
    "BigQuery": (lambda m: (m := m.astimezone(UTC)) and f"{day(m)} {micro(m)} UTC", WHOLE),
    "BigQuery, seconds": (
        lambda m: (m := m.astimezone(UTC)) and f"{day(m)} {m:%H:%M:%S} UTC",
        SECONDS,
    ),
    "Java and Spark": (lambda m: f"{day(m)}T{micro(m)[:-3]}{offset(m, '{}{:02d}{:02d}')}", MILLIS),
    "Spark with zone": (
        lambda m: f"{day(m)}T{micro(m)[:-3]}{offset(m, '{}{:02d}:{:02d}')}",
        MILLIS,
    ),
    "ZonedDateTime": (
        lambda m: f"{day(m)}T{micro(m)}{offset(m, '{}{:02d}:{:02d}')}[Europe/Paris]",
        WHOLE,
    ),
    "Postgres": (lambda m: (m := m.astimezone(UTC)) and f"{day(m)} {m:%H:%M:%S}+00", SECONDS),
    "SQL Server": (lambda m: f"{day(m)} {micro(m)}0 {offset(m, '{}{:02d}:{:02d}')}", WHOLE),
    "nine digits": (lambda m: f"{day(m)}T{micro(m)}000{offset(m, '{}{:02d}:{:02d}')}", WHOLE),
    "twelve digits": (lambda m: f"{day(m)}T{micro(m)}000000{offset(m, '{}{:02d}{:02d}')}", WHOLE),
    "one digit": (
        lambda m: f"{day(m)} {micro(m)[:-5]}{offset(m, '{}{:02d}:{:02d}')}",
        100_000,
    ),
    "lower case": (lambda m: (m := m.astimezone(UTC)) and f"{day(m)}t{micro(m)}z", WHOLE),
    "basic ISO": (lambda m: (m := m.astimezone(UTC)) and f"{day(m, '')}T{m:%H%M%S}Z", SECONDS),
    "slashes": (lambda m: f"{day(m, '/')} {m:%H:%M:%S}{offset(m, '{}{:02d}:{:02d}')}", SECONDS),
    "Go": (lambda m: f"{day(m)} {micro(m)} {offset(m, '{}{:02d}{:02d}')} CEST", WHOLE),
    "padded": (lambda m: f"  {m.isoformat()} ", WHOLE),
}
NAIVE_WRITERS = {
    "isoformat": (lambda m: m.isoformat(), WHOLE),
    "str, MySQL, pandas": (str, WHOLE),
    "minutes": (lambda m: m.isoformat(" ", timespec="minutes"), MINUTES),
    "date": (day, DAYS),
    "comma": (lambda m: f"{day(m)} {micro(m).replace('.', ',')}", WHOLE),
    "basic": (lambda m: f"{day(m, '')} {m:%H%M%S}", SECONDS),
}


def floor(moment, unit):
    """The datetime without what the text does not have, on its own clock."""
    start = dt.datetime.min.replace(tzinfo=moment.tzinfo)
    return start + (moment - start) // dt.timedelta(microseconds=unit) * dt.timedelta(
        microseconds=unit
    )


def read(values):
    found = read_times(values)
    return [v if k else None for v, k in zip(found.values.tolist(), found.known, strict=True)]


@pytest.mark.parametrize("writer", WRITERS)
@settings(max_examples=15)
@given(data=st.data())
def test_zoned_text_is_the_instant(writer, data):
    write, unit = WRITERS[writer]
    moments = data.draw(
        st.lists(st.builds(dt.datetime.replace, MOMENTS, tzinfo=OFFSETS), min_size=1)
    )
    if write(START).endswith(("Z", "z", "UTC", "+00")):  # cut on the clock of UTC
        moments = [m.astimezone(UTC) for m in moments]
    text = [write(m) for m in moments]
    assert read(text) == [instant(floor(m, unit)) for m in moments]
    assert set(read_times(text).forms) == {ZONED}


@pytest.mark.parametrize("writer", NAIVE_WRITERS)
@settings(max_examples=15)
@given(moments=st.lists(MOMENTS, min_size=1))
def test_naive_text_is_the_instant(writer, moments):
    write, unit = NAIVE_WRITERS[writer]
    text = [write(m) for m in moments]
    assert read(text) == [instant(floor(m, unit)) for m in moments]
    assert set(read_times(text).forms) == {NAIVE}


@settings(max_examples=15)
@given(
    st.lists(st.tuples(MOMENTS, OFFSETS, st.sampled_from(list(WRITERS))), min_size=1, max_size=40)
)
def test_all_zoned_forms_of_one_column_have_one_order(rows):
    """More layouts than are looked for one by one, and different offsets."""
    moments = [floor(m, DAYS).replace(tzinfo=UTC).astimezone(zone) for m, zone, _ in rows]
    # Hours of an offset with minutes are no whole hours of UTC: such text says less than the instant.
    text = [
        WRITERS[w if "hours" not in w and "minutes" not in w else "isoformat"][0](m)
        for m, (_, _, w) in zip(moments, rows, strict=True)
    ]
    assert read(text) == [instant(m) for m in moments]


@settings(max_examples=15)
@given(st.lists(MOMENTS, min_size=1), st.sampled_from(["UTC", "Europe/Paris", "America/St_Johns"]))
def test_arrow_timestamps_equal_their_text(moments, zone):
    wanted = [instant(m) for m in moments]
    for unit, scale in (("s", 10**6), ("ms", 1000), ("us", 1), ("ns", 1)):
        cut = [floor(m, scale) for m in moments]
        naive = pa.array(cut, pa.timestamp(unit))
        assert read(naive) == [instant(m) for m in cut]
        assert read(naive.cast(pa.int64()).cast(pa.timestamp(unit, zone))) == [
            instant(m) for m in cut
        ]
    assert read(pl.Series(moments, dtype=pl.Datetime("us"))) == wanted
    assert read(moments) == wanted


def test_offsets_around_the_end_of_summer_time():
    """One wall clock twice: the offset says which hour it was."""
    text = ["2024-10-27T02:30:00+02:00", "2024-10-27T02:10:00+01:00", "2024-10-27T01:00:00Z"]
    first, second, third = read(text)
    assert third - first == 30 * 60 * 10**9 and second - third == 10 * 60 * 10**9


def test_nanoseconds_sort_exactly():
    """Neither text nor numbers pass through float64, which has steps of 256 ns there."""
    text = [f"2024-01-01T00:00:00.{n:09d}Z" for n in (7, 3, 100_000_005, 2)]
    numbers = [1_704_067_200 * 10**9 + n for n in (7, 3, 100_000_005, 2)]
    for column in (text, numbers, [str(n) for n in numbers], pl.Series(numbers, dtype=pl.UInt64)):
        assert read(column) == numbers


@pytest.mark.parametrize(
    "text",
    ["2024-W05-3", "2024-W053", "2024-031", "2024-02-30", "2023-02-29", "2024-13-01", "2024-00-10"]
    + ["2024-01-31 24:00", "2024-01-31 10:60", "2024-01-31 10:00:60", "0000-00-00 00:00:00"]
    + ["31/01/2024", "01-31-2024", "2024-1-31", "2024-01-31Z", "2024-01-31+02:00", "2024-01"]
    + ["noon", "10:00", "", None, "2024-01-31T10:00+25:00", "2024-01-31T10:00+02:75", "nan", "inf"]
    + ["2024-01-31 10:00 EST", "2024-01-31T", "٢٠٢٤-01-31", "2024-01-31 10:00:00.", "2024\0-01-31"],
)
def test_what_is_no_time(text):
    for column in ([text], [text, "2024-01-31"], pl.Series([text] * 3, dtype=pl.String)):
        assert read(column)[0] is None


@pytest.mark.parametrize(
    "column, expected",
    [
        (["3", " -1.5", "1e3", ""], [3.0, -1.5, 1000.0, None]),
        (["1700000000.0", "1700000000123456789"], [1_700_000_000, 1_700_000_000_123_456_789]),
        (np.array([1.5, np.nan, -np.inf, 2]), [1.5, None, None, 2]),
        (np.array([3, -2], np.int8), [3, -2]),
        ([True, False], [1, 0]),
        (pl.Series([2**64 - 1, 3], dtype=pl.UInt64), [float(2**64), 3.0]),
        (ShortStrings(np.array([0x3331, 0, 0x32], np.uint64)), [13, None, 2]),
        (["20240131", "20240201"], [20240131, 20240201]),
        (pl.Series([None, None]), [None, None]),
        ([], []),
    ],
)
def test_numbers_are_themselves(column, expected):
    assert read(column) == expected


def test_far_dates_sort_at_the_ends():
    text = ["9999-12-31", "2024-01-01", "0001-01-01", "3000-01-01 10:00"]
    first, second, third, fourth = read(text)
    assert third < second < min(first, fourth)
    assert read(pa.array([2**62, 0, -(2**62)], pa.timestamp("s")))[1] == 0


def forms_of(*columns):
    """What preparing knows of a log of several segments."""
    found = {}
    for index, column in enumerate(columns):
        read_forms = read_times(column).forms
        places = {form: (n, f"log.csv:{index}") for form, (n, _) in read_forms.items()}
        found = time_forms.merge_forms(found, places)
    return found


S, MS, US, NS = (1_700_000_000 * 1000**k for k in range(4))


@pytest.mark.parametrize(
    "columns, expected",
    [
        ([["2024-01-01"], ["2024-01-01T00:00:00Z"]], (NAIVE, ZONED)),
        ([["2024-01-01", "17"]], (NAIVE, NUMBER)),
        ([["2024-01-01Z", "2024-01-01 10:00Z"], ["17"]], (ZONED, NUMBER)),
        ([[S, S + 1], [MS]], ("seconds", "milliseconds")),
        ([[str(NS), str(US)]], ("microseconds", "nanoseconds")),
        ([[S + 0.5] * 300, [float(MS)]], ("seconds", "milliseconds")),
        ([[0, -1, S, NS]], ("seconds", "nanoseconds")),  # what stands for "no time" hides nothing
        ([["2024-01-01", "2024-01-01 10:00", "2024-01-01T10:00:00.5"]], None),
        ([["2024-01-01T00:00Z"], ["2024-01-01 00:00:00.5 UTC", "2024-01-01T00:00+02:00"]], None),
        ([[S, S + 10**6]], None),
        ([[0, 1, S]], None),
        ([[0.25, -3, 1e300]], None),
        ([np.arange(0, 10**12, 10**7)], None),  # a clock in microseconds that ran for a day
        ([np.arange(0, 10**12, 10**9), np.arange(0, 10**9, 10**7)], None),
        ([range(1000)], None),
        ([[20240131, 14102100]], None),
        ([[]], None),
    ],
)
def test_which_forms_have_a_common_order(columns, expected):
    assert incompatible_forms(forms_of(*columns)) == expected


def test_many_layouts_and_rubbish(monkeypatch):
    monkeypatch.setattr(times, "TILE", 50)
    rng = random.Random(0)
    rubbish = ["".join(rng.choices("0123456789-:T.+ Z", k=19)) for _ in range(300)]
    good = [f"2024-01-01 00:00:{i:02d}" for i in range(60)]
    mixed = [*rubbish, *good]
    order = rng.sample(range(len(mixed)), len(mixed))
    found = read([mixed[i] for i in order])
    start = instant(dt.datetime(2024, 1, 1))
    for place, i in enumerate(order):
        assert found[place] == (start + (i - 300) * 10**9 if i >= 300 else None)


SCHEMA = "name: t\nclick: y\ntime: ts\ncategorical: [u]\n"


def write_log(folder, moments):
    rows = [f'u{i},{i % 2},"{moment}"' for i, moment in enumerate(moments)]
    (folder / "log.csv").write_text("\n".join(["u,y,ts", *rows]) + "\n")
    (folder / "roles.yaml").write_text(SCHEMA)
    return table.source(folder / "log.csv", folder / "roles.yaml")


def prepared_order(folder, source):
    """Rows of the log in the order of time, by their user."""
    options = {"min_count": 1, "train_fraction": 0.99, "progress": lambda text: None}
    store.prepare(source, folder / "out", **options)
    data = store.load(folder / "out")
    users = ["", "?", *encoders_file.read_encoders(folder / "out").fields[0].values]
    return [users[i] for i in data.sparse[:, 0]]


@pytest.mark.parametrize("kind", ["offsets", "nanoseconds", "fractions", "arrow"])
def test_preparing_sorts_by_the_instant(tmp_path, kind):
    rng = random.Random(1)
    order = rng.sample(range(40), 40)
    if kind == "offsets":
        zones = [dt.timezone(dt.timedelta(minutes=15 * rng.randrange(-40, 40))) for _ in order]
        moments = [
            (START + dt.timedelta(days=20_000, minutes=n)).astimezone(zone).isoformat()
            for n, zone in zip(order, zones, strict=True)
        ]
    elif kind == "nanoseconds":
        moments = [NS + n for n in order]
    elif kind == "fractions":
        moments = [n / 8 - 2 for n in order]
    else:  # what pyarrow's own writer makes of a timestamp
        stamps = pa.array([NS // 1000 + n for n in order]).cast(pa.timestamp("us", "UTC"))
        sink = pa.BufferOutputStream()
        pa.csv.write_csv(pa.table({"ts": stamps}), sink)
        moments = sink.getvalue().to_pybytes().decode().replace('"', "").split("\n")[1:-1]
    found = prepared_order(tmp_path, write_log(tmp_path, moments))
    wanted = [f"u{i}" for i in np.argsort(order)]
    assert found[:-1] == wanted[:-1]


@pytest.mark.parametrize(
    "moments, message",
    [
        (
            ["2024-01-01", "2024-01-02T00:00Z"],
            r"'ts' mixes dates without a zone \(log.csv:2: 2024-01-01\) and dates with a zone "
            r"\(log.csv:3: 2024-01-02T00:00Z\); write all rows in one form: dates and times such as",
        ),
        (
            [S, S + 1, MS],
            r"'ts' mixes seconds since 1970 \(log.csv:2: 1700000000\) and milliseconds since 1970 "
            r"\(log.csv:4: 1700000000000\); write all rows in one form",
        ),
        (["2024-W01-1"] * 3, r"ts='2024-W01-1' is not a time.*A time column has dates and times"),
    ],
)
def test_mixtures_are_refused_by_place(tmp_path, moments, message):
    source = write_log(tmp_path, moments)
    with pytest.raises(ValueError, match=message):
        prepared_order(tmp_path, source)
