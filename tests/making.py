"""Parts for tests, by their names and settings."""

from collections.abc import Callable
from typing import Any

from autorank.base.registry import Entry
from autorank.objectives.base import Objective
from autorank.objectives.training import ObjectiveConfig, training_objective
from autorank.searchers.base import SEARCHERS, Context, Searcher
from autorank.space.space import Space
from autorank.training.settings import TrainingConfig


def make_searcher(name: str, space: Space, *, capacity: int, **options: Any) -> Searcher:
    """A registered searcher; options are its own settings, or else fields of its `Context`."""
    entry: Entry[Any] = SEARCHERS[name]
    own, others = divided(options, entry.fields)
    return entry.make(space, entry.settings(**own), Context(capacity, **others))


def make_objective(dataset: Any, decode: Callable[[Any], Any], **options: Any) -> Objective:
    """Training on data; options are settings of training, or else of the objective."""
    own, others = divided(options, tuple(TrainingConfig.__dataclass_fields__))
    return training_objective(dataset, decode, ObjectiveConfig(TrainingConfig(**own), **others))


def divided(
    options: dict[str, Any], names: tuple[str, ...]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The options of these names, and the others."""
    own = {k: v for k, v in options.items() if k in names}
    return own, {k: v for k, v in options.items() if k not in names}
