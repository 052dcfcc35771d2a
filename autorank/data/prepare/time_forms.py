"""The forms of time columns, and which of them can be compared."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

ACCEPTED = (
    "dates and times such as 2024-01-31, 2024-01-31 10:00, 2024-01-31T10:00:00.123, all without a zone or all with one "
    "(Z, UTC, +02:00), or numbers in one unit"
)
# Groups within which times are compared.
NAIVE, ZONED, NUMBER = "dates without a zone", "dates with a zone", "numbers"
FRACTIONS = "fractions"  # numbers that need float64: not whole, or outside int64
UNITS = ("seconds", "milliseconds", "microseconds", "nanoseconds")
# Numbers that are dates between 1990 and 2100 in one unit, in seconds. The ranges of the units do not overlap.
_FIRST, _LAST = 631_152_000, 4_102_444_800
# Boundaries between the ranges: below, seconds, a gap, milliseconds, a gap, ...
_EDGES = np.array([edge * 1000**k for k in range(4) for edge in (_FIRST, _LAST)], np.float64)
_RANGES = ["small", *(f"{p}{unit}" for unit in UNITS for p in ("", "above "))]
_RARE = 0.01  # share of numbers in the gap up to which two units count as mixed

# Form -> number of rows, and the place of the first one with its value.
Forms = Mapping[str, tuple[int, str]]


class TimeColumn(NamedTuple):
    """A time column as numbers that sort.

    Attributes:
        values: int64 [n], nanoseconds since 1970 or the numbers themselves; float64 if those have fractions.
        known: bool [n], false for rows without a valid time.
        forms: form -> number of rows, and the first of them.
    """

    values: np.ndarray
    known: np.ndarray
    forms: dict[str, tuple[int, int]]


def count_form(form: str, rows: np.ndarray) -> dict[str, tuple[int, int]]:
    """`TimeColumn.forms` of a form that the marked rows (bool [n]) have."""
    count = int(np.count_nonzero(rows))
    return {form: (count, int(rows.argmax()))} if count else {}


def count_units(values: np.ndarray, known: np.ndarray) -> dict[str, tuple[int, int]]:
    """`TimeColumn.forms` of numbers, by the unit in which they look like dates."""
    lowest, highest = (int(c) for c in np.digitize([values.min(), values.max()], _EDGES))
    if lowest == highest:
        return count_form(_RANGES[lowest], known)
    found: dict[str, tuple[int, int]] = {}
    ranges = np.where(known, np.digitize(values, _EDGES), -1)
    for index in range(lowest, highest + 1):
        found |= count_form(_RANGES[index], ranges == index)
    return found


def merge_forms(earlier: Forms, later: Forms) -> dict[str, tuple[int, str]]:
    """The forms of consecutive rows, from those of two parts."""
    return {
        form: (
            sum(found[form][0] for found in (earlier, later) if form in found),
            (earlier if form in earlier else later)[form][1],
        )
        for form in {**earlier, **later}
    }


def incompatible_forms(forms: Forms) -> tuple[str, str] | None:
    """Two forms that cannot be compared, or None.

    Numbers count as two units only if they look like dates between 1990 and 2100 in both and hardly any lie between the
    two ranges, so that days, counters and clocks of any kind are simply numbers.

    Examples:
        >>> incompatible_forms({"dates with a zone": (9, "log:2"), "numbers": (1, "log:7")})
        ('dates with a zone', 'numbers')
        >>> incompatible_forms({"numbers": (10, "log:2"), "seconds": (10, "log:2")}) is None
        True
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


def mixed_forms_error(name: str | None, forms: Forms, two: tuple[str, str]) -> ValueError:
    """The error for a column with two incompatible forms."""
    found = " and ".join(
        f"{form}{' since 1970' if form in UNITS else ''} ({forms[form][1]})" for form in two
    )
    return ValueError(f"time column {name!r} mixes {found}; write all rows in one form: {ACCEPTED}")
