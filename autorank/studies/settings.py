"""Settings of `experiments/study.py`."""

from dataclasses import dataclass, field
from typing import Any

from autorank.base.records import require_range


@dataclass(frozen=True)
class StudyConfig:
    """`experiments/study.py`."""

    name: str = "study"  # the run's folder is <runs>/<name>
    runs: str = "runs/studies"
    splits: int = (
        20  # repeats on each table (splits or seeds); more are added to those of an earlier run
    )
    seed: int = 0  # of the splits, the fits and the searches
    workers: int = 2  # fits side by side
    write: bool = False  # write the results to <results>/<name>.csv, with what made them
    results: str = "experiments/results/studies"
    study: dict[str, Any] = field(default_factory=dict)  # settings of the study's subject

    def __post_init__(self):
        require_range("splits", self.splits, 2, 10_000)
        require_range("seed", self.seed, 0, (1 << 32) - 1)
        require_range("workers", self.workers, 1, 1000)
        if not self.name or "/" in self.name:
            raise ValueError(f"name={self.name!r} names the run's folder; write a word without '/'")
