"""What training costs in each of the two forms: priors for a backend that follow what a run measures."""

import threading
from collections.abc import Callable, Sequence
from typing import NamedTuple

# A compact program for each structure, or one program that trains a population of models.
FORMS = ("compact", "population")


class Work(NamedTuple):
    """One trial, as far as its costs go."""

    structure: str  # trials of equal structure share a compact program
    flops: float  # forward, per example, dense part
    rows: int  # still to be trained on


class Costs(NamedTuple):
    """Seconds and rates of one backend; work is ``rows * (flops + row_flops)``."""

    compact_compile: float  # seconds for one structure
    compact_rate: float  # work per second of one compact program
    population_compile: float  # seconds for one program, whatever its size
    population_compile_model: float  # additional seconds for each of its models
    population_rate: float  # work per second of all models of a program together
    # Work of a row outside the dense part: look-ups, their update, the fixed costs of a step.
    row_flops: float
    # Whether training occupies the cores that compile (CPU); an accelerator trains while they compile.
    cores_train: bool


# Used until a run has measured. CPU: compile seconds from `experiments/speed/compile.py` (docs/design.md). A
# population of small DHENs trained at about 0.6 of the compact programs' speed and took 10 to 30 s to compile for 2 to
# 8 models. Accelerators: `experiments/results/bench_population.csv`, one H100, DHENs of about 7e5 FLOPs a row (its
# TFLOP/s over three passes). A compact program took 11.8 s and ran at 6.4e6 rows/s (median of 3, float32). A hundred
# models in ten populations took 945 s summed over twelve threads and ran at 4.4e6 rows/s together (bfloat16).
PRIORS = {
    "cpu": Costs(2.0, 5e9, 8.0, 2.5, 0.6 * 5e9, 2e4, True),
    "gpu": Costs(11.8, 6.4e6 * 7e5, 5.0, 9.0, 4.4e6 * 7e5, 2e4, False),
}
_COMPILE = {
    "compact": ("compact_compile",),
    "population": ("population_compile", "population_compile_model"),
}
_RATE = {"compact": ("compact_rate",), "population": ("population_rate",)}
# Weight of the current estimate when another measurement comes; the first measurement replaces the prior.
KEEP = 0.6


def prior(backend: str) -> Costs:
    """The costs to start from on a backend; every accelerator counts as a GPU until measured.

    Examples:
        >>> prior("cpu").compact_compile
        2.0
    """
    return PRIORS.get(backend, PRIORS["gpu"])


def total_work(trials: Sequence[Work], costs: Costs) -> float:
    """FLOPs of the trials together, with ``row_flops`` for each row.

    Examples:
        >>> total_work([Work("a", flops=80_000.0, rows=10)], prior("cpu"))
        1000000.0
    """
    return sum(t.rows * (t.flops + costs.row_flops) for t in trials)


class CostModel:
    """Costs that follow what is measured, as an exponential average of logarithms; safe for threads.

    A cost that is not measured yet moves with the same cost of the other form: a machine that is slower than the
    prior's is slower for both, so the prior's ratio stays until there is a better one.
    """

    def __init__(self, prior: Costs) -> None:
        self._costs, self._lock = prior, threading.Lock()
        self._measured: set[tuple[str, ...]] = set()

    @property
    def costs(self) -> Costs:
        """The current estimates."""
        with self._lock:
            return self._costs

    def compiled(self, form: str, seconds: float, size: int = 1) -> None:
        """Records that a program of ``size`` models took ``seconds`` to compile."""

        def estimate(costs: Costs) -> float:
            if form == "compact":
                return costs.compact_compile
            return costs.population_compile + size * costs.population_compile_model

        self._scale(form, _COMPILE, seconds, estimate)

    def trained(self, form: str, trials: Sequence[Work], seconds: float) -> None:
        """Records that one program trained ``trials`` in ``seconds``."""
        work = total_work(trials, self.costs)
        if work > 0 and seconds > 0:
            (name,) = _RATE[form]
            self._scale(form, _RATE, work / seconds, lambda costs: getattr(costs, name))

    def _scale(
        self,
        form: str,
        names_of: dict[str, tuple[str, ...]],
        measured: float,
        estimate: Callable[[Costs], float],
    ) -> None:
        """Moves the named costs of ``form`` so that the estimate approaches what was measured."""
        if measured <= 0:
            return
        names, (other,) = names_of[form], [names_of[f] for f in FORMS if f != form]
        with self._lock:
            ratio = measured / estimate(self._costs)
            if names in self._measured:
                ratio **= 1 - KEEP
            self._measured.add(names)
            moved = names if other in self._measured else names + other
            self._costs = self._costs._replace(
                **{name: getattr(self._costs, name) * ratio for name in moved}
            )
