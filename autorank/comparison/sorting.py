"""The page's script: tables that are sorted by a click on a column's head, or by Enter there."""

# Cells that begin with a number are ordered as numbers, the others as text with its numbers in order; "-", which
# stands for what is not known, comes last in both directions. Equal rows keep their order.
SCRIPT = """
"use strict";
const NUMBER = /^[+-]?(\\d[\\d,]*\\.?\\d*|\\.\\d+)(e[+-]?\\d+)?/i;
function keyOf(cell) {
  const text = cell.textContent.trim();
  if (text === "" || text === "-") return null;
  const found = text.match(NUMBER);
  return found ? Number(found[0].replaceAll(",", "")) : text;
}
function compare(a, b) {
  if (typeof a === "number" && typeof b === "number") return a - b;
  if (typeof a === "number") return -1;
  if (typeof b === "number") return 1;
  return a.localeCompare(b, undefined, {numeric: true});
}
function sortBy(head) {
  const table = head.closest("table"), body = table.tBodies[0];
  const column = [...head.parentNode.children].indexOf(head);
  const sign = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
  for (const other of head.parentNode.children) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
  const rows = [...body.rows].map(row => [keyOf(row.cells[column]), row]);
  rows.sort(([a], [b]) => {
    if (a === null || b === null) return (a === null) - (b === null);
    return sign * compare(a, b);
  });
  body.append(...rows.map(([, row]) => row));
}
for (const head of document.querySelectorAll("table.sortable th")) {
  head.tabIndex = 0;
  head.addEventListener("click", () => sortBy(head));
  head.addEventListener("keydown", event => { if (event.key === "Enter") sortBy(head); });
}
""".strip()

SORT_STYLE = """
.sortable th { cursor: pointer; user-select: none; } .sortable th:hover { text-decoration: underline; }
th[aria-sort=ascending]::after { content: " \\2191"; } th[aria-sort=descending]::after { content: " \\2193"; }
tr.better td { color: var(--good); } tr.worse td { color: var(--bad); } tr.reference td { font-weight: 600; }
""".strip()
