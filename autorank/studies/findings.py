"""What the rows of a study say: means, paired differences, a table for the console, and one sentence."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from autorank.studies.intervals import Difference, corrected_interval, over_tables
from autorank.studies.journal import Cell, Rows
from autorank.studies.study import SUBJECTS, Study, Table

ALL = "all"  # in the place of a table's name: the mean over the tables


class Finding(NamedTuple):
    """One arm, measure and table, against the reference; or a contrast, which is a difference by itself."""

    arm: str  # or the words of a contrast
    table: str  # a name, or `ALL`
    measure: str
    mean: float
    difference: Difference  # minus the reference, paired by split
    splits: int
    is_contrast: bool = False  # the mean is then the contrast's own


def findings(study: Study, tables: Sequence[Table], splits: int, rows: Rows) -> list[Finding]:
    """All of them, the mean over tables first."""
    correlation = SUBJECTS[study.subject].make(study).correlation
    rhos = np.array([correlation(table) for table in tables])
    names = [table.name for table in tables]

    def values(arm: str, measure: str) -> np.ndarray:
        return np.array(
            [[rows[Cell(arm, name, s)][measure] for s in range(splits)] for name in names]
        )

    found = []
    for measure in study.measures:
        reference = values(study.reference, measure)
        for arm in study.arms:
            own = values(arm, measure)
            apart = own - reference
            found.append(
                Finding(arm, ALL, measure, float(own.mean()), over_tables(apart, rhos), splits)
            )
            for name, mine, d, rho in zip(names, own, apart, rhos, strict=True):
                interval = corrected_interval(d, float(rho))
                found.append(Finding(arm, name, measure, float(mine.mean()), interval, splits))
        for words, weights in study.contrasts.items():
            sums = np.sum([w * values(arm, measure) for arm, w in weights.items()], axis=0)
            each = [corrected_interval(d, float(rho)) for d, rho in zip(sums, rhos, strict=True)]
            every = [(ALL, over_tables(sums, rhos)), *zip(names, each, strict=True)]
            found += [Finding(words, n, measure, d.mean, d, splits, True) for n, d in every]
    return found


def as_rows(study_name: str, found: Sequence[Finding]) -> list[dict[str, object]]:
    """Findings as rows of a tidy table; a difference of the reference from itself has no interval."""
    return [
        {
            "study": study_name,
            "table": f.table,
            "kind": "contrast" if f.is_contrast else "arm",
            "arm": f.arm,
            "measure": f.measure,
            "mean": _digits(f.mean),
            "difference": _digits(f.difference.mean),
            "low": _digits(f.difference.low),
            "high": _digits(f.difference.high),
            "splits": f.splits,
        }
        for f in found
    ]


def refuse_fewer_splits(path: Path, splits: int) -> None:
    """Refuses to replace written results by those of fewer splits.

    Raises:
        ValueError: what is there has more.
    """
    made_by = path.with_suffix(".json")
    there = json.loads(made_by.read_text())["splits"] if made_by.exists() else 0
    if there > splits:
        raise ValueError(
            f"{path} has the results of {there} splits and these are of {splits}; write splits={there}, or another "
            f"results="
        )


def refuse_parts(path: Path, missing: Sequence[str]) -> None:
    """Refuses to write the results of a part of a study.

    Raises:
        ValueError: something was left out.
    """
    if missing:
        raise ValueError(
            f"{path} takes whole studies, and something was left out: {'; '.join(missing)}"
        )


def described(study: Study, tables: Sequence[Table], found: Sequence[Finding]) -> str:
    """A table of all arms: the first measure on each table, its paired difference, the means of the others."""
    lead, *others = study.measures
    by = {(f.arm, f.table, f.measure): f for f in found}
    names = [table.name for table in tables]
    shown = [*names, ALL] if len(names) > 1 else [ALL]
    head = ["arm", *(f"{lead}, {n}" if n != ALL else lead for n in shown)]
    head += [f"minus {study.reference} [95 %]", *others]
    lines = [head]
    for arm in study.arms:
        cells = [arm, *(short(by[arm, n, lead].mean) for n in shown)]
        difference = by[arm, ALL, lead].difference
        cells.append("reference" if arm == study.reference else difference.text)
        lines.append(cells + [short(by[arm, ALL, m].mean) for m in others])
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    return "\n".join(
        "  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def sentence(study: Study, tables: Sequence[Table], found: Sequence[Finding]) -> str:
    """What the intervals of the first measure show on the mean over tables, and nothing else."""
    lead = study.measures[0]
    groups: dict[int, list[str]] = {1: [], -1: [], 0: []}
    unknown = []
    for f in found:
        if f.measure != lead or f.table != ALL or f.arm == study.reference or f.is_contrast:
            continue
        if math.isnan(f.difference.low):
            unknown.append(f.arm)
        else:
            shown = f"{f.arm} ({f.difference.text})"
            groups[f.difference.sign].append(shown)
    words = study.MEASURES[lead].words
    parts = []
    for sign, order in ((1, "higher"), (-1, "lower")):
        if groups[sign]:
            start = f"{words} is {order} than that of {study.reference}" if not parts else order
            parts.append(f"{start} for {', '.join(groups[sign])}")
    if groups[0]:
        parts.append(f"no difference was shown for {', '.join(groups[0])}")
    if unknown:
        parts.append(f"it is not defined for {', '.join(unknown)}")
    on = " and ".join(table.name for table in tables)
    mean = "on" if len(tables) == 1 else "in the mean over"
    splits = found[0].splits
    return (
        f"{mean.capitalize()} {on} ({splits} {study.SPLITS}), "
        + "; ".join(parts)
        + "; each interval stands alone, "
        "without a correction for the number of arms."
    )


def told(study: Study, found: Sequence[Finding]) -> list[str]:
    """A sentence for each contrast, for the first measure in the mean over tables; it says no more than its interval.

    The numbers are in brackets if the interval holds 0.
    """
    lead = study.measures[0]
    words = study.MEASURES[lead].words
    lines = []
    for f in found:
        if f.is_contrast and f.measure == lead and f.table == ALL:
            shown = f.difference.text
            says = (
                f"{words} {shown}"
                if f.difference.sign
                else f"no difference shown ({words} {shown})"
            )
            lines.append(f"{f.arm}: {says}.")
    return lines


def short(value: float) -> str:
    """Three digits, or a dash."""
    return "-" if math.isnan(value) else f"{value:.3f}"


def _digits(value: float) -> float:
    return float(f"{value:.6g}")
