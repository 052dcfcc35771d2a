"""One HTML file with the tables and figures of a `bench_search.csv`, to look at without anything else."""

import base64
import html
import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from experiments.comparison.noise import noise_text

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 75rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse; display: block; overflow-x: auto; font-variant-numeric: tabular-nums }
th, td { padding: .2rem .7rem; border-bottom: 1px solid #ddd; text-align: left; white-space: nowrap }
img { max-width: 100% }
"""


def page(
    table: Any,
    sections: Mapping[str, tuple[str, Callable[[Any], Sequence[str]]]],
    figures: Mapping[str, tuple[str, Callable[[Any], Any]]],
) -> str:
    """One HTML page. Names the tables and figures that it leaves out because the runs are too few.

    Args:
        sections, figures: by name a title and what makes it; a section without a title is not for the page.
    """
    parts, missing = [], []
    for title, draw in figures.values():
        try:
            parts.append(f"<h2>{html.escape(title)}</h2>\n{_image(draw(table), title)}")
        except KeyError as error:  # a searcher, or a number of trials
            missing.append(f"{title} (no runs of {error.args[0]})")
    for title, make in (section for section in sections.values() if section[0]):
        try:
            lines = make(table)
        except KeyError as error:  # a searcher, or a number of trials
            missing.append(f"{title} (no runs of {error.args[0]})")
            continue
        if len(lines) > 2:
            parts.append(f"<h2>{html.escape(title)}</h2>\n{_table(lines)}")
        else:
            missing.append(f"{title} (no such runs)")
    if missing:
        listed = "".join(f"<li>{html.escape(m)}</li>" for m in missing)
        parts.append(f"<h2>Left out, as runs are missing</h2>\n<ul>{listed}</ul>")
    body = "\n".join(parts)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f"<title>Searchers compared</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        "<h1>Searchers compared</h1>\n<p>Regret is normalised: 0 is the best known loss of a task, 1 a median random "
        f"configuration. {_kind(table)}</p>\n{body}\n</body>\n</html>\n"
    )


def _kind(table: Any) -> str:
    """What is shown where a title does not say otherwise."""
    batch = "One proposal at a time" if table.batch == 1 else f"Batches of {table.batch}"
    noise = (
        f"noise of {noise_text(table.noise)} in what is told" if table.noise else "without noise"
    )
    return f"{batch}, {noise}, unless a title says otherwise."


def _image(figure: Any, title: str) -> str:
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=130)
    text = base64.b64encode(stream.getvalue()).decode("ascii")
    return f'<img alt="{html.escape(title)}" src="data:image/png;base64,{text}">'


def _table(lines: Sequence[str]) -> str:
    """A Markdown table as HTML."""
    head, _, *rows = ([c.strip() for c in line.strip("|").split("|")] for line in lines)
    cell = "<{0}>{1}</{0}>".format
    made = ["".join(cell("th", html.escape(c)) for c in head)]
    made += ["".join(cell("td", html.escape(c.strip("`"))) for c in row) for row in rows]
    return "<table>\n" + "\n".join(f"<tr>{r}</tr>" for r in made) + "\n</table>"
