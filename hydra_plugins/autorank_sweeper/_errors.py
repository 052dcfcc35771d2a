"""What a launcher raises or returns in place of a result, read for the trial's reason."""

import contextlib
import re

from autorank.base.result import described, first_line

# What launchers raise if a worker is gone. By name, as none of them need be installed.
WORKER_DEATHS = (
    "TerminatedWorkerError",  # joblib
    "BrokenProcessPool",
    "ShutdownExecutorError",
    "UncompletedJobError",  # submitit
    "WorkerCrashedError",  # Ray
    "NodeDiedError",
    "OutOfMemoryError",
    "LocalRayletDiedError",
    "Superseded",
)


def is_worker_death(error: BaseException) -> bool:
    """Whether the error says that the job's worker is gone."""
    return type(error).__name__ in WORKER_DEATHS


def has_type(error: object, kind: type) -> bool:
    """Whether the error is of the kind. By name: its process may have imported the plugin a second time."""
    return type(error).__name__ == kind.__name__


def cause(error: BaseException) -> str:
    """An error as a reason; that of the worker if the error holds it (Ray) or quotes its traceback (submitit)."""
    with contextlib.suppress(Exception):
        held = getattr(error, "cause", None)
        if isinstance(held, BaseException):
            return described(held)
        lines = str(error).splitlines()
        raised = [line for line in lines if re.match(r"[A-Za-z_][\w.]*: ", line)]
        if raised and any(line.startswith("Traceback") for line in map(str.strip, lines)):
            return first_line(raised[-1])
    return described(error)


def forget_frames(error: object) -> None:
    """Drops the traceback, which keeps all that a failed job had in memory."""
    if isinstance(error, BaseException):
        error.__traceback__ = error.__cause__ = error.__context__ = None
