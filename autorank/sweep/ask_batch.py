"""Asking a searcher for a few proposals at a time while others are still running.

A proposal is a function of the seed, of the number of the ask and of the arguments. So is the size in which the
searcher is made; an ask can therefore be repeated later bit for bit.
"""

import math
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np

from autorank.base.jax_settings import own_settings
from autorank.base.programs import compiler_options
from autorank.searchers.base import Searcher
from autorank.searchers.pending import ask_with_pending

# A searcher's history has 128, 256, ... rows as needed; each size is compiled once.
BLOCK = 128


@runtime_checkable
class MakeSized(Protocol):
    """Makes a searcher of a given size."""

    def __call__(self, batch_size: int, capacity: int, /) -> Searcher:
        """One that proposes ``batch_size`` configurations at a time and can be told ``capacity`` trials."""
        ...


class Asker:
    """A searcher, made and compiled in the sizes that are asked of it.

    Args:
        make: makes the searcher.
        seed: of all proposals.
    """

    def __init__(self, make: MakeSized, seed: int) -> None:
        self._make, self._seed = make, seed
        self._programs: dict[tuple[int, int], tuple[Searcher, Any, Any]] = {}

    @own_settings()
    def __call__(
        self,
        number: int,
        told: np.ndarray,
        metrics: np.ndarray,
        pending: np.ndarray,
        forecasts: np.ndarray,
        *,
        wanted: int,
        batch_size: int,
        turn: int | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """``wanted`` configurations ``[n, k]`` and what the searcher predicts of them ``[n, 2]``.

        Args:
            number: of the ask; with the seed it makes the key.
            told: configurations ``[m, k]`` that have ended, in order.
            metrics: their outcomes ``[m, 2]``, lower is better, NaN quality = failed.
            pending: configurations that are running.
            forecasts: what was predicted of them, NaN without a prediction.
            wanted: how many proposals to return.
            batch_size: proposals that the searcher makes at a time. It is asked again, with its own proposals
                pending, until there are enough.
            turn: where to begin, for a searcher whose proposals have roles by position; None takes the first.
        """
        rows = len(told) + len(pending) + wanted + batch_size
        searcher, ask, tell = self._programs_of(batch_size, BLOCK * math.ceil(rows / BLOCK))
        state = searcher.init(jax.random.key(self._seed))
        for config, outcome in zip(
            np.asarray(told, np.int32), np.asarray(metrics, np.float32), strict=True
        ):
            state = tell(state, config[None], outcome[None])
        key = jax.random.fold_in(jax.random.key(self._seed), number)
        found, predicted = pending[:0], np.zeros((0, 2))
        step = 0
        while len(found) < wanted:
            proposal = jax.tree.map(
                np.asarray,
                ask_with_pending(
                    ask,
                    tell,
                    jax.random.fold_in(key, step),
                    state,
                    np.concatenate([pending, found]),
                    np.concatenate([forecasts, predicted]),
                ),
            )
            start = 0 if turn is None else turn + len(found)
            repeat = proposal.info["repeat"]
            taken = rotated(len(proposal.configs), start, wanted - len(found), repeat)
            found = np.concatenate([found, proposal.configs[taken]])
            predicted = np.concatenate([predicted, proposal.predicted[taken]])
            step += 1
        return found, predicted

    def _programs_of(self, batch_size: int, capacity: int) -> tuple[Searcher, Any, Any]:
        if (batch_size, capacity) not in self._programs:
            searcher, options = self._make(batch_size, capacity), compiler_options()
            self._programs[batch_size, capacity] = (
                searcher,
                jax.jit(searcher.ask, compiler_options=options),
                jax.jit(searcher.tell, compiler_options=options),
            )
        return self._programs[batch_size, capacity]


def rotated(n: int, start: int, wanted: int, repeat: np.ndarray) -> list[int]:
    """Which ``wanted`` of an ask's ``n`` proposals to take: from ``start`` on and around, fresh ones first.

    A searcher may give its proposals roles by position (near the best, exploratory, ...). Rotating keeps the mixture
    when only a few are taken at a time.

    Examples:
        >>> rotated(4, start=3, wanted=2, repeat=np.zeros(4, bool))
        [3, 0]
    """
    order = [(start + i) % n for i in range(n)]
    order = [i for i in order if not repeat[i]] + [i for i in order if repeat[i]]
    return order[:wanted]
