"""Numbers as the report writes them; "-" stands for what is unknown."""

import math
from collections.abc import Mapping
from typing import Any

NONE = "-"


def known(value: Any) -> bool:
    """Whether the value is a finite number."""
    return isinstance(value, int | float) and math.isfinite(value)


def number(value: Any, digits: int = 4) -> str:
    """A number with so many significant digits."""
    return f"{value:.{digits}g}" if known(value) else NONE


def entropy(value: Any) -> str:
    """An NE with five decimals, the size of seed noise."""
    return f"{value:.5f}" if known(value) else NONE


def signed(value: Any, digits: int = 3) -> str:
    """A percentage with its sign, without "%"."""
    return f"{value:+.{digits}f}" if known(value) else NONE


def count(value: Any) -> str:
    """A whole number with thousands separators."""
    return f"{value:,.0f}" if known(value) else NONE


def ratio(value: Any) -> str:
    """A multiple such as ``1.5x``."""
    return f"{value:.3g}x" if known(value) else NONE


def seconds(value: Any) -> str:
    """A duration.

    Examples:
        >>> seconds(75), seconds(7.25), seconds(None)
        ('1m15s', '7.2s', '-')
    """
    if not known(value):
        return NONE
    minutes, rest = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes:02d}m"
    return f"{minutes}m{rest:02d}s" if minutes else f"{value:.1f}s"


def interval(gain: Mapping[str, Any] | None, low: str = "low", high: str = "high") -> str:
    """The interval under two keys of a gain.

    Examples:
        >>> interval({"mean": -1.0, "low": -1.2, "high": -0.8})
        '-1.200 to -0.800'
        >>> interval({"mean": -1.0})
        '-'
    """
    if not gain or not known(gain.get(low)) or not known(gain.get(high)):
        return NONE
    return f"{signed(gain[low])} to {signed(gain[high])}"


def with_interval(gain: Mapping[str, Any]) -> str:
    """``-1.000 [-1.200, -0.800]``, without brackets if there is no interval."""
    if not known(gain.get("mean")):
        return NONE
    if not known(gain.get("low")) or not known(gain.get("high")):
        return signed(gain["mean"])
    return f"{signed(gain['mean'])} [{signed(gain['low'])}, {signed(gain['high'])}]"
