"""Decides in which form each trial trains: alone as a compact program, or with others in one population.

The outcome is the same up to rounding (tested), so the choice is a matter of time alone. A compact program is compiled
for every structure and trains at its own speed; a population is compiled once for all its models. The inputs are the
measured costs (`costs.CostModel`) and the programs that are already compiled.
"""

import logging
from collections.abc import Collection, Hashable, Sequence
from typing import NamedTuple

import jax

from autorank.models.cost import flops_per_example
from autorank.models.dhen import DhenConfig, structure_key
from autorank.objectives.costs import FORMS, CostModel, Costs, Work, total_work
from autorank.population.layouts import Layout
from autorank.training.compact import CompactPrograms, Request
from autorank.training.groups import Device, form_groups, free_bytes
from autorank.training.pipeline import Lane
from autorank.training.population_programs import PopulationPrograms

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
    layout: Hashable,
    known_structures: Collection[str],
    known_layouts: Collection[Hashable],
    workers: int,
    costs: Costs,
    setting: str = "auto",
) -> Decision:
    """The faster form for trials that would make one population, by the estimates; a pure function.

    Args:
        trials: of one width and one head; few enough for the memory.
        layout: of their population, compared with the known ones.
        known_structures: structures whose compact program is compiled.
        known_layouts: layouts whose population program is compiled.
        workers: threads that these trials may use.
        costs: the current estimates.
        setting: "compact" or "population" overrides the estimates, which are reported all the same.

    Examples:
        >>> from autorank.objectives.costs import prior
        >>> trials = [Work(f"structure {i}", flops=7e5, rows=10_000_000) for i in range(50)]
        >>> choose(trials, "layout", (), (), 1, prior("gpu")).form
        'population'
        >>> choose(trials, "layout", (), (), 1, prior("cpu")).form
        'compact'
    """
    compact = compact_seconds(trials, known_structures, workers, costs)
    population = total_work(trials, costs) / costs.population_rate
    if layout not in known_layouts:
        population += costs.population_compile + len(trials) * costs.population_compile_model
    new = len({t.structure for t in trials} - set(known_structures))
    form = setting if setting != "auto" else "population" if population < compact else "compact"
    reason = (
        f"{len(trials)} trials, {new} structures to compile: about {compact:.3g} s compact, "
        f"{population:.3g} s as one population{' that is compiled' if layout in known_layouts else ''}"
    )
    if setting != "auto":
        reason = f"search.executor={setting}; {reason}"
    return Decision(form, compact, population, reason)


def compact_seconds(
    trials: Sequence[Work], known_structures: Collection[str], workers: int, costs: Costs
) -> float:
    """Estimated seconds for the trials one after another in ``workers`` threads, compiled ahead."""
    if not trials:
        return 0.0
    new = len({t.structure for t in trials} - set(known_structures))
    compiling = new * costs.compact_compile
    training = total_work(trials, costs) / costs.compact_rate
    longest = max(total_work([t], costs) for t in trials) / costs.compact_rate
    first = costs.compact_compile if new else 0.0
    if costs.cores_train:
        return max((compiling + training) / max(1, workers), first + longest)
    # One device trains while the cores compile the next programs.
    return max(first + training, compiling / max(1, min(workers, new)) + longest)


class Group(NamedTuple):
    """Trials that train as one population."""

    members: tuple[int, ...]  # indices of requests
    layout: Layout
    reason: str


class Chosen(NamedTuple):
    """The form of every request of one call."""

    compact: dict[int, str]  # index of a request -> reason
    populations: list[Group]


class Choice:
    """Assigns the requests of a call to the two forms; safe for threads.

    Args:
        compact: programs of the first form.
        populations: programs of the second form.
        costs: measured as the run goes on.
        setting: one of `CHOICES`.
        workers: threads that compile and train.
        devices: on which populations train.
        group_size: most models of a population, 0 for as many as fit the memory.
        only_compact: a reason why every trial is compact, or "".
    """

    def __init__(
        self,
        compact: CompactPrograms,
        populations: PopulationPrograms,
        costs: CostModel,
        *,
        setting: str,
        workers: int,
        devices: Sequence[Device],
        group_size: int = 0,
        only_compact: str = "",
    ) -> None:
        self.devices = devices
        self._compact, self._populations, self._costs = compact, populations, costs
        self._setting, self._workers, self._only_compact = setting, workers, only_compact
        self._group_size = group_size
        self._on_cpu = jax.default_backend() == "cpu"
        # A population keeps one core of a CPU busy, so several share its memory; an accelerator trains one at a time.
        self._side_by_side = workers if self._on_cpu else 1

    def lanes(self) -> dict[Hashable, Lane]:
        """How many jobs may train side by side: populations on each device, and compact programs."""
        lanes: dict[Hashable, Lane] = {device: Lane(self._side_by_side) for device in self.devices}
        # A thread waits for the work that it queued on an accelerator, so half of the threads go on compiling.
        slots = self._workers if self._on_cpu else max(1, self._workers // 2)
        return lanes | {"compact": Lane(slots, elastic=True)}

    def work(self, request: Request, stop: int) -> Work:
        """What training ``request`` up to step ``stop`` takes."""
        model, shape = request.setting.model, self._compact.shape
        flops = float(flops_per_example(model, shape.num_fields, shape.num_dense))
        return Work(structure_key(model), flops, stop * shape.batch_size)

    def __call__(self, requests: Sequence[Request], stop: int) -> Chosen:
        """The form of each request that trains up to step ``stop``."""
        compact = {i: why for i, r in enumerate(requests) if (why := self._why_compact(r))}
        free = [i for i in range(len(requests)) if i not in compact]
        groups = [[free[at] for at in g] for g in self._groups([requests[i] for i in free])]
        populations = []
        for members in groups:
            layout = self._populations.layout([requests[i].setting.model for i in members])
            works = [self.work(requests[i], stop) for i in members]
            decision = choose(
                works,
                layout,
                {w.structure for w in works if self._compact.is_compiled(w.structure)},
                self._populations.known(),
                max(1, self._workers // len(groups)),
                self._costs.costs,
                self._setting,
            )
            LOG.info("%s: %s", decision.form, decision.reason)
            if decision.form == "population":
                populations.append(Group(tuple(members), layout, decision.reason))
            else:
                compact |= dict.fromkeys(members, decision.reason)
        return Chosen(dict(sorted(compact.items())), populations)

    def halves(
        self, group: Group, models: Sequence[DhenConfig], error: Exception, reason: str
    ) -> list[Group]:
        """Two smaller groups in place of one that failed; later calls respect a limit of the memory.

        Args:
            group: of at least two members.
            models: of its members, in their order.
            error: with which it failed.
            reason: recorded in the outcomes of its trials.
        """
        half = len(group.members) // 2
        if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error):
            self._group_size = min(self._group_size or half, half)
        parts = (slice(half), slice(half, None))
        return [Group(group.members[p], self._populations.layout(models[p]), reason) for p in parts]

    def _why_compact(self, request: Request) -> str:
        """Why a request is compact whatever the costs, or ""."""
        if self._only_compact:
            return self._only_compact
        if self._setting == "compact":
            return "search.executor=compact"
        return "continues an earlier run" if request.key in self._compact.states else ""

    def _groups(self, requests: Sequence[Request]) -> list[list[int]]:
        """Requests that fit one population each, as indices."""
        if not requests:
            return []
        return form_groups(
            [request.setting.model for request in requests],
            self._compact.shape,
            free=min(map(free_bytes, self.devices)) // self._side_by_side,
            # On an accelerator a group for each thread: compiling takes longer than training.
            parts=len(self.devices) if self._on_cpu else max(len(self.devices), self._workers),
            limit=self._group_size,
        )
