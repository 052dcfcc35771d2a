"""The search space of the swept overrides, and its configurations as overrides again."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from hydra.core.override_parser.types import Override, Sweep

from autorank.space.grammar import Domain, find, read, same
from autorank.space.parse import parse_space
from autorank.space.space import Space
from hydra_plugins.autorank_sweeper._overrides import (
    bare_key,
    override_text,
    parse_value,
    quoted,
    without_quotes,
)


class SweptSpace(NamedTuple):
    """A search space, and how its configurations are written as overrides."""

    space: Space | None  # None if nothing is swept
    keys: tuple[str, ...]  # keys of all overrides in the order given, "+a", "db", ...
    fixed: dict[str, str]  # key -> override
    texts: dict[str, tuple[str, ...]]  # swept key -> the text of each choice

    def overrides(self, config: Sequence[int] | None) -> list[str]:
        """The overrides of one job, without the inactive decisions of its configuration ``[k]``."""
        active = {} if self.space is None else self.space.decode(config)
        found = []
        for key in self.keys:
            if key in self.fixed:
                found.append(self.fixed[key])
            elif self.space is not None and bare_key(key) in active:
                i = self.space.names.index(bare_key(key))
                assert config is not None
                found.append(f"{key}={self.texts[key][config[i]]}")
        return found


def space_of_overrides(
    overrides: Mapping[str, Override],
    baseline: Mapping[str, Any],
    conditions: Mapping[str, Mapping[str, Sequence[Any]]],
    grid_size: int,
) -> tuple[SweptSpace, list[str]]:
    """The space of all swept keys around a baseline, and the keys whose baseline is not in the space.

    A baseline inside an interval becomes one of its points, so that exactly this value is run. A key without a usable
    baseline starts at its first choice, an interval in its middle.

    Raises:
        ValueError: an override that cannot be swept, or contradictory conditions.
    """
    fixed: dict[str, str] = {}
    domains: dict[str, Domain] = {}
    texts: dict[str, tuple[str, ...]] = {}
    values: dict[str, Any] = {}
    without = []
    for key, override in overrides.items():
        if not override.is_sweep_override():
            fixed[key] = override_text(override)
            continue
        name = bare_key(key)
        found, texts[key] = domain_of(key, override, grid_size)
        value = baseline.get(name)
        if found.interval is not None and _is_inside(found, value):
            found = _with_point(found, value)
            texts[key] = tuple(map(str, found.choices))
        elif find(found.choices, value) is None or name not in baseline:
            without.append(key)
            value = found.choices[0 if found.interval is None else len(found.choices) // 2]
        domains[name], values[name] = found, value
    space = parse_space(domains, conditions, values, grid_size=grid_size) if domains else None
    return SweptSpace(space, tuple(overrides), fixed, texts), without


def domain_of(key: str, override: Override, grid_size: int) -> tuple[Domain, tuple[str, ...]]:
    """The choices of a swept override, and the text of each.

    The library's grammar parses words and numbers. Choices that it does not know (lists, dicts, null) are told apart
    by their text.

    Raises:
        ValueError: a deletion, a sweep inside a sweep, a choice given twice, no choice, or a single list.
    """
    if override.is_interval_sweep():
        found = read(key, override.get_value_string(), grid_size)
        return found, tuple(map(str, found.choices))
    _check_sweep(key, override)
    values = [without_quotes(item) for item in override.sweep_iterator()]
    if len(values) == 1 and isinstance(values[0], list):
        inside = override.get_value_string().replace("[", "").replace("]", "")
        raise ValueError(
            f"{key}: {override.input_line!r} has one choice, a list; write {key}={inside} for choices, or "
            f"{key}={values[0]} for the list as it is"
        )
    texts = tuple(map(_choice_text, values, override.sweep_string_iterator()))
    if all(isinstance(v, str | bool | int | float) for v in values) and not _is_glob(override):
        found = read(key, override.get_value_string(), grid_size)
        if len(found.choices) == len(texts):
            return found, texts
    if len(set(texts)) < len(texts):
        raise ValueError(
            f"{key}: a choice is given twice in {override.input_line!r}; write it once"
        )
    if not texts:
        raise ValueError(f"{key}: {override.input_line!r} matches nothing")
    return Domain(tuple(values), "categorical", False, None), texts


def _check_sweep(key: str, override: Override) -> None:
    if override.is_delete():
        raise ValueError(f"{key}: {override.input_line!r} deletes; only values can be swept over")
    items = getattr(override._value, "list", None) or []
    if any(isinstance(item, Sweep) for item in items):
        raise ValueError(
            f"{key}: a sweep inside a sweep in {override.input_line!r}; write all values in one choice(...)"
        )


def _choice_text(choice: Any, text: str) -> str:
    """Hydra's text of a choice, in quotes if it would otherwise be read as another type (the word ``'1'``)."""
    if not isinstance(choice, str):
        return text
    parsed = parse_value(text)
    if parsed is not None and without_quotes(parsed.value()) == choice:
        return text
    return quoted(choice)


def _is_glob(override: Override) -> bool:
    return type(override._value).__name__ == "Glob"


def _is_inside(found: Domain, value: Any) -> bool:
    assert found.interval is not None
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and found.interval[0] <= value <= found.interval[1]


def _with_point(found: Domain, value: Any) -> Domain:
    if any(same(value, choice) for choice in found.choices):
        return found
    return found._replace(choices=tuple(sorted([*found.choices, value])))
