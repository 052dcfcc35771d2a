"""What the workers of `test_cluster` evaluate; a module of its own, because every worker imports what this one does."""

import os
import signal
from pathlib import Path

from autorank.objectives.base import Objective
from tests.planted import planted_objective, planted_space

SPACE = planted_space()


def deadly(folder: Path, victim: tuple[int, ...], times: int) -> Objective:
    """The planted objective, whose worker dies at the first ``times`` evaluations of one configuration."""
    objective = planted_objective(SPACE)

    def evaluate(configs, seeds, fidelity):
        for i, (config, seed) in enumerate(zip(configs, seeds, strict=True)):
            deaths = len(list(folder.glob("death-*")))
            if tuple(map(int, config)) == victim and deaths < times:
                (folder / f"death-{deaths}").touch()
                os.kill(os.getpid(), signal.SIGKILL)
            (folder / f"worker-{os.getpid()}").touch()
            ((_, outcome),) = objective.evaluate(config[None], [seed], fidelity)
            yield i, outcome

    return objective._replace(evaluate=evaluate)


def slow() -> Objective:
    return planted_objective(SPACE, seconds=30.0)


def broken() -> Objective:
    raise FileNotFoundError("no data here")
