"""A search on recorded or simulated curves that pays for what it looks at, in whole runs."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import jax
import numpy as np

from autorank.base.typing import Float, Int, Key
from autorank.benchmarks.base import Benchmark
from autorank.fidelity.curve_label import curve_label
from autorank.searchers.base import History
from autorank.studies.curves import curves_of
from autorank.studies.search_tasks import SearchTask
from autorank.studies.searcher_programs import SearcherPrograms


class Standing(NamedTuple):
    """What a search would recommend if it ended now."""

    spent: float  # whole runs, with what the recommendation itself still takes
    chosen: Int[np.ndarray, " k"]
    tried: int  # configurations looked at


@dataclass(eq=False)
class Campaign:
    """One search: asks, answers a part of a curve, tells.

    Labels are differences from the baseline's curve in units of the median random regret. A run has luck of its own,
    which is the same at all of its rungs.
    """

    task: SearchTask
    programs: SearcherPrograms
    key: Key
    rng: np.random.Generator
    noise: float  # standard deviation of a run's luck
    tail: float  # share of the windows reached that a label is the mean of
    spent: float = 0.0
    _state: object = None
    _asked: int = 0
    _batch: int = 0
    _curves: dict[bytes, np.ndarray] = field(default_factory=dict)
    _luck: dict[bytes, float] = field(default_factory=dict)
    _reached: dict[bytes, float] = field(default_factory=dict)
    _places: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._state = self.programs.searcher.init(self.key)
        self.baseline = np.array(self.task.space.baseline, np.int32)
        self._baseline = baseline_curve(self.task.benchmark)

    @property
    def full(self) -> bool:
        """Whether the searcher has no room for another round."""
        history: History = self._state.history  # pyright: ignore[reportAttributeAccessIssue]
        return int(history.count) + self._batch > len(history.configs)

    @property
    def tried(self) -> int:
        """Configurations looked at."""
        return len(self._reached)

    def ask(self) -> Int[np.ndarray, "n k"]:
        """The next proposals, as the searcher makes them."""
        key = jax.random.fold_in(self.key, self._asked)
        self._asked += 1
        found = np.asarray(self.programs.ask(key, self._state).configs)
        self._batch = len(found)
        return found

    def new(self, proposals: Int[np.ndarray, "n k"]) -> Int[np.ndarray, "n k"]:
        """The configurations that are tried for new proposals: themselves, or the nearest untried ones of a pool."""
        return self.task.answered(proposals, self._places).astype(np.int32)

    def tell(self, configs: np.ndarray, labels: Sequence[float]) -> None:
        """Labels of configurations; NaN for a failed one."""
        values = np.asarray(labels, np.float32)
        metrics = np.stack([values, np.zeros_like(values)], axis=1)
        self._state = self.programs.tell(self._state, configs, metrics)

    def judge(self) -> Float[np.ndarray, " n"]:
        """What the searcher believes of the told rows; NaN for failed ones."""
        count = int(self._state.history.count)  # pyright: ignore[reportAttributeAccessIssue]
        return np.asarray(self.programs.judge(self._state))[:count]

    def train(self, config: Int[np.ndarray, " k"], share: float) -> float:
        """The label of a configuration at a share of the log; a run goes on where it was, and is paid for so."""
        place = config.tobytes()
        self.spent += max(share - self._reached.get(place, 0.0), 0.0)
        self._reached[place] = max(share, self._reached.get(place, 0.0))
        return self.label(config, share)

    def label(self, config: Int[np.ndarray, " k"], share: float) -> float:
        """The label at a share of the log, paid for or not."""
        place = config.tobytes()
        if place not in self._curves:
            curve = curves_of(self.task.benchmark, [config])[0]
            self._curves[place] = curve - self._baseline
            self._luck[place] = self.noise * self.rng.normal()
        unit = self.task.typical - self.task.best
        label = curve_label(self._curves[place], share, tail=self.tail)
        return label / unit + self._luck[place]

    def ended(self, last: float) -> Standing:
        """The lowest label among the runs that have seen ``last``, or else among those that have seen most."""
        share = min(last, max(self._reached.values()))
        there = [np.frombuffer(p, np.int32) for p, r in self._reached.items() if r >= share]
        labels = [self.label(config, share) for config in there]
        if not np.isfinite(labels).any():
            return Standing(self.spent, there[0], self.tried)
        return Standing(self.spent, there[int(np.nanargmin(labels))], self.tried)

    def regret(self, config: Int[np.ndarray, " k"]) -> float:
        """The true regret of a configuration; 1 if it fails."""
        found = float(self.task.results(config[None])[0, 0])
        return found if math.isfinite(found) else 1.0


def baseline_curve(benchmark: Benchmark) -> Float[np.ndarray, " t"]:
    """The baseline's curve, that of its first seed."""
    return curves_of(benchmark, [np.array(benchmark.space.baseline, np.int32)])[0]
