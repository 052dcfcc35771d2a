"""Who sent a signal: somebody who stops the driver, or a job to its own process.

Where jobs run in the driver's process both arrive as the same exception. A stop is kept here, however the job takes the
exception; without one, what ends a job is the job's own.
"""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any

STOPPING = (signal.SIGINT, signal.SIGTERM)
_AUDITED = ("os.kill", "os.killpg", "signal.pthread_kill")
# Python tells of these in no other way than by the function that calls them.
_UNAUDITED = {"raise_signal", "interrupt_main"}

_asked: int | None = None
_job_runs = False
_sent: set[int] = set()  # signals that the job in this process has sent
_is_audited = False


def requested() -> int | None:
    """The signal that asked this process to stop."""
    return _asked


def check() -> None:
    """Stops if that was asked for, whatever became of the exception that said so.

    Raises:
        KeyboardInterrupt: SIGINT was sent.
        SystemExit: another signal was sent; its status is 128 and the signal's number.
    """
    if _asked is not None:
        raise _exception(_asked)


@contextlib.contextmanager
def stops(signals: tuple[int, ...] = STOPPING) -> Iterator[None]:
    """SIGTERM (a scheduler, ``docker stop``) stops the process as Ctrl-C does, not at once; both are remembered."""
    global _asked
    _asked = None
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in signals}
    try:
        for number, handler in before.items():
            if (
                number != signal.SIGINT or handler != signal.SIG_IGN
            ):  # ignored under nohup, in scripts
                signal.signal(number, _handler(handler))
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


@contextlib.contextmanager
def job() -> Iterator[None]:
    """While a job runs in the driver's process: what it sends to itself is no stop; what others send is one.

    Also where the job has handlers of its own: Python writes every signal that it sees to the wake-up file.
    """
    global _job_runs, _is_audited
    if not _is_audited:
        sys.addaudithook(_audit)  # cannot be taken away again
        _is_audited = True
    _sent.clear()
    _job_runs = True
    main = threading.current_thread() is threading.main_thread()
    ends = os.pipe() if main else None
    before = -1
    if ends is not None:
        for end in ends:
            os.set_blocking(end, False)
        before = signal.set_wakeup_fd(ends[1], warn_on_full_buffer=False)
    try:
        yield
    finally:
        _job_runs = False
        if ends is not None:
            signal.set_wakeup_fd(before, warn_on_full_buffer=False)
            _take_note(ends)


def _take_note(ends: tuple[int, int]) -> None:
    global _asked
    with contextlib.suppress(OSError):  # nothing came, or the job closed it
        seen = {n for n in os.read(ends[0], 65536) if n in STOPPING}
        if _asked is None:
            _asked = next(iter(seen - _sent), None)
    for end in ends:
        with contextlib.suppress(OSError):
            os.close(end)


def _handler(before: Any) -> Any:
    def handle(signum: int, frame: Any) -> None:
        global _asked
        if _job_runs and _is_own(signum, frame):
            _sent.add(signum)
            name = signal.Signals(signum).name
            raise _exception(signum, f"{name}, sent by the job to its own process")
        # Of SIGTERM it may be Ray's, which leaves with another status.
        if signum != signal.SIGINT or not callable(before) or before is signal.default_int_handler:
            _asked = signum
            raise _exception(signum)
        try:
            before(signum, frame)  # the app's own; it may choose to go on
        except BaseException:
            _asked = signum
            raise

    return handle


def _is_own(signum: int, frame: Any) -> bool:
    return signum in _sent or (
        frame is not None and not _UNAUDITED.isdisjoint(frame.f_code.co_names)
    )


def _exception(signum: int, *reason: str) -> BaseException:
    if signum == signal.SIGINT:
        return KeyboardInterrupt(*reason)
    return SystemExit(reason[0] if reason else 128 + signum)


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if _job_runs and event in _AUDITED:
        target, signum = arguments
        own = {0, -1, os.getpid(), -os.getpgrp()}
        if (
            event == "signal.pthread_kill"
            or target in own
            or (event == "os.killpg" and target == os.getpgrp())
        ):
            _sent.add(int(signum))
