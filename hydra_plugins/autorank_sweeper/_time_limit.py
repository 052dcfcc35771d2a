"""Ends a job that takes longer than ``hydra.sweeper.time_limit``. Workers import this too: nothing heavy here."""

import faulthandler
import os
import signal
import sys
import threading
from typing import Any

from hydra.types import TaskFunction

GRACE_SECONDS = 10.0  # between the first exception and the end of the process


class TrialTimeout(Exception):  # noqa: N818
    """The job took longer than ``hydra.sweeper.time_limit``."""


class Limited:
    """A task function that is interrupted after ``seconds``.

    It is interrupted by an exception, which is raised again every second. A job in code that no exception reaches ends
    with its whole process `GRACE_SECONDS` later, unless that process is the driver (the basic launcher).
    """

    def __init__(self, task: TaskFunction, seconds: float) -> None:
        self.task, self.seconds, self.driver = task, seconds, os.getpid()

    def __call__(self, config: Any) -> Any:
        """Runs the job."""
        own_process = os.getpid() != self.driver
        main_thread = threading.current_thread() is threading.main_thread()

        def stop(signum: int, frame: Any) -> None:
            raise TrialTimeout(f"took longer than time_limit={self.seconds:g} s")

        before = signal.signal(signal.SIGALRM, stop) if main_thread else None
        if own_process:
            # Implemented in C: it fires even while another thread holds the interpreter's lock.
            faulthandler.dump_traceback_later(
                self.seconds + GRACE_SECONDS, exit=True, file=sys.__stderr__ or sys.stderr
            )
        if main_thread:
            signal.setitimer(signal.ITIMER_REAL, self.seconds, 1.0)
        try:
            return self.task(config)
        finally:
            if main_thread:
                signal.setitimer(signal.ITIMER_REAL, 0)
                signal.signal(signal.SIGALRM, before)
            if own_process:
                faulthandler.cancel_dump_traceback_later()


def limited(task: TaskFunction, seconds: float | None) -> TaskFunction:
    """The task with a time limit; unchanged if ``seconds`` is None.

    Raises:
        ValueError: a limit that is not above 0.
    """
    if seconds is None:
        return task
    if seconds <= 0:
        raise ValueError(f"hydra.sweeper.time_limit={seconds} must be above 0 (seconds), or null")
    return Limited(task, float(seconds))
