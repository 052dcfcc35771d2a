"""A lock for each job, so that no job runs twice at a time on any machine that shares the folder."""

import contextlib
import fcntl
import logging
import os
from collections.abc import Iterator
from pathlib import Path

from autorank.ledger import locks

LOG = logging.getLogger(__name__)


class Superseded(Exception):  # noqa: N818
    """A later driver has taken over this sweep; the job was not run."""


@contextlib.contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Waits until no other process runs this job. The kernel releases the lock when its process ends in any way.

    Where the file cannot be locked, logs a warning and goes on without a lock.

    Raises:
        Superseded: the job's trial ended while this process waited.
    """
    while True:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:  # a full disk, or a machine that does not see the folder
            _warn(path, error)
            yield
            return
        locks.close_on_fork(descriptor)
        try:
            _acquire(descriptor, path)
            # While this process waited, the file may have been removed together with its trial.
            with contextlib.suppress(OSError):
                if os.fstat(descriptor).st_ino != path.stat().st_ino:
                    continue
            if not path.exists():
                raise Superseded("its trial has ended meanwhile")
            locks.write_holder(descriptor)
            yield
            return
        finally:
            locks.release(descriptor)


def _acquire(descriptor: int, path: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = locks.read_holder(descriptor)
        LOG.warning("this trial is still running in %s; waiting for it", holder)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    except OSError as error:
        _warn(path, error)


def _warn(path: Path, error: OSError) -> None:
    LOG.warning(
        "cannot lock %s (%s); a job that a killed driver left running would not be noticed",
        path,
        error,
    )
