"""Settings of `experiments/roi.py`."""

from dataclasses import dataclass, field
from typing import Any

from autorank.base.records import as_tuples, require, require_range


@dataclass(frozen=True)
class RoiPlan:
    """Which cells there are, and what each spends: all searchers spend the same."""

    data: tuple[str, ...] = ("movielens",)  # names of `logs`
    searchers: tuple[str, ...] = ("random", "evolution", "paper", "autorank", "optuna-gp")
    # The paper's order, worst first: random search, Bayesian optimisation, predictor + RL. Each must be better than the
    # one before it
    order: tuple[str, ...] = ("random", "autorank", "paper")
    seeds: int = 3  # search seeds 0 .. seeds - 1
    trials: int = 100  # of each search
    final_seeds: int = 15  # of the best model and the baseline, on the untouched test part
    # Of experiments.search, for every cell. Whole passes, so that all searchers pay the same for a trial
    overrides: tuple[str, ...] = ("fidelity=full",)
    processes: int = 1  # cells side by side
    workers: int = 2  # search.workers of each cell
    # GPUs of this machine that the cells share out, one each (CUDA_VISIBLE_DEVICES); 0 leaves every cell all of them
    accelerators: int = 0
    minutes: float | None = (
        None  # start nothing and stop what runs after so long; a cell goes on later
    )

    def __post_init__(self):
        as_tuples(self, "data", "searchers", "order", "overrides")
        for key in ("seeds", "trials", "processes", "workers"):
            require_range(f"roi.{key}", getattr(self, key), 1, 1_000_000)
        require_range("roi.accelerators", self.accelerators, 0, 1_000)
        require_range("roi.final_seeds", self.final_seeds, 2, 1_000_000)
        if self.minutes is not None:
            require_range("roi.minutes", self.minutes, 0.0, 1e6)
        for key in ("data", "searchers"):
            if not getattr(self, key):
                raise ValueError(f"roi.{key} is empty; name at least one")
        if len(self.order) < 2:
            raise ValueError("roi.order needs two searchers or more, the worst first")


@dataclass(frozen=True)
class RoiConfig:
    """`experiments/roi.py`."""

    name: str = "roi"  # the cells are <runs>/<name>/DATA/SEARCHER-SEED
    runs: str = "runs"
    results: str = "experiments/results"
    write: bool = (
        False  # put the rows into <results>/roi.csv and roi_days.csv, beside other data sets' rows
    )
    roi: RoiPlan = field(default_factory=RoiPlan)
    logs: dict[str, Any] = field(default_factory=dict)  # name -> overrides of experiments.search

    def __post_init__(self):
        for name in self.roi.data:
            require("roi.data", name, tuple(self.logs))
        if not self.name or "/" in self.name:
            raise ValueError(
                f"name={self.name!r} names the folder of cells; write a word without '/'"
            )
