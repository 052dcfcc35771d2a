"""Rounds in which the searcher decides which running trials go on, and which new ones start (`fidelity=freeze_thaw`).

What a round is to do is a record of the ledger before anything of it is trained, so that a search that was stopped does
the same again without asking.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from autorank.fidelity.fidelity import Fidelity
from autorank.ledger.rungs import Climb, climb
from autorank.ledger.trial import Trial
from autorank.search.baseline import Baseline
from autorank.search.cap import refuse_dear
from autorank.search.checks import check_failures
from autorank.search.context import Context
from autorank.search.evaluation import Proposals, evaluate, label_of, told_outcomes
from autorank.search.rounds import (
    Searched,
    SearcherInUse,
    baseline_labels,
    batch_at,
    fresh_seeds,
    record_policy,
)
from autorank.searchers.base import Searcher

PLAN = "thaw"  # kind of the record {"configs": [[choices, rung], ...], "predicted": [[label, cost], ...]}


class Step(NamedTuple):
    """One proposal."""

    config: tuple[int, ...]
    rung: int
    predicted: tuple[float, ...]  # label at the last rung, cost; NaN = no prediction


def run_thawed_rounds(
    context: Context,
    searcher: Searcher,
    baseline: Baseline,
    pilots: Sequence[Climb],
    fidelity: Fidelity,
) -> Searched:
    """Ask, train, tell until the fidelity's budget is spent, or all trials have begun and none goes on.

    The searcher is told the label at each rung that a trial reaches: NaN at the one where it fails. Pilots and the
    baseline's runs have labels at all rungs.

    Raises:
        SearchStopped: most trials of a round fail.
    """
    in_use, told = _introduced(context, searcher, baseline, pilots, fidelity)
    runs: dict[tuple[int, ...], list[Trial]] = {}
    plans = context.ledger.records(PLAN)
    round_index, spent = 0, 0.0
    while True:
        if round_index < len(plans):
            steps = _restored(plans[round_index])
        else:
            begin = context.budget.trials - len(pilots) - len(runs)
            steps = _asked(context, in_use, fidelity, round_index, begin, spent)
        if not steps:
            break
        spent += sum(_cost(fidelity, step.rung) for step in steps)
        done = _trained(context, baseline, fidelity, round_index, steps, runs)
        check_failures(done, context.budget.max_diverged)
        configs = [(*t.config, fidelity.rungs.index(t.fidelity)) for t in done]
        outcomes = told_outcomes(done, [label_of(t) for t in done])
        in_use.tell(np.array(configs, np.int32), outcomes)
        told += [t.config for t in done]
        round_index += 1
    climbs = [*pilots, *(climb(rows) for rows in runs.values())]
    belief = dict(zip(told, in_use.judge(), strict=True))  # of the last row of each
    believed = {c.trial.id: float(belief[c.trial.config]) for c in climbs}
    return Searched(climbs, believed)


def _introduced(
    context: Context,
    searcher: Searcher,
    baseline: Baseline,
    pilots: Sequence[Climb],
    fidelity: Fidelity,
) -> tuple[SearcherInUse, list[tuple[int, ...]]]:
    """The searcher, told of the baseline and the pilots, and the pilots' configurations, once for each label."""
    own = [
        (label, rung)
        for rung, share in enumerate(fidelity.rungs)
        for label in baseline_labels(baseline, fidelity, share)
    ]
    rows = np.array([(*context.space.baseline, rung) for _, rung in own], np.int32)
    in_use = SearcherInUse(context, searcher, rows, [label for label, _ in own])
    for rung, share in enumerate(fidelity.rungs if pilots else ()):
        in_use.tell_climbs(pilots, share, [rung])
    return in_use, [c.trial.config for c in pilots] * len(fidelity.rungs)


def _asked(
    context: Context,
    searcher: SearcherInUse,
    fidelity: Fidelity,
    round_index: int,
    begin: int,
    spent: float,
) -> list[Step]:
    """What the searcher proposes, as far as budget and trials allow; recorded.

    Args:
        context: of the search.
        searcher: asked.
        fidelity: with its rungs and budget.
        round_index: of the round.
        begin: how many configurations may still begin.
        spent: of the budget so far, in whole runs.
    """
    assert fidelity.budget is not None
    proposal = searcher.ask()
    steps: list[Step] = []
    repeats = np.asarray(proposal.info["repeat"])
    rows = zip(proposal.configs, proposal.predicted, repeats, strict=True)
    for config, predicted, repeat in rows:
        rung = int(config[-1])
        cost = _cost(fidelity, rung)
        if repeat or (rung == 0 and begin == 0) or spent + cost > fidelity.budget + 1e-9:
            continue
        begin, spent = begin - (rung == 0), spent + cost
        steps.append(Step(tuple(map(int, config[:-1])), rung, tuple(map(float, predicted))))
    if steps:
        refuse_dear(context, np.array([s.config for s in steps], np.int32))
        record_policy(context, round_index, proposal)
        context.ledger.record(PLAN, str(round_index), _as_record(steps))
    return steps


def _as_record(steps: Sequence[Step]) -> dict[str, Any]:
    return {
        "configs": [[*step.config, step.rung] for step in steps],
        "predicted": [[v if math.isfinite(v) else None for v in s.predicted] for s in steps],
    }


def _restored(record: dict[str, Any]) -> list[Step]:
    return [
        Step(tuple(config[:-1]), config[-1], tuple(math.nan if v is None else v for v in values))
        for config, values in zip(record["configs"], record["predicted"], strict=True)
    ]


def _trained(
    context: Context,
    baseline: Baseline,
    fidelity: Fidelity,
    round_index: int,
    steps: Sequence[Step],
    runs: dict[tuple[int, ...], list[Trial]],
) -> list[Trial]:
    """The rows of a round, lowest rung first; each is added to its run."""
    done: list[Trial] = []
    for rung in range(len(fidelity.rungs)):
        own = [step for step in steps if step.rung == rung]
        if not own:
            continue
        configs = np.array([step.config for step in own], np.int32)

        def propose(own: Any = own, configs: np.ndarray = configs, rung: int = rung) -> Proposals:
            going = [runs[step.config][0].seed for step in own] if rung else None
            seeds = fresh_seeds(context, configs) if going is None else going
            return Proposals(configs, seeds, np.array([step.predicted for step in own]))

        rows = evaluate(context, batch_at(rung, round_index, propose, baseline, fidelity))
        for trial in rows:
            runs.setdefault(trial.config, []).append(trial)
        done += rows
    return done


def _cost(fidelity: Fidelity, rung: int) -> float:
    """Of a step to a rung from the one below, in whole runs."""
    return fidelity.rungs[rung] - (fidelity.rungs[rung - 1] if rung else 0.0)
