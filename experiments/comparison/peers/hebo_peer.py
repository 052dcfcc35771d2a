"""HEBO: a Gaussian process with warped outputs and a front of three acquisitions, with its defaults."""

# pyright: reportMissingImports=false
import random
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from hebo.design_space.design_space import DesignSpace
from hebo.optimizers.hebo import HEBO

from experiments.comparison.peers.base import (
    Task,
    Told,
    WorstSoFar,
    from_indices,
    step_seed,
    to_indices,
)


class HeboPeer:
    """Neither conditions nor failed trials: inactive decisions hold the baseline, a failure is the worst so far.

    Ordered choices are an integer index. Only its initial Sobol points take a seed: the global generators are seeded.
    """

    def __init__(self, task: Task, seed: int) -> None:
        warnings.simplefilter("ignore")
        self._task, self._seed, self._told, self._worst = task, seed, 0, WorstSoFar()
        space = DesignSpace().parse([self._parameter(d) for d in task.searched()])
        self._hebo = HEBO(space, scramble_seed=seed)

    def _parameter(self, d: Any) -> dict[str, Any]:
        native = self._task.intervals.get(d.name)
        if native is not None and native.whole:
            kind = "pow_int" if d.log else "int"
            return {"name": d.name, "type": kind, "lb": int(native.low), "ub": int(native.high)}
        if native is not None:
            kind = "pow" if d.log else "num"
            return {"name": d.name, "type": kind, "lb": native.low, "ub": native.high}
        if d.kind == "number":
            return {"name": d.name, "type": "int", "lb": 0, "ub": len(d.choices) - 1}
        steps = [str(i) for i in range(len(d.choices))]
        return {"name": d.name, "type": "cat", "categories": steps}

    @property
    def asks_again(self) -> bool:
        """The position in the Sobol sequence moves only by asking."""
        return self._told < self._hebo.rand_sample

    def ask(self, n: int) -> list[dict[str, Any]]:
        """``n`` of the front at once."""
        seed = step_seed(self._seed, self._told)
        torch.manual_seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        random.seed(seed)
        found = self._hebo.suggest(n_suggestions=n)
        return [from_indices(self._task, row) for row in found.to_dict("records")]

    def tell(self, trials: Sequence[Told]) -> None:
        """Results, with inactive decisions as the baseline has them."""
        rows = pd.DataFrame([self._encoded(t.values) for t in trials])
        losses = self._worst([t.loss for t in trials])
        self._hebo.observe(rows[self._hebo.space.para_names], np.array(losses)[:, None])
        self._told += len(trials)

    def _encoded(self, values: dict[str, Any]) -> dict[str, Any]:
        found = to_indices(self._task, values)
        for d in self._task.searched():
            if d.name not in self._task.intervals and d.kind != "number":
                found[d.name] = str(found[d.name])
        return found


def hebo(task: Task, seed: int, trials: int, batch: int) -> HeboPeer:
    """`HEBO` with its defaults."""
    return HeboPeer(task, seed)
