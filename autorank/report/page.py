"""The report of a run: one self-contained page with its figures."""

from collections.abc import Mapping
from pathlib import Path

from autorank.ledger.run_folder import Run, read_run
from autorank.ledger.safe_write import write_atomically
from autorank.report import charts
from autorank.report.markup import escape, folded, section
from autorank.report.sentences import headline, state_of, verdict_sentences
from autorank.report.stylesheet import STYLE
from autorank.report.tables.decisions import decisions_table
from autorank.report.tables.finalists import finalists_section
from autorank.report.tables.results import results_table
from autorank.report.tables.search import cost_table, provenance_table
from autorank.report.tables.trials import front_table, trials_table


def write_report(folder: Path) -> Path:
    """Writes ``report.html`` and ``figures/*.svg|png`` into a run's folder, finished or not; returns the page's path.

    Raises:
        FileNotFoundError: the folder holds no ledger.
        LedgerCorrupt: its ledger is damaged.
    """
    folder = Path(folder)
    run = read_run(folder)
    drawings = charts.save(charts.draw(run), folder / "figures")
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
        *(f"<p>{escape(sentence)}</p>" for sentence in verdict_sentences(run.summary)),
        warnings_list(run),
        section("Result", results_table(run)),
        section("From label to test", finalists_section(run)),
        plots(drawings, ("survival", "front", "curves", "seed_noise", "reliability")),
        section("Decisions against the baseline", decisions_table(run)),
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
        # An empty icon keeps browsers from requesting one from a server.
        '<link rel="icon" href="data:,">\n'
        f"<title>{escape(name)}</title>\n<style>\n{STYLE}\n</style>\n</head>\n<body>\n{body}\n"
        "</body>\n</html>\n"
    )


def warnings_list(run: Run) -> str:
    """The warnings of the run, with advice."""
    return "\n".join(
        f'<div class="warning"><strong>{escape(w.get("signature", ""))}</strong>: '
        f"{escape(w.get('message', ''))}. <em>{escape(w.get('advice', ''))}</em></div>"
        for w in run.summary.get("warnings") or []
    )


def plots(drawings: Mapping[str, str], names: tuple[str, ...]) -> str:
    """The drawings of these names as inline figures, each with its caption."""
    return "\n".join(
        f'<figure id="{name}"><div class="plot" role="img" aria-label="{name}">{drawings[name]}'
        f"</div><figcaption>{escape(charts.CHARTS[name].caption)}</figcaption></figure>"
        for name in names
        if name in drawings
    )
