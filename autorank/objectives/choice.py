"""Decides in which form each trial trains: alone as a compact program, or with others in the lanes of one population.

The outcome is the same up to rounding (tested), so the choice is a matter of time alone. A compact program is compiled
for every structure and trains at its own speed; the program of a population is compiled once for all models that it
holds.
The inputs are the measured costs (`costs.CostModel`), the programs that are already compiled, and how many trials are
still to come.
"""

import logging
from collections import defaultdict
from collections.abc import Collection, Hashable, Sequence
from typing import NamedTuple

import jax

from autorank.models.cost import flops_per_example
from autorank.models.dhen import structure_key
from autorank.objectives.costs import FORMS, CostModel, Costs, Work, total_work
from autorank.population.capacity import Capacity
from autorank.training.compact import CompactPrograms, Request
from autorank.training.lane_pool import LanePool
from autorank.training.pipeline import Lane

LOG = logging.getLogger(__name__)
# Values of `search.executor`.
CHOICES = ("auto", *FORMS)


class Decision(NamedTuple):
    """The form in which a group of trials trains, and why."""

    form: str  # one of `costs.FORMS`
    compact_seconds: float  # estimates
    population_seconds: float
    reason: str


def choose(
    trials: Sequence[Work],
    known_structures: Collection[str],
    is_compiled: bool,
    workers: int,
    costs: Costs,
    setting: str = "auto",
    expected: int = 0,
    lanes: int = 1,
) -> Decision:
    """The faster form for trials that fit one population, by the estimates; a pure function.

    Args:
        trials: that train in the same lanes, at least one.
        known_structures: structures whose compact program is compiled.
        is_compiled: whether the population's program is.
        workers: threads that these trials may use.
        costs: the current estimates.
        setting: "compact" or "population" overrides the estimates, which are reported all the same.
        expected: trials like these that are still to come, these included; both estimates are for so many.
        lanes: of the population's program. On an accelerator they train side by side, cores take them in turn.

    Examples:
        >>> from autorank.objectives.costs import prior
        >>> trials = [Work(f"structure {i}", flops=7e5, rows=2_000_000) for i in range(10)]
        >>> choose(trials, (), False, 1, prior("gpu"), expected=100).form
        'population'
        >>> choose(trials, (), False, 1, prior("cpu"), expected=100).form
        'compact'
    """
    times = max(1.0, expected / len(trials))
    compact = compact_seconds(trials, known_structures, workers, costs, times)
    filled = 1 if costs.cores_train else min(lanes, len(trials))
    population = times * total_work("population", trials, costs) / (filled * costs.population_rate)
    population += 0.0 if is_compiled else costs.population_compile
    new = len({t.structure for t in trials} - set(known_structures))
    form = setting if setting != "auto" else "population" if population < compact else "compact"
    ahead = f" of {expected} to come" if expected > len(trials) else ""
    reason = (
        f"{len(trials)} trials{ahead}, {new} structures to compile: about {compact:.3g} s compact, "
        f"{population:.3g} s as one population{' that is compiled' if is_compiled else ''}"
    )
    if setting != "auto":
        reason = f"search.executor={setting}; {reason}"
    return Decision(form, compact, population, reason)


def lanes_expected(setting: str, expected: int, workers: int, programs: int, costs: Costs) -> bool:
    """Whether to compile the lanes' programs before the first trial: never where cores train.

    With "auto" it is where each trial's own structure would take longer to compile than these programs.

    Args:
        setting: one of `CHOICES`.
        expected: trials to come.
        workers: threads that compile.
        programs: of the lanes.
        costs: the first estimates.

    Examples:
        >>> from autorank.objectives.costs import prior
        >>> [lanes_expected("auto", trials, 8, 1, prior("gpu", True)) for trials in (5, 100)]
        [False, True]
    """
    if setting == "compact" or costs.cores_train:
        return False
    compiling = expected * costs.compact_compile / max(1, workers)
    return setting == "population" or compiling > programs * costs.population_compile


def compact_seconds(
    trials: Sequence[Work],
    known_structures: Collection[str],
    workers: int,
    costs: Costs,
    times: float = 1.0,
) -> float:
    """Estimated seconds for ``times`` such trials one after another in ``workers`` threads, compiled ahead."""
    if not trials:
        return 0.0
    new = times * len({t.structure for t in trials} - set(known_structures))
    compiling = new * costs.compact_compile
    training = times * total_work("compact", trials, costs) / costs.compact_rate
    longest = max(total_work("compact", [t], costs) for t in trials) / costs.compact_rate
    first = costs.compact_compile if new else 0.0
    if costs.cores_train:
        return max((compiling + training) / max(1, workers), first + longest)
    # One device trains while the cores compile the next programs.
    return max(first + training, compiling / max(1, min(workers, new)) + longest)


class Group(NamedTuple):
    """Trials that train in the lanes of one capacity."""

    members: tuple[int, ...]  # indices of requests
    capacity: Capacity
    reason: str


class Chosen(NamedTuple):
    """The form of every request of one call."""

    compact: dict[int, str]  # index of a request -> reason
    populations: list[Group]


class Choice:
    """Assigns the requests of a call to the two forms; safe for threads.

    Args:
        compact: programs of the first form.
        lanes: those of the second.
        costs: measured as the run goes on.
        setting: one of `CHOICES`.
        workers: threads that compile and train.
        expected: trials of all calls together, 0 for those of each call.
        only_compact: a reason why every trial is compact, or "".
    """

    def __init__(
        self,
        compact: CompactPrograms,
        lanes: LanePool,
        costs: CostModel,
        *,
        setting: str,
        workers: int,
        expected: int = 0,
        only_compact: str = "",
    ) -> None:
        self._compact, self._lanes, self._costs = compact, lanes, costs
        self._setting, self._workers, self._only_compact = setting, workers, only_compact
        self._expected = expected
        self._on_cpu = jax.default_backend() == "cpu"

    def lanes(self) -> dict[Hashable, Lane]:
        """How many jobs may train side by side: populations on each device, and compact programs."""
        # A population keeps one core of a CPU busy, so several share its memory; an accelerator trains one at a time.
        side_by_side = self._workers if self._on_cpu else 1
        lanes: dict[Hashable, Lane] = {d: Lane(side_by_side) for d in self._lanes.devices}
        # A thread waits for the work that it queued on an accelerator, so half of the threads go on compiling.
        slots = self._workers if self._on_cpu else max(1, self._workers // 2)
        return lanes | {"compact": Lane(slots, elastic=True)}

    def expects_lanes(self) -> bool:
        """Whether lanes will train most trials, as far as that is known before the first (`lanes_expected`)."""
        if self._only_compact:
            return False
        return lanes_expected(
            self._setting,
            self._expected,
            self._workers,
            self._lanes.num_capacities,
            self._costs.costs,
        )

    def work(self, request: Request, stop: int) -> Work:
        """What training ``request`` up to step ``stop`` takes."""
        model, shape = request.setting.model, self._compact.shape
        flops = float(flops_per_example(model, shape.num_fields, shape.num_dense))
        return Work(structure_key(model), flops, stop * shape.batch_size)

    def __call__(self, requests: Sequence[Request], stop: int) -> Chosen:
        """The form of each request that trains up to step ``stop``."""
        compact = {i: why for i, r in enumerate(requests) if (why := self._why_compact(r))}
        alike: dict[Hashable, list[int]] = defaultdict(list)
        for i, request in enumerate(requests):
            if i not in compact:
                alike[self._lanes.alike(request.setting.model)].append(i)
        # Later calls ask for each of them in about the same shares.
        ahead = max(self._expected, len(requests)) / max(1, len(requests))
        self._expected = max(0, self._expected - len(requests))
        populations = []
        for members in alike.values():
            own = [requests[i] for i in members]
            capacity = self._lanes.capacity([request.setting.model for request in own])
            works = [self.work(request, stop) for request in own]
            devices = self._lanes.devices
            lanes = 0
            if capacity is not None:
                lanes = sum(self._lanes.size(capacity, device, len(own)) for device in devices)
            if capacity is None or not lanes:
                compact |= dict.fromkeys(members, "no lane of their width fits the memory")
                continue
            decision = choose(
                works,
                {w.structure for w in works if self._compact.is_compiled(w.structure)},
                self._lanes.known(capacity),
                max(1, self._workers // len(alike)),
                self._costs.costs,
                self._setting,
                round(ahead * len(works)),
                lanes,
            )
            LOG.info("%s: %s", decision.form, decision.reason)
            if decision.form == "population":
                populations.append(Group(tuple(members), capacity, decision.reason))
            else:
                compact |= dict.fromkeys(members, decision.reason)
        return Chosen(dict(sorted(compact.items())), populations)

    def _why_compact(self, request: Request) -> str:
        """Why a request is compact whatever the costs, or ""."""
        if self._only_compact:
            return self._only_compact
        if self._setting == "compact":
            return "search.executor=compact"
        why = self._lanes.misfit(request.setting.model)
        return f"it does not fit the lanes: {why}" if why else ""
