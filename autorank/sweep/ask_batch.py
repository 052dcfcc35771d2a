"""Asking a searcher for a few proposals at a time, in a job's own units, while others are still running.

A proposal is a function of the seed, of the number of the ask and of what is handed in. How large a
searcher is made follows from these alone, so that an ask can be repeated later bit for bit.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from autorank.base.jax_settings import own_settings
from autorank.base.programs import compiler_options
from autorank.searchers.base import Searcher
from autorank.searchers.pending import ask_with_pending

BLOCK = 128  # rows of a searcher's history: 128, 256, ... as needed; each size is compiled once
LIMIT = 1e4  # of a told quality: one absurd result must not flatten the others to nothing


class Units(NamedTuple):
    """Between a job's units and those that a searcher is told, so that the job's do not matter.

    Quality becomes interquartile ranges from the median, lower better; cost the logarithm of its ratio to a reference.
    """

    centre: float = 0.0
    spread: float = 1.0
    reference: float = 1.0  # cost
    maximize: bool = False

    @classmethod
    def of(cls, quality: Sequence[float], reference: float, maximize: bool) -> "Units":
        """From the qualities told so far, all finite."""
        signed = np.array(quality, np.float64) * (-1.0 if maximize else 1.0)
        centre = float(np.median(signed)) if len(signed) else 0.0
        # Halved: a difference of two finite numbers may be infinite.
        ends = np.percentile(signed / 2, [75, 25]) if len(signed) else (0.0, 0.0)
        spread = float(ends[0] - ends[1]) * 2
        if not (math.isfinite(spread) and spread > 0):
            spread = max(abs(centre), 1.0)
        return cls(centre, spread, reference, maximize)

    def told(self, quality: Any, cost: Any) -> np.ndarray:
        """``[n, 2]`` from a job's qualities and costs ``[n]``; NaN stays NaN."""
        signed = np.asarray(quality, np.float64) * (-1.0 if self.maximize else 1.0)
        with np.errstate(over="ignore"):  # clipped below
            scaled = (signed / 2 - self.centre / 2) / (self.spread / 2)
        logs = np.log(np.asarray(cost, np.float64) / self.reference)
        return np.stack([np.clip(scaled, -LIMIT, LIMIT), logs], axis=-1)

    def own(self, told: np.ndarray) -> np.ndarray:
        """The inverse of ``told``: qualities and costs ``[n, 2]``."""
        told = np.asarray(told, np.float64)
        with np.errstate(over="ignore"):
            signed = told[:, 0] * self.spread + self.centre
        cost = self.reference * np.exp(np.minimum(told[:, 1], 700.0))
        return np.stack([-signed if self.maximize else signed, cost], axis=-1)


class Asker:
    """A searcher, made and compiled in the sizes that are asked of it.

    Args:
        make: ``make(batch_size, capacity)`` gives the searcher.
        seed: of all proposals.
    """

    def __init__(self, make: Callable[[int, int], Searcher], seed: int) -> None:
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
            forecasts: what was predicted of them, NaN where nothing was.
            wanted: proposals.
            batch_size: proposals that the searcher makes at a time; it is asked again, with what it has proposed
                pending, until there are enough.
            turn: for a searcher whose proposals have roles by position: where to begin. None takes the first.
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
    """Which ``wanted`` of an ask's ``n`` proposals to take: from ``start`` on, around, fresh ones first.

    A searcher may give its proposals roles by position (near the best, exploratory, ...); rotating keeps the mixture
    when only a few are taken at a time.
    """
    order = [(start + i) % n for i in range(n)]
    order = [i for i in order if not repeat[i]] + [i for i in order if repeat[i]]
    return order[:wanted]
