"""A lock for each job, so that none runs twice at a time, on whatever machine of a shared folder."""

import contextlib
import fcntl
import logging
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from autorank.ledger import locks

LOG = logging.getLogger(__name__)


class Superseded(Exception):  # noqa: N818
    """A driver that came later has this sweep in hand; the job was not run."""


@contextlib.contextmanager
def alone(path: Path) -> Iterator[None]:
    """Waits until nobody else runs this job; the kernel lets go of it when its process ends, however it ends."""
    while True:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:  # a full disk, or a machine that does not see the folder
            LOG.warning("%s cannot be locked (%s): a killed driver's job is not seen", path, error)
            yield
            return
        locks.close_on_fork(descriptor)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = os.read(descriptor, 256).decode(errors="replace").strip()
                LOG.warning("this trial is still running in %s; waiting for it", holder)
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            except OSError as error:
                LOG.warning(
                    "%s cannot be locked (%s): a killed driver's job is not seen", path, error
                )
            # The file may have been removed (with its trial's end) while we waited.
            with contextlib.suppress(OSError):
                if os.fstat(descriptor).st_ino != path.stat().st_ino:
                    continue
            if not path.exists():
                raise Superseded("its trial has ended meanwhile")
            with contextlib.suppress(OSError):
                os.ftruncate(descriptor, 0)
                os.pwrite(
                    descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0
                )
            yield
            return
        finally:
            locks.release(descriptor)
