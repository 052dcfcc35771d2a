"""Parts for tests, by their names and settings."""

from typing import Any

from autorank.base.registry import Entry
from autorank.searchers.base import SEARCHERS, Context, Searcher
from autorank.space.space import Space


def make_searcher(name: str, space: Space, *, capacity: int, **options: Any) -> Searcher:
    """A registered searcher; options are its own settings, or else fields of its `Context`."""
    entry: Entry[Any] = SEARCHERS[name]
    own, others = divided(options, entry.fields)
    return entry.make(space, entry.settings(**own), Context(capacity, **others))


def divided(
    options: dict[str, Any], names: tuple[str, ...]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The options of these names, and the others."""
    own = {k: v for k, v in options.items() if k in names}
    return own, {k: v for k, v in options.items() if k not in names}
