"""The search: the order of its stages, each of which is a function of another module.

    seed noise -> pilots -> fidelity -> rounds -> finalists -> confirmation -> held-out test -> summary

Source: arXiv 2311.07870. The ledger is the only state: running the same search again on the same ledger replays what
is there and continues where it ended.
"""

import time
from typing import Any

import numpy as np

from autorank.base.jax_settings import own_settings
from autorank.fidelity.rules import FidelityRule
from autorank.ledger import rungs
from autorank.ledger.ledger import Ledger
from autorank.objectives.base import Objective
from autorank.search.accounts import totals
from autorank.search.baseline import measure_baseline
from autorank.search.budget import Budget
from autorank.search.cap import require_cost
from autorank.search.checks import refuse_finished_by_earlier_version, require_metric
from autorank.search.confirm import confirm
from autorank.search.context import Context
from autorank.search.diagnosis import diagnose
from autorank.search.failure_signs import find_signs, unmeasured
from autorank.search.fidelity_choice import decide_fidelity
from autorank.search.finals import choose_finalists, chosen_models, run_finals
from autorank.search.held_out import prepare_test, run_test
from autorank.search.meter import Meter, OnEvent
from autorank.search.pilots import label_pilots, run_pilots
from autorank.search.rounds import rehearse, run_rounds
from autorank.search.summary import Findings, summarise
from autorank.search.thawed_rounds import run_thawed_rounds
from autorank.searchers.base import Searcher
from autorank.space.space import Space
from autorank.surrogates.predictor import Predictor


@own_settings()
def run(
    objective: Objective,
    space: Space,
    searcher: Searcher,
    ledger: Ledger,
    budget: Budget,
    rule: FidelityRule,
    predictor: Predictor | None,
    on_event: OnEvent,
    first: np.ndarray | None = None,
) -> dict[str, Any]:
    """Runs or resumes a search to its end and returns its summary.

    Args:
        objective: what is minimised.
        space: where; its baseline is the reference of every gain.
        searcher: proposes; asked for ``budget.batch_size`` configurations at a time.
        ledger: opened for this search; all of its state.
        budget: lengths of the stages, seed, metric.
        rule: how much of the log a trial sees and what its label is.
        predictor: is diagnosed at the end; None skips it.
        on_event: called after every trial.
        first: configurations ``[n, k]`` of earlier searches that are tried first; the searcher knows them too.

    Raises:
        SearchStopped: the metric cannot be computed (before anything is trained), the baseline fails, or most
            trials do.
    """
    require_metric(objective, budget.metric, rule.tail, rule.rungs)
    require_cost(objective, budget)
    started = time.perf_counter()
    meter = Meter(ledger, budget, objective, on_event)
    context = Context(objective, space, ledger, budget, meter.tick, first)
    refuse_finished_by_earlier_version(ledger, budget.seed)
    baseline = measure_baseline(context, rule.tail)
    rehearse(context, searcher, baseline)
    pilots = run_pilots(context, baseline)
    fidelity, record = decide_fidelity(ledger, rule, pilots.gains, baseline.where)
    meter.expect(fidelity)
    labelled_pilots = label_pilots(context, baseline, pilots, fidelity)
    rounds = run_rounds if fidelity.budget is None else run_thawed_rounds
    climbs, believed = rounds(context, searcher, baseline, labelled_pilots, fidelity)
    diagnosis = diagnose(context, predictor, rungs.first_rung(climbs), len(pilots.trials))
    labelled = rungs.top_rung(climbs)
    finalists = choose_finalists(context, labelled, baseline.noise_percent, believed)
    prepare_test(context, finalists)
    finals = run_finals(context, finalists, baseline)
    confirmed = confirm(context, finals, baseline)
    chosen = chosen_models(space.baseline, finals, confirmed.roles)
    test = run_test(context, chosen, confirmed.seeds, finals if budget.test_finalists else None)
    signs = unmeasured(objective.counts)
    signs += find_signs(labelled, ledger.records("policy"), diagnosis)
    found = Findings(
        baseline, fidelity, record, labelled, diagnosis, finals, confirmed, chosen, test, signs
    )
    summary = summarise(context, found)
    # Earlier sessions of a resumed run count too.
    spent = [*ledger.records("session"), {"seconds": time.perf_counter() - started}]
    ledger.record("session", str(len(spent) - 1), spent[-1] | objective.stats()._asdict())
    return summary | totals(context)
