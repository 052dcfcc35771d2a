"""Studies of predictors: each arm learns from some records and is tested on others."""

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from typing import Any, ClassVar

import numpy as np

from autorank.base.jax_settings import own_settings
from autorank.base.metrics import kendall_tau_b_within
from autorank.base.programs import ProgramCache
from autorank.base.records import digest, plain, require, require_range
from autorank.studies.inputs import InputConfig
from autorank.studies.journal import Cell
from autorank.studies.predictors import KINDS, Program, Task
from autorank.studies.records import Records, derived, records_of
from autorank.studies.splits import overlap, split_of
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
from autorank.surrogates.measures import LARGEST_K, MEASURES, measured
from autorank.surrogates.settings import PredictorConfig

WITHIN = "tau_b_within"  # the measure that `PredictorStudy.family` is for


@dataclass(frozen=True)
class PredictorArm:
    """A predictor, and how much it learns from."""

    kind: str = "ensemble"  # a name of `KINDS`
    num_train: int = 160  # records to learn from
    # How many of them come from the tested part of the records, if there is one; None: as they come.
    num_own: int | None = None
    predictor: PredictorConfig = field(default_factory=PredictorConfig)  # kind=ensemble
    input: InputConfig = field(default_factory=InputConfig)  # all kinds but gaussian and mean
    neighbours: int = 5  # kind=neighbours

    def __post_init__(self):
        require_range("num_train", self.num_train, 2, 1_000_000)
        require_range("num_own", self.num_own or 0, 0, self.num_train)
        most = self.num_train if self.kind == "neighbours" else 1_000_000
        require_range("neighbours", self.neighbours, 1, most)

    @property
    def members(self) -> int:
        """How many predictions are averaged."""
        return self.predictor.members if self.kind == "ensemble" else 1

    @property
    def fit(self) -> str:
        """What arms have in common whose predictions are averages over the first members of one fit."""
        return digest(plain(self.with_members(1)))

    def with_members(self, members: int) -> "PredictorArm":
        """The same arm with another number of members."""
        return dataclasses.replace(
            self, predictor=dataclasses.replace(self.predictor, members=members)
        )


@dataclass(frozen=True)
class PredictorStudy(Study):
    """How well predictors order configurations that they have not seen."""

    subject: str = "predictor"
    sampled: int = 2000  # random configurations of a benchmark that is not a table
    num_train: int = 160  # records to learn from, unless an arm says otherwise
    num_test: int = 296  # records to be tested on
    predictor: dict[str, Any] = field(default_factory=dict)  # what all ensembles share
    # A decision whose values are families of models: tau_b_within compares records of one family alone.
    family: str = ""
    clip: float = 1.0  # worse qualities than this quantile of a table's count as it

    MEASURES: ClassVar[Mapping[str, Measure]] = {
        **MEASURES,
        WITHIN: Named("Kendall's tau-b within families"),
    }
    PLAN: ClassVar[tuple[str, ...]] = ("num_test", "family")

    def __post_init__(self):
        object.__setattr__(self, "measures", self.measures or tuple(MEASURES))
        super().__post_init__()
        if (WITHIN in self.measures) != bool(self.family):
            raise ValueError(
                f"study.measures={list(self.measures)} and study.family={self.family!r}: {WITHIN} and a family "
                f"need each other; write both, or neither"
            )
        require_range("study.clip", self.clip, 0.5, 1.0)
        require_range("study.num_test", self.num_test, LARGEST_K, 1_000_000)

    def missing(self, arm: PredictorArm) -> str:
        """See `Study.missing`."""
        package = KINDS[arm.kind].traits["needs"]
        if not package or find_spec(package):
            return ""
        return f"the package {package}: pip install 'autorank[studies]'"

    def table(self, name: str, load: Callable[[str], Records]) -> Records:
        """See `Study.table`; `records.derived` says which parts of tables have names."""
        return derived(name, load)

    def arm(self, place: str, own: dict[str, Any]) -> PredictorArm:
        """See `Study.arm`."""
        refuse_unknown(place, own, PredictorArm)
        kind = own.get("kind", "ensemble")
        reads = set(KINDS[kind].traits["reads"])
        for key in {"predictor", "neighbours", "input"} & own.keys() - reads:
            raise ValueError(f"{place}.{key} has no effect with kind={kind}; leave it out")
        predictor: dict[str, Any] = {**self.predictor, **(own.pop("predictor", None) or {})}
        refuse_unknown(f"{place}.predictor", predictor, PredictorConfig)
        inputs = dict(own.pop("input", None) or {})
        refuse_unknown(f"{place}.input", inputs, InputConfig)
        try:
            values: dict[str, Any] = {"num_train": self.num_train} | own
            values["input"] = InputConfig(**inputs)
            arm = PredictorArm(**values)
            if kind != "ensemble":
                return arm
            require_range("predictor.members", predictor.get("members", 10), 1, 10_000)
            return dataclasses.replace(arm, predictor=PredictorConfig(**with_tuples(predictor)))
        except ValueError as error:
            raise ValueError(f"{place}: {error}") from error


@SUBJECTS.register("predictor", PredictorStudy)
def predictor_subject(study: PredictorStudy) -> Subject:
    """Predictors learn from some records of a table and are tested on others."""
    return Subject(
        partial(records_of, sampled=study.sampled, clip=study.clip),
        partial(refuse_too_few, study),
        _Fits(study),
        lambda table: overlap(table.num_own, study.num_test),
    )


def refuse_too_few(study: PredictorStudy, tables: Sequence[Records]) -> None:
    """Refuses arms that want more records than a table has, and tables without the study's families.

    Raises:
        ValueError: with the numbers, or the decisions that there are.
    """
    for table in tables if study.family else ():
        require(f"study.family on {table.name}", study.family, table.space.names)
    for name, arm in study.resolved().items():
        for table in tables:
            _refuse_arm(name, arm, study.num_test, table)


def _refuse_arm(name: str, arm: PredictorArm, num_test: int, table: Records) -> None:
    if arm.num_train + num_test > len(table):
        raise ValueError(
            f"study.arms.{name}: num_train={arm.num_train} and study.num_test={num_test} are more than "
            f"the {len(table)} records of {table.name}; write smaller ones"
        )
    if arm.num_own is None:
        return
    if table.own is None:
        raise ValueError(
            f"study.arms.{name}.num_own={arm.num_own} says how many records are of the tested part, but "
            f"{table.name} has none; write 'TABLE where DECISION=VALUE' or 'TABLE from OTHER' in study.records"
        )
    inside, outside = table.num_own, len(table) - table.num_own
    if arm.num_own + num_test > inside or arm.num_train - arm.num_own > outside:
        raise ValueError(
            f"study.arms.{name}: num_own={arm.num_own} of num_train={arm.num_train} and study.num_test={num_test} are "
            f"more than {table.name} has, {inside} inside and {outside} outside of the tested part; write smaller ones"
        )


class _Fits:
    """Fits and tests predictors; threads call it side by side."""

    def __init__(self, study: PredictorStudy):
        self._study, self._arms, self._programs = study, study.resolved(), ProgramCache()
        most: dict[str, int] = {}
        for arm in self._arms.values():
            most[arm.fit] = max(most.get(arm.fit, 1), arm.members)
        self._members = most

    def __call__(self, arms: Sequence[str], table: Records, number: int, seed: int) -> Done:
        """See `Run`; one fit has the members of the largest arm of the study."""
        first = self._arms[arms[0]]
        fit = first.with_members(self._members[first.fit])
        with own_settings():  # they are the thread's own
            program = self._program(fit, table)
            split = split_of(table.name, len(table), self._study.num_test, number, seed, table.own)
            learnt = split.learnt(fit.num_train, fit.num_own)
            started = time.perf_counter()
            members = program(
                split.seed, table.configs[learnt], table.metrics[learnt], table.configs[split.test]
            )
            seconds = time.perf_counter() - started
        rows = {
            Cell(name, table.name, number): self._measured(
                members[: self._arms[name].members].mean(axis=0), table, split.test
            )
            for name in arms
        }
        return Done(rows, seconds)

    def _measured(
        self, predicted: np.ndarray, table: Records, test: np.ndarray
    ) -> dict[str, float]:
        family, known = self._study.family, [m for m in self._study.measures if m != WITHIN]
        found = measured(predicted, table.quality[test], known)
        if not family:
            return found
        families = table.configs[test, table.space.names.index(family)]
        return found | {WITHIN: kendall_tau_b_within(predicted, table.quality[test], families)}

    def _program(self, fit: PredictorArm, table: Records) -> Program:
        """One for each fit, compiled once for all splits and for all tables of one space."""
        alike = dataclasses.replace(fit, num_own=None)  # which records they are is no part of it
        key = f"{table.space.fingerprint()} {digest(plain(alike))}"
        task = Task(table.space, self._study.num_test)
        return self._programs.get(key, lambda: KINDS[fit.kind].make(fit, task))[0]
