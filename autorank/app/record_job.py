"""A table of random configurations with their curves, from settings to its Parquet file."""

import hashlib
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from autorank.app import build
from autorank.app.identity import identity
from autorank.app.provenance import provenance, shareable
from autorank.app.settings import PlanConfig, RecordTableConfig, SearchConfig
from autorank.base.jax_settings import own_settings
from autorank.data.format.batches import Dataset
from autorank.ledger.safe_write import write_atomically
from autorank.ledger.strict_json import dumps
from autorank.objectives.base import Objective, Outcome
from autorank.recorded.journal import (
    Content,
    Header,
    Journal,
    Run,
    read_journal,
    refuse_other_table,
)
from autorank.recorded.plan import Plan, configurations, ranges
from autorank.recorded.space_text import space_from, space_text
from autorank.recorded.statistics import described, statistics
from autorank.recorded.table import RecordedTable, made_table, read_table, runs_of, write_table
from autorank.space.space import Space

LOG = logging.getLogger("autorank")
REPORT_SECONDS = 15.0  # between two lines about the progress
# What adds runs to a journal, and the header that its file must have.
Filling = tuple[Header, Callable[[Journal], None]]


@own_settings()
def run_recording(config: RecordTableConfig) -> int:
    """Records what is missing (or takes it from other journals), and writes the table once it is whole.

    Returns the number of runs that the table still lacks.

    Raises:
        ValueError: journal or table of this name belong to another table, or are damaged.
    """
    if config.summary:
        return summarise(config)
    header, fill = from_journals(config) if config.merge else from_training(config)
    with Journal(journal_path(config), header) as journal:
        report_damage(journal_path(config), journal.content)
        if table_path(config).exists():
            known = read_table(table_path(config))
            refuse_other_table(table_path(config), header_of(known), header)
            refuse_smaller(config, known)
            journal.take(known.about["sessions"], runs_of(known))
        fill(journal)
        return finish(config, journal.content)


def journal_path(config: RecordTableConfig) -> Path:
    """Where the runs are written as they come."""
    return Path(config.runs) / config.name / "journal.jsonl"


def table_path(config: RecordTableConfig) -> Path:
    """Where the finished table goes."""
    return Path(config.out) / f"{config.name}.parquet"


# --- where runs come from -------------------------------------------------------------------------


def from_training(config: RecordTableConfig) -> Filling:
    """Trains what a journal lacks of the range that these settings name."""
    search = as_search(config)
    data = build.dataset(config.data, LOG.info)
    space = build.space(search)
    objective = build.objective(search, data, space)
    plan = plan_of(config, config.seed)
    configs = configurations(space, plan)

    def fill(journal: Journal) -> None:
        jobs = plan.runs(config.first, config.count)
        missing = [job for job in jobs if job not in journal.content.runs]
        known = len(jobs) - len(missing)
        LOG.info("%s: %d of %d runs of this range are recorded", config.name, known, len(jobs))
        if missing:
            journal.start_session(session_of(config))
            train(config.chunk, plan, configs, objective, journal, missing)

    return header_for(config, search, data, space, objective), fill


def train(
    chunk: int,
    plan: Plan,
    configs: np.ndarray,
    objective: Objective,
    journal: Journal,
    missing: Sequence[tuple[int, int]],
) -> None:
    """Trains runs and writes each as it ends.

    Args:
        chunk: runs that are handed to the objective at a time.
        plan: gives each run its seed.
        configs: by number, ``[m, k]``.
        objective: what trains.
        journal: with a session begun.
        missing: numbers and repeats.
    """
    started = reported = time.perf_counter()
    done = failed = rows = 0
    for job, outcome in trained(chunk, plan, configs, objective, missing):
        now = time.perf_counter()
        journal.add(run_of(job, plan, outcome, now - started))
        done, failed, rows = done + 1, failed + bool(outcome.failed), rows + outcome.num_rows
        if now - reported > REPORT_SECONDS or done == len(missing):
            reported, seconds = now, now - started
            LOG.info(
                "%d of %d runs, %d failed; %.0f s, about %.0f s left; %s model-rows/s",
                *(done, len(missing), failed, seconds, seconds / done * (len(missing) - done)),
                f"{rows / seconds:,.0f}",
            )
            journal.sync()


def trained(
    chunk: int,
    plan: Plan,
    configs: np.ndarray,
    objective: Objective,
    missing: Sequence[tuple[int, int]],
) -> Iterator[tuple[tuple[int, int], Outcome]]:
    """Runs (number, repeat) with their outcomes, as they come."""
    for at in range(0, len(missing), chunk):
        jobs = missing[at : at + chunk]
        seeds = [plan.seed_of(*job) for job in jobs]
        for i, outcome in objective.evaluate(configs[[number for number, _ in jobs]], seeds, 1.0):
            yield jobs[i], outcome


def run_of(job: tuple[int, int], plan: Plan, outcome: Outcome, at: float) -> Run:
    """An outcome as the journal has it; ``at`` is seconds since the session began."""
    return Run(
        number=job[0],
        repeat=job[1],
        seed=plan.seed_of(*job),
        curve=np.asarray(outcome.curve, np.float32),
        ne=tuple(map(float, outcome.ne)),
        flops=float(outcome.flops),
        rows=int(outcome.num_rows),
        failed=outcome.failed,
        seconds=float(outcome.seconds),
        compile_seconds=float(outcome.compile_seconds),
        at=at,
    )


def from_journals(config: RecordTableConfig) -> Filling:
    """Takes the runs of the journals that these settings name."""
    paths = [Path(place) for place in config.merge]
    paths = [path / "journal.jsonl" if path.is_dir() else path for path in paths]
    contents = [read_journal(path) for path in paths]
    for path, content in zip(paths, contents, strict=True):
        refuse_other_table(path, content.header, contents[0].header)

    def fill(journal: Journal) -> None:
        for path, content in zip(paths, contents, strict=True):
            report_damage(path, content)
            new = journal.take(content.sessions, content.runs.values())
            LOG.info("%s: %d runs, %d of them new", path, len(content.runs), new)

    return contents[0].header, fill


# --- what is recorded -----------------------------------------------------------------------------


def as_search(config: RecordTableConfig) -> SearchConfig:
    """The settings of a search over the same data and space."""
    plan = PlanConfig(workers=config.search.workers, executor=config.search.executor)
    parts = {name: getattr(config, name) for name in ("data", "model", "training", "space")}
    return SearchConfig(**parts, search=plan)


def plan_of(config: RecordTableConfig, seed: int) -> Plan:
    """Which runs make the whole table."""
    return Plan(config.configurations, config.repeated, config.more_seeds, seed)


def header_for(
    config: RecordTableConfig,
    search: SearchConfig,
    data: Dataset,
    space: Space,
    objective: Objective,
) -> Header:
    """What all runs have in common; how many there are is no part of it, so that a table can grow."""
    own = identity(search, space, data)
    kept = {item: own[item] for item in ("data", "space", "model and training")}
    shown = shareable(config)
    bayes = data.schema.notes.get("bayes_ne") or {}
    about = {
        "data": data.schema.name,
        "data_fingerprint": data.fingerprint(),
        "space_fingerprint": space.fingerprint(),
        "space": space_text(space),
        "seed": config.seed,
        "metrics": list(objective.metrics),
        "num_windows": objective.num_windows,
        "num_rows": objective.num_rows,
        "bayes_ne": bayes.get("train"),  # of the training rows, by metric; null where nobody knows
        "settings": {name: shown[name] for name in ("data", "model", "training", "space")},
    }
    return Header(kept | {"seed": str(config.seed)}, about)


def session_of(config: RecordTableConfig) -> dict[str, Any]:
    """What records: versions, device, revision, form of training."""
    found = provenance()
    del found["finished_at"]
    return found | {"executor": config.search.executor, "workers": config.search.workers}


def header_of(table: RecordedTable) -> Header:
    """The header behind a finished table."""
    return Header(table.about["identity"], table.about)


def refuse_smaller(config: RecordTableConfig, known: RecordedTable) -> None:
    """Refuses to replace a table by a part of it.

    Raises:
        ValueError: the finished table has runs that these settings do not plan.
    """
    planned = set(plan_of(config, config.seed).runs())
    pairs = zip(*(known.columns[name].tolist() for name in ("number", "repeat")), strict=True)
    more = sum(pair not in planned for pair in pairs)
    if more:
        counts = " ".join(f"{k}={v}" for k, v in known.about["plan"].items() if k != "seed")
        raise ValueError(
            f"{table_path(config)} has {more} runs more than these settings plan; write {counts}, or another name="
        )


# --- what is written ------------------------------------------------------------------------------


def table_of(config: RecordTableConfig, content: Content) -> RecordedTable:
    """What a journal has of the planned runs, as a table."""
    about = dict(content.header.about)
    space = space_from(about.pop("space"), str(journal_path(config)))
    plan = plan_of(config, about["seed"])
    runs = [content.runs[job] for job in plan.runs() if job in content.runs]
    used = sorted({run.session for run in runs})
    about |= {
        "identity": content.header.identity,
        "plan": plan._asdict(),
        "sessions": [content.sessions[i] for i in used],
        "journal": {"broken_lines": len(content.broken), "recorded_twice": content.twice},
    }
    renumbered = [run._replace(session=used.index(run.session)) for run in runs]
    return made_table(space, configurations(space, plan), renumbered, about)


def missing_of(config: RecordTableConfig, content: Content) -> list[tuple[int, int]]:
    """Planned runs that a journal lacks; a line on standard output says so."""
    wanted = plan_of(config, content.header.about["seed"]).runs()
    missing = [job for job in wanted if job not in content.runs]
    if missing:
        numbers = ranges([number for number, _ in missing])
        print(
            f"{config.name} is not finished: {len(wanted) - len(missing)} of {len(wanted)} runs are in "
            f"{journal_path(config)}; configurations with missing runs: {numbers}"
        )
    return missing


def finish(config: RecordTableConfig, content: Content) -> int:
    """Writes the table if its journal is whole; returns the number of missing runs.

    Raises:
        ValueError: the file does not read back as what was written.
    """
    missing = missing_of(config, content)
    if missing:
        return len(missing)
    table, path = table_of(config, content), table_path(config)
    write_table(path, table)
    found = read_table(path)
    if not same_runs(found, table):
        raise ValueError(f"{path} does not read back as it was written; check the disk, then again")
    write_summary(path, found)
    return 0


def same_runs(a: RecordedTable, b: RecordedTable) -> bool:
    """Whether two tables hold the same runs, bit for bit."""
    pairs = zip(
        (a.configs, a.curves, a.ne, *a.columns.values()),
        (b.configs, b.curves, b.ne, *b.columns.values()),
        strict=True,
    )
    same = all(x.dtype == y.dtype and x.tobytes() == y.tobytes() for x, y in pairs)
    return same and a.failed == b.failed


def write_summary(path: Path, table: RecordedTable) -> None:
    """Writes the provenance and the statistics beside a table, and prints them."""
    found = statistics(table)
    made_by = {
        "command": "python -m experiments.record_table",
        "statistics": found,
        "parquet_sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
    }
    write_atomically(path.with_suffix(".json"), dumps(made_by | table.about, indent=1) + "\n")
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB\n{described(found)}")


def summarise(config: RecordTableConfig) -> int:
    """Prints the statistics of the finished table, and writes them anew; of one in progress it only prints them."""
    if table_path(config).exists():
        write_summary(table_path(config), read_table(table_path(config)))
        return 0
    content = read_journal(journal_path(config))
    report_damage(journal_path(config), content)
    missing = missing_of(config, content)
    if content.runs:
        print(described(statistics(table_of(config, content))))
    return len(missing)


def report_damage(path: Path, content: Content) -> None:
    """Says what in a journal counts for nothing."""
    if content.broken:
        LOG.warning(
            "%s: %d broken lines (%s); the runs that they held are recorded again",
            *(path, len(content.broken), ranges(content.broken)),
        )
    if content.twice:
        LOG.warning("%s: %d runs are there twice; the first counts", path, content.twice)
