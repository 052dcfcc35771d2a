"""The report of a run: one self-contained page, its figures, and a table for the terminal."""

import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autorank.ledger.run_folder import Run, read_run, searched
from autorank.ledger.safe_write import write_atomically
from autorank.report import figures
from autorank.report.tables import (
    NONE,
    baseline_table,
    cost_table,
    count,
    escape,
    fixed,
    front_table,
    headline,
    main_metric_of,
    number,
    provenance_table,
    results_table,
    seconds,
    signed,
    trials_table,
    warnings_list,
)
from autorank.report.tables import interval as span
from autorank.report.verdict import FINALISTS_NOTE, SENTENCES, finalists_table, verdict_sentences

STYLE = """
:root { color-scheme: light dark; --ink: #1b1b1b; --paper: #fdfdfc; --rule: #d9d9d6;
  --soft: #66665f; --card: #f3f3f0; --good: #00704f; --bad: #b34700; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8e8e4; --paper: #17181a; --rule: #3a3c40;
  --soft: #a3a39c; --card: #222428; --good: #4fc79f; --bad: #ff9a52; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2rem 1.2rem 4rem; max-width: 62rem; color: var(--ink);
  background: var(--paper); font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.5rem; margin: 0 0 .3rem; } h2 { font-size: 1.15rem; margin: 2.4rem 0 .6rem; }
p { margin: .4rem 0; } .soft { color: var(--soft); font-size: .9rem; }
.headline { font-size: 1.2rem; margin: 1rem 0; padding: .9rem 1.1rem; background: var(--card);
  border-left: 4px solid var(--soft); border-radius: 4px; }
.headline.good { border-color: var(--good); } .headline.bad { border-color: var(--bad); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .88rem; font-variant-numeric: tabular-nums; }
th, td { padding: .28rem .5rem; border-bottom: 1px solid var(--rule); text-align: right;
  vertical-align: top; }
td { white-space: nowrap; } th { font-weight: 600; vertical-align: bottom; }
th:first-child, td:first-child { text-align: left; }
.wide td:last-child, .wide th:last-child { white-space: normal; min-width: 16rem;
  text-align: left; }
tr.changed td { font-weight: 600; } tr.failed td { color: var(--bad); }
figure { margin: 1.2rem 0; } figcaption { color: var(--soft); font-size: .88rem; }
.plot { background: #fff; border: 1px solid var(--rule); border-radius: 4px; padding: .4rem; }
.plot svg { width: 100%; height: auto; display: block; }
.warning { border-left: 4px solid var(--bad); padding: .3rem .9rem; margin: .6rem 0; }
details { margin: .8rem 0; } summary { cursor: pointer; font-weight: 600; }
pre { background: var(--card); padding: .8rem; overflow-x: auto; font-size: .8rem; }
""".strip()


def write_report(folder: Path) -> Path:
    """Writes ``report.html`` and ``figures/*.svg|png`` into a run's folder, finished or not.

    Raises:
        FileNotFoundError: the folder holds no ledger.
        LedgerCorrupt: its ledger is damaged.
    """
    folder = Path(folder)
    run = read_run(folder)
    drawings = figures.save(figures.draw(run), folder / "figures")
    path = folder / "report.html"
    write_atomically(path, page(run, drawings))
    return path


def page(run: Run, drawings: Mapping[str, str]) -> str:
    """The page's HTML; ``drawings`` are the SVG texts by name."""
    name = run.summary.get("name") or run.folder.name
    text, tone = headline(run)
    parts = [
        f"<h1>{escape(name)}</h1>",
        f'<p class="soft">{escape(state_of(run))}</p>',
        f'<p class="headline {tone}">{escape(text)}</p>',
        *(f"<p>{escape(said)}</p>" for said in verdict_sentences(run)),
        warnings_list(run),
        section("Result", results_table(run)),
        section("From label to test", finalists_section(run)),
        plots(drawings, ("survival", "front", "curves", "seed_noise")),
        section("Against the baseline, decision by decision", baseline_table(run)),
        section("Front of the trials", front_table(run)),
        section("The search", cost_table(run)),
        plots(drawings, ("progress", "importance", "fidelity", "predicted", "policy")),
        folded("All trials", trials_table(run)),
        folded("Provenance", provenance_table(run)),
        folded("Settings", f"<pre>{escape(run.config)}</pre>" if run.config else ""),
    ]
    body = "\n".join(part for part in parts if part)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        # An empty icon keeps browsers from asking a server for one.
        '<link rel="icon" href="data:,">\n'
        f"<title>{escape(name)}</title>\n<style>\n{STYLE}\n</style>\n</head>\n<body>\n{body}\n"
        "</body>\n</html>\n"
    )


def state_of(run: Run) -> str:
    """Whether the run is finished; if not, how far it came."""
    if run.summary.get("status") == "finished":
        trials, failed = run.summary.get("num_trials"), run.summary.get("num_failed")
        return f"finished: {count(trials)} trials, {count(failed)} failed"
    trials = searched(run)
    done = sum(t.status != "proposed" for t in trials)
    total = planned_trials(run.config) or len(trials)
    return f"interrupted after {done} of {total} trials; the same command continues it"


def planned_trials(config: str) -> int | None:
    """``search.trials`` of the resolved settings; None where they do not say."""
    import yaml

    try:
        value = (yaml.safe_load(config) or {})["search"]["trials"]
    except (yaml.YAMLError, KeyError, TypeError):
        return None
    return value if isinstance(value, int) else None


def section(title: str, body: str) -> str:
    """A heading with what belongs to it; nothing without a body."""
    return f'<h2>{escape(title)}</h2>\n<div class="scroll">{body}</div>' if body else ""


def finalists_section(run: Run) -> str:
    """The finalists' table with how to read it."""
    found = finalists_table(run)
    return found and f'{found}\n<p class="soft">{escape(FINALISTS_NOTE)}</p>'


def folded(title: str, body: str) -> str:
    """The same, closed at first."""
    if not body:
        return ""
    return (
        f'<details><summary>{escape(title)}</summary>\n<div class="scroll">{body}</div></details>'
    )


def plots(drawings: Mapping[str, str], names: tuple[str, ...]) -> str:
    """Figures inline, each with its caption."""
    return "\n".join(
        f'<figure id="{name}"><div class="plot" role="img" aria-label="{name}">{drawings[name]}'
        f"</div><figcaption>{escape(figures.CHARTS[name].caption)}</figcaption></figure>"
        for name in names
        if name in drawings
    )


def console_table(summary: Mapping[str, Any]) -> str:
    """The result in a few lines for the terminal; "-" where something is unknown."""
    gain = summary.get("ne_gain_percent") or {}
    intervals = f"95%: seeds {span(gain)}, rows {span(gain, 'rows_low', 'rows_high')}"
    rows = [("", "NE", "FLOPs", "rows/s")]
    for role, name in (
        ("baseline", "baseline"),
        ("winner", "winner"),
        ("winner_equal_cost", "best at equal cost"),
        ("winner_equal_ne", "cheapest at equal NE"),
    ):
        model = summary.get(role) or {}
        values = (fixed(model.get("ne")), count(model.get("flops")), count(model.get("qps")))
        rows.append((name, *values))
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    lines = [
        f"{row[0]:<{widths[0]}}  "
        + "  ".join(f"{v:>{w}}" for v, w in zip(row[1:], widths[1:], strict=True))
        for row in rows
    ]
    lines += [
        "",
        f"NE gain {signed(gain.get('mean'))}% on {summary.get('ne_gain_on') or '-'}, "
        f"p {number(gain.get('p'), 2)}; {intervals}",
        f"at equal NE: FLOPs {signed(summary.get('flops_gain_percent'), 1)}%, rows/s "
        f"{signed(summary.get('qps_gain_percent'), 1)}% (95% {span(summary.get('qps_gain_interval'))})",
        f"seed noise {number(summary.get('seed_noise_percent'))}%",
        *wrapped(summary),
        f"{count(summary.get('num_trials'))} trials, {count(summary.get('num_failed'))} failed, "
        f"{count(summary.get('trained_examples'))} rows trained on, "
        f"{count(summary.get('num_compiles'))} compiles "
        f"({seconds(summary.get('compile_seconds'))}), "
        f"{seconds(summary.get('wall_seconds'))}",
    ]
    for warning in summary.get("warnings") or []:
        lines.append(f"warning: {warning['signature']}: {warning['message']}; {warning['advice']}")
    return "\n".join(line.rstrip() for line in lines)


def wrapped(summary: Mapping[str, Any]) -> list[str]:
    """The finalists and the verdict's sentences in lines for a terminal."""
    said = survival_lines(summary)
    said += [say(summary) for say in SENTENCES]
    return [line for text in said for line in textwrap.wrap(text, 98)]


def survival_lines(summary: Mapping[str, Any]) -> list[str]:
    """Each finalist's gain from label to test."""
    metric = main_metric_of(summary)
    lines = []
    for i, entry in enumerate(summary.get("finalists") or [], start=1):
        test = (entry.get("test") or {}).get(metric)
        steps = [
            ("label", entry.get("label")),
            ("without luck", entry.get("label_without_luck")),
        ]
        for name, gain in (
            ("choosing seeds", entry.get("validation_gain_percent")),
            ("their test", test),
            ("fresh seeds", entry.get("confirmed_gain_percent")),
        ):
            steps.append((name, (gain or {}).get("mean")))
        shown = ", ".join(
            f"{name} {signed(value)}" for name, value in steps if signed(value) != NONE
        )
        lines.append(f"finalist {i}: {shown}")
    return lines
