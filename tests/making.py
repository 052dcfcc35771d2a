"""Searchers for tests, by name."""

from typing import Any

from autorank.searchers.base import SEARCHERS, Context, Searcher
from autorank.space.space import Space


def make_searcher(name: str, space: Space, *, capacity: int, **options: Any) -> Searcher:
    """A registered searcher; options are its own settings, or else fields of its `Context`."""
    entry = SEARCHERS[name]
    own = {k: v for k, v in options.items() if k in entry.fields}
    others = {k: v for k, v in options.items() if k not in entry.fields}
    return entry.make(space, entry.settings(**own), Context(capacity, **others))
