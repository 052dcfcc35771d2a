"""A peer in a process of its own environment, so that a benchmark runs in one environment whatever its peers need."""

import math
from collections.abc import Sequence
from typing import Any

from experiments.comparison.peers.base import UNITS, Task, Told, checked
from experiments.comparison.peers.json_child import JsonChild


class PeerError(RuntimeError):
    """The package itself failed at a proposal or a result; the same again would most likely fail again."""


class PeerProcess:
    """A `Peer` or a `StoppingPeer`.

    ``python`` runs `experiments.comparison.peers.child`, or ``command`` does what it does.

    It runs as a `JsonChild` does (SMAC's trajectory depends on the fixed order of sets). ``cpu`` counts the child's CPU
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
        self._task = task
        self.cpu, self.asks_again = 0.0, True
        self._child = JsonChild(
            f"{module}.{factory}",
            command or [python, "-m", "experiments.comparison.peers.child"],
            patience=patience,
            more={"XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false"},
        )
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
        return self._rows(self._call({"ask": n}), n)

    def ask_run(self) -> tuple[dict[str, Any], int]:
        """See `base.StoppingPeer`."""
        answer = self._call({"ask_run": True})
        (row,), units = self._rows(answer, 1), answer.get("units")
        if not isinstance(units, int) or not 1 <= units <= UNITS:
            raise self._child.error(f"asked for {units!r} units of a run of {UNITS}")
        return row, units

    def _rows(self, answer: dict[str, Any], n: int) -> list[dict[str, Any]]:
        rows = answer.get("rows")
        if not isinstance(rows, list) or len(rows) != n:
            raise self._child.error(f"was asked for {n} proposals and answered {rows!r}"[:300])
        try:
            return [checked(self._task, row) for row in rows]
        except ValueError as error:
            raise self._child.error(str(error)) from error

    def tell(self, trials: Sequence[Told]) -> None:
        """Results."""
        told = [(t, t.loss if math.isfinite(t.loss) else None) for t in trials]
        self._call({"tell": [[t.values, loss, t.cost, t.units] for t, loss in told]})

    def close(self) -> None:
        """Closes the child's input, and kills it if it does not end soon."""
        self._child.close()

    def _call(self, message: dict[str, Any]) -> dict[str, Any]:
        answer = self._child.call(message)
        self.cpu += answer.get("cpu", 0.0)
        self.asks_again = bool(answer.get("asks_again", True))
        if "error" in answer:
            kind = RuntimeError if "make" in message else PeerError
            raise self._child.error(str(answer["error"]), kind)
        return answer
