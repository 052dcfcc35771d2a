"""One registry for each kind of part: searchers, losses, interaction modules, data sources, fidelity rules, objectives.

An entry is filled in beside its implementation. Configs, help, error messages and contract tests read the registry, so
that a new part is configured, documented and tested by being registered.
"""

import dataclasses
import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

Make = TypeVar("Make", bound=Callable[..., Any])


@dataclass(frozen=True)
class NoSettings:
    """The settings of a part that has none."""


@dataclass(frozen=True)
class Entry(Generic[Make]):
    """One registered part."""

    name: str
    make: Make  # what was registered: a factory or the function itself
    settings: type  # frozen dataclass; its defaults are what choosing the name composes
    summary: str  # one sentence, from the docstring of `make`
    traits: Mapping[str, Any]  # what callers ask about the part without making it

    @property
    def fields(self) -> tuple[str, ...]:
        """Names of its settings."""
        return tuple(f.name for f in dataclasses.fields(self.settings))


class Registry(Mapping[str, Entry[Make]]):
    """Named parts of one kind, in the order of their registration.

    Args:
        key: the config key that chooses among them; errors name it.
        field: the field of a settings record that holds the part's name, if it has one.
        former: what parts were called in earlier versions, and their names now; looked up, but not listed.

    Examples:
        >>> SHAPES = Registry("shape")
        >>> @SHAPES.register("square", sides=4)
        ... def square(size):
        ...     '''Four equal sides.'''
        ...     return size * size
        >>> SHAPES["square"].make(3), SHAPES["square"].summary, SHAPES["square"].traits["sides"]
        (9, 'Four equal sides.', 4)
        >>> SHAPES["cube"]
        Traceback (most recent call last):
            ...
        ValueError: shape='cube' is not known; write one of square
    """

    def __init__(self, key: str, *, field: str = "name", former: Mapping[str, str] | None = None):
        self.key, self.field, self.former = key, field, dict(former or {})
        self._entries: dict[str, Entry[Make]] = {}

    def register(
        self, name: str, settings: type = NoSettings, **traits: Any
    ) -> Callable[[Make], Make]:
        """Adds what it decorates, unchanged.

        Args:
            name: what users write; unique.
            settings: frozen dataclass whose fields all have defaults.
            traits: facts about the part, the same keys for all parts of a registry.

        Raises:
            ValueError: the name is taken, the settings have no defaults, are not frozen or bear another name, or there
                is no docstring.
        """
        if name in self._entries:
            raise ValueError(f"{self.key}={name!r} is already registered; choose another name")
        if not dataclasses.is_dataclass(settings) or not settings.__dataclass_params__.frozen:  # pyright: ignore
            raise ValueError(f"{self.key}={name!r}: {settings.__name__} must be a frozen dataclass")
        defaults = settings()  # every field has one
        own = getattr(defaults, self.field, name)
        if own != name:
            raise ValueError(
                f"{self.key}={name!r}: write {self.field}: str = {name!r} into {settings.__name__}, not {own!r}"
            )

        def add(make: Make) -> Make:
            summary = (inspect.getdoc(make) or "").split("\n\n")[0].replace("\n", " ")
            if not summary:
                raise ValueError(f"{self.key}={name!r}: write a docstring; help texts show it")
            self._entries[name] = Entry(name, make, settings, summary, traits)
            return make

        return add

    def remove(self, name: str) -> None:
        """Takes an entry out again, for tests and notebooks that define a part more than once."""
        del self._entries[name]

    def require_own_name(self, settings: Any) -> None:
        """Refuses a record that bears the name of another part, whose settings are other ones.

        Raises:
            ValueError: with what to write to choose that part.
        """
        own = type(settings).__dataclass_fields__[self.field].default
        name = getattr(settings, self.field)
        if name != own:
            other = self[name].name
            raise ValueError(
                f"{self.key}.{self.field}={name!r}: these are the settings of {own}; write {self.key}={other} to "
                f"choose {other} and its settings"
            )

    def __getitem__(self, name: str) -> Entry[Make]:
        """Raises a ValueError that lists the known names, as the name usually comes from a config."""
        name = self.former.get(name, name)
        if name not in self._entries:
            raise ValueError(
                f"{self.key}={name!r} is not known; write one of {', '.join(self._entries)}"
            )
        return self._entries[name]

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)
