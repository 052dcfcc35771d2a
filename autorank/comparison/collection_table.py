"""The table of collected searches as Markdown, between two markers of a page."""

from autorank.report import console

BEGIN, END = "<!-- searches: begin -->", "<!-- searches: end -->"
ROLES = dict(console.ROLES)


def title(data: str, metric: str) -> str:
    """What has one run in the table.

    Examples:
        >>> title("movielens", "ctr")
        'movielens (ctr)'
    """
    return f"{data} ({metric})"


def interval(row: dict[str, str], low: str, high: str) -> str:
    """``[-0.1, +0.2]``, or a dash."""
    if not row.get(low) or not row.get(high):
        return "-"
    return f"[{float(row[low]):+.3f}, {float(row[high]):+.3f}]"


def steps_text(row: dict[str, str]) -> str:
    """``-0.106 -> +0.030 -> +0.060 %``; the test alone for runs of earlier versions."""
    steps = [row.get(k) for k in ("label_percent", "validation_percent", "gain_percent")]
    if not any(steps[:2]):
        steps = steps[2:]
    return " -> ".join(f"{float(v):+.3f}" if v else "-" for v in steps) + " %"


def role_text(row: dict[str, str]) -> str:
    """The model's role; at equal NE with the margin and bound behind it."""
    name = ROLES[row["role"]]
    if row["role"] != "winner_equal_ne":
        return name
    if not row.get("equal_ne_margin"):
        return f"{name} (an earlier version's rule)"
    margin = float(row["equal_ne_margin"])
    # One seed gives no bound.
    bound = f"{float(row['equal_ne_bound']):+.3f} %" if row["equal_ne_bound"] else "unknown"
    if row["held_out_ne"]:
        return f"{name} (bound {bound} < {margin:g} %)"
    return f"none at equal NE; nearest: bound {bound}, not below {margin:g} %"


def table(rows: list[dict[str, str]]) -> str:
    """The table as Markdown."""
    head = (
        "data (metric)", "model", "held-out NE", "label -> validation -> test gain", "95 % over seeds",
        "95 % over test rows", "FLOPs", "rows/s", "seed noise",
    )  # fmt: skip
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for row in rows:
        gain = "reference" if row["role"] == "baseline" else steps_text(row)
        ne = f"{float(row['held_out_ne']):.5f}" if row["held_out_ne"] else "-"
        if row["bayes_ne"] and row["held_out_ne"]:
            ne += f" (best possible {float(row['bayes_ne']):.5f})"
        qps = f"{float(row['qps_ratio']):.2f}x" if row["qps_ratio"] else "-"
        if row.get("qps_low") and row["role"] != "baseline":
            qps += f" [{float(row['qps_low']):.2f}, {float(row['qps_high']):.2f}]"
        cells = (
            title(row["data"], row["metric"]), role_text(row), ne, gain, interval(row, "low", "high"),
            interval(row, "rows_low", "rows_high"), f"{float(row['flops_ratio']):.2f}x", qps,
            f"{float(row['seed_noise_percent']):.3f} %",
        )  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def with_table(text: str, rows: list[dict[str, str]]) -> str:
    """The page with the table between its markers."""
    head, rest = text.split(BEGIN)
    _, tail = rest.split(END)
    return f"{head}{BEGIN}\n{table(rows)}\n{END}{tail}"
