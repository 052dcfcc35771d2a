"""Chooses the fraction of the log that trials see from the curves of pilots that were trained to the end.

Curves are ``[p pilots, t windows]`` of window NE, or of its gain over the baseline, on identical rows; lower is better.
The pilots tell which fraction of the log keeps the final order, measured by Kendall's tau-b, and which trend helps
(arXiv 2311.07870); the rules are those of `choice`. What is reported for the chosen fraction is measured on pilots left
out of the choice (`left_out`).
"""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from autorank.base.metrics import finite_or_none
from autorank.fidelity.agreement import TauCurve, as_tau_curve, bootstrap_tau, interval
from autorank.fidelity.choice import (
    CONFIDENCE,
    Choice,
    best_trend,
    choose_fraction,
    dx_grid,
    trends,
)
from autorank.fidelity.curve_label import curve_labels, tail_windows
from autorank.fidelity.fidelity import Fidelity, single_rung
from autorank.fidelity.left_out import LeftOut, left_out_tau

MIN_PILOTS = 4  # with three pilots tau-b has four possible values
NUM_BOOTSTRAP = 1000
FOLD_BOOTSTRAP = 200  # resamples for the decision without a fold, of which there are many


@runtime_checkable
class ChooseFraction(Protocol):
    """`choose_fraction` under given thresholds."""

    def __call__(self, curve: TauCurve, /) -> Choice:
        """The fraction that the pilots support."""
        ...


def from_pilots(
    curves: Float[np.ndarray, "p t"],
    fractions: Sequence[float],
    *,
    tail: float = 0.25,
    trend: bool = True,
    tau_floor: float = 0.75,
    slack: float = 0.05,
    seed: int = 0,
    where: np.ndarray | None = None,
) -> tuple[Fidelity, dict[str, Any]]:
    """The fidelity that the pilots' curves support, and the record of the reasons (JSON; NaN becomes None).

    Fewer than `MIN_PILOTS` finished pilots support nothing: trials then see the whole log. Fractions that share windows
    with the final curve label are not considered.

    Args:
        curves: gain curves of the pilots, trained to the end.
        fractions: candidate shares of the log, each in (0, 1].
        tail: share of the windows reached that a curve label is the mean of.
        trend: whether to judge each fraction with its own `choose_dx`, or without extrapolation.
        tau_floor: smallest acceptable tau-b.
        slack: how far below the plateau the lower bound of tau-b may lie.
        seed: seeds all resamples.
        where: windows ``[t]`` that can be measured; None for all.

    Returns:
        The fidelity, of one rung, and the record. ``tau``, ``low`` and ``high`` are what the rule has seen: tau-b on
        the same pilots that chose each ``dx``. ``chosen_tau`` and its interval are measured on pilots left out of the
        whole choice; they are None for the whole log.

    Examples:
        >>> level, time = np.arange(12.0)[:, None], np.arange(40)[None, :]
        >>> fidelity, record = from_pilots(level + np.exp(-time / 5), [0.1, 0.5, 1.0])
        >>> fidelity.rungs, record["chosen_tau"]
        ((0.1,), 1.0)
    """
    pilots = _Pilots(curves, fractions, tail=tail, trend=trend, where=where)
    choose = partial(choose_fraction, tail=tail, slack=slack, tau_floor=tau_floor)
    decision = _decide(pilots, choose, seed)
    record = _record(pilots, decision, fractions)
    record |= {"num_pilots": len(curves), "num_finished": pilots.num_finished}
    fraction, dx = record["chosen_fraction"], record["chosen_dx"]
    return single_rung(fraction, tail=tail, dx=dx), record


class _Pilots:
    """Curve labels of the finished pilots by every fraction and trend, computed once for all folds."""

    def __init__(
        self,
        curves: np.ndarray,
        fractions: Sequence[float],
        *,
        tail: float,
        trend: bool,
        where: np.ndarray | None,
    ) -> None:
        final = curve_labels(curves, 1.0, tail=tail, where=where)
        finished = np.isfinite(final)
        curves, self.final = curves[finished], final[finished]
        self.num_finished = len(curves)
        num_windows = curves.shape[1]
        self.apart = [
            float(f) for f in fractions if not shares_windows(num_windows, f, tail, where)
        ]
        self.steps = trends(dx_grid(curves.shape[1]) if trend else ())
        # [g, p] for each fraction: a row for each trend
        self.short = [
            np.stack(
                [curve_labels(curves, f, tail=tail, dx=float(s), where=where) for s in self.steps]
            )
            for f in self.apart
        ]

    def judge(
        self, some: np.ndarray, *, num_bootstrap: int, seed: int
    ) -> tuple[list[int], TauCurve]:
        """For each fraction the index of its best trend on some of the pilots, and tau-b there with its interval."""
        steps, rows = [], []
        for short in self.short:
            best, tau, replicates = best_trend(
                short[:, some], self.final[some], self.steps, CONFIDENCE, num_bootstrap, seed
            )
            steps.append(best)
            rows.append((tau, *interval(replicates, 0.95)))
        return steps, as_tau_curve(self.apart, rows)


class _Decision(NamedTuple):
    """What the pilots led to."""

    choice: Choice
    steps: list[int]  # for each fraction the index of its trend
    taus: TauCurve  # with these trends
    plain: np.ndarray  # tau-b without a trend, for each fraction
    left_out: LeftOut


def _decide(pilots: _Pilots, choose: ChooseFraction, seed: int) -> _Decision:
    """Chooses on all pilots, and measures on folds what such a choice is worth."""
    unmeasured = LeftOut(math.nan, math.nan, math.nan, math.nan)
    if pilots.num_finished < MIN_PILOTS:
        unknown = np.full(len(pilots.apart), np.nan)
        reason = f"{pilots.num_finished} finished pilots are too few (need {MIN_PILOTS}): the whole log is used"
        taus = TauCurve(np.asarray(pilots.apart), unknown, unknown, unknown)
        choice = Choice(1.0, math.nan, math.nan, reason)
        return _Decision(choice, [0] * len(unknown), taus, unknown, unmeasured)
    everyone = np.arange(pilots.num_finished)
    steps, taus = pilots.judge(everyone, num_bootstrap=NUM_BOOTSTRAP, seed=seed)
    plain = np.array([bootstrap_tau(s[:1], pilots.final, 1, seed)[0][0] for s in pilots.short])
    choice = choose(taus)

    def decide(some: np.ndarray) -> np.ndarray | None:
        found, seen = pilots.judge(some, num_bootstrap=FOLD_BOOTSTRAP, seed=seed)
        fraction = choose(seen).fraction
        if fraction == 1:
            return None
        i = pilots.apart.index(fraction)
        return pilots.short[i][found[i]]

    if choice.fraction < 1:
        measured = left_out_tau(decide, pilots.final, min_pilots=MIN_PILOTS, seed=seed)
    else:
        measured = unmeasured
    return _Decision(choice, steps, taus, plain, measured)


def _record(pilots: _Pilots, decision: _Decision, fractions: Sequence[float]) -> dict[str, Any]:
    """The decision as JSON, with one entry for each of the given fractions."""
    choice, left_out = decision.choice, decision.left_out
    dx = dict(zip(pilots.apart, pilots.steps[decision.steps].tolist(), strict=True))
    reason = choice.reason
    if math.isfinite(left_out.tau):
        reason += (
            f"; on pilots left out of the choice its tau-b is {left_out.tau:.2f} "
            f"[{left_out.low:.2f}, {left_out.high:.2f}]"
        )

    def spread(values: np.ndarray) -> list[float | None]:
        known = dict(zip(pilots.apart, map(finite_or_none, values), strict=True))
        return [known.get(float(f)) for f in fractions]

    return {
        "fractions": [float(f) for f in fractions],
        "tau": spread(decision.taus.tau),
        "low": spread(decision.taus.low),
        "high": spread(decision.taus.high),
        "tau_without_trend": spread(decision.plain),
        "dx": [dx.get(float(f), 0.0) for f in fractions],
        "chosen_fraction": choice.fraction,
        "chosen_tau": finite_or_none(left_out.tau),
        "chosen_low": finite_or_none(left_out.low),
        "chosen_high": finite_or_none(left_out.high),
        "folds_share": finite_or_none(left_out.share),  # of the folds that chose less than the log
        "chosen_dx": dx.get(choice.fraction, 0.0),
        "plateau": finite_or_none(choice.plateau),
        "reason": reason,
    }


def shares_windows(
    num_windows: int, fraction: float, tail: float, where: np.ndarray | None = None
) -> bool:
    """Whether a curve label at ``fraction`` may use windows of the final curve label, the last ``tail`` of the log.

    Where none of those can be measured, the final curve label is the last window that can.
    """
    first, _ = tail_windows(num_windows, 1.0, tail) if num_windows else (0, 0)
    if where is not None and where.any():
        first = min(first, int(np.flatnonzero(where)[-1]))
    _, reached = tail_windows(num_windows, fraction, tail)
    return reached > first or fraction > 1 - tail + 1e-9
