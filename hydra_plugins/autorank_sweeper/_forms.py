"""Translates sweeps written for other tools (the Optuna, Ax and Nevergrad sweepers, W&B) into Hydra's sweep grammar.

A form is the mapping that such a tool expects for one key, such as ``{type: float, low: 0, high: 1}``. It is either
understood completely or refused by name, because a partly understood form would describe a different space.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from hydra_plugins.autorank_sweeper._overrides import choices_text, value_text

LOW, HIGH = ("low", "lower", "min"), ("high", "upper", "max")
OPTIONS = ("choices", "values", "grid_search")
KIND = ("type", "distribution", "parameter_type")
MARKS = {*LOW, *HIGH, *OPTIONS, *KIND, "bounds", "value", "init"}
MORE = {"log", "log_scale", "step", "q", "integer", "value_type", "is_ordered"}
REFUSED = {"mu", "sigma", "digits", "probabilities", "dependents", "sort_values", "target_value"}
# The keys that each shape may have, beside those of KIND.
OF_OPTIONS = {*OPTIONS, "is_ordered", "value_type"}
OF_VALUE = {"value", "value_type"}
OF_INTERVAL = {*LOW, *HIGH, "bounds", "log", "log_scale", "step", "q"}
OF_INTERVAL |= {"integer", "init", "value_type"}
ALLOWED = {"options": OF_OPTIONS, "value": OF_VALUE, "interval": OF_INTERVAL, "step": OF_INTERVAL}
MAX_STEPS = 10_000


class Kind(NamedTuple):
    """What the name of a kind implies; None leaves it to the form's other keys."""

    shape: str  # a key of ALLOWED
    whole: bool | None = None  # integers
    log: bool | None = None


KINDS = {
    "float": Kind("interval", whole=False),
    "double": Kind("interval", whole=False),
    "uniform": Kind("interval", whole=False, log=False),
    "q_uniform": Kind("step", whole=False, log=False),
    "quniform": Kind("step", whole=False, log=False),
    "discrete_uniform": Kind("step", whole=False, log=False),
    "loguniform": Kind("interval", whole=False, log=True),
    "log_uniform": Kind("interval", whole=False, log=True),
    "log_uniform_values": Kind("interval", whole=False, log=True),
    "range": Kind("interval"),
    "int": Kind("interval", whole=True),
    "integer": Kind("interval", whole=True),
    "int_uniform": Kind("interval", whole=True, log=False),
    "categorical": Kind("options"),
    "choice": Kind("options"),
    "grid_search": Kind("options"),
    "fixed": Kind("value"),
    "constant": Kind("value"),
}


class Form(NamedTuple):
    """A form as Hydra's text, and the value at which it asks the search to start."""

    text: str
    start: Any = None


def is_form(value: Mapping[Any, Any]) -> bool:
    """Whether every key is known from forms and at least one occurs only in forms."""
    keys = {str(k) for k in value}
    telling = keys & (MARKS - {"type", "value"}) or keys == {"value"} or _kind(value)
    return bool(telling) and keys <= MARKS | MORE | REFUSED


def read_form(form: Mapping[str, Any]) -> Form:
    """Translates one form.

    Raises:
        ValueError: an incomplete form, a kind without bounds (normal, beta), or keys that contradict each other.

    Examples:
        >>> read_form({"type": "float", "low": 0.001, "high": 0.1, "log": True}).text
        'tag(log,interval(0.001,0.1))'
        >>> read_form({"lower": 1, "upper": 9, "init": 3})
        Form(text='interval(1,9)', start=3)
    """
    given, name = next(((k, form[k]) for k in KIND if k in form), ("", None)), _kind(form)
    if given[0] and name is None:
        raise ValueError(
            f"{given[0]}={given[1]!r} is not known, or has no bounds; known are {', '.join(KINDS)}"
        )
    for key in sorted(REFUSED & set(form)):
        raise ValueError(f"{key}={form[key]!r} is not supported; leave it out")
    kind = KINDS[name] if name else Kind(_shape(form))
    for key in sorted(set(form) - ALLOWED[kind.shape] - {*KIND}):
        raise ValueError(f"{key}={form[key]!r} does not go with {_first_key(form)}")
    if kind.shape == "options":
        return _options(form)
    if kind.shape == "value":
        return Form(value_text(_only(form, ("value",))[1]))
    if kind.shape == "step" and form.get("step", form.get("q")) is None:
        raise ValueError(f"{name} needs a step (step or q)")
    return _interval(form, kind)


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
    found = _only(form, OPTIONS)[1]
    if not isinstance(found, list | tuple):
        raise ValueError(f"its choices must be a list, not {found!r}")
    return Form(choices_text(list(found), ordered=_flag(form, "is_ordered") is not False))


def _interval(form: Mapping[str, Any], kind: Kind) -> Form:
    low, high = _bounds(form)
    whole = _is_whole(form, kind, low, high)
    flagged = _flag(form, "log", "log_scale")
    log = bool(kind.log) if flagged is None else flagged
    if not low < high:
        raise ValueError(f"its lower bound {low:g} is not below its upper bound {high:g}")
    start = None if form.get("init") is None else _number("init", form["init"])
    step = form.get("step", form.get("q"))
    return Form(_interval_text(low, high, whole, log, step), start)


def _bounds(form: Mapping[str, Any]) -> tuple[int | float, int | float]:
    bounds = form.get("bounds")
    if bounds is not None:
        if not isinstance(bounds, list | tuple) or len(bounds) != 2:
            raise ValueError(f"bounds={bounds!r} must be a list of two numbers")
        low, high = (_number("bounds", b) for b in bounds)
    else:
        low, high = _number(*_only(form, LOW)), _number(*_only(form, HIGH))
    if form.get("distribution") == "log_uniform":  # W&B's bounds are exponents of e
        low, high = (float(f"{math.exp(v):.6g}") for v in (low, high))
    return low, high


def _is_whole(form: Mapping[str, Any], kind: Kind, low: float, high: float) -> bool:
    asked = form.get("value_type", "int" if _flag(form, "integer") else None)
    if asked not in (None, "int", "float"):
        raise ValueError(f"value_type={asked!r} must be int or float")
    if asked is not None:
        return asked == "int"
    if "integer" in form:
        return False
    if kind.whole is not None:
        return kind.whole
    # Ax and W&B take integer bounds for integers; Nevergrad (lower, upper) requires `integer`.
    return isinstance(low, int) and isinstance(high, int) and "lower" not in form


def _interval_text(low: float, high: float, whole: bool, log: bool, step: Any) -> str:
    step = None if step is None else _number("step", step)
    if step is not None and not (whole and step == 1):
        if log:
            raise ValueError(f"a step ({step:g}) and a logarithmic scale exclude each other")
        if step <= 0 or (high - low) / step > MAX_STEPS:
            raise ValueError(f"step={step:g} must be above 0 and leave at most {MAX_STEPS} points")
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


def _only(form: Mapping[str, Any], names: tuple[str, ...]) -> tuple[str, Any]:
    """The one key of ``names`` that the form has, and its value."""
    found = [name for name in names if name in form]
    if not found:
        raise ValueError(f"it lacks {' or '.join(names)}")
    if len(found) > 1:
        raise ValueError(f"{' and '.join(found)} mean the same; keep one")
    return found[0], form[found[0]]


def _flag(form: Mapping[str, Any], *names: str) -> bool | None:
    for name in names:
        if form.get(name) is not None:
            if not isinstance(form[name], bool):
                raise ValueError(f"{name}={form[name]!r} must be true or false")
            return form[name]
    return None


def _number(name: str, value: Any) -> int | float:
    if isinstance(value, str):  # YAML reads 1e-4 as text
        try:
            value = float(value)
        except ValueError:
            pass
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{name}={value!r} must be a number")
    return value
