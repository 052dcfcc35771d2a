"""Our own table: every DHEN of a small grid, trained in one pass over a log.

Made by `experiments/comparison/make_dhen_table.py`.

The grid is a part of ``configs/space/dhen_small.yaml``: depth, modules, width, norm and the two learning rates. The
second layer's module is conditional on the depth. Everything else is at the default of
`autorank.app.settings.SearchConfig`. The whole grid is recorded, so its best is known and nothing is interpolated.
"""

import csv
import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from autorank.benchmarks.base import Benchmark, Values, middle
from autorank.space.space import Decision, Space

DHEN_TASKS = ("synthetic", "kuairand")
DECISIONS = (
    Decision("model.num_layers", (1, 2), "number"),
    Decision("model.layer1.a", ("dot", "attention", "cross", "fmb")),
    Decision("model.layer1.b", ("none", "linear")),
    Decision("model.layer2.a", ("cross", "fmb"), parents=(("model.num_layers", (2,)),)),
    Decision("model.width", (8, 16, 32), "number", True),
    Decision("model.norm", ("post", "none")),
    Decision("training.dense_rate", (0.0003, 0.0015, 0.0075), "number", True),
    Decision("training.table_rate", (0.02, 0.06, 0.18), "number", True),
)
SEED = "ne_seed"  # prefix of the columns of single seeds: ne_seed0, ne_seed1, ...


def dhen_space(kept: Mapping[str, Collection[Any]] | None = None) -> Space:
    """The grid, or its part with only the choices ``kept`` of some decisions (by name).

    A decision without a choice, or one that no kept choice can make active, is left out. The baseline is the middle
    choice of each decision.

    Raises:
        ValueError: a name that is not a decision, or a value that is not one of its choices.

    Examples:
        >>> dhen_space({"model.num_layers": [1]}).cardinality() < dhen_space().cardinality()
        True
    """
    kept = dict(kept or {})
    known = {d.name: d.choices for d in DECISIONS}
    for name, values in kept.items():
        if name not in known:
            raise ValueError(
                f"{name} is not a decision of the table; write one of {', '.join(known)}"
            )
        wrong = [v for v in values if v not in known[name]]
        if wrong:
            raise ValueError(
                f"{name}={wrong[0]!r} is not one of its choices; write some of {known[name]}"
            )
    decisions: dict[str, Decision] = {}
    for d in DECISIONS:
        choices = tuple(c for c in d.choices if c in kept.get(d.name, d.choices))
        parents = tuple(
            (name, held)
            for name, values in d.parents
            if name in decisions
            and (held := tuple(v for v in values if v in decisions[name].choices))
        )
        if choices and (parents or not d.parents):
            decisions[d.name] = d._replace(choices=choices, parents=parents)
    kept_decisions = tuple(decisions.values())
    return Space(kept_decisions, middle(kept_decisions))


def dhen_table(task: str, file: Path) -> Benchmark:
    """NE of the last quarter of the pass, averaged over the recorded seeds; the cost is the forward FLOPs of a row.

    Columns of ``file`` (CSV): the decisions by name (empty if inactive), ``ne`` (empty if a seed failed), ``flops``,
    and the single seeds (``ne_seed0``, ...). The space has the recorded choices only.

    Raises:
        ValueError: an unknown task or choice, or a configuration that is missing or recorded twice.
        FileNotFoundError: the table does not exist.
    """
    if task not in DHEN_TASKS:
        raise ValueError(f"task={task!r} is not one of {', '.join(DHEN_TASKS)}")
    if not file.is_file():
        raise FileNotFoundError(
            f"{file} is not there; run from a checkout, or make it: "
            f"python -m experiments.comparison.make_dhen_table --data {task}"
        )
    with file.open(newline="") as stream:
        rows = [_parsed(file, row) for row in csv.DictReader(stream)]
    kept = {d.name: {v[d.name] for v, _ in rows if d.name in v} for d in DECISIONS}
    space = dhen_space(kept)
    recorded: dict[bytes, Recorded] = {}
    for values, found in rows:
        config = space.encode(values)
        if len(space.decode(config)) != len(values):
            raise ValueError(f"{file}: {values} does not name exactly its active decisions")
        if recorded.setdefault(config.tobytes(), found) is not found:
            raise ValueError(f"{file}: {values} is recorded twice")
    missing = space.cardinality() - len(recorded)
    if missing:
        raise ValueError(f"{file}: {missing} configurations of the grid are missing; finish it")

    def looked_up(rows: Sequence[Values]) -> list[Recorded]:
        return [recorded[space.encode(r).tobytes()] for r in rows]

    def query(rows: Sequence[Values]) -> np.ndarray:
        return np.array([(r.loss, r.log_cost) for r in looked_up(rows)]).reshape(-1, 2)

    def seeds(rows: Sequence[Values]) -> np.ndarray:
        return np.array([r.seeds for r in looked_up(rows)], np.float64)

    best = float(np.nanmin([r.loss for r in recorded.values()]))
    has_seeds = all(r.seeds for r in recorded.values())
    return Benchmark("dhen", task, space, {}, query, best, seeds=seeds if has_seeds else None)


class Recorded(NamedTuple):
    """The results of a configuration."""

    loss: float  # mean over seeds; NaN if a seed failed
    log_cost: float
    seeds: tuple[float, ...]


def _parsed(file: Path, row: Mapping[str, str]) -> tuple[dict[str, Any], Recorded]:
    """The active decisions of a row with their values, and its results."""
    values = {}
    for d in DECISIONS:
        text = row[d.name]
        if text:
            choices = {str(c): c for c in d.choices}
            if text not in choices:
                raise ValueError(f"{file}: {d.name}={text!r} is none of {', '.join(choices)}")
            values[d.name] = choices[text]
    seeds = tuple(float(row[name] or "nan") for name in row if name.startswith(SEED))
    return values, Recorded(float(row["ne"] or "nan"), math.log(float(row["flops"])), seeds)
