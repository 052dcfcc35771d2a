"""From Hydra overrides to a search space and back, word for word."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Quote, QuotedString, Sweep
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from autorank.space.grammar import Domain, find, read, same
from autorank.space.parse import parse_space
from autorank.space.space import Space
from hydra_plugins.autorank_sweeper._forms import plain as _plain
from hydra_plugins.autorank_sweeper._impl import written


class Swept(NamedTuple):
    """A space, and how its configurations are written as overrides."""

    space: Space | None  # None: nothing is swept
    keys: tuple[str, ...]  # all override keys in the order given, "+a", "db", ...
    fixed: dict[str, str]  # key -> override
    texts: dict[str, tuple[str, ...]]  # swept key -> the text of each choice

    def overrides(self, config: Sequence[int] | None) -> list[str]:
        """The overrides of one job; inactive decisions are left out."""
        active = {} if self.space is None else self.space.decode(config)
        found = []
        for key in self.keys:
            if key in self.fixed:
                found.append(self.fixed[key])
            elif self.space is not None and name_of(key) in active:
                i = self.space.names.index(name_of(key))
                assert config is not None
                found.append(f"{key}={self.texts[key][config[i]]}")
        return found


def name_of(key: str) -> str:
    """An override's key without ``+``."""
    return key.lstrip("+")


def domain(key: str, override: Override, grid_size: int) -> tuple[Domain, tuple[str, ...]]:
    """What an override offers, and each choice as override text.

    Words and numbers are read by the library's grammar. Choices that it does not know (lists, dicts, null) are told
    apart by their text.
    """
    if override.is_interval_sweep():
        found = read(key, override.get_value_string(), grid_size)
        return found, tuple(map(str, found.choices))
    if override.is_delete():
        raise ValueError(f"{key}: {override.input_line!r} deletes; only values can be swept over")
    items = getattr(override._value, "list", None) or []
    if any(isinstance(item, Sweep) for item in items):
        raise ValueError(
            f"{key}: a sweep inside a sweep in {override.input_line!r}; write all values in one choice(...)"
        )
    raw = [_plain(item) for item in override.sweep_iterator()]
    if len(raw) == 1 and isinstance(raw[0], list):
        values = override.get_value_string().replace("[", "").replace("]", "")
        raise ValueError(
            f"{key}: {override.input_line!r} has one choice, a list; write {key}={values} for choices, or "
            f"{key}={raw[0]} for the list as it is"
        )
    texts = tuple(
        _text(choice, text)
        for choice, text in zip(raw, override.sweep_string_iterator(), strict=True)
    )
    if all(isinstance(item, str | bool | int | float) for item in raw) and not _is_glob(override):
        found = read(key, override.get_value_string(), grid_size)
        if len(found.choices) == len(texts):
            return found, texts
    if len(set(texts)) < len(texts):
        raise ValueError(f"{key}: a choice stands twice in {override.input_line!r}; write it once")
    if not texts:
        raise ValueError(f"{key}: {override.input_line!r} matches nothing")
    return Domain(tuple(raw), "categorical", False, None), texts


def build(
    overrides: Mapping[str, Override],
    baseline: Mapping[str, Any],
    conditions: Mapping[str, Mapping[str, Sequence[Any]]],
    grid_size: int,
) -> tuple[Swept, list[str]]:
    """The space of all swept keys around a baseline, and the keys whose baseline is not in the space.

    A baseline inside an interval becomes one of its points, so that it is run as it stands; a key without a usable
    baseline starts at its first choice.
    """
    fixed: dict[str, str] = {}
    domains: dict[str, Domain] = {}
    texts: dict[str, tuple[str, ...]] = {}
    values: dict[str, Any] = {}
    without = []
    for key, override in overrides.items():
        if not override.is_sweep_override():
            fixed[key] = written(override)
            continue
        name = name_of(key)
        found, texts[key] = domain(key, override, grid_size)
        value = baseline.get(name)
        if found.interval is not None and _inside(found, value):
            found = _with_point(found, value)
            texts[key] = tuple(map(str, found.choices))
        elif find(found.choices, value) is None or name not in baseline:
            without.append(key)
            value = found.choices[0 if found.interval is None else len(found.choices) // 2]
        domains[name], values[name] = found, value
    space = parse_space(domains, conditions, values, grid_size=grid_size) if domains else None
    return Swept(space, tuple(overrides), fixed, texts), without


def composed_values(
    overrides: Mapping[str, Override], config: DictConfig, choices: Mapping[str, Any]
) -> dict[str, Any]:
    """What the app's own config says for each swept key: a group's option or a value."""
    values = {}
    for key, override in overrides.items():
        if override.is_sweep_override():
            name = name_of(key)
            if name in choices:
                values[name] = choices[name]
            else:
                value = OmegaConf.select(config, name, throw_on_missing=False)
                values[name] = (
                    OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
                )
    return {name: value for name, value in values.items() if value is not None}


def given_values(lines: Sequence[str]) -> dict[str, Any]:
    """Baseline overrides as values by key."""
    found = {}
    for override in OverridesParser.create().parse_overrides(list(lines)):
        if override.is_sweep_override() or override.is_delete():
            raise ValueError(f"hydra.sweeper.baseline: {override.input_line!r} must be key=value")
        found[name_of(override.get_key_element())] = override.value()
    return found


def _text(choice: Any, text: str) -> str:
    """Hydra's text of a choice, in quotes where it would be read as something else: a ``'1'`` that was written so."""
    if not isinstance(choice, str):
        return text
    try:
        read_back = OverridesParser.create().parse_override(f"key={text}").value()
        if _plain(read_back) == choice:
            return text
    except HydraException:
        pass
    return QuotedString(choice, Quote.single).with_quotes()


def _is_glob(override: Override) -> bool:
    return type(override._value).__name__ == "Glob"


def _inside(found: Domain, value: Any) -> bool:
    assert found.interval is not None
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and found.interval[0] <= value <= found.interval[1]


def _with_point(found: Domain, value: Any) -> Domain:
    if any(same(value, choice) for choice in found.choices):
        return found
    return found._replace(choices=tuple(sorted([*found.choices, value])))
