"""What searchers ask of a model that stands in for training."""

from typing import Any, NamedTuple, Protocol, runtime_checkable

from autorank.base.typing import Array, Key


class Data(NamedTuple):
    """Trials to learn from, in a buffer of ``n`` rows."""

    configs: Array  # int32 [n, k]
    metrics: Array  # float32 [n, 2]: quality and cost, lower is better; a quality of NaN is a failed trial
    where: Array  # bool [n, 2]: False where the row is unused, or its cost is unknown


class Prediction(NamedTuple):
    """Predicted quality and cost of ``n`` configurations, in the units of the surrogate; lower is better."""

    mean: Array  # float32 [n, 2]
    sd: Array  # float32 [n, 2]: standard deviation of the model's uncertainty, without the noise of a trial


@runtime_checkable
class Surrogate(Protocol):
    """A model of the two metrics of a trial; the caller jits both functions.

    Its units are its own: a prediction is an increasing function of the metric, on a scale that changes from fit to
    fit.
    """

    def fit(self, key: Key, data: Data, /) -> Any:
        """A pytree of arrays that `predict` takes; a function of the key and the data alone."""
        ...

    def predict(self, fitted: Any, configs: Array, /) -> Prediction:
        """Mean and standard deviation at configurations int ``[n, k]``."""
        ...
