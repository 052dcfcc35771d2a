"""The rounds: ask the searcher, train what it proposes up the rungs, tell it the labels."""

import math
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import numpy as np

from autorank.base.ahead import Ahead
from autorank.base.programs import compiler_options
from autorank.fidelity.fidelity import Fidelity
from autorank.ledger.errors import LedgerMismatch
from autorank.ledger.rungs import SEARCHED, Climb, climb
from autorank.ledger.trial import Trial
from autorank.search.baseline import Baseline
from autorank.search.cap import refuse_dear
from autorank.search.checks import check_failures
from autorank.search.context import POLICY_KEY, Context
from autorank.search.evaluation import (
    Batch,
    Proposals,
    Propose,
    configs_of,
    evaluate,
    label_of,
    told_outcomes,
)
from autorank.searchers.base import Proposal, Searcher


class Searched(NamedTuple):
    """The searched trials."""

    climbs: list[Climb]  # with their labels, pilots first
    # What the searcher believes the labels to be without luck, by the trial's id; None with several rungs: it knows
    # those of the first one only.
    believed: dict[int, float] | None


class Programs(NamedTuple):
    """The functions of a searcher that are compiled."""

    ask: Any
    tell: Any
    judge: Any


@lru_cache(maxsize=2)
def programs_of(searcher: Searcher) -> Programs:
    """One set for each searcher, so that what a rehearsal has compiled is there for the search."""
    options = compiler_options()
    functions = searcher.ask, searcher.tell, searcher.judge
    return Programs(*(jax.jit(function, compiler_options=options) for function in functions))


class SearcherInUse:
    """A searcher with its state in one search and its compiled functions.

    The baseline is the first that it is told.

    Args:
        context: of the search.
        searcher: in use.
        configs: the baseline, once for each label, as the searcher sees configurations.
        labels: of the baseline.
    """

    def __init__(
        self, context: Context, searcher: Searcher, configs: np.ndarray, labels: Sequence[float]
    ) -> None:
        self._seed, self._programs = context.budget.seed, programs_of(searcher)
        self._state: Any = searcher.init(jax.random.key(self._seed))
        outcomes = np.stack(
            [np.asarray(labels, np.float32), np.zeros(len(labels), np.float32)], axis=1
        )
        self.tell(configs, outcomes)
        self._first = len(labels)

    def ask(self) -> Proposal:
        """The next proposals as NumPy arrays, a function of the seed and of what was told."""
        key = jax.random.fold_in(jax.random.key(self._seed), POLICY_KEY)
        key = jax.random.fold_in(key, int(self._state.history.count))
        return jax.tree.map(np.asarray, self._programs.ask(key, self._state))

    def tell(self, configs: np.ndarray, outcomes: np.ndarray) -> None:
        """Configurations ``[n, k]`` and their outcomes ``[n, 2]``."""
        self._state = self._programs.tell(self._state, configs, outcomes)

    def judge(self) -> np.ndarray:
        """What is believed of the trials told so far, without the baseline, ``[n]``; NaN for failed ones."""
        return np.asarray(self._programs.judge(self._state))[
            self._first : int(self._state.history.count)
        ]

    def tell_climbs(self, climbs: Sequence[Climb], share: float, rung: Sequence[int] = ()) -> None:
        """The labels at one share of the log, which all have that did not fail; NaN for a trial that failed anywhere.

        Args:
            climbs: told.
            share: of the log.
            rung: the column that configurations have beside their choices, where the searcher chooses the rung.
        """
        trials = [c.trial for c in climbs]
        labels = [c.labels.get(share, math.nan) for c in climbs]
        configs = np.array([(*t.config, *rung) for t in trials], np.int32)
        self.tell(configs, told_outcomes(trials, labels))


def run_rounds(
    context: Context,
    searcher: Searcher,
    baseline: Baseline,
    pilots: Sequence[Climb],
    fidelity: Fidelity,
) -> Searched:
    """Ask, train, tell until the trials are used up.

    The searcher is told the label at the first rung, which every trial has, pilots included (own choice: one kind of
    label in one model). Of the baseline it is told a gain of 0, or, if it learns from repeated trials, the gain of each
    run over their mean, which shows it the seed noise.

    Raises:
        SearchStopped: most trials of a round fail.
        LedgerMismatch: the ledger's promotions are not those of its labels.
    """
    budget, first = context.budget, fidelity.rungs[0]
    own = baseline_labels(baseline, fidelity, first) if searcher.repeats else [0.0]
    configs = np.array([context.space.baseline] * len(own), np.int32)
    in_use = SearcherInUse(context, searcher, configs, own)
    climbs = list(pilots)
    if climbs:
        in_use.tell_climbs(climbs, first)
    round_index = 0
    while len(climbs) < budget.trials:
        size = min(budget.batch_size, budget.trials - len(climbs))
        done = run_round(context, in_use, baseline, fidelity, round_index, size)
        check_failures([c.trial for c in done], budget.max_diverged)
        in_use.tell_climbs(done, first)
        climbs += done
        round_index += 1
    if len(fidelity.rungs) > 1:
        return Searched(climbs, None)
    believed = {c.trial.id: float(v) for c, v in zip(climbs, in_use.judge(), strict=True)}
    return Searched(climbs, believed)


def rehearse(context: Context, searcher: Searcher, baseline: Baseline) -> None:
    """Begins a `made_up_round` in a thread, where an accelerator trains the pilots meanwhile.

    The first round would take seconds to compile, in which an accelerator would have nothing to train. On CPUs the
    cores train, and nothing would be won.
    """
    if context.budget.num_pilots and jax.default_backend() != "cpu":
        runs = len(baseline.curves) if searcher.repeats else 1
        Ahead(1, {}).start([lambda: made_up_round(context, searcher, runs)])


def made_up_round(context: Context, searcher: Searcher, runs: int) -> None:
    """Asks a searcher for its first round, after pilots that never were; compiles all that this takes.

    Args:
        context: of the search, which does not change.
        searcher: as it is going to be used.
        runs: of the baseline that it is told.
    """
    rng, space, num_pilots = np.random.default_rng(0), context.space, context.budget.num_pilots
    own = np.array([space.baseline] * runs, np.int32)
    in_use = SearcherInUse(context, searcher, own, rng.normal(size=runs).tolist())
    pilots = [rng.integers(len(d.choices), size=num_pilots) for d in space.decisions]
    outcomes = np.stack([rng.normal(size=num_pilots), np.zeros(num_pilots)], axis=1)
    in_use.tell(np.stack(pilots, axis=1).astype(np.int32), outcomes.astype(np.float32))
    in_use.ask()


def baseline_labels(baseline: Baseline, fidelity: Fidelity, share: float) -> list[float]:
    """The label of each of the baseline's runs at a share of the log, over their mean."""
    return [
        float(fidelity.label(baseline.gain_curve(curve), share, where=baseline.where))
        for curve in baseline.curves
    ]


def run_round(
    context: Context,
    searcher: SearcherInUse,
    baseline: Baseline,
    fidelity: Fidelity,
    round_index: int,
    size: int,
) -> list[Climb]:
    """Proposes ``size`` configurations and trains them up the rungs; each with its labels.

    Only what was promoted to a rung competes for the next one.
    """

    def propose() -> Proposals:
        proposal = searcher.ask()
        record_policy(context, round_index, proposal)
        configs, predicted = np.asarray(proposal.configs)[:size], np.asarray(proposal.predicted)
        refuse_dear(context, configs)
        return Proposals(configs, fresh_seeds(context, configs), predicted[:size])

    reached = [
        [trial]
        for trial in evaluate(context, batch_at(0, round_index, propose, baseline, fidelity))
    ]
    alive = reached
    for rung in range(1, len(fidelity.rungs)):
        labels = np.array([label_of(own[-1]) for own in alive])
        alive = [alive[i] for i in fidelity.keep(labels)]
        if not alive:
            break
        before = [own[-1] for own in alive]
        promoted = Proposals(configs_of(before), [t.seed for t in before])
        batch = batch_at(rung, round_index, lambda p=promoted: p, baseline, fidelity)
        rows = evaluate(context, batch)
        check_promotions(context, rows, before, batch.fidelity)
        for own, trial in zip(alive, rows, strict=True):
            own.append(trial)
    return [climb(own) for own in reached]


def record_policy(context: Context, round_index: int, proposal: Proposal) -> None:
    """Keeps in the ledger what the searcher says of its proposals."""
    info = {name: np.asarray(value).tolist() for name, value in proposal.info.items()}
    context.ledger.record("policy", str(round_index), {"round": round_index} | info)


def fresh_seeds(context: Context, configs: np.ndarray) -> list[int]:
    """Seeds with which configurations ``[n, k]`` have not been trained: the search's own, then after the baseline's.

    Another run of a configuration with the same seed would tell nothing.
    """
    budget = context.budget
    earlier = (t for t in context.ledger.trials() if t.stage in SEARCHED and t.rung == 0)
    runs = Counter(tuple(t.config) for t in earlier)
    seeds = []
    for config in map(tuple, configs.tolist()):
        seeds.append(budget.seed + (budget.noise_seeds + runs[config] if runs[config] else 0))
        runs[config] += 1
    return seeds


def batch_at(
    rung: int, round_index: int, propose: Propose, baseline: Baseline, fidelity: Fidelity
) -> Batch:
    """One batch of a round: its proposals at the first rung, promotions above."""
    share = fidelity.rungs[rung]

    def label(curve: np.ndarray) -> float:
        return float(fidelity.label(baseline.gain_curve(curve), share, where=baseline.where))

    stage = "promotion" if rung else "round"
    return Batch(stage, round_index, propose, label, share, rung, baseline.flops)


def check_promotions(
    context: Context, rows: Sequence[Trial], before: Sequence[Trial], share: float
) -> None:
    """Checks that the ledger's promotions to a share of the log are those that the labels below ask for.

    Raises:
        LedgerMismatch: they are not.
    """
    if [(t.config, t.seed) for t in rows] != [(t.config, t.seed) for t in before]:
        raise LedgerMismatch(
            f"{context.ledger.path}: its promotions to {share:g} of the log are not the best of the rung below. "
            f"Give this run another name, or move the folder {context.ledger.path.parent} away"
        )
