"""The search itself: what it cost, and the versions and seeds behind its numbers."""

import time
from collections.abc import Mapping
from typing import Any

from autorank.base.searched import NE, unit
from autorank.ledger.run_folder import Run, searched
from autorank.report.markup import table
from autorank.report.numbers import NONE, count, known, number, seconds
from autorank.surrogates.measures import MEASURES


def cost_table(run: Run) -> str:
    """What the search took; that of an unfinished one counts what its ledger holds."""
    summary = run.summary
    tried = [t for t in searched(run) if t.status != "proposed"]
    failed = sum(t.status == "failed" for t in tried)
    outcomes = [t.outcome or {} for t in run.trials]
    spent = sum(o.get("seconds") or 0.0 for o in outcomes)
    compiling = sum(o.get("compile_seconds") or 0.0 for o in outcomes)
    fraction = summary.get("fidelity_fraction")
    rows = [
        ("trials", count(summary.get("num_trials", len(tried)))),
        ("failed", count(summary.get("num_failed", failed))),
        *(("warmed by", record["in_words"]) for record in summary.get("earlier_searches") or []),
        ("share of the log a trial sees", f"{fraction:.0%}" if known(fraction) else NONE),
        ("rank agreement at that share, tau-b", _tau(summary)),
        *_predictor_rows(summary),
        (
            f"seed noise of the baseline, {unit(summary.get('measure') or NE)}",
            number(summary.get("seed_noise_percent"), 3),
        ),
        ("rows trained on, in all stages", count(summary.get("trained_examples"))),
        ("wall time", seconds(summary.get("wall_seconds"))),
        ("training time of all trials", seconds(spent)),
        ("compile time, summed over trials", seconds(summary.get("compile_seconds") or compiling)),
        ("programs compiled", count(summary.get("num_compiles"))),
        ("programs found in memory", count(summary.get("num_hits"))),
        ("programs found on disk", count(summary.get("disk_hits"))),
        ("programs compiled and written to disk", count(summary.get("disk_misses"))),
        *(
            (f"trials trained by the {kind} build", f"{count(entry['trials'])} ({entry['why']})")
            for kind, entry in (summary.get("executors") or {}).items()
        ),
        ("sessions", count(summary.get("num_sessions"))),
    ]
    return table(("", ""), (("", row) for row in rows if row[1] != NONE))


def _tau(summary: Mapping[str, Any]) -> str:
    """``0.76 (95% 0.6 to 0.88, on held-out pilots)``; without an interval the pilots were not held out."""
    tau = number(summary.get("kendall_tau"), 3)
    low, high = summary.get("kendall_tau_interval") or (None, None)
    if not known(low) or not known(high):
        return tau
    return f"{tau} (95% {number(low, 2)} to {number(high, 2)}, on pilots held out of the choice)"


def _predictor_rows(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    """One line for the trials that the predictor had not seen, one for its proposals; none without a predictor."""
    quality = summary.get("predictor") or {}
    whose = {
        "heldout": "predictor, on held-out trials",
        "proposals": "predictor, on its proposals before their training",
    }
    return [
        (what, f"{_measures(quality[name])} ({count(quality[name]['trials'])} trials)")
        for name, what in whose.items()
        if name in quality
    ]


def _measures(values: Mapping[str, Any]) -> str:
    """``tau-b 0.41, ..., regret@1 0.12 % NE``."""
    units = {name: " % NE" if name.startswith("regret") else "" for name in MEASURES}
    return ", ".join(
        f"{measure.words} {number(values[name], 3)}{units[name]}"
        for name, measure in MEASURES.items()
        if name in values
    )


def provenance_table(run: Run) -> str:
    """Versions, device, seeds and revision behind the numbers."""
    summary = run.summary
    finished = summary.get("finished_at")
    rows: list[tuple[str, Any]] = [
        ("device", summary.get("device")),
        ("git revision", summary.get("git_revision")),
        ("seed of the search", summary.get("seed")),
        ("choosing seeds", _joined(summary.get("choice_seeds"))),
        ("fresh seeds", _joined(summary.get("seeds"))),
        ("searched metric", summary.get("metric")),
        ("searched measure", summary.get("measure")),
        ("tasks", _joined(summary.get("tasks"))),
    ]
    if known(finished):
        rows.append(("finished", time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(finished))))
    rows += list((summary.get("versions") or {}).items())
    return table(("", ""), (("", row) for row in rows if row[1] is not None))


def _joined(values: Any) -> str | None:
    return ", ".join(map(str, values or [])) or None
