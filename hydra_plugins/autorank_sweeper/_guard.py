"""Undoes what a job does to its whole process, which would affect the next job there and the driver."""

import contextlib
import logging
import os
import resource
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

STREAMS = ("stdin", "stdout", "stderr")
Undo = Callable[[], None]
LIMITS = [getattr(resource, name) for name in dir(resource) if name.startswith("RLIMIT_")]


@contextlib.contextmanager
def restored() -> Iterator[None]:
    """Restores working folder, standard streams, signal handlers, alarms, limits and logging on exit.

    A copy of this process that returns from the job (``os.fork``) ends here, or it would go on as a second driver.
    """
    process = os.getpid()
    # In this order: streams are reopened on restored descriptors.
    undo = [_folder(), _descriptors(), _streams(), _signal_handlers(), _settings()]
    try:
        yield
    finally:
        if os.getpid() != process:
            os._exit(0)
        for step in undo:
            step()


def _folder() -> Undo:
    try:
        before = os.getcwd()
    except OSError:  # it was deleted
        return lambda: None

    def undo() -> None:
        with contextlib.suppress(OSError):
            try:
                if os.getcwd() == before:
                    return
            except OSError:
                pass
            os.chdir(before)

    return undo


def _descriptors() -> Undo:
    copies = {}
    for number in range(3):
        with contextlib.suppress(OSError):
            copies[number] = os.dup(number), _identity(number)

    def undo() -> None:
        for number, (copy, before) in copies.items():
            with contextlib.suppress(OSError):  # the job closed the copy as well
                if _identity(copy) == before:
                    if _identity(number) != before:
                        os.dup2(copy, number)
                    os.close(copy)

    return undo


def _identity(descriptor: int) -> tuple[int, int] | None:
    try:
        found = os.fstat(descriptor)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _streams() -> Undo:
    before = {name: getattr(sys, name) for name in STREAMS}

    def undo() -> None:
        for number, (name, stream) in enumerate(before.items()):
            opened = stream
            # Only a stream on the process's own descriptor can be reopened.
            if stream is not None and stream is getattr(sys, f"__{name}__") and stream.closed:
                mode = "w" if number else "r"
                with contextlib.suppress(OSError):
                    opened = open(  # noqa: SIM115
                        number, mode, 1, "utf-8", "backslashreplace", closefd=False
                    )
                    setattr(sys, f"__{name}__", opened)
                    _hand_over(stream, opened)
            setattr(sys, name, opened)

    return undo


def _hand_over(closed: object, opened: Any) -> None:
    """Has log handlers write to the reopened stream."""
    for logger in (logging.root, *logging.root.manager.loggerDict.values()):
        for handler in getattr(logger, "handlers", []):
            if isinstance(handler, logging.StreamHandler) and handler.stream is closed:
                handler.stream = opened  # not setStream(), which would flush the closed one


def _signal_handlers() -> Undo:
    if threading.current_thread() is not threading.main_thread():
        return lambda: None
    handlers = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)}
    had_alarm = signal.getitimer(signal.ITIMER_REAL)[0] > 0

    def undo() -> None:
        for number, handler in handlers.items():
            if handler is not None and signal.getsignal(number) != handler:
                signal.signal(number, handler)
        if not had_alarm:
            signal.setitimer(signal.ITIMER_REAL, 0)

    return undo


def _settings() -> Undo:
    recursion, disabled = sys.getrecursionlimit(), logging.root.manager.disable
    limits = {}
    for limit in LIMITS:
        with contextlib.suppress(ValueError, OSError):
            limits[limit] = resource.getrlimit(limit)

    def undo() -> None:
        for limit, before in limits.items():
            if resource.getrlimit(limit) != before:
                # Most users cannot raise a hard limit again.
                with contextlib.suppress(ValueError, OSError):
                    resource.setrlimit(limit, before)
        sys.setrecursionlimit(recursion)
        logging.disable(disabled)

    return undo
