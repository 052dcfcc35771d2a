"""BARS (reczoo, Apache-2.0): recorded tuning trials of CTR models.

A configuration that was not recorded has the result of the nearest recorded one of its model family, so that choosing
one is choosing among the recorded ones.
"""

import gzip
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from autorank.base.typing import Int
from autorank.benchmarks.base import Benchmark, Values
from autorank.space.space import Decision, Space

BARS_TASKS = (
    "amazonelectronics_x1",
    "avazu_x4",
    "criteo_x1",
    "frappe_x1",
    "microvideo1.7m_x1",
    "movielenslatest_x1",
    "taobaoad_x1",
)
FAILED_LOSS, FAILED_AUC = 3.0, 0.505
# Keys that name a run and are not part of its configuration.
RUN_KEYS = (
    "dataset_id",
    "model_id",
    "model_root",
    "model",
    "exp_id",
    "seed",
    "num_workers",
    "verbose",
    "gpu",
)
LOG_RANGE = 30  # positive numbers whose range spans this factor are on a logarithmic scale

Trials = Sequence[Mapping[str, Any]]


def bars(task: str, file: Path) -> Benchmark:
    """Validation log loss of the recorded trials of one data set (``tuner_trials.jsonl.gz``).

    The first decision is the model family. Each family has as decisions the keys that it varied, ordered if their
    values are numbers. Failed runs (log loss above 3, or AUC at chance) are failed trials.

    Raises:
        ValueError: an unknown task.
    """
    if task not in BARS_TASKS:
        raise ValueError(f"task={task!r} is not one of {', '.join(BARS_TASKS)}")
    with gzip.open(file, "rt") as stream:
        trials = [t for t in map(json.loads, stream) if t["dataset"] == task]
    families: dict[str, list[dict[str, Any]]] = {}
    for trial in trials:
        families.setdefault(trial["model"], []).append(trial)
    varied = {f: _varied([t["config"] for t in ts]) for f, ts in families.items()}
    names = tuple(sorted(families))
    keys = sorted({k for keys in varied.values() for k in keys})
    decisions = [Decision("model", names)]
    for key in keys:
        users = tuple(f for f in names if key in varied[f])
        values = {choice_of(t["config"].get(key)) for f in users for t in families[f]}
        parents = (("model", users),) if len(users) < len(names) else ()
        decisions.append(_decision(key, values, parents))
    space = Space(tuple(decisions), (0,) * len(decisions))
    recorded = {f: _Recorded(space, varied[f], ts) for f, ts in families.items()}

    def query(rows: Sequence[Values]) -> np.ndarray:
        return np.array([recorded[r["model"]].nearest(r) for r in rows]).reshape(-1, 2)

    losses = np.concatenate([r.losses for r in recorded.values()])
    measured = np.concatenate([r.whole(f) for f, r in recorded.items()])
    return Benchmark("bars", task, space, {}, query, float(np.nanmin(losses)), measured=measured)


def choice_of(value: Any) -> Any:
    """A recorded value as a choice: numbers as floats (1 and 1.0 alike), anything else as JSON text.

    Examples:
        >>> choice_of(1), choice_of([64, 32]), choice_of(None)
        (1.0, '[64, 32]', 'null')
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        return json.dumps(value)
    return float(value)


def _decision(key: str, values: set, parents: tuple) -> Decision:
    numbers = all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)
    choices = tuple(sorted(values) if numbers else sorted(values, key=str))
    log = numbers and choices[0] > 0 and choices[-1] / choices[0] >= LOG_RANGE
    return Decision(key, choices, "number" if numbers else "categorical", log, parents)


class _Recorded:
    """The trials of one family, looked up by the nearest one: by the number of differing keys, then by steps apart."""

    def __init__(self, space: Space, keys: Sequence[str], trials: Trials) -> None:
        self._keys, self._space = keys, space
        choices = {d.name: list(d.choices) for d in space.decisions}
        self._index = {k: {v: i for i, v in enumerate(choices[k])} for k in keys}
        rows: dict[tuple[int, ...], list[float]] = {}
        for trial in trials:
            found = trial["val"]
            failed = found["logloss"] > FAILED_LOSS or found["AUC"] < FAILED_AUC
            at = tuple(self._index[k][choice_of(trial["config"].get(k))] for k in keys)
            rows.setdefault(at, []).append(math.nan if failed else found["logloss"])
        self._configs = np.array(sorted(rows), np.int64).reshape(len(rows), len(keys))
        # The mean over repeats of a configuration; failed only if all of them failed.
        self.losses = np.array([_mean(rows[at]) for at in sorted(rows)])

    def whole(self, family: str) -> Int[np.ndarray, "n k"]:
        """The recorded configurations of the whole space; keys of other families are at their baseline."""
        space = self._space
        found = np.tile(np.array(space.baseline, np.int32), (len(self._configs), 1))
        found[:, 0] = space.decisions[0].choices.index(family)
        found[:, [space.names.index(key) for key in self._keys]] = self._configs
        return found

    def nearest(self, values: Values) -> tuple[float, float]:
        """Loss and log cost (not recorded: 0) of the nearest trial."""
        at = np.array([self._index[k][values[k]] for k in self._keys], np.int64)
        apart = np.abs(self._configs - at[None, :])
        order = (apart > 0).sum(axis=1) * 1000 + apart.sum(axis=1)
        return float(self.losses[int(np.argmin(order))]), 0.0


def _mean(values: Sequence[float]) -> float:
    finite = [v for v in values if math.isfinite(v)]
    return float(np.mean(finite)) if finite else math.nan


def _varied(configs: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """Keys of the configuration that take two or more values."""
    keys = sorted({k for c in configs for k in c} - set(RUN_KEYS))
    return tuple(k for k in keys if len({json.dumps(c.get(k)) for c in configs}) > 1)
