"""A program in a process of its own that answers each JSON object on a line with one."""

import json
import os
import select
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[3]
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")


class JsonChild:
    """One thread, a fixed order of Python's sets, and nothing of this process's Python or JAX settings.

    Args:
        name: of the program, in errors.
        command: starts it, in the repository's root.
        patience: seconds to wait for an answer.
        more: more environment variables.

    Raises:
        OSError: it could not be started.
        RuntimeError: it ended, did not answer in time, or answered something else; with the end of what it wrote on
            standard error.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        patience: float = 3600.0,
        more: Mapping[str, str] | None = None,
    ) -> None:
        self._name, self._patience = name, patience
        self._errors = tempfile.TemporaryFile()
        self._rest = b""
        environment = os.environ | dict.fromkeys(THREADS, "1") | {"PYTHONHASHSEED": "0"}
        # The environment's own packages only, and nothing of a parent's JAX settings.
        for key in ("PYTHONPATH", "PYTHONHOME", "XLA_FLAGS", "JAX_ENABLE_X64"):
            environment.pop(key, None)
        try:
            self._child = subprocess.Popen(
                command,
                cwd=ROOT,
                env=environment | dict(more or {}),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
            )
        except OSError:
            self._errors.close()
            raise

    @property
    def running(self) -> bool:
        """Whether the process has not ended."""
        return self._child.poll() is None

    def call(self, message: Mapping[str, Any]) -> dict[str, Any]:
        """The answer to a message."""
        assert self._child.stdin
        try:
            self._child.stdin.write(json.dumps(message).encode() + b"\n")
            self._child.stdin.flush()
            text = self._line()
        except BrokenPipeError:
            text = b""
        if not text:
            raise self.error(f"ended with exit status {self._child.wait()}")
        try:
            answer = json.loads(text)
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise self.error(f"answered {text[:200]!r}, which is no JSON object")
        return answer

    def error(self, what: str, kind: type[RuntimeError] = RuntimeError) -> RuntimeError:
        """Ends a child that failed; the error carries the end of its standard error."""
        if self._child.poll() is None:
            self._child.kill()
            self._child.wait()
        self._errors.seek(0, os.SEEK_END)
        self._errors.seek(max(self._errors.tell() - 1500, 0))
        said = self._errors.read().decode(errors="replace").strip()
        self.close()
        return kind(f"{self._name} {what}" + (f"\n{said}" if said else ""))

    def close(self) -> None:
        """Closes the child's input, and kills it if it does not end soon."""
        assert self._child.stdin and self._child.stdout
        try:
            self._child.stdin.close()
        except BrokenPipeError:
            pass  # it died before it read the message
        try:
            self._child.wait(2)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()
        self._child.stdout.close()
        self._errors.close()

    def _line(self) -> bytes:
        """The child's next line; empty if it ended."""
        assert self._child.stdout
        end = time.monotonic() + self._patience
        while b"\n" not in self._rest:
            left = max(end - time.monotonic(), 0.0)
            if not select.select([self._child.stdout], [], [], left)[0]:
                raise self.error(f"did not answer within {self._patience:g} s")
            more = os.read(self._child.stdout.fileno(), 1 << 16)
            if not more:
                return b""
            self._rest += more
        line, _, self._rest = self._rest.partition(b"\n")
        return line
