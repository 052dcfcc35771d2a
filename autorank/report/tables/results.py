"""The results: baseline and chosen models on the same terms, then task by task."""

from collections.abc import Mapping
from typing import Any

from autorank.ledger.run_folder import Run
from autorank.report.markup import table
from autorank.report.numbers import NONE, count, entropy, interval, known, number, ratio, signed
from autorank.report.summary import ROLES, main_metric


def results_table(run: Run) -> str:
    """Baseline and chosen models, followed by the table of tasks."""
    summary, base = run.summary, run.summary.get("baseline") or {}
    metric = main_metric(summary)
    rows = []
    for role, name in ROLES:
        model = summary.get(role)
        if model:
            rows.append(("", (name, *_cells(role, model, base, metric))))
        elif none := _why_none(summary, role):
            rows.append(("", (name, none, *[NONE] * 6)))
    head = ("model", f"NE {metric}", "NE gain %", "95% over seeds", "95% over test rows", "p")
    models = table((*head, "FLOPs per row", "rows/s [95%]"), rows)
    return models + tasks_table(run) + measures_table(run)


def _cells(
    role: str, model: Mapping[str, Any], base: Mapping[str, Any], metric: str
) -> tuple[str, ...]:
    gain = (model.get("test") or {}).get(metric)
    if (gain or {}).get("mean") is None and role != "baseline":
        gain = model.get("validation_gain_percent")
    return (
        entropy(model.get("ne")),
        signed((gain or {}).get("mean")),
        interval(gain),
        interval(gain, "rows_low", "rows_high"),
        number((gain or {}).get("p"), 2),
        _against(model.get("flops"), base.get("flops")),
        _speed(model) or _against(model.get("qps"), base.get("qps")),
    )


def _why_none(summary: Mapping[str, Any], role: str) -> str:
    """What stands for a role that no model has; empty if the run's version did not record why."""
    if role != "winner_equal_ne" or not summary.get("equal_ne"):
        return ""
    return f"none within {summary['equal_ne']['margin']:g}%"


def _speed(model: Mapping[str, Any]) -> str:
    """``9,000,000 (1.30x [1.21, 1.38])``; empty if it was not measured in turn with the baseline."""
    found = model.get("qps_ratio") or {}
    if not all(known(found.get(k)) for k in ("ratio", "low", "high")):
        return ""
    text = f"{found['ratio']:.2f}x [{found['low']:.2f}, {found['high']:.2f}]"
    return f"{count(model.get('qps'))} ({text})"


def _against(value: Any, reference: Any) -> str:
    """``3,669 (3.67x)``."""
    if not known(value) or not known(reference) or not reference:
        return count(value)
    return f"{count(value)} ({ratio(value / reference)})"


def tasks_table(run: Run) -> str:
    """Every task's NE on the held-out test, with the lowest possible NE if the data tell it."""
    rows = []
    for metric, entry in (run.summary.get("per_task") or {}).items():
        gain = entry.get("ne_gain_percent")
        gain = gain if isinstance(gain, Mapping) else {"mean": gain}
        values = (
            entry.get("baseline_ne"),
            entry.get("winner_ne"),
            _best_possible(run.summary, metric),
        )
        gains = (
            signed(gain.get("mean")),
            interval(gain),
            interval(gain, "rows_low", "rows_high"),
        )
        rows.append(("", (metric, *map(entropy, values), *gains)))
    head = ("task", "baseline NE", "winner NE", "best possible NE", "NE gain %", "95% over seeds")
    return f"<br>{table((*head, '95% over test rows'), rows)}" if rows else ""


# Measures of scored rows with their names.
MEASURES = {
    "auc": "AUC",
    "gauc": "GAUC",
    "ndcg@5": "nDCG@5",
    "log_loss": "log loss",
    "calibration": "calibration",
    "ece": "calibration error",
}


def measures_table(run: Run) -> str:
    """Measures beside NE on the held-out test: the mean over seeds of every chosen model, by task."""
    rows = []
    for metric in run.summary.get("tasks") or [main_metric(run.summary)]:
        for role, name in ROLES:
            found = ((run.summary.get(role) or {}).get("measures") or {}).get(metric)
            if found:
                cells = (number(found.get(measure), 5) for measure in MEASURES)
                rows.append(("", (name, metric, *cells)))
    return f"<br>{table(('model', 'task', *MEASURES.values()), rows)}" if rows else ""


def _best_possible(summary: Mapping[str, Any], metric: str) -> float | None:
    """The Bayes-optimal NE of synthetic data on the held-out rows."""
    found = summary.get("bayes_ne")
    if isinstance(found, Mapping):
        found = found.get("test", found)
        return found.get(metric) if isinstance(found, Mapping) else None
    return found
