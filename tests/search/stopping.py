"""An objective that stops its search in the middle, as a kill would."""

from collections.abc import Iterator, Sequence

import numpy as np

from autorank.objectives.base import Objective, Outcome


class Stop(Exception):
    """The search has been stopped."""


def stopping_after(objective: Objective, outcomes: int) -> Objective:
    """The objective, which raises `Stop` in place of any outcome after so many."""
    left = outcomes

    def evaluate(
        configs: np.ndarray, seeds: Sequence[int], fidelity: float
    ) -> Iterator[tuple[int, Outcome]]:
        nonlocal left
        for pair in objective.evaluate(configs, seeds, fidelity):
            if not left:
                raise Stop
            left -= 1
            yield pair

    return objective._replace(evaluate=evaluate)
