"""`bayesmark.csv`, one line a run, and `bayesmark_problems.csv`, one a problem and protocol: from files and back.

A run is known by protocol, problem, searcher and seed. ``half`` and ``end`` are its lowest losses after half of the
rounds and after all of them. What stands in a table stays unless a file has the same run.
"""

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import binom

from experiments.comparison.challenge.evaluator import OWN_RANDOM
from experiments.comparison.challenge.reference import (
    PROTOCOLS,
    Protocol,
    Reference,
    best_so_far,
)
from experiments.comparison.runs import ended, read, searcher_of
from experiments.machine import RESULTS, revision

TABLE = RESULTS / "bayesmark.csv"
PROBLEMS = RESULTS / "bayesmark_problems.csv"
FIELDS = (
    "protocol",
    "problem",
    "searcher",
    "seed",
    "half",
    "end",
    "failed",
    "seconds_per_suggestion",
)
PROBLEM_FIELDS = (
    "problem",
    "signature_error",  # largest relative difference of the five values from the published ones
    "python",
    "scikit-learn",
)
Row = Mapping[str, Any]


class Run(NamedTuple):
    """The identity of a run."""

    protocol: str
    problem: str
    searcher: str
    seed: int


def run_of(row: Row) -> Run:
    """The run that a row is of."""
    return Run(row["protocol"], row["problem"], row["searcher"], int(row["seed"]))


def folder_of(protocol: str, runs: Path) -> Path:
    """Where the runs of a protocol lie."""
    return runs / "bayesmark" / protocol


def losses_in(path: Path) -> list[float | None]:
    """All losses of a run's file, in order; None = failed."""
    return [v for line in read(path) for v in line["loss"]]


def summary(path: Path, protocol: Protocol) -> Row | None:
    """The row of a run's file; None for one that is not finished."""
    problem, seed = problem_of(path)
    losses = losses_in(path)
    if len(losses) < protocol.trials and not ended(path):
        return None
    best = best_so_far(losses, protocol)
    lines = read(path)
    spent = sum(line["cpu"] + line["tell_cpu"] for line in lines) / max(len(losses), 1)
    # A run that its peer's package ended keeps what it found.
    half, end = (
        float(best[min(at, len(best)) - 1]) if len(best) else np.inf
        for at in (protocol.rounds // 2, protocol.rounds)
    )
    return {
        "protocol": protocol.name,
        "problem": problem,
        "searcher": searcher_of(path.parent),
        "seed": seed,
        "half": f"{half:.10g}",
        "end": f"{end:.10g}",
        "failed": protocol.trials - sum(v is not None for v in losses),
        "seconds_per_suggestion": f"{spent:.4g}",
    }


def problem_of(path: Path) -> tuple[str, int]:
    """Problem and seed that a file is named after.

    Examples:
        >>> problem_of(Path("bayesmark_MLP-adam_iris_acc-b1-n0-s3.jsonl"))
        ('MLP-adam_iris_acc', 3)
    """
    name, _, _, seed = path.stem.rsplit("-", 3)
    return name.partition("_")[2], int(seed[1:])


def rows_of(path: Path) -> list[Row]:
    """The rows of a table; none where there is none."""
    if not path.exists():
        return []
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def files(runs: Path) -> Iterator[tuple[Protocol, Path]]:
    """The files of runs, by protocol."""
    for protocol in PROTOCOLS.values():
        for path in sorted(folder_of(protocol.name, runs).glob("*/*.jsonl")):
            yield protocol, path


def write_table(runs: Path, out: Path) -> int:
    """Grows a table by the files of runs, and what made it in the JSON beside it; returns its number of rows."""
    found = {run_of(row): row for row in rows_of(out)}
    about = out.with_suffix(".json")
    told = json.loads(about.read_text()) if about.exists() else {}
    devices, versions = set(told.get("devices", ())), dict(told.get("versions", {}))
    new = False
    for protocol, path in files(runs):
        row = summary(path, protocol)
        if row is None:
            continue
        found[run_of(row)], new = row, True
        for line in read(path):
            devices |= {line["device"]} if "device" in line else set()
            for package, release in line.get("versions", {}).items():
                known = versions.setdefault(f"{row['searcher']}: {package}", [])
                known += [release] if release not in known else []
    _write(out, FIELDS, [row for _, row in sorted(found.items())])
    revisions = set(told.get("git_revisions", ())) | ({revision()} if new else set())
    plain = {
        "git_revisions": sorted(revisions),
        "devices": sorted(devices),
        "versions": dict(sorted(versions.items())),
    }
    about.write_text(json.dumps(plain, indent=1) + "\n")
    return len(found)


def write_problems(rows: Sequence[Row], out: Path) -> None:
    """Adds problems to their table, or puts them in place of those that it has."""
    found = {row["problem"]: row for row in rows_of(out)} | {row["problem"]: row for row in rows}
    _write(out, PROBLEM_FIELDS, [row for _, row in sorted(found.items())])


def _write(path: Path, fields: Sequence[str], rows: Sequence[Row]) -> None:
    partial = path.with_suffix(".partial")
    with partial.open("w", newline="") as stream:
        writer: csv.DictWriter[str] = csv.DictWriter(stream, fields, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    partial.replace(path)  # a full disk leaves the old table intact


def quantile_with_interval(
    values: np.ndarray, share: float, level: float = 0.95
) -> tuple[float, float, float]:
    """A quantile of a sample ``[n]`` and its interval from order statistics, as `bayesmark.quantiles` has them.

    The estimate is order statistic ``ceil(n share)``. The interval's ends are the order statistics between which a
    binomial count of ``n`` draws with probability ``share`` lies; infinite where the sample is too small to bound it.

    Examples:
        >>> quantile_with_interval(np.arange(1.0, 101.0), 0.5)
        (50.0, 40.0, 61.0)
    """
    n = len(values)
    ordered = np.concatenate([[-np.inf], np.sort(values), [np.inf]])
    tail = (1.0 - level) / 2.0
    low, high = int(max(binom.ppf(tail, n, share), 0)), int(binom.isf(tail, n, share)) + 1
    at = int(np.ceil(n * share))
    return float(ordered[at]), float(ordered[low]), float(ordered[high])


class Reproduced(NamedTuple):
    """A published quantile of random search beside the same of evaluations here."""

    problem: str
    evaluations: int
    published: float
    here: float
    low: float
    high: float

    @property
    def inside(self) -> bool:
        """Whether the published value lies in the interval, but for rounding."""
        slack = 1e-9 * max(abs(self.published), 1e-9)
        return self.low - slack <= self.published <= self.high + slack


def reproduced(
    problem: str, known: Reference, losses: np.ndarray, rounds: int, batch: int
) -> Reproduced:
    """The median of random search's best loss after some rounds, from independent evaluations ``[n]``.

    The best of ``m`` has the median that one evaluation has as its quantile ``1 - 0.5^(1/m)``. One evaluation (no
    rounds) has the median ``clip``.
    """
    best_of = max(rounds * batch, 1)
    found = quantile_with_interval(losses, 1.0 - 0.5 ** (1.0 / best_of))
    published = known.clip if rounds == 0 else float(known.median[rounds - 1])
    return Reproduced(problem, len(losses), published, *found)


def random_losses(runs: Path) -> dict[str, np.ndarray]:
    """By problem all losses of Bayesmark's own random search, failures infinite, of either protocol."""
    found: dict[str, list[float]] = {}
    for _, path in files(runs):
        if searcher_of(path.parent) == OWN_RANDOM:
            losses = [np.inf if v is None else v for v in losses_in(path)]
            found.setdefault(problem_of(path)[0], []).extend(losses)
    return {problem: np.array(v) for problem, v in found.items()}
