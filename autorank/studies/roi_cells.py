"""Cells of the study of returns: a cell is one finished search, and its row is what its ledger and summary say."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from autorank.comparison.result import number
from autorank.ledger.errors import LedgerCorrupt, LedgerMismatch
from autorank.ledger.run_folder import Run, labelled, read_run, searched
from autorank.report.summary import main_metric
from autorank.search.ab_test import Day, Experiment, experiment

Row = dict[str, Any]


class Cell(NamedTuple):
    """One search."""

    data: str
    searcher: str
    seed: int

    @property
    def folder(self) -> str:
        """Where it lies, below the study's folder."""
        return f"{self.data}/{self.searcher}-{self.seed}"


class Origin(NamedTuple):
    """What a search ended on."""

    device: str
    jax: str  # version
    revision: str


class Read(NamedTuple):
    """A cell's row, the days of its winner, and where they come from; None where it is not finished."""

    row: Row  # without a reason it is whole
    experiment: Experiment | None
    origin: Origin | None


def read_cell(cell: Cell, folder: Path) -> Read:
    """The row of a cell; of one that is not finished, the reason."""
    head: Row = {"data": cell.data, "searcher": cell.searcher, "seed": cell.seed}
    try:
        run = read_run(folder)
    except (FileNotFoundError, LedgerCorrupt, LedgerMismatch) as error:
        return Read(head | {"reason": why_missing(folder, error)}, None, None)
    if run.summary.get("status") != "finished":
        done = sum(t.status != "proposed" for t in searched(run))
        return Read(
            head | {"reason": f"stopped with {done} of its trials done{last_error(folder)}"},
            None,
            None,
        )
    days, made = days_of(run), run.summary
    origin = Origin(made["device"], made["versions"]["jax"], made["git_revision"])
    return Read(head | row_of(run, days), days, origin)


def why_missing(folder: Path, error: Exception) -> str:
    """Why there is no ledger."""
    if said := last_error(folder):
        return said.removeprefix(": ")
    if isinstance(error, FileNotFoundError):
        return "stopped before its first trial" if folder.exists() else "not run"
    return f"{error}"[:200]


def last_error(folder: Path) -> str:
    """What the search's log says went wrong; empty where it says nothing."""
    log = folder / "cell.log"
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    found = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return f": {found[-1][:300]}" if found else ""


def days_of(run: Run) -> Experiment | None:
    """The A/B stand-in of the winner; None without a held-out test."""
    test = run.records["test"][-1] if run.records["test"] else {}
    days = ((test.get("days") or {}).get("winner") or {}).get(main_metric(run.summary))
    return experiment([Day(*day) for day in days]) if days else None


def row_of(run: Run, days: Experiment | None) -> Row:
    """The numbers of a finished search, gains in percent NE (lower is better)."""
    s, metric = run.summary, main_metric(run.summary)
    winner = s.get("winner") or {}
    finalist = next((f for f in s.get("finalists") or [] if "winner" in f["roles"]), {})
    row: Row = {
        "trials": s["num_trials"],
        "failed_trials": s["num_failed"],
        "trial_passes": sum(t.fidelity for t in searched(run) if t.status != "proposed"),
        "best_label": min((number(t.quality) for t in labelled(run)), default=math.nan),
        "seed_noise": number(s.get("seed_noise_percent")),
        "final_seeds": len(s["seeds"]),
        "baseline_ne": number((s.get("baseline") or {}).get("ne")),
        "winner_ne": number(winner.get("ne")),
        "label": number(finalist.get("label")),
        "choice_gain": mean_of(finalist.get("validation_gain_percent")),
        "validation_gain": mean_of(finalist.get("confirmed_gain_percent")),
        **tested("test_gain", winner, metric),
        "least_gain": number((s.get("verdict") or {}).get("least_gain_percent")),
        "flops_ratio": number(winner.get("flops_ratio")),
        **tested("equal_flops_gain", s.get("winner_equal_cost"), metric),
        "equal_flops_ratio": number((s.get("winner_equal_cost") or {}).get("flops_ratio")),
        **equal_ne(s),
        **measures(winner, metric),
        "seconds": number(s.get("wall_seconds")),
        "rows_trained": s.get("trained_examples"),
    }
    return row | ({} if days is None else stand_in(days)) | {"reason": ""}


def mean_of(gain: Mapping[str, Any] | None) -> float:
    """The mean of a gain over seeds; NaN where unknown."""
    return number((gain or {}).get("mean"))


def tested(name: str, model: Mapping[str, Any] | None, metric: str) -> Row:
    """A model's held-out gain with its intervals over final seeds and over rows."""
    gain = ((model or {}).get("test") or {}).get(metric) or {}
    ends = {"": "mean", "_low": "low", "_high": "high"}
    rows = {"_rows_low": "rows_low", "_rows_high": "rows_high"} if name == "test_gain" else {}
    return {f"{name}{end}": number(gain.get(key)) for end, key in (ends | rows).items()}


def equal_ne(summary: Mapping[str, Any]) -> Row:
    """FLOPs and rows/s of the cheapest model at equal NE; NaN where none was shown to be."""
    model = summary.get("winner_equal_ne") or {}
    speed = model.get("qps_ratio") or {}
    return {
        "equal_ne_flops_ratio": number(model.get("flops_ratio")),
        "equal_ne_rows_ratio": number(speed.get("ratio")),
        "equal_ne_rows_low": number(speed.get("low")),
        "equal_ne_rows_high": number(speed.get("high")),
        "equal_ne_margin": number((summary.get("equal_ne") or {}).get("margin")),
    }


def measures(winner: Mapping[str, Any], metric: str) -> Row:
    """The winner's gains in AUC and GAUC, in points (negative is better)."""
    found = (winner.get("measure_gains") or {}).get(metric) or {}
    row: Row = {}
    for name in ("auc", "gauc"):
        gain = found.get(name) or {}
        row |= {f"{name}_{end}": number(gain.get(end)) for end in ("mean", "low", "high")}
    return row


def stand_in(days: Experiment) -> Row:
    """The A/B stand-in in a row."""
    last = days.looks[-1]
    return {
        "ab_days": len(days.looks),
        "ab_gain": last.gain,
        "ab_low": last.low,
        "ab_high": last.high,
        "ab_shown_after": "" if days.shown_after is None else days.shown_after,
        "ab_paired_exposures": days.paired_exposures,
        "ab_exposures_an_arm": days.exposures_an_arm,
    }


def day_rows(cell: Cell, days: Experiment) -> list[Row]:
    """The days of a cell's winner beside the baseline, one row each."""
    head: Row = {"data": cell.data, "searcher": cell.searcher, "seed": cell.seed}
    return [head | {"day": i} | look._asdict() for i, look in enumerate(days.looks, start=1)]


def whole(rows: Sequence[Row]) -> list[Row]:
    """The rows of finished cells."""
    return [row for row in rows if not row["reason"]]
