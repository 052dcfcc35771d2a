"""The trials of one call of an objective as jobs of `training.pipeline.run_jobs`.

A trial is trained by the compact program of its structure, or with others of its width in the lanes of one population
(`choice`). Each outcome's details name the form and the reason. A population that fails is tried with half of its
lanes, down to compact programs; a compact program that fails gives a failed outcome.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import jax

from autorank.base.result import described
from autorank.models.cost import num_parameters
from autorank.objectives.base import Outcome
from autorank.objectives.choice import Choice, Group
from autorank.objectives.costs import CostModel, Work
from autorank.objectives.outcomes import lost_outcome, outcome_of
from autorank.training.compact import CompactPrograms, Request
from autorank.training.lane_driver import LaneDriver, LaneQueue, LaneResult, Task
from autorank.training.lane_pool import LanePool
from autorank.training.memory import Device, Shape, dense_size
from autorank.training.pipeline import Job
from autorank.training.scored import ScoredPrograms

LOG = logging.getLogger(__name__)
# One model too big for the device is a failed trial, not the end of the search.
FAILURES = (jax.errors.JaxRuntimeError, MemoryError)
# What a job returns: outcomes by the index of their request (None: not yet one), and jobs to add.
Results = tuple[Sequence[tuple[int, Outcome]] | Iterator[tuple[int, Outcome] | None], list[Job]]


class Trainers(NamedTuple):
    """Both forms of training, the choice between them, and the costs that each job measures."""

    compact: CompactPrograms
    lanes: LanePool
    choice: Choice
    costs: CostModel
    precision: str  # of a population's activations
    num_metrics: int
    # Trains instead of the compact programs where something is measured that needs scores.
    scored: ScoredPrograms | None = None

    @property
    def shape(self) -> Shape:
        """Of the data and the steps."""
        return self.compact.shape


def make_jobs(trainers: Trainers, requests: Sequence[Request], stop: int) -> list[Job]:
    """Jobs that train every request up to step ``stop``; their results are pairs of index and `Outcome`."""
    chosen = trainers.choice(requests, stop)
    devices, jobs = trainers.lanes.devices, []
    queues = [LaneQueue(Task(i, requests[i], stop) for i in g.members) for g in chosen.populations]
    for turn in range(len(devices)):
        # Each device begins with another width.
        for number, (group, queue) in enumerate(zip(chosen.populations, queues, strict=True)):
            device = devices[(turn + number) % len(devices)]
            if turn < len(group.members) and trainers.lanes.size(group.capacity, device, 1):
                jobs.append(LaneJob(trainers, group, queue, device).job())
    return jobs + [
        CompactJob(trainers, requests[i], stop, i, why).job() for i, why in chosen.compact.items()
    ]


@dataclass(frozen=True, eq=False)
class CompactJob:
    """Trains one request with the compact program of its structure."""

    trainers: Trainers
    request: Request
    stop: int
    index: int  # of the request
    why: str

    @cached_property
    def work(self) -> Work:
        """What the request costs."""
        return self.trainers.choice.work(self.request, self.stop)

    def job(self) -> Job:
        """For `run_jobs`."""
        return Job(self.work.structure, self.compile, self.train, "compact")

    def compile(self) -> Any:
        """The compiled program with the seconds that it took, or the error."""
        try:
            programs = self.trainers.scored or self.trainers.compact
            compiled = programs.compile(self.request.setting.model)
        except FAILURES as error:
            return error
        if compiled[1]:
            self.trainers.costs.compiled("compact", compiled[1])
        return compiled

    def train(self, compiled: Any) -> Results:
        """The outcome; a failed one where compiling or training raised one of `FAILURES`."""
        trainers, work = self.trainers, self.work
        details: dict[str, Any] = {"executor": "compact", "why": self.why}
        try:
            if isinstance(compiled, Exception):
                raise compiled
            program, compile_seconds = compiled
            if trainers.scored is None:
                state, seconds = trainers.compact.train(program, self.request, self.stop)
            else:
                state, seconds, values = trainers.scored.train(program, self.request, self.stop)
                details[trainers.scored.measure.name] = values.tolist()
        except FAILURES as error:
            lost = lost_outcome(
                described(error),
                num_windows=trainers.shape.num_windows,
                num_metrics=trainers.num_metrics,
                flops=work.flops,
                details=details,
            )
            return [(self.index, lost)], []
        details |= {"structure": work.structure, "num_parameters": num_parameters(state.params)}
        failed_step = int(state.failed_step)
        if failed_step < 0:
            trainers.costs.trained("compact", [work], seconds)
        outcome = outcome_of(
            state.curve,
            int(state.step),
            failed_step,
            self.stop,
            shape=trainers.shape,
            flops=work.flops,
            seconds=seconds,
            compile_seconds=compile_seconds,
            details=details,
        )
        return [(self.index, outcome)], []


@dataclass(frozen=True, eq=False)
class LaneJob:
    """Trains requests of a queue in the lanes of one device, until the queue is empty."""

    trainers: Trainers
    group: Group
    queue: LaneQueue  # shared with the other devices
    device: Device

    def job(self) -> Job:
        """For `run_jobs`."""
        size = self.trainers.lanes.size(self.group.capacity, self.device, 1)
        name = self.trainers.lanes.programs.name(self.group.capacity, size, self.device)
        return Job(name, self.compile, self.train, self.device)

    def compile(self) -> Any:
        """The driver with the seconds of compiling, the error, or None where nothing is left to do."""
        if not len(self.queue):
            return None
        try:
            found = self.trainers.lanes.driver(self.group.capacity, self.device)
        except FAILURES as error:
            return error
        if found[1]:
            self.trainers.costs.compiled("population", found[1])
        return found

    def train(self, compiled: Any) -> Results:
        """The outcomes as they come; another job for what is left where one of `FAILURES` was raised."""
        more: list[Job] = []
        return self._outcomes(compiled, more), more

    def _outcomes(self, compiled: Any, more: list[Job]) -> Iterator[tuple[int, Outcome] | None]:
        works: list[Work] = []
        seconds, costs = 0.0, self.trainers.costs
        try:
            if isinstance(compiled, Exception):
                raise compiled
            if compiled is None:
                return
            driver, compile_seconds = compiled
            share = compile_seconds / max(1, len(self.queue))
            for result in self._trained(driver):
                if result is None:
                    yield None
                    continue
                work = self.trainers.choice.work(result.task.request, result.task.stop)
                works.append(work._replace(rows=result.steps * self.trainers.shape.batch_size))
                # Cores take the lanes in turn, an accelerator side by side.
                seconds += result.seconds if costs.costs.cores_train else result.lane_seconds
                yield result.task.index, self._outcome(result, work, share)
        except FAILURES as error:
            more.extend(self._again(error))
        costs.trained("population", works, seconds)

    def _trained(self, driver: LaneDriver) -> Iterator[LaneResult | None]:
        return driver.train(self.queue)

    def _outcome(self, result: LaneResult, work: Work, compile_seconds: float) -> Outcome:
        trainers = self.trainers
        model = result.task.request.setting.model
        return outcome_of(
            result.curve,
            result.step,
            result.failed_step,
            result.task.stop,
            shape=trainers.shape,
            flops=work.flops,
            seconds=result.seconds,
            compile_seconds=compile_seconds,
            details={
                "executor": "population",
                "why": self.group.reason,
                "precision": trainers.precision,
                "models": result.models,
                "structure": work.structure,
                "num_parameters": dense_size(model, trainers.shape),
            },
        )

    def _again(self, error: Exception) -> list[Job]:
        """What is left: without our kernels if one of them is too big, else in half as many lanes, or compact."""
        lanes, capacity = self.trainers.lanes, self.group.capacity
        size = lanes.size(capacity, self.device, 1)
        reason = f"a population of {size} failed: {described(error)}"
        too_big = "shared memory" in str(error).lower()
        if too_big and lanes.programs.leave_to_compiler(capacity, self.device):
            LOG.warning("%s; it is compiled without kernels of our own", reason)
            return [self.job()]
        LOG.warning("%s; its trials are tried in fewer lanes", reason)
        if lanes.halve(capacity, self.device):
            group = self.group._replace(reason=reason)
            return [LaneJob(self.trainers, group, self.queue, self.device).job()]
        return [
            CompactJob(self.trainers, task.request, task.stop, task.index, reason).job()
            for task in self.queue.drain()
        ]
