"""What a study is: a question, arms, what they are compared on; and the registry of what a study can be about.

A *subject* says what an arm is, what it runs on and what is measured of it. All else is the same for all studies: the
journal, the pairs, the intervals, the findings. A new subject is a record that extends `Study` and a function that
gives a `Subject`, under ``@SUBJECTS.register``, in a file of its own that `autorank.studies.subjects` imports.
"""

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple, Protocol, TypeVar, runtime_checkable

from autorank.base.records import as_tuples, require
from autorank.base.registry import Registry
from autorank.benchmarks.base import Benchmark
from autorank.studies.journal import Rows

T = TypeVar("T")


class Measure(Protocol):
    """A number of an arm."""

    @property
    def words(self) -> str:
        """What it is called in a sentence."""
        ...


class Named(NamedTuple):
    """A `Measure` that is computed along with the others of its subject."""

    words: str


@runtime_checkable
class Arm(Protocol):
    """One of the things that a study compares: a frozen dataclass."""

    @property
    def fit(self) -> str:
        """Arms with the same text share the work; what differs between them costs nothing."""
        ...


@runtime_checkable
class Table(Protocol):
    """What arms run on."""

    @property
    def name(self) -> str:
        """Its name in the journal."""
        ...

    def fingerprint(self) -> str:
        """Changes with anything that a result can depend on."""
        ...

    def described(self) -> str:
        """How large it is, in words."""
        ...


class Done(NamedTuple):
    """The rows of some arms, and how long they took without compiling."""

    rows: Rows
    seconds: float


@runtime_checkable
class Run(Protocol):
    """Measures arms; threads call it side by side."""

    def __call__(self, arms: Sequence[str], table: Any, split: int, seed: int, /) -> Done:
        """The rows of arms that share their work, on one split of one table; ``seed`` is the study's."""
        ...


class Subject(NamedTuple):
    """What the arms of one study do."""

    load: Callable[[Benchmark], Any]  # a benchmark as a `Table`
    check: Callable[[Sequence[Any]], None]  # refuses tables that an arm cannot run on
    run: Run
    # Correlation of two splits of a table: the overlap of what they test; 0 where a split is only a seed.
    correlation: Callable[[Any], float]


@runtime_checkable
class MakeSubject(Protocol):
    """Makes the subject of a study."""

    def __call__(self, study: Any, /) -> Subject:
        """The subject; the study is of the type that it is registered with."""
        ...


SUBJECTS: Registry[MakeSubject] = Registry("study.subject", field="subject")


@dataclass(frozen=True)
class Study(ABC):
    """A file of ``configs/study/``; each subject extends it with what its arms share."""

    subject: str = ""  # a name of `SUBJECTS`
    question: str = ""
    paper: str = ""  # what arXiv 2311.07870 says
    time: str = ""  # of 20 splits on 2 idle cores
    # Names of the catalogue (a surrogate too), or files: a search's trials.db, a recorded table (.parquet).
    records: tuple[str, ...] = ("dhen/kuairand", "dhen/synthetic")
    more_records: tuple[
        str, ...
    ] = ()  # the same; left out where their data or a package are missing
    measures: tuple[str, ...] = ()  # the study's sentence is about the first one; none: all of them
    reference: str = ""  # the arm that the others are compared with
    arms: dict[str, Any] = field(default_factory=dict)  # name -> settings of an arm
    # What the study is about in single numbers: words for a sum of arms -> {arm: weight}, the weights adding up to 0.
    # One of which an arm was taken out (~study.arms.NAME) is left out too.
    contrasts: dict[str, Any] = field(default_factory=dict)
    title: str = ""  # the finding in one sentence
    note: str = ""  # what a reader of the results must know
    shows: dict[str, str] = field(
        default_factory=dict
    )  # what the title rests on: contrast, or contrast @ table -> `written.bears`
    axis: str = ""  # what the numbers count that arms' names end with, for a figure over them

    MEASURES: ClassVar[Mapping[str, Measure]] = {}
    SPLITS: ClassVar[str] = "splits"  # what the repeats of this subject are
    PLAN: ClassVar[tuple[str, ...]] = ()  # its own fields that every row depends on

    def __post_init__(self):
        SUBJECTS.require_own_name(self)
        as_tuples(self, "records", "more_records", "measures")
        for name in self.measures:
            require("study.measures", name, tuple(self.MEASURES))
        object.__setattr__(self, "measures", self.measures or tuple(self.MEASURES))
        if not self.records:
            raise ValueError("study.records is empty; name at least one")

    def missing(self, arm: Any) -> str:
        """What an arm needs and is not installed, and how to install it; empty if there is nothing."""
        return ""

    def table(self, name: str, load: Callable[[str], Any]) -> Any:
        """The `Table` of a name of `records`; ``load`` gives that of a benchmark's name."""
        return load(name)

    @abstractmethod
    def arm(self, place: str, own: dict[str, Any]) -> Arm:
        """An arm from its settings; ``place`` is its key, for messages.

        Raises:
            ValueError: a setting that the arm does not have or does not read, or a bad value.
        """

    def resolved(self) -> dict[str, Any]:
        """The arms with their settings.

        Raises:
            ValueError: no arms or an unknown reference, or what `arm` refuses.
        """
        if not self.arms:
            raise ValueError(
                "study=null has no arms; write study=NAME, one of those that --help lists"
            )
        require("study.reference", self.reference, tuple(self.arms))
        for name, weights in self.contrasts.items():
            if not weights or abs(sum(weights.values())) > 1e-9:
                raise ValueError(
                    f"study.contrasts.{name}: the weights add up to {sum(weights.values()):g}; "
                    f"write some that add up to 0"
                )
        return {
            name: self.arm(f"study.arms.{name}", dict(own or {})) for name, own in self.arms.items()
        }


def refuse_unknown(place: str, given: Mapping[str, Any], record: type) -> None:
    """Refuses keys that are no fields of a record.

    Raises:
        ValueError: naming the key, and those there are.
    """
    known = [f.name for f in dataclasses.fields(record)]  # pyright: ignore[reportArgumentType]
    for key in given:
        if key not in known:
            raise ValueError(f"{place}.{key} is not a setting; write one of {', '.join(known)}")


def with_tuples(given: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as YAML has them, with tuples for its lists, as records want them."""
    return {k: tuple(v) if isinstance(v, list) else v for k, v in given.items()}
