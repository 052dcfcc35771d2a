"""A finished run as a comparison sees it, or the reason why it is left out."""

import json
import math
from collections.abc import Iterable, Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml

from autorank.base.records import flatten
from autorank.comparison.finding import LEDGER
from autorank.ledger.errors import LedgerCorrupt, LedgerMismatch
from autorank.ledger.front import front_of
from autorank.ledger.ledger import Ledger
from autorank.ledger.run_folder import Run, labelled, read_run, searched
from autorank.report.sentences import state_of

SEED, METRIC = "search.seed", "search.metric"
# Where and how fast a run trained, and what it is called.
NEVER = (
    "name", "runs", "fresh", "tracking.*", "backend.*", "search.workers", "search.executor", "search.max_diverged",
    "training.devices", "data.folder", "data.path",
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
    """One finished search."""

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


def read_all(folders: Iterable[Path]) -> tuple[list[Result], list[LeftOut]]:
    """The finished runs, and those that are left out with the reason."""
    results: list[Result] = []
    left_out: list[LeftOut] = []
    for folder in folders:
        found = read(folder)
        if isinstance(found, LeftOut):
            left_out.append(found)
        else:
            results.append(found)
    return results, left_out


def read(folder: Path) -> Result | LeftOut:
    """Reads one run; whatever is wrong with it becomes the reason."""
    if not (folder / LEDGER).is_file():
        return LeftOut(folder, f"no {LEDGER} there, nor in a folder below; give a run's folder")
    try:
        with Ledger.read(folder / LEDGER) as ledger:
            identity = ledger.file.identity
        run = read_run(folder)
    except (LedgerCorrupt, LedgerMismatch) as error:
        return LeftOut(folder, str(error))
    if run.summary.get("status") != "finished":
        return LeftOut(folder, why_unfinished(run, identity))
    try:
        return result_of(run, identity)
    except (KeyError, TypeError, ValueError, AttributeError, yaml.YAMLError) as error:
        what = f"{type(error).__name__}: {' '.join(str(error).split())}"
        return LeftOut(folder, f"its summary or settings are of another format ({what})")


def why_unfinished(run: Run, identity: Mapping[str, str]) -> str:
    """The reason that a run without a summary of a finished search is left out."""
    if "plan" not in identity:
        return "its ledger is not that of experiments.search"
    if (run.folder / "summary.json").exists() and not run.summary:
        return "its summary.json cannot be read; start its command again, which writes it anew"
    return state_of(run)


def result_of(run: Run, identity: Mapping[str, str]) -> Result:
    """What the comparison needs of a finished run.

    Raises:
        KeyError, TypeError, ValueError: the summary or the settings lack something.
    """
    config = flatten(yaml.safe_load(run.config) or {})
    if not config:
        raise ValueError("no config.yaml")
    counting = counting_settings(identity, config)
    summary = run.summary
    left = ("data.", "space.")
    return Result(
        folder=run.folder,
        data=str(summary["name"]),
        fingerprint=identity["data"],
        metric=str(summary["metric"]),
        seed=int(summary["seed"]),
        settings={k: v for k, v in counting.items() if k not in (SEED, METRIC)},
        data_settings={k: v for k, v in config.items() if k.startswith("data.") and varies(k)},
        idle={
            k: v
            for k, v in config.items()
            if k not in counting and not k.startswith(left) and varies(k)
        },
        machine={k: v for k, v in config.items() if not varies(k)},
        values=measures(run),
        noise=number(summary.get("seed_noise_percent")),
        course=course_of(run),
        front=np.array(
            [(math.exp(t.cost or 0.0), t.quality) for t in front_of(labelled(run))], np.float64
        ).reshape(-1, 2),
        summary=summary,
    )


def varies(key: str) -> bool:
    """Whether a difference in this setting is one of the searches, rather than of machines, folders and names."""
    return not any(fnmatch(key, pattern) for pattern in NEVER)


def counting_settings(identity: Mapping[str, str], config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that can change an outcome, by dotted key, seed and metric among them.

    The ledger's identity has just these, of the parts that were chosen. Ledgers of earlier versions have fingerprints
    instead: then all settings count. The space is a function of its settings and of the baseline's.
    """
    found: dict[str, Any] = {}
    for item, text in identity.items():
        if text.startswith("{"):
            found |= flatten(json.loads(text))
        elif item not in ("data", "space"):
            found = {k: v for k, v in config.items() if varies(k) and not k.startswith("data.")}
            break
    of_space = {k: v for k, v in config.items() if k.startswith("space.")}
    found |= of_space or {"space": identity["space"][:8]}
    return {k: v for k, v in found.items() if varies(k)}


def measures(run: Run) -> dict[str, float]:
    """What runs are compared by; lower is better."""
    summary, labels = run.summary, [t.quality or 0.0 for t in labelled(run)]
    return {
        "gain": number((summary.get("ne_gain_percent") or {}).get("mean")),
        "label": min(labels, default=math.nan),
        "ne": number((summary.get("winner") or {}).get("ne")),
    }


def course_of(run: Run) -> Course:
    """The best label so far at the highest rung, over the trials that ended."""
    done = [t for t in searched(run) if t.status != "proposed"]
    labels = np.array([math.inf if t.quality is None else t.quality for t in done], np.float64)
    best = np.minimum.accumulate(labels) if done else labels
    passes = np.cumsum([t.fidelity for t in done], dtype=np.float64)
    return Course(passes, np.where(np.isinf(best), np.nan, best))


def number(value: Any) -> float:
    """The value as a float; NaN for null."""
    return math.nan if value is None else float(value)
