"""A peer in this process, spoken to over standard input and output: one JSON object a line, one answer each.

``{"make": {"module", "factory", "task", "seed", "trials", "batch", "packages"}}`` comes first and is answered with
versions. Then ``{"ask": n}`` is answered with rows, ``{"ask_run": true}`` with one row and its units, and ``{"tell":
[[values, loss, cost, units], ...]}`` with nothing; null stands for a failed trial's loss, and for what a peer is not
told. Every answer has the CPU seconds that it took. An error is an answer too: ``{"error": ...}``, with its trace on
standard error.
"""

import importlib
import json
import math
import os
import platform
import sys
import time
import traceback
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from experiments.comparison.peers.base import Told, task_from


def main() -> None:
    """Answers until standard input ends."""
    # Libraries print: what they print goes to standard error, answers through a file of their own.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    peer: Any = None  # a Peer or a StoppingPeer
    begun = 0.0  # the first answer counts starting Python and importing the package
    for line in sys.stdin:
        try:
            message = json.loads(line)
            if "make" in message:
                peer, found = make(**message["make"])
            else:
                assert peer is not None, "the first message makes the peer"
                found = answer(peer, message)
        except Exception as error:  # noqa: BLE001
            traceback.print_exc()
            found = {"error": f"{type(error).__name__}: {error}"[:500]}
        if peer is not None:
            found |= {"asks_again": getattr(peer, "asks_again", True)}
        now = time.process_time()
        answers.write(json.dumps(found | {"cpu": round(now - begun, 6)}) + "\n")
        answers.flush()
        begun = now


def make(
    module: str,
    factory: str,
    task: Any,
    seed: int,
    trials: int,
    batch: int,
    packages: Sequence[str],
) -> tuple[Any, dict[str, Any]]:
    """The peer, and what it is."""
    maker = getattr(importlib.import_module(f"experiments.comparison.peers.{module}"), factory)
    peer = maker(task_from(task), seed, trials, batch)
    versions = {"python": platform.python_version()}
    for package in packages:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return peer, {"versions": versions}


def answer(peer: Any, message: dict[str, Any]) -> dict[str, Any]:
    """One ask or tell."""
    if "ask" in message:
        return {"rows": peer.ask(message["ask"])}
    if "ask_run" in message:
        row, units = peer.ask_run()
        return {"rows": [row], "units": units}
    peer.tell(
        [Told(v, math.nan if loss is None else loss, *rest) for v, loss, *rest in message["tell"]]
    )
    return {}


if __name__ == "__main__":
    main()
