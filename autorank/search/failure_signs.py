"""Signs that the method failed: found in a finished search and put into words, with advice.

They are our own reading of what goes wrong with the predictor and the policy of arXiv 2311.07870.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from autorank.base.measurable import Counts
from autorank.base.metrics import kendall_tau_b
from autorank.ledger.trial import Trial

# The predictor overfits if its held-out tau-b is below the floor and the training one is higher by the gap.
OVERFIT_GAP, OVERFIT_FLOOR = 0.4, 0.3
# A policy has collapsed below this share of a uniform policy's entropy, or of new ones among its samples.
COLLAPSE_ENTROPY, COLLAPSE_DISTINCT = 0.05, 0.005
# A larger share of failed trials is a sign.
DIVERGED_SHARE = 0.2
# Proposals in the later rounds below which their order says nothing.
MIN_PAIRS = 10


class FailureSign(NamedTuple):
    """One sign of failure, what was seen, and what to try."""

    signature: str
    message: str
    advice: str


def find_signs(
    trials: Sequence[Trial], policies: Sequence[Mapping[str, Any]], diagnosis: Mapping[str, Any]
) -> list[FailureSign]:
    """All signs that the records show, worst first."""
    found = [
        diverged(trials),
        predictor_overfit(diagnosis),
        correlation_breakdown(diagnosis),
        policy_collapse(policies),
    ]
    return [sign for sign in found if sign]


def unmeasured(counts: Sequence[Counts]) -> list[FailureSign]:
    """Metrics that cannot be computed on a part of the log, for lack of one class."""
    return [
        FailureSign(
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


def diverged(trials: Sequence[Trial]) -> FailureSign | None:
    """Too many trials fail."""
    failed = [t for t in trials if t.status == "failed"]
    if not trials or len(failed) / len(trials) <= DIVERGED_SHARE:
        return None
    return FailureSign(
        "diverged trials",
        f"{len(failed)} of {len(trials)} trials failed; the last: {failed[-1].reason}",
        "lower the upper end of training.dense_rate or training.init_scale in the space",
    )


def predictor_overfit(diagnosis: Mapping[str, Any]) -> FailureSign | None:
    """The predictor orders its training trials well and held-out ones badly."""
    train, held_out = diagnosis.get("train_tau"), diagnosis.get("heldout_tau")
    if (
        train is None
        or held_out is None
        or held_out >= OVERFIT_FLOOR
        or train - held_out < OVERFIT_GAP
    ):
        return None
    return FailureSign(
        "predictor overfit",
        f"the predictor orders its training trials with tau-b {train:.2f} but held-out ones with {held_out:.2f}",
        "use more pilots, fewer predictor.steps or more predictor.members; a smaller space also helps",
    )


def correlation_breakdown(diagnosis: Mapping[str, Any]) -> FailureSign | None:
    """On the later proposals the predicted order is not the order that training gave."""
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
    return FailureSign(
        "predicted and true order decorrelate",
        f"mean tau-b {np.mean(taus):.2f} within the later rounds' proposals",
        "the policy has left the trained range: raise searcher.num_exploratory or lower searcher.steps",
    )


def policy_collapse(policies: Sequence[Mapping[str, Any]]) -> FailureSign | None:
    """The entropy is near zero after a tenth of the steps, or few proposals are distinct."""
    for policy in policies:
        if seen := collapse_of(policy):
            return FailureSign(
                "policy collapse",
                f"round {policy.get('round')}: {seen}",
                "use searcher.entropy_coef=1e-2 or a lower searcher.rate",
            )
    return None


def collapse_of(policy: Mapping[str, Any]) -> str:
    """How the policy of one round collapsed; empty if it did not."""
    # [alphas, policies, points]; 1 is uniform.
    entropy = np.array(policy.get("entropy", []), float)
    if entropy.ndim == 3 and entropy.shape[-1] >= 10:
        early = entropy[..., entropy.shape[-1] // 10]
        if np.nanmin(early, initial=np.inf) < COLLAPSE_ENTROPY:
            return f"the policy's entropy fell to {100 * np.nanmin(early):.1f}% of uniform within a tenth of its steps"
    distinct = np.array(policy.get("distinct", []), float)
    if distinct.size and np.nanmin(distinct, initial=np.inf) < COLLAPSE_DISTINCT:
        return f"only {100 * np.nanmin(distinct):.2f}% of the sampled configurations were new"
    return ""
