"""What training costs in each of the two forms: priors for a backend that follow what a run measures."""

import math
import threading
from collections.abc import Sequence
from typing import NamedTuple

# A compact program for each structure, or one program that trains a population of models in its lanes.
FORMS = ("compact", "population")


class Work(NamedTuple):
    """One trial, as far as its costs go."""

    structure: str  # trials of equal structure share a compact program
    flops: float  # forward, per example, dense part
    rows: int  # still to be trained on


class Costs(NamedTuple):
    """Seconds and rates of one backend; work is ``rows * (flops + row_flops)``, each form with its own."""

    compact_compile: float  # seconds for one structure
    compact_rate: float  # work per second of one compact program
    population_compile: float  # seconds for the program of one width
    # Work per second of all lanes together where cores train, of each lane on an accelerator.
    population_rate: float
    # Work of a row outside the dense part: look-ups, their update, the fixed costs of a step.
    compact_row_flops: float
    population_row_flops: float
    # Whether training occupies the cores that compile (CPU); an accelerator trains while they compile.
    cores_train: bool


# Used until a run has measured. CPU: compile seconds from `experiments/speed/compile.py` (docs/design.md); six DHENs of
# width 16 on 20,000 rows trained in lanes at .19 of their compact programs' speed, and a program with fields as many as
# Criteo's takes half a minute to compile. Accelerators: one H100, DHENs of about 7e5 FLOPs a row.
# Large batches (`experiments/results/bench_population.csv`): a compact program ran at 6.4e6 rows/s (median of 3,
# float32) and took 17.6 s to compile in a whole search; ten lanes of one width took 35 s and ran at 2.9e6 rows/s
# together. Small batches of 512 rows, compiled quickly (`base.programs`): 9.4 s beside seven others and 1.0e6 rows/s,
# sixteen lanes of all widths 15 s and 1.4e6 rows/s. The lanes' figures of small batches and those of small compact ones
# were measured by hand; `experiments/speed/lanes.py` and `gpu_options.py` print such ones.
# On an accelerator a row costs about the same whatever its model is, because kernels wait to start: the work outside
# the dense part far outweighs its 1e5 to 3e6 FLOPs, so what was measured on the small baseline holds for later models.
ALONE, LANE = 1e6, 1e7
PRIORS = {
    "cpu": Costs(2.0, 5e9, 30.0, 0.19 * 5e9, 2e4, 2e4, True),
    "gpu": Costs(17.6, 6.4e6 * (ALONE + 7e5), 35.0, 2.9e5 * (LANE + 7e5), ALONE, LANE, False),
    "gpu, small batches": Costs(
        9.4, 1.0e6 * (ALONE + 7e5), 15.0, 8.8e4 * (LANE + 7e5), ALONE, LANE, False
    ),
}
_COMPILE = {form: f"{form}_compile" for form in FORMS}
_ROW = {form: f"{form}_row_flops" for form in FORMS}
_RATE = {form: f"{form}_rate" for form in FORMS}
# Weight of the current estimate when another measurement comes; the first measurement replaces the prior.
KEEP = 0.6


def prior(backend: str, small_batches: bool = False) -> Costs:
    """The costs to start from on a backend; every accelerator counts as a GPU until measured.

    Args:
        backend: `jax.default_backend`.
        small_batches: whether steps wait for kernels to start (`memory.Shape.has_small_batches`).

    Examples:
        >>> prior("cpu").compact_compile
        2.0
    """
    if backend == "cpu":
        return PRIORS["cpu"]
    return PRIORS["gpu, small batches" if small_batches else "gpu"]


def total_work(form: str, trials: Sequence[Work], costs: Costs) -> float:
    """FLOPs of the trials together in one of `FORMS`, with its work outside the dense part for each row.

    Examples:
        >>> total_work("compact", [Work("a", flops=80_000.0, rows=10)], prior("cpu"))
        1000000.0
    """
    outside: float = getattr(costs, _ROW[form])
    return math.fsum(t.rows * (t.flops + outside) for t in trials)


class CostModel:
    """Costs that follow what is measured, as an exponential average of logarithms; safe for threads.

    A cost that is not measured yet moves with the same cost of the other form: a machine that is slower than the
    prior's is slower for both, so the prior's ratio stays until there is a better one. Rates on an accelerator do not:
    there a compact program is timed beside others that share the device.
    """

    def __init__(self, prior: Costs) -> None:
        self._costs, self._lock = prior, threading.Lock()
        self._measured: set[str] = set()

    @property
    def costs(self) -> Costs:
        """The current estimates."""
        with self._lock:
            return self._costs

    def compiled(self, form: str, seconds: float) -> None:
        """Records that a program took ``seconds`` to compile."""
        self._scale(form, _COMPILE, seconds)

    def trained(self, form: str, trials: Sequence[Work], seconds: float) -> None:
        """Records that one program trained ``trials`` in ``seconds``; on an accelerator a population's are summed over
        its lanes.
        """
        work = total_work(form, trials, self.costs)
        if work > 0 and seconds > 0:
            self._scale(form, _RATE, work / seconds)

    def _scale(self, form: str, names: dict[str, str], measured: float) -> None:
        """Moves a cost of ``form`` towards what was measured."""
        if measured <= 0:
            return
        name, (other,) = names[form], [names[f] for f in FORMS if f != form]
        with self._lock:
            ratio = measured / getattr(self._costs, name)
            if name in self._measured:
                ratio **= 1 - KEEP
            self._measured.add(name)
            is_shared = names is _RATE and not self._costs.cores_train
            alone = other in self._measured or is_shared
            moved = (name,) if alone else (name, other)
            self._costs = self._costs._replace(
                **{n: getattr(self._costs, n) * ratio for n in moved}
            )
