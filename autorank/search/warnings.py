"""Failure signatures of the method, found in a finished search and put into words with advice (METHOD 8)."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from autorank.base.measurable import Counts
from autorank.base.metrics import kendall_tau_b
from autorank.ledger.trial import Trial

OVERFIT_GAP, OVERFIT_FLOOR = 0.4, 0.3
COLLAPSE_ENTROPY = 0.05  # of a uniform policy's
COLLAPSE_DISTINCT = 0.005  # new ones among the sampled configurations
DIVERGED_SHARE = 0.2
MIN_PAIRS = 10


class Warning_(NamedTuple):
    """One signature, what was seen, and what to try."""

    signature: str
    message: str
    advice: str


def find_warnings(
    trials: Sequence[Trial], policies: Sequence[Mapping[str, Any]], diagnosis: Mapping[str, Any]
) -> list[Warning_]:
    """All signatures that the records show, worst first."""
    found = [
        diverged(trials),
        predictor_overfit(diagnosis),
        correlation_breakdown(diagnosis),
        policy_collapse(policies),
    ]
    return [warning for warning in found if warning]


def unmeasured(counts: Sequence[Counts]) -> list[Warning_]:
    """Metrics that a part of the log cannot tell, for lack of one class."""
    return [
        Warning_(
            f"no NE of {c.metric} on the {c.part} rows",
            f"{c.positives:,} of the {c.counted:,} {c.part} rows that it is measured on are positive, so it cannot "
            f"be computed there",
            "hold out more rows (a smaller data.train_fraction)"
            if c.part == "held-out"
            else "take a longer log, or model.head=ctr where the conversion is never seen",
        )
        for c in counts
        if not c.known
    ]


def diverged(trials: Sequence[Trial]) -> Warning_ | None:
    """Too many trials fail."""
    failed = [t for t in trials if t.status == "failed"]
    if not trials or len(failed) / len(trials) <= DIVERGED_SHARE:
        return None
    return Warning_(
        "diverged trials",
        f"{len(failed)} of {len(trials)} trials failed; the last: {failed[-1].reason}",
        "lower the upper end of training.dense_rate or training.init_scale in the space",
    )


def predictor_overfit(diagnosis: Mapping[str, Any]) -> Warning_ | None:
    """Training tau high, held-out tau low."""
    train, held_out = diagnosis.get("train_tau"), diagnosis.get("heldout_tau")
    if (
        train is None
        or held_out is None
        or held_out >= OVERFIT_FLOOR
        or train - held_out < OVERFIT_GAP
    ):
        return None
    return Warning_(
        "predictor overfit",
        f"the predictor orders its training trials with tau-b {train:.2f} but held-out ones with {held_out:.2f}",
        "use more pilots, fewer predictor.steps or more predictor.members; a smaller space also helps",
    )


def correlation_breakdown(diagnosis: Mapping[str, Any]) -> Warning_ | None:
    """The order that the predictor promised is not the order that training gave, on its own later proposals."""
    rounds = list(diagnosis.get("rounds", []))
    late = rounds[len(rounds) // 2 :]
    taus, pairs = [], 0
    for entry in late:
        if len(entry["true"]) > 2:
            tau = kendall_tau_b(np.array(entry["predicted"]), np.array(entry["true"]))
            if math.isfinite(tau):
                taus.append(tau)
                pairs += len(entry["true"])
    if pairs < MIN_PAIRS or np.mean(taus) >= 0:
        return None
    return Warning_(
        "predicted and true order decorrelate",
        f"mean tau-b {np.mean(taus):.2f} within the later rounds' proposals",
        "the policy has left the trained range: raise searcher.num_exploratory or lower searcher.steps",
    )


def policy_collapse(policies: Sequence[Mapping[str, Any]]) -> Warning_ | None:
    """Entropy near zero after a tenth of the steps, or few distinct proposals."""
    for policy in policies:
        entropy = np.array(
            policy.get("entropy", []), float
        )  # [alphas, policies, points], 1 = uniform
        if entropy.ndim == 3 and entropy.shape[-1] >= 10:
            early = entropy[..., entropy.shape[-1] // 10]
            if np.nanmin(early, initial=np.inf) < COLLAPSE_ENTROPY:
                return Warning_(
                    "policy collapse",
                    f"round {policy.get('round')}: the policy's entropy fell to {100 * np.nanmin(early):.1f}% of "
                    f"uniform within a tenth of its steps",
                    "use searcher.entropy_coef=1e-2 or a lower searcher.rate",
                )
        distinct = np.array(policy.get("distinct", []), float)
        if distinct.size and np.nanmin(distinct, initial=np.inf) < COLLAPSE_DISTINCT:
            return Warning_(
                "policy collapse",
                f"round {policy.get('round')}: only {100 * np.nanmin(distinct):.2f}% of the sampled configurations "
                f"were new",
                "use searcher.entropy_coef=1e-2 or a lower searcher.rate",
            )
    return None
