"""Searching over anyone's jobs: what to run next as a function of the ledger, synchronous or not.

A sweep is a sequence of *asks*. Before each, the trials that have ended since the last one are
told, in the order of their numbers; those still running are pending (`autorank.pending`). The
ledger keeps for every ask which trials were told and which were pending, so that each proposal is a
function of seed and ledger: an interrupted sweep continues as it would have, and `replay` checks
every proposal of a finished one. Where asks happen only between rounds, the order in which results
arrive within a round does not matter at all.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from autorank.ledger import Ledger, Trial
from autorank.pending import ask_with_pending
from autorank.searchers.base import Searcher
from autorank.space import Space
from autorank.training.programs import compiler_options

STAGE = "sweep"
LEAST_EVIDENCE = 10  # trials that a failure rate is taken over, at least


class SweepPlan(NamedTuple):
    """What may be proposed and how results are read."""

    trials: int
    seed: int = 0
    maximize: bool = False
    max_failure_rate: float = 0.5
    alpha: float = (
        0.0  # weight of log(cost) in what is told, for searchers that do not weigh it themselves
    )
    cost_cap: float | None = None  # times the baseline's cost; dearer trials rank below all others
    baseline_first: bool = True


class Result(NamedTuple):
    """What a job gave: a number and maybe a cost, or the reason why not."""

    quality: float | None
    cost: float | None
    failed: str = ""
    details: dict[str, Any] | None = None


class SweepStopped(RuntimeError):
    """Too many trials fail; the message says what to do."""


def read_result(value: Any) -> Result:
    """A job's return value as a result: a number, or a pair (quality, cost) with cost above 0.

    Anything else (text, None, NaN, an infinity, three numbers) is a failed trial whose reason says what to return.
    """
    advice = "return a finite number, or a pair (quality, cost) with cost > 0"
    parts = list(value) if isinstance(value, tuple | list) else [value]
    if isinstance(value, np.ndarray) and value.ndim == 1:
        parts = value.tolist()
    numbers: list[float] = []
    for part in parts:
        part = part.item() if hasattr(part, "item") and getattr(part, "size", 2) == 1 else part
        if isinstance(part, bool) or not isinstance(part, int | float):
            return Result(None, None, f"returned {_short(value)}; {advice}")
        try:
            numbers.append(float(part))
        except OverflowError:
            numbers.append(math.inf)
    if not 1 <= len(numbers) <= 2:
        return Result(None, None, f"returned {_short(value)}; {advice}")
    if not all(math.isfinite(n) for n in numbers):
        return Result(None, None, f"returned {_short(value)}, which is not finite")
    if len(numbers) == 2 and numbers[1] <= 0:
        return Result(None, None, f"returned {_short(value)}: the cost must be above 0")
    return Result(numbers[0], numbers[1] if len(numbers) == 2 else None)


class Sweep:
    """Proposals and results of one ledger; all state is there.

    Args:
        space: its baseline is proposed first.
        searcher: asked through the ledger; None runs through every configuration of the space in order.
        ledger: open for writing.
        plan: lengths and readings.
    """

    def __init__(
        self, space: Space, searcher: Searcher | None, ledger: Ledger, plan: SweepPlan
    ) -> None:
        self.space, self.ledger, self.plan = space, ledger, plan
        self._searcher = searcher
        self._trials = {t.id: t for t in ledger.trials(STAGE)}
        self._asks: list[dict[str, Any]] = ledger.records("ask")
        if searcher is not None:
            options = compiler_options()
            self._ask = jax.jit(searcher.ask, compiler_options=options)
            self._tell = jax.jit(searcher.tell, compiler_options=options)

    # --- reading ---------------------------------------------------------------------------------

    def trials(self) -> list[Trial]:
        """All rows, in the order of proposal."""
        return [self._trials[i] for i in sorted(self._trials)]

    def waiting(self) -> list[Trial]:
        """Proposed and without a result: running, or left by an interrupted driver."""
        return [t for t in self.trials() if t.status == "proposed"]

    def num_left(self) -> int:
        """Proposals still to be made."""
        return max(0, self._total() - len(self._trials))

    def _total(self) -> int:
        if self._searcher is None:
            return min(self.plan.trials, self.space.cardinality())
        return self.plan.trials

    def best(self) -> Trial | None:
        """The finished trial of best quality, the first among equals, within the cap if there is one."""
        finished = [t for t in self.trials() if t.status == "finished"]
        if self.plan.cost_cap is not None:
            reference = self._reference_cost(finished)
            finished = [t for t in finished if (t.cost or 0) <= self.plan.cost_cap * reference]
        return min(finished, key=lambda t: (self._signed(t), t.id), default=None)

    def front(self) -> list[Trial]:
        """Finished trials that no other beats on quality and cost together, cheapest first."""
        kept: list[Trial] = []
        finished = [t for t in self.trials() if t.status == "finished"]
        for trial in sorted(finished, key=lambda t: (t.cost or 0.0, self._signed(t), t.id)):
            if not kept or self._signed(trial) < self._signed(kept[-1]):
                kept.append(trial)
        return kept

    # --- writing ---------------------------------------------------------------------------------

    def propose(self, size: int) -> list[Trial]:
        """Writes up to ``size`` new proposals and gives their rows.

        Raises:
            LedgerFull: no room; nothing was proposed.
        """
        rounds = {t.round for t in self._trials.values()}
        number = len(rounds)
        if number < len(self._asks):  # stopped between the ask's record and its proposals
            record = self._asks[number]
        else:
            size = min(size, self.num_left())
            if size < 1:
                return []
            told = {i for ask in self._asks for i in ask["told"]}
            record = {
                "told": [
                    t.id for t in self.trials() if t.status != "proposed" and t.id not in told
                ],
                "pending": [t.id for t in self.waiting()],
                "size": size,
            }
            self.ledger.record("ask", str(number), record)
            self._asks.append(record)
        configs, predicted = self._proposals(number)
        rows = self.ledger.propose(
            STAGE, number, configs, [self.plan.seed] * len(configs), 1.0, predicted
        )
        self._trials |= {t.id: t for t in rows}
        return rows

    def finish(self, trial: Trial, result: Result) -> Trial:
        """Writes a result.

        Raises:
            SweepStopped: the failure rate is beyond the plan's.
            LedgerFull: no room; the ledger is as before.
        """
        outcome = (result.details or {}) | {"failed": result.failed}
        row = self.ledger.finish(trial.id, outcome, result.quality, result.cost)
        self._trials[trial.id] = row
        self.check_failures()
        return row

    def check_failures(self) -> None:
        """Stops when the share of failed trials, taken over at least `LEAST_EVIDENCE`, is too large."""
        ended = [t for t in self.trials() if t.status != "proposed"]
        failed = [t for t in ended if t.status == "failed"]
        limit = self.plan.max_failure_rate
        if len(failed) > limit * max(len(ended), min(LEAST_EVIDENCE, self._total())):
            raise SweepStopped(
                f"{len(failed)} of {len(ended)} trials failed, more than max_failure_rate={limit}; the last "
                f"one because: {failed[-1].reason}. Mend the job or narrow the space and start again in a new "
                f"folder, or raise max_failure_rate and start the same command again"
            )

    # --- asking ----------------------------------------------------------------------------------

    def _proposals(self, number: int) -> tuple[np.ndarray, np.ndarray | None]:
        """Configurations ``[n, k]`` and predictions ``[n, 2]`` of an ask, from its record and what is before it."""
        record = self._asks[number]
        size = record["size"]
        before = sum(ask["size"] for ask in self._asks[:number])
        if self._searcher is None:
            return self.space.enumerate(before + size)[before:], None
        baseline = np.array([self.space.baseline], np.int32)
        nothing = np.full((1, 2), np.nan)
        first = number == 0 and self.plan.baseline_first
        if first and size == 1:
            return baseline, nothing
        told = [self._trials[i] for ask in self._asks[: number + 1] for i in ask["told"]]
        pending = [self._trials[i] for i in record["pending"]]
        metrics = self._metrics(told)
        state = self._searcher.init(jax.random.key(self.plan.seed))
        for trial, outcome in zip(told, metrics, strict=True):
            state = self._tell(state, np.array([trial.config], np.int32), outcome[None])
        configs = np.array([t.config for t in pending], np.int32).reshape(-1, baseline.shape[1])
        forecasts = np.array([_forecast(t) for t in pending], np.float64).reshape(-1, 2)
        if first:
            configs, forecasts = np.concatenate([configs, baseline]), np.zeros((1, 2))
        key = jax.random.fold_in(jax.random.key(self.plan.seed), number)
        proposal = jax.tree.map(
            np.asarray, ask_with_pending(self._ask, self._tell, key, state, configs, forecasts)
        )
        wanted = size - 1 if first else size
        rows = rotated(len(proposal.configs), before, wanted, proposal.info["repeat"])
        found, predicted = proposal.configs[rows], proposal.predicted[rows]
        if first:
            found, predicted = (
                np.concatenate([baseline, found]),
                np.concatenate([nothing, predicted]),
            )
        return found, predicted

    def _metrics(self, trials: Sequence[Trial]) -> np.ndarray:
        """What the searcher is told, float32 ``[n, 2]``: quality in spreads from the reference, log cost ratio.

        Lower is better; NaN quality = failed. Units of quality and cost do not matter.
        """
        finished = [t for t in trials if t.status == "finished"]
        signed = np.array([self._signed(t) for t in finished], np.float64)
        centre = float(np.median(signed)) if len(signed) else 0.0
        # Halved: a difference of two finite numbers may be infinite.
        spread = (
            float(np.subtract(*np.percentile(signed / 2, [75, 25])) * 2) if len(signed) else 0.0
        )
        spread = spread if math.isfinite(spread) and spread > 0 else max(abs(centre), 1.0)
        quality = np.clip((signed / 2 - centre / 2) / (spread / 2), -1e4, 1e4)
        reference = self._reference_cost(finished)
        costs = np.array([math.log((t.cost or reference) / reference) for t in finished])
        if self.plan.cost_cap is not None and len(finished):
            excess = costs - math.log(self.plan.cost_cap)
            inside = quality[excess <= 1e-12]
            worst = inside.max() if len(inside) else 0.0
            quality = np.where(excess > 1e-12, worst + 1.0 + excess, quality)
        if self.plan.alpha:
            quality = (1 - self.plan.alpha) * quality + self.plan.alpha * costs
        rows = dict(zip([t.id for t in finished], zip(quality, costs, strict=True), strict=True))
        usual = (math.nan, float(np.median(costs)) if len(costs) else 0.0)
        return np.array([rows.get(t.id, usual) for t in trials], np.float32).reshape(-1, 2)

    def _signed(self, trial: Trial) -> float:
        assert trial.quality is not None
        return -trial.quality if self.plan.maximize else trial.quality

    def _reference_cost(self, finished: Sequence[Trial]) -> float:
        """The baseline's cost, else that of the first trial that has one."""
        priced = [t for t in finished if t.cost]
        own = [t for t in priced if t.config == tuple(self.space.baseline)]
        return float((own or priced)[0].cost or 1.0) if priced else 1.0


def rotated(n: int, start: int, wanted: int, repeat: np.ndarray) -> list[int]:
    """Which ``wanted`` of an ask's ``n`` proposals to take: from ``start`` on, around, fresh ones first.

    A searcher gives its proposals roles by position (near the best, exploratory, ...); rotating keeps the mixture when
    only a few are taken at a time.
    """
    order = [(start + i) % n for i in range(n)]
    order = [i for i in order if not repeat[i]] + [i for i in order if repeat[i]]
    return order[:wanted]


def replay(space: Space, searcher: Searcher | None, ledger: Ledger, plan: SweepPlan) -> list[str]:
    """Recomputes every proposal of a ledger from what was known when it was made; gives what differs (nothing)."""
    sweep = Sweep(space, searcher, ledger, plan)
    different = []
    for number in range(len(sweep._asks)):
        configs, _ = sweep._proposals(number)
        rows = [t for t in sweep.trials() if t.round == number]
        for trial, config in zip(rows, configs.tolist(), strict=True):
            if list(trial.config) != config:
                different.append(f"trial {trial.id}: {list(trial.config)} is now {config}")
    return different


def _forecast(trial: Trial) -> list[float]:
    predicted = trial.predicted or [None, None]
    return [math.nan if p is None else float(p) for p in predicted]


def _short(value: Any) -> str:
    try:
        text = repr(value)
    except Exception as error:  # a foreign object's own repr may do anything
        text = f"an object whose repr fails ({type(error).__name__})"
    return text if len(text) <= 100 else text[:97] + "..."
