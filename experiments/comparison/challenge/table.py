"""The tables of Bayesmark's problems: runs, the problems' signatures, random search's quantiles.

A run is known by protocol, problem, searcher and seed. ``half`` and ``end`` are its lowest losses after half of the
rounds and after all of them, ``half_score`` and ``end_score`` the challenge's scores of these. What stands in a table
stays unless a file has the same run.
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
    best_so_far,
    references,
)
from experiments.comparison.runs import ended, read, searcher_of
from experiments.machine import RESULTS, revision

TABLE = RESULTS / "bayesmark.csv"
PROBLEMS = RESULTS / "bayesmark_problems.csv"
RANDOM = RESULTS / "bayesmark_random.csv"
FIELDS = (
    "protocol",
    "problem",
    "searcher",
    "seed",
    "half",
    "end",
    "half_score",
    "end_score",
    "failed",
    "seconds_per_suggestion",
)
PROBLEM_FIELDS = (
    "problem",
    "signature_error",  # largest relative difference of the five values from the published ones
    "python",
    "scikit-learn",
    *(
        f"random_{protocol}" for protocol in PROTOCOLS
    ),  # the score of random search's published mean
)
RANDOM_FIELDS = (
    "protocol",
    "problem",
    "best_of",
    "evaluations",
    "here",
    "low",
    "high",
    "published",
)
# Of how many random configurations the best one's median is compared; the protocols' rounds are multiples of a batch.
BEST_OF = {"100x1": (1, 10, 100), "16x8": (8, 128)}
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
    at = {"half": protocol.rounds // 2, "end": protocol.rounds}
    found = {k: best[min(n, len(best)) - 1] if len(best) else np.inf for k, n in at.items()}
    known = references(protocol.name)[problem]
    scores = {f"{k}_score": 100.0 * (1.0 - float(known.normed(v))) for k, v in found.items()}
    return {
        "protocol": protocol.name,
        "problem": problem,
        "searcher": searcher_of(path.parent),
        "seed": seed,
        **{k: f"{v:.10g}" for k, v in found.items()},
        **{k: f"{v:.6g}" for k, v in scores.items()},
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
    write(out, FIELDS, [row for _, row in sorted(found.items())])
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
    write(out, PROBLEM_FIELDS, [row for _, row in sorted(found.items())])


def write(path: Path, fields: Sequence[str], rows: Sequence[Row]) -> None:
    """A table with these columns."""
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


def random_losses(runs: Path) -> dict[str, np.ndarray]:
    """By problem all losses of Bayesmark's own random search, failures infinite, of either protocol."""
    found: dict[str, list[float]] = {}
    for _, path in files(runs):
        if searcher_of(path.parent) == OWN_RANDOM:
            losses = [np.inf if v is None else v for v in losses_in(path)]
            found.setdefault(problem_of(path)[0], []).extend(losses)
    return {problem: np.array(v) for problem, v in found.items()}


def random_rows(runs: Path) -> Iterator[Row]:
    """The median of the best of some random configurations, from evaluations here and as published.

    The best of ``m`` has the median that one evaluation has as its quantile ``1 - 0.5^(1/m)``; both protocols draw the
    same configurations, so their evaluations count together.
    """
    for problem, losses in random_losses(runs).items():
        for protocol, sizes in BEST_OF.items():
            known = references(protocol)[problem]
            for m in sizes:
                here, low, high = quantile_with_interval(losses, 1.0 - 0.5 ** (1.0 / m))
                published = known.median[m // PROTOCOLS[protocol].batch - 1]
                numbers = dict(
                    zip(
                        ("here", "low", "high", "published"),
                        (here, low, high, published),
                        strict=True,
                    )
                )
                yield {
                    "protocol": protocol,
                    "problem": problem,
                    "best_of": m,
                    "evaluations": len(losses),
                } | {k: f"{v:.10g}" for k, v in numbers.items()}


def write_random(runs: Path, out: Path) -> None:
    """Puts the quantiles of a folder's random searches into their table, where they are of more evaluations."""

    def name(row: Row) -> tuple[str, str, int]:
        return row["protocol"], row["problem"], int(row["best_of"])

    found = {name(row): row for row in rows_of(out)}
    for row in random_rows(runs):
        known = found.get(name(row))
        if known is None or int(row["evaluations"]) >= int(known["evaluations"]):
            found[name(row)] = row
    write(out, RANDOM_FIELDS, [row for _, row in sorted(found.items())])
