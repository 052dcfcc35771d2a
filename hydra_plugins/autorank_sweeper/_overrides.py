"""Overrides as text: how Hydra writes a value, reads it back, and names its key."""

import math
import re
from collections.abc import Mapping
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Quote, QuotedString
from hydra.errors import HydraException


def bare_key(key: str) -> str:
    """An override's key without its leading ``+``."""
    return key.lstrip("+")


def override_text(override: Override) -> str:
    """An override that is not a sweep, as text."""
    if override.value_type is None:
        return override.get_key_element()
    return f"{override.get_key_element()}={override.get_value_element_as_str()}"


def parse_value(text: str) -> Override | None:
    """The text as an override's value; None if Hydra cannot parse it."""
    try:
        return OverridesParser.create().parse_override(f"key={text}")
    except HydraException:
        return None


def without_quotes(item: Any) -> Any:
    """A parsed value with plain strings in place of Hydra's quoted ones, at any depth."""
    if isinstance(item, QuotedString):
        return item.text
    if isinstance(item, list):
        return [without_quotes(inner) for inner in item]
    if isinstance(item, dict):
        return {without_quotes(name): without_quotes(inner) for name, inner in item.items()}
    return item


def quoted(text: str) -> str:
    """The text in quotes, escaped as Hydra requires."""
    return QuotedString(text, Quote.single).with_quotes()


def value_text(value: Any, nested: bool = False) -> str:
    """The text that Hydra parses back to exactly this value; ``nested`` if it stands inside a list or a dict.

    Raises:
        ValueError: text that is a sweep; a value that has no text (NaN).

    Examples:
        >>> value_text([1, None, True, "a b", "1"])
        "[1,null,true,'a b','1']"
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
        return f"[{','.join(value_text(v, nested=True) for v in value)}]"
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{k}:{value_text(v, nested=True)}" for k, v in value.items()) + "}"
    text = str(value)
    override = parse_value(text)
    if override is not None and override.is_sweep_override() and "(" in text:
        raise ValueError(f"its value {text!r} is itself a sweep; write all values in one list")
    needs_no_quotes = re.fullmatch(r"[\w./-]+", text) or not nested
    if text and needs_no_quotes and override is not None and not override.is_sweep_override():
        if override.value() == text:
            return text
    return quoted(text)


def choices_text(values: list[Any], ordered: bool = True) -> str:
    """The text of a sweep over the values of a list.

    Raises:
        ValueError: an empty list, or a sweep among the values.

    Examples:
        >>> choices_text([0.1, 0.01])
        '0.1,0.01'
        >>> choices_text([1, 2], ordered=False)
        'tag(categorical,choice(1,2))'
    """
    if not values:
        raise ValueError("its list is empty; write at least one value")
    texts = [value_text(value) for value in values]
    if not ordered:
        return f"tag(categorical,choice({','.join(texts)}))"
    # Not choice(...): the short form accepts null, and a single value in it is not a sweep.
    return ",".join(texts)
