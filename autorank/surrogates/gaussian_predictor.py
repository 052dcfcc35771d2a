"""The Gaussian process as a `Predictor`: what the ensemble is fitted to and asked, this one is too.

So a study compares the two on the same features, and `searcher=paper` can be made with either. The searcher
`autorank` has its own way to the same processes, `gaussian_surrogate`.
"""

from dataclasses import dataclass
from typing import Any

from autorank.base.typing import Array, Bool, Float, Int, Key
from autorank.surrogates import gaussian_process as gp
from autorank.surrogates.base import Prediction
from autorank.surrogates.gaussian_surrogate import GaussianFit, GaussianSettings, GaussianSurrogate
from autorank.surrogates.kernel import Columns, feature_columns
from autorank.surrogates.predictor import Predictor, refuse_other_shape


def make_gaussian_predictor(
    settings: GaussianSettings,
    columns: Columns | int,
    capacity: int,
    num_active: float | None = None,
    less: Any = 0.0,
) -> Predictor:
    """A Gaussian process of the quality and one of the cost, behind the interface of the ensemble.

    Scores are in the units of the fit: warped as ``settings.warps`` says (quality) and standardised (cost), lower is
    better, with the standard deviation of the function without noise. Rows outside ``where`` do not count. A failed
    trial counts as ``settings.failures`` says. The key of ``fit`` is not used: every fit has a fixed start.

    Args:
        settings: settings of the fit. Of several warps and starts the first is the one that scores.
        columns: roles of the features' columns: of `kernel.embedding`, or of `kernel.feature_columns` for others, as
            ``feature_columns(space.tables.feature_decision)`` for `Space.features`. A number of features: each is a
            decision of its own.
        capacity: ``n`` of ``fit``; unused rows are masked, so that more rows need no new program.
        num_active: how many decisions of a row are active on average, which the prior of the length scales goes by
            (`kernel.mean_active`); None is all of them.
        less: how much less each decision matters a priori (`gaussian_surrogate.less_of`); 0 is alike.

    Raises:
        ValueError: a capacity below 1; in ``fit``, features of another shape.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> predictor = make_gaussian_predictor(GaussianSettings(warps=("none",)), 1, capacity=4)
        >>> features = jnp.array([[0.0], [0.5], [1.0], [0.0]])
        >>> targets = jnp.array([[1.0, 5.0], [2.0, 4.0], [3.0, 3.0], [0.0, 0.0]])
        >>> where = jnp.array([[True] * 2] * 3 + [[False] * 2])
        >>> fitted = jax.jit(predictor.fit)(jax.random.key(0), features, targets, where)
        >>> predictor.score(fitted, features[:3]).mean.argsort(axis=0).tolist()
        [[0, 2], [1, 1], [2, 0]]
    """
    if capacity < 1:
        raise ValueError(f"capacity={capacity} must be at least 1")
    if isinstance(columns, int):
        columns = feature_columns(range(columns), effects=settings.effects > 0)
    priors = gp.default_priors(
        float(columns.num_decisions) if num_active is None else num_active,
        settings.scale_sd,
        settings.effects if len(columns.effect) else 0.0,
        settings.effect_sd,
        (settings.noise_median, settings.noise_sd),
        less,
    )
    surrogate = GaussianSurrogate(settings, True, _embedded_already, columns, priors)
    made = _Gaussian(surrogate, (capacity, len(columns.owner)))
    return Predictor(made.fit, made.score, capacity)


@dataclass(frozen=True)
class _Gaussian:
    """The functions of a `Predictor`."""

    surrogate: GaussianSurrogate
    shape: tuple[int, int]  # of the features that `fit` takes

    def fit(
        self,
        key: Key,
        features: Float[Array, "n x"],
        targets: Float[Array, "n 2"],
        where: Bool[Array, "n 2"],
    ) -> GaussianFit:
        """`Predictor.fit`."""
        refuse_other_shape(features, self.shape)
        return self.surrogate.fit_features(features, targets, where)

    def score(self, state: Any, features: Float[Array, "n x"]) -> Prediction:
        """`Predictor.score`."""
        return self.surrogate.predict_features(state, features)


def _embedded_already(configs: Int[Array, "n k"]) -> Float[Array, "n x"]:
    raise TypeError("a Gaussian predictor takes features, not configurations")
