"""The paper's ensemble as a model of configurations."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax.numpy as jnp

from autorank.base.typing import Array, Int, Key
from autorank.space.space import Space
from autorank.surrogates.base import Data, Prediction
from autorank.surrogates.predictor import Predictor


class EnsembleFit(NamedTuple):
    """A fitted predictor, and its first layer applied to the features of each choice."""

    predictor: Any  # what `Predictor.fit` returns
    projected: Any  # what `SumScore.project` returns; None without it


@dataclass(frozen=True)
class EnsembleSurrogate:
    """A predictor over the features of a space: a `Surrogate` in the units of the predictor's scores.

    Examples:
        >>> import jax
        >>> from autorank.space.space import Decision
        >>> from autorank.surrogates.predictor import ensemble
        >>> space = Space((Decision("width", (8, 16, 32)),), (0,))
        >>> surrogate = EnsembleSurrogate(space, ensemble(3, capacity=3, members=2, hidden=(4,), steps=1))
        >>> configs = jnp.array([[0], [1], [2]])
        >>> fitted = surrogate.fit(jax.random.key(0), Data(configs, jnp.zeros((3, 2)), jnp.ones((3, 2), bool)))
        >>> surrogate.predict(fitted, configs).sd.shape
        (3, 2)
    """

    space: Space
    predictor: Predictor

    def fit(self, key: Key, data: Data) -> EnsembleFit:
        """Fits the predictor; the data must have as many rows as its capacity."""
        features = self.space.features(data.configs)
        fitted = self.predictor.fit(key, features, data.metrics, data.where)
        by_sums = self.predictor.by_sums
        if by_sums is None:
            return EnsembleFit(fitted, None)
        return EnsembleFit(fitted, by_sums.project(fitted, jnp.asarray(self.space.feature_rows)))

    def predict(self, fitted: EnsembleFit, configs: Int[Array, "n k"]) -> Prediction:
        """Mean and standard deviation over members."""
        by_sums = self.predictor.by_sums
        if by_sums is None:
            return self.predictor.score(fitted.predictor, self.space.features(configs))
        # Each active decision adds its own columns: the features are the sum of one row of the table for each decision.
        num_rows, k = len(self.space.feature_rows), self.space.num_decisions
        starts = jnp.arange(k, dtype=jnp.int32) * self.space.max_choices
        own = starts[None, :] + jnp.asarray(configs, jnp.int32)
        rows = jnp.where(self.space.active(configs), own, num_rows - 1)
        return by_sums.score(fitted.predictor, fitted.projected, rows)
