"""Registered searchers as a sweep needs them: made by name in the sizes that are asked for."""

from typing import NamedTuple

from autorank.searchers.base import Searcher
from autorank.searchers.named import find_searcher, named_searcher
from autorank.space.space import Space

# Proposals per ask of a searcher whose proposals have roles; if fewer are wanted, they are taken in turn.
ASK_WITH_ROLES = 8


class NamedSearcher(NamedTuple):
    """Makes the searcher of a name with its default settings."""

    name: str
    space: Space
    initial: int | None  # trials before the searcher trusts its model; None is its default
    alpha: float  # weight of the cost, for searchers that weigh it themselves

    def __call__(self, batch_size: int, capacity: int) -> Searcher:
        """A searcher of ``batch_size`` proposals an ask, for at most ``capacity`` trials told or pending."""
        return named_searcher(
            self.name,
            self.space,
            capacity=capacity,
            batch_size=batch_size,
            initial=self.initial,
            alpha=self.alpha,
        )

    @property
    def has_roles(self) -> bool:
        """Whether proposals of a batch differ in kind by their position."""
        return find_searcher(self.name).traits["has_roles"]

    @property
    def weighs_cost(self) -> bool:
        """Whether the searcher trades quality for cost itself."""
        return find_searcher(self.name).traits["weighs_cost"]


def grid_size_of(name: str) -> int:
    """Points of an interval that suit a searcher.

    Raises:
        ValueError: an unknown name.

    Examples:
        >>> grid_size_of("random"), grid_size_of("reinforce")
        (64, 16)
    """
    return find_searcher(name).traits["grid_size"]
