"""HTML of the report; every text that comes from settings or data is escaped here."""

import html
from collections.abc import Iterable, Sequence
from typing import Any


def escape(value: Any) -> str:
    """The value as text that cannot be read as markup."""
    return html.escape(str(value), quote=True)


def table(head: Sequence[str], rows: Iterable[tuple[str, Sequence[Any]]], kind: str = "") -> str:
    """An HTML table; empty without rows.

    Args:
        head: names of the columns.
        rows: CSS class ("" for none) and cells of each row.
        kind: CSS class of the table; "wide" wraps the last column.

    Examples:
        >>> print(table(("model", "NE"), [("", ("a & b", 0.85))]))
        <table><thead><tr><th>model</th><th>NE</th></tr></thead>
        <tbody><tr><td>a &amp; b</td><td>0.85</td></tr></tbody></table>
    """
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


def section(title: str, body: str) -> str:
    """A heading and its content; empty without content."""
    return f'<h2>{escape(title)}</h2>\n<div class="scroll">{body}</div>' if body else ""


def folded(title: str, body: str) -> str:
    """A section that is closed at first; empty without content."""
    if not body:
        return ""
    return (
        f'<details><summary>{escape(title)}</summary>\n<div class="scroll">{body}</div></details>'
    )
