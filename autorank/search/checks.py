"""When a search is refused or stopped, with what to change."""

import math
from collections.abc import Sequence

import numpy as np

from autorank.base.measurable import of_metric
from autorank.fidelity.curve_label import tail_windows
from autorank.ledger.ledger import Ledger
from autorank.ledger.trial import Trial
from autorank.objectives.base import Objective
from autorank.search.context import SearchStopped


def require_metric(
    objective: Objective, metric: str, tail: float, rungs: Sequence[float] = ()
) -> None:
    """Refuses a search for a metric that no window of the training rows can measure.

    Args:
        objective: what is minimised.
        metric: what is searched for.
        tail: share of the log at the end of a label's rows that it averages.
        rungs: shares of the log that trials see, where the settings fix them.

    Raises:
        SearchStopped: naming the metric and what to write instead.
    """
    if objective.measurable is None:
        return
    num_windows = objective.num_windows
    known = np.flatnonzero(of_metric(objective.measurable, objective.metrics, metric))
    if not known.size:
        raise SearchStopped(
            f"search.metric={metric} cannot be computed: none of the {num_windows} windows of the training rows "
            f"has both a positive and a negative of {'every metric' if metric == 'mean' else metric}. "
            f"{other_metric(objective)}, or fewer and so longer windows (training.num_windows below {num_windows})"
        )
    for rung in rungs[:1]:
        if tail_windows(num_windows, rung, tail)[1] <= known[0]:
            least = math.ceil(100 * (known[0] + 1) / num_windows) / 100
            raise SearchStopped(
                f"at {rung:g} of the log search.metric={metric} cannot be computed: its first window with both "
                f"a positive and a negative is number {known[0] + 1} of {num_windows}. Write a fidelity.fraction "
                f"(halving: first of fidelity.rungs) of at least {least:g}, or another search.metric"
            )


def other_metric(objective: Objective) -> str:
    """What to search for instead."""
    assert objective.measurable is not None
    known = np.atleast_1d(objective.measurable.any(axis=0))
    others = [m for m, is_known in zip(objective.metrics, known, strict=True) if is_known]
    return f"Write search.metric={others[0]}" if others else "No metric can be; use another log"


def check_failures(trials: Sequence[Trial], limit: float) -> None:
    """Stops a search whose trials mostly fail: more of the same would waste time.

    Raises:
        SearchStopped: a larger share than ``limit`` failed.
    """
    failed = [t for t in trials if t.status == "failed"]
    if trials and len(failed) / len(trials) > limit:
        raise SearchStopped(
            f"{len(failed)} of {len(trials)} {trials[0].stage} trials failed, more than "
            f"search.max_diverged={limit}; the last reason: {failed[-1].reason}. Narrow the space (learning rates, "
            f"init scale, sizes) or raise search.max_diverged"
        )


def refuse_finished_by_earlier_version(ledger: Ledger, seed: int) -> None:
    """Refuses to continue a run whose verdict was made with the trials' own seeds.

    Raises:
        SearchStopped: with what to do.
    """
    ended = ledger.records("test") or ledger.records("session")
    if not ended or ledger.records("confirmation"):
        return
    raise SearchStopped(
        f"{ledger.path} was finished by an earlier version of autorank, which judged finalists by seeds that include "
        f"the trials' own ({seed}). Its report stays as it is and can be written again with "
        f"python -m experiments.report run={ledger.path.parent}. For a verdict on fresh seeds search again: "
        f"fresh=true moves this run aside, or give the new one another name"
    )
