"""Reading a run's folder: its ledger, summary and settings, finished or not."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from autorank.ledger import rungs
from autorank.ledger.ledger import Ledger
from autorank.ledger.trial import Trial

KINDS = (
    "fidelity",
    "policy",
    "seed_noise",
    "finals",
    "confirmation",
    "test",
    "diagnosis",
    "session",
    rungs.KIND,
)


class Run(NamedTuple):
    """One run; what an interrupted run lacks is empty."""

    folder: Path
    trials: list[Trial]
    # The space's decisions, as in the ledger: name, choices, parents, ...
    decisions: list[dict[str, Any]]
    baseline: tuple[int, ...]
    # By kind, oldest first.
    records: dict[str, list[Any]]
    # Empty while the search is not finished.
    summary: dict[str, Any]
    # The resolved settings, YAML.
    config: str


def read_run(folder: Path) -> Run:
    """Reads a run folder, also while its search is writing.

    Raises:
        FileNotFoundError: it holds no ledger.
        LedgerCorrupt: its ledger is damaged.
    """
    folder = Path(folder)
    with Ledger.read(folder / "trials.db") as ledger:
        trials = ledger.trials()
        decisions = ledger.get("decisions") or []
        baseline = tuple(ledger.get("baseline") or ())
        records = {kind: ledger.records(kind) for kind in KINDS}
    return Run(folder, trials, decisions, baseline, records, _summary(folder), _config(folder))


def _summary(folder: Path) -> dict[str, Any]:
    path = folder / "summary.json"
    try:
        found = json.loads(path.read_text()) if path.is_file() else {}
    except ValueError:
        return {}  # of a version that did not write it atomically; the ledger has what it was made from
    return found if isinstance(found, dict) else {}


def _config(folder: Path) -> str:
    path = folder / "config.yaml"
    return path.read_text(errors="replace") if path.is_file() else ""


def values_of(decisions: Sequence[Mapping[str, Any]], config: Sequence[int]) -> dict[str, Any]:
    """The active decisions of a configuration with their values, in the space's order."""
    chosen = {d["name"]: d["choices"][index] for d, index in zip(decisions, config, strict=True)}
    parents = {d["name"]: d.get("parents") or () for d in decisions}

    def active(name: str) -> bool:
        above = parents[name]
        return not above or any(chosen[p] in values and active(p) for p, values in above)

    return {name: value for name, value in chosen.items() if active(name)}


def searched(run: Run) -> list[Trial]:
    """Every searched configuration with its label at the highest rung that any reached, in order of proposal.

    The label is None where the configuration failed or was not promoted to that rung.
    """
    return rungs.top_rung(rungs.climbs(run.trials, run.records[rungs.KIND]))


def labelled(run: Run) -> list[Trial]:
    """The searched trials that can be ranked: with a cost and a label at the highest rung."""
    return [t for t in searched(run) if t.quality is not None and t.cost is not None]


def told(run: Run) -> list[Trial]:
    """The searched trials that have a cost, with the label at the lowest rung, which the searcher was told."""
    found = rungs.first_rung(rungs.climbs(run.trials, run.records[rungs.KIND]))
    return [t for t in found if t.quality is not None and t.cost is not None]


def of_stage(run: Run, stage: str) -> list[Trial]:
    """Rows of one stage, in order."""
    return [t for t in run.trials if t.stage == stage]


def metric_of(run: Run) -> str:
    """Name of the metric whose NE was minimised."""
    return str(run.summary.get("metric") or "NE")


def curve_of(run: Run, trial: Trial) -> np.ndarray:
    """Window NE ``[t]`` of the searched metric; NaN where not reached, empty without a curve."""
    rows = (trial.outcome or {}).get("curve") or []
    curve = np.array([[math.nan if v is None else v for v in row] for row in rows], np.float64)
    if not curve.size:
        return np.zeros(0)
    metric, tasks = run.summary.get("metric"), run.summary.get("tasks") or []
    if metric == "mean":
        return curve.mean(axis=1)
    return curve[:, tasks.index(metric) if metric in tasks else 0]


def full_rows(run: Run) -> float:
    """Training rows of a full run; NaN before any trial has finished."""
    for trial in run.trials:
        rows = (trial.outcome or {}).get("num_rows")
        if trial.status == "finished" and rows and trial.fidelity:
            return rows / trial.fidelity
    return math.nan


def winner_config(run: Run) -> tuple[int, ...] | None:
    """The winner's configuration; in an unfinished run the best one so far; None without a label."""
    choices = (run.summary.get("winner") or {}).get("choices")
    if choices:
        return tuple(choices)
    best = min(labelled(run), key=lambda t: t.quality or 0.0, default=None)
    return None if best is None else best.config
