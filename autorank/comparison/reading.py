"""A finished search as a comparison sees it, or the reason why it is left out."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml

from autorank.base.records import flatten
from autorank.base.searched import NE, Searched
from autorank.comparison.finding import LEDGER
from autorank.comparison.pairing import held_out_losses
from autorank.comparison.result import METRIC, SEED, Course, LeftOut, Result, number, varies, why
from autorank.ledger.errors import LedgerCorrupt, LedgerMismatch, RunInUse
from autorank.ledger.front import front_of
from autorank.ledger.ledger import Ledger
from autorank.ledger.run_folder import Run, labelled, read_run, searched
from autorank.report.sentences import state_of


def read_search(folder: Path) -> Result | LeftOut:
    """Reads a folder with a ledger; whatever is wrong with it becomes the reason."""
    try:
        with Ledger.read(folder / LEDGER) as ledger:
            identity = ledger.file.identity
        run = read_run(folder)
    except (LedgerCorrupt, LedgerMismatch, RunInUse, OSError) as error:
        return LeftOut(folder, str(error))
    if run.summary.get("status") != "finished":
        return LeftOut(folder, why_unfinished(run, identity))
    try:
        return search_result(run, identity)
    except (KeyError, TypeError, ValueError, AttributeError, yaml.YAMLError) as error:
        return LeftOut(folder, f"its summary or settings are of another format ({why(error)})")


def why_unfinished(run: Run, identity: Mapping[str, str]) -> str:
    """The reason that a run without a summary of a finished search is left out."""
    if "plan" not in identity:
        return "its ledger is not that of experiments.search"
    if (run.folder / "summary.json").exists() and not run.summary:
        return "its summary.json cannot be read; start its command again, which writes it anew"
    return state_of(run)


def search_result(run: Run, identity: Mapping[str, str]) -> Result:
    """What the comparison needs of a finished run's folder.

    Raises:
        KeyError, TypeError, ValueError: the summary or the settings lack something.
    """
    config = flatten(yaml.safe_load(run.config) or {})
    if not config:
        raise ValueError("no config.yaml")
    front = [(math.exp(t.cost or 0.0), t.quality) for t in front_of(labelled(run))]
    found = Outcome(run.folder, run.summary, measures(run), course_of(run), as_points(front))
    return result_of(found, identity, config)


class Outcome(NamedTuple):
    """What a search found, wherever it was read."""

    folder: Path
    summary: dict[str, Any]
    values: dict[str, float]
    course: Course
    front: np.ndarray


def as_points(front: Sequence[Sequence[float | None]]) -> np.ndarray:
    """A front as an array [m, 2], also an empty one."""
    return np.array(front, np.float64).reshape(-1, 2)


def result_of(found: Outcome, identity: Mapping[str, str], config: Mapping[str, Any]) -> Result:
    """The outcome of a search with the settings that count.

    Args:
        found: the outcome.
        identity: the ledger's.
        config: all settings by dotted key.

    Raises:
        KeyError, TypeError, ValueError: the summary or the settings lack something.
    """
    counting = counting_settings(identity, config)
    summary = found.summary
    left = ("data.", "space.")
    return Result(
        folder=found.folder,
        data=str(summary["name"]),
        fingerprint=identity["data"],
        metric=Searched(str(summary["metric"]), summary.get("measure") or NE).name,
        seed=int(summary["seed"]),
        settings={k: v for k, v in counting.items() if k not in (SEED, METRIC)},
        data_settings={k: v for k, v in config.items() if k.startswith("data.") and varies(k)},
        idle={
            k: v
            for k, v in config.items()
            if k not in counting and not k.startswith(left) and varies(k)
        },
        machine={k: v for k, v in config.items() if not varies(k)},
        values=found.values,
        noise=number(summary.get("seed_noise_percent")),
        course=found.course,
        front=found.front,
        summary=summary,
    )


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
        **held_out_losses(winner_measures(summary)),
    }


def winner_measures(summary: Mapping[str, Any]) -> Mapping[str, Any]:
    """The winner's measures beside NE of the searched metric, or of the first; empty where there are none."""
    by_metric = (summary.get("winner") or {}).get("measures") or {}
    return by_metric.get(summary.get("metric")) or next(iter(by_metric.values()), {})


def course_of(run: Run) -> Course:
    """The best label so far at the highest rung, over the trials that ended."""
    done = [t for t in searched(run) if t.status != "proposed"]
    labels = np.array([math.inf if t.quality is None else t.quality for t in done], np.float64)
    best = np.minimum.accumulate(labels) if done else labels
    passes = np.cumsum([t.fidelity for t in done], dtype=np.float64)
    return Course(passes, np.where(np.isinf(best), np.nan, best))
