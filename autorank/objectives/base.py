"""What a search can evaluate: the interface of an objective, and the outcome of a trial.

The search knows nothing else about an objective, so a table of results (`table`) or jobs on a cluster (`cluster`) can
stand in for training on data (`training`).
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

from autorank.base.jax_settings import refuse_implicit_transfers
from autorank.base.measurable import Counts
from autorank.base.programs import ProgramStats
from autorank.models.dhen import DhenConfig


class Outcome(NamedTuple):
    """What one evaluation gave; a failed one keeps the windows that it reached."""

    curve: np.ndarray  # window NE [t, q]; NaN where not reached
    ne: tuple[float, ...]  # NE of each metric over all rows, each scored before it was learned from
    flops: float  # forward FLOPs per example, dense part
    num_rows: int  # rows of the log that this run has seen
    seconds: float  # training alone
    compile_seconds: float  # spent on compiling in this call, 0 for a known structure
    failed: str  # "" or the reason
    details: dict[str, Any]


class Predict(Protocol):
    """A jitted model."""

    def __call__(self, params: Any, rows: jax.Array, sparse: Any, dense: Any) -> jax.Array:
        """Probabilities ``[b, q]`` from dense parameters, the table, ids ``[b, f]`` and dense features ``[b, n]``."""
        ...


# Rows of one call that scores. Held-out scores and throughput have it in common, so that one program does for both.
SCORED_AT_ONCE = 4096
# Calls that are started before the first of them must have ended; that bounds memory.
CHUNKS_AHEAD = 16


Chunk = tuple[jax.Array, jax.Array]  # ids and dense features of some rows


class Trained(NamedTuple):
    """A trained model, as scoring and export need it."""

    config: DhenConfig
    params: Any
    rows: jax.Array  # the table [v, d]
    predict: Predict
    metrics: tuple[str, ...]


class Evaluate(Protocol):
    """Evaluates configurations."""

    def __call__(
        self, configs: np.ndarray, seeds: Sequence[int], fidelity: float
    ) -> Iterator[tuple[int, Outcome]]:
        """One pair of index and `Outcome` for each configuration, in any order.

        Args:
            configs: int32 ``[n, k]``.
            seeds: one for each configuration.
            fidelity: share of a full run's rows, in (0, 1].
        """
        ...


class Cost(Protocol):
    """Knows what configurations cost without training them."""

    def __call__(self, configs: np.ndarray, /) -> np.ndarray:
        """Forward FLOPs per example ``[n]`` of ``configs [n, k]``."""
        ...


class HeldOutTest(Protocol):
    """Scores the held-out rows."""

    def __call__(self, config: np.ndarray, seed: int, /) -> np.ndarray:
        """Probabilities ``[rows, q]`` of one configuration ``[k]``, trained in full with ``seed``."""
        ...


class TrainedModel(Protocol):
    """Gives trained models."""

    def __call__(self, config: np.ndarray, seed: int, /) -> Trained:
        """The model of one configuration ``[k]``, trained in full with ``seed``."""
        ...


class Measure(Protocol):
    """Measures one property of a model."""

    def __call__(self, config: np.ndarray, /) -> float:
        """The property of one configuration ``[k]``."""
        ...


class Prepare(Protocol):
    """Compiles ahead."""

    def __call__(self, configs: Iterable[Sequence[int]], /) -> None:
        """Begins to compile, in other threads, what will score the models of ``configs``; returns at once."""
        ...


class Stats(Protocol):
    """Accounts for compiling."""

    def __call__(self) -> ProgramStats:
        """What compiling has cost so far."""
        ...


class Objective(NamedTuple):
    """One thing to be minimised; what an objective cannot do is None.

    Examples:
        >>> from autorank.objectives.table import table_objective
        >>> configs, curves = np.array([[0], [1]]), np.array([[[0.9], [0.8]], [[0.7], [0.6]]])
        >>> known = table_objective("two", configs, curves, np.array([1e3, 2e3]), metrics=("ctr",), num_rows=100)
        >>> [(i, outcome.ne) for i, outcome in known.evaluate(configs[1:], [0], 0.5)]
        [(0, (0.7,))]
        >>> known.cost(configs)
        array([1000., 2000.])
    """

    name: str
    fingerprint: str  # identifies data and settings in the ledger
    metrics: tuple[str, ...]
    num_rows: int  # rows of a full run
    num_windows: int
    evaluate: Evaluate
    cost: Cost | None
    stats: Stats
    # Only training on data has trained models and a held-out test.
    test: HeldOutTest | None = None
    trained: TrainedModel | None = None
    qps: Measure | None = None  # rows scored per second
    compiled_flops: Measure | None = None  # by the compiler's cost analysis
    prepare: Prepare | None = None  # for `test` and `qps`
    test_labels: np.ndarray | None = None  # [rows, labels]
    test_users: np.ndarray | None = (
        None  # [rows], negative where unknown; None: the log names no user
    )
    # Bool [t, q]: windows with both classes; None: whatever the baseline's curve has.
    measurable: np.ndarray | None = None
    counts: tuple[Counts, ...] = ()  # classes by part and metric, where they are known


def predict_rows(
    model: Trained, sparse: np.ndarray, dense: np.ndarray, chunk: int = SCORED_AT_ONCE
) -> np.ndarray:
    """Probabilities ``[rows, q]`` in chunks of one shape, so one program serves any length."""
    return predict_chunks(model, chunks_of(sparse, dense, chunk), len(sparse))


def chunks_of(
    sparse: np.ndarray, dense: np.ndarray, chunk: int = SCORED_AT_ONCE
) -> Iterator[Chunk]:
    """The rows on the device, ``chunk`` of them at a time; the last ones are padded."""
    for first in range(0, len(sparse), chunk):
        ids = np.asarray(sparse[first : first + chunk])
        values = np.asarray(dense[first : first + chunk])
        short = chunk - len(ids)
        ids = np.pad(ids, ((0, short), (0, 0)), mode="edge")
        values = np.pad(values, ((0, short), (0, 0))).astype(np.float32)
        yield jax.device_put((ids, values))


def predict_chunks(model: Trained, chunks: Iterable[Chunk], rows: int) -> np.ndarray:
    """Probabilities ``[rows, q]`` of `chunks_of` rows."""
    parts: list[np.ndarray] = []
    waiting: deque[jax.Array] = deque()  # an accelerator computes them while the next rows are sent
    for ids, values in chunks:
        with refuse_implicit_transfers():
            waiting.append(model.predict(model.params, model.rows, ids, values))
        if len(waiting) > CHUNKS_AHEAD:
            parts.append(np.asarray(waiting.popleft()))
    parts += jax.device_get(list(waiting))
    return np.concatenate(parts)[:rows].astype(np.float64)
