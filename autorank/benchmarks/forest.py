"""Spaces of DHENs in which any configuration can be tried: trees that are fitted to a recorded table.

A recorded table of random configurations knows only these. What trees make of it is smoother than training, but it
has the space of a real search with all its conditions, where the other suites have smaller ones.
"""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from autorank.base.typing import Float, Int
from autorank.benchmarks.base import Benchmark, Values
from autorank.benchmarks.recorded import recorded_benchmark

FOREST_TASKS = ("dhen_small_kuairand", "dhen_small_synthetic")  # tables of thousands
# A table's worst twentieth counts as equal: a few models that nearly diverged would be most of the squared error.
WORST = 0.95
TREES: dict[str, Any] = {"min_samples_leaf": 2, "max_features": 0.5}
NUM_TREES, NUM_COST_TREES = 100, 10


class Forest:
    """Extremely randomised trees (Geurts et al. 2006), of the loss and of log FLOPs; fitted when they are first asked.

    Args:
        table: a benchmark whose pool is a recorded table.
    """

    def __init__(self, table: Benchmark) -> None:
        self._table, self._space = table, table.space

    def __call__(self, rows: Sequence[Values]) -> Float[np.ndarray, "n 2"]:
        """See `Query`."""
        configs = np.array([self._space.encode(values) for values in rows], np.int32)
        features = self.features(configs.reshape(-1, self._space.num_decisions))
        return np.stack([trees.predict(features) for trees in self._trees], axis=1)

    def features(self, configs: Int[np.ndarray, "n k"]) -> Float[np.ndarray, "n x"]:
        """What the trees see: `Space.features`, and how many layers hold each module."""
        own = np.asarray(self._space.features(configs), np.float32)
        active = np.asarray(self._space.active(configs))
        decisions = self._space.decisions
        places = [i for i, d in enumerate(decisions) if d.name.startswith("model.layer")]
        names = sorted({choice for i in places for choice in decisions[i].choices})
        counts = np.zeros((len(configs), len(names)), np.float32)
        for i in places:
            at = np.array([names.index(choice) for choice in decisions[i].choices])
            counts[np.arange(len(configs)), at[configs[:, i]]] += active[:, i]
        return np.concatenate([own, counts], axis=1)

    @cached_property
    def _trees(self) -> tuple[Any, Any]:
        try:
            from sklearn.ensemble import ExtraTreesRegressor  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise ImportError(
                "the suite forest needs scikit-learn: pip install 'autorank[studies]'"
            ) from error
        pool = self._table.pool
        assert pool is not None
        results = self._table.query([pool.values(i) for i in range(len(pool))])
        good = np.isfinite(results[:, 0])
        features, (losses, costs) = self.features(pool.configs[good]), results[good].T
        losses = np.minimum(losses, np.quantile(losses, WORST))

        def fitted(num: int, targets: np.ndarray) -> Any:
            model = ExtraTreesRegressor(num, random_state=0, **TREES)
            return model.fit(features, targets)

        return fitted(NUM_TREES, losses), fitted(NUM_COST_TREES, costs)


def forest_benchmark(task: str, file: Path) -> Benchmark:
    """The space of a recorded table, with what trees make of its results in place of them.

    Raises:
        FileNotFoundError: the table does not exist.
        ImportError: scikit-learn is not installed; when it is first asked.
    """
    table = recorded_benchmark(task, file)
    return Benchmark("forest", task, table.space, {}, Forest(table))
