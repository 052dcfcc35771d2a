"""Studies of searches: each arm is a searcher that spends the same trials on the same task, from the same seeds."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import jax
import numpy as np

from autorank.app.variants import PREDICTOR, variant
from autorank.base.jax_settings import own_settings
from autorank.base.programs import ProgramCache
from autorank.base.records import digest, flatten, plain, require_range
from autorank.base.typing import Key
from autorank.searchers.base import SEARCHERS, Context, Warm
from autorank.studies.earlier_tasks import told_sign, warm_from, warmed
from autorank.studies.journal import Cell
from autorank.studies.search_measures import MEASURES, Searched, measured, needs, usual
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
    warm: bool = False  # learns from the search before, on records such as dhen/kuairand after dhen/synthetic
    warm_first: int = 3  # earlier trials that it tries first
    trials: int = 0  # after so many it ends, and what it found stands; 0: the study's

    @property
    def fit(self) -> str:
        """Arms share a search if one ends before the other."""
        return digest(plain(self) | {"trials": 0})


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
            object.__setattr__(self, "measures", usual(self.trials))
        super().__post_init__()
        for name in self.measures:
            if needs(name) > self.trials:
                raise ValueError(
                    f"study.measures: {name} needs more trials than study.trials={self.trials}"
                )

    def table(self, name: str, load: Callable[[str], SearchTask]) -> SearchTask:
        """See `Study.table`; `earlier_tasks.warmed` says how an earlier task is named."""
        return warmed(name, load)

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
        require_range(f"{place}.trials", arm.trials, 0, self.trials)
        if (
            arm.warm
            and not SEARCHERS[variant(arm.searcher, self.batch).settings.name].traits["warms"]
        ):
            raise ValueError(
                f"{place}: warm has no effect with searcher={arm.searcher}, which learns nothing from earlier searches"
            )
        return arm


@SUBJECTS.register("search", SearchStudy)
def search_subject(study: SearchStudy) -> Subject:
    """Searchers spend the same trials on the same tasks."""

    def check(tables: Sequence[SearchTask]) -> None:
        for name, arm in study.resolved().items():
            for task in tables:
                task.refuse(f"study.arms.{name}", arm.decisions, study.trials)
                if arm.warm and task.earlier is None:
                    raise ValueError(
                        f"study.arms.{name}.warm: no search came before {task.name}; write study.records="
                        f"['{task.name} after {task.name}'], or another task of its space"
                    )

    return Subject(search_task, check, _Searches(study), lambda task: 0.0)


class _Searches:
    """Runs searches; threads call it side by side."""

    def __init__(self, study: SearchStudy):
        self._study, self._arms, self._programs = study, study.resolved(), ProgramCache()
        self._earlier = ProgramCache()  # searches before, by task and number

    def __call__(self, arms: Sequence[str], task: SearchTask, number: int, seed: int) -> Done:
        """See `Run`; each arm is a search of its own, ``number`` its seed."""
        s, ends = self._study, {n: self._arms[n].trials or self._study.trials for n in arms}
        arm, warm, before = self._arms[arms[0]], None, 0.0
        if arm.warm:
            (configs, labels), before = self._before(task, number, seed)
            warm = warm_from(task, configs, labels, arm.warm_first, number)
        place = randomness(task.name, number, seed)
        found, _, seconds = self._search(arm, task, place, max(ends.values()), warm)
        rows = {
            Cell(name, task.name, number): measured(found.until(ends[name]), s.measures)
            for name in arms
        }
        return Done(rows, seconds + before)

    def _before(
        self, task: SearchTask, number: int, seed: int
    ) -> tuple[tuple[np.ndarray, np.ndarray], float]:
        """Configurations and labels of the search before, by the default searcher, and its seconds if it ran now."""
        earlier, sign = task.earlier, told_sign(task)
        assert earlier is not None

        def search() -> tuple[np.ndarray, np.ndarray]:
            place = randomness(f"{earlier.name} earlier", number, seed)
            arm = SearchArm(searcher="autorank")
            found, configs, _ = self._search(arm, earlier, place, self._study.trials, None, sign)
            return configs, found.seen

        return self._earlier.get(f"{earlier.name} {sign} {number}", search)

    def _search(
        self,
        arm: SearchArm,
        task: SearchTask,
        place: tuple[Key, np.random.Generator],
        trials: int,
        warm: Warm | None,
        sign: int = 1,
    ) -> tuple[Searched, np.ndarray, float]:
        """One search, its configurations ``[n, k]``, and its seconds without compiling.

        Args:
            arm: what searches.
            task: what is searched.
            place: `randomness` of the search.
            trials: when it ends.
            warm: the search before.
            sign: by what results are multiplied before they are told.
        """
        s, part = self._study, task.part(arm.decisions)
        with own_settings():
            made = self._program(arm, part, warm)
            (key, noise) = place
            state = made.searcher.init(key)
            weighs = any(getattr(variant(arm.searcher, s.batch).settings, "alphas", ()))
            started, told, tried = time.perf_counter(), [], set()
            configs = []
            for count in range(0, trials, s.batch):
                asked = made.ask(jax.random.fold_in(key, count), state)
                batch = part.answered(np.asarray(asked.configs)[: trials - count], tried)
                results = part.results(batch)
                seen = sign * results[:, 0] + s.noise * noise.normal(size=len(batch))
                cost = (results[:, 1] - part.baseline_cost) * (weighs or s.tell_cost)
                metrics = np.stack([seen, cost], axis=1).astype(np.float32)
                state = made.tell(state, batch, metrics)
                told.append(np.column_stack([results, seen]))
                configs.append(batch)
            seconds = time.perf_counter() - started
        quality, cost, told_quality = np.concatenate(told).T
        return Searched(quality, cost, told_quality, task), np.concatenate(configs), seconds

    def _program(self, arm: SearchArm, task: SearchTask, warm: Warm | None) -> SearcherPrograms:
        """The searcher with its programs, which only the shapes of what warms it compile anew."""
        _, settings, predictor = variant(arm.searcher, self._study.batch)
        capacity = 32 * math.ceil((self._study.trials + 1) / 32)
        context = Context(capacity, self._study.initial, predictor, warm=warm, listed=task.listed)
        searcher = SEARCHERS[settings.name].make(task.space, settings, context)
        shapes = "" if warm is None else [part.shape for part in warm]
        name = f"{task.identity} {arm.searcher} {shapes}"
        made = self._programs.get(name, lambda: compiled(searcher))[0]
        return made._replace(searcher=searcher)
