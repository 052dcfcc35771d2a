"""Asks for proposals while trials are still running: these count as told, with an imputed outcome.

The state of a searcher is data and ``tell`` is pure, so the pending trials are told to a copy that is thrown away after
the ask. No searcher needs to know about pending trials, and none proposes them again. The outcome of a pending trial is
what the searcher predicted for it. Without a prediction it is the mean of what was told (the constant liar with the
mean; Ginsbourger et al. 2010, "Kriging is well-suited to parallelize optimization").
"""

from typing import Any

import jax.numpy as jnp
import numpy as np

from autorank.base.typing import Array, Float, Key
from autorank.searchers.base import Ask, History, Proposal, Tell, known


def impute(history: History, predicted: Float[Array | np.ndarray, "n 2"]) -> Float[Array, "n 2"]:
    """Predictions with each NaN replaced by the mean of the finished trials, or by 0 if none has finished.

    Examples:
        >>> history = History(jnp.zeros((2, 1), int), jnp.array([[2.0, 0.5], [4.0, 0.5]]), jnp.array(2))
        >>> impute(history, np.array([[1.0, np.nan]])).tolist()
        [[1.0, 0.5]]
    """
    usable = (known(history) & jnp.isfinite(history.metrics[:, 0]))[:, None]
    usable = usable & jnp.isfinite(history.metrics)
    total = jnp.sum(jnp.where(usable, history.metrics, 0.0), axis=0)
    mean = total / jnp.maximum(jnp.sum(usable, axis=0), 1)
    predicted = jnp.asarray(predicted, jnp.float32)
    return jnp.where(jnp.isfinite(predicted), predicted, mean[None, :])


def ask_with_pending(
    ask: Ask,
    tell: Tell,
    key: Key,
    state: Any,
    configs: np.ndarray,
    predicted: np.ndarray,
) -> Proposal:
    """Asks as if the pending trials had ended as predicted.

    Pending trials are told one at a time, so that any number of them is one compiled program.

    Args:
        ask: the searcher's, jitted or not.
        tell: the same searcher's; its capacity must have room for the pending trials.
        key: key of the ask.
        state: state of the searcher, without the pending trials.
        configs: pending configurations ``[n, k]``.
        predicted: what was predicted for them, ``[n, 2]``; NaN where nothing was.
    """
    outcomes = np.asarray(impute(state.history, np.asarray(predicted, np.float32).reshape(-1, 2)))
    for config, outcome in zip(np.asarray(configs, np.int32), outcomes, strict=True):
        state = tell(state, config[None], outcome[None])
    return ask(key, state)
