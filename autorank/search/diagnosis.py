"""How good the predictor was, on held-out trials and on its own proposals."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from autorank.base.metrics import kendall_tau_b
from autorank.ledger.trial import Trial
from autorank.search.context import DIAGNOSE_KEY, Context
from autorank.search.evaluation import configs_of, label_of, told_outcomes
from autorank.surrogates.held_out import held_out_tau
from autorank.surrogates.measures import defined
from autorank.surrogates.predictor import Predictor

MIN_LABELS = 8  # with fewer, nothing can be held out


def diagnose(
    context: Context, predictor: Predictor | None, trials: Sequence[Trial], num_pilots: int
) -> dict[str, Any]:
    """Tau-b of the predictor on training and held-out trials, and predicted against true labels by round.

    Computed once for a run; the ledger keeps it.

    Args:
        context: the search.
        predictor: None leaves its tau-b empty.
        trials: what the searcher was told, with labels at one rung; pilots first.
        num_pilots: how many of them are pilots.
    """
    known = context.ledger.records("diagnosis")
    if known:
        return known[0]
    labels = [label_of(t) for t in trials]
    result: dict[str, Any] = {"heldout_tau": None, "train_tau": None, "rounds": []}
    if predictor is not None and np.isfinite(labels).sum() >= MIN_LABELS:
        key = jax.random.fold_in(jax.random.key(context.budget.seed), DIAGNOSE_KEY)
        features = np.asarray(context.space.features(jnp.asarray(configs_of(trials))))
        result |= held_out_tau(predictor, key, features, told_outcomes(trials, labels))
    proposed = trials[num_pilots:]
    for round_index in sorted({t.round for t in proposed}):
        pairs = predicted_and_true([t for t in proposed if t.round == round_index])
        if pairs:
            predicted, true = zip(*pairs, strict=True)
            tau = kendall_tau_b(np.array(predicted), np.array(true)) if len(pairs) > 2 else math.nan
            result["rounds"].append(
                {"round": round_index, "predicted": predicted, "true": true, "tau": tau}
            )
    context.ledger.record("diagnosis", "predictor", result)
    return context.ledger.records("diagnosis")[0]


def predictor_quality(diagnosis: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The measures of a diagnosis: of held-out trials, of training trials, and of the proposals before their training.

    What is not known is left out: only an ensemble is fitted anew without some trials, and random proposals have no
    prediction. Proposals were selected for a low prediction, so their order is harder to tell than that of held-out
    trials.

    Returns:
        ``heldout``, ``training``, ``proposals``, each a dict of measures by name, with ``trials``, how many there are.
    """
    rounds = [(r["predicted"], r["true"]) for r in diagnosis.get("rounds") or []]
    proposals = [np.concatenate(side) for side in zip(*rounds, strict=True)] or [[], []]
    pairs = {
        "heldout": (diagnosis.get("predicted") or [], diagnosis.get("true") or []),
        "proposals": proposals,
    }
    found = {name: defined(*pair) for name, pair in pairs.items()}
    known = {
        name: sum(p is not None and t is not None for p, t in zip(*pairs[name], strict=True))
        for name in pairs
    }
    quality = {name: {"trials": known[name]} | values for name, values in found.items() if values}
    if diagnosis.get("train_tau") is not None:
        quality["training"] = {"tau_b": diagnosis["train_tau"]}
    return quality


def predicted_and_true(trials: Sequence[Trial]) -> list[tuple[float, float]]:
    """Predicted quality and label of the trials that have both."""
    return [
        (t.predicted[0], t.quality)
        for t in trials
        if t.predicted and t.predicted[0] is not None and t.quality is not None
    ]
