"""A peer in a process of its own environment, so that a benchmark runs in one environment whatever its peers need."""

import json
import math
import os
import select
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.comparison.peers.base import Task, Told, checked

ROOT = Path(__file__).resolve().parents[3]
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")


class PeerError(RuntimeError):
    """The package itself failed at a proposal or a result; the same again would most likely fail again."""


class PeerProcess:
    """A `Peer`; ``python`` runs `experiments.comparison.peers.child`, or ``command`` does what it does.

    One thread, and a fixed order of Python's sets (SMAC's trajectory depends on it). ``cpu`` counts the child's CPU
    seconds, making included.

    Raises:
        PeerError: the child told of an error while it was asked or told something.
        RuntimeError: the child could not be made, ended, or did not answer within ``patience`` seconds. Both with the
            end of what it wrote on standard error.
    """

    def __init__(
        self,
        python: str,
        module: str,
        factory: str,
        task: Task,
        seed: int,
        trials: int,
        batch: int,
        *,
        packages: Sequence[str] = (),
        patience: float = 3600.0,
        command: Sequence[str] | None = None,
    ) -> None:
        self._name, self._task, self._patience = f"{module}.{factory}", task, patience
        self._errors = tempfile.TemporaryFile()
        self._rest = b""
        self.cpu, self.asks_again = 0.0, True
        environment = os.environ | dict.fromkeys(THREADS, "1") | {"PYTHONHASHSEED": "0"}
        # The environment's own packages only, and nothing of a parent's JAX settings.
        for key in ("PYTHONPATH", "PYTHONHOME", "XLA_FLAGS", "JAX_ENABLE_X64"):
            environment.pop(key, None)
        try:
            self._child = subprocess.Popen(
                command or [python, "-m", "experiments.comparison.peers.child"],
                cwd=ROOT,
                env=environment | {"XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false"},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
            )
        except OSError:
            self._errors.close()
            raise
        plain = {
            "decisions": task.decisions,
            "order": task.order,
            "intervals": dict(task.intervals),
            "baseline": dict(task.baseline),
        }
        made = self._call(
            {
                "make": {
                    "module": module,
                    "factory": factory,
                    "task": plain,
                    "seed": seed,
                    "trials": trials,
                    "batch": batch,
                    "packages": list(packages),
                }
            }
        )
        self.versions: dict[str, str] = made.get("versions", {})

    def ask(self, n: int) -> list[dict[str, Any]]:
        """``n`` proposals, each checked against the task."""
        rows = self._call({"ask": n}).get("rows")
        if not isinstance(rows, list) or len(rows) != n:
            raise self._error(f"was asked for {n} proposals and answered {rows!r}"[:300])
        try:
            return [checked(self._task, row) for row in rows]
        except ValueError as error:
            raise self._error(str(error)) from error

    def tell(self, trials: Sequence[Told]) -> None:
        """Results."""
        self._call(
            {"tell": [[t.values, t.loss if math.isfinite(t.loss) else None] for t in trials]}
        )

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

    def _call(self, message: dict[str, Any]) -> dict[str, Any]:
        assert self._child.stdin
        try:
            self._child.stdin.write(json.dumps(message).encode() + b"\n")
            self._child.stdin.flush()
            text = self._line()
        except BrokenPipeError:
            text = b""
        if not text:
            raise self._error(f"ended with exit status {self._child.wait()}")
        try:
            answer = json.loads(text)
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise self._error(f"answered {text[:200]!r}, which is no JSON object")
        self.cpu += answer.get("cpu", 0.0)
        self.asks_again = bool(answer.get("asks_again", True))
        if "error" in answer:
            kind = RuntimeError if "make" in message else PeerError
            raise self._error(str(answer["error"]), kind)
        return answer

    def _line(self) -> bytes:
        """The child's next line; empty if it ended."""
        assert self._child.stdout
        end = time.monotonic() + self._patience
        while b"\n" not in self._rest:
            left = max(end - time.monotonic(), 0.0)
            if not select.select([self._child.stdout], [], [], left)[0]:
                raise self._error(f"did not answer within {self._patience:g} s")
            more = os.read(self._child.stdout.fileno(), 1 << 16)
            if not more:
                return b""
            self._rest += more
        line, _, self._rest = self._rest.partition(b"\n")
        return line

    def _error(self, what: str, kind: type[RuntimeError] = RuntimeError) -> RuntimeError:
        """Ends a child that failed; the error carries the end of its standard error."""
        if self._child.poll() is None:
            self._child.kill()
            self._child.wait()
        self._errors.seek(0, os.SEEK_END)
        self._errors.seek(max(self._errors.tell() - 1500, 0))
        said = self._errors.read().decode(errors="replace").strip()
        self.close()
        return kind(f"{self._name} {what}" + (f"\n{said}" if said else ""))
