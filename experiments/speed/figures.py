"""Measured figures as rows of ``experiments/results/bench_<name>.csv``, with medians, ranges and targets."""

import csv
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from experiments.machine import device_name, revision, versions

COLUMNS = (
    "bench",
    "shape",
    "variant",
    "metric",
    "unit",
    "median",
    "low",
    "high",
    "repeats",
    "device",
    "versions",
    "git revision",
)
KEY = ("bench", "shape", "variant", "metric", "device")

Row = dict[str, str]


class Figure(NamedTuple):
    """One measured value."""

    value: float
    unit: str


class Target(NamedTuple):
    """The bound that a figure must reach."""

    bound: float
    at_most: bool = False

    def met(self, value: float) -> bool:
        """Whether a figure reaches it."""
        return value <= self.bound if self.at_most else value >= self.bound

    def __str__(self) -> str:
        return f"{'<=' if self.at_most else '>='} {self.bound:g}"


# By shape, variant and metric.
Targets = Mapping[tuple[str, str, str], Target]


def row_of(
    bench: str,
    shape: str,
    variant: str,
    metric: str,
    unit: str,
    values: Sequence[float],
    measured_with: str,
) -> Row:
    """One row: median, lowest and highest of the values, and what measured them."""
    spread = {"median": statistics.median(values), "low": min(values), "high": max(values)}
    return (
        {"bench": bench, "shape": shape, "variant": variant, "metric": metric, "unit": unit}
        | {name: f"{value:.5g}" for name, value in spread.items()}
        | {"repeats": str(len(values)), "versions": measured_with}
        | {"device": device_name(), "git revision": revision()}
    )


def show(rows: Sequence[Mapping[str, str]], targets: Targets) -> None:
    """Prints the rows as a table, with their targets."""
    for row in rows:
        target = targets.get((row["shape"], row["variant"], row["metric"]))
        note = ""
        if target:
            reached = "met" if target.met(float(row["median"])) else "SHORT"
            note = f"  target {target}: {reached}"
        print(
            f"{row['shape']:28s} {row['variant']:44s} {row['metric']:16s} {row['median']:>10s} "
            f"[{row['low']}, {row['high']}] {row['unit']}{note}"
        )


def read(path: Path) -> list[Row]:
    """Rows of a results file; none if there is no file."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def write(path: Path, rows: Sequence[Mapping[str, str]]) -> None:
    """Adds rows to a results file in place of older ones with the same `KEY`."""
    kept = {tuple(row[c] for c in KEY): row for row in [*read(path), *rows]}
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    with partial.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(kept.values())
    partial.replace(path)


class Findings:
    """Rows of a benchmark that measures in this process, printed as they come."""

    def __init__(self, bench: str) -> None:
        self.bench, self.rows = bench, list[Row]()

    def say(self, shape: str, variant: str, metric: str, unit: str, *values: float) -> None:
        """Prints the median of some values of a figure and keeps them as a row."""
        row = row_of(self.bench, shape, variant, metric, unit, values, versions())
        self.rows.append(row)
        print(f"{shape} | {variant} | {metric}: {row['median']} {unit}", flush=True)
