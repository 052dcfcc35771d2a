"""A comparison as one self-contained page with a sortable table."""

import math
from collections.abc import Iterable

from autorank.comparison.compare import Block, Comparison
from autorank.comparison.figures import FIGURES, MOST_NAMED
from autorank.comparison.pairing import MEASURES, unit_of
from autorank.comparison.sorting import SCRIPT, SORT_STYLE
from autorank.comparison.text import (
    HEAD,
    OVERALL,
    OVERALL_HEAD,
    cells,
    counted,
    noise_text,
    overall_rows,
    settings_rows,
    shown,
)
from autorank.report.markup import escape, folded, section, table
from autorank.report.numbers import count, number
from autorank.report.style import svg_text
from autorank.report.stylesheet import STYLE


def comparison_page(found: Comparison) -> str:
    """The page's HTML; nothing in it is fetched."""
    title = counted(found.num_runs, len(found.groups))
    parts = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="soft">Compared by {escape(MEASURES[found.measure])}; lower is better. Differences are in '
        f"{escape(unit_of(found.measure))} from {escape(found.reference.letter)} "
        f"({escape(found.reference.name)}), paired by data and seed, with 95 % intervals. "
        f"Click a column's head to sort by it.</p>",
    ]
    for i, block in enumerate(found.blocks):
        parts += [section(block.name, block_table(found, block)), *drawings(found, block, i)]
    parts += [
        section(OVERALL, overall_table(found)),
        "".join(f"<p>{escape(note)}</p>" for note in found.notes),
        section("What differs", differing_table(found)),
        section("Differs without effect", idle_table(found)),
        section(f"Left out: {len(found.left_out)}", left_out_table(found))
        if found.left_out
        else "",
        folded("All runs", runs_table(found)),
    ]
    body = "\n".join(part for part in parts if part)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<link rel="icon" href="data:,">\n'
        f"<title>{escape(title)}</title>\n<style>\n{STYLE}\n{SORT_STYLE}\n</style>\n</head>\n<body>\n{body}\n"
        f"<script>\n{SCRIPT}\n</script>\n</body>\n</html>\n"
    )


def block_table(found: Comparison, block: Block) -> str:
    """The rows of one data set."""
    rows = []
    for row in block.rows:
        verdict = "reference" if row.difference is None else row.difference.verdict
        rows.append((verdict.replace(" ", "-"), cells(row, found)))
    return table(("group", *HEAD[1:7], "verdict", *HEAD[8:]), rows, "sortable wide")


def overall_table(found: Comparison) -> str:
    """The groups over several data sets; empty with one."""
    rows = [("", row) for row in overall_rows(found)]
    return table(("group", *OVERALL_HEAD[1:]), rows, "sortable wide")


def drawings(found: Comparison, block: Block, number: int) -> Iterable[str]:
    """The figures of one data set, inline."""
    hidden = len(block.rows) - MOST_NAMED
    for name, drawing in FIGURES.items():
        figure = drawing.draw(found, block)
        if figure is None:
            continue
        caption = drawing.caption
        if hidden > 0 and name != "differences":
            caption += (
                f" The {hidden} groups with the highest means are pale and have no name here."
            )
        key = f"{name}-{number}"
        yield (
            f'<figure id="{key}"><div class="plot" role="img" aria-label="{name} on {escape(block.name)}">'
            f"{svg_text(figure, key)}</div><figcaption>{escape(caption)}</figcaption></figure>"
        )


def differing_table(found: Comparison) -> str:
    """The settings that differ between groups; "-" where a group's parts have no such setting."""
    head, *rows = settings_rows(found)
    return table(head, [("", row) for row in rows], "sortable")


def idle_table(found: Comparison) -> str:
    """The settings that differ and change nothing."""
    rows = [("", (i.key, " | ".join(i.values), i.runs, i.why)) for i in found.idle]
    return table(("setting", "values", "runs", "why it has no effect"), rows, "wide")


def left_out_table(found: Comparison) -> str:
    """The folders that take no part."""
    return table(
        ("folder", "reason"), [("failed", entry) for entry in found.left_out], "sortable wide"
    )


def runs_table(found: Comparison) -> str:
    """Every run with what it found and cost."""
    rows = []
    for group in found.groups:
        for r in group.results:
            passes = r.course.passes[-1] if len(r.course.passes) else math.nan
            values = (shown(r.values[m], m) for m in MEASURES)
            cost = (
                count(r.summary.get("num_trials")),
                number(passes),
                count(r.summary.get("trained_examples")),
            )
            revision = str(r.summary.get("git_revision") or "-")[:10]
            entry = (
                group.letter,
                r.data,
                r.seed,
                *values,
                noise_text(r.noise),
                *cost,
                revision,
                r.folder,
            )
            rows.append(("", entry))
    head = (
        "group", "data", "seed", *MEASURES, "seed noise", "trials", "passes", "rows trained on", "revision", "folder"
    )  # fmt: skip
    return table(head, rows, "sortable wide")
