"""A comparison for the terminal, and as CSV."""

import csv
import io
import math
import textwrap
from collections.abc import Sequence
from typing import Any

from autorank.comparison.compare import Block, Comparison, left_out_lines
from autorank.comparison.grouping import short_key, text_of
from autorank.comparison.pairing import LEVEL, MEASURES, Overall, Row, unit_of
from autorank.report.numbers import NONE, entropy, number, signed

WIDTH = 110
MOST_CHARACTERS = 40
HEAD = (
    "",
    "runs",
    "mean",
    "sd",
    "difference",
    "95 % interval",
    "pairs",
    "",
    "seed noise",
    "what differs",
)
OVERALL = "Over data sets, each with the same weight"
OVERALL_HEAD = ("", "data sets", "pairs", "difference", "95 % interval", "what differs")
COLUMNS = (
    "data", "metric", "measure", "group", "name", "runs", "seeds", "mean", "sd", "reference", "pairs", "difference",
    "low", "high", "level", "seed_noise_percent", "folders",
)  # fmt: skip


def counted(runs: int, groups: int) -> str:
    """How many runs there are, in how many groups.

    Examples:
        >>> counted(1, 1), counted(12, 4)
        ('1 run in 1 group', '12 runs in 4 groups')
    """
    return f"{runs} run{'s' * (runs != 1)} in {groups} group{'s' * (groups != 1)}"


def console_text(found: Comparison) -> str:
    """The tables, what differs, notes, and what was left out."""
    lines = [
        f"{counted(found.num_runs, len(found.groups))} by {MEASURES[found.measure]}, lower is better; "
        f"differences in {unit_of(found.measure)} from {found.reference.letter}, paired by seed"
    ]
    for block in found.blocks:
        rows = [cells(row, found) for row in block.rows]
        lines += ["", block.name, *aligned([HEAD, *rows])]
    if found.overall:
        lines += ["", OVERALL, *aligned([OVERALL_HEAD, *overall_rows(found)])]
    if found.keys:
        lines += [
            "",
            "What differs",
            *aligned([[cut(c) for c in row] for row in settings_rows(found)]),
        ]
    if found.idle:
        lines += ["", "Differs without effect"]
        lines += [f"  {i.key}={' | '.join(i.values)} in {i.runs} runs: {i.why}" for i in found.idle]
    if found.notes:
        lines.append("")
        for note in found.notes:
            lines += textwrap.wrap(note, WIDTH)
    if found.left_out:
        lines += ["", f"Left out: {len(found.left_out)}", *left_out_lines(found.left_out)]
    return "\n".join(line.rstrip() for line in lines)


def cells(row: Row, found: Comparison) -> tuple[str, ...]:
    """A row's cells, as in `HEAD`."""
    gap = row.difference
    if gap is None:
        compared = ("reference", "", "", "")
    else:
        interval = NONE if math.isnan(gap.low) else f"{gap.low:+.3f} to {gap.high:+.3f}"
        compared = (signed(gap.mean), interval, str(len(gap.seeds)), gap.verdict)
    return (
        row.group.letter,
        str(len(row.results)),
        shown(row.mean, found.measure),
        number(row.sd, 2),
        *compared,
        noise_text(row.noise),
        row.name,
    )


def overall_rows(found: Comparison) -> list[tuple[str, ...]]:
    """The groups over several data sets, as in `OVERALL_HEAD`."""
    return [
        (
            row.group.letter,
            str(row.data_sets),
            str(row.pairs),
            signed(row.mean),
            NONE if math.isnan(row.low) else f"{row.low:+.3f} to {row.high:+.3f}",
            row.group.name,
        )
        for row in found.overall
    ]


def noise_text(noise: float) -> str:
    """A standard deviation in percent NE."""
    return NONE if math.isnan(noise) else f"{noise:.3f} %"


def shown(value: float, measure: str) -> str:
    """A value of the measure."""
    return signed(value) if measure in ("gain", "label") else entropy(value)


def settings_rows(found: Comparison) -> list[tuple[str, ...]]:
    """The settings that differ: a line for each, a column for each group."""
    head = ("setting", *(group.letter for group in found.groups))
    return [
        head,
        *((short_key(k), *(text_of(g.settings, k) for g in found.groups)) for k in found.keys),
    ]


def cut(text: str) -> str:
    """The beginning of a long value, such as a space's; page and CSV have all of it."""
    return text if len(text) <= MOST_CHARACTERS else f"{text[: MOST_CHARACTERS - 3]}..."


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows as lines with aligned columns; numbers to the right, the first and the last column to the left."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    ends = (0, len(widths) - 1)
    return [
        "  "
        + "  ".join(
            f"{cell:<{w}}" if i in ends else f"{cell:>{w}}"
            for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]


def csv_text(found: Comparison) -> str:
    """One line for each row of each block; behind the fixed columns, one for each setting that differs."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, [*COLUMNS, *map(short_key, found.keys)], lineterminator="\n")
    writer.writeheader()
    for block in found.blocks:
        writer.writerows(record(row, block, found) for row in block.rows)
    writer.writerows(overall_record(row, found) for row in found.overall)
    return stream.getvalue()


def record(row: Row, block: Block, found: Comparison) -> dict[str, Any]:
    """A row with all digits; what is not known is empty."""
    gap = row.difference
    values = {
        "data": block.name.removesuffix(f" ({block.metric})"),
        "metric": block.metric,
        "measure": found.measure,
        "group": row.group.letter,
        "name": row.group.name,
        "runs": len(row.results),
        "seeds": " ".join(map(str, row.seeds)),
        "mean": row.mean,
        "sd": row.sd,
        "reference": found.reference.letter,
        "level": LEVEL,
        "seed_noise_percent": row.noise,
        "folders": " ".join(str(r.folder) for r in row.results),
    }
    if gap is not None:
        values |= {
            "pairs": len(gap.seeds),
            "difference": gap.mean,
            "low": gap.low,
            "high": gap.high,
        }
    values |= {short_key(k): text_of(row.group.settings, k) for k in found.keys}
    return {k: "" if isinstance(v, float) and math.isnan(v) else v for k, v in values.items()}


def overall_record(row: Overall, found: Comparison) -> dict[str, Any]:
    """A group over several data sets, under ``data=*``."""
    values = {
        "data": "*",
        "measure": found.measure,
        "group": row.group.letter,
        "name": row.group.name,
        "reference": found.reference.letter,
        "pairs": row.pairs,
        "difference": row.mean,
        "low": row.low,
        "high": row.high,
        "level": LEVEL,
    }
    values |= {short_key(k): text_of(row.group.settings, k) for k in found.keys}
    return {k: "" if isinstance(v, float) and math.isnan(v) else v for k, v in values.items()}
