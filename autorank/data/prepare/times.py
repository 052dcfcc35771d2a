"""Time columns: numbers, or dates and times in the forms that programs write, as one number a row that sorts.

Text is understood by its layout, that is the text with every digit replaced by 0: a log has few of them. Each is looked
at once, and all rows that have it are then read at once.
"""

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from autorank.data.fast_text.words import Words
from autorank.data.prepare.encoders import as_series

TILE = 1 << 16  # rows whose text is worked on at a time
ROUNDS = 8  # layouts of a tile that are looked for one by one; more are sorted
LONGEST = 64  # bytes of a time
_DAY, _BILLION = 86_400, 1_000_000_000
_LAST_SECOND = (1 << 63) // _BILLION - 1  # 2262; times beyond it sort as it does

ACCEPTED = (
    "dates and times such as 2024-01-31, 2024-01-31 10:00, 2024-01-31T10:00:00.123, all without a zone or all with one "
    "(Z, UTC, +02:00), or numbers in one unit"
)
# What times are measured in: the group they are compared within.
NAIVE, ZONED, NUMBER = "dates without a zone", "dates with a zone", "numbers"
FRACTIONS = "fractions"  # numbers that are not whole, or too large: such a part keeps float64
UNITS = ("seconds", "milliseconds", "microseconds", "nanoseconds")
_FIRST, _LAST = (
    631_152_000,
    4_102_444_800,
)  # 1990 and 2100 in seconds: what tells a unit from another
# Between these, in turn: below, seconds, a gap, milliseconds, a gap, ...
_EDGES = np.array([edge * 1000**k for k in range(4) for edge in (_FIRST, _LAST)], np.float64)
_CLASSES = ["small", *(f"{p}{unit}" for unit in UNITS for p in ("", "above "))]
_RARE = 0.01  # of all numbers that look like one of two units: so many between the units leave it a mixture


class Moments(NamedTuple):
    """A time column as numbers that sort."""

    # [n] int64, nanoseconds since 1970 or the numbers themselves; float64 where those have fractions
    values: np.ndarray
    known: np.ndarray  # bool [n]; false where nothing could be read
    forms: dict[str, tuple[int, int]]  # form -> rows of it, the first of them


Forms = Mapping[str, tuple[int, str]]  # form -> rows of it, where the first stands


def read_times(column: Any) -> Moments:
    """Reads a column: an Arrow array, anything that polars takes, or `Words`."""
    import pyarrow as pa

    array = _as_arrow(column)
    kind = array.type
    if pa.types.is_timestamp(kind):
        form = NAIVE if kind.tz is None else ZONED
        return _instants(array, {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[kind.unit], form)
    if pa.types.is_date32(kind):
        return _instants(array.cast(pa.date64()), 1000, NAIVE)
    if pa.types.is_date64(kind):
        return _instants(array, 1000, NAIVE)
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return _read_text(array)
    if pa.types.is_null(kind):
        array = array.cast(pa.float64())
    elif pa.types.is_boolean(kind):
        array = array.cast(pa.int8())
    elif pa.types.is_decimal(kind) or pa.types.is_float16(kind):
        array = array.cast(pa.float64())
    elif not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        raise ValueError(f"values of type {kind} are no times; write {ACCEPTED}")
    known = array.is_valid().to_numpy(zero_copy_only=False)
    values = array.fill_null(0).to_numpy(zero_copy_only=False)
    return _numbers(values, known)


def clash(forms: Forms) -> tuple[str, str] | None:
    """Two forms that have no common order, or None.

    Units are told apart only where they look like dates of 1990 to 2100 in two of them and nothing lies between, so
    that days, counters and clocks of any kind remain numbers.
    """
    groups = [form for form in (NAIVE, ZONED, NUMBER) if form in forms]
    if len(groups) > 1:
        return groups[0], groups[1]
    units = [unit for unit in UNITS if unit in forms]
    if len(units) < 2:
        return None
    span = UNITS[UNITS.index(units[0]) : UNITS.index(units[-1])]
    between = sum(forms[f"above {unit}"][0] for unit in span if f"above {unit}" in forms)
    if between > _RARE * sum(forms[unit][0] for unit in units):
        return None
    return units[0], units[1]


def refusal(name: str | None, forms: Forms, two: tuple[str, str]) -> ValueError:
    """The error for a column with two forms."""
    found = " and ".join(
        f"{form}{' since 1970' if form in UNITS else ''} ({forms[form][1]})" for form in two
    )
    return ValueError(f"time column {name!r} mixes {found}; write all rows in one form: {ACCEPTED}")


def _as_arrow(column: Any) -> Any:
    import pyarrow as pa

    if isinstance(column, Words):
        return column.to_arrow()
    if not isinstance(column, pa.Array):
        column = as_series(column).to_arrow()
    while pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    return column.cast(pa.large_string()) if pa.types.is_string_view(column.type) else column


def _instants(array: Any, per_second: int, form: str) -> Moments:
    import pyarrow as pa

    known = array.is_valid().to_numpy(zero_copy_only=False)
    units = array.cast(pa.int64()).fill_null(0).to_numpy(zero_copy_only=False)
    seconds, rest = np.divmod(units, per_second)
    return Moments(
        _nanoseconds(seconds, rest * (_BILLION // per_second)), known, _form(form, known)
    )


def _nanoseconds(seconds: np.ndarray, rest: np.ndarray) -> np.ndarray:
    """Since 1970; times that 64 bits do not hold become the last or first that they do."""
    inside = np.abs(seconds) <= _LAST_SECOND
    if not inside.all():
        seconds, rest = np.clip(seconds, -_LAST_SECOND, _LAST_SECOND), np.where(inside, rest, 0)
    return seconds * _BILLION + rest


def _form(form: str, known: np.ndarray) -> dict[str, tuple[int, int]]:
    count = int(np.count_nonzero(known))
    return {form: (count, int(known.argmax()))} if count else {}


def _numbers(values: np.ndarray, known: np.ndarray) -> Moments:
    """Whole numbers as int64, exactly; any others as float64."""
    if values.dtype.kind == "f":
        known = known & np.isfinite(values)
        values = np.where(known, values, 0).astype(np.float64, copy=False)
        if (values == np.trunc(values)).all() and (np.abs(values) < 2.0**63).all():
            values = values.astype(np.int64)
    elif values.dtype == np.uint64 and len(values) and values.max() >= 1 << 63:
        values = values.astype(np.float64)
    if values.dtype.kind != "f":
        values = values.astype(np.int64, copy=False)
    forms = _form(NUMBER, known)
    if values.dtype.kind == "f" and forms:
        forms |= {FRACTIONS: forms[NUMBER]}
    if not forms:
        return Moments(values, known, forms)
    lowest, highest = (int(c) for c in np.digitize([values.min(), values.max()], _EDGES))
    if lowest == highest:
        forms |= _form(_CLASSES[lowest], known)
    else:
        classes = np.where(known, np.digitize(values, _EDGES), -1)
        for index in range(lowest, highest + 1):
            forms |= _form(_CLASSES[index], classes == index)
    return Moments(values, known, forms)


def _read_text(array: Any) -> Moments:
    import polars as pl

    series = pl.Series(pl.from_arrow(array)).str.strip_chars()
    whole = series.cast(pl.Int64, strict=False)
    known = whole.is_not_null().to_numpy()
    values = whole.fill_null(0).to_numpy()
    if not known.all():
        floats = series.filter(~known).cast(pl.Float64, strict=False).fill_null(np.nan).to_numpy()
        if np.isfinite(floats).any():
            values = values.astype(np.float64)
            values[~known] = floats
            known = np.isfinite(values)
            # A number that is whole but for its text, such as 1700000000.0, must not cost the others their digits.
            exact = np.where(known, values, 0)
            if (exact == np.trunc(exact)).all() and (np.abs(exact) < 2.0**63).all():
                values = np.where(
                    whole.is_not_null().to_numpy(),
                    whole.fill_null(0).to_numpy(),
                    exact.astype(np.int64),
                )
    found = _numbers(values, known)
    if found.known.all():
        return found
    dates = _read_dates(array, np.flatnonzero(~found.known))
    if NUMBER in found.forms:  # both together are refused; which values they get decides nothing
        return Moments(found.values, found.known | dates.known, found.forms | dates.forms)
    return dates


def _read_dates(array: Any, rows: np.ndarray) -> Moments:
    """Dates among some rows of an Arrow string array."""
    import pyarrow as pa

    values, known = np.zeros(len(array), np.int64), np.zeros(len(array), bool)
    forms: dict[str, tuple[int, int]] = {}
    _, offsets, data = array.buffers()
    if not len(rows) or data is None:
        return Moments(values, known, forms)
    width = np.int64 if pa.types.is_large_string(array.type) else np.int32
    ends = np.frombuffer(offsets, width)[array.offset :][: len(array) + 1].astype(np.int64)
    content = np.frombuffer(data, np.uint8)
    zoned = np.zeros(len(array), bool)
    lengths = np.diff(ends)[rows]
    if array.null_count:
        lengths[~array.is_valid().to_numpy(zero_copy_only=False)[rows]] = 0
    for length in np.unique(lengths):
        if not 0 < length <= LONGEST:
            continue
        windows = np.lib.stride_tricks.sliding_window_view(content, int(length))
        same = rows[lengths == length]
        for first in range(0, len(same), TILE):
            tile = same[first : first + TILE]
            values[tile], known[tile], zoned[tile] = _read_tile(windows[ends[tile]])
    forms |= _form(NAIVE, known & ~zoned) | _form(ZONED, known & zoned)
    return Moments(values, known, forms)


def _read_tile(text: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Nanoseconds int64 [n], known bool [n] and zoned bool [n] of texts of one length, uint8 [n, length]."""
    values, known, zoned = (np.zeros(len(text), kind) for kind in (np.int64, bool, bool))
    layouts = np.where((text >= ord("0")) & (text <= ord("9")), np.uint8(ord("0")), text)
    left = np.arange(len(text))

    def read(rows: np.ndarray) -> None:
        form = understand(layouts[rows[0]].tobytes().decode("latin-1"))
        if form is not None:
            chosen = text if len(rows) == len(text) else text[rows]
            values[rows], known[rows] = _evaluate(chosen, form)
            zoned[rows] = form.zone is not None

    for _ in range(ROUNDS):
        same = (layouts[left] == layouts[left[0]]).all(1)
        read(left[same])
        left = left[~same]
        if not len(left):
            return values, known, zoned
    # Many layouts: most of them are no times at all, which costs one look each.
    keys = np.ascontiguousarray(layouts[left]).view(f"V{text.shape[1]}")[:, 0]
    order = np.argsort(keys, kind="stable")
    cuts = np.flatnonzero(keys[order][1:] != keys[order][:-1]) + 1
    for rows in np.split(left[order], cuts):
        read(rows)
    return values, known, zoned


class Form(NamedTuple):
    """Where in a text of a layout the parts of a time stand: first character and length."""

    year: tuple[int, int]
    month: tuple[int, int]
    day: tuple[int, int]
    clock: tuple[tuple[int, int], ...]  # hours, minutes, seconds, as far as given
    fraction: tuple[int, int] | None
    zone: (
        tuple[tuple[int, int], ...] | None
    )  # of an offset: hours, minutes, seconds; (): UTC; None: no zone
    east: bool = True  # the offset's sign


_CLOCK = r"(00)(?::(00)(?::(00)(?:[.,](0+))?)?)?"
_BASIC_CLOCK = r"(00)(?:(00)(?:(00)(?:[.,](0+))?)?)?"
_ZONE = r"(?:\s*(?:([Zz]|UTC|utc|GMT|gmt)|([+-])(00)(?::?(00)(?::?(00))?)?(?:\s+[A-Z]{2,5})?)(?:\[[A-Za-z0/_+-]+\])?)?"
_LAYOUTS = (
    re.compile(rf"\s*(0000)-(00)-(00)(?:(?:[Tt]|\s+){_CLOCK}{_ZONE})?\s*"),
    re.compile(rf"\s*(0000)/(00)/(00)(?:(?:[Tt]|\s+){_CLOCK}{_ZONE})?\s*"),
    re.compile(rf"\s*(0000)(00)(00)(?:[Tt]|\s+){_BASIC_CLOCK}{_ZONE}\s*"),
)


@lru_cache(4096)
def understand(layout: str) -> Form | None:
    """What a layout means.

    >>> understand("0000-00-00T00:00Z").clock
    ((11, 2), (14, 2))
    """
    match = next(filter(None, (form.fullmatch(layout) for form in _LAYOUTS)), None)
    if match is None:
        return None
    spans = [(first, end - first) for first, end in match.regs[1:]]
    year, month, day, *clock, fraction, utc, sign, a, b, c = spans
    given = tuple(part for part in (a, b, c) if part[1])
    zone = given if given else () if utc[1] else None
    east = not sign[1] or layout[sign[0]] == "+"
    return Form(
        year,
        month,
        day,
        tuple(part for part in clock if part[1]),
        fraction if fraction[1] else None,
        zone,
        east,
    )


def _evaluate(text: np.ndarray, form: Form) -> tuple[np.ndarray, np.ndarray]:
    """Nanoseconds since 1970 and whether there is such a time, of texts uint8 [n, length] of one layout."""

    def number(place: tuple[int, int]) -> np.ndarray:
        first, length = place
        found = np.zeros(len(text), np.int64)
        for column in range(first, first + length):
            found *= 10
            found += text[:, column]
            found -= ord("0")
        return found

    year, month, day = number(form.year), number(form.month), number(form.day)
    leap = (year % 4 == 0) & ((year % 100 != 0) | (year % 400 == 0))
    lengths = np.array([0, 31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31])
    valid = (year > 0) & (month >= 1) & (month <= 12)
    valid &= (day >= 1) & (day <= lengths[np.minimum(month, 12)] + (leap & (month == 2)))
    seconds = _days(year, month, day) * _DAY
    for scale, most, part in zip((3600, 60, 1), (24, 60, 60), form.clock, strict=False):
        found = number(part)
        valid &= found < most
        seconds += found * scale
    for scale, most, part in zip((3600, 60, 1), (24, 60, 60), form.zone or (), strict=False):
        found = number(part)
        valid &= found < most
        seconds -= found * (scale if form.east else -scale)
    rest = np.zeros(len(text), np.int64)
    if form.fraction is not None:
        first, length = form.fraction
        digits = min(length, 9)
        rest = number((first, digits)) * 10 ** (9 - digits)
    return _nanoseconds(seconds, rest), valid


def _days(year: np.ndarray, month: np.ndarray, day: np.ndarray) -> np.ndarray:
    """Days since 1970-01-01 in the Gregorian calendar; years begin in March, so that leap days are their last."""
    year = year - (month <= 2)
    month = (month + 9) % 12
    since_march = (153 * month + 2) // 5 + day - 1
    return 365 * year + year // 4 - year // 100 + year // 400 + since_march - 719_468
