"""Studies of the signs of failure: does each fire where its fault was planted, and how often where there is none.

A run is a short search by the paper's searcher: random pilots, then rounds of proposals. What it leaves (the
predictor's tau-b, predicted against told quality by round, the policies' entropy) is read by
`autorank.search.failure_signs` as that of a finished search is.
"""

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

import jax
import numpy as np

from autorank.base.jax_settings import own_settings
from autorank.base.metrics import kendall_tau_b
from autorank.base.programs import ProgramCache
from autorank.base.records import digest, plain, require, require_range
from autorank.base.typing import Float, Int
from autorank.search.failure_signs import (
    correlation_breakdown,
    policy_collapse,
    predictor_overfit,
)
from autorank.searchers.base import Context
from autorank.searchers.paper import PaperConfig, make_paper
from autorank.space.space import Space
from autorank.studies.journal import Cell
from autorank.studies.search_tasks import SearchTask, search_task
from autorank.studies.searcher_programs import SearcherPrograms, compiled, randomness
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
from autorank.surrogates.held_out import held_out_tau
from autorank.surrogates.settings import PredictorConfig


class Left(NamedTuple):
    """What a search leaves to be judged."""

    diagnosis: dict[str, Any]  # `held_out_tau`'s, and ``rounds``
    policies: list[dict[str, Any]]  # of each round


# Whether a sign fires.
SIGNS: Mapping[str, Callable[[Left], bool]] = {
    "overfit": lambda left: predictor_overfit(left.diagnosis) is not None,
    "collapse": lambda left: policy_collapse(left.policies) is not None,
    "decorrelation": lambda left: correlation_breakdown(left.diagnosis) is not None,
}
# What trials are told. `noise`: nothing that their configuration has a part in. `turned`: after the pilots, the true
# quality turned round at the median of random configurations.
LABELS = ("true", "noise", "turned")


@dataclass(frozen=True)
class SignArm:
    """A search, healthy or with a fault, and the sign that is looked for."""

    sign: str = "overfit"  # a name of `SIGNS`
    labels: str = "true"  # one of `LABELS`
    searcher: PaperConfig = field(default_factory=PaperConfig)
    predictor: PredictorConfig = field(default_factory=PredictorConfig)

    def __post_init__(self):
        require("sign", self.sign, tuple(SIGNS))
        require("labels", self.labels, LABELS)

    @property
    def fit(self) -> str:
        """Arms that look for different signs of the same search share it."""
        return digest(plain(self) | {"sign": ""})


@dataclass(frozen=True)
class SignStudy(Study):
    """Whether signs fire."""

    subject: str = "signs"
    pilots: int = 40  # random trials, told first
    rounds: int = 3  # of proposals
    searcher: dict[str, Any] = field(default_factory=dict)  # settings that all arms share
    predictor: dict[str, Any] = field(default_factory=dict)  # the same

    MEASURES: ClassVar[Mapping[str, Measure]] = {
        "fired": Named("share of searches in which the sign fires"),
        "heldout_tau": Named("Kendall's tau-b on held-out trials"),
        "late_tau": Named("Kendall's tau-b within the last round"),
    }
    SPLITS: ClassVar[str] = "seeds"
    PLAN: ClassVar[tuple[str, ...]] = ("pilots", "rounds")

    def __post_init__(self):
        super().__post_init__()
        require_range("study.pilots", self.pilots, 20, 10_000)
        require_range("study.rounds", self.rounds, 2, 1000)

    def arm(self, place: str, own: dict[str, Any]) -> SignArm:
        """See `Study.arm`."""
        refuse_unknown(place, own, SignArm)
        searcher = self.searcher | (own.pop("searcher", None) or {})
        refuse_unknown(f"{place}.searcher", searcher, PaperConfig)
        predictor = self.predictor | (own.pop("predictor", None) or {})
        refuse_unknown(f"{place}.predictor", predictor, PredictorConfig)
        try:
            return SignArm(
                **own,
                searcher=PaperConfig(**with_tuples(searcher)),
                predictor=PredictorConfig(**with_tuples(predictor)),
            )
        except ValueError as error:
            raise ValueError(f"{place}: {error}") from error


@SUBJECTS.register("signs", SignStudy)
def sign_subject(study: SignStudy) -> Subject:
    """Searches with and without a planted fault, and whether the signs of failure fire."""
    return Subject(search_task, lambda tables: None, _Searches(study), lambda task: 0.0)


class _Made(NamedTuple):
    """What one space and one arm need."""

    programs: SearcherPrograms
    predictor: Any


class _Searches:
    """Runs searches and looks for signs; threads call it side by side."""

    def __init__(self, study: SignStudy):
        self._study, self._arms, self._programs = study, study.resolved(), ProgramCache()

    def __call__(self, arms: Sequence[str], task: SearchTask, number: int, seed: int) -> Done:
        """See `Run`; the arms share one search."""
        arm = self._arms[arms[0]]
        with own_settings():  # they are the thread's own
            alike = dataclasses.replace(arm, sign=next(iter(SIGNS)), labels=LABELS[0])
            key = f"{task.space.fingerprint()} {alike.fit}"
            made = self._programs.get(key, lambda: self._make(arm, task.space))[0]
            started = time.perf_counter()
            left = self._search(arm, made, task, number, seed)
            seconds = time.perf_counter() - started
        last = left.diagnosis["rounds"][-1]
        values = {
            "heldout_tau": _number(left.diagnosis["heldout_tau"]),
            "late_tau": kendall_tau_b(np.array(last["predicted"]), np.array(last["true"])),
        }
        rows = {}
        for name in arms:
            fired = {"fired": float(SIGNS[self._arms[name].sign](left))}
            every = values | fired
            rows[Cell(name, task.name, number)] = {m: every[m] for m in self._study.measures}
        return Done(rows, seconds)

    def _search(self, arm: SignArm, made: _Made, task: SearchTask, number: int, seed: int) -> Left:
        """One search, and what it leaves."""
        s, programs = self._study, made.programs
        key, rng = randomness(task.name, number, seed)
        configs = np.asarray(task.space.sample(jax.random.fold_in(key, 0), s.pilots))
        metrics = told(arm.labels, task, configs, rng, is_pilot=True)
        state = programs.tell(programs.searcher.init(key), configs, metrics)
        rounds, policies, seen = [], [], [(configs, metrics)]
        for index in range(s.rounds):
            asked = programs.ask(jax.random.fold_in(key, index + 1), state)
            configs = np.asarray(asked.configs)
            metrics = told(arm.labels, task, configs, rng, is_pilot=False)
            predicted = np.asarray(asked.predicted)[:, 0].tolist()
            rounds.append({"round": index, "predicted": predicted, "true": metrics[:, 0].tolist()})
            info = {name: np.asarray(asked.info[name]) for name in ("entropy", "distinct")}
            policies.append({"round": index, **info})
            state = programs.tell(state, configs, metrics)
            seen.append((configs, metrics))
        every, results = (np.concatenate(parts) for parts in zip(*seen, strict=True))
        features = np.asarray(task.space.features(every))
        held_out = held_out_tau(made.predictor, jax.random.fold_in(key, 0), features, results)
        return Left(held_out | {"rounds": rounds}, policies)

    def _make(self, arm: SignArm, space: Space) -> _Made:
        # Loads flax.
        from autorank.surrogates.predictor import make_predictor

        capacity = self._study.pilots + self._study.rounds * arm.searcher.batch_size
        predictor = make_predictor(arm.predictor, space.num_features, capacity)
        searcher = make_paper(space, arm.searcher, Context(capacity, self._study.pilots, predictor))
        return _Made(compiled(searcher), predictor)


def told(
    labels: str,
    task: SearchTask,
    configs: Int[np.ndarray, "n k"],
    rng: np.random.Generator,
    *,
    is_pilot: bool,
) -> Float[np.ndarray, "n 2"]:
    """Quality and logarithm of the cost as a search is told them."""
    metrics = task.results(configs).astype(np.float32)
    metrics[:, 1] -= task.baseline_cost
    if labels == "noise":
        metrics[:, 0] = rng.normal(size=len(configs))
    elif labels == "turned" and not is_pilot:
        metrics[:, 0] = 2.0 - metrics[:, 0]
    return metrics


def _number(value: float | None) -> float:
    return float("nan") if value is None else float(value)
