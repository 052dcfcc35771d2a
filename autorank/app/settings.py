"""Settings as frozen records, stdlib only; Hydra composes them in `experiments`, everything else just reads them.

Each record stays beside a sentence per field. ``to_object`` turns YAML lists into Python lists; ``__post_init__``
makes them tuples, so that a record is hashable, and refuses bad values by name.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from autorank.models.dhen import DhenConfig
from autorank.objectives.executor import EXECUTORS

SOURCES = ("movielens", "kuairand", "criteo", "avazu", "synthetic", "criteo_like", "table")


def later(default: Any) -> Any:
    """A setting that came later: at its default, which is what was done before, it is no part of a fingerprint.

    So a ledger from before the setting existed can still be resumed.
    """
    return field(default=default, metadata={"later": True})


def _require(key: str, value: Any, allowed: tuple) -> None:
    if value not in allowed:
        raise ValueError(
            f"{key}={value!r} is not known; write one of {', '.join(map(str, allowed))}"
        )


def _require_range(key: str, value: float | int, low: float | int, high: float | int) -> None:
    if not low <= value <= high:
        raise ValueError(f"{key}={value!r} must lie in [{low}, {high}]")


@dataclass(frozen=True)
class DataConfig:
    """Which log, and how it is prepared."""

    source: str = "movielens"  # movielens, kuairand, criteo, avazu, synthetic, criteo_like, table
    path: str | None = None  # local folder or file; null = fetch from the official source
    schema: str | None = None  # table: the YAML file that gives each column its role
    folder: str = "data_cache"  # prepared arrays go to <folder>/<name>-<fingerprint>
    train_fraction: float = 0.8  # the rest, last in time, is the final test
    min_count: int = 2  # categorical values seen less often in training share the id "unknown"
    max_bad_share: float = 0.01  # refuse the source when more rows than this share are broken
    encoding: str = (
        "vocabulary"  # vocabulary (of the training rows), or hash: ids by a hash that stays
    )
    hash_size: int = 100_000  # hash: buckets of each categorical field
    num_rows: int = 500_000  # synthetic, criteo_like: length of the stream
    seed: int = 0  # synthetic, criteo_like: which stream
    max_vocabulary: int | None = (
        None  # criteo_like: ids of all fields together; null = 33.8M as published
    )

    def __post_init__(self):
        _require("data.source", self.source, SOURCES)
        _require("data.encoding", self.encoding, ("vocabulary", "hash"))
        _require_range("data.hash_size", self.hash_size, 1, 1 << 30)
        _require_range("data.train_fraction", self.train_fraction, 0.05, 0.99)
        _require_range("data.max_bad_share", self.max_bad_share, 0.0, 1.0)


@dataclass(frozen=True)
class TrainingConfig:
    """One pass over the log; the rates are the baseline's where a space searches over them."""

    batch_size: int = 256  # rows a step
    num_windows: int = 100  # windows of the NE curve
    devices: int = 1  # spread one model and its table over this many of the host (0: all)
    held_out: str = "frozen"  # frozen: the trained model scores the held-out rows; progressive: it goes on learning
    precision: str = (
        "float32"  # of matrix products and a population's activations: float32, bfloat16
    )
    warmup_share: float = 0.1  # linear warm-up over this share of the full run's steps
    dense_rate: float = 1e-3  # Adam, dense parameters
    table_rate: float = 5e-2  # row-wise Adagrad, embedding rows
    dense_eps: float = 1e-8
    table_eps: float = 1e-8
    weight_decay: float = 0.0  # decoupled, dense parameters
    init_scale: float = 1.0  # factor on the dense initialisation
    table_scale: float = 0.01  # standard deviation of new embedding rows

    def __post_init__(self):
        for key in ("batch_size", "num_windows"):
            _require_range(f"training.{key}", getattr(self, key), 1, 1 << 30)
        _require_range("training.devices", self.devices, 0, 1 << 30)
        _require("training.precision", self.precision, ("float32", "bfloat16"))
        _require("training.held_out", self.held_out, ("frozen", "progressive"))
        _require_range("training.warmup_share", self.warmup_share, 0.0, 1.0)


@dataclass(frozen=True)
class SpaceConfig:
    """Hydra's sweep grammar over config keys, and conditions; the settings themselves are the baseline."""

    grid_size: int = 8  # points of an interval
    decisions: dict[str, Any] = field(default_factory=dict)  # key -> text; may be nested
    conditions: dict[str, Any] = field(default_factory=dict)  # key glob -> {parent glob: [values]}


@dataclass(frozen=True)
class SearcherConfig:
    """Who proposes."""

    name: str = "predictor"  # predictor (the paper's), random, evolution, reinforce
    batch_size: int = 10  # proposals a round
    num_exploratory: int = 2  # predictor: random or mutated ones among them
    num_local: int = 0  # predictor: its choice among mutants of the best trials (0 = the paper)
    alphas: tuple[float, ...] = (
        0.0,
        0.1,
        0.3,
    )  # predictor: weight of FLOPs in the reward, one policy each
    reward: str = "alpha"  # alpha, hinge, absolute
    steps: int = 2000  # predictor: REINFORCE steps a round
    samples: int = 64  # predictor: configurations sampled a step
    rate: float = 0.05  # Adam on the policy's logits
    entropy_coef: float = 0.0
    num_policies: int = 1  # predictor: policy seeds for each alpha
    population: int = 20  # evolution
    tournament: int = 5  # evolution
    mutation_rate: float = 0.1  # evolution, exploratory mutants, candidates of bayes
    initial: int = 10  # bayes: first trials, a Latin hypercube; pilots count
    warps: tuple[str, ...] = (
        "half_rank",
    )  # bayes: models of qualities so transformed; also rank, none
    starts: tuple[float, ...] = (0.0,)  # bayes: log factors on the initial length scales
    fit_steps: int = 60  # bayes: Adam steps of a fit
    scale_sd: float = 1.0  # bayes: of the prior on log length scales
    effects: float = 0.5  # bayes: prior share of the variance that is main effects
    margin: float = 0.1  # bayes: sd below the best mean from which improvement is counted
    num_climbers: int = 6  # bayes: candidates from which the acquisition is climbed
    climb_steps: int = 12  # bayes
    feasibility: bool = True  # bayes: learn from failed trials where not to go
    failures: str = "nothing"  # bayes: as bad as the worst finished trial (worst), or no statement on quality (nothing)
    # Own choices, on the recorded tables and functions of docs/results.md; docs/design.md lists each with its source.
    noise_median: float = later(
        1e-3
    )  # bayes: prior on the noise variance, in units of the qualities'
    noise_sd: float = later(1.5)  # bayes: of its logarithm
    effect_sd: float = later(1.5)  # bayes: prior on the logarithm of a main effect's variance
    fit_rate: float = later(0.1)  # bayes: Adam's, of a fit
    pool: int = later(384)  # bayes: candidates of each kind (random, mutants, crossings)
    num_parents: int = later(8)  # bayes: best trials that candidates descend from
    near_share: float = later(0.75)  # bayes: of a mutant's changes of numbers, those that are small
    near_step: float = later(
        0.1
    )  # bayes: of a number's range: standard deviation of a small change
    local_pool: int = later(128)  # predictor: mutants scored for each local proposal
    local_parents: int = later(5)  # predictor: best trials that they descend from

    def __post_init__(self):
        object.__setattr__(self, "alphas", tuple(float(a) for a in self.alphas))
        object.__setattr__(self, "starts", tuple(float(a) for a in self.starts))
        _require(
            "searcher.name", self.name, ("bayes", "predictor", "random", "evolution", "reinforce")
        )
        object.__setattr__(self, "warps", tuple(self.warps))
        _require("searcher.failures", self.failures, ("worst", "nothing"))
        for warp in self.warps:
            _require("searcher.warps", warp, ("half_rank", "rank", "none"))
        _require("searcher.reward", self.reward, ("alpha", "hinge", "absolute"))
        for key in ("noise_median", "noise_sd", "effect_sd", "fit_rate", "near_step"):
            _require_range(f"searcher.{key}", getattr(self, key), 1e-12, 1e3)
        for key in ("pool", "num_parents", "local_pool", "local_parents"):
            _require_range(f"searcher.{key}", getattr(self, key), 1, 1_000_000)
        _require_range("searcher.near_share", self.near_share, 0.0, 1.0)
        if not self.alphas:
            raise ValueError("searcher.alphas is empty; write at least one, for example [0.0]")


@dataclass(frozen=True)
class PredictorConfig:
    """The ensemble that stands in for training."""

    members: int = 10
    hidden: tuple[int, ...] = (50, 50)
    loss: str = "margin"  # margin, logistic, lambda_rank, list_net, list_mle, mse, huber
    steps: int = 500
    rate: float = 1e-3
    weight_decay: float = 1e-4
    multi_task: bool = True  # one net for NE gain and FLOPs
    bootstrap: bool = False  # each member on its own resample
    combine: str = "zscore"  # zscore, raw

    def __post_init__(self):
        object.__setattr__(self, "hidden", tuple(int(h) for h in self.hidden))
        _require(
            "predictor.loss",
            self.loss,
            ("margin", "logistic", "lambda_rank", "list_net", "list_mle", "mse", "huber"),
        )
        _require("predictor.combine", self.combine, ("zscore", "raw"))


@dataclass(frozen=True)
class FidelityConfig:
    """How much of the log a trial sees."""

    kind: str = "pilots"  # pilots (fraction chosen on pilots), fixed, full, halving
    num_pilots: int = 20  # trained on the whole log, half random, half near the baseline
    fraction: float = 0.5  # fixed: the fraction
    # pilots: candidates; those above 1 - tail share windows with the final label and do not count
    fractions: tuple[float, ...] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
    tail: float = 0.25  # share of the windows reached that make the label
    trend: bool = True  # extrapolate along the tail's slope
    tau_floor: float = 0.75  # smallest acceptable tau-b with the final order
    slack: float = 0.05  # how far below the plateau the lower bound may lie
    rungs: tuple[float, ...] = (0.2, 0.5, 1.0)  # halving: fractions
    eta: float = 3.0  # halving: one in eta is promoted

    def __post_init__(self):
        for key in ("fractions", "rungs"):
            values = tuple(float(v) for v in getattr(self, key))
            object.__setattr__(self, key, values)
            if (
                not values
                or list(values) != sorted(set(values))
                or not 0 < values[0] <= values[-1] <= 1
            ):
                raise ValueError(f"fidelity.{key}={list(values)} must rise strictly inside (0, 1]")
        _require("fidelity.kind", self.kind, ("pilots", "fixed", "full", "halving"))
        _require_range("fidelity.fraction", self.fraction, 0.01, 1.0)
        _require_range("fidelity.tail", self.tail, 0.01, 1.0)


@dataclass(frozen=True)
class PlanConfig:
    """The course of a search."""

    trials: int = 100  # pilots and rounds together; baseline repeats and finalists come on top
    seed: int = 0
    metric: str = "auto"  # the NE that is minimised: ctr, cvr, ctcvr, mean; auto = ctr
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
    executor: str = (
        "auto"  # what trains: auto (the faster one by measured costs), compact, population
    )
    max_diverged: float = 0.5  # stop with advice when more than this share of the trials fails

    def __post_init__(self):
        _require("search.executor", self.executor, EXECUTORS)
        _require("search.metric", self.metric, ("auto", "ctr", "cvr", "ctcvr", "mean"))
        if self.final_seeds != "auto":
            try:
                object.__setattr__(self, "final_seeds", int(self.final_seeds))
            except ValueError:
                raise ValueError(
                    f"search.final_seeds={self.final_seeds!r} is no number of seeds; write one, for example 5, or auto"
                ) from None
            _require_range("search.final_seeds", int(self.final_seeds), 1, 1_000_000)
        for key in (
            "trials",
            "noise_seeds",
            "choice_seeds",
            "max_final_seeds",
            "finalists",
            "workers",
        ):
            _require_range(f"search.{key}", getattr(self, key), 1, 1_000_000)
        _require_range("search.equal_cost", self.equal_cost, 0.01, 100.0)
        _require_range("search.equal_ne_margin", self.equal_ne_margin, 0.0, 100.0)
        _require_range("search.final_half_width", self.final_half_width, 1e-6, 100.0)
        _require_range("search.pilot_mutation", self.pilot_mutation, 0.0, 1.0)
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
    group: str | None = None
    tags: tuple[str, ...] = ()

    def __post_init__(self):
        object.__setattr__(self, "tags", tuple(self.tags))
        modes = ("auto", "online", "offline", "shared", "disabled", "dryrun", "run")
        _require("tracking.mode", self.mode, modes)


@dataclass(frozen=True)
class BackendConfig:
    """Where trials run; changes nothing about their outcomes."""

    kind: str = "local"  # local, ray
    address: str | None = None  # ray: null starts a local cluster; auto or host:port joins one
    num_workers: int = 2  # ray
    population: int = 1  # ray: trials handed to a worker at a time
    num_cpus: float = 1.0  # ray: of each worker
    num_gpus: float = 0.0  # ray: of each worker
    attempts: int = 2  # ray: a trial that takes so many workers along has failed
    trial_seconds: float | None = None  # ray: a worker that takes longer is killed

    def __post_init__(self):
        _require("backend.kind", self.kind, ("local", "ray"))
        for key in ("num_workers", "population", "attempts"):
            _require_range(f"backend.{key}", getattr(self, key), 1, 1_000_000)


@dataclass(frozen=True)
class SearchConfig:
    """`experiments/search.py`."""

    name: str = "search"  # the run's folder is <runs>/<name>
    runs: str = "runs"
    fresh: bool = False  # move an existing run of this name aside instead of resuming it
    data: DataConfig = field(default_factory=DataConfig)
    model: DhenConfig = field(default_factory=DhenConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    space: SpaceConfig = field(default_factory=SpaceConfig)
    searcher: SearcherConfig = field(default_factory=SearcherConfig)
    predictor: PredictorConfig = field(default_factory=PredictorConfig)
    fidelity: FidelityConfig = field(default_factory=FidelityConfig)
    search: PlanConfig = field(default_factory=PlanConfig)
    backend: BackendConfig = field(default_factory=BackendConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)


@dataclass(frozen=True)
class TrainConfig:
    """`experiments/train.py`: one model, from the same groups."""

    name: str = "train"
    runs: str = "runs"
    fraction: float = 1.0  # share of the training rows
    seeds: int = 1  # runs 0 .. seeds - 1
    export: bool = True
    data: DataConfig = field(default_factory=DataConfig)
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
    data: DataConfig = field(default_factory=DataConfig)
    model: DhenConfig = field(default_factory=DhenConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    grid: dict[str, Any] = field(default_factory=dict)  # key -> values; may be nested


@dataclass(frozen=True)
class PrepareConfig:
    """`experiments/prepare_data.py`."""

    data: DataConfig = field(default_factory=DataConfig)


@dataclass(frozen=True)
class ReportConfig:
    """`experiments/report.py`."""

    run: str = "???"  # the run's folder


@dataclass(frozen=True)
class BenchSearchConfig:
    """`experiments/comparison/bench_search.py`: searchers x tasks x seeds."""

    searchers: tuple[str, ...] = ("autorank",)  # configs/searcher files (+key=value), or peers
    tasks: str = "*"  # comma-separated globs over suite/task, or slow: ten of all suites
    seeds: int = 1
    first_seed: int = 0
    trials: int = 100
    batch: int = 1  # proposals an ask
    noise: float = 0.0  # sd of what is told, in units of the median random regret
    workers: int = 1  # processes
    runs: str = "runs"
    table: str | None = "experiments/results/bench_search.csv"  # grown by what was run; null = none
    again: bool = False  # run also what the table has

    def __post_init__(self):
        object.__setattr__(self, "searchers", tuple(self.searchers))
        for key in ("seeds", "trials", "batch", "workers"):
            _require_range(key, getattr(self, key), 1, 1_000_000)
        _require_range("noise", self.noise, 0.0, 10.0)


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """``{"model": {"width": 8}, "training.eps": 1}`` to dotted keys; both spellings may be mixed."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{name}.")
        else:
            flat[name] = value
    return flat


def value_at(record: Any, key: str) -> Any:
    """What a record holds under a dotted key.

    Raises:
        ValueError: a key that it does not have.
    """
    for part in key.split("."):
        if not dataclasses.is_dataclass(record) or part not in record.__dataclass_fields__:
            raise ValueError(f"{key} is not a setting; see --help for those there are")
        record = getattr(record, part)
    return record


def with_values(record: Any, values: Mapping[str, Any], prefix: str = "") -> Any:
    """A copy of a record with dotted keys replaced.

    Raises:
        ValueError: a key that the record does not have, named in full.
    """
    known = {f.name: getattr(record, f.name) for f in dataclasses.fields(record)}
    nested: dict[str, dict[str, Any]] = {}
    direct: dict[str, Any] = {}
    for key, value in values.items():
        head, _, rest = key.partition(".")
        if head not in known or (rest and not dataclasses.is_dataclass(known[head])):
            raise ValueError(f"unknown key {prefix}{key}; known here: {', '.join(sorted(known))}")
        if rest:
            nested.setdefault(head, {})[rest] = value
        else:
            direct[head] = value
    for head, inner in nested.items():
        direct[head] = with_values(known[head], inner, f"{prefix}{head}.")
    return replace(record, **direct)


def plain(record: Any) -> dict[str, Any]:
    """A record as plain dicts and lists, for JSON, YAML and W&B."""
    return json.loads(json.dumps(dataclasses.asdict(record)))


def fingerprint(*records: Any, leave_out: tuple[str, ...] = ()) -> str:
    """sha256 over the content of records: equal settings, equal fingerprint; fields ``leave_out`` do not count.

    Nor do settings that came `later`, as long as they are at their defaults.
    """

    def counts(record: Any, name: str, value: Any) -> bool:
        setting = record.__dataclass_fields__[name]
        came_later = setting.metadata.get("later") and value == setting.default
        return name not in leave_out and not came_later

    kept = [{k: v for k, v in plain(r).items() if counts(r, k, v)} for r in records]
    text = json.dumps(kept, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
