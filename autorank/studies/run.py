"""Runs a study: every arm on every split of every table, several fits side by side, resumable."""

import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import NamedTuple

import numpy as np

from autorank.base.jax_settings import own_settings
from autorank.base.programs import ProgramCache
from autorank.base.records import digest, plain
from autorank.studies.journal import Cell, Journal, Rows
from autorank.studies.measures import MEASURES
from autorank.studies.predictors import KINDS, Program, Task
from autorank.studies.records import Records
from autorank.studies.settings import ArmConfig, Study
from autorank.studies.splits import split_of

LOG = logging.getLogger("autorank")
REPORT_SECONDS = 15.0  # between two lines about the progress


class Job(NamedTuple):
    """One fit: the arms that share it, on one split of one table."""

    arms: tuple[str, ...]  # that lack a row here
    fit: ArmConfig  # with the members of the largest arm of the study
    table: Records
    split: int


class Done(NamedTuple):
    """The rows of a job, and how long its fit took without compiling."""

    rows: Rows
    seconds: float


def identity_of(study: Study, tables: Sequence[Records], seed: int) -> dict[str, str]:
    """What the rows of a study depend on."""
    arms = {f"study.arms.{name}": digest(plain(arm)) for name, arm in study.resolved().items()}
    records = {f"records {table.name}": table.fingerprint() for table in tables}
    plan = {
        "seed": str(seed),
        "study.num_test": str(study.num_test),
        "study.measures": ", ".join(study.measures),
    }
    return plan | records | arms


def refuse_too_few(study: Study, tables: Sequence[Records]) -> None:
    """Refuses arms that want more records than a table has.

    Raises:
        ValueError: with the numbers.
    """
    for name, arm in study.resolved().items():
        for table in tables:
            _refuse_arm(name, arm, study.num_test, table)


def _refuse_arm(name: str, arm: ArmConfig, num_test: int, table: Records) -> None:
    if arm.num_train + num_test > len(table):
        raise ValueError(
            f"study.arms.{name}: num_train={arm.num_train} and study.num_test={num_test} are more than "
            f"the {len(table)} records of {table.name}; write smaller ones"
        )
    if arm.num_own is None:
        return
    if table.own is None:
        raise ValueError(
            f"study.arms.{name}.num_own={arm.num_own} says how many records are of the tested part, but "
            f"{table.name} has none; write 'TABLE where DECISION=VALUE' or 'TABLE from OTHER' in study.records"
        )
    inside, outside = table.num_own, len(table) - table.num_own
    if arm.num_own + num_test > inside or arm.num_train - arm.num_own > outside:
        raise ValueError(
            f"study.arms.{name}: num_own={arm.num_own} of num_train={arm.num_train} and study.num_test={num_test} are "
            f"more than {table.name} has, {inside} inside and {outside} outside of the tested part; write smaller ones"
        )


def jobs_of(study: Study, tables: Sequence[Records], splits: int, known: Rows) -> list[Job]:
    """The fits that the known rows lack, split by split, so that an early stop leaves whole splits."""
    arms = study.resolved()
    shared: dict[str, list[str]] = {}
    for name, arm in arms.items():
        shared.setdefault(arm.fit, []).append(name)
    jobs = []
    for split in range(splits):
        for table in tables:
            for names in shared.values():
                missing = tuple(n for n in names if Cell(n, table.name, split) not in known)
                largest = max(arms[n].members for n in names)
                if missing:
                    jobs.append(Job(missing, arms[names[0]].with_members(largest), table, split))
    return jobs


def run_study(
    study: Study,
    tables: Sequence[Records],
    journal: Journal,
    *,
    splits: int,
    seed: int,
    workers: int,
    report: Callable[[str], None] = LOG.info,
) -> Rows:
    """Fits what the journal lacks, and returns the rows of these splits and arms.

    Args:
        study: what is compared.
        tables: the records of `study.records`.
        journal: takes every row as its fit ends.
        splits: splits of each table.
        seed: of splits and fits.
        workers: threads; the programs release Python's lock.
        report: takes a line about the progress.

    Raises:
        ValueError: an arm wants more records than a table has.
    """
    refuse_too_few(study, tables)
    runner = _Runner(study, seed, ProgramCache())
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
        waiting = {pool.submit(runner, job): job for job in jobs}
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


class _Runner:
    """Does one job; threads call it side by side."""

    def __init__(self, study: Study, seed: int, programs: ProgramCache):
        self._study, self._seed, self._programs = study, seed, programs
        self._arms = study.resolved()

    def __call__(self, job: Job) -> Done:
        with own_settings():  # they are the thread's own
            program = self._program(job)
            table = job.table
            split = split_of(
                table.name, len(table), self._study.num_test, job.split, self._seed, table.own
            )
            learnt = split.learnt(job.fit.num_train, job.fit.num_own)
            started = time.perf_counter()
            members = program(
                split.seed, table.configs[learnt], table.metrics[learnt], table.configs[split.test]
            )
            seconds = time.perf_counter() - started
        rows = {
            Cell(name, table.name, job.split): measured(
                members[: self._arms[name].members].mean(axis=0),
                table.quality[split.test],
                self._study.measures,
            )
            for name in job.arms
        }
        return Done(rows, seconds)

    def _program(self, job: Job) -> Program:
        """One for each fit, compiled once for all splits and for all tables of one space."""
        key = f"{job.table.space.fingerprint()} {digest(plain(job.fit))}"
        make = KINDS[job.fit.kind].make
        task = Task(job.table.space, self._study.num_test)
        return self._programs.get(key, lambda: make(job.fit, task))[0]


def measured(predicted: np.ndarray, true: np.ndarray, measures: Sequence[str]) -> dict[str, float]:
    """The measures of predictions ``[n]`` by name; a diverged fit predicts NaN, and has no measure at all.

    Examples:
        >>> measured(np.arange(10.0), np.arange(10.0), ("discordant_share", "regret_at_1"))
        {'discordant_share': 0.0, 'regret_at_1': 0.0}
    """
    if not np.isfinite(predicted).all():
        return dict.fromkeys(measures, float("nan"))
    return {name: MEASURES[name].compute(predicted, true) for name in measures}


class _Progress:
    """Says how far a study is, and how long the rest takes: the mean time of each fit times those that are left."""

    def __init__(self, jobs: Sequence[Job], workers: int, report: Callable[[str], None]):
        self._left: dict[str, int] = {}
        for job in jobs:
            self._left[job.fit.fit] = self._left.get(job.fit.fit, 0) + 1
        self._taken: dict[str, list[float]] = {}
        self._workers, self._report, self._total = workers, report, len(jobs)
        self._started = self._reported = time.perf_counter()

    def __call__(self, job: Job, seconds: float) -> None:
        self._left[job.fit.fit] -= 1
        self._taken.setdefault(job.fit.fit, []).append(seconds)
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
