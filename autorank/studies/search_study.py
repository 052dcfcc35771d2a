"""Studies of searches: each arm is a searcher that spends the same trials on the same task, from the same seeds."""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import jax
import numpy as np

from autorank.app.variants import PREDICTOR, variant
from autorank.base.jax_settings import own_settings
from autorank.base.programs import ProgramCache
from autorank.base.records import digest, flatten, plain, require_range
from autorank.searchers.base import SEARCHERS, Context
from autorank.space.space import Space
from autorank.studies.journal import Cell
from autorank.studies.search_measures import MEASURES, Searched, measured, needs
from autorank.studies.search_tasks import SearchTask, search_task
from autorank.studies.searcher_programs import SearcherPrograms, compiled, randomness
from autorank.studies.study import SUBJECTS, Done, Measure, Study, Subject, refuse_unknown


@dataclass(frozen=True)
class SearchArm:
    """A searcher with its settings."""

    searcher: str = "paper"  # canonical name of `autorank.app.variants`
    decisions: int = (
        0  # only the first ones of the space are searched, the others stay at the baseline; 0: all
    )

    @property
    def fit(self) -> str:
        """No two arms share a search."""
        return digest(plain(self))


@dataclass(frozen=True)
class SearchStudy(Study):
    """What searchers find with the same number of trials."""

    subject: str = "search"
    trials: int = 100
    batch: int = 10  # proposals of an ask
    initial: int = 20  # trials before a predictor is trusted
    noise: float = 0.0  # standard deviation of what is told, in units of the median random regret
    # Also to arms that do not weigh it (alphas=[0.0]), whose predictor may learn from it.
    tell_cost: bool = False
    predictor: dict[str, Any] = field(default_factory=dict)  # what all arms that read it share

    MEASURES: ClassVar[Mapping[str, Measure]] = MEASURES
    SPLITS: ClassVar[str] = "seeds"
    PLAN: ClassVar[tuple[str, ...]] = ("trials", "batch", "initial", "noise", "tell_cost")

    def __post_init__(self):
        require_range("study.batch", self.batch, 1, 1000)
        require_range("study.trials", self.trials, self.batch, 10_000)
        require_range("study.noise", self.noise, 0.0, 1e3)
        if not self.measures:
            reached = tuple(name for name in MEASURES if needs(name) <= self.trials)
            object.__setattr__(self, "measures", reached)
        super().__post_init__()
        for name in self.measures:
            if needs(name) > self.trials:
                raise ValueError(
                    f"study.measures: {name} needs more trials than study.trials={self.trials}"
                )

    def arm(self, place: str, own: dict[str, Any]) -> SearchArm:
        """See `Study.arm`; beside the fields of `SearchArm` it takes ``settings`` and ``predictor``."""
        settings = flatten(own.pop("settings", None) or {})
        predictor = flatten(own.pop("predictor", None) or {}, PREDICTOR)
        refuse_unknown(place, own, SearchArm)
        name = own.get("searcher", "paper")
        try:
            base = variant(name, self.batch)
            if SEARCHERS[base.settings.name].traits["reads_predictor"]:
                predictor = flatten(self.predictor, PREDICTOR) | predictor
            values: dict[str, Any] = own | {
                "searcher": variant(name, self.batch, settings | predictor).name
            }
            arm = SearchArm(**values)
        except ValueError as error:
            raise ValueError(f"{place}: {error}") from error
        require_range(f"{place}.decisions", arm.decisions, 0, 10_000)
        return arm


@SUBJECTS.register("search", SearchStudy)
def search_subject(study: SearchStudy) -> Subject:
    """Searchers spend the same trials on the same tasks."""

    def check(tables: Sequence[SearchTask]) -> None:
        for name, arm in study.resolved().items():
            for task in tables:
                task.refuse(f"study.arms.{name}", arm.decisions, study.trials)

    return Subject(search_task, check, _Searches(study), lambda task: 0.0)


class _Searches:
    """Runs searches; threads call it side by side."""

    def __init__(self, study: SearchStudy):
        self._study, self._arms, self._programs = study, study.resolved(), ProgramCache()

    def __call__(self, arms: Sequence[str], task: SearchTask, number: int, seed: int) -> Done:
        """See `Run`; each arm is a search of its own, ``number`` its seed."""
        rows, seconds = {}, 0.0
        for name in arms:
            found, took = self._search(self._arms[name], task, number, seed)
            rows[Cell(name, task.name, number)] = measured(found, self._study.measures)
            seconds += took
        return Done(rows, seconds)

    def _search(
        self, arm: SearchArm, task: SearchTask, number: int, seed: int
    ) -> tuple[Searched, float]:
        """One search, and its seconds without compiling."""
        s, part = self._study, task.part(arm.decisions)
        with own_settings():
            made = self._programs.get(
                f"{part.space.fingerprint()} {arm.searcher}", lambda: self._make(arm, part.space)
            )[0]
            key, noise = randomness(task.name, number, seed)
            state = made.searcher.init(key)
            weighs = any(getattr(variant(arm.searcher, s.batch).settings, "alphas", ()))
            started, trials, tried = time.perf_counter(), [], set()
            for told in range(0, s.trials, s.batch):
                asked = made.ask(jax.random.fold_in(key, told), state)
                batch = part.answered(np.asarray(asked.configs)[: s.trials - told], tried)
                results = part.results(batch)
                seen = results[:, 0] + s.noise * noise.normal(size=len(batch))
                cost = (results[:, 1] - part.baseline_cost) * (weighs or s.tell_cost)
                metrics = np.stack([seen, cost], axis=1).astype(np.float32)
                state = made.tell(state, batch, metrics)
                trials.append(np.column_stack([results, seen]))
            seconds = time.perf_counter() - started
        quality, cost, told_quality = np.concatenate(trials).T
        return Searched(quality, cost, told_quality, task), seconds

    def _make(self, arm: SearchArm, space: Space) -> SearcherPrograms:
        _, settings, predictor = variant(arm.searcher, self._study.batch)
        capacity = 32 * math.ceil((self._study.trials + 1) / 32)
        context = Context(capacity, self._study.initial, predictor)
        return compiled(SEARCHERS[settings.name].make(space, settings, context))
