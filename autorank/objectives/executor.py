"""Which build trains a group of trials: one compact program each, or all in one population; a small cost model.

The result is the same up to rounding (tested), so this is a matter of time alone. A compact program is compiled for
every structure and trains at its own speed; a population is compiled once for all its models. Costs begin as the
priors below and become what this run measures.
"""

import threading
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

EXECUTORS = ("auto", "compact", "population")


class Work(NamedTuple):
    """One trial, as far as its costs go."""

    structure: str  # equal ones share a compact program
    flops: float  # forward, per example, dense part
    rows: int  # still to be trained on


class Costs(NamedTuple):
    """Seconds and rates of one backend; work is ``rows * (flops + row_flops)``."""

    compact_compile: float  # seconds, one structure
    compact_rate: float  # work per second of one compact program
    population_compile: float  # seconds, one program of whatever size
    population_compile_model: float  # and for each model in it
    population_rate: float  # work per second of all models of a program together
    row_flops: (
        float  # work of a row outside the dense part: look-ups, their update, fixed costs of a step
    )
    cores_train: (
        bool  # training takes the cores that compile (CPU); else it goes on beside compiling
    )


# Where a run has not measured yet. CPU: compiling as in `experiments/speed/compile.py` (docs/design.md); a population
# of small DHENs trained at about 0.6 of the compact builds' speed and took 10 to 30 s to compile for 2 to 8 models.
# Accelerators: `experiments/results/bench_population.csv`, one H100, DHENs of about 7e5 FLOPs a row (its
# TFLOP/s over three passes): 11.8 s and 6.4e6 rows/s for a compact program (median of 3, float32); 945 s summed over
# twelve threads and 4.4e6 rows/s of all models together for a hundred in ten populations (bfloat16).
PRIORS = {
    "cpu": Costs(2.0, 5e9, 8.0, 2.5, 0.6 * 5e9, 2e4, True),
    "gpu": Costs(11.8, 6.4e6 * 7e5, 5.0, 9.0, 4.4e6 * 7e5, 2e4, False),
}
# The same cost of either build.
PARTNERS = (
    (("compact_compile",), ("population_compile", "population_compile_model")),
    (("compact_rate",), ("population_rate",)),
)
# Weight of what is known when another measurement comes; the first one replaces the prior.
KEEP = 0.6


class Decision(NamedTuple):
    """What trains a group, and why."""

    kind: str  # compact, population
    compact_seconds: float  # estimates
    population_seconds: float
    reason: str


def work_of(trials: Sequence[Work], costs: Costs) -> float:
    """Summed over the trials."""
    return sum(t.rows * (t.flops + costs.row_flops) for t in trials)


def choose(
    trials: Sequence[Work],
    plan: Any,
    known_structures: Collection[str],
    known_plans: Collection[Any],
    workers: int,
    costs: Costs,
    setting: str = "auto",
) -> Decision:
    """The faster of the two for trials that would make one population, by the estimates; pure.

    Args:
        trials: one width, one head; few enough for the memory.
        plan: of their population (`models.population.Plan`), compared with the known ones.
        known_structures: structures whose compact program is there.
        known_plans: plans whose population program is there.
        workers: threads that these trials may use.
        costs: see `CostModel`.
        setting: "compact" or "population" decide beforehand; the estimates are given all the same.
    """
    compact = compact_seconds(trials, known_structures, workers, costs)
    population = work_of(trials, costs) / costs.population_rate
    if plan not in known_plans:
        population += costs.population_compile + len(trials) * costs.population_compile_model
    new = len({t.structure for t in trials} - set(known_structures))
    kind = setting if setting != "auto" else "population" if population < compact else "compact"
    said = (
        f"{len(trials)} trials, {new} structures to compile: about {compact:.3g} s compact, "
        f"{population:.3g} s as one population{' that is compiled' if plan in known_plans else ''}"
    )
    if setting != "auto":
        said = f"search.executor={setting}; {said}"
    return Decision(kind, compact, population, said)


def compact_seconds(
    trials: Sequence[Work], known_structures: Collection[str], workers: int, costs: Costs
) -> float:
    """Estimate for one program after another in ``workers`` threads, compiled ahead."""
    if not trials:
        return 0.0
    new = len({t.structure for t in trials} - set(known_structures))
    compiling = new * costs.compact_compile
    training = work_of(trials, costs) / costs.compact_rate
    longest = max(work_of([t], costs) for t in trials) / costs.compact_rate
    first = costs.compact_compile if new else 0.0
    if costs.cores_train:
        return max((compiling + training) / max(1, workers), first + longest)
    # One device trains while the cores compile what is next.
    return max(first + training, compiling / max(1, min(workers, new)) + longest)


class CostModel:
    """Costs that follow what is measured, an exponential average of logarithms; safe for threads.

    What has not been measured moves with what the other build measured: a machine that is slower than the prior's is
    so for both, and the prior's ratio stays until there is a better one.
    """

    def __init__(self, prior: Costs) -> None:
        self._costs, self._lock = prior, threading.Lock()
        self._seen: set[str] = set()

    @property
    def costs(self) -> Costs:
        """As known now."""
        with self._lock:
            return self._costs

    def compiled(self, kind: str, seconds: float, size: int = 1) -> None:
        """A program of ``size`` models was compiled."""
        if kind == "compact":
            self._scale(("compact_compile",), seconds, lambda c: c.compact_compile)
        else:
            names = ("population_compile", "population_compile_model")
            self._scale(names, seconds, lambda c: c[2] + size * c[3])

    def trained(self, kind: str, trials: Sequence[Work], seconds: float) -> None:
        """Trials were trained by one program."""
        work = work_of(trials, self.costs)
        if work > 0 and seconds > 0:
            name = f"{kind}_rate"
            self._scale((name,), work / seconds, lambda c: getattr(c, name))

    def _scale(self, names: tuple[str, ...], measured: float, estimate: Any) -> None:
        if measured <= 0:
            return
        with self._lock:
            ratio = measured / estimate(self._costs)
            if names[0] in self._seen:
                ratio **= 1 - KEEP
            self._seen.add(names[0])
            other = next(b if a == names else a for a, b in PARTNERS if names in (a, b))
            names += other if other[0] not in self._seen else ()
            self._costs = self._costs._replace(
                **{name: getattr(self._costs, name) * ratio for name in names}
            )


def prior(backend: str) -> Costs:
    """The priors of a backend; any accelerator is taken for a GPU until measured."""
    return PRIORS.get(backend, PRIORS["gpu"])
