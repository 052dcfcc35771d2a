"""One decision in Hydra's sweep grammar: ``choice(1,2)``, ``tag(log, interval(1e-4, 1e-2))``."""

import math
from typing import Any, NamedTuple

import numpy as np

TAGS = ("log", "int", "categorical")


class Domain(NamedTuple):
    """The values that one decision may take."""

    choices: tuple[Any, ...]
    # "categorical" (one-hot) or "number" (one scaled float).
    kind: str
    log: bool
    # The ends of the interval if the choices are a grid on one.
    interval: tuple[float, float] | None


def same(left: Any, right: Any) -> bool:
    """Whether two values are equal; ``True`` differs from ``1``, but ``1`` equals ``1.0``."""
    return isinstance(left, bool) == isinstance(right, bool) and left == right


def find(choices: tuple[Any, ...], value: Any) -> int | None:
    """Position of a value among the choices; ``None`` if it is not one of them."""
    return next((i for i, choice in enumerate(choices) if same(choice, value)), None)


def read(key: str, text: str, grid_size: int) -> Domain:
    """Reads the domain that ``text`` describes.

    Choices that are all numbers become one scaled feature; ``tag(categorical, choice(1,2))`` keeps
    them one-hot. An interval becomes ``grid_size`` points with six significant digits. They are
    evenly spaced in the logarithm under ``tag(log, ...)`` and rounded to whole numbers under
    ``tag(int, ...)``.

    Examples:
        >>> read("training.rate", "tag(log, interval(1e-3, 1))", grid_size=4).choices
        (0.001, 0.01, 0.1, 1.0)
        >>> read("model.norm", "choice(layer, none)", grid_size=4).kind
        'categorical'

    Raises:
        ValueError: text that is not a sweep, unknown tags, empty or repeated choices,
            ``low >= high``, a logarithm of a number that is not positive; the message names the key
            and says what to write instead.
    """
    value = _parse(key, text)
    from hydra.core.override_parser.types import IntervalSweep

    tags = set(value.tags)
    for tag in sorted(tags):
        if tag not in TAGS:
            raise ValueError(f"{key}: unknown tag {tag!r} in {text!r}; known are {', '.join(TAGS)}")
    log = "log" in tags
    if isinstance(value, IntervalSweep):
        if "categorical" in tags:
            raise ValueError(
                f"{key}: an interval is a number; drop the tag 'categorical' in {text!r}"
            )
        whole = "int" in tags or isinstance(value.start, int)
        assert value.start is not None and value.end is not None
        ends = (float(value.start), float(value.end))
        return Domain(_grid(key, text, *ends, whole, log, grid_size), "number", log, ends)
    if "int" in tags:
        raise ValueError(
            f"{key}: the tag 'int' belongs to intervals; write whole numbers in {text!r}"
        )
    choices = _choices(key, text, value)
    numbers = all(not isinstance(c, bool | str) for c in choices)
    if log and "categorical" in tags:
        raise ValueError(f"{key}: the tags 'log' and 'categorical' exclude each other in {text!r}")
    if log and not (numbers and min(choices) > 0):
        raise ValueError(
            f"{key}: the tag 'log' needs choices that are numbers above 0, not {text!r}"
        )
    kind = "number" if numbers and "categorical" not in tags else "categorical"
    return Domain(choices, kind, log, None)


def scaled(choices: tuple[Any, ...], log: bool) -> np.ndarray:
    """Maps numbers to [0, 1], the smallest to 0 and the largest to 1, float64 ``[c]``; a single number is 0."""
    values = np.array(choices, np.float64)
    values = np.log(values) if log else values
    spread = values.max() - values.min()
    return (values - values.min()) / (spread if spread > 0 else 1.0)


def snap(domain: Domain, value: Any) -> int | None:
    """Index of the grid point nearest to a value, on the grid's own scale; ``None`` outside the interval."""
    if domain.interval is None or isinstance(value, bool | str):
        return None
    if not domain.interval[0] <= value <= domain.interval[1]:
        return None
    scale = math.log if domain.log else float
    return min(
        range(len(domain.choices)), key=lambda i: abs(scale(domain.choices[i]) - scale(value))
    )


def _parse(key: str, text: str) -> Any:
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.core.override_parser.types import ChoiceSweep, IntervalSweep, RangeSweep
    from hydra.errors import HydraException

    advice = f"write for example {key}: choice(1,2,4) or {key}: tag(log, interval(1e-4, 1e-2))"
    try:
        value = OverridesParser.create().parse_override(f"key={text}").value()
    except HydraException as error:
        raise ValueError(
            f"{key}: cannot read {text!r} ({str(error).splitlines()[0]}); {advice}"
        ) from error
    if not isinstance(value, ChoiceSweep | IntervalSweep | RangeSweep):
        raise ValueError(f"{key}: {text!r} offers no choice; {advice}")
    return value


def _choices(key: str, text: str, value: Any) -> tuple[Any, ...]:
    from hydra.core.override_parser.types import QuotedString, RangeSweep

    if value.shuffle:
        raise ValueError(f"{key}: the order in {text!r} is kept; drop shuffle(...)")
    items = list(value.range()) if isinstance(value, RangeSweep) else list(value.list)
    items = [item.text if isinstance(item, QuotedString) else item for item in items]
    if not items:
        raise ValueError(f"{key}: {text!r} has no choices; write at least one")
    for i, item in enumerate(items):
        if not isinstance(item, str | bool | int | float):
            raise ValueError(
                f"{key}: choice {item!r} in {text!r} must be a word, a number, true or false"
            )
        if isinstance(item, float) and not math.isfinite(item):
            raise ValueError(f"{key}: choice {item!r} in {text!r} must be finite")
        if any(same(item, other) for other in items[:i]):
            raise ValueError(f"{key}: choice {item!r} stands twice in {text!r}; write it once")
    return tuple(items)


def _grid(
    key: str, text: str, low: float, high: float, whole: bool, log: bool, grid_size: int
) -> tuple[int | float, ...]:
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ValueError(
            f"{key}: the interval {text!r} must be finite and rise; write interval(low, high)"
        )
    if log and low <= 0:
        raise ValueError(f"{key}: the tag 'log' needs an interval above 0, not {text!r}")
    points = np.geomspace(low, high, grid_size) if log else np.linspace(low, high, grid_size)
    if whole:
        first, last = math.ceil(low), math.floor(high)
        if first > last:
            raise ValueError(f"{key}: there is no whole number in {text!r}")
        return tuple(sorted({min(max(round(p), first), last) for p in points.tolist()}))
    return tuple(sorted({float(f"{p:.6g}") for p in points.tolist()}))
