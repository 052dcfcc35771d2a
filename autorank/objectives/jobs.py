"""The trials of one call of an objective as jobs of `training.pipeline.run_jobs`.

A trial is trained by the compact program of its structure, or with others of its width in one population (`choice`).
Each outcome's details name the form and the reason. A population that fails is tried in halves, down to compact
programs; a compact program that fails gives a failed outcome.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import jax

from autorank.base.result import described
from autorank.models.cost import num_parameters
from autorank.models.dhen import DhenConfig
from autorank.objectives.base import Outcome
from autorank.objectives.choice import Choice, Group
from autorank.objectives.costs import CostModel, Work
from autorank.objectives.outcomes import lost_outcome, outcome_of
from autorank.training.compact import CompactPrograms, Request
from autorank.training.groups import Device, Shape, dense_size, member_bytes
from autorank.training.pipeline import Job
from autorank.training.population_programs import GroupResult, PopulationPrograms, member_state
from autorank.training.step import Curve

LOG = logging.getLogger(__name__)
# One model too big for the device is a failed trial, not the end of the search.
FAILURES = (jax.errors.JaxRuntimeError, MemoryError)
# What a job returns: outcomes by the index of their request, and jobs to add.
Results = tuple[list[tuple[int, Outcome]], list[Job]]


class Trainers(NamedTuple):
    """Both forms of training, the choice between them, and the costs that each job measures."""

    compact: CompactPrograms
    populations: PopulationPrograms
    choice: Choice
    costs: CostModel
    precision: str  # of a population's activations
    num_metrics: int

    @property
    def shape(self) -> Shape:
        """Of the data and the steps."""
        return self.compact.shape


def make_jobs(trainers: Trainers, requests: Sequence[Request], stop: int) -> list[Job]:
    """Jobs that train every request up to step ``stop``; their results are pairs of index and `Outcome`."""
    chosen = trainers.choice(requests, stop)
    devices = trainers.choice.devices
    populations = [
        PopulationJob(trainers, requests, stop, group, devices[number % len(devices)]).job()
        for number, group in enumerate(chosen.populations)
    ]
    return populations + [
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
            compiled = self.trainers.compact.compile(self.request.setting.model)
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
            state, seconds = trainers.compact.train(program, self.request, self.stop)
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
class PopulationJob:
    """Trains a group of requests as one population."""

    trainers: Trainers
    requests: Sequence[Request]  # of the whole call
    stop: int
    group: Group
    device: Device

    @cached_property
    def members(self) -> list[Request]:
        """The group's requests, in its order."""
        return [self.requests[i] for i in self.group.members]

    @property
    def models(self) -> list[DhenConfig]:
        """What each member trains."""
        return [member.setting.model for member in self.members]

    @cached_property
    def works(self) -> list[Work]:
        """What each member costs."""
        return [self.trainers.choice.work(member, self.stop) for member in self.members]

    def job(self) -> Job:
        """For `run_jobs`."""
        name = self.trainers.populations.name(self.group.layout, self.device)
        return Job(name, self.compile, self.train, self.device)

    def compile(self) -> Any:
        """The compiled program with the seconds that it took, or the error."""
        populations = self.trainers.populations
        try:
            compiled = populations.compile(self.group.layout, self.models, self.device)
        except FAILURES as error:
            return error
        if compiled[1]:
            self.trainers.costs.compiled("population", compiled[1], self.group.layout.size)
        return compiled

    def train(self, compiled: Any) -> Results:
        """The members' outcomes; smaller jobs where compiling or training raised one of `FAILURES`."""
        trainers = self.trainers
        try:
            if isinstance(compiled, Exception):
                raise compiled
            program, compile_seconds = compiled
            result = trainers.populations.train(
                program,
                self.group.layout,
                self.models,
                [m.seed for m in self.members],
                [m.setting.hparams for m in self.members],
                self.device,
                self.stop,
            )
        except FAILURES as error:
            return [], self._smaller_jobs(error)
        trainers.costs.trained("population", self.works, result.seconds)
        outcomes = [
            self._outcome(result, at, compile_seconds / len(self.members))
            for at in range(len(self.members))
        ]
        self._keep_best(result, outcomes)
        return list(zip(self.group.members, outcomes, strict=True)), []

    def _outcome(self, result: GroupResult, at: int, compile_seconds: float) -> Outcome:
        """The outcome of member ``at``."""
        work, shape = self.works[at], self.trainers.shape
        failed_step = int(result.failed_steps[at])
        return outcome_of(
            Curve(*(column[:, at] for column in result.curves)),
            self.stop if failed_step < 0 else failed_step + 1,
            failed_step,
            self.stop,
            shape=shape,
            flops=work.flops,
            seconds=result.seconds / len(self.members),
            compile_seconds=compile_seconds,
            details={
                "executor": "population",
                "why": self.group.reason,
                "precision": self.trainers.precision,
                "models": len(self.members),
                "structure": work.structure,
                "num_parameters": dense_size(self.members[at].setting.model, shape),
            },
        )

    def _keep_best(self, result: GroupResult, outcomes: Sequence[Outcome]) -> None:
        """Caches the states of the best members, which a search is most likely to continue."""
        states, shape = self.trainers.compact.states, self.trainers.shape
        alive = [at for at, outcome in enumerate(outcomes) if not outcome.failed]
        alive.sort(key=lambda at: outcomes[at].ne[0])
        room = states.limit // max(member_bytes(model, shape) for model in self.models)
        try:
            # The best one last, so that it is evicted last.
            for at in reversed(alive[:room]):
                member = self.members[at]
                model, hparams = member.setting
                states.put(member.key, member_state(result, model, hparams, at, shape))
        except FAILURES as error:
            LOG.info("the states of a population are not cached: %s", described(error))

    def _smaller_jobs(self, error: Exception) -> list[Job]:
        """The group in halves, or its single member as a compact program."""
        reason = f"a population of {len(self.members)} failed: {described(error)}"
        LOG.warning("%s; its trials are tried in smaller ones", reason)
        if len(self.members) == 1:
            (index,) = self.group.members
            return [CompactJob(self.trainers, self.members[0], self.stop, index, reason).job()]
        halves = self.trainers.choice.halves(self.group, self.models, error, reason)
        return [
            PopulationJob(self.trainers, self.requests, self.stop, half, self.device).job()
            for half in halves
        ]
