"""A table of random configurations with their curves, from settings to its Parquet file."""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from autorank.app import build
from autorank.app.identity import identity
from autorank.app.provenance import provenance, shareable
from autorank.app.recorded_output import (
    finish,
    header_of,
    journal_path,
    plan_of,
    refuse_smaller,
    report_damage,
    summarise,
    table_path,
)
from autorank.app.settings import PlanConfig, RecordTableConfig, SearchConfig
from autorank.base.jax_settings import own_settings
from autorank.data.format.batches import Dataset
from autorank.objectives.base import Objective, Outcome
from autorank.objectives.slices import SliceLosses, Slicing
from autorank.objectives.training import shape_of
from autorank.recorded.journal import (
    Header,
    Journal,
    Run,
    read_journal,
    refuse_other_table,
    shapes_of,
)
from autorank.recorded.plan import Plan, configurations
from autorank.recorded.space_text import space_text
from autorank.recorded.table import runs_of
from autorank.recorded.table_file import read_table
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


# --- where runs come from -------------------------------------------------------------------------


def from_training(config: RecordTableConfig) -> Filling:
    """Trains what a journal lacks of the range that these settings name."""
    search = as_search(config)
    data = build.dataset(config.data, LOG.info)
    space = build.space(search)
    objective = build.objective(search, data, space, slicing_of(config))
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


def slicing_of(config: RecordTableConfig) -> Slicing | None:
    """The slices whose losses are kept."""
    return Slicing(config.slices, config.num_slices) if config.slices else None


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
    slices = shapes_of(journal.content.header.about).get("slices")
    for job, outcome in trained(chunk, plan, configs, objective, missing):
        now = time.perf_counter()
        journal.add(run_of(job, plan, outcome, now - started, slices))
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


def run_of(
    job: tuple[int, int],
    plan: Plan,
    outcome: Outcome,
    at: float,
    slices: tuple[int, int] | None = None,
) -> Run:
    """An outcome as the journal has it.

    Args:
        job: number and repeat.
        plan: gives the run its seed.
        outcome: of its training.
        at: seconds since the session began.
        slices: shape of the losses of slices; None where none are kept. They are NaN for a run that was lost.
    """
    losses = None
    if slices:
        losses = np.asarray(outcome.details.get("slices", np.full(slices, np.nan)), np.float32)
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
        slices=losses,
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
    """The settings of a search over the same data and space that asks for a chunk at once, which fills the lanes."""
    plan = PlanConfig(workers=config.search.workers, executor=config.search.executor)
    parts = {name: getattr(config, name) for name in ("data", "model", "training", "space")}
    search = SearchConfig(**parts, search=plan)
    return replace(search, searcher=replace(search.searcher, batch_size=config.chunk))


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
    identity_of_runs = kept | {"seed": str(config.seed)}
    if slicing := slicing_of(config):
        # Named only where there are some: tables without slices stay the same tables.
        identity_of_runs["slices"] = f"{slicing.count} of {slicing.field}"
        rows = SliceLosses.of(data, slicing, objective.metrics[0]).counts(
            shape_of(data, config.training)
        )
        about["slices"] = {"field": slicing.field, "count": slicing.count, "rows": rows.tolist()}
    return Header(identity_of_runs, about)


def session_of(config: RecordTableConfig) -> dict[str, Any]:
    """What records: versions, device, revision, form of training."""
    found = provenance()
    del found["finished_at"]
    return found | {"executor": config.search.executor, "workers": config.search.workers}
