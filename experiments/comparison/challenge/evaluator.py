"""Speaks with `server.py` in the challenge's own environment, and makes benchmarks of its problems."""

import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from autorank.benchmarks.base import Benchmark, Values
from experiments.comparison.challenge.translation import Translation, translated
from experiments.comparison.peers.base import step_seed
from experiments.comparison.peers.catalogue import interpreter
from experiments.comparison.peers.json_child import JsonChild
from experiments.comparison.runs import Driver, Job

SERVER = Path(__file__).with_name("server.py")
SUITE = "bayesmark"
OWN_RANDOM = "bayesmark-random"  # Bayesmark's own random search, as a searcher of a comparison


class Evaluator:
    """Bayesmark's problems, evaluated by a process of their own environment.

    Args:
        command: does what the server does; None starts it in the environment that ``make bayesmark`` makes.

    Raises:
        RuntimeError: there is no such environment, or the process failed.
    """

    def __init__(self, command: Sequence[str] | None = None) -> None:
        if command is None:
            python = interpreter(SUITE)
            if python is None:
                raise RuntimeError("Bayesmark needs an environment of its own: make bayesmark")
            command = [python, "-W", "ignore", str(SERVER)]
        self._child = JsonChild(SUITE, command)
        self._spaces: dict[str, Translation] = {}

    def versions(self) -> dict[str, str]:
        """Versions of what decides a result."""
        return self._asked({"versions": True}, "versions")

    def translation(self, problem: str) -> Translation:
        """The problem's space as ours."""
        if problem not in self._spaces:
            self._spaces[problem] = translated(self._asked({"space": problem}, "space"))
        return self._spaces[problem]

    def signature(self, problem: str) -> np.ndarray:
        """The problem's signature values, float64 ``[5]``."""
        return np.array(self._asked({"signature": problem}, "signature"), np.float64)

    def suggest(self, problem: str, seed: int, n: int) -> list[dict[str, Any]]:
        """``n`` configurations of Bayesmark's random search, as the problem takes them."""
        return self._asked({"suggest": {"problem": problem, "seed": seed, "n": n}}, "rows")

    def losses(
        self, problem: str, rows: Sequence[Mapping[str, Any]], seeds: Sequence[int]
    ) -> tuple[list[float | None], list[float]]:
        """Losses (None = failed) and CPU seconds of configurations that the problem takes, each with a seed."""
        asked = {"problem": problem, "rows": list(rows), "seeds": list(seeds)}
        found = self._call({"evaluate": asked})
        return found["losses"], found["seconds"]

    def close(self) -> None:
        """Ends the process."""
        self._child.close()

    def _asked(self, message: Mapping[str, Any], key: str) -> Any:
        return self._call(message)[key]

    def _call(self, message: Mapping[str, Any]) -> dict[str, Any]:
        answer = self._child.call(message)
        if "error" in answer:
            raise self._child.error(str(answer["error"]))
        return answer


def benchmark_of(evaluator: Evaluator, problem: str, seed: int, told: int) -> Benchmark:
    """A problem as a benchmark whose noise is a function of a seed and the number of trials.

    Args:
        evaluator: of the problem.
        problem: its name, ``MODEL_DATA_METRIC``.
        seed: of the run.
        told: trials that the run has already.
    """
    translation, numbers = evaluator.translation(problem), itertools.count(told)

    def query(rows: Sequence[Values]) -> np.ndarray:
        seeds = [step_seed(seed, next(numbers)) for _ in rows]
        losses, seconds = evaluator.losses(problem, [translation.native(r) for r in rows], seeds)
        exact = [math.nan if v is None else v for v in losses]
        return np.stack([exact, np.log(np.maximum(seconds, 1e-6))], axis=1).astype(np.float64)

    return Benchmark(SUITE, problem, translation.space, translation.intervals, query)


def own_random(evaluator: Evaluator, job: Job, problem: str) -> Driver:
    """The driver of Bayesmark's own random search, which draws all its configurations at once."""
    translation, told = evaluator.translation(problem), 0
    rows = evaluator.suggest(problem, job.seed, job.trials)

    def ask(n: int) -> list[dict[str, Any]]:
        return [translation.values(row) for row in rows[told : told + n]]

    def tell(rows: Sequence[dict], losses: Sequence[float], costs: Sequence[float]) -> None:
        nonlocal told
        told += len(rows)

    return Driver(ask, tell)
