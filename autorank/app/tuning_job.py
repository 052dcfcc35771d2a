"""A baseline tuned by hand over a grid."""

import itertools
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from autorank.app import build
from autorank.app.provenance import provenance, shareable, write_rows
from autorank.app.settings import TuneConfig
from autorank.app.training_job import held_out_scores
from autorank.base.jax_settings import own_settings
from autorank.base.records import flatten, with_values
from autorank.fidelity.curve_label import curve_label
from autorank.ledger.strict_json import dumps
from autorank.objectives.base import Objective
from autorank.training.compact import Setting

LOG = logging.getLogger("autorank")
# Columns of a table of baselines.
HELD_OUT = ("ne", "log_loss", "auc")


@own_settings()
def run_tuning(config: TuneConfig) -> list[dict[str, Any]]:
    """Every point of the grid with all seeds, best first; the best one is scored on the held-out rows."""
    data = build.dataset(config.data, LOG.info)
    grid = flatten(config.grid)
    points = points_of(grid, config.points)
    variants = [with_values(config, point) for point in points]
    settings = [Setting(v.model, build.hparams(v.training)) for v in variants]
    rows: list[dict[str, Any]] = []
    judge = ""  # the first metric that validation can tell
    # Whatever is not an argument of a program makes another objective: batch size, windows, warm-up.
    key = lambda i: (variants[i].training.batch_size, variants[i].model.head)  # noqa: E731
    for _, members in itertools.groupby(sorted(range(len(points)), key=key), key=key):
        chosen = list(members)
        objective = build.listed_objective(variants[chosen[0]], data, settings, config.workers)
        judge = tuning_metric(objective)
        jobs = np.repeat(np.array(chosen, np.int32)[:, None], config.seeds, axis=0)
        seeds = list(range(config.seeds)) * len(chosen)
        found: dict[int, list[tuple[int, np.ndarray, str]]] = {i: [] for i in chosen}
        for j, outcome in objective.evaluate(jobs, seeds, 1.0):
            i = int(jobs[j, 0])
            assert objective.measurable is not None
            tails = [
                curve_label(c, 1.0, tail=config.tail, where=w)
                for c, w in zip(outcome.curve.T, objective.measurable.T, strict=True)
            ]
            found[i].append((seeds[j], np.array(tails), outcome.failed))
            if len(found[i]) == config.seeds:
                rows.append(tuning_row(points[i], objective.metrics, found[i]))
                LOG.info("%d of %d: %s", len(rows), len(points), dumps(rows[-1]))
    rows.sort(key=lambda row: (bool(row["failed"]), row[f"validation_ne_{judge}"]))
    best = {name: rows[0][name] for name in grid}
    variant = with_values(config, best)
    objective = build.listed_objective(
        variant, data, [Setting(variant.model, build.hparams(variant.training))]
    )
    assert objective.test is not None
    for seed in range(config.seeds):
        scores = held_out_scores(objective, objective.test(np.zeros(1, np.int32), seed))
        for metric, values in scores.items():
            for name in HELD_OUT:
                value = values[name]
                rows[0].setdefault(f"held_out_{name}_{metric}", []).append(value)
    LOG.info("best: %s", dumps(rows[0]))
    write_rows(
        Path(config.results) / f"{config.name}.csv",
        rows,
        {"config": shareable(config)} | provenance(),
    )
    return rows


def points_of(grid: Mapping[str, Any], count: int | None) -> list[dict[str, Any]]:
    """Every combination of a grid, or ``count`` of them at random; a larger count has those of a smaller one.

    Examples:
        >>> points_of({"a": [1, 2], "b": [3]}, None)
        [{'a': 1, 'b': 3}, {'a': 2, 'b': 3}]
    """
    points = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
    if count is None or count >= len(points):
        return points
    order = np.random.default_rng(0).permutation(len(points))
    return [points[i] for i in order[:count]]


def tuning_metric(objective: Objective) -> str:
    """The first metric that can be computed on the training rows.

    Raises:
        ValueError: there is none.
    """
    assert objective.measurable is not None
    known_metrics = np.atleast_1d(objective.measurable.any(axis=0))
    for metric, known in zip(objective.metrics, known_metrics, strict=True):
        if known:
            return metric
    raise ValueError(
        f"{objective.name}: no window of the training rows has both a positive and a negative of "
        f"{', '.join(objective.metrics)}, so no grid point can be told from another; use another log, or fewer and "
        f"longer windows (training.num_windows)"
    )


def tuning_row(
    point: Mapping[str, Any], metrics: tuple[str, ...], runs: list[tuple[int, np.ndarray, str]]
) -> dict[str, Any]:
    """Mean and standard deviation over seeds of the validation NE."""
    values = np.array([tails for _, tails, _ in sorted(runs, key=lambda r: r[0])])
    row: dict[str, Any] = dict(point)
    for q, metric in enumerate(metrics):
        row[f"validation_ne_{metric}"] = float(values[:, q].mean())
        row[f"seed_sd_{metric}"] = float(values[:, q].std(ddof=1)) if len(values) > 1 else 0.0
    row["failed"] = "; ".join(sorted({reason for *_, reason in runs if reason}))
    return row
