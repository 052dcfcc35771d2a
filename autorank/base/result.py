"""What a job returned: a number and maybe a cost, or the reason of its failure. Imports little, for workers."""

import math
from typing import Any, NamedTuple

import numpy as np


class Result(NamedTuple):
    """What a job returned: a number and maybe a cost, or the reason of its failure."""

    quality: float | None
    cost: float | None
    failed: str = ""
    details: dict[str, Any] | None = None


def read_result(value: Any) -> Result:
    """A job's return value as a result: a number, or a pair (quality, cost) with cost above 0.

    Anything else (text, None, NaN, an infinity, three numbers) is a failed trial whose reason says what to return. So
    is an object whose own methods raise.

    Examples:
        >>> read_result((0.5, 2))
        Result(quality=0.5, cost=2.0, failed='', details=None)
        >>> read_result("0.5").failed
        "returned '0.5'; return a finite number, or a pair (quality, cost) with cost > 0"
    """
    try:
        return _read(value)
    except BaseException as error:  # the methods of a foreign object may do anything
        return Result(
            None, None, f"returned {_short(value)}, which cannot be read ({described(error)})"
        )


def _read(value: Any) -> Result:
    advice = "return a finite number, or a pair (quality, cost) with cost > 0"
    parts = list(value) if isinstance(value, tuple | list) else [value]
    if isinstance(value, np.ndarray) and value.ndim == 1:
        parts = value.tolist()
    numbers: list[float] = []
    for part in parts:
        part = part.item() if hasattr(part, "item") and getattr(part, "size", 2) == 1 else part
        if isinstance(part, bool) or not isinstance(part, int | float):
            return Result(None, None, f"returned {_short(value)}; {advice}")
        try:
            numbers.append(float(part))
        except OverflowError:
            numbers.append(math.inf)
    if not 1 <= len(numbers) <= 2:
        return Result(None, None, f"returned {_short(value)}; {advice}")
    if not all(math.isfinite(n) for n in numbers):
        return Result(None, None, f"returned {_short(value)}, which is not finite")
    if len(numbers) == 2 and numbers[1] <= 0:
        return Result(None, None, f"returned {_short(value)}: the cost must be above 0")
    return Result(numbers[0], numbers[1] if len(numbers) == 2 else None)


def of_error(error: BaseException) -> Result:
    """An exception as a failed trial."""
    return Result(None, None, described(error))


def described(error: BaseException) -> str:
    """Type and first line of an error, for a trial's reason.

    Examples:
        >>> described(ValueError("too small"))
        'ValueError: too small'
    """
    return f"{_printable(type(error).__name__)}: {first_line(error)}"


def first_line(error: object) -> str:
    """The first line of a message, at most 300 characters."""
    try:
        text = str(error)
    except BaseException as failed:  # a foreign exception's own text may do anything
        text = f"its message cannot be read ({type(failed).__name__})"
    line = next((line for line in text.splitlines() if line.strip()), "")
    return _printable(line or type(error).__name__)[:300]


def _short(value: Any) -> str:
    try:
        text = " ".join(_printable(repr(value)).split())
    except BaseException as error:  # a foreign object's own repr may do anything
        text = f"an object whose repr fails ({type(error).__name__})"
    return text if len(text) <= 100 else text[:97] + "..."


def _printable(text: str) -> str:
    """Text that every file and the ledger can hold: names of files that are not UTF-8 come as lone surrogates."""
    return text.encode("utf-8", "backslashreplace").decode().replace("\0", "\\x00")
