"""The trials of one call of an objective as jobs: which program trains each of them, and what its outcome is.

A trial is trained by the compact program of its structure, or with others of its width in one population; the two
give the same outcome up to rounding. What is decided, and why, stands in each outcome's details.
"""

import logging
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from autorank.base.programs import ProgramCache
from autorank.base.result import described
from autorank.models.cost import flops_per_example, num_parameters
from autorank.models.dhen import structure_key
from autorank.objectives.base import Outcome
from autorank.objectives.executor import CostModel, Work, choose
from autorank.population.plans import Plan
from autorank.training.compact import Compact, Request, Setting, States
from autorank.training.groups import (
    Device,
    GroupResult,
    Groups,
    Shape,
    dense_size,
    form_groups,
    free_bytes,
    member_bytes,
)
from autorank.training.pipeline import Job, Lane
from autorank.training.trainer import Curve, lifetime_ne, window_ne

LOG = logging.getLogger(__name__)
# One model too big for the device is a failed trial, not the end of the search.
FAILURES = (jax.errors.JaxRuntimeError, MemoryError)
Results = tuple[list[tuple[int, Outcome]], list[Job]]  # of a job: outcomes, and jobs to add


class Builds(NamedTuple):
    """The two ways to train, with what they share."""

    compact: Compact
    groups: Groups
    states: States
    cache: ProgramCache  # of both
    costs: CostModel


class Rules(NamedTuple):
    """What the settings say about who trains."""

    executor: str  # training.executor.EXECUTORS
    workers: int  # threads
    places: Sequence[Device]  # of populations
    group_size: int  # most models of a population, 0 for as many as fit
    precision: str  # of a population's activations
    only_compact: str = ""  # a reason why there is no choice


def lanes_of(rules: Rules) -> dict[Any, Lane]:
    """What trains side by side."""
    cpu, workers = jax.default_backend() == "cpu", rules.workers
    lanes: dict[Any, Lane] = {device: Lane(_populations(rules)) for device in rules.places}
    # Work that is queued on an accelerator keeps its thread waiting: half of them go on compiling.
    lanes["compact"] = Lane(workers if cpu else max(1, workers // 2), elastic=True)
    return lanes


def _populations(rules: Rules) -> int:
    """On one device: one keeps a core of a CPU busy, so several share the memory; an accelerator is for one alone."""
    return rules.workers if jax.default_backend() == "cpu" else 1


def make_jobs(
    builds: Builds, rules: Rules, shape: Shape, num_metrics: int
) -> Callable[[Sequence[Request], int], list[Job]]:
    """A function from requests and the last step to jobs for `training.pipeline.run_jobs`.

    A job's results are pairs of a request's index and its `Outcome`. A population that does not fit is tried in
    halves, down to compact programs; a compact program that does not fit is a failed outcome.
    """
    compact, groups, states, cache, costs = builds
    cpu = jax.default_backend() == "cpu"
    most = [rules.group_size]  # models of a group; halved by every group that was too large

    def work_of(setting: Setting, rows: int) -> Work:
        flops = float(flops_per_example(setting.model, shape.num_fields, shape.num_dense))
        return Work(structure_key(setting.model), flops, rows)

    def outcome_of(
        curve: Curve, step: int, failed_step: int, stop: int, flops: float, **rest: Any
    ) -> Outcome:
        """``step``: steps that count; ``curve`` of one model, on the host or the device."""
        reached = step * shape.num_windows // shape.num_steps
        counts = np.arange(shape.num_windows)[:, None] < reached
        windows = np.where(counts, window_ne(curve), np.nan)
        failed = (
            "" if failed_step < 0 else f"non-finite loss at step {failed_step} of {shape.num_steps}"
        )
        ne = tuple(float(v) for v in lifetime_ne(curve))
        return Outcome(windows, ne, flops, stop * shape.batch_size, failed=failed, **rest)

    def nothing(flops: float, error: Exception, details: dict[str, Any]) -> Outcome:
        curve, nan = np.full((shape.num_windows, num_metrics), np.nan), (math.nan,) * num_metrics
        return Outcome(curve, nan, flops, 0, 0.0, 0.0, described(error), details)

    def compact_job(i: int, request: Request, stop: int, why: str) -> Job:
        work = work_of(request.setting, stop * shape.batch_size)

        def prepare() -> Any:
            try:
                found = compact.compile(request.setting.model)
            except FAILURES as error:
                return error
            if found[1]:
                costs.compiled("compact", found[1])
            return found

        def train(prepared: Any) -> Results:
            details: dict[str, Any] = {"executor": "compact", "why": why}
            try:
                if isinstance(prepared, Exception):
                    raise prepared
                state, seconds = compact.train(prepared[0], request, stop)
            except FAILURES as error:
                return [(i, nothing(work.flops, error, details))], []
            details |= {
                "structure": work.structure,
                "num_parameters": num_parameters(state.params),
            }
            failed_step = int(state.failed_step)
            if failed_step < 0:
                costs.trained("compact", [work], seconds)
            done = outcome_of(
                state.curve,
                int(state.step),
                failed_step,
                stop,
                work.flops,
                seconds=seconds,
                compile_seconds=prepared[1],
                details=details,
            )
            return [(i, done)], []

        return Job(work.structure, prepare, train, "compact")

    def group_job(
        members: Sequence[int],
        batch: Sequence[Request],
        stop: int,
        plan: Plan,
        why: str,
        place: int,
    ) -> Job:
        """``members`` are indices into ``batch``."""
        device = rules.places[place % len(rules.places)]
        requests = [batch[i] for i in members]
        models = [r.setting.model for r in requests]
        rates, seeds = [r.setting.hparams for r in requests], [r.seed for r in requests]
        works = [work_of(r.setting, stop * shape.batch_size) for r in requests]

        def prepare() -> Any:
            try:
                found = groups.compile(plan, models, device)
            except FAILURES as error:
                return error
            if found[1]:
                costs.compiled("population", found[1], plan.size)
            return found

        def train(prepared: Any) -> Results:
            try:
                if isinstance(prepared, Exception):
                    raise prepared
                result = groups.train(prepared[0], plan, models, seeds, rates, device, stop)
            except FAILURES as error:
                return [], smaller(error)
            costs.trained("population", works, result.seconds)
            found = []
            for at, (i, work) in enumerate(zip(members, works, strict=True)):
                failed = int(result.failed_steps[at])
                details = {
                    "executor": "population",
                    "why": why,
                    "precision": rules.precision,
                    "models": len(members),
                    "structure": work.structure,
                    "num_parameters": dense_size(models[at], shape),
                }
                done = outcome_of(
                    Curve(*(c[:, at] for c in result.curves)),
                    stop if failed < 0 else failed + 1,
                    failed,
                    stop,
                    work.flops,
                    seconds=result.seconds / len(members),
                    compile_seconds=prepared[1] / len(members),
                    details=details,
                )
                found.append((i, done))
            keep_best(result, [done for _, done in found])
            return found, []

        def keep_best(result: GroupResult, outcomes: Sequence[Outcome]) -> None:
            """The members that a search will most likely ask for again, as many as the cache of states holds."""
            alive = [at for at, done in enumerate(outcomes) if not done.failed]
            alive.sort(key=lambda at: outcomes[at].ne[0])
            room = states.limit // max(member_bytes(model, shape) for model in models)
            try:
                for at in reversed(alive[:room]):
                    states.put(requests[at].key, groups.member(result, models, rates, at))
            except FAILURES as error:
                LOG.info("states of a population are not kept: %s", described(error))

        def smaller(error: Exception) -> list[Job]:
            reason = f"a population of {len(members)} failed: {described(error)}"
            LOG.warning("%s; its trials are tried in smaller ones", reason)
            if len(members) == 1:
                return [compact_job(members[0], requests[0], stop, reason)]
            half = len(members) // 2
            if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error):
                most[0] = min(most[0] or half, half)
            return [
                group_job(part, batch, stop, groups.plan([batch[i].setting.model for i in part]), reason, place)
                for part in (members[:half], members[half:])
            ]  # fmt: skip

        return Job(f"population on {device}: {plan}", prepare, train, device)

    def without_choice(request: Request) -> str:
        """Why it is compact whatever the costs, or nothing."""
        if rules.only_compact:
            return rules.only_compact
        if rules.executor == "compact":
            return "search.executor=compact"
        return "continues an earlier run" if request.key in states else ""

    def jobs(batch: Sequence[Request], stop: int) -> list[Job]:
        whys = {i: why for i, request in enumerate(batch) if (why := without_choice(request))}
        open_ = [i for i in range(len(batch)) if i not in whys]
        formed = form_groups(
            [batch[i].setting.model for i in open_],
            shape,
            free=min(map(free_bytes, rules.places)) // _populations(rules) if open_ else 0,
            # On an accelerator a group for each thread: compiling takes longer than training.
            parts=len(rules.places) if cpu else max(len(rules.places), rules.workers),
            limit=most[0],
        )
        found: list[Job] = []
        for number, group in enumerate(formed):
            members = [open_[i] for i in group]
            settings = [batch[i].setting for i in members]
            plan = groups.plan([s.model for s in settings])
            works = [work_of(s, stop * shape.batch_size) for s in settings]
            there = {w.structure for w in works if w.structure in cache}
            share = max(1, rules.workers // len(formed))
            decision = choose(
                works, plan, there, groups.known(), share, costs.costs, rules.executor
            )
            LOG.info("%s: %s", decision.kind, decision.reason)
            if decision.kind == "population":
                found.append(group_job(members, batch, stop, plan, decision.reason, number))
            else:
                whys |= dict.fromkeys(members, decision.reason)
        return found + [compact_job(i, batch[i], stop, why) for i, why in sorted(whys.items())]

    return jobs
