"""Settings of a study: its question, its arms, and the records that they are compared on."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from autorank.base.records import as_tuples, digest, plain, require, require_range
from autorank.studies.inputs import InputConfig
from autorank.studies.measures import LARGEST_K, MEASURES
from autorank.studies.predictors import KINDS
from autorank.surrogates.settings import PredictorConfig


@dataclass(frozen=True)
class ArmConfig:
    """One of the things that a study compares."""

    kind: str = "ensemble"  # a name of `KINDS`
    num_train: int = 160  # records to learn from
    # So many of them are of the tested part of the records, where these have one; None: as they come.
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

    def with_members(self, members: int) -> "ArmConfig":
        """The same arm with another number of members."""
        return dataclasses.replace(
            self, predictor=dataclasses.replace(self.predictor, members=members)
        )


@dataclass(frozen=True)
class Study:
    """A file of ``configs/study/``."""

    question: str = ""
    paper: str = ""  # what arXiv 2311.07870 says
    time: str = ""  # of 20 splits on 2 idle cores
    # Names of the catalogue; `records.load` says how a part of a table is tested, or one table from another.
    records: tuple[str, ...] = ("dhen/kuairand", "dhen/synthetic")
    more_records: tuple[
        str, ...
    ] = ()  # the same, left out where their data or a package are not there
    sampled: int = 2000  # random configurations of a benchmark that is not a table
    num_train: int = 160  # records to learn from, unless an arm says otherwise
    num_test: int = 296  # records to be tested on
    measures: tuple[str, ...] = tuple(
        MEASURES
    )  # the first one is what the study's sentence is about
    reference: str = ""  # the arm that the others are compared with
    predictor: dict[str, Any] = field(default_factory=dict)  # what all ensembles share
    arms: dict[str, Any] = field(default_factory=dict)  # name -> fields of `ArmConfig`
    # Words for a sum of arms with weights that add up to 0 -> {arm: weight}; what a study is about in one number.
    contrasts: dict[str, Any] = field(default_factory=dict)
    axis: str = ""  # what the numbers count that arms' names end with, for a figure over them

    def __post_init__(self):
        as_tuples(self, "records", "more_records", "measures")
        for name in self.measures:
            require("study.measures", name, tuple(MEASURES))
        require_range("study.num_test", self.num_test, LARGEST_K, 1_000_000)
        for key in ("records", "measures"):
            if not getattr(self, key):
                raise ValueError(f"study.{key} is empty; name at least one")

    def resolved(self) -> dict[str, ArmConfig]:
        """The arms with their settings.

        Raises:
            ValueError: no arms or an unknown reference; a setting that an arm does not have or that its kind does not
                read, or a bad value.
        """
        if not self.arms:
            raise ValueError(
                "study=null has no arms; write study=NAME, one of those that --help lists"
            )
        require("study.reference", self.reference, tuple(self.arms))
        for name, weights in self.contrasts.items():
            for arm in weights:
                require(f"study.contrasts.{name}", arm, tuple(self.arms))
            if not weights or abs(sum(weights.values())) > 1e-9:
                raise ValueError(
                    f"study.contrasts.{name}: the weights add up to {sum(weights.values()):g}; "
                    f"write some that add up to 0"
                )
        return {name: self._arm(name, dict(own or {})) for name, own in self.arms.items()}

    def _arm(self, name: str, own: dict[str, Any]) -> ArmConfig:
        place = f"study.arms.{name}"
        _refuse_unknown(place, own, ArmConfig)
        kind = own.get("kind", "ensemble")
        reads = set(KINDS[kind].traits["reads"])
        for key in {"predictor", "neighbours", "input"} & own.keys() - reads:
            raise ValueError(f"{place}.{key} has no effect with kind={kind}; leave it out")
        predictor: dict[str, Any] = {**self.predictor, **(own.pop("predictor", None) or {})}
        _refuse_unknown(f"{place}.predictor", predictor, PredictorConfig)
        inputs = dict(own.pop("input", None) or {})
        _refuse_unknown(f"{place}.input", inputs, InputConfig)
        if isinstance(predictor.get("hidden"), list):
            predictor["hidden"] = tuple(predictor["hidden"])
        try:
            values: dict[str, Any] = (
                {"num_train": self.num_train} | own | {"input": InputConfig(**inputs)}
            )
            arm = ArmConfig(**values)
            if kind != "ensemble":
                return arm
            require_range("predictor.members", predictor.get("members", 10), 1, 10_000)
            return dataclasses.replace(arm, predictor=PredictorConfig(**predictor))
        except ValueError as error:
            raise ValueError(f"{place}: {error}") from error


@dataclass(frozen=True)
class StudyConfig:
    """`experiments/study.py`."""

    name: str = "study"  # the run's folder is <runs>/<name>
    runs: str = "runs/studies"
    splits: int = 20  # random splits of each table; more are added to those of an earlier run
    seed: int = 0  # of the splits and of the fits
    workers: int = 2  # fits side by side
    write: bool = False  # write the results to <results>/<name>.csv, with what made them
    results: str = "experiments/results/studies"
    study: Study = field(default_factory=Study)

    def __post_init__(self):
        require_range("splits", self.splits, 2, 10_000)
        require_range("seed", self.seed, 0, (1 << 32) - 1)
        require_range("workers", self.workers, 1, 1000)
        if not self.name or "/" in self.name:
            raise ValueError(f"name={self.name!r} names the run's folder; write a word without '/'")


def _refuse_unknown(place: str, given: Mapping[str, Any], record: type) -> None:
    known = [f.name for f in dataclasses.fields(record)]
    for key in given:
        if key not in known:
            raise ValueError(f"{place}.{key} is not a setting; write one of {', '.join(known)}")
