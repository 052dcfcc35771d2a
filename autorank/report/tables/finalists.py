"""The finalists: how much of each label's gain survives to the test."""

from collections.abc import Mapping
from typing import Any

from autorank.ledger.run_folder import Run
from autorank.report.markup import escape, table
from autorank.report.numbers import NONE, interval, ratio, signed, with_interval
from autorank.report.summary import main_metric

NAMES = {"winner": "winner", "equal_cost": "equal cost", "equal_ne": "equal NE"}
NOTE = (
    "NE gain in percent against the baseline, lower is better; [95% interval over seeds]. A label is one run with the "
    "search's own seed, chosen as the best of many, so its luck does not carry over. Without luck: the label shrunk "
    "towards the median label by the share of the labels' variance that is seed noise. The choosing seeds are fresh, "
    "but they picked the best of these finalists. The result is therefore measured on the fresh seeds, which took part "
    "in no choice. Scoring all finalists on the held-out rows changes no choice, since choices use validation alone."
)


def finalists_section(run: Run) -> str:
    """The table and how to read it; empty without finalists."""
    found = finalists_table(run)
    return found and f'{found}\n<p class="soft">{escape(NOTE)}</p>'


def finalists_table(run: Run) -> str:
    """Each finalist from label to test."""
    metric = main_metric(run.summary)
    choosing, fresh = run.summary.get("choice_seeds") or [], run.summary.get("seeds") or []
    head = (
        "finalist",
        "FLOPs",
        "label",
        "label without luck",
        f"validation, {len(choosing)} choosing seeds",
        f"validation, {len(fresh)} fresh seeds",
        f"test {metric}, choosing seeds",
        "test, 95% over rows",
        "chosen as",
    )
    entries = run.summary.get("finalists") or []
    return table(head, (_row(i, entry, metric) for i, entry in enumerate(entries, start=1)))


def _row(number: int, entry: Mapping[str, Any], metric: str) -> tuple[str, tuple[str, ...]]:
    roles = ", ".join(NAMES.get(str(r), str(r)) for r in entry.get("roles") or [])
    if entry.get("failed"):
        roles = f"failed with a fresh seed: {entry['failed']}"
    test = (entry.get("test") or {}).get(metric) or {}
    cells = (
        f"{number} (trial {entry.get('trial')})",
        ratio(entry.get("flops_ratio")),
        signed(entry.get("label")),
        signed(entry.get("label_without_luck")),
        with_interval(entry.get("validation_gain_percent") or {}),
        with_interval(entry.get("confirmed_gain_percent") or {}),
        with_interval(test),
        interval(test, "rows_low", "rows_high"),
        roles or NONE,
    )
    return "changed" if entry.get("roles") else "failed" if entry.get("failed") else "", cells
