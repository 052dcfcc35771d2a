"""A search's ledger as a benchmark has the labels that it holds, and nothing else."""

import math

import numpy as np
import pytest

from autorank.benchmarks.catalogue import opened
from autorank.ledger.ledger import Ledger
from autorank.space.space import Decision, Space

SPACE = Space(
    (
        Decision("depth", (1, 2), "number"),
        Decision("width", (8, 16, 32), "number", True, (("depth", (2,)),)),
    ),
    (0, 0),
)


def test_has_the_labels_of_the_ledger(tmp_path):
    path = tmp_path / "mine" / "trials.db"
    path.parent.mkdir()
    configs = [[0, 0], [1, 1], [1, 2], [1, 1]]
    labels = [0.5, -0.25, None, 9.0]
    with Ledger.open(path, {"seed": "0"}) as ledger:
        ledger.put("decisions", [d._asdict() for d in SPACE.decisions])
        ledger.put("baseline", [0, 0])
        for trial, label in zip(
            ledger.propose("round", 0, configs, [0] * 4, 1.0), labels, strict=True
        ):
            failed = "" if label is not None else "non-finite loss"
            ledger.finish(trial.id, {"failed": failed}, label, math.log(2.0))
    benchmark = opened(str(path), tmp_path)
    assert benchmark.name == "ledger/mine" and benchmark.space == SPACE
    assert benchmark.pool is not None and len(benchmark.pool) == 2 and benchmark.optimum == -0.25
    # A repeat counts once, by its first result; the failed trial has none.
    found = benchmark.query([{"depth": 2, "width": 16}, {"depth": 1}])
    assert np.allclose(found, [[-0.25, math.log(2)], [0.5, math.log(2)]])
    with pytest.raises(ValueError, match="not recorded"):
        benchmark.query([{"depth": 2, "width": 32}])
    with Ledger.open(tmp_path / "trials.db", {"seed": "0"}):
        pass
    with pytest.raises(ValueError, match="does not hold its space"):
        opened(str(tmp_path / "trials.db"), tmp_path)
