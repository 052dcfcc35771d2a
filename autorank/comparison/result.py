"""What a comparison knows of a run, and which settings are differences at all."""

import math
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

SEED, METRIC = "search.seed", "search.metric"
# Where and how fast a run trained, and what it is called.
NEVER = (
    "name", "runs", "fresh", "tracking.*", "backend.*", "search.workers", "search.executor", "search.max_diverged",
    "search.qps_seconds", "training.devices", "data.folder", "data.path",
)  # fmt: skip


class LeftOut(NamedTuple):
    """A folder that takes no part, and why."""

    folder: Path
    reason: str


class Course(NamedTuple):
    """The best label so far, after each trial that ended."""

    passes: np.ndarray  # [n], full passes over the log that the trials have cost
    best: np.ndarray  # [n], NE gain in percent; NaN before the first label


class Result(NamedTuple):
    """One finished search, or one seed of a model that was trained alone."""

    folder: Path
    data: str  # the log's name
    fingerprint: str  # of the prepared log
    metric: str
    seed: int
    settings: dict[
        str, Any
    ]  # by dotted key, those that can change an outcome, but seed, metric and data
    data_settings: dict[str, Any]
    idle: dict[str, Any]  # settings that its searcher or fidelity rule does not read
    machine: dict[str, Any]  # settings of `NEVER`
    values: dict[str, float]  # by measure; NaN where unknown
    noise: float  # standard deviation of one run of the baseline over seeds, percent NE
    course: Course
    front: np.ndarray  # [m, 2]: FLOPs against the baseline's, label in percent; cheapest first
    summary: dict[str, Any]


def varies(key: str) -> bool:
    """Whether a difference in this setting is one of the searches, rather than of machines, folders and names."""
    return not any(fnmatch(key, pattern) for pattern in NEVER)


def number(value: Any) -> float:
    """The value as a float; NaN for null."""
    return math.nan if value is None else float(value)


def why(error: Exception) -> str:
    """An error in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
