"""A Hydra app whose jobs end in every way a process can, as their parameter says.

`experiments.fuzz.sweep` and the tests run it. `ENDS` says how each job ends, `experiments.fuzz.sweep` what must become
of its trial.
"""

import argparse
import ctypes
import logging
import os
import resource
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hydra
import numpy as np
from hydra.core.config_store import ConfigStore


class Odd(BaseException):
    """Not an ``Exception``."""


class TwoArguments(Exception):  # noqa: N818
    """Cannot be read back from a pickle."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"{one} and {two}")


class Mute(Exception):  # noqa: N818
    """Cannot be printed."""

    def __str__(self) -> str:
        raise RuntimeError("no text")


class Hostile:
    """A value whose methods raise."""

    size = 1

    def item(self) -> float:
        """Like NumPy's ``item``."""
        sys.exit(3)

    def __repr__(self) -> str:
        raise KeyboardInterrupt


def do_raise(kind: type[BaseException], *arguments: Any) -> Callable[[], Any]:
    """Raises an exception, which ends the job."""

    def end() -> None:
        raise kind(*arguments)

    return end


def send(number: int) -> Callable[[], Any]:
    """Sends a signal to the job's own process; if it survives, the job has a result."""

    def end() -> float:
        os.kill(os.getpid(), number)
        time.sleep(0.5)
        return 1.0

    return end


def lambda_in_error() -> None:
    """Raises an exception that cannot be pickled."""
    error = ValueError("with a function")
    error.function = lambda: 1  # type: ignore[attr-defined]
    raise error


def parser_exit() -> None:
    """Lets argparse print its usage and exit."""
    argparse.ArgumentParser().parse_args(["--nothing-like-it"])


def recursion() -> int:
    """Recurses without end."""
    return recursion() + 1


def out_of_memory() -> None:
    """Sets a memory limit that remains in the process."""
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + 10**8, hard))
    bytes(10**10)


def from_thread() -> float:
    """Ends the process from a watchdog thread."""
    threading.Thread(target=os.kill, args=(os.getpid(), signal.SIGTERM)).start()
    time.sleep(1.0)
    return 1.0


def close_streams() -> float:
    """Closes the streams that the job prints to; the job has a result."""
    sys.stdout.close()
    sys.stderr.close()
    return 1.0


def close_descriptors() -> float:
    """Closes the descriptors under the streams; the job has a result."""
    os.close(1)
    os.close(2)
    return 1.0


def deleted_folder() -> float:
    """Deletes the working directory of the process."""
    folder = tempfile.mkdtemp()
    os.chdir(folder)
    os.rmdir(folder)
    return 1.0


def leave_thread() -> float:
    """Leaves a thread that runs after the job."""
    threading.Thread(target=time.sleep, args=(600,), daemon=True).start()
    return 1.0


def leave_alarm() -> float:
    """Leaves an alarm that would end the process after the job."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(1)
    return 1.0


def leave_settings() -> float:
    """Leaves other signal handlers, limits and logging in the process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    logging.disable(logging.CRITICAL)
    sys.setrecursionlimit(200)
    return 1.0


def fork() -> float:
    """Forks, so that two processes return from the job."""
    os.fork()
    return 1.0


def deaf() -> None:
    """Ignores every exception and runs on."""
    while True:
        try:
            time.sleep(600)
        except Exception:
            continue


def kill_the_pool() -> None:
    """Kills every worker of the driver, this one last."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rsplit(")", 1)[1].split()[1])
        except OSError:
            continue
        number = int(stat.parent.name)
        if parent == os.getppid() and number != os.getpid():
            os.kill(number, signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)


ENDS: dict[str, Callable[[], Any]] = {
    "number": lambda: 1.0,
    "pair": lambda: (1.0, 2.0),
    "array": lambda: np.float32(1.0),
    "closed_streams": close_streams,
    "closed_descriptors": close_descriptors,
    "deleted_folder": deleted_folder,
    "thread": leave_thread,
    "alarm": leave_alarm,
    "settings": leave_settings,
    "fork": fork,
    "raise": do_raise(ValueError, "bad\nvalue"),
    "stop_iteration": do_raise(StopIteration),
    "group": do_raise(BaseExceptionGroup, "several", [ValueError(1), SystemExit(2)]),
    "unprintable": do_raise(Mute),
    "surrogates": do_raise(OSError, "no \udcff file\0"),
    "two_arguments": do_raise(TwoArguments, 1, 2),
    "lambda_in_error": lambda_in_error,
    "recursion": recursion,
    "memory": out_of_memory,
    "exit_0": lambda: sys.exit(0),
    "exit_3": lambda: sys.exit(3),
    "exit_text": lambda: sys.exit("no data"),
    "exit": lambda: sys.exit(),
    "argparse": parser_exit,
    "keyboard": do_raise(KeyboardInterrupt),
    "generator": do_raise(GeneratorExit),
    "odd": do_raise(Odd, "odd"),
    "none": lambda: None,
    "not_a_number": lambda: float("nan"),
    "infinity": lambda: float("inf"),
    "text": lambda: "1.0",
    "dict": lambda: {"loss": 1.0},
    "many": lambda: tuple(range(10**5)),
    "numbers": lambda: np.zeros((3, 3)),
    "bool": lambda: True,
    "complex": lambda: 1j,
    "lambda": lambda: lambda: 1,
    "hostile": Hostile,
    "os_exit_0": lambda: os._exit(0),
    "os_exit_3": lambda: os._exit(3),
    "abort": os.abort,
    "null_pointer": lambda: ctypes.string_at(0),
    "sigkill": send(signal.SIGKILL),
    "sighup": send(signal.SIGHUP),
    "sigusr1": send(signal.SIGUSR1),
    "sigterm": send(signal.SIGTERM),
    "sigint": send(signal.SIGINT),
    "raised_sigterm": lambda: signal.raise_signal(signal.SIGTERM),
    "sigterm_of_thread": from_thread,
    "hang": lambda: time.sleep(600),
    "deaf": deaf,
    "pool": kill_the_pool,
    "folder_too_long": lambda: 1.0,
    "folder_in_the_way": lambda: 1.0,
    "folder_not_found": lambda: 1.0,
    "folder_full": lambda: 1.0,
}
PLACES = {name: "." for name in ENDS} | {
    "folder_too_long": "x" * 300,
    "folder_in_the_way": "blocked",  # a file that the sweep's starter puts there
    "folder_full": "${full}",
}
del PLACES["folder_not_found"]  # an interpolation that cannot be resolved
ConfigStore.instance().store(
    name="ends",
    node={"end": "number", "n": 0, "full": "/nowhere", "places": PLACES, "seconds": 0.0}
    | {"hydra": {"sweep": {"subdir": "${places.${end}}/${hydra:job.num}"}}},
)


@hydra.main(version_base="1.3", config_path=None, config_name="ends")
def main(config: Any) -> Any:
    """Ends as the parameter says; a list for ``n`` makes the config invalid."""
    time.sleep(config.seconds)
    return ENDS[config.end]()


if __name__ == "__main__":
    main()
