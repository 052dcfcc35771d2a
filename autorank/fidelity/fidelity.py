"""How much of the log a trial sees: a schedule of rungs, fractions of the log, with a promotion rule."""

import math
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np

from autorank.fidelity.curve_label import curve_label, tail_windows


@runtime_checkable
class Keep(Protocol):
    """Which trials are promoted from a rung to the next."""

    def __call__(self, reached: np.ndarray, /) -> np.ndarray:
        """Indices of the promoted trials, best first, from the curve labels ``[n]`` of all that reached the rung.

        NaN is a failed trial, which is never promoted.
        """
        ...


@runtime_checkable
class CurveLabel(Protocol):
    """How a curve is turned into one number: `curve_label.curve_label` or `curve_label.label_power_law`."""

    def __call__(
        self, curve: np.ndarray, fraction: float, /, *, where: np.ndarray | None = None
    ) -> float:
        """The curve label of windows ``[t]`` trained up to ``fraction``; lower is better, NaN is a failed trial.

        ``where``: the windows that can be measured.
        """
        ...


class Fidelity(NamedTuple):
    """A schedule of rungs."""

    rungs: tuple[float, ...]  # fractions of the log, rising
    keep: Keep
    label: CurveLabel
    # Whole runs that the rounds may cost, where the searcher decides which trials go on; None where ``keep`` does.
    budget: float | None = None


def single_rung(
    fraction: float,
    *,
    tail: float = 0.25,
    dx: float = 0.0,
    labeller: CurveLabel | None = None,
) -> Fidelity:
    """Every trial sees the same fraction of the log.

    Args:
        fraction: share of the log, in (0, 1].
        tail: share of the windows reached that the curve label is the mean of.
        dx: windows to extrapolate.
        labeller: replaces `curve_label`; ``tail`` and ``dx`` are then ignored.

    Raises:
        ValueError: a fraction or a tail outside (0, 1].

    Examples:
        >>> half = single_rung(0.5, tail=0.5)
        >>> half.label(np.array([4.0, 3.0, 2.0, 2.0, 9.0, 9.0, 9.0, 9.0]), 0.5)
        2.0
    """
    tail_windows(1, fraction, tail)
    return Fidelity(
        (float(fraction),), _keep_all, labeller or partial(curve_label, tail=tail, dx=dx)
    )


def successive_halving(
    rungs: Sequence[float],
    *,
    eta: float = 3.0,
    tail: float = 0.25,
    labeller: CurveLabel | None = None,
) -> Fidelity:
    """Promotes one in ``eta`` of the trials at each rung, and at least one; failed trials are never promoted.

    Source: Jamieson and Talwalkar, Non-stochastic best arm identification, AISTATS 2016.

    Raises:
        ValueError: rungs that do not rise inside (0, 1], or an ``eta`` of 1 or less.

    Examples:
        >>> halving = successive_halving([0.2, 1.0], eta=2.0)
        >>> halving.keep(np.array([3.0, 1.0, np.nan, 2.0])).tolist()
        [1, 3]
    """
    rungs = rising("rungs", rungs)
    if not eta > 1:
        raise ValueError(f"eta={eta} must be above 1; 3 promotes the best third")

    def keep(reached: np.ndarray) -> np.ndarray:
        count = max(1, math.floor(len(reached) / eta + 1e-9))
        return _keep_all(reached)[:count]

    return Fidelity(rungs, keep, labeller or partial(curve_label, tail=tail))


def left_to_the_searcher(rungs: Sequence[float], budget: float, *, tail: float = 0.25) -> Fidelity:
    """The searcher decides which trials go on to the next rung, within a budget of whole runs.

    Raises:
        ValueError: rungs that do not rise inside (0, 1].
    """
    return Fidelity(rising("rungs", rungs), _keep_all, partial(curve_label, tail=tail), budget)


def rising(key: str, given: Sequence[float]) -> tuple[float, ...]:
    """Fractions of the log as a tuple.

    Raises:
        ValueError: they do not rise strictly inside (0, 1].
    """
    values = tuple(map(float, given))
    if not values or list(values) != sorted(set(values)) or not 0 < values[0] <= values[-1] <= 1:
        raise ValueError(f"{key}={list(values)} must rise strictly inside (0, 1]")
    return values


def total_cost(
    fidelity: Fidelity,
    num_trials: int,
    num_rows: int,
    *,
    num_pilots: int = 0,
    batch_size: int | None = None,
    resume: bool = True,
) -> float:
    """Rows that a search trains on if no trial fails: pilots on the whole log, trials in batches up the rungs.

    Args:
        fidelity: the schedule.
        num_trials: number of trials, without the pilots.
        num_rows: rows of the log.
        num_pilots: number of pilots, which see the whole log.
        batch_size: trials that are promoted among each other; None for all.
        resume: whether a promoted trial continues; otherwise it starts over.

    Examples:
        >>> total_cost(successive_halving([0.5, 1.0], eta=2.0), 4, 100)
        300.0
    """
    total = float(num_pilots)
    if fidelity.budget is not None:
        return (total + min(fidelity.budget, num_trials)) * num_rows
    batch_size = batch_size or num_trials
    for start in range(0, num_trials, batch_size or 1):
        alive, before = min(batch_size, num_trials - start), 0.0
        for rung in fidelity.rungs:
            total += alive * (rung - (before if resume else 0.0))
            alive, before = len(fidelity.keep(np.arange(alive, dtype=np.float64))), rung
    return total * num_rows


def _keep_all(reached: np.ndarray) -> np.ndarray:
    """Indices of the trials that did not fail, best first; ties by position."""
    order = np.argsort(reached, kind="stable")
    return order[np.isfinite(np.asarray(reached)[order])]
