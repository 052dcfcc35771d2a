"""Tells a signal that stops the driver from one that a job sends to its own process.

If jobs run in the driver's process, both arrive as the same exception inside the job. A request to stop is remembered
here, whatever the job does with that exception. Without a request, the exception is the job's own failure.
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
# These raise no audit event; they are recognised by the function that calls them.
_UNAUDITED = {"raise_signal", "interrupt_main"}

_asked: int | None = None
_job_runs = False
_sent: set[int] = set()  # signals that the job in this process has sent
_is_audited = False


def requested() -> int | None:
    """The signal that asked this process to stop; None if there was none."""
    return _asked


def check() -> None:
    """Stops the process if it was asked to, even if a job swallowed the exception.

    Raises:
        KeyboardInterrupt: SIGINT was sent.
        SystemExit: another signal was sent; its status is 128 and the signal's number.
    """
    if _asked is not None:
        raise _exception(_asked)


@contextlib.contextmanager
def stops(signals: tuple[int, ...] = STOPPING) -> Iterator[None]:
    """Has SIGTERM (a scheduler, ``docker stop``) raise as Ctrl-C does, and remembers requests to stop."""
    global _asked
    _asked = None
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in signals}
    try:
        for number, handler in before.items():
            # Ctrl-C stays ignored where it is: under nohup, and in background jobs of scripts.
            if number != signal.SIGINT or handler != signal.SIG_IGN:
                signal.signal(number, _handler(handler))
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


@contextlib.contextmanager
def job() -> Iterator[None]:
    """While a job runs in the driver's process, only signals that others send are requests to stop.

    This holds even if the job installs its own handlers, since Python writes every signal to the wake-up descriptor.
    """
    global _job_runs, _is_audited
    if not _is_audited:
        sys.addaudithook(_audit)  # for good: audit hooks cannot be removed
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
            _read_wakeup(ends)


def _read_wakeup(ends: tuple[int, int]) -> None:
    """Takes a signal that the job did not send for a request to stop; closes the pipe."""
    global _asked
    with contextlib.suppress(OSError):  # no signal arrived, or the job closed the descriptor
        seen = {n for n in os.read(ends[0], 65536) if n in STOPPING}
        if _asked is None:
            _asked = next(iter(seen - _sent), None)
    for end in ends:
        with contextlib.suppress(OSError):
            os.close(end)


def _handler(before: Any) -> Any:
    """A handler that remembers requests to stop; ``before`` is the handler that it replaces."""

    def handle(signum: int, frame: Any) -> None:
        global _asked
        if _job_runs and _is_own(signum, frame):
            _sent.add(signum)
            name = signal.Signals(signum).name
            raise _exception(signum, f"{name}, sent by the job to its own process")
        # For SIGTERM the handler before may be Ray's, which exits with another status; it is not called.
        if signum != signal.SIGINT or not callable(before) or before is signal.default_int_handler:
            _asked = signum
            raise _exception(signum)
        try:
            before(signum, frame)  # the app's own, which may decide not to stop
        except BaseException:
            _asked = signum
            raise

    return handle


def _is_own(signum: int, frame: Any) -> bool:
    """Whether the running job sent the signal itself."""
    return signum in _sent or (
        frame is not None and not _UNAUDITED.isdisjoint(frame.f_code.co_names)
    )


def _exception(signum: int, *reason: str) -> BaseException:
    if signum == signal.SIGINT:
        return KeyboardInterrupt(*reason)
    return SystemExit(reason[0] if reason else 128 + signum)


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    """Audit hook: notes the signals that the running job sends to its own process."""
    if _job_runs and event in _AUDITED:
        target, signum = arguments
        own = {0, -1, os.getpid(), -os.getpgrp()}
        if (
            event == "signal.pthread_kill"
            or target in own
            or (event == "os.killpg" and target == os.getpgrp())
        ):
            _sent.add(int(signum))
