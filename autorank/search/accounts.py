"""What a run has spent: seconds, compiles, trained rows, over all its sessions."""

from collections.abc import Sequence
from typing import Any

from autorank.ledger.trial import Trial
from autorank.search.context import Context


def totals(context: Context) -> dict[str, Any]:
    """Time, compiles and trained examples over all sessions of the run."""
    sessions, trials = context.ledger.records("session"), context.ledger.trials()
    return {
        "wall_seconds": sum(s["seconds"] for s in sessions),
        "num_sessions": len(sessions),
        "num_compiles": sum(s["num_compiles"] for s in sessions),
        "compile_seconds": sum(s["compile_seconds"] for s in sessions),
        # Sessions of older versions did not count these.
        **{
            name: sum(s.get(name, 0) for s in sessions)
            for name in ("num_hits", "disk_hits", "disk_misses")
        },
        "executors": trials_by_executor(trials),
        "trained_examples": trained_examples(trials, context.objective.num_rows),
    }


def trials_by_executor(trials: Sequence[Trial]) -> dict[str, Any]:
    """How many trials each executor trained, and the last reason for choosing it."""
    found: dict[str, Any] = {}
    for trial in trials:
        details = (trial.outcome or {}).get("details") or {}
        if kind := details.get("executor"):
            entry = found.setdefault(kind, {"trials": 0, "why": ""})
            entry["trials"] += 1
            entry["why"] = details.get("why", "")
    return found


def trained_examples(trials: Sequence[Trial], num_rows: int) -> int:
    """Rows learned from, everything included: baseline repeats, pilots, rounds, promotions, finalists.

    A promoted trial continues from its last rung, so only the difference counts. A resumed search counts a trial once.
    """
    reached: dict[tuple, float] = {}
    total = 0.0
    for trial in trials:
        if trial.status == "proposed":
            continue
        key = (tuple(trial.config), trial.seed)
        before = reached.get(key, 0.0) if trial.stage == "promotion" else 0.0
        total += max(0.0, trial.fidelity - before)
        reached[key] = trial.fidelity
    return round(total * num_rows)
