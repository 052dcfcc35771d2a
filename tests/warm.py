"""Starts a program of ours as ``python program.py`` does, but from a process that has imported what it will import.

Imports (JAX, Flax, Hydra) are half of what a short program costs. One process for each worker of pytest imports them
once, runs nothing, and forks for each start. All else is the program's own: its process, arguments, environment,
folder, output, signals and exit status. It has no backend of JAX before its own, and nothing of Hydra's is set up.
Where forks are not safe (no Linux), and for what imports themselves must show, programs start from nothing.
"""

import atexit
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from tests import lowering

ROOT = Path(__file__).resolve().parents[1]
# Modules that Hydra's search for plugins executes (those without an underscore) are left to it.
IMPORTS = (
    "hydra",
    "hydra_plugins.autorank_sweeper._impl",
    "hydra_plugins.autorank_sweeper._job",
    "hydra_plugins.autorank_sweeper._search",
    "hydra_plugins.autorank_sweeper._time_limit",
    "autorank.app.programs",
    "autorank.app.search_job",
    "autorank.app.training_job",
)
# Read as Python starts and as JAX is imported; only these may differ from program to program.
READ_EARLY = ("JAX_", "PYTHON")
CHEAP = "JAX_DISABLE_MOST_OPTIMIZATIONS"
READ_AGAIN = {CHEAP, "PYTHONPATH"}
LONGEST = 1 << 20


class Program:
    """What of `subprocess.Popen` tests need; errors are written to the same pipe as the output."""

    def __init__(self, pid: int, output: int, status: int) -> None:
        self.pid = pid
        self.stdout = open(output, "rb", buffering=0)
        self.returncode: int | None = None
        self._status = status

    def poll(self) -> int | None:
        """The exit status; None while the program runs."""
        return self._ended_within(0)

    def wait(self, timeout: float | None = None) -> int:
        """Waits for the end.

        Raises:
            TimeoutExpired: it has not come in time.
        """
        status = self._ended_within(timeout)
        if status is None:
            raise subprocess.TimeoutExpired(str(self.pid), timeout or 0)
        return status

    def communicate(self, timeout: float) -> tuple[str, None]:
        """All that was written, once the program and all that hold its output have ended.

        Raises:
            TimeoutExpired: they have not ended in time.
        """
        deadline, text = time.time() + timeout, b""
        while select.select([self.stdout], [], [], max(0, deadline - time.time()))[0]:
            part = self.stdout.read(LONGEST)
            if not part:
                self.stdout.close()
                self.wait(max(0, deadline - time.time()))
                return text.decode(), None
            text += part
        raise subprocess.TimeoutExpired(str(self.pid), timeout)

    def send_signal(self, number: int) -> None:
        """Nothing happens if the program has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """Ends it at once."""
        self.send_signal(signal.SIGKILL)

    def _ended_within(self, seconds: float | None) -> int | None:
        if self.returncode is None and select.select([self._status], [], [], seconds)[0]:
            self.returncode = int(os.read(self._status, 100))
            os.close(self._status)
        return self.returncode


def start(command: Sequence[str], environment: Mapping[str, str]) -> Any:
    """Starts ``[python, program.py, ...]`` or ``[python, "-m", module, ...]`` in the repository's root."""
    assert command[0] == sys.executable
    if not hasattr(os, "pidfd_open"):
        return start_cold(command, environment)
    channel, imported = _starter()
    read = {k for k in {*environment, *imported} if k.startswith(READ_EARLY)} - READ_AGAIN
    assert all(environment.get(k) == imported.get(k) for k in read), "start it from nothing"
    (output, written), (status, told) = os.pipe(), os.pipe()
    request = json.dumps({"command": command[1:], "environment": dict(environment)})
    socket.send_fds(channel, [request.encode()], [written, told])
    os.close(written)
    os.close(told)
    return Program(int(channel.recv(100)), output, status)


def start_cold(command: Sequence[str], environment: Mapping[str, str]) -> Any:
    """Starts the same from nothing."""
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
        cwd=ROOT,
    )


def ended(program: Any, timeout: float) -> subprocess.CompletedProcess[str]:
    """What a started program wrote, errors among it, and its exit status; it is killed if it takes longer."""
    try:
        text, _ = program.communicate(timeout=timeout)
    except BaseException:
        program.kill()
        raise
    return subprocess.CompletedProcess([], program.returncode, text, "")


@cache
def _starter() -> tuple[socket.socket, dict[str, str]]:
    """The way to the process that starts programs, and the environment in which it has imported JAX."""
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    serve = f"from tests.warm import serve; serve({its.fileno()})"
    process = subprocess.Popen(
        [sys.executable, "-c", serve], cwd=ROOT, env=environment, pass_fds=[its.fileno()]
    )
    its.close()

    def end() -> None:
        ours.close()
        process.wait(60)

    atexit.register(end)
    return ours, environment


def serve(number: int) -> None:
    """Forks a process for each request, which returns from here when its program has ended."""
    for name in IMPORTS:
        importlib.import_module(name)
    lowering.install()
    gc.collect()
    gc.freeze()
    channel = socket.socket(fileno=number)
    running: dict[int, tuple[int, int]] = {}  # descriptor of a process -> its number, its pipe
    while True:
        for ready in select.select([channel, *running], [], [])[0]:
            if ready is not channel:
                pid, told = running.pop(ready)
                status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                os.write(told, str(status).encode())
                os.close(told)
                os.close(ready)
                continue
            request, given, _, _ = socket.recv_fds(channel, LONGEST, 2)
            if not request:
                return None  # pytest's process has ended
            (written, told), pid = given, os.fork()
            if pid == 0:
                channel.close()
                for descriptors in running.items():
                    os.close(descriptors[0])
                    os.close(descriptors[1][1])
                os.close(told)
                return _become(**json.loads(request), written=written)
            os.close(written)
            running[os.pidfd_open(pid)] = pid, told
            channel.send(str(pid).encode())


def _become(command: list[str], environment: dict[str, str], written: int) -> None:
    """Runs a program in this process, as the interpreter would."""
    os.dup2(written, 1)
    os.dup2(written, 2)
    os.close(written)
    os.environ.clear()
    os.environ.update(environment)
    import jax

    jax.config.update("jax_disable_most_optimizations", environment.get(CHEAP) == "1")
    if command[0] == "-m":
        sys.argv, sys.path[0] = command[1:], str(ROOT)
        runpy.run_module(command[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv, sys.path[0] = command, str(Path(command[0]).parent)
        runpy.run_path(command[0], run_name="__main__")
