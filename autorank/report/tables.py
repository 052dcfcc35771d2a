"""Tables of the report, as HTML; every text that comes from settings or data is escaped here."""

import html
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from autorank.ledger.front import front_of
from autorank.ledger.run_folder import Run, labelled, searched, values_of, winner_config
from autorank.ledger.trial import Trial

NONE = "-"
ROLES = (
    ("baseline", "baseline"),
    ("winner", "winner: lowest NE"),
    ("winner_equal_cost", "lowest NE at equal cost"),
    ("winner_equal_ne", "cheapest at equal NE"),
)


def escape(value: Any) -> str:
    """Text that no value can break out of."""
    return html.escape(str(value), quote=True)


def known(value: Any) -> bool:
    """Whether it is a finite number."""
    return isinstance(value, int | float) and math.isfinite(value)


def number(value: Any, digits: int = 4) -> str:
    """Significant digits for small numbers; "-" for what is unknown."""
    return f"{value:.{digits}g}" if known(value) else NONE


def fixed(value: Any) -> str:
    """NE: five decimals, where seed noise begins."""
    return f"{value:.5f}" if known(value) else NONE


def signed(value: Any, digits: int = 3) -> str:
    """A signed percentage without the sign for percent."""
    return f"{value:+.{digits}f}" if known(value) else NONE


def count(value: Any) -> str:
    """Whole numbers with thousands marks."""
    return f"{value:,.0f}" if known(value) else NONE


def seconds(value: Any) -> str:
    """``75`` becomes ``1m15s``."""
    if not known(value):
        return NONE
    minutes, rest = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes:02d}m"
    return f"{minutes}m{rest:02d}s" if minutes else f"{value:.1f}s"


def interval(gain: Mapping[str, Any] | None, low: str = "low", high: str = "high") -> str:
    """``-1.2 to -0.8``; "-" where there is none."""
    if not gain or not known(gain.get(low)) or not known(gain.get(high)):
        return NONE
    return f"{signed(gain[low])} to {signed(gain[high])}"


def table(head: Sequence[str], rows: Iterable[tuple[str, Sequence[Any]]], kind: str = "") -> str:
    """An HTML table; each row is its class and its cells. Kind "wide" wraps the last column."""
    rows = list(rows)
    if not rows:
        return ""
    top = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    lines = [
        (f'<tr class="{name}">' if name else "<tr>")
        + "".join(f"<td>{escape(cell)}</td>" for cell in cells)
        + "</tr>"
        for name, cells in rows
    ]
    start = f'<table class="{kind}">' if kind else "<table>"
    body = "\n".join(lines)
    return f"{start}<thead><tr>{top}</tr></thead>\n<tbody>{body}</tbody></table>"


# --- what the page says ---------------------------------------------------------------------------


def headline(run: Run) -> tuple[str, str]:
    """The result in words, and its tone: good, bad or neither."""
    gain = run.summary.get("ne_gain_percent") or {}
    if not known(gain.get("mean")):
        best = min((t.quality or 0.0 for t in labelled(run)), default=None)
        if best is None:
            return "No trial has a label yet.", ""
        return (
            f"No final result yet. Best label so far: NE {signed(best)}% (not a test result).",
            "",
        )
    sure = known(gain.get("low")) and known(gain.get("high"))
    better, worse = sure and gain["high"] < 0, sure and gain["low"] > 0
    verdict = (
        "The winner beats the baseline"
        if better
        else "The winner is worse than the baseline"
        if worse
        else "The winner cannot be told from the baseline"
    )
    text = f"{verdict}: NE {signed(gain['mean'])}%"
    if sure:
        text += f" (95% interval over seeds {interval(gain)}, "
        rows = interval(gain, "rows_low", "rows_high")
        text += f"over test rows {rows}, " if rows != NONE else ""
        text += f"p {number(gain.get('p'), 2)})"
    text += f" on {run.summary.get('ne_gain_on') or 'validation'}"
    ratio = (run.summary.get("winner") or {}).get("flops_ratio")
    text += f", at {ratio:.2g}x the FLOPs." if known(ratio) else "."
    flops = run.summary.get("flops_gain_percent")
    if known(flops):
        text += f" At equal NE: {signed(flops, 0)}% FLOPs"
        qps = run.summary.get("qps_gain_percent")
        text += f", {signed(qps, 0)}% rows/s." if known(qps) else "."
    return text, "good" if better else "bad" if worse else ""


def warnings_list(run: Run) -> str:
    """Failure signatures with what to do about them."""
    return "\n".join(
        f'<div class="warning"><strong>{escape(w.get("signature", ""))}</strong>: '
        f"{escape(w.get('message', ''))}. <em>{escape(w.get('advice', ''))}</em></div>"
        for w in run.summary.get("warnings") or []
    )


def results_table(run: Run) -> str:
    """Baseline and chosen models at equal terms, then task by task."""
    summary, base = run.summary, run.summary.get("baseline") or {}
    metric = main_metric(run)
    rows = []
    for role, name in ROLES:
        model = summary.get(role)
        if not model:
            if none := missing(summary, role):
                rows.append(("", (name, none, *[NONE] * 6)))
            continue
        gain = (model.get("test") or {}).get(metric)
        if (gain or {}).get("mean") is None and role != "baseline":
            gain = model.get("validation_gain_percent")
        rows.append(
            (
                "",
                (
                    name,
                    fixed(model.get("ne")),
                    signed((gain or {}).get("mean")),
                    interval(gain),
                    interval(gain, "rows_low", "rows_high"),
                    number((gain or {}).get("p"), 2),
                    against(model.get("flops"), base.get("flops")),
                    speed_text(model) or against(model.get("qps"), base.get("qps")),
                ),
            )
        )
    head = ("model", f"NE {metric}", "NE gain %", "95% over seeds", "95% over test rows", "p")
    models = table((*head, "FLOPs a row", "rows/s [95%]"), rows)
    return models + tasks_table(run)


def missing(summary: Mapping[str, Any], role: str) -> str:
    """What stands for a role that no model has; nothing where an earlier version did not say why."""
    if role != "winner_equal_ne" or not summary.get("equal_ne"):
        return ""
    return f"none within {summary['equal_ne']['margin']:g}%"


def speed_text(model: Mapping[str, Any]) -> str:
    """``9,000,000 (1.30x [1.21, 1.38])``; nothing where it was not measured in turn with the baseline."""
    ratio = model.get("qps_ratio") or {}
    if not all(known(ratio.get(k)) for k in ("ratio", "low", "high")):
        return ""
    text = f"{ratio['ratio']:.2f}x [{ratio['low']:.2f}, {ratio['high']:.2f}]"
    return f"{count(model.get('qps'))} ({text})"


def against(value: Any, reference: Any) -> str:
    """``3,669 (3.67x)``."""
    if not known(value) or not known(reference) or not reference:
        return count(value)
    return f"{count(value)} ({ratio_text(value / reference)})"


def tasks_table(run: Run) -> str:
    """Every task's NE on the held-out test, with the best possible where the data tell it."""
    rows = []
    for metric, entry in (run.summary.get("per_task") or {}).items():
        gain = entry.get("ne_gain_percent")
        gain = gain if isinstance(gain, Mapping) else {"mean": gain}
        values = (entry.get("baseline_ne"), entry.get("winner_ne"), best_possible(run, metric))
        rows.append(
            (
                "",
                (
                    metric,
                    *(fixed(v) for v in values),
                    signed(gain.get("mean")),
                    interval(gain),
                    interval(gain, "rows_low", "rows_high"),
                ),
            )
        )
    head = ("task", "baseline NE", "winner NE", "best possible NE", "NE gain %", "95% over seeds")
    return f"<br>{table((*head, '95% over test rows'), rows)}" if rows else ""


def best_possible(run: Run, metric: str) -> float | None:
    """The Bayes-optimal NE of synthetic data on the held-out rows."""
    found = run.summary.get("bayes_ne")
    if isinstance(found, Mapping):
        found = found.get("test", found)
        return found.get(metric) if isinstance(found, Mapping) else None
    return found


def main_metric(run: Run) -> str:
    """The searched metric, or the first where the search took the mean of several."""
    return main_metric_of(run.summary)


def main_metric_of(summary: Mapping[str, Any]) -> str:
    """The same of a summary."""
    metric, tasks = summary.get("metric"), summary.get("tasks") or []
    return str(metric if metric in tasks or not tasks else tasks[0])


def ratio_text(value: Any) -> str:
    """``1.5x``."""
    return f"{value:.3g}x" if known(value) else NONE


def baseline_table(run: Run) -> str:
    """What the chosen models set, one row a decision; rows that differ stand out."""
    columns: dict[str, Mapping[str, Any]] = {}
    for role, name in ROLES:
        config = (run.summary.get(role) or {}).get("config")
        if config is not None:
            columns[name] = config
    if not columns and run.baseline and run.decisions:
        columns["baseline"] = values_of(run.decisions, run.baseline)
        best = winner_config(run)
        if best is not None:
            columns["best so far"] = values_of(run.decisions, best)
    names = [d["name"] for d in run.decisions] or list(
        dict.fromkeys(k for c in columns.values() for k in c)
    )
    rows = []
    for name in names:
        cells = [config.get(name, NONE) for config in columns.values()]
        if any(cell != NONE for cell in cells):
            rows.append(
                ("changed" if len(cells) > 1 and cells[0] != cells[1] else "", (name, *cells))
            )
    return table(("decision", *columns), rows)


def difference(run: Run, config: Sequence[int]) -> str:
    """``name=value`` of the active decisions that are not the baseline's."""
    if not run.decisions or not run.baseline:
        return NONE
    base = values_of(run.decisions, run.baseline)
    changed = {
        k: v for k, v in values_of(run.decisions, config).items() if k not in base or base[k] != v
    }
    return ", ".join(f"{k}={v}" for k, v in changed.items()) or "the baseline"


def front_table(run: Run) -> str:
    """Trials that no other beats on label and FLOPs together."""
    return table(
        ("trial", "label: NE gain %", "FLOPs", "differs from the baseline in"),
        (
            (
                "",
                (
                    t.id,
                    signed(t.quality),
                    ratio_text(math.exp(t.cost or 0.0)),
                    difference(run, t.config),
                ),
            )
            for t in front_of(labelled(run))
        ),
        "wide",
    )


def cost_table(run: Run) -> str:
    """What the search took; an unfinished one counts what its ledger holds."""
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
        ("share of the log a trial sees", f"{fraction:.0%}" if known(fraction) else NONE),
        ("order kept at that share, tau-b", tau_text(summary)),
        ("seed noise of the baseline, % NE", number(summary.get("seed_noise_percent"), 3)),
        ("rows trained on, everything included", count(summary.get("trained_examples"))),
        ("wall time", seconds(summary.get("wall_seconds"))),
        ("training time of all trials", seconds(spent)),
        ("compiling, summed over trials", seconds(summary.get("compile_seconds") or compiling)),
        ("programs compiled", count(summary.get("num_compiles"))),
        ("asked for again, already there", count(summary.get("num_hits"))),
        ("programs found on the disk", count(summary.get("disk_hits"))),
        ("programs compiled and written to the disk", count(summary.get("disk_misses"))),
        *(
            (f"trials trained by the {kind} build", f"{count(entry['trials'])} ({entry['why']})")
            for kind, entry in (summary.get("executors") or {}).items()
        ),
        ("sessions", count(summary.get("num_sessions"))),
    ]
    return table(("", ""), (("", row) for row in rows if row[1] != NONE))


def tau_text(summary: Mapping[str, Any]) -> str:
    """``0.76 (95% 0.6 to 0.88, on pilots left out)``; without an interval the pilots are the same."""
    tau = number(summary.get("kendall_tau"), 3)
    low, high = summary.get("kendall_tau_interval") or (None, None)
    if not known(low) or not known(high):
        return tau
    return f"{tau} (95% {number(low, 2)} to {number(high, 2)}, on pilots left out of the choice)"


def trials_table(run: Run) -> str:
    """Every row of the ledger."""
    head = ("trial", "stage", "round", "status", "label", "FLOPs", "log", "seed", "predicted")
    return table(
        (*head, "differs from the baseline in, or why it failed"),
        (row(run, t) for t in run.trials),
        "wide",
    )


def row(run: Run, trial: Trial) -> tuple[str, tuple[Any, ...]]:
    """One trial."""
    said = difference(run, trial.config)
    cells = (
        trial.id,
        trial.stage,
        trial.round,
        trial.status,
        number(trial.quality),
        ratio_text(None if trial.cost is None else math.exp(trial.cost)),
        f"{trial.fidelity:.0%}",
        trial.seed,
        signed(trial.predicted[0] if trial.predicted else None),
        f"{trial.reason} [{said}]" if trial.reason else said,
    )
    return ("failed" if trial.status == "failed" else ""), cells


def provenance_table(run: Run) -> str:
    """Versions, device, seed and revision behind the numbers."""
    summary = run.summary
    finished = summary.get("finished_at")
    rows: list[tuple[str, Any]] = [
        ("device", summary.get("device")),
        ("git revision", summary.get("git_revision")),
        ("seed of the search", summary.get("seed")),
        ("seeds that chose", ", ".join(map(str, summary.get("choice_seeds") or [])) or None),
        ("seeds of the verdict", ", ".join(map(str, summary.get("seeds") or [])) or None),
        ("searched metric", summary.get("metric")),
        ("tasks", ", ".join(summary.get("tasks") or []) or None),
    ]
    if known(finished):
        rows.append(("finished", time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(finished))))
    rows += list((summary.get("versions") or {}).items())
    return table(("", ""), (("", row) for row in rows if row[1] is not None))
