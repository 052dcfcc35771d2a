"""Runs a study: every arm on every split of every table, several side by side, resumable."""

import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any, NamedTuple

import numpy as np

from autorank.base.records import digest, plain
from autorank.studies.journal import Cell, Journal, Rows
from autorank.studies.study import SUBJECTS, Study, Table

LOG = logging.getLogger("autorank")
REPORT_SECONDS = 15.0  # between two lines about the progress


class Job(NamedTuple):
    """The arms that share their work and lack a row here, on one split of one table."""

    arms: tuple[str, ...]
    fit: str  # what they share
    table: Any
    split: int


def identity_of(study: Study, tables: Sequence[Table], seed: int) -> dict[str, str]:
    """What the rows of a study depend on."""
    arms = {f"study.arms.{name}": digest(plain(arm)) for name, arm in study.resolved().items()}
    records = {f"records {table.name}": table.fingerprint() for table in tables}
    own = {f"study.{key}": str(getattr(study, key)) for key in study.PLAN}
    plan = {"seed": str(seed), "study.measures": ", ".join(study.measures)}
    return plan | own | records | arms


def jobs_of(study: Study, tables: Sequence[Table], splits: int, known: Rows) -> list[Job]:
    """What the known rows lack, split by split, so that an early stop leaves whole splits."""
    shared: dict[str, list[str]] = {}
    for name, arm in study.resolved().items():
        shared.setdefault(arm.fit, []).append(name)
    jobs = []
    for split in range(splits):
        for table in tables:
            for fit, names in shared.items():
                missing = tuple(n for n in names if Cell(n, table.name, split) not in known)
                if missing:
                    jobs.append(Job(missing, fit, table, split))
    return jobs


def run_study(
    study: Study,
    tables: Sequence[Table],
    journal: Journal,
    *,
    splits: int,
    seed: int,
    workers: int,
    report: Callable[[str], None] = LOG.info,
) -> Rows:
    """Does what the journal lacks, and returns the rows of these splits and arms.

    Args:
        study: what is compared.
        tables: those of `study.records`, as the subject loads them.
        journal: takes every row as its fit or search ends.
        splits: splits of each table, or seeds.
        seed: of all that is random.
        workers: threads; the programs release Python's lock.
        report: takes a line about the progress.

    Raises:
        ValueError: an arm cannot run on a table.
    """
    subject = SUBJECTS[study.subject].make(study)
    subject.check(tables)
    jobs = jobs_of(study, tables, splits, journal.rows)
    wanted = [
        Cell(arm, table.name, split)
        for arm in study.arms
        for table in tables
        for split in range(splits)
    ]
    present = sum(cell in journal.rows for cell in wanted)
    report(f"{present} of {len(wanted)} rows are there; {len(jobs)} fits are to do")
    progress = _Progress(jobs, workers, report)
    with ThreadPoolExecutor(workers) as pool:
        waiting = {
            pool.submit(subject.run, job.arms, job.table, job.split, seed): job for job in jobs
        }
        try:
            for future in as_completed(waiting):
                done = future.result()
                for cell, values in done.rows.items():
                    journal.add(cell, values)
                progress(waiting[future], done.seconds)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return {cell: journal.rows[cell] for cell in wanted}


class _Progress:
    """Says how far a study is, and how long the rest takes: the mean time of each fit times those that are left."""

    def __init__(self, jobs: Sequence[Job], workers: int, report: Callable[[str], None]):
        self._left: dict[str, int] = {}
        for job in jobs:
            self._left[job.fit] = self._left.get(job.fit, 0) + 1
        self._taken: dict[str, list[float]] = {}
        self._workers, self._report, self._total = workers, report, len(jobs)
        self._started = self._reported = time.perf_counter()

    def __call__(self, job: Job, seconds: float) -> None:
        self._left[job.fit] -= 1
        self._taken.setdefault(job.fit, []).append(seconds)
        now, left = time.perf_counter(), sum(self._left.values())
        if now - self._reported > REPORT_SECONDS or not left:
            self._reported = now
            self._report(
                f"{self._total - left} of {self._total} fits; {now - self._started:.0f} s, "
                f"about {self.seconds_left():.0f} s left; {time.process_time():.0f} CPU seconds"
            )

    def seconds_left(self) -> float:
        """Fits that have not been seen yet count as the mean of those that have."""
        means = {fit: float(np.mean(taken)) for fit, taken in self._taken.items()}
        usual = float(np.mean(list(means.values())))
        return sum(n * means.get(fit, usual) for fit, n in self._left.items()) / self._workers
