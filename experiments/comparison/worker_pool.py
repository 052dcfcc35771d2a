"""Runs of a comparison in processes, each reported as it ends; an error is a failure of its run, not of the others."""

import logging
import math
import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

from autorank.app.programs import set_up_jax
from experiments.comparison.runs import Job

LOG = logging.getLogger("autorank")
# Carries out jobs, one or side by side, until a time; returns the number of new trials.
Work = Callable[[Sequence[Job], Path, float], int]


def start_worker(driver: int) -> None:
    """Ends the worker with its driver: one that outlives it would keep writing a run that is started again."""

    def watch() -> None:
        while os.getppid() == driver:
            time.sleep(1.0)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    set_up_jax()


def reported(
    work: Work, jobs: Sequence[Job], folder: Path, until: float
) -> tuple[Sequence[Job], int, float, str]:
    """The jobs, new trials, CPU seconds and an error's text; after ``until`` nothing is begun."""
    if time.time() > until:
        return jobs, 0, 0.0, ""
    started = sum(os.times()[:4])  # of this process and of peers that have ended
    try:
        done = work(jobs, folder, until)
    except Exception as error:  # noqa: BLE001
        return jobs, 0, sum(os.times()[:4]) - started, f"{type(error).__name__}: {error}"[:300]
    return jobs, done, sum(os.times()[:4]) - started, ""


def in_processes(
    work: Work, groups: Sequence[Sequence[Job]], folder: Path, workers: int, seconds: float | None
) -> int:
    """Carries out groups of jobs in their order; returns the number of failed runs.

    Args:
        work: a function of a module, as it travels to processes.
        groups: of jobs that one call carries out.
        folder: of all runs.
        workers: number of processes.
        seconds: after which no batch is begun; None for no limit.
    """
    jobs = sum(map(len, groups))
    failed, ended, started = 0, 0, time.perf_counter()
    context = multiprocessing.get_context("spawn")
    until = math.inf if seconds is None else time.time() + seconds
    with ProcessPoolExecutor(workers, context, start_worker, (os.getpid(),)) as pool:
        futures = [pool.submit(reported, work, group, folder, until) for group in groups]
        for future in as_completed(futures):
            group, done, spent, error = future.result()
            failed, ended = failed + len(group) * bool(error), ended + len(group)
            left = (time.perf_counter() - started) / ended * (jobs - ended)
            what = f"seed {group[0].seed}" if len(group) == 1 else f"and {len(group) - 1} more"
            LOG.info(
                "%d/%d %s %s %s: %s, %.1f CPU s; %.0f s left",
                *(ended, jobs, group[0].searcher, group[0].task, what),
                *(error or f"{done} new trials", spent, left),
            )
    return failed
