"""Parses dates and times written as text, many at a time.

The layout of a text is the text with every digit replaced by 0. A log has few layouts: each is interpreted once, and
all rows with that layout are then parsed together.
"""

import re
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

import numpy as np

MAX_LENGTH = 64  # bytes of a time
ROUNDS = 8  # layouts that are searched for one by one before the rest is sorted
BILLION = 1_000_000_000
_DAY = 86_400
_LAST_SECOND = (1 << 63) // BILLION - 1  # in 2262; later times sort as equal to it

_CLOCK = r"(00)(?::(00)(?::(00)(?:[.,](0+))?)?)?"
_BASIC_CLOCK = r"(00)(?:(00)(?:(00)(?:[.,](0+))?)?)?"
_ZONE = r"(?:\s*(?:([Zz]|UTC|utc|GMT|gmt)|([+-])(00)(?::?(00)(?::?(00))?)?(?:\s+[A-Z]{2,5})?)(?:\[[A-Za-z0/_+-]+\])?)?"
_LAYOUTS = (
    re.compile(rf"\s*(0000)-(00)-(00)(?:(?:[Tt]|\s+){_CLOCK}{_ZONE})?\s*"),
    re.compile(rf"\s*(0000)/(00)/(00)(?:(?:[Tt]|\s+){_CLOCK}{_ZONE})?\s*"),
    re.compile(rf"\s*(0000)(00)(00)(?:[Tt]|\s+){_BASIC_CLOCK}{_ZONE}\s*"),
)

Span = tuple[int, int]  # first character and length


class TimeLayout(NamedTuple):
    """The places of the components of a time in a text.

    Attributes:
        clock: hours, minutes and seconds, as far as they are given.
        zone: hours, minutes and seconds of the offset, as far as they are given; () for UTC, None without a zone.
        east: whether the offset is positive.
    """

    year: Span
    month: Span
    day: Span
    clock: tuple[Span, ...]
    fraction: Span | None
    zone: tuple[Span, ...] | None
    east: bool = True


@lru_cache(4096)
def interpret_layout(layout: str) -> TimeLayout | None:
    """The components of a layout; None if it is not a date or time.

    Examples:
        >>> interpret_layout("0000-00-00T00:00Z").clock
        ((11, 2), (14, 2))
        >>> interpret_layout("00.00.0000") is None
        True
    """
    match = next(filter(None, (pattern.fullmatch(layout) for pattern in _LAYOUTS)), None)
    if match is None:
        return None
    spans = [(first, end - first) for first, end in match.regs[1:]]
    year, month, day, *clock, fraction, utc, sign, hours, minutes, seconds = spans
    offset = tuple(span for span in (hours, minutes, seconds) if span[1])
    return TimeLayout(
        year,
        month,
        day,
        tuple(span for span in clock if span[1]),
        fraction if fraction[1] else None,
        offset if offset else () if utc[1] else None,
        not sign[1] or layout[sign[0]] == "+",
    )


def parse_times(text: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Parses texts of one length, uint8 [n, length].

    Returns:
        Nanoseconds since 1970, int64 [n]; known, bool [n], false if the text is not a valid time; and zoned, bool [n].

    Examples:
        >>> text = np.frombuffer(b"1970-01-01 00:00:012024-02-30 00:00:00", np.uint8).reshape(2, 19)
        >>> nanoseconds, known, zoned = parse_times(text)
        >>> nanoseconds[0].item(), known.tolist(), zoned.tolist()
        (1000000000, [True, False], [False, False])
    """
    values, known, zoned = (np.zeros(len(text), kind) for kind in (np.int64, bool, bool))
    layouts = np.where((text >= ord("0")) & (text <= ord("9")), np.uint8(ord("0")), text)
    for rows in _rows_by_layout(layouts):
        layout = interpret_layout(layouts[rows[0]].tobytes().decode("latin-1"))
        if layout is not None:
            chosen = text if len(rows) == len(text) else text[rows]
            values[rows], known[rows] = _parse_layout(chosen, layout)
            zoned[rows] = layout.zone is not None
    return values, known, zoned


def nanoseconds_since_1970(seconds: np.ndarray, rest: np.ndarray) -> np.ndarray:
    """Whole seconds and remaining nanoseconds as int64; times outside int64 become the first or last ones inside."""
    inside = np.abs(seconds) <= _LAST_SECOND
    if not inside.all():
        seconds, rest = np.clip(seconds, -_LAST_SECOND, _LAST_SECOND), np.where(inside, rest, 0)
    return seconds * BILLION + rest


def _rows_by_layout(layouts: np.ndarray) -> Iterator[np.ndarray]:
    """The rows of each distinct layout."""
    left = np.arange(len(layouts))
    for _ in range(ROUNDS):
        same = (layouts[left] == layouts[left[0]]).all(1)
        yield left[same]
        left = left[~same]
        if not len(left):
            return
    # There are many layouts, most of which are not times at all: sorting finds them with one look at each row.
    keys = np.ascontiguousarray(layouts[left]).view(f"V{layouts.shape[1]}")[:, 0]
    order = np.argsort(keys, kind="stable")
    cuts = np.flatnonzero(keys[order][1:] != keys[order][:-1]) + 1
    yield from np.split(left[order], cuts)


def _parse_layout(text: np.ndarray, layout: TimeLayout) -> tuple[np.ndarray, np.ndarray]:
    """Nanoseconds since 1970 of texts with one layout (uint8 [n, length]), and whether each is a valid time."""
    year, month, day = (_number(text, span) for span in (layout.year, layout.month, layout.day))
    leap = (year % 4 == 0) & ((year % 100 != 0) | (year % 400 == 0))
    lengths = np.array([0, 31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31])
    valid = (year > 0) & (month >= 1) & (month <= 12)
    valid &= (day >= 1) & (day <= lengths[np.minimum(month, 12)] + (leap & (month == 2)))
    seconds = _days_since_1970(year, month, day) * _DAY
    for scale, limit, span in zip((3600, 60, 1), (24, 60, 60), layout.clock, strict=False):
        found = _number(text, span)
        valid &= found < limit
        seconds += found * scale
    for scale, limit, span in zip((3600, 60, 1), (24, 60, 60), layout.zone or (), strict=False):
        found = _number(text, span)
        valid &= found < limit
        seconds -= found * (scale if layout.east else -scale)
    rest = np.zeros(len(text), np.int64)
    if layout.fraction is not None:
        first, length = layout.fraction
        digits = min(length, 9)
        rest = _number(text, (first, digits)) * 10 ** (9 - digits)
    return nanoseconds_since_1970(seconds, rest), valid


def _number(text: np.ndarray, span: Span) -> np.ndarray:
    """The number that the digits of a span form, int64 [n]."""
    first, length = span
    found = np.zeros(len(text), np.int64)
    for column in range(first, first + length):
        found *= 10
        found += text[:, column]
        found -= ord("0")
    return found


def _days_since_1970(year: np.ndarray, month: np.ndarray, day: np.ndarray) -> np.ndarray:
    """Days since 1970-01-01 in the Gregorian calendar.

    Years are counted from March, so that a leap day is the last day of its year.
    """
    year = year - (month <= 2)
    month = (month + 9) % 12
    since_march = (153 * month + 2) // 5 + day - 1
    return 365 * year + year // 4 - year // 100 + year // 400 + since_march - 719_468
