"""What runs around a job, in the process of the job. Imports nothing heavy: workers load it too.

A job holds a lock while it runs and leaves its result in a file, both in ``<hydra.sweep.dir>/.trials``. So a result
is kept although nobody waits for it any more, and a trial whose driver was killed is not run a second time beside the
first: who starts it again waits for the lock and finds the result.
"""

import contextlib
import faulthandler
import functools
import hashlib
import json
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig

from autorank.base.result import Result, described, of_error, read_result
from hydra_plugins.autorank_sweeper import _guard, _signals
from hydra_plugins.autorank_sweeper._lock import Superseded, alone

GRACE_SECONDS = 10.0  # between the exception and the end of the process
FOLDER = ".trials"
LOG = logging.getLogger(__name__)


class TrialTimeout(Exception):  # noqa: N818
    """The job took longer than ``hydra.sweeper.time_limit``."""


class Failed(Exception):  # noqa: N818
    """The job failed, now or while its driver was gone; the text is the trial's reason.

    Instead of what the job raised or returned: that may not survive the way between two processes.
    """


class Interrupted(Exception):  # noqa: N818
    """The job ended by KeyboardInterrupt. The driver knows whether somebody stopped all of them."""


class Limited:
    """A task function that is interrupted after ``seconds``.

    First by an exception, again every second. A job that sits in code that no exception reaches ends with its whole
    process after `GRACE_SECONDS` more, unless that process is the driver itself (the basic launcher).
    """

    def __init__(self, task: Callable[[Any], Any], seconds: float) -> None:
        self.task, self.seconds, self.driver = task, seconds, os.getpid()

    def __call__(self, config: Any) -> Any:
        """Runs the job."""
        own_process = os.getpid() != self.driver
        main_thread = threading.current_thread() is threading.main_thread()

        def stop(signum: int, frame: Any) -> None:
            raise TrialTimeout(f"took longer than time_limit={self.seconds:g} s")

        before = signal.signal(signal.SIGALRM, stop) if main_thread else None
        if own_process:
            # In C: fires although the interpreter's lock is held.
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


def limited(task: Callable[[Any], Any], seconds: float | None) -> Callable[[Any], Any]:
    """The task with its time limit, or as it is."""
    if seconds is None:
        return task
    if seconds <= 0:
        raise ValueError(f"hydra.sweeper.time_limit={seconds} must be above 0 (seconds), or null")
    return Limited(task, float(seconds))


class Job:
    """A task function that is never run twice at a time and whose result outlives its driver.

    Inert until the sweep says where (`watch`).
    """

    def __init__(self, task: Callable[[Any], Any]) -> None:
        self.task = task
        self.folder: str | None = None
        self.ledger = self.driver = ""
        self.process: int | None = None  # the driver's
        self.parent: int | None = None  # a worker that outlives this process ends after its job

    def watch(self, folder: Path, ledger: str, driver: str, pool: bool) -> None:
        """Results go to ``folder`` under the ledger's name; jobs of other drivers end at once from now on.

        With ``pool``, workers are children of this process that would wait for more jobs after its end.
        """
        self.process = os.getpid()
        self.parent = self.process if pool else None
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.ledger, self.driver = str(folder.resolve()), ledger, driver
        _write(folder / "driver", {"driver": driver})

    def __call__(self, config: Any) -> Any:
        """Runs the job, or gives the result that it had.

        Raises:
            Failed: the job gave no result; in the driver's process exceptions come as they are.
            Interrupted: see there.
            Superseded: see there.
        """
        if self.folder is None:
            return self.task(config)
        folder = Path(self.folder)
        name = name_of(HydraConfig.get().overrides.task)
        with alone(folder / f"{name}.lock"):
            found = self.found(name)
            if found is not None:
                if found.failed:
                    raise Failed(found.failed)
                return _plain(found)
            with contextlib.suppress(OSError, ValueError):
                if json.loads((folder / "driver").read_text())["driver"] != self.driver:
                    raise Superseded("another driver has taken this sweep over")
            keep = functools.partial(self._keep, folder, name)
            if os.getpid() == self.process:
                return self._run_in_driver(config, keep)
            value = self._run_in_worker(config, keep)
            if self.parent not in (None, os.getppid()):
                os._exit(0)  # its memory is wanted by the next driver's workers
            return value

    def _run_in_driver(self, config: Any, keep: Callable[[Result], None]) -> Any:
        try:
            with _guard.restored(), _signals.job():
                value = self.task(config)
        except BaseException as error:
            if _signals.requested() is not None:
                raise  # the driver stops; no failure, whatever the job made of it
            keep(of_error(error))
            if isinstance(error, Exception):
                raise
            # Else it would end the driver: sys.exit, KeyboardInterrupt, GeneratorExit ...
            raise Failed(described(error)) from error
        result = read_result(value)
        if not result.failed or _signals.requested() is None:
            keep(result)
        return value

    def _run_in_worker(self, config: Any, keep: Callable[[Result], None]) -> Any:
        try:
            with _guard.restored(), _signals.stops((signal.SIGINT,)):
                value = self.task(config)
        except BaseException as error:
            if _is_launchers(error):
                raise
            reason = described(error)
            if isinstance(error, KeyboardInterrupt) or _signals.requested() is not None:
                raise Interrupted(reason) from None
            # Not kept where the process was asked to end: with its driver gone that is no failure.
            if isinstance(error, Exception):
                keep(Result(None, None, reason))
            raise Failed(reason) from None
        result = read_result(value)
        if result.failed and _signals.requested() is not None:
            raise Interrupted(result.failed)
        keep(result)
        if result.failed:
            raise Failed(result.failed)
        return _plain(result)

    def found(self, name: str) -> Result | None:
        """The result that a job left behind, if it is one of this ledger."""
        if self.folder is None:
            return None
        try:
            kept = json.loads((Path(self.folder) / f"{name}.json").read_text())
            if kept["ledger"] != self.ledger:
                return None
            if kept["failed"]:
                return Result(None, None, str(kept["failed"]))
            value = kept["quality"] if kept["cost"] is None else (kept["quality"], kept["cost"])
        except (OSError, ValueError, KeyError, TypeError):
            return None
        again = read_result(value)
        return None if again.failed else again

    def forget(self, name: str) -> None:
        """The result is in the ledger: its files are not needed any more."""
        if self.folder is not None:
            for end in ("json", "lock"):
                with contextlib.suppress(OSError):
                    (Path(self.folder) / f"{name}.{end}").unlink()

    def _keep(self, folder: Path, name: str, result: Result) -> None:
        kept = {"ledger": self.ledger, "quality": result.quality, "cost": result.cost}
        try:
            _write(folder / f"{name}.json", kept | {"failed": result.failed})
        except OSError as error:  # a full disk: the driver may have the result all the same
            LOG.warning("cannot keep the job's result in %s: %s", folder, error)


def _plain(result: Result) -> float | tuple[float, float]:
    assert result.quality is not None
    return result.quality if result.cost is None else (result.quality, result.cost)


def _is_launchers(error: BaseException) -> bool:
    """Whether a launcher ends the process by its own signal handler: submitit to queue the job again, Ray to cancel."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    module = "" if trace is None else str(trace.tb_frame.f_globals.get("__name__"))
    return isinstance(error, SystemExit) and module.split(".")[0] in ("submitit", "ray")


def name_of(overrides: Sequence[str]) -> str:
    """A job's name among the files: from its overrides, which no two trials of a sweep share."""
    text = json.dumps([o for o in overrides if not o.lstrip("+~").startswith("hydra")])
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def _write(path: Path, value: dict[str, Any]) -> None:
    part = path.with_name(f"{path.name}.{socket.gethostname()}.{os.getpid()}.part")
    part.write_text(json.dumps(value))
    os.replace(part, path)
