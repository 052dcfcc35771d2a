"""Sweeps in the forms of other tools, as Hydra's text: what Optuna's, Ax's and Nevergrad's sweepers and W&B read.

A form is a mapping for one key. It is understood as a whole or refused by name: half of a sweep would be another one.
"""

import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Quote, QuotedString
from hydra.errors import HydraException

LOW, HIGH = ("low", "lower", "min"), ("high", "upper", "max")
OPTIONS = ("choices", "values", "grid_search")
KIND = ("type", "distribution", "parameter_type")
MARKS = {*LOW, *HIGH, *OPTIONS, *KIND, "bounds", "value", "init"}
MORE = {"log", "log_scale", "step", "q", "integer", "value_type", "is_ordered"}
REFUSED = {"mu", "sigma", "digits", "probabilities", "dependents", "sort_values", "target_value"}
# A kind's name: its shape, whether it has whole numbers, whether its scale is a logarithm (None: others say so).
KINDS: dict[str, tuple[str, bool | None, bool | None]] = {
    "float": ("interval", False, None),
    "double": ("interval", False, None),
    "uniform": ("interval", False, False),
    "q_uniform": ("step", False, False),
    "quniform": ("step", False, False),
    "discrete_uniform": ("step", False, False),
    "loguniform": ("interval", False, True),
    "log_uniform": ("interval", False, True),
    "log_uniform_values": ("interval", False, True),
    "range": ("interval", None, None),
    "int": ("interval", True, None),
    "integer": ("interval", True, None),
    "int_uniform": ("interval", True, False),
    "categorical": ("options", None, None),
    "choice": ("options", None, None),
    "grid_search": ("options", None, None),
    "fixed": ("value", None, None),
    "constant": ("value", None, None),
}
MOST_STEPS = 10_000


class Form(NamedTuple):
    """A form as Hydra's text, and the value that it wants to start at."""

    text: str
    start: Any = None


def is_form(value: Mapping[Any, Any]) -> bool:
    """Whether all keys are those of a form, and some of nothing else; then it must be one."""
    keys = {str(k) for k in value}
    telling = keys & (MARKS - {"type", "value"}) or keys == {"value"} or _kind(value)
    return bool(telling) and keys <= MARKS | MORE | REFUSED


def read_form(form: Mapping[str, Any]) -> Form:
    """What a form offers.

    Raises:
        ValueError: half a form, a kind without bounds (normal, beta), settings that contradict each other.
    """
    given, kind = next(((k, form[k]) for k in KIND if k in form), ("", None)), _kind(form)
    if given[0] and kind is None:
        raise ValueError(
            f"{given[0]}={given[1]!r} is not known, or has no ends; known are {', '.join(KINDS)}"
        )
    for name in sorted(REFUSED & set(form)):
        raise ValueError(f"{name}={form[name]!r} cannot be heeded here; leave it out")
    shape, whole, log = KINDS[kind] if kind else ("", None, None)
    shape = shape or _shape(form)
    used = {"options": {*OPTIONS, "is_ordered", "value_type"}, "value": {"value", "value_type"}}
    others = {
        *LOW,
        *HIGH,
        "bounds",
        "log",
        "log_scale",
        "step",
        "q",
        "integer",
        "init",
        "value_type",
    }
    for name in sorted(set(form) - used.get(shape, others) - {*KIND}):
        raise ValueError(f"{name}={form[name]!r} does not go with {_first_key(form)}")
    if shape == "options":
        return _options(form)
    if shape == "value":
        return Form(literal(_one(form, ("value",))))
    return _interval(form, kind, whole, log, shape == "step")


def _kind(form: Mapping[str, Any]) -> str | None:
    given = next((form[k] for k in KIND if k in form), None)
    return given if isinstance(given, str) and given in KINDS else None


def _shape(form: Mapping[str, Any]) -> str:
    if any(k in form for k in OPTIONS):
        return "options"
    return "value" if "value" in form else "interval"


def _first_key(form: Mapping[str, Any]) -> str:
    key = next((k for k in (*KIND, *OPTIONS, "value", "bounds", *LOW, *HIGH) if k in form), "it")
    return f"{key}={form.get(key)!r}"


def _options(form: Mapping[str, Any]) -> Form:
    found = _one(form, OPTIONS)
    if not isinstance(found, list | tuple):
        raise ValueError(f"its choices must be a list, not {found!r}")
    return Form(choices(list(found), ordered=_flag(form, "is_ordered") is not False))


def _interval(
    form: Mapping[str, Any], kind: str | None, whole: bool | None, log: bool | None, stepped: bool
) -> Form:
    bounds = form.get("bounds")
    if bounds is not None:
        if not isinstance(bounds, list | tuple) or len(bounds) != 2:
            raise ValueError(f"bounds={bounds!r} must be a list of two numbers")
        low, high = (_number("bounds", b) for b in bounds)
    else:
        low, high = _number(*_named(form, LOW)), _number(*_named(form, HIGH))
    if form.get("distribution") == "log_uniform":  # W&B: the ends are exponents of e
        low, high = (float(f"{math.exp(v):.6g}") for v in (low, high))
    flagged = _flag(form, "log", "log_scale")
    log = bool(log) if flagged is None else flagged
    asked = form.get("value_type", "int" if _flag(form, "integer") else None)
    if asked not in (None, "int", "float"):
        raise ValueError(f"value_type={asked!r} must be int or float")
    if asked is not None:
        whole = asked == "int"
    elif "integer" in form:
        whole = False
    elif whole is None:  # as Ax and W&B do; Nevergrad asks for `integer`
        whole = isinstance(low, int) and isinstance(high, int) and "lower" not in form
    step = form.get("step", form.get("q"))
    if stepped and step is None:
        raise ValueError(f"{kind} needs a step (step or q)")
    if not low < high:
        raise ValueError(f"its ends {low:g} and {high:g} do not rise")
    start = None if form.get("init") is None else _number("init", form["init"])
    return Form(_text(low, high, whole, log, step), start)


def _text(low: float, high: float, whole: bool, log: bool, step: Any) -> str:
    step = None if step is None else _number("step", step)
    if step is not None and not (whole and step == 1):
        if log:
            raise ValueError(f"a step ({step:g}) and a logarithm exclude each other")
        if step <= 0 or (high - low) / step > MOST_STEPS:
            raise ValueError(f"step={step:g} must be above 0 and leave at most {MOST_STEPS} points")
        count = math.floor((high - low) / step + 1e-9)
        if whole:
            low, step = int(low), int(step)
            if step < 1:
                raise ValueError("the step of whole numbers must be 1 or more")
            return f"range({low},{low + math.floor((high - low) / step) * step + 1},step={step})"
        return f"range({low!r},{low + (count + 0.5) * step!r},step={step!r})"
    text = f"interval({low!r},{high!r})"
    text = f"int({text})" if whole else text
    return f"tag(log,{text})" if log else text


def choices(values: list[Any], ordered: bool = True) -> str:
    """A list as choices, in Hydra's text.

    Raises:
        ValueError: an empty list, a sweep among the values.
    """
    if not values:
        raise ValueError("its list is empty; write at least one value")
    texts = [literal(value) for value in values]
    if not ordered:
        return f"tag(categorical,choice({','.join(texts)}))"
    return ",".join(texts)  # this form takes null, and one value is no sweep


def literal(value: Any, inside: bool = False) -> str:
    """A value as an override's text that Hydra reads as just this value; ``inside`` a list or a dict.

    Raises:
        ValueError: text that is a sweep; a value that has no text (NaN).
    """
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        if not math.isfinite(value):
            raise ValueError(f"its value {value} is not finite")
        return repr(value)
    if isinstance(value, list | tuple):
        return f"[{','.join(literal(v, inside=True) for v in value)}]"
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{k}:{literal(v, inside=True)}" for k, v in value.items()) + "}"
    text = str(value)
    override = parsed(text)
    if override is not None and override.is_sweep_override() and "(" in text:
        raise ValueError(f"its value {text!r} is itself a sweep; write all values in one list")
    plain_text = re.fullmatch(r"[\w./-]+", text) or not inside
    if text and plain_text and override is not None and not override.is_sweep_override():
        if override.value() == text:
            return text
    return QuotedString(text, Quote.single).with_quotes()


def plain(item: Any) -> Any:
    """What Hydra's parser read, without its quotes."""
    if isinstance(item, QuotedString):
        return item.text
    if isinstance(item, list):
        return [plain(inner) for inner in item]
    if isinstance(item, dict):
        return {plain(name): plain(inner) for name, inner in item.items()}
    return item


def parsed(text: str) -> Override | None:
    """The text as an override's value; None where it cannot be read."""
    try:
        return OverridesParser.create().parse_override(f"key={text}")
    except HydraException:
        return None


def _one(form: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    return _named(form, names)[1]


def _named(form: Mapping[str, Any], names: tuple[str, ...]) -> tuple[str, Any]:
    found = [name for name in names if name in form]
    if not found:
        raise ValueError(f"it lacks {' or '.join(names)}")
    if len(found) > 1:
        raise ValueError(f"{' and '.join(found)} say the same; keep one")
    return found[0], form[found[0]]


def _flag(form: Mapping[str, Any], *names: str) -> bool | None:
    for name in names:
        if form.get(name) is not None:
            if not isinstance(form[name], bool):
                raise ValueError(f"{name}={form[name]!r} must be true or false")
            return form[name]
    return None


def _number(name: str, value: Any) -> int | float:
    if isinstance(value, str):  # YAML takes 1e-4 for text
        try:
            value = float(value)
        except ValueError:
            pass
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{name}={value!r} must be a number")
    return value
