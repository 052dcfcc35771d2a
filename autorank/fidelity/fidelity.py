"""How much of the log a trial sees: chosen on pilots, or a schedule of rungs.

Curves are ``[p pilots, t windows]`` of window NE, or of its gain over the baseline, on identical
rows; lower is better. Pilots, trained to the end, say which fraction of the log keeps the final
order, measured with Kendall's tau-b, and which trend helps (arXiv 2311.07870). The guard of
`choose_dx` and the reading of "plateau" in `choose_fraction` are own choices. What is claimed for
the chosen fraction is measured on pilots left out of the choice (`left_out`).
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from autorank.fidelity.labels import label, labels, tail_windows
from autorank.fidelity.left_out import LeftOut, form, left_out_tau, signs

MIN_PILOTS = 4  # with three pilots tau-b has four possible values
CONFIDENCE = 0.9  # share of the resamples in which a trend must beat none
FOLD_BOOTSTRAP = 200  # resamples of a fold's decision, of which there are many


class Fidelity(NamedTuple):
    """A schedule of rungs with its labels.

    ``rungs`` are fractions of the log, rising. ``keep`` takes the labels ``[n]`` at a rung and
    gives the indices promoted to the next, best first; it sees only what reached that rung.
    ``label`` takes a curve ``[t]``, the fraction reached and, as ``where``, the windows that can be
    measured; lower is better, NaN is a failed trial.
    """

    rungs: tuple[float, ...]
    keep: Callable[[np.ndarray], np.ndarray]
    label: Callable[..., float]


class TauCurve(NamedTuple):
    """Tau-b of the labels at each fraction with the final ones, and its bootstrap interval."""

    fractions: np.ndarray
    tau: np.ndarray
    low: np.ndarray
    high: np.ndarray


class Choice(NamedTuple):
    """The fraction taken, its tau-b, the plateau it was held against, and why, in words."""

    fraction: float
    tau: float
    plateau: float
    reason: str


# --- what the pilots say --------------------------------------------------------------------------


def tau_curve(
    curves: Float[np.ndarray, "p t"],
    fractions: Sequence[float],
    *,
    tail: float = 0.25,
    dx: float | Sequence[float] = 0.0,
    num_bootstrap: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> TauCurve:
    """Tau-b between labels at each fraction and the final labels (whole log, no trend).

    Pilots that failed, before the fraction or after it, are left out of it: no label orders them.
    NaN where fewer than two pilots or no order is left. ``dx`` is one number or one for each
    fraction.
    """
    steps = np.broadcast_to(np.asarray(dx, np.float64), (len(fractions),))
    final = labels(curves, 1.0, tail=tail)
    rows = []
    for fraction, step in zip(fractions, steps, strict=True):
        short = labels(curves, fraction, tail=tail, dx=float(step))
        tau, replicates = _bootstrap_tau(short[None], final, num_bootstrap, seed)
        rows.append((tau[0], *_ends(replicates[0], level)))
    columns = np.array(rows, np.float64).reshape(-1, 3).T
    return TauCurve(np.asarray(fractions, np.float64), *columns)


def choose_fraction(
    curve: TauCurve, *, tail: float = 0.25, slack: float = 0.05, tau_floor: float = 0.75
) -> Choice:
    """The smallest fraction close enough to the plateau with enough tau-b; else 1.

    Only fractions up to ``1 - tail`` count: later ones agree with the end because they share its
    windows. Close enough: its lower bound is at least the plateau minus ``slack``. The plateau (own
    reading) is the highest lower bound.
    """
    fractions, tau, low = curve.fractions, curve.tau, curve.low
    apart = fractions <= 1 - tail + 1e-9
    if not apart.any():
        return Choice(
            1.0,
            math.nan,
            math.nan,
            f"every fraction shares windows with the final label, the last {tail:g} of the log: "
            f"the whole log is used; write a fraction of at most {1 - tail:g} into "
            f"fidelity.fractions",
        )
    apart &= np.isfinite(low)
    if not apart.any():
        return Choice(1.0, math.nan, math.nan, "the pilots show no order: the whole log is used")
    plateau = float(low[apart].max())
    fits = apart & (low >= plateau - slack) & (tau >= tau_floor)
    if not fits.any():
        best = int(np.nanargmax(np.where(apart, tau, np.nan)))
        return Choice(
            1.0,
            math.nan,
            plateau,
            f"no fraction keeps the final order: the best up to {1 - tail:g} is "
            f"{fractions[best]:g} with tau-b {tau[best]:.2f}, where at least {tau_floor:g} and a "
            f"lower bound of at least {plateau - slack:.2f} are asked for",
        )
    i = int(np.argmax(fits))
    return Choice(
        float(fractions[i]),
        float(tau[i]),
        plateau,
        f"{fractions[i]:g} is the smallest fraction with tau-b of at least {tau_floor:g} "
        f"({tau[i]:.2f}) and a lower bound ({low[i]:.2f}) within {slack:g} "
        f"of the plateau ({plateau:.2f})",
    )


def choose_dx(
    curves: Float[np.ndarray, "p t"],
    fraction: float,
    grid: Sequence[float],
    *,
    tail: float = 0.25,
    confidence: float = CONFIDENCE,
    num_bootstrap: int = 1000,
    seed: int = 0,
) -> float:
    """The ``dx`` of the grid, or 0, with the highest tau-b on the pilots; ties to the smallest.

    Guard against overfitting a handful of pilots: a ``dx`` only counts if it beats 0 in at least
    ``confidence`` of the bootstrap resamples of the pilots, the same resamples for both.
    """
    steps = _steps(grid)
    if fraction >= 1:
        return 0.0
    final = labels(curves, 1.0, tail=tail)
    short = np.stack([labels(curves, fraction, tail=tail, dx=float(s)) for s in steps])
    return float(steps[_best_step(short, final, steps, confidence, num_bootstrap, seed)[0]])


def dx_grid(num_windows: int) -> tuple[float, ...]:
    """0 and 5% to 100% of the log, in windows."""
    return tuple(s * num_windows for s in (0.0, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0))


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
    """The fidelity that the pilots' curves support, and the record of why (JSON; NaN is None).

    With ``trend`` each fraction is judged with its own `choose_dx`. Fewer than four finished pilots
    say nothing: the whole log is used. Fractions whose windows are also in the final label are left
    out. In the record ``tau``, ``low`` and ``high`` are what the rule sees, on the pilots that chose
    each ``dx``; ``chosen_tau`` with its interval is measured on pilots left out of the whole choice,
    and None for the whole log. ``where [t]``: windows that can be measured, None for all.
    """
    pilots = _Pilots(curves, fractions, tail=tail, trend=trend, where=where)
    finished = len(pilots.final)
    unknown = np.full(len(pilots.apart), np.nan)
    steps, taus = [0] * len(unknown), TauCurve(np.asarray(pilots.apart), unknown, unknown, unknown)
    plain, left_out = unknown, LeftOut(math.nan, math.nan, math.nan, math.nan)
    choice = Choice(
        1.0,
        math.nan,
        math.nan,
        f"{finished} finished pilots are too few (need {MIN_PILOTS}): the whole log is used",
    )
    if finished >= MIN_PILOTS:
        rule = {"tail": tail, "slack": slack, "tau_floor": tau_floor}
        steps, taus = pilots.judge(np.arange(finished), num_bootstrap=1000, seed=seed)
        plain = np.array([_bootstrap_tau(s[:1], pilots.final, 1, seed)[0][0] for s in pilots.short])
        choice = choose_fraction(taus, **rule)

        def decide(some: np.ndarray) -> np.ndarray | None:
            found, seen = pilots.judge(some, num_bootstrap=FOLD_BOOTSTRAP, seed=seed)
            fraction = choose_fraction(seen, **rule).fraction
            if fraction == 1:
                return None
            i = pilots.apart.index(fraction)
            return pilots.short[i][found[i]]

        if choice.fraction < 1:
            left_out = left_out_tau(decide, pilots.final, min_pilots=MIN_PILOTS, seed=seed)
    dx = dict(zip(pilots.apart, pilots.steps[steps].tolist(), strict=True))
    reason = choice.reason
    if math.isfinite(left_out.tau):
        reason += (
            f"; on pilots left out of the choice its tau-b is {left_out.tau:.2f} "
            f"[{left_out.low:.2f}, {left_out.high:.2f}]"
        )

    def spread(values: np.ndarray) -> list[float | None]:
        known = dict(zip(pilots.apart, _json(values), strict=True))
        return [known.get(float(f)) for f in fractions]

    record = {
        "fractions": [float(f) for f in fractions],
        "tau": spread(taus.tau),
        "low": spread(taus.low),
        "high": spread(taus.high),
        "tau_without_trend": spread(plain),
        "dx": [dx.get(float(f), 0.0) for f in fractions],
        "chosen_fraction": choice.fraction,
        "chosen_tau": _json([left_out.tau])[0],
        "chosen_low": _json([left_out.low])[0],
        "chosen_high": _json([left_out.high])[0],
        "folds_share": _json([left_out.share])[0],  # that chose a fraction below 1
        "chosen_dx": dx.get(choice.fraction, 0.0),
        "plateau": _json([choice.plateau])[0],
        "reason": reason,
        "num_pilots": len(curves),
        "num_finished": finished,
    }
    return single_rung(choice.fraction, tail=tail, dx=record["chosen_dx"]), record


class _Pilots:
    """Labels of the finished pilots by every fraction and step, made once for all folds."""

    def __init__(
        self,
        curves: np.ndarray,
        fractions: Sequence[float],
        *,
        tail: float,
        trend: bool,
        where: np.ndarray | None,
    ) -> None:
        final = labels(curves, 1.0, tail=tail, where=where)
        finished = np.isfinite(final)
        curves, self.final = curves[finished], final[finished]
        num_windows = curves.shape[1]
        self.apart = [
            float(f) for f in fractions if not shares_windows(num_windows, f, tail, where)
        ]
        self.steps = _steps(dx_grid(curves.shape[1]) if trend else ())
        # [g, p] for each fraction
        self.short = [
            np.stack([labels(curves, f, tail=tail, dx=float(s), where=where) for s in self.steps])
            for f in self.apart
        ]

    def judge(
        self, some: np.ndarray, *, num_bootstrap: int, seed: int
    ) -> tuple[list[int], TauCurve]:
        """For each fraction the index of its step, and tau-b with its interval, on some pilots."""
        steps, rows = [], []
        for short in self.short:
            best, tau, replicates = _best_step(
                short[:, some], self.final[some], self.steps, CONFIDENCE, num_bootstrap, seed
            )
            steps.append(best)
            rows.append((tau, *_ends(replicates, 0.95)))
        columns = np.array(rows, np.float64).reshape(-1, 3).T
        return steps, TauCurve(np.asarray(self.apart, np.float64), *columns)


def shares_windows(
    num_windows: int, fraction: float, tail: float, where: np.ndarray | None = None
) -> bool:
    """Whether a label at ``fraction`` may look at windows of the final label, its last ``tail``.

    Where none of those can be measured, the final label is the last window that can.
    """
    first, _ = tail_windows(num_windows, 1.0, tail) if num_windows else (0, 0)
    if where is not None and where.any():
        first = min(first, int(np.flatnonzero(where)[-1]))
    _, reached = tail_windows(num_windows, fraction, tail)
    return reached > first or fraction > 1 - tail + 1e-9


# --- schedules ------------------------------------------------------------------------------------


def single_rung(
    fraction: float,
    *,
    tail: float = 0.25,
    dx: float = 0.0,
    labeller: Callable[..., float] | None = None,
) -> Fidelity:
    """Every trial sees the same fraction; ``labeller``, if given, makes the label."""
    tail_windows(1, fraction, tail)
    return Fidelity((float(fraction),), _keep_all, labeller or partial(label, tail=tail, dx=dx))


def successive_halving(
    rungs: Sequence[float],
    *,
    eta: float = 3.0,
    tail: float = 0.25,
    labeller: Callable[..., float] | None = None,
) -> Fidelity:
    """At each rung one in ``eta`` goes on, at least one; failed trials never do.

    Source: Jamieson and Talwalkar, Non-stochastic best arm identification, AISTATS 2016.
    """
    rungs = tuple(map(float, rungs))
    if not rungs or list(rungs) != sorted(set(rungs)) or not 0 < rungs[0] <= rungs[-1] <= 1:
        raise ValueError(f"rungs={list(rungs)} must rise strictly inside (0, 1]")
    if not eta > 1:
        raise ValueError(f"eta={eta} must be above 1; 3 promotes the best third")

    def keep(labels_: np.ndarray) -> np.ndarray:
        count = max(1, math.floor(len(labels_) / eta + 1e-9))
        return _keep_all(labels_)[:count]

    return Fidelity(rungs, keep, labeller or partial(label, tail=tail))


def total_cost(
    fidelity: Fidelity,
    num_trials: int,
    num_rows: int,
    *,
    num_pilots: int = 0,
    batch_size: int | None = None,
    resume: bool = True,
) -> float:
    """Trained rows of a search: pilots on the whole log, trials up the rungs in batches.

    No trial fails. With ``resume`` a promoted trial continues; otherwise it starts over.
    """
    total = float(num_pilots)
    batch_size = batch_size or num_trials
    for start in range(0, num_trials, batch_size or 1):
        alive, before = min(batch_size, num_trials - start), 0.0
        for rung in fidelity.rungs:
            total += alive * (rung - (before if resume else 0.0))
            alive, before = len(fidelity.keep(np.arange(alive, dtype=np.float64))), rung
    return total * num_rows


# --- inside ---------------------------------------------------------------------------------------


def _keep_all(labels_: np.ndarray) -> np.ndarray:
    """Indices of what did not fail, best first; ties by position."""
    order = np.argsort(labels_, kind="stable")
    return order[np.isfinite(np.asarray(labels_)[order])]


def _steps(grid: Sequence[float]) -> np.ndarray:
    """0 and the grid, the smallest first."""
    return np.array(sorted({0.0, *map(float, grid)}, key=lambda v: (abs(v), v)))


def _best_step(
    short: np.ndarray,
    final: np.ndarray,
    steps: np.ndarray,
    confidence: float,
    num_bootstrap: int,
    seed: int,
) -> tuple[int, float, np.ndarray]:
    """Index of `choose_dx`'s step by the labels ``short [g, p]``, its tau-b, its replicates."""
    tau, replicates = _bootstrap_tau(short, final, num_bootstrap, seed)
    wins = (replicates > replicates[:1]).mean(axis=1)
    allowed = np.where((wins >= confidence) | (steps == 0), tau, -np.inf)
    # Labels are sums of floats: differences below 1e-9 are no reason to go further.
    best = int(np.argmax(np.round(allowed, 9))) if np.isfinite(tau[0]) else 0
    return best, float(tau[best]), replicates[best]


def _ends(replicates: np.ndarray, level: float) -> tuple[float, float]:
    seen = replicates[np.isfinite(replicates)]
    if not seen.size:
        return math.nan, math.nan
    low, high = np.quantile(seen, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _bootstrap_tau(
    short: np.ndarray, final: np.ndarray, num_bootstrap: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Tau-b ``[g]`` of each row of ``short [g, p]`` with ``final [p]``; replicates ``[g, s]``.

    A resample is a vector of counts ``c``; tau-b of it is ``c' (A * B) c / sqrt(c' |A| c  c' |B|
    c)`` with the sign matrices ``A`` and ``B`` of the two orders (a pilot drawn twice ties with
    itself on both sides and drops out).
    """
    valid = np.isfinite(final) & np.isfinite(short).all(axis=0)
    short, final = short[:, valid], final[valid]
    p = len(final)
    if p < 2:
        return np.full(len(short), np.nan), np.full((len(short), num_bootstrap), np.nan)
    rng = np.random.default_rng(seed)
    counts = rng.multinomial(p, np.full(p, 1 / p), size=num_bootstrap).astype(np.float64)
    counts = np.concatenate([np.ones((1, p)), counts])
    a, b = np.stack([signs(values) for values in short]), signs(final)
    pairs = form(np.abs(a), counts) * form(np.abs(b), counts)
    agree = form(a * b, counts)
    taus = np.where(pairs > 0, agree / np.sqrt(np.maximum(pairs, 1)), np.nan)
    return taus[:, 0], taus[:, 1:]


def _json(values: Sequence[float] | np.ndarray) -> list[float | None]:
    return [float(v) if math.isfinite(v) else None for v in values]
