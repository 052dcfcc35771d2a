"""Studies of searches at equal total cost: each arm is a searcher and a rule that decides what its proposals see."""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from autorank.app.variants import variant
from autorank.base.jax_settings import own_settings
from autorank.base.programs import ProgramCache
from autorank.base.records import as_tuples, digest, plain, require, require_range
from autorank.fidelity.fidelity import rising
from autorank.searchers.base import SEARCHERS, Context
from autorank.studies.campaign import Campaign, Standing, baseline_curve
from autorank.studies.journal import Cell
from autorank.studies.search_tasks import SearchTask, search_task
from autorank.studies.searcher_programs import SearcherPrograms, compiled, randomness
from autorank.studies.spending import SPENDING
from autorank.studies.study import (
    SUBJECTS,
    Done,
    Measure,
    Named,
    Study,
    Subject,
    refuse_unknown,
    with_tuples,
)

MEASURES: Mapping[str, Measure] = {
    "regret": Named("regret of the recommended configuration"),
    "tried": Named("configurations tried"),
    "spent": Named("whole runs spent"),
}
MOST_ROWS = 1000  # trials that a searcher is told at most


@dataclass(frozen=True)
class CostArm:
    """A searcher, and what its proposals see."""

    searcher: str = "autorank"  # canonical name of `autorank.app.variants`
    rule: str = "fixed"  # a name of `SPENDING`
    budget: float = 40.0  # whole runs
    fraction: float = 1.0  # share of the log; fixed
    rungs: tuple[float, ...] = (0.1, 0.3, 1.0)  # halving, hyperband, asha, freeze_thaw
    eta: float = 3.0  # halving, hyperband, asha
    round: int = 10  # configurations that compete; halving

    def __post_init__(self):
        as_tuples(self, "rungs")
        require_range("budget", self.budget, 1.0, 1e4)
        require_range("fraction", self.fraction, 0.001, 1.0)
        require_range("eta", self.eta, 1.01, 100.0)
        require_range("round", self.round, 1, 10_000)
        rising("rungs", self.rungs)
        if self.rungs[-1] != 1.0:
            raise ValueError(f"rungs={list(self.rungs)} must end with 1.0, the whole log")

    @property
    def fit(self) -> str:
        """Arms share a search if one ends before the other."""
        return digest(plain(self) | {"budget": 0})


@dataclass(frozen=True)
class CostStudy(Study):
    """What searches find for the same training."""

    subject: str = "cost"
    batch: int = 10  # proposals of an ask
    noise: float = 0.0  # standard deviation of a run's luck, in units of the median random regret
    tail: float = 0.25  # share of the windows reached that a label is the mean of

    MEASURES: ClassVar[Mapping[str, Measure]] = MEASURES
    SPLITS: ClassVar[str] = "seeds"
    PLAN: ClassVar[tuple[str, ...]] = ("batch", "noise", "tail")

    def __post_init__(self):
        super().__post_init__()
        require_range("study.batch", self.batch, 1, 1000)
        require_range("study.noise", self.noise, 0.0, 1e3)
        require_range("study.tail", self.tail, 0.001, 1.0)

    def missing(self, arm: CostArm) -> str:
        """See `Study.missing`."""
        lacks = SPENDING[arm.rule].traits.get("lacks")
        return lacks() if lacks else ""

    def arm(self, place: str, own: dict[str, Any]) -> CostArm:
        """See `Study.arm`."""
        refuse_unknown(place, own, CostArm)
        rule = own.get("rule", "fixed")
        require(f"{place}.rule", rule, tuple(SPENDING))
        traits = SPENDING[rule].traits
        proposes = traits.get("proposes", False)
        reads = ("rule", "budget", *traits["reads"], *(() if proposes else ("searcher",)))
        for key in own.keys() - set(reads):
            raise ValueError(f"{place}.{key} has no effect with rule={rule}; leave it out")
        usual = "random" if proposes else "autorank"
        try:
            made = variant(own.get("searcher", usual), self.batch)
            arm = CostArm(**with_tuples(own | {"searcher": made.name}))
        except ValueError as error:
            raise ValueError(f"{place}: {error}") from error
        if rule == "freeze_thaw" and not SEARCHERS[made.settings.name].traits.get("thaws", False):
            raise ValueError(
                f"{place}: rule=freeze_thaw needs a searcher that decides what goes on, not {made.settings.name}; "
                "write searcher: autorank"
            )
        return arm


@SUBJECTS.register("cost", CostStudy)
def cost_subject(study: CostStudy) -> Subject:
    """Searches spend the same training on the same tasks."""

    def check(tables: Sequence[SearchTask]) -> None:
        for task in tables:
            baseline_curve(task.benchmark)

    return Subject(search_task, check, _Campaigns(study), lambda task: 0.0)


class _Campaigns:
    """Runs searches; threads call it side by side."""

    def __init__(self, study: CostStudy):
        self._study, self._arms, self._programs = study, study.resolved(), ProgramCache()

    def __call__(self, arms: Sequence[str], task: SearchTask, number: int, seed: int) -> Done:
        """See `Run`; arms that share a search differ in their budgets."""
        s, own = self._study, {name: self._arms[name] for name in arms}
        arm = max(own.values(), key=lambda a: a.budget)
        with own_settings():
            key, rng = randomness(task.name, number, seed)
            programs = self._program(arm, task)
            started = time.perf_counter()
            campaign = Campaign(task, programs, key, rng, s.noise, s.tail)
            path = spent_within(arm, campaign)
            seconds = time.perf_counter() - started
        rows = {}
        for name, one in own.items():
            end = [step for step in path if step.spent <= one.budget + 1e-9][-1]
            values = {
                "regret": campaign.regret(end.chosen),
                "tried": float(end.tried),
                "spent": end.spent,
            }
            rows[Cell(name, task.name, number)] = {m: values[m] for m in s.measures}
        return Done(rows, seconds)

    def _program(self, arm: CostArm, task: SearchTask) -> SearcherPrograms:
        """The searcher with its programs."""
        _, settings, predictor = variant(arm.searcher, self._study.batch)
        least = arm.fraction if arm.rule == "fixed" else arm.rungs[0]
        rows = min(MOST_ROWS, 32 * math.ceil((arm.budget / least + self._study.batch) / 32))
        rungs = arm.rungs if arm.rule == "freeze_thaw" else ()
        context = Context(rows, predictor=predictor, rungs=rungs, listed=task.listed)
        searcher = SEARCHERS[settings.name].make(task.space, settings, context)
        name = f"{task.identity} {arm.searcher} {rows} {rungs}"
        return self._programs.get(name, lambda: compiled(searcher))[0]


def spent_within(arm: CostArm, campaign: Campaign) -> list[Standing]:
    """What an arm would recommend after each round, until its budget is spent; the baseline before the first."""
    path = [Standing(0.0, campaign.baseline, 0)]
    for step in SPENDING[arm.rule].make(arm, campaign):
        path.append(step)
        if campaign.spent >= arm.budget or campaign.full:
            return path
    return path
