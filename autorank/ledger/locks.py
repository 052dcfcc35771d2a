"""The lock of a run: one writer at a time, on whatever machine of a shared folder."""

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from autorank.ledger.errors import RunInUse

# Descriptors of locked files that a fork must not inherit.
_descriptors: set[int] = set()


def close_on_fork(descriptor: int) -> None:
    """Closes the descriptor in every copy that ``os.fork`` makes of this process.

    A copy that outlives this process would otherwise hold the lock for ever.
    """
    _descriptors.add(descriptor)


def release(descriptor: int) -> None:
    """Closes a locked file and so gives up its lock."""
    _descriptors.discard(descriptor)
    os.close(descriptor)


def write_holder(descriptor: int) -> None:
    """Writes into a locked file which process holds it; on a full disk the lock holds without that."""
    with suppress(OSError):
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)


def read_holder(descriptor: int) -> str:
    """Which process holds the file's lock; empty if it has not been written."""
    return os.read(descriptor, 256).decode(errors="replace").strip()


def _close_all() -> None:
    for descriptor in _descriptors:
        with suppress(OSError):
            os.close(descriptor)
    _descriptors.clear()


os.register_at_fork(after_in_child=_close_all)


def lock(path: Path) -> int:
    """Takes the lock of a ledger and returns its descriptor, for `release`.

    The kernel releases the lock when this process ends, however it ends.

    Raises:
        RunInUse: a living process has it.
    """
    descriptor = os.open(path.with_name(path.name + ".lock"), os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = read_holder(descriptor) or "another process"
        os.close(descriptor)
        raise RunInUse(
            f"{path.parent} is being written by {holder}; wait for it, stop it, or give this run "
            f"another name"
        ) from None
    except OSError:
        os.close(descriptor)
        raise
    write_holder(descriptor)
    close_on_fork(descriptor)
    return descriptor


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds the lock of a journal, whose folder must exist.

    Raises:
        ValueError: a living process has it.
    """
    try:
        descriptor = lock(path)
    except RunInUse as error:
        raise ValueError(str(error)) from error
    try:
        yield
    finally:
        release(descriptor)
