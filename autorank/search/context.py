"""What the stages of a search share."""

from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np

from autorank.ledger.ledger import Ledger
from autorank.ledger.trial import Trial
from autorank.objectives.base import Objective
from autorank.search.budget import Budget
from autorank.space.space import Space

# Streams of randomness that must not coincide: the seed's key is folded with one of these.
POLICY_KEY, PILOT_KEY, DIAGNOSE_KEY = range(3)


@runtime_checkable
class Notify(Protocol):
    """Is told that a stage goes on."""

    def __call__(self, stage: str, trial: Trial | None, message: str, /) -> None:
        """``trial`` just ended, if it is not None; ``message`` says more, often nothing."""
        ...


class Context(NamedTuple):
    """What every stage needs."""

    objective: Objective
    space: Space
    ledger: Ledger
    budget: Budget
    notify: Notify
    first: np.ndarray | None = None  # int32 [n, k]: earlier trials that are tried first, as pilots


class SearchStopped(RuntimeError):
    """The search cannot go on sensibly; the message says what to change."""
