"""The table of the study of returns as text, for the terminal and for the page."""

import math
from collections.abc import Sequence
from typing import Any

from autorank.studies.intervals import Difference
from autorank.studies.roi_cells import Row, whole
from autorank.studies.roi_findings import (
    best_cell,
    by_seed,
    gain_sentence,
    mean_gain,
    order_sentence,
    survival,
)

NONE = "-"
HEAD = ("searcher", "searches", "test gain, mean [95 % over search seeds]", "each search")
BEST_HEAD = (
    "model", "gain [95 % over final seeds] [over rows]", "FLOPs", "gain at equal FLOPs", "at equal NE", "AUC, points",
)  # fmt: skip


def described(rows: Sequence[Row], data: Sequence[str], order: Sequence[str]) -> str:
    """Everything for the terminal."""
    parts = []
    for name in data:
        parts += [name, *aligned([HEAD, *searcher_rows(rows, name)]), ""]
        parts += [*sentences(rows, name, order), *missing(rows, name), ""]
    return "\n".join(parts)


def searchers_of(rows: Sequence[Row], data: str) -> list[str]:
    """The searchers of a data set's cells, in their order."""
    return list(dict.fromkeys(row["searcher"] for row in rows if row["data"] == data))


def searcher_rows(rows: Sequence[Row], data: str) -> list[tuple[str, ...]]:
    """A row for each searcher, as in `HEAD`."""
    found = []
    for searcher in searchers_of(rows, data):
        gains = by_seed(rows, data, searcher)
        each = ", ".join(f"{gain:+.3f}" for gain in gains.values()) or NONE
        found.append((searcher, str(len(gains)), mean_text(mean_gain(rows, data, searcher)), each))
    return found


def mean_text(found: Difference) -> str:
    """A mean with its interval, as far as they are known."""
    if math.isnan(found.mean):
        return NONE
    return f"{found.mean:+.3f}" if math.isnan(found.low) else found.text


def best_row(row: Row) -> tuple[str, ...]:
    """The best cell's model, as in `BEST_HEAD`."""
    if math.isnan(row["equal_ne_flops_ratio"]):
        equal = f"none within {row['equal_ne_margin']:g} %"
    else:
        equal = (
            f"{row['equal_ne_flops_ratio']:.2f}x FLOPs, {row['equal_ne_rows_ratio']:.2f}x "
            f"[{row['equal_ne_rows_low']:.2f}, {row['equal_ne_rows_high']:.2f}] rows/s"
        )
    return (
        f"{row['searcher']}, search seed {row['seed']:g}",
        f"{interval_text(row, 'test_gain')} [{row['test_gain_rows_low']:+.3f}, {row['test_gain_rows_high']:+.3f}]",
        f"{row['flops_ratio']:.2f}x",
        equal_flops(row),
        equal,
        interval_text(row | {"auc": row["auc_mean"]}, "auc"),
    )


def equal_flops(row: Row) -> str:
    """The gain of the best model at the baseline's FLOPs."""
    if math.isnan(row["equal_flops_gain"]):
        return "no finalist is as cheap"
    return f"{interval_text(row, 'equal_flops_gain')} at {row['equal_flops_ratio']:.2f}x"


def interval_text(row: Row, name: str) -> str:
    """``mean [low, high]`` of a row's columns."""
    if math.isnan(row[name]):
        return NONE
    return f"{row[name]:+.3f} [{row[f'{name}_low']:+.3f}, {row[f'{name}_high']:+.3f}]"


def sentences(rows: Sequence[Row], data: str, order: Sequence[str]) -> list[str]:
    """What the cells of a data set say."""
    best = best_cell(rows, data)
    if best is None:
        return [order_sentence(rows, data, order)]
    return [
        gain_sentence(best),
        order_sentence(rows, data, order),
        survival_sentence(rows, data),
        ab_sentence(best),
    ]


def survival_sentence(rows: Sequence[Row], data: str) -> str:
    """How much of the predicted gain survives."""
    found, cells = survival(rows, data), [r for r in whole(rows) if r["data"] == data]
    return (
        f"{data}: of the winners' mean label {found['label']:+.3f} %, validation keeps {found['choice_gain']:+.3f} % "
        f"over the choosing seeds and {found['validation_gain']:+.3f} % over fresh ones, the test part "
        f"{found['test_gain']:+.3f} % (searches: {len(cells)})."
    )


def ab_sentence(row: Row) -> str:
    """What the test part as an experiment shows, and how many exposures its difference needs."""
    if math.isnan(row.get("ab_gain", math.nan)):
        return f"{row['data']}: no A/B stand-in, the test part has one class."
    shown = row["ab_shown_after"]
    after = (
        f"its sequential interval excludes 0 after {shown} of {row['ab_days']:g} days"
        if shown != ""
        else f"its sequential interval holds 0 after all {row['ab_days']:g} days"
    )
    return (
        f"{row['data']}: as an experiment with the test part, {after} ({row['ab_gain']:+.3f} % NE "
        f"[{row['ab_low']:+.3f}, {row['ab_high']:+.3f}]); a difference of this size needs "
        f"{count(row['ab_exposures_an_arm'])} exposures an arm for 80 % power, or {count(row['ab_paired_exposures'])} "
        f"that both models score."
    )


def count(value: Any) -> str:
    """A number of rows with two digits."""
    if not math.isfinite(value):
        return "infinitely many"
    digits = 10 ** max(0, math.floor(math.log10(max(value, 1))) - 1)
    return f"{round(value / digits) * digits:,.0f}"


def missing(rows: Sequence[Row], data: str) -> list[str]:
    """The cells that are empty, by their reason."""
    reasons: dict[str, list[str]] = {}
    for row in rows:
        if row["data"] == data and row["reason"]:
            reasons.setdefault(row["reason"], []).append(f"{row['searcher']}-{row['seed']:g}")
    return [f"empty: {', '.join(names)}: {reason}" for reason, names in reasons.items()]


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows as lines with aligned columns."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  " + "  ".join(f"{c:<{w}}" for c, w in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def section(rows: Sequence[Row], data: str, order: Sequence[str], made_by: Any) -> list[str]:
    """A data set's part of the page."""
    plan, best = made_by["plan"], best_cell(rows, data)
    lines = [f"\n## {data}\n", *sentences(rows, data, order), ""]
    lines = ["- " + line if i and line else line for i, line in enumerate(lines)]
    lines += ["", *markdown([HEAD, *searcher_rows(rows, data)]), ""]
    if best is not None:
        lines += ["The best by validation, beside the tuned baseline:\n"]
        lines += [*markdown([BEST_HEAD, best_row(best)]), ""]
    lines += [f"{line}\n" for line in missing(rows, data)]
    lines += [f"![gains on {data}](roi/{data}.png)\n"]
    done = whole([r for r in rows if r["data"] == data])
    seconds = sum(row["seconds"] for row in done)
    lines += [
        f"`{made_by['command']}`: {plan['trials']} trials a search, searches: {len(done)}, {seconds / 60:.0f} minutes "
        f"of one search after the other; {where_made(made_by)}."
    ]
    return lines


def where_made(made_by: Any) -> str:
    """Revisions, versions and devices of the searches; of the program that collected them where no more was kept."""
    origins = made_by.get("origins") or [
        (made_by["device"], made_by["versions"]["jax"], made_by["git_revision"], None)
    ]
    return "; ".join(
        f"{device}, jax {version}, revision {revision}"
        + (f" ({number} of the searches)" if number and len(origins) > 1 else "")
        for device, version, revision, number in origins
    )


def markdown(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows as a Markdown table, the first as its head."""
    head, *body = rows
    lines = [head, ["---"] * len(head), *body]
    return [f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines]
