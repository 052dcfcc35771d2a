"""The programs' settings, composed from the records of their parts; Hydra fills them in `experiments`.

A record lies next to the code that reads it: those of searchers, data sources and fidelity rules are in their
registries. Fields of such a group have the base record as their type and the default part's record as their default.
"""

from dataclasses import dataclass, field
from typing import Any

from autorank.app.idle import (
    changed_fields,
    refuse_front,
    refuse_idle_predictor,
    refuse_thaw,
    refuse_warm,
)
from autorank.base.records import as_tuples, later, require, require_range
from autorank.base.registry import Registry
from autorank.base.searched import NE, searched
from autorank.data.logs.base import SOURCES, DataConfig
from autorank.data.logs.movielens import MovielensConfig
from autorank.data.logs.synthetic import SyntheticConfig
from autorank.fidelity.rules import FIDELITIES, FidelityConfig, PilotsConfig
from autorank.models.dhen import DhenConfig
from autorank.objectives.choice import CHOICES
from autorank.searchers.autorank import AutorankConfig
from autorank.searchers.base import SEARCHERS, SearcherConfig
from autorank.surrogates.settings import PredictorConfig
from autorank.training.settings import TrainingConfig

GOALS = ("best", "front")  # values of `search.goal`
# Groups of settings that are one part's record, chosen by name.
PARTS: dict[str, Registry[Any]] = {"data": SOURCES, "searcher": SEARCHERS, "fidelity": FIDELITIES}


@dataclass(frozen=True)
class SpaceConfig:
    """Hydra's sweep grammar over config keys, and conditions; the settings themselves are the baseline."""

    grid_size: int = 8  # points of an interval
    decisions: dict[str, Any] = field(default_factory=dict)  # key -> text; may be nested
    conditions: dict[str, Any] = field(default_factory=dict)  # key glob -> {parent glob: [values]}


def ledgers_of(warm_start: Any) -> tuple[str, ...] | None:
    """The earlier searches that a setting names; None without one.

    Raises:
        ValueError: it is neither a path nor a list of paths, or names one twice.
    """
    paths = [warm_start] if isinstance(warm_start, str) else list(warm_start or ())
    if not all(isinstance(path, str) and path for path in paths) or len(set(paths)) < len(paths):
        raise ValueError(
            f"search.warm_start={warm_start!r}: write a run's folder, or a list of different ones, for example "
            f"search.warm_start=[runs/movielens,runs/kuairand]"
        )
    return tuple(paths) or None


@dataclass(frozen=True)
class PlanConfig:
    """The course of a search."""

    trials: int = 100  # pilots and rounds together; baseline repeats and finalists come on top
    seed: int = 0
    # What labels, fidelity and choices go by. NE of a task: ctr, cvr, ctcvr, mean (auto = ctr). Another measure of
    # clicks: auc, gauc, ndcg, log_loss, calibration, ece; of a task: cvr-auc. It is taken in each window of the log,
    # as NE is, so fidelity rules work alike; trials then train alone, and gains of all but log_loss are in points
    metric: str = "auto"
    # best: the lowest label. front: the lowest label at every cost, in the hypervolume of label and log FLOPs; for
    # searcher=autorank (and random, whose proposals serve any goal)
    goal: str = later("best")
    # No trial costs more FLOPs than this times the baseline, 1 at least; null = no cap
    max_flops_ratio: float | None = later(None)
    # Earlier searches that warm this one, on another log or the same: a run's folder, a trials.db, or a list of them;
    # for searcher=autorank, evolution and paper. Their trials are copied into the ledger when the search begins
    warm_start: Any = later(None)
    warm_first: int = later(3)  # of their trials the best ones, which are among the pilots
    noise_seeds: int = 5  # repeats of the baseline that measure the seed noise
    choice_seeds: int = later(3)  # fresh seeds that choose among the finalists; noise_seeds at most
    # Fresh seeds of the chosen models and the baseline, for the verdict alone; auto = as many as final_half_width takes
    final_seeds: int | str = 5
    final_half_width: float = later(0.1)  # auto: of the 95% interval on validation, percent NE
    max_final_seeds: int = later(20)  # auto: the budget
    finalists: int = 3  # best by label; the best at equal cost and at equal NE come on top
    equal_cost: float = later(1.05)  # "at equal cost": FLOPs ratio to the baseline at most
    # "At equal NE": worse by less than this, percent NE, with 95% confidence. About the largest gain of the method's
    # paper (.02 to .09%); five seeds show it of an equal model in four of five runs where the seed noise is .05%
    equal_ne_margin: float = later(0.1)
    pilot_mutation: float = later(0.15)  # share of decisions that a pilot near the baseline changes
    test_finalists: bool = later(True)  # score every finalist on the held-out rows, not only chosen
    workers: int = 2  # trials compiled and trained side by side
    # What trains: auto (the faster one by measured costs), compact, population
    executor: str = "auto"
    max_diverged: float = 0.5  # stop with advice when more than this share of the trials fails
    # Of scoring for one measurement of rows/s, of which each chosen model has seven
    qps_seconds: float = later(0.15)

    def __post_init__(self):
        require("search.executor", self.executor, CHOICES)
        require("search.goal", self.goal, GOALS)
        object.__setattr__(self, "warm_start", ledgers_of(self.warm_start))
        require_range("search.warm_first", self.warm_first, 0, 1000)
        if self.max_flops_ratio is not None and not self.max_flops_ratio >= 1:
            raise ValueError(
                f"search.max_flops_ratio={self.max_flops_ratio} leaves out the baseline itself, which every search "
                f"trains; write 1 or more, or null, or make the baseline smaller"
            )
        if searched(self.metric).measure != NE and self.executor == "population":
            raise ValueError(
                f"search.metric={self.metric} needs the scores of every row, which populations do not give; write "
                f"search.executor=auto, or search.metric=ctr"
            )
        if self.final_seeds != "auto":
            try:
                object.__setattr__(self, "final_seeds", int(self.final_seeds))
            except ValueError:
                raise ValueError(
                    f"search.final_seeds={self.final_seeds!r} is not a number of seeds; write one, for example 5, "
                    f"or auto"
                ) from None
            require_range("search.final_seeds", int(self.final_seeds), 1, 1_000_000)
        for key in (
            "trials",
            "noise_seeds",
            "choice_seeds",
            "max_final_seeds",
            "finalists",
            "workers",
        ):
            require_range(f"search.{key}", getattr(self, key), 1, 1_000_000)
        require_range("search.equal_cost", self.equal_cost, 0.01, 100.0)
        require_range("search.equal_ne_margin", self.equal_ne_margin, 0.0, 100.0)
        require_range("search.final_half_width", self.final_half_width, 1e-6, 100.0)
        require_range("search.pilot_mutation", self.pilot_mutation, 0.0, 1.0)
        require_range("search.qps_seconds", self.qps_seconds, 1e-3, 600.0)
        if self.final_seeds == "auto" and self.max_final_seeds < 2:
            raise ValueError(
                f"search.final_seeds=auto needs search.max_final_seeds of at least 2, not "
                f"{self.max_final_seeds}: one seed has no interval"
            )


@dataclass(frozen=True)
class TrackingConfig:
    """Weights & Biases."""

    # auto (W&B's own settings decide; online only if logged in, else offline), online, offline, shared, disabled
    mode: str = "auto"
    project: str | None = None  # null = W&B's own setting (WANDB_PROJECT, ...), else autorank
    group: str | None = None  # null = W&B's own setting, else the experiment; in a sweep its name
    job_type: str | None = None  # null = W&B's own setting, else the searcher; of a study the arm
    tags: tuple[
        str, ...
    ] = ()  # empty = W&B's own, else data set, its version, searcher, experiment

    def __post_init__(self):
        as_tuples(self, "tags")
        modes = ("auto", "online", "offline", "shared", "disabled", "dryrun", "run")
        require("tracking.mode", self.mode, modes)


@dataclass(frozen=True)
class BackendConfig:
    """Where trials run; changes nothing about their outcomes."""

    kind: str = "local"  # local, ray
    address: str | None = None  # ray: null starts a local cluster; auto or host:port joins one
    num_workers: int = 2  # ray
    population: int = 1  # ray: trials handed to a worker at a time
    num_cpus: float = 1.0  # ray: of each worker
    num_gpus: float = 0.0  # ray: of each worker
    attempts: int = 2  # ray: a trial fails when this many workers have died with it
    trial_seconds: float | None = None  # ray: a worker that takes longer is killed

    def __post_init__(self):
        require("backend.kind", self.kind, ("local", "ray"))
        for key in changed_fields(self) if self.kind == "local" else ():
            raise ValueError(f"backend.{key} has no effect with backend=local; write backend=ray")
        for key in ("num_workers", "population", "attempts"):
            require_range(f"backend.{key}", getattr(self, key), 1, 1_000_000)


@dataclass(frozen=True)
class SearchConfig:
    """`experiments/search.py`."""

    name: str = "search"  # the run's folder is <runs>/<name>
    runs: str = "runs"
    fresh: bool = False  # move an existing run of this name aside instead of resuming it
    data: DataConfig = field(default_factory=MovielensConfig)
    model: DhenConfig = field(default_factory=DhenConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    space: SpaceConfig = field(default_factory=SpaceConfig)
    searcher: SearcherConfig = field(default_factory=AutorankConfig)
    predictor: PredictorConfig = field(default_factory=PredictorConfig)
    fidelity: FidelityConfig = field(default_factory=PilotsConfig)
    search: PlanConfig = field(default_factory=PlanConfig)
    backend: BackendConfig = field(default_factory=BackendConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)

    def __post_init__(self):
        changed = (f"predictor.{name}" for name in changed_fields(self.predictor))
        refuse_idle_predictor(self.searcher.name, changed)
        refuse_front(self.searcher.name, self.search.goal)
        refuse_warm(self.searcher.name, self.search.warm_start)
        plan = self.search
        refuse_thaw(self.searcher.name, self.fidelity.kind, plan.goal, plan.warm_start)


@dataclass(frozen=True)
class TrainConfig:
    """`experiments/train.py`: one model, from the same groups."""

    name: str = "train"
    runs: str = "runs"
    fraction: float = 1.0  # share of the training rows
    seeds: int = 1  # runs 0 .. seeds - 1
    export: bool = True
    data: DataConfig = field(default_factory=MovielensConfig)
    model: DhenConfig = field(default_factory=DhenConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)


@dataclass(frozen=True)
class TuneConfig:
    """`experiments/tune_baseline.py`: every combination of `grid` around the given model."""

    name: str = "tune"
    runs: str = "runs"
    results: str = "experiments/results"
    seeds: int = 3
    workers: int = 2
    tail: float = 0.25  # validation windows: this last share of the training rows
    # So many points of the grid at most, drawn at random; a larger number has those of a smaller one and more
    points: int | None = None
    data: DataConfig = field(default_factory=MovielensConfig)
    model: DhenConfig = field(default_factory=DhenConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    grid: dict[str, Any] = field(default_factory=dict)  # key -> values; may be nested

    def __post_init__(self):
        if self.points is not None:
            require_range("points", self.points, 1, 1_000_000)


@dataclass(frozen=True)
class FormConfig:
    """How many trials train; changes no outcome beyond rounding."""

    workers: int = 2  # compiled and trained side by side
    executor: str = "auto"  # auto (the faster form by measured costs), compact, population

    def __post_init__(self):
        require("search.executor", self.executor, CHOICES)
        require_range("search.workers", self.workers, 1, 1_000_000)


@dataclass(frozen=True)
class RecordTableConfig:
    """`experiments/record_table.py`: random configurations of a space with their whole curves."""

    name: str = "table"  # the table is <out>/<name>.parquet
    runs: str = "runs/tables"  # the journal is <runs>/<name>/journal.jsonl
    out: str = "experiments/results/tables"
    configurations: int = 5000  # random ones; the baseline comes on top, as number 0
    repeated: int = 300  # the first of them, and the baseline, have more seeds
    more_seeds: int = 4  # of those
    seed: int = 0  # draws configurations and seeds
    chunk: int = 512  # runs that are handed to training at a time
    first: int = 0  # number of the first configuration that is recorded here
    count: int | None = None  # how many are; null = all from there on
    # A field of the log: its most frequent values, and all others together, are slices whose losses are kept as well
    slices: str | None = None
    num_slices: int = 8
    merge: tuple[
        str, ...
    ] = ()  # take the runs of these journals, or folders of journals; trains nothing
    summary: bool = False  # only print the statistics; trains nothing
    data: DataConfig = field(default_factory=SyntheticConfig)
    model: DhenConfig = field(default_factory=DhenConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    space: SpaceConfig = field(default_factory=SpaceConfig)
    search: FormConfig = field(default_factory=FormConfig)

    def __post_init__(self):
        as_tuples(self, "merge")
        for key in ("configurations", "chunk"):
            require_range(key, getattr(self, key), 1, 1_000_000)
        require_range("repeated", self.repeated, 0, self.configurations)
        require_range("more_seeds", self.more_seeds, 0, 1000)
        require_range("seed", self.seed, 0, (1 << 32) - 1)
        require_range("first", self.first, 0, self.configurations)
        require_range("num_slices", self.num_slices, 2, 1000)
        if self.slices and self.search.executor == "population":
            raise ValueError(
                f"slices={self.slices} needs scores, which a population does not give; write search.executor=compact"
            )
        if self.count is not None:
            require_range("count", self.count, 1, 1_000_000)
        if not self.name or "/" in self.name:
            raise ValueError(f"name={self.name!r} names files; write a word without '/'")
        if self.merge and self.summary:
            raise ValueError("merge and summary exclude each other; write merge=[...] first")


@dataclass(frozen=True)
class PrepareConfig:
    """`experiments/prepare_data.py`."""

    data: DataConfig = field(default_factory=MovielensConfig)


@dataclass(frozen=True)
class ReportConfig:
    """`experiments/report.py`."""

    run: str = "???"  # the run's folder


def require_noise(noise: Any) -> None:
    """Refuses what is no noise of a comparison.

    Raises:
        ValueError: with examples of what to write.
    """
    values = noise if isinstance(noise, list | tuple) else [noise]
    for value in values:
        if value == "recorded":
            continue
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(
                f"noise={value!r}: write a number, recorded, or a list of these, for example noise=[0,0.05,recorded]"
            )
        require_range("noise", value, 0.0, 10.0)
    if not values:
        raise ValueError("noise=[]: write one or more, for example noise=[0,0.05]")


@dataclass(frozen=True)
class BenchSearchConfig:
    """`experiments/comparison/bench_search.py`: searchers x tasks x seeds."""

    searchers: tuple[str, ...] = ("autorank",)  # registered searchers ('NAME+key=value'), or peers
    searcher: dict[str, Any] = field(default_factory=dict)  # settings by searcher
    predictor: PredictorConfig = field(default_factory=PredictorConfig)  # of searchers that read it
    tasks: str = "*"  # comma-separated globs over suite/task, or slow: ten of all suites
    seeds: int = 1
    first_seed: int = 0
    trials: int = 100
    batch: int = 1  # proposals an ask
    # Standard deviation of what is told, in units of the median random regret; or recorded: that of a table's seeds. A
    # list runs all of them.
    noise: Any = 0.0
    workers: int = 1  # processes
    runs: str = "runs"
    table: str | None = "experiments/results/bench_search.csv"  # grown by what was run; null = none
    again: bool = False  # run also what the table has
    # Most runs of one searcher on one space that are one program: hundreds on an accelerator.
    lanes: int = 1
    seconds: float | None = None  # begin no trial after so many seconds; what is done stays

    def __post_init__(self):
        as_tuples(self, "searchers")
        for key in ("seeds", "trials", "batch", "workers", "lanes"):
            require_range(key, getattr(self, key), 1, 1_000_000)
        require_noise(self.noise)
