"""Asking while trials are still running: they count as told, with an imputed outcome.

The state of a searcher is data and ``tell`` is pure, so the pending trials are told to a copy that
is thrown away after the ask: no searcher needs to know of them, and none proposes them again. A
pending trial's outcome is the one that the searcher predicted when it proposed it; without a
prediction it is the mean of what was told (the constant liar with the mean, Ginsbourger et al.
2010, "Kriging is well-suited to parallelize optimization").
"""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from autorank.base.typing import Array, Float, Key
from autorank.searchers.base import History, Proposal, known


def impute(history: History, predicted: Float[Array | np.ndarray, "n 2"]) -> Float[Array, "n 2"]:
    """Predictions with NaN replaced by the mean of the finished trials; 0 where none has finished."""
    usable = (known(history) & jnp.isfinite(history.metrics[:, 0]))[:, None]
    usable = usable & jnp.isfinite(history.metrics)
    total = jnp.sum(jnp.where(usable, history.metrics, 0.0), axis=0)
    mean = total / jnp.maximum(jnp.sum(usable, axis=0), 1)
    predicted = jnp.asarray(predicted, jnp.float32)
    return jnp.where(jnp.isfinite(predicted), predicted, mean[None, :])


def ask_with_pending(
    ask: Callable[[Key, Any], Proposal],
    tell: Callable[[Any, Any, Any], Any],
    key: Key,
    state: Any,
    configs: np.ndarray,
    predicted: np.ndarray,
) -> Proposal:
    """``ask(key, state)`` as if the pending ``configs [n, k]`` had ended as predicted ``[n, 2]``.

    ``ask`` and ``tell`` are a searcher's, jitted or not; rows are told one at a time, so that any number of them is one
    program. The searcher's capacity must have room for them.
    """
    outcomes = np.asarray(impute(state.history, np.asarray(predicted, np.float32).reshape(-1, 2)))
    for config, outcome in zip(np.asarray(configs, np.int32), outcomes, strict=True):
        state = tell(state, config[None], outcome[None])
    return ask(key, state)
